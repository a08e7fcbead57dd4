"""Data parameters of one target's atlases as a run with atlases has them: kept on disk, bounded in time, shown."""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from hyperreg.fusion.cache import content_hash
from hyperreg.fusion.qualities import DataParameters, DataParameterSettings
from hyperreg.fusion.records import Learned, LearnedWeight
from hyperreg.fusion.stack import LabelStack
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Cancel, Progress

# What a plot of the parameters may be saved as.
IMAGES = (".png", ".svg", ".pdf")
# Under the folder of kept registrations; a folder for each target with its label maps. So many are kept, the newest:
# a finished one gives its answer again at once, for instance with another temperature.
FOLDER, KEPT = "learned", 20
# The one target's name; nobody sees it.
TARGET = "target"


def learn(
    image: Volume,
    stack: LabelStack,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    cache: Path | None = None,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    enough: Cancel | None = None,
    answer: Callable[[DataParameters], None] | None = None,
) -> DataParameters:
    """Learn the data parameters of one target's label maps, or go on where this was stopped.

    steps: in all, None for the usual number. minutes: of this call, from its first step. cache: of the registrations,
    where the progress is kept, too; None keeps nothing. enough, answer: see `train`. Raises InputError, OutOfMemory,
    Cancelled.
    """
    from hyperreg.fusion.data_parameters import train
    from hyperreg.fusion.samples import LabelledTarget

    settings = DataParameterSettings() if steps is None else DataParameterSettings(steps=steps)
    folder = None if cache is None else cache / FOLDER / _key(image, stack)
    if folder is not None:
        _forget(folder)
    started: float | None = None

    def over() -> bool:
        # The clock starts with the first step: preparing may take long on a busy machine.
        nonlocal started
        started = started or time.monotonic()
        late = minutes is not None and time.monotonic() - started > 60 * minutes
        return late or (enough is not None and enough())

    return train(
        [LabelledTarget(TARGET, image, stack)],
        settings,
        folder=folder,
        progress=progress,
        cancelled=cancelled,
        answer=answer,
        enough=over,
    )


def learned_of(found: DataParameters, temperature: float | None = None) -> Learned:
    """What was learned, as reports and the application have it."""
    histories = found.history.T.tolist()
    return Learned(
        steps=found.steps,
        wanted=found.wanted,
        finished=found.finished,
        alike=found.alike,
        seconds=found.seconds,
        spacing_mm=found.spacing_mm,
        history_steps=found.history_steps,
        losses=found.losses,
        atlases=tuple(
            LearnedWeight(row.atlas, row.value, row.weight, tuple(histories[n]))
            for n, row in enumerate(found.table(temperature))
        ),
    )


def save_plot(learned: Learned, path: Path) -> None:
    """The data parameters over the steps, and the weights that they give, as one of IMAGES."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9.5, 4.2), layout="constrained")
    course, shares = figure.subplots(1, 2, width_ratios=(3, 2))
    for row in learned.atlases:
        course.plot([0, *learned.history_steps], [0.0, *row.history], label=row.name)
    course.set_xlabel("step")
    course.set_ylabel("data parameter (larger: the better label map)")
    course.set_title(f"{learned.steps} of {learned.wanted} steps", fontsize=10)
    course.grid(alpha=0.3)
    names = [row.name for row in learned.atlases]
    places = range(len(names))
    shares.barh(places, [row.weight for row in learned.atlases], color=[f"C{n % 10}" for n in places])
    shares.set_yticks(places, names)
    shares.invert_yaxis()
    shares.set_xlabel("weight in the consensus")
    shares.grid(alpha=0.3, axis="x")
    figure.savefig(path, dpi=120)


def _key(image: Volume, stack: LabelStack) -> str:
    digest = hashlib.sha256(content_hash(image).encode())
    digest.update(repr((stack.names, stack.labels.tolist(), stack.codes.dtype.str, stack.codes.shape)).encode())
    digest.update(stack.ijk_to_ras.round(3).tobytes())
    for codes in stack.codes:
        digest.update(codes.tobytes())
    return digest.hexdigest()


def _forget(mine: Path) -> None:
    """Remove the oldest folders beside this one. What another run removes meanwhile is gone already."""
    times = {}
    for path in mine.parent.glob("*"):
        try:
            times[path] = path.stat().st_mtime
        except OSError:
            continue
    others = sorted((path for path in times if path != mine), key=lambda path: times[path])
    for path in others[: max(0, len(others) - KEPT + 1)]:
        shutil.rmtree(path, ignore_errors=True)
