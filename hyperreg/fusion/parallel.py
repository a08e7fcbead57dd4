"""The registrations of many atlases, in processes of their own where that helps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from hyperreg.errors import HyperRegError
from hyperreg.execution import processes
from hyperreg.fusion.registering import Registered, Task, register_atlas
from hyperreg.reporting import Cancel, Progress

Result = Registered | HyperRegError


def registrations(
    tasks: Sequence[Task], jobs: int, progress: processes.TaskProgress, cancelled: Cancel | None = None
) -> Iterator[tuple[Task, Result]]:
    """Do all tasks; each comes out as soon as it is done: see `processes.results`. Raises Cancelled."""
    return processes.results(_register, tasks, jobs, progress, cancelled)


def _register(task: Task, progress: Progress, cancelled: Cancel | None) -> Registered:
    return register_atlas(task, progress, cancelled)
