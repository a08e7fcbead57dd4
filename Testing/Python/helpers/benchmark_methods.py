"""Methods for the tests of the benchmark: they know the answer, or fail in a way of their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.registration.method import Outcome, Task, Watch
from benchmarks.registration.store import load_transform
from hyperreg.imaging.transform import Transform


def knows(task: Task) -> Iterator[Outcome]:
    """The truth itself, then no alignment at all; counts its runs in a file beside the images."""
    runs = task.case.fixed.with_name("runs.txt")
    runs.write_text((runs.read_text() if runs.exists() else "") + ".")
    watch = Watch()
    with watch.running():
        sum(n * n for n in range(2_000_000))
    yield Outcome("truth", load_transform(task.case.truth), watch, {"lambda": 0.25})
    yield Outcome("nothing", Transform(), watch.copy())


def breaks(task: Task) -> Iterator[Outcome]:
    yield Outcome("before", Transform((np.eye(4),)), Watch())
    raise ValueError("the optimiser ran away")


def crashes(task: Task) -> Iterator[Outcome]:
    import os

    os.abort()
    yield Outcome("never", Transform(), Watch())


def needs_a_package(task: Task) -> Iterator[Outcome]:
    import a_package_that_nobody_has  # noqa: F401

    yield Outcome("never", Transform(), Watch())


def says_its_setting(task: Task) -> Iterator[Outcome]:
    """The threads that each library is told, and the options."""
    import os

    from benchmarks.registration.runner import THREAD_VARIABLES

    told = ",".join(os.environ[name] for name in THREAD_VARIABLES)
    notes = {"threads": task.threads, "told": told, "folder": str(Path(task.folder).is_dir()), **task.options}
    yield Outcome("setting", Transform(), Watch(), notes)
