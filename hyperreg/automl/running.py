"""Runs of trials: tasks that any machine of an executor can do, on the cases and checkpoints of the search's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from hyperreg.automl.data import Cases
from hyperreg.automl.ledger import trial_key
from hyperreg.automl.space import Configuration
from hyperreg.automl.trial import Measured, Trial, TrialSettings
from hyperreg.errors import OutOfMemory
from hyperreg.execution.executors import check_mark
from hyperreg.machine import choose_device, is_out_of_memory, main_memory
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.model import save_model

# Steps that are trained to tell how long one takes; the first of them is slower than the others.
PROBE_STEPS = 3


@dataclass(frozen=True)
class TrialTask:
    """A configuration and the seed of its weights and patches, to be trained to `steps` steps in all.

    folder: of the search, on a disk that every machine sees. mark: see `executors.mark`. final: the longer training at
    the end, which has a checkpoint of its own and begins with the search's.
    """

    configuration: Configuration
    seed: int
    steps: int
    cases: Cases
    settings: TrialSettings
    folder: Path
    mark: str
    device: str
    final: bool = False

    @property
    def name(self) -> str:
        return trial_key(self.configuration, self.seed)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "trials" / f"{self.name}{'.final' if self.final else ''}.pt"

    def trial(self) -> Trial:
        """The trial as its checkpoint has it; a new one if there is none, or it was taken further than is asked for."""
        made = self.new_trial()
        searched = replace(self, final=False).checkpoint
        for path in dict.fromkeys((self.checkpoint, searched)):
            if path.exists():
                made.load(path)
                return made if made.step <= self.steps else self.new_trial()
        return made

    def new_trial(self) -> Trial:
        """The trial before its first step. Raises FileError if this machine does not see the folder."""
        check_mark(self.folder, self.mark)
        device = choose_device(self.device)
        return Trial(self.configuration, *self.cases.load(), self.settings, self.seed, device)


@dataclass(frozen=True)
class Outcome:
    """What became of a task: what was measured, or why the trial failed. seconds: that it took."""

    measured: Measured | None
    reason: str = ""
    seconds: float = 0.0


def run_trial(task: TrialTask, _progress: Progress, cancelled: Cancel | None) -> Outcome:
    """Train, measure and leave a checkpoint. A trial that fails is an outcome, a full disk an error. Raises Cancelled.

    Where the checkpoint is there already, because only the result was lost, nothing is trained again.
    """
    started = time.perf_counter()
    try:
        trial = task.trial()
        measured = trial.run_to(task.steps, cancelled)
    except (RuntimeError, MemoryError, ValueError, OutOfMemory) as error:
        if is_out_of_memory(error) or isinstance(error, OutOfMemory):
            return Outcome(None, "out of memory")
        return Outcome(None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
    trial.save(task.checkpoint)
    return Outcome(measured, seconds=time.perf_counter() - started)


def train_further(task: TrialTask, _progress: Progress, cancelled: Cancel | None) -> None:
    """Train without measuring, and leave a checkpoint. Raises FileError, Cancelled."""
    trial = task.trial()
    trial.train(task.steps, cancelled)
    trial.save(task.checkpoint)


def step_seconds(task: TrialTask, _progress: Progress, cancelled: Cancel | None) -> float:
    """Seconds of a training step on the machine that does this."""
    trial = task.new_trial()
    trial.train(1, cancelled)
    started = time.perf_counter()
    trial.train(PROBE_STEPS, cancelled)
    return (time.perf_counter() - started) / (PROBE_STEPS - 1)


def free_memory(task: TrialTask, _progress: Progress, _cancelled: Cancel | None) -> float:
    """Free bytes of the device on the machine that does this."""
    if choose_device(task.device) == "cuda":
        import torch

        return float(torch.cuda.mem_get_info()[0])
    free, _ = main_memory()
    return float("inf") if free is None else float(free)


@dataclass(frozen=True)
class ModelTask:
    """A trial that becomes a model in `folder`. entries: of its card, but for what is measured."""

    trial: TrialTask
    entries: Mapping[str, Any]
    folder: Path

    @property
    def name(self) -> str:
        return self.trial.name


def write_model(task: ModelTask, _progress: Progress, cancelled: Cancel | None) -> None:
    """Let the learning rate fall to 0 once more, measure, and write network and card. Raises FileError, Cancelled."""
    trial = task.trial.trial()

    def write(network: nn.Module) -> None:
        _, dice = trial.measure()
        names = [structure["name"] for structure in task.entries["structures"]]
        measured = ", ".join(f"{name} {value:.3f}" for name, value in zip(names, dice, strict=True))
        text = f"Dice near the structures of {len(trial.held_out)} cases that the search chose by: {measured}"
        save_model(network, {**task.entries, "measured": text}, task.folder)

    trial.run_to(task.trial.steps, cancelled, write)
