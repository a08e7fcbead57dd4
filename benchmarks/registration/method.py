"""What a method is to the benchmark: a function from a pair of images to transforms, and a stopwatch around it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.registration.case import Case
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume

# getrusage counts in kilobytes on Linux and in bytes on macOS.
RSS_UNIT = 1 if sys.platform == "darwin" else 1024
STATUS = Path("/proc/self/status")


def cpu_seconds() -> float:
    """Of this process and its finished children, user and system."""
    return sum(
        usage.ru_utime + usage.ru_stime
        for usage in (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    )


def peak_gb() -> float:
    """The most memory that this process has had so far: interpreter, libraries and images included."""
    # Linux hands a process's peak in getrusage on to the programs that it starts; this one begins anew with each.
    if STATUS.exists():
        for line in STATUS.read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * RSS_UNIT / 1e9


@dataclass
class Watch:
    """Adds up what happens inside `with watch:`. CPU-seconds are the figure to compare; wall depends on the machine."""

    cpu_s: float = 0.0
    wall_s: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        cpu, wall = cpu_seconds(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu_s += cpu_seconds() - cpu
            self.wall_s += time.perf_counter() - wall

    def copy(self) -> Watch:
        """A watch that goes on from here: for results that share their first steps."""
        return Watch(self.cpu_s, self.wall_s)


@dataclass(frozen=True)
class Task:
    """What a method gets: the pair, the threads that it may use, and a folder for its own files.

    options: by name; only our own method has any. The truth of `case` is for methods that say that they use it.
    """

    case: Case
    threads: int
    folder: Path
    options: Mapping[str, str | float] = field(default_factory=dict)

    def read(self) -> tuple[Volume, Volume]:
        return read_volume(self.case.fixed), read_volume(self.case.moving)


@dataclass(frozen=True)
class Outcome:
    """name: the row that it becomes. transform: fixed RAS to moving RAS, whatever its stages. notes: for the reader."""

    name: str
    transform: Transform
    watch: Watch
    notes: Mapping[str, str | float] = field(default_factory=dict)


Method = Callable[[Task], Iterator[Outcome]]
