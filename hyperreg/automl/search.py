"""The search: random configurations by successive halving, a predictor of them, the best it can name, and again.

Sources: T-AutoML (Yang et al., ICCV 2021) for the predictor; successive halving, Jamieson and Talwalkar, AISTATS 2016.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hyperreg.automl import proposing
from hyperreg.automl.final import add_to_catalogue, check_name, train_best
from hyperreg.automl.ledger import Ledger, Record, best
from hyperreg.automl.memory import needs
from hyperreg.automl.report import write_html
from hyperreg.automl.running import Job, Outcome, Place, Runner, runner
from hyperreg.automl.settings import SearchSettings, check_same, write_settings
from hyperreg.automl.space import Configuration, draw_random
from hyperreg.automl.task import Task, read_task
from hyperreg.automl.trial import DECAY, Trial
from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.imaging.output import alone_in, replacing
from hyperreg.machine import choose_device, main_memory
from hyperreg.nets.searched import SearchedNet
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.catalogue import SegmentationCard

log = logging.getLogger(__name__)

STATE, JOURNAL, REPORT = "state.json", "trials.journal", "report.html"
# Of the free memory, trials get so much.
MEMORY_SHARE = 0.8
# Steps that are trained to tell how long one takes; the first of them is slower than the others.
PROBE_STEPS = 3
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
    """Seconds spent over all resumes, kept in a file."""

    path: Path
    budget_s: float
    before: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    @property
    def spent(self) -> float:
        return self.before + time.perf_counter() - self.started

    def save(self) -> None:
        with replacing(self.path) as target:
            target.write_text(json.dumps({"spent_s": round(self.spent, 1)}) + "\n", encoding="utf-8")


def search(
    settings: SearchSettings,
    out: Path,
    resume: bool = False,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    catalogue: Path | None = None,
) -> Found:
    """Search in the folder `out`; with `resume`, go on with the one that is there.

    catalogue: folder of models that gets the trained one; None leaves it in `out / "model"`. Whatever ended is kept at
    any time. Raises InputError, FileError, Cancelled, WorkerError.
    """
    settings.check()
    for device in settings.devices:
        choose_device(device.partition(":")[0])
    with alone_in(out):
        check_same(settings, out, resume)
        if catalogue is not None:
            check_name(settings.name, catalogue, out)
        window = settings.trial.window
        task = read_task(settings.data, settings.name, window, settings.spacing_mm)
        clock = _Clock(out / STATE, settings.budget_s, _spent_before(out / STATE))
        told: Progress = progress or (lambda _fraction, _text: None)
        asked: Cancel = cancelled or (lambda: False)
        training, held_out = task.prepared(out / "cache", lambda _f, text: told(0.0, text), asked)
        # A search begins where its data can be used.
        write_settings(settings, out)
        (out / "trials").mkdir(exist_ok=True)
        place = Place(training, held_out, settings.trial, out / "trials")
        ledger = Ledger(out / JOURNAL)
        with runner(task, out / "cache", place, settings.devices, asked) as runs:
            run = _Search(settings, out, place, ledger, runs, clock, told, asked)
            try:
                return run.whole(task, catalogue)
            finally:
                clock.save()


class _Search:
    """One driver at work. What it does next follows from the settings and the ledger alone, so that it can resume."""

    def __init__(
        self, settings: SearchSettings, out: Path, place: Place, ledger: Ledger, runs: Runner, clock: _Clock,
        progress: Progress, cancelled: Cancel,
    ) -> None:  # fmt: skip
        self.settings, self.out, self.place, self.ledger, self.runs = settings, out, place, ledger, runs
        self.clock, self.progress, self.cancelled = clock, progress, cancelled
        self.known = {(record.key, record.steps): record for record in ledger.records()}
        self.limit = _memory_limit(settings)
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
        card = train_best(self.place, winner, task, settings, self.out, self._time_left, self.cancelled)
        if catalogue is not None:
            card = add_to_catalogue(card, catalogue)
        records = self.ledger.records()
        ranks = proposing.held_out_ranks(records, settings.seed)
        write_html(self.out / REPORT, settings.name, records, winner, self.clock.spent, ranks)
        self.progress(1.0, "Done")
        return Found(winner, card, self.out / REPORT, self.clock.spent)

    def _probe(self) -> float:
        """Seconds of a training step. Raises InputError if the budget does not suffice for one trial."""
        settings = self.settings
        trial = Trial(self._random(1)[0], self.place.training, self.place.held_out, settings.trial, settings.seed,
                      settings.devices[0].partition(":")[0])  # fmt: skip
        started = time.perf_counter()
        for number in range(PROBE_STEPS):
            if number == 1 or PROBE_STEPS == 1:
                started = time.perf_counter()
            trial.train(number + 1, self.cancelled)
        step_s = (time.perf_counter() - started) / max(1, PROBE_STEPS - 1)
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
        case = self.place.training[0]
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
            jobs = [Job(c, settings.seed, steps) for c in alive]
            complete = self._run([job for job in jobs if self._record(job) is None], source, steps - before)
            scored = [(r.score, n) for n, job in enumerate(jobs) if (r := self._record(job)) and r.score is not None]
            self._all_failed()
            if not complete:
                return False
            keep = max(1, len(alive) // settings.reduction)
            alive = [alive[n] for _, n in sorted(scored, key=lambda entry: (-entry[0], entry[1]))[:keep]]
            before = steps
        return True

    def _repeats(self, configurations: Sequence[Configuration]) -> bool:
        """The first few again with another seed, for the noise of the first rung; False when there is no time."""
        steps = self.settings.rungs[0]
        jobs = [Job(c, self.settings.seed + 1, steps) for c in configurations[: self.settings.repeats]]
        return self._run([job for job in jobs if self._record(job) is None], "repeat", steps)

    def _run(self, jobs: Sequence[Job], source: str, steps: int) -> bool:
        """Run jobs, as many at once as there are devices; False when there is no time for all."""
        searching = (1 - self.settings.final) * self.clock.budget_s
        count = len(self.settings.devices)
        for start in range(0, len(jobs), count):
            if self.cancelled():
                raise Cancelled("Cancelled; trials that were finished are kept. Go on with --resume.")
            if self.clock.spent + steps * (1 + DECAY) * self.step_s > searching and self.known:
                return False
            batch = jobs[start : start + count]
            self._tell(batch[0], source)
            started = time.perf_counter()
            numbers = {job: self.ledger.start(job.configuration, job.seed, source, job.steps) for job in batch}
            for job, outcome in self.runs.run(batch):
                self._note(numbers[job], job, source, outcome)
            # The latest trials tell what the next ones will take.
            self.step_s = (self.step_s + (time.perf_counter() - started) / (steps * (1 + DECAY))) / 2
            self.clock.save()
        return True

    def _note(self, number: int, job: Job, source: str, outcome: Outcome) -> None:
        measured = outcome.measured
        record = Record(job.configuration, job.seed, source, job.steps, None, reason=outcome.reason)
        if measured is None:
            self.ledger.fail(number, outcome.reason)
            log.warning("a trial failed: %s", outcome.reason)
        else:
            self.ledger.end(number, measured)
            record = replace(
                record, score=measured.score, dice=measured.dice, by_class=measured.by_class, cpu_s=measured.cpu_s
            )
        self.known[record.key, record.steps] = record

    def _record(self, job: Job) -> Record | None:
        return self.known.get((Record(job.configuration, job.seed, "", job.steps, None).key, job.steps))

    def _all_failed(self) -> None:
        if self.known and all(record.score is None for record in self.known.values()):
            reasons = sorted({record.reason for record in self.known.values()})
            raise InputError(
                f"Every trial failed ({len(self.known)} of them): {'; '.join(reasons[:3])}. "
                "Give smaller patches or another device, and a new folder."
            )

    def _tell(self, job: Job, source: str) -> None:
        spent, budget = self.clock.spent, self.clock.budget_s
        top = max((r.score or 0.0 for r in self.known.values()), default=0.0)
        left = max(0.0, budget - spent) / 60
        self.progress(
            min(0.99, spent / budget),
            f"{source}: {len(job.configuration.blocks)} blocks, {job.steps} steps; {len(self.known)} runs, "
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


def _spent_before(path: Path) -> float:
    """Seconds that earlier drivers spent. Raises FileError."""
    try:
        return float(json.loads(path.read_text(encoding="utf-8"))["spent_s"]) if path.exists() else 0.0
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{path}' cannot be read ({error}); delete it, and the budget counts from 0 again.") from error


def _memory_limit(settings: SearchSettings) -> float:
    """Bytes that one trial may take."""
    if settings.memory_gb is not None:
        return settings.memory_gb * 1e9
    if settings.devices[0].startswith("cuda"):
        import torch

        return MEMORY_SHARE * torch.cuda.mem_get_info()[0]
    free, _ = main_memory()
    return float("inf") if free is None else MEMORY_SHARE * free / len(settings.devices)
