"""The trials that are compared, all of one budget of steps: random, repeated, proposed by the predictor, TPE with ASHA.

Small networks, small patches and few steps, so that dozens of trials run on a CPU: a proxy of real training
(Yang et al., arXiv 2107.05471), and no more.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks.automl.subjects import Subjects
from hyperreg.automl import proposing
from hyperreg.automl.data import PreparedCase
from hyperreg.automl.ledger import Ledger, Record
from hyperreg.automl.space import Block, Configuration, draw, draw_random
from hyperreg.automl.task import Task, read_task
from hyperreg.automl.trial import Measured, Trial, TrialSettings
from hyperreg.nets.segresnet import SegResNet

# Configurations that are trained again with other seeds, for the noise, and those seeds.
REPEATED, SEEDS = (0, 1, 2), (1, 2)
# The default network of the segmentation trainings, and how they train it.
SEGRESNET = {"filters": 8, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]}
DEFAULT = Configuration((Block("residual", 0, (-1, -1)),), (), 0.0005, "dice_cross_entropy")


@dataclass(frozen=True)
class Scale:
    """How large the experiment is. random: configurations, of which the predictor learns from the first three
    quarters, and proposes as many as are left out of `candidates`. early_steps: at which ASHA compares.
    long_steps: of the longer training of the found network and of the default one.
    """

    steps: int = 60
    early_steps: int = 20
    random: int = 60
    candidates: int = 2000
    long_steps: int = 600
    trial: TrialSettings = field(default_factory=TrialSettings)

    @property
    def learned(self) -> int:
        """Random trials that the predictor learns from."""
        return round(0.75 * self.random)

    @property
    def first(self) -> set[Configuration]:
        """Their configurations."""
        return {draw_random(number) for number in range(self.learned)}


@dataclass(frozen=True)
class Data:
    """The task, its structures by label, and its cases; test: subjects that no trial sees."""

    task: Task
    names: dict[int, str]
    training: list[PreparedCase]
    held_out: list[PreparedCase]
    test: list[tuple[str, Path, Path]]


def prepare(output: Path, subjects: Subjects, trial: TrialSettings) -> Data:
    """The subjects on the grid of the trials. Raises FileError if the images are not there."""
    path, test = subjects.write(output)
    task = read_task(path, f"{output.name}-searched", trial.window, subjects.spacing_mm)
    training, held_out = task.prepared(output / "cache").load()
    return Data(task, subjects.names, training, held_out, test)


class Campaign:
    """Runs what is missing, trial by trial, until `deadline` (of time.monotonic); what is there is never run again.

    Every stage returns whether it is complete.
    """

    def __init__(self, output: Path, scale: Scale, data: Data, deadline: float, say: Callable[[str], None]) -> None:
        self.output, self.scale, self.data, self.deadline, self.say = output, scale, data, deadline, say
        self.ledger = Ledger(output / "trials.journal")

    def random_and_repeats(self) -> bool:
        """Random configurations, and some of them again with other seeds after the first dozen."""
        plan = [(number, 0) for number in range(self.scale.random)]
        again = [(number, seed) for number in REPEATED for seed in SEEDS]
        for number, seed in [*plan[:12], *again, *plan[12:]]:
            if not self._trial(draw_random(number), seed, "repeat" if seed else "random"):
                return False
        return True

    def guided(self) -> bool:
        """What a predictor of the first random trials proposes."""
        path = self.output / "guided.json"
        if not path.exists():
            known = [record for record in self.ledger.records() if record.source in ("random", "repeat")]
            seen = [record for record in known if record.configuration in self.scale.first]
            count = self.scale.random - self.scale.learned
            made = proposing.propose(seen, self.scale.candidates, count, 4242, lambda _configuration: True)
            proposing.write(made, path)
        return all(self._trial(made, 0, "predictor") for made in proposing.read(path))

    def default(self) -> bool:
        """The default SegResNet with the same steps, three seeds."""
        path = self.output / "default.json"
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
        for seed in range(len(found), 3):
            if time.monotonic() > self.deadline:
                return False
            measured = self.default_trial(seed).run_to(self.scale.steps)
            found.append({"seed": seed, "score": measured.score, "dice": measured.dice, "cpu_s": measured.cpu_s})
            path.write_text(json.dumps(found) + "\n", encoding="utf-8")
            self.say(f"default SegResNet, seed {seed}: score {measured.score:.4f}, {measured.cpu_s:.1f} CPU-s")
        return True

    def default_trial(self, seed: int) -> Trial:
        """The default SegResNet as a trial."""
        torch.manual_seed(seed)
        network = SegResNet(1, 1 + len(self.data.names), **SEGRESNET)
        return Trial(DEFAULT, self.data.training, self.data.held_out, self.scale.trial, seed, network=network)

    def tpe(self) -> bool:
        """Optuna's TPE, pruned by asynchronous successive halving, with the CPU time of search by predictor."""
        scale, records = self.scale, self.ledger.records()
        guided = [r for r in records if r.source == "predictor"]
        allowed = sum(r.cpu_s for r in [*guided, *(r for r in of(records, "random") if r.configuration in scale.first)])
        study = tpe_study(self.output / "tpe.journal", scale)
        while (spent := sum(t.user_attrs.get("cpu_s", 0.0) for t in study.trials)) < allowed:
            if time.monotonic() > self.deadline:
                return False
            asked = study.ask()
            configuration = draw(asked)
            trial = Trial(configuration, self.data.training, self.data.held_out, scale.trial, 0)
            state, score = TrialState.COMPLETE, 0.0
            for steps in (scale.early_steps, scale.steps):
                measured = trial.run_to(steps)
                score = measured.score
                asked.report(score, steps)
                asked.set_user_attr("cpu_s", measured.cpu_s)
                asked.set_user_attr("configuration", configuration.to_json())
                if steps < scale.steps and asked.should_prune():
                    state = TrialState.PRUNED
                    break
            study.tell(asked, score if state == TrialState.COMPLETE else None, state=state)
            self.say(f"TPE + ASHA {asked.number}: {state.name}, score {score:.4f}; {spent:.0f} of {allowed:.0f} CPU-s")
        return True

    def _trial(self, configuration: Configuration, seed: int, source: str) -> bool:
        steps = self.scale.steps
        key = Record(configuration, seed, source, steps, None).key
        if any(record.key == key and record.steps == steps for record in self.ledger.records()):
            return True
        if time.monotonic() > self.deadline:
            return False
        number = self.ledger.start(configuration, seed, source, steps)
        trial = Trial(configuration, self.data.training, self.data.held_out, self.scale.trial, seed)
        measured = trial.run_to(steps)
        self.ledger.end(number, measured)
        self.say(_line(number, source, configuration, measured))
        return True


def tpe_study(path: Path, scale: Scale) -> optuna.Study:
    """The study of TPE with ASHA; its halving compares at `early_steps`."""
    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(path))), study_name="tpe", direction="maximize",
        load_if_exists=True, sampler=optuna.samplers.TPESampler(seed=0),
        pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=scale.early_steps, reduction_factor=3),
    )  # fmt: skip


def of(records: Sequence[Record], *sources: str) -> Iterator[Record]:
    """Those of some sources that were measured."""
    return (record for record in records if record.source in sources and record.score is not None)


def _line(number: int, source: str, configuration: Configuration, measured: Measured) -> str:
    return (
        f"{number} {source}: {len(configuration.blocks)} blocks, {configuration.learning_rate:g}, "
        f"{configuration.loss}: score {measured.score:.4f}, Dice {measured.dice:.4f}, {measured.cpu_s:.1f} CPU-s"
    )
