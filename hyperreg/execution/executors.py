"""Where tasks are done: in processes on this machine, or by the machines of a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol
from uuid import uuid4

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.execution.processes import NEEDED, R, T, TaskProgress, Work, fitting_jobs, results
from hyperreg.imaging.output import replacing
from hyperreg.machine import choose_device, visible_gpus
from hyperreg.reporting import Cancel, Progress

# In a folder of results: a word by which a machine knows that it sees the same disk as the one that hands out tasks.
MARK = ".hyperreg-results"


class Executor(Protocol):
    """Does tasks. A task that was begun twice, because a machine was lost, has to leave what one alone would."""

    def results(
        self, work: Work[T, R], tasks: Iterable[T], progress: TaskProgress, cancelled: Cancel | None = None
    ) -> Iterator[tuple[T, R | HyperRegError]]:
        """Each task with its result, or the error that ended it, as soon as it is done. Raises Cancelled, WorkerError.

        work: a function of a module that every machine can import. tasks: each is taken when it can be begun, or soon.
        """


@dataclass(frozen=True)
class Place:
    """Where tasks are done, as the user asks for it.

    kind: "local" or "ray". jobs: how many tasks at once; None for what fits. address: of a Ray cluster, HOST:PORT, or
    "auto" for the one that this machine belongs to; None starts one here. cpus, memory_gb, gpus: what Ray keeps free
    for each task; gpus may be a fraction, None is one where the device is "cuda".
    """

    kind: Literal["local", "ray"] = "local"
    jobs: int | None = None
    device: str = "auto"
    address: str | None = None
    cpus: float = 1.0
    memory_gb: float = NEEDED / 1024**3
    gpus: float | None = None

    @property
    def gpus_per_task(self) -> float:
        """What Ray gives a task of GPUs."""
        return self.gpus if self.gpus is not None else float(self.device == "cuda")

    @property
    def kept_free(self) -> float | None:
        """Bytes that are kept free for a task; None where nobody does that, or on GPUs."""
        return self.memory_gb * 1024**3 if self.kind == "ray" and not self.gpus_per_task else None

    @property
    def share(self) -> float:
        """The part of the memory of its device that a task may take beside the others."""
        if self.kind == "ray":
            return min(1.0, self.gpus_per_task or 1.0)
        device = choose_device(self.device)
        devices = len(visible_gpus()) if device == "cuda" else 1
        return min(1.0, devices / (self.jobs or fitting_jobs(device)))

    def open(self) -> AbstractContextManager[Executor]:
        """The executor, connected. Raises InputError for what does not go together, WorkerError for a dead cluster."""
        if self.kind == "ray":
            from hyperreg.execution.ray_executor import RayExecutor

            return RayExecutor(self)
        if self.address is not None:
            raise InputError("An address belongs to a Ray cluster: add --executor ray, or leave --address out.")
        return nullcontext(LocalExecutor(self.jobs, self.device))


@dataclass(frozen=True)
class LocalExecutor:
    """Does tasks on this machine, several at once in processes of their own; see `processes.results`."""

    jobs: int | None
    device: str

    def results(
        self, work: Work[T, R], tasks: Iterable[T], progress: TaskProgress, cancelled: Cancel | None = None
    ) -> Iterator[tuple[T, R | HyperRegError]]:
        jobs = self.jobs or fitting_jobs(choose_device(self.device))
        return results(work, tasks, jobs, progress, cancelled)


def result_of(executor: Executor, work: Work[T, R], task: T, cancelled: Cancel | None = None) -> R:
    """The result of one task. Raises the error that ended it, Cancelled, WorkerError."""
    ((_task, found),) = executor.results(work, [task], lambda *_told: None, cancelled)
    if isinstance(found, HyperRegError):
        raise found
    return found


class Whole:
    """The progress of many tasks together, with an estimate of the time that is left.

    progress: what is told. what: the tasks' name in the plural. start, end: the shares of the whole run between which
    these tasks lie.
    """

    def __init__(self, progress: Progress, count: int, what: str, start: float = 0.0, end: float = 1.0) -> None:
        self._progress, self._count, self._what = progress, count, what
        self._start, self._length = start, end - start
        self._running: dict[str, float] = {}
        self._ended = 0
        self._worked = 0
        self._began = time.monotonic()

    def tell(self, name: str, fraction: float, text: str) -> None:
        """A task says how far it is."""
        self._running[name] = fraction
        self._say(f"{name}: {text}")

    def end(self, name: str, *, worked: bool = True) -> None:
        """A task has ended. worked: not if it was known already; the estimate does not count on such."""
        self._running.pop(name, None)
        self._ended += 1
        self._worked += worked
        self._say(name)

    def _say(self, text: str) -> None:
        fraction = (self._ended + sum(self._running.values())) / max(self._count, 1)
        left = f", about {self.left} left" if self.left else ""
        self._progress(
            self._start + self._length * min(fraction, 1.0),
            f"{self._ended} of {self._count} {self._what}{left}; {text}",
        )

    @property
    def left(self) -> str:
        """In words; empty before anything can be said."""
        done = self._worked + sum(self._running.values())
        if self._worked == 0:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._count - self._ended - sum(self._running.values()))
        if seconds < 90:
            return f"{max(seconds, 0):.0f} s"
        return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def mark(folder: Path) -> str:
    """The word that marks a folder of results; it is written if it is not there yet. Raises FileError."""
    path = folder / MARK
    try:
        if path.is_file():
            return path.read_text(encoding="utf-8")
        word = uuid4().hex
        with replacing(path) as target:
            target.write_text(word, encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"'{path}' cannot be read or written ({error}); choose another folder.") from error
    return word


def check_mark(folder: Path, word: str) -> None:
    """Raise FileError if this machine does not see the folder that was marked with the word."""
    try:
        same = (folder / MARK).read_text(encoding="utf-8") == word
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        import platform

        raise FileError(
            f"The machine '{platform.node()}' does not see the folder '{folder}' of the one that hands out the work. "
            "Images and results have to lie on a disk that all machines reach under the same name."
        )
