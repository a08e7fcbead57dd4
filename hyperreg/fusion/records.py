"""What fusion says of its atlases, raters and structures: plain records for reports, the worker and its clients."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

AtlasState = Literal["waiting", "running", "cached", "done", "not selected", "left out"]


@dataclass(frozen=True)
class AtlasFiles:
    """One atlas as two files. lam: its own lambda, or None for the one of all."""

    name: str
    image: Path
    labels: Path
    lam: float | None = None


@dataclass(frozen=True)
class AtlasProgress:
    """How far one atlas is. state: "cached" is done before, from the cache; the last four are ends, but "left out" may
    still follow them: outliers are seen when all are done.

    fraction: 0..1 of its registration. text: what is being done, or why it is left out or not selected.
    """

    name: str
    state: AtlasState
    fraction: float
    text: str


@dataclass
class AtlasOutcome:
    """What became of one atlas. state: "used", "not selected", "left out". reason: why, or "".

    similarity: with the target once it is registered, similarity_before: after the affine alignment alone.
    """

    name: str
    state: str = "used"
    reason: str = ""
    lam: float | None = None
    similarity: float = math.nan
    similarity_before: float = math.nan
    folding_percent: float = math.nan
    cached: bool = False


@dataclass(frozen=True)
class RaterMetrics:
    """One rater. weight: its share of all weights, 0 to 1 (for local weights, the mean over disputed voxels).

    sensitivity, specificity, dice: means over the labels that the consensus has, NaN where it has none. Without a
    method's own estimate they are counted against the consensus; specificity always within the box around all labels.
    """

    name: str
    weight: float = math.nan
    sensitivity: float = math.nan
    specificity: float = math.nan
    dice: float = math.nan


@dataclass(frozen=True)
class Rater(RaterMetrics):
    """A label map or an atlas that was to be fused: its metrics, and what became of it (see `AtlasOutcome`)."""

    state: str = "used"
    reason: str = ""
    similarity: float = math.nan
    lam: float | None = None


def raters_of(metrics: Sequence[RaterMetrics], outcomes: Sequence[AtlasOutcome]) -> list[Rater]:
    """Every label map and atlas, those that were not used at the end. outcomes: of atlases; [] for label maps."""
    known = {outcome.name: outcome for outcome in outcomes}
    pairs = [(row, known.pop(row.name, AtlasOutcome(row.name))) for row in metrics]
    pairs += [(RaterMetrics(outcome.name), outcome) for outcome in known.values()]
    return [Rater(**vars(row), state=o.state, reason=o.reason, similarity=o.similarity, lam=o.lam) for row, o in pairs]


@dataclass(frozen=True)
class StructureVolumes:
    """One structure: its volume in the consensus, and mean, SD, minimum, maximum of it over the raters, ml."""

    label: int
    volume_ml: float
    raters_mean_ml: float
    raters_sd_ml: float
    raters_minimum_ml: float
    raters_maximum_ml: float


@dataclass(frozen=True)
class LearnedWeight:
    """An atlas by its data parameter: value (any scale, larger is better), weight (share of the consensus), history
    (the value after each of `Learned.history_steps`).
    """

    name: str
    value: float
    weight: float
    history: tuple[float, ...]


@dataclass(frozen=True)
class Learned:
    """Data parameters of one target after so many steps of those wanted; finished: whether these are all.

    alike: whether no atlas is told from another yet. losses: of the network, mean between two answers. spacing_mm: of
    the voxels that it saw. seconds: of all runs.
    """

    steps: int
    wanted: int
    finished: bool
    alike: bool
    seconds: float
    spacing_mm: float
    history_steps: tuple[int, ...]
    losses: tuple[float, ...]
    atlases: tuple[LearnedWeight, ...]
