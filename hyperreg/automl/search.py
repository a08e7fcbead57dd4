"""The search: random configurations by successive halving, a predictor of them, the best it can name, and again.

Sources: T-AutoML (Yang et al., ICCV 2021) for the predictor; successive halving, Jamieson and Talwalkar, AISTATS 2016.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hyperreg.automl import proposing
from hyperreg.automl.data import Cases
from hyperreg.automl.final import add_to_catalogue, check_name, train_best
from hyperreg.automl.ledger import Ledger, Record, best
from hyperreg.automl.memory import needs
from hyperreg.automl.report import write_html
from hyperreg.automl.running import Outcome, TrialTask, free_memory, run_trial, step_seconds
from hyperreg.automl.settings import SearchSettings, check_same, write_settings
from hyperreg.automl.space import Configuration, draw_random
from hyperreg.automl.task import Task, read_task
from hyperreg.automl.trial import DECAY
from hyperreg.errors import Cancelled, FileError, HyperRegError, InputError, OutOfMemory
from hyperreg.execution.executors import Executor, Place, mark, result_of
from hyperreg.imaging.output import alone_in, replacing
from hyperreg.nets.searched import SearchedNet
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.catalogue import SegmentationCard

log = logging.getLogger(__name__)

STATE, JOURNAL, REPORT = "state.json", "trials.journal", "report.html"
# Of the free memory, trials get so much.
MEMORY_SHARE = 0.8
# So many random configurations in a row that do not fit into memory mean that none will.
MOST_REJECTED = 200


@dataclass(frozen=True)
class Found:
    """What a search ends with. card: the trained model's. seconds: spent over all resumes."""

    best: Record
    card: SegmentationCard
    report: Path
    seconds: float


@dataclass
class _Clock:
    """Seconds spent over all resumes, kept in a file. limit: bytes that a trial may take, kept there, too."""

    path: Path
    budget_s: float
    before: float = 0.0
    limit: float | None = None
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        return self.before + time.perf_counter() - self.started

    def save(self) -> None:
        with replacing(self.path) as target:
            state = {"spent_s": round(self.spent, 1), "limit": self.limit}
            target.write_text(json.dumps(state) + "\n", encoding="utf-8")


def search(
    settings: SearchSettings,
    out: Path,
    place: Place,
    resume: bool = False,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    catalogue: Path | None = None,
) -> Found:
    """Search in the folder `out`; with `resume`, go on with the one that is there.

    place: where trials are done, each of which has the memory that is given there. catalogue: folder of models that
    gets the trained one; None leaves it in `out / "model"`. Whatever ended is kept at any time.
    Raises InputError, FileError, Cancelled, WorkerError.
    """
    settings.check()
    out = out.absolute()
    with place.open() as executor, alone_in(out):
        check_same(settings, out, resume)
        if catalogue is not None:
            check_name(settings.name, catalogue, out)
        window = settings.trial.window
        task = read_task(settings.data, settings.name, window, settings.spacing_mm)
        clock = _Clock(out / STATE, settings.budget_s, *_state_before(out / STATE))
        told: Progress = progress or (lambda _fraction, _text: None)
        asked: Cancel = cancelled or (lambda: False)
        cases = task.prepared(out / "cache", lambda _f, text: told(0.0, text), asked)
        # A search begins where its data can be used.
        write_settings(settings, out)
        (out / "trials").mkdir(exist_ok=True)
        ledger = Ledger(out / JOURNAL)
        run = _Search(settings, out, place, executor, cases, ledger, clock, told, asked)
        try:
            return run.whole(task, catalogue)
        except Cancelled as error:
            raise Cancelled("Cancelled; trials that were finished are kept. Go on with --resume.") from error
        finally:
            clock.save()


class _Search:
    """One driver at work. What it does next follows from the settings and the ledger alone, so that it can resume."""

    def __init__(
        self, settings: SearchSettings, out: Path, place: Place, executor: Executor, cases: Cases, ledger: Ledger,
        clock: _Clock, progress: Progress, cancelled: Cancel,
    ) -> None:  # fmt: skip
        self.settings, self.out, self.place, self.executor = settings, out, place, executor
        self.cases, self.ledger, self.clock = cases, ledger, clock
        self.progress, self.cancelled = progress, cancelled
        self.mark = mark(out)
        self.known = {(record.key, record.steps): record for record in ledger.records()}
        self.limit = self._memory_limit()
        self.step_s = 0.0

    def whole(self, task: Task, catalogue: Path | None) -> Found:
        settings = self.settings
        self.step_s = self._probe()
        configurations = self._random(settings.first)
        goes_on = self._bracket(configurations, "random") and self._repeats(configurations)
        number = 0
        while goes_on and (settings.rounds is None or number < settings.rounds):
            number += 1
            proposed = self._proposed(number)
            goes_on = bool(proposed) and self._bracket(proposed, f"round {number}")
        winner = self._winner()
        if catalogue is not None:
            # Hours later: what has come there meanwhile must not be replaced.
            check_name(settings.name, catalogue, self.out)
        trial = self._task(winner.configuration, winner.seed, winner.steps)
        card = train_best(trial, task, settings, self.executor, self._time_left, self.cancelled)
        if catalogue is not None:
            card = add_to_catalogue(card, catalogue)
        records = self.ledger.records()
        ranks = proposing.held_out_ranks(records, settings.seed)
        write_html(self.out / REPORT, settings.name, records, winner, self.clock.spent, ranks)
        self.progress(1.0, "Done")
        return Found(winner, card, self.out / REPORT, self.clock.spent)

    def _task(self, configuration: Configuration, seed: int, steps: int) -> TrialTask:
        trial, device = self.settings.trial, self.place.device
        return TrialTask(configuration, seed, steps, self.cases, trial, self.out, self.mark, device)

    def _memory_limit(self) -> float:
        """Bytes that one trial may take: as asked for, or what they were at first, so that the same ones are drawn."""
        if self.settings.memory_gb is not None:
            return self.settings.memory_gb * 1e9
        if self.clock.limit is None:
            self.clock.limit = self._free_for_one()
        return self.clock.limit

    def _free_for_one(self) -> float:
        if self.place.kept_free is not None:
            return self.place.kept_free
        asked = self._task(draw_random(0), 0, 0)
        return MEMORY_SHARE * self.place.share * result_of(self.executor, free_memory, asked, self.cancelled)

    def _probe(self) -> float:
        """Seconds of a training step. Raises InputError if the budget does not suffice for one trial."""
        settings = self.settings
        asked = self._task(self._random(1)[0], settings.seed, settings.rungs[0])
        step_s = result_of(self.executor, step_seconds, asked, self.cancelled)
        wanted = step_s * settings.rungs[0] * (1 + DECAY)
        if wanted > settings.budget_s:
            raise InputError(
                f"A budget of {settings.budget_s:.0f} s does not suffice for one trial, which takes about "
                f"{wanted:.0f} s here. Give more time (--budget), smaller patches or fewer steps."
            )
        return step_s

    def _random(self, count: int) -> list[Configuration]:
        """The first random configurations of the seed that fit into memory, each once."""
        found: list[Configuration] = []
        rejected = 0
        number = self.settings.seed * 1_000_003
        while len(found) < count:
            made = draw_random(number)
            number += 1
            if made in found:
                continue
            if self._fits(made):
                found.append(made)
                rejected = 0
                continue
            rejected += 1
            if rejected >= MOST_REJECTED:
                raise InputError(
                    f"None of {rejected} random networks in a row fits into {self.limit / 1e9:.2f} GB. "
                    "Give smaller patches, a smaller width, or more memory."
                )
        return found

    def _fits(self, configuration: Configuration) -> bool:
        settings = self.settings.trial
        case = self.cases.load()[0][0]
        options = configuration.network_options(settings.width)
        counted = needs(
            lambda: SearchedNet(len(case.images), len(case.known), **options),
            len(case.images), settings.patch, settings.batch,
        )  # fmt: skip
        return counted.bytes <= self.limit

    def _bracket(self, configurations: Sequence[Configuration], source: str) -> bool:
        """Successive halving of these; False when the time for searching is used up."""
        settings = self.settings
        alive = list(configurations)
        before = 0
        for steps in settings.rungs:
            tasks = [self._task(c, settings.seed, steps) for c in alive]
            complete = self._run(tasks, source, steps - before)
            scored = [(r.score, n) for n, task in enumerate(tasks) if (r := self._record(task)) and r.score is not None]
            self._all_failed()
            if not complete:
                return False
            keep = max(1, len(alive) // settings.reduction)
            alive = [alive[n] for _, n in sorted(scored, key=lambda entry: (-entry[0], entry[1]))[:keep]]
            before = steps
        return True

    def _repeats(self, configurations: Sequence[Configuration]) -> bool:
        """The first few again with another seed, for the noise of the first rung; False when there is no time."""
        steps, seed = self.settings.rungs[0], self.settings.seed + 1
        return self._run([self._task(c, seed, steps) for c in configurations[: self.settings.repeats]], "repeat", steps)

    def _run(self, tasks: Sequence[TrialTask], source: str, steps: int) -> bool:
        """Do the trials that are not known yet, by `steps` steps each; False when there is no time for all."""
        missing = [task for task in tasks if self._record(task) is None]
        numbers: dict[str, int] = {}

        def begun() -> Iterator[TrialTask]:
            searching = (1 - self.settings.final) * self.clock.budget_s
            for task in missing:
                if self.clock.spent + steps * (1 + DECAY) * self.step_s > searching and self.known:
                    return
                self._tell(task, source)
                numbers[task.name] = self.ledger.start(task.configuration, task.seed, source, task.steps)
                yield task

        for task, result in self.executor.results(run_trial, begun(), lambda *_told: None, self.cancelled):
            if isinstance(result, HyperRegError) and not isinstance(result, OutOfMemory):
                raise result
            outcome = Outcome(None, "out of memory") if isinstance(result, HyperRegError) else result
            self._note(numbers[task.name], task, source, outcome)
            if outcome.seconds:
                # The latest trials tell what the next ones will take.
                self.step_s = (self.step_s + outcome.seconds / (steps * (1 + DECAY))) / 2
            self.clock.save()
        return len(numbers) == len(missing)

    def _note(self, number: int, task: TrialTask, source: str, outcome: Outcome) -> None:
        measured = outcome.measured
        record = Record(task.configuration, task.seed, source, task.steps, None, reason=outcome.reason)
        if measured is None:
            self.ledger.fail(number, outcome.reason)
            log.warning("a trial failed: %s", outcome.reason)
        else:
            self.ledger.end(number, measured)
            record = replace(
                record, score=measured.score, dice=measured.dice, by_class=measured.by_class, cpu_s=measured.cpu_s
            )
        self.known[record.key, record.steps] = record

    def _record(self, task: TrialTask) -> Record | None:
        return self.known.get((task.name, task.steps))

    def _all_failed(self) -> None:
        if self.known and all(record.score is None for record in self.known.values()):
            reasons = sorted({record.reason for record in self.known.values()})
            raise InputError(
                f"Every trial failed ({len(self.known)} of them): {'; '.join(reasons[:3])}. "
                "Give smaller patches or another device, and a new folder."
            )

    def _tell(self, task: TrialTask, source: str) -> None:
        spent, budget = self.clock.spent, self.clock.budget_s
        top = max((r.score or 0.0 for r in self.known.values()), default=0.0)
        left = max(0.0, budget - spent) / 60
        self.progress(
            min(0.99, spent / budget),
            f"{source}: {len(task.configuration.blocks)} blocks, {task.steps} steps; {len(self.known)} runs, "
            f"best score {top:.3f}; {left:.0f} min left",
        )

    def _proposed(self, number: int) -> list[Configuration]:
        """The predictor's choice for a round; written down, so that a resumed search trains the same."""
        path = self.out / f"round-{number}.json"
        if path.exists():
            return proposing.read(path)
        made = proposing.propose(
            list(self.known.values()), self.settings.candidates, self.settings.each,
            self.settings.seed * 1_000_003 + number, self._fits, self.cancelled,
        )  # fmt: skip
        proposing.write(made, path)
        return made

    def _winner(self) -> Record:
        """The best of those that were trained longest."""
        records = list(self.known.values())
        for steps in reversed(self.settings.rungs):
            if (found := best(records, steps)) is not None:
                return found
        raise InputError("No trial ended within the budget. Give more time (--budget), then resume.")

    def _time_left(self, steps: int) -> bool:
        """Whether the final training, which is at `steps` steps, has time for more; its decay takes time, too."""
        if not self.settings.final:
            return False
        spent = self.clock.spent
        self.progress(min(0.99, spent / self.clock.budget_s), f"Training the best one further: {steps} steps")
        return spent + (DECAY * steps + self.settings.rungs[0]) * self.step_s < self.clock.budget_s


def _state_before(path: Path) -> tuple[float, float | None]:
    """Seconds that earlier drivers spent, and their limit. Raises FileError."""
    if not path.exists():
        return 0.0, None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        limit = found.get("limit")
        return float(found["spent_s"]), None if limit is None else float(limit)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise FileError(f"'{path}' cannot be read ({error}); delete it, and the budget counts from 0 again.") from error
