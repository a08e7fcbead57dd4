"""One atlas registered to one target: a task that can run here or in another process."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.reporting import Cancel, Progress

# What of a registration's figures is kept: numbers that do not need label maps.
FIGURES = (
    "similarity",
    "similarity_before",
    "folding_percent",
    "displacement_mean_mm",
    "displacement_max_mm",
)


@dataclass(frozen=True, eq=False)
class Registered:
    """A registration. linear: (4, 4), target RAS to atlas RAS. field: None where only the linear part was asked for.

    figures: some of FIGURES; similarity is the mean local correlation in the target's foreground.
    """

    linear: npt.NDArray[np.float64]
    field: DisplacementField | None
    figures: dict[str, float]

    @property
    def transform(self) -> Transform:
        """Target RAS to atlas RAS, mm: with it, the atlas's image and labels are resampled to the target."""
        return Transform((self.linear,) if self.field is None else (self.field, self.linear))


@dataclass(frozen=True, eq=False)
class Task:
    """What is registered, and how. lam: None for the linear part alone. fast: the quick stage is enough.

    linear: if it is known already.
    """

    name: str
    target: Volume
    image: Volume
    model: str
    lam: float | None
    fast: bool = True
    device: str = "auto"
    linear: npt.NDArray[np.float64] | None = None


def register_atlas(task: Task, progress: Progress | None = None, cancelled: Cancel | None = None) -> Registered:
    """Do a task. Raises InputError, WeightsError, OutOfMemory or Cancelled."""
    from hyperreg.registration.session import LiveSession

    session = LiveSession(task.model, task.device)
    share = 1.0 if task.lam is None else 0.6 if task.fast else 0.3
    tell = progress or (lambda _fraction, _text: None)
    session.prepare(
        task.target,
        task.image,
        initial="affine" if task.linear is None else task.linear,
        progress=lambda fraction, text: tell(share * fraction, text),
        cancelled=cancelled,
    )
    linear = np.asarray(session.linear, dtype=np.float64)
    if task.lam is None:
        return Registered(linear, None, {"similarity_before": session.linear_similarity})
    field = session.field(
        task.lam,
        session.quick_stage if task.fast else None,
        progress=lambda fraction, text: tell(share + (1 - share) * fraction, text),
        cancelled=cancelled,
    ).forward
    return Registered(linear, field, _numbers(session.measure(field)))


def _numbers(figures: Mapping[str, object]) -> dict[str, float]:
    return {name: value for name in FIGURES if isinstance(value := figures.get(name), float)}
