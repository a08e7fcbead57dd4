"""Runs of trials, here or in a process for each device."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from hyperreg.automl.data import PreparedCase
from hyperreg.automl.ledger import trial_key
from hyperreg.automl.space import Configuration
from hyperreg.automl.task import Task
from hyperreg.automl.trial import Measured, Trial, TrialSettings
from hyperreg.errors import Cancelled, OutOfMemory, WorkerError
from hyperreg.machine import is_out_of_memory
from hyperreg.reporting import Cancel

# How often processes are asked whether they are done, and the user whether to go on, seconds.
PATIENCE = 0.5


@dataclass(frozen=True)
class Job:
    """One run: a configuration and the seed of its weights and patches, to be trained to `steps` steps in all."""

    configuration: Configuration
    seed: int
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What became of a job: what was measured, or why it failed."""

    measured: Measured | None
    reason: str = ""


class Runner(Protocol):
    """Runs jobs; each goes on from the checkpoint of its trial, and leaves one."""

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Each job with its outcome, in the order in which they end. Raises Cancelled, FileError, WorkerError."""


@dataclass(frozen=True)
class Place:
    """Where and on what trials run: prepared cases, settings, and the folder of their checkpoints."""

    training: Sequence[PreparedCase]
    held_out: Sequence[PreparedCase]
    settings: TrialSettings
    checkpoints: Path

    def path(self, configuration: Configuration, seed: int) -> Path:
        """A trial's checkpoint."""
        return self.checkpoints / f"{trial_key(configuration, seed)}.pt"

    def trial(self, configuration: Configuration, seed: int, device: str) -> Trial:
        """A trial as its checkpoint has it, or a new one."""
        made = Trial(configuration, self.training, self.held_out, self.settings, seed, device)
        path = self.path(configuration, seed)
        if path.exists():
            made.load(path)
        return made

    def run(self, job: Job, device: str, cancelled: Cancel | None = None) -> Outcome:
        """One job, here. A trial that fails is an outcome, too; a disk that is full is not. Raises Cancelled."""
        try:
            trial = self.trial(job.configuration, job.seed, device)
            measured = trial.run_to(job.steps, cancelled)
        except (RuntimeError, MemoryError, ValueError, OutOfMemory) as error:
            if is_out_of_memory(error) or isinstance(error, OutOfMemory):
                return Outcome(None, "out of memory")
            return Outcome(None, f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}")
        trial.save(self.path(job.configuration, job.seed))
        return Outcome(measured)


@dataclass(frozen=True)
class LocalRunner:
    """Runs jobs in this process, one after the other."""

    place: Place
    device: str
    cancelled: Cancel

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        for job in jobs:
            yield job, self.place.run(job, self.device, self.cancelled)


class PoolRunner:
    """Runs jobs in a process for each device."""

    def __init__(self, pool: ProcessPoolExecutor, stop: Any, cancelled: Cancel) -> None:
        self._pool = pool
        self._stop = stop
        self._cancelled = cancelled

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        waiting: dict[Future[Outcome], Job] = {self._pool.submit(_in_process, job): job for job in jobs}
        try:
            while waiting:
                done, _ = wait(waiting, PATIENCE, FIRST_COMPLETED)
                for future in done:
                    yield waiting.pop(future), future.result()
                if self._cancelled():
                    raise Cancelled("Cancelled; trials that were finished are kept.")
        except OSError as error:
            raise WorkerError(f"A process of the search could not be reached: {error}") from error
        except RuntimeError as error:  # BrokenProcessPool
            raise WorkerError("A process of the search ended (out of memory?). Resume with fewer devices.") from error
        finally:
            if waiting:
                self._stop.set()
                for future in waiting:
                    future.cancel()


@contextmanager
def runner(task: Task, cache: Path, place: Place, devices: Sequence[str], cancelled: Cancel) -> Iterator[Runner]:
    """What runs jobs on the devices ("cpu", "cuda", "cuda:1", ...), as many at a time as there are."""
    if len(devices) == 1:
        yield LocalRunner(place, devices[0].partition(":")[0], cancelled)
        return
    context = multiprocessing.get_context("spawn")
    stop, names = context.Event(), context.Queue()
    for name in devices:
        names.put(name)
    first = (task, cache, place.settings, place.checkpoints, names, stop)
    with ProcessPoolExecutor(len(devices), context, _begin, first) as pool:
        yield PoolRunner(pool, stop, cancelled)


_here: tuple[Place, str, Callable[[], bool]] | None = None


def _begin(task: Task, cache: Path, settings: TrialSettings, checkpoints: Path, names: Any, stop: Any) -> None:
    """What a process of the pool does first: take a device, and read the prepared cases."""
    # Ctrl+C reaches every process of a terminal; the driver decides what becomes of it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    global _here  # noqa: PLW0603 (a process of a pool has no other place for what all its jobs need)
    device, _, number = str(names.get()).partition(":")
    if number:
        # Before CUDA starts: this process sees this GPU alone.
        os.environ["CUDA_VISIBLE_DEVICES"] = number
    if device == "cpu":
        import torch

        torch.set_num_threads(1)
    training, held_out = task.prepared(cache)
    _here = (Place(training, held_out, settings, checkpoints), device, stop.is_set)


def _in_process(job: Job) -> Outcome:
    assert _here is not None  # noqa: S101 (`_begin` ran)
    place, device, cancelled = _here
    return place.run(job, device, cancelled)
