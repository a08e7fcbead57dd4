"""From probabilities to a label map, an uncertainty map and the volumes of structures, one class at a time.

All classes at the image's own size would be the largest arrays by far: each is brought there, used, and dropped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.structures import Structure
from hyperreg.segmentation.catalogue import SegmentationCard

# A structure's volume if its border were drawn where the network is rather sure, and where it is rather doubtful.
SURE, DOUBTFUL = 0.75, 0.25

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class StructureVolume:
    """Of one structure, in ml: what the label map holds, and the voxels with a probability of at least SURE and of at
    least DOUBTFUL. mean_probability: over the label map's voxels; NaN for an empty structure.
    """

    structure: Structure
    volume_ml: float
    sure_ml: float
    doubtful_ml: float
    mean_probability: float

    def as_dict(self) -> dict[str, object]:
        return {
            "label": self.structure.label,
            "name": self.structure.name,
            "volume_ml": round(self.volume_ml, 4),
            "volume_sure_ml": round(self.sure_ml, 4),
            "volume_doubtful_ml": round(self.doubtful_ml, 4),
            "mean_probability": round(self.mean_probability, 4),
        }


@dataclass(frozen=True)
class Decided:
    """labels: (I, J, K) uint8 or uint16. uncertainty: (I, J, K), entropy, 0 to 1. volumes: in the card's order."""

    labels: npt.NDArray[np.unsignedinteger]
    uncertainty: Array
    volumes: list[StructureVolume]


def label_type(card: SegmentationCard) -> type[np.unsignedinteger]:
    """The smallest type that holds the card's labels."""
    return np.uint8 if max(structure.label for structure in card.structures) <= 255 else np.uint16


def decide(
    probabilities: Array,
    card: SegmentationCard,
    voxel_ml: float,
    to_part: Callable[[Array], Array] | None = None,
    sink: Callable[[Structure, Array], None] | None = None,
    check: Callable[[float], None] | None = None,
) -> Decided:
    """The most probable structure of every voxel.

    probabilities: (channels, ...) on the model's grid. to_part: brings one channel to the image's voxels (I, J, K).
    voxel_ml: volume of one of these. sink: is given every structure's probabilities there. check: is called with the
    share that is done; may raise Cancelled.
    Exclusive channels: the largest wins, the first one among equals. Regions: what is above a half is painted in the
    order of the card, and the probability of a structure is that of its region and of none painted over it.
    Entropy is divided by its largest possible value; for regions the most doubtful one counts. It is not calibrated.
    """
    bring = to_part or (lambda values: values)
    decide_all = _exclusive if card.exclusive else _regions
    painted: _Painting | None = None
    names = {structure.channel: structure for structure in card.structures}
    for done, (channel, own, probability) in enumerate(decide_all(probabilities, card, bring)):
        if check is not None:
            check(done / card.channels)
        if painted is None:
            painted = _Painting(card, own.shape)
        painted.add(names.get(channel), own, probability)
        if sink is not None and channel in names:
            sink(names[channel], own)
    assert painted is not None  # noqa: S101 (cards have structures, so there are channels)
    return painted.finished(voxel_ml)


def _exclusive(
    probabilities: Array, card: SegmentationCard, bring: Callable[[Array], Array]
) -> Iterator[tuple[int, Array, Array]]:
    for channel in range(card.channels):
        values = bring(probabilities[channel])
        yield channel, values, values


def _regions(
    probabilities: Array, card: SegmentationCard, bring: Callable[[Array], Array]
) -> Iterator[tuple[int, Array, Array]]:
    """(channel, region's probability, probability that this and none over it is there), topmost first."""
    free: Array | None = None
    for structure in reversed(card.structures):
        values = bring(probabilities[structure.channel])
        free = np.ones_like(values) if free is None else free
        yield structure.channel, values, values * free
        free = free * (1 - values)


class _Painting:
    """The label map, entropy and figures, as far as the channels seen have made them."""

    def __init__(self, card: SegmentationCard, shape: tuple[int, ...]) -> None:
        self._card = card
        self._labels = np.zeros(shape, dtype=label_type(card))
        self._best = np.full(shape, -1 if card.exclusive else 0.5, dtype=np.float32)
        self._entropy = np.zeros(shape, dtype=np.float32)
        self._probability = np.zeros(shape, dtype=np.float32)
        self._counts: dict[int, tuple[int, int]] = {}

    def add(self, structure: Structure | None, own: Array, probability: Array) -> None:
        """own: what is compared and written. probability: that the voxel belongs to this structure in the label map."""
        if self._card.exclusive:
            wins = own > self._best
            self._best[wins] = own[wins]
            self._entropy -= _times_log(own)
        else:
            wins = (own > self._best) & (self._labels == 0)
            two_sided = -(_times_log(own) + _times_log(1 - own))
            np.maximum(self._entropy, two_sided, out=self._entropy)
        self._labels[wins] = 0 if structure is None else structure.label
        self._probability[wins] = probability[wins]
        if structure is not None:
            counts = (int(np.count_nonzero(probability >= level)) for level in (SURE, DOUBTFUL))
            self._counts[structure.label] = (next(counts), next(counts))

    def finished(self, voxel_ml: float) -> Decided:
        largest = math.log(self._card.channels if self._card.exclusive else 2)
        np.clip(self._entropy / largest, 0, 1, out=self._entropy)
        size = int(self._labels.max()) + 1
        voxels = np.bincount(self._labels.ravel(), minlength=size)
        sums = np.bincount(self._labels.ravel(), weights=self._probability.ravel(), minlength=size)
        volumes = []
        for structure in self._card.structures:
            label = structure.label
            count, total = (float(figures[label]) if label < size else 0.0 for figures in (voxels, sums))
            sure, doubtful = self._counts[label]
            mean = total / count if count else math.nan
            volumes.append(StructureVolume(structure, count * voxel_ml, sure * voxel_ml, doubtful * voxel_ml, mean))
        return Decided(self._labels, self._entropy, volumes)


def _times_log(values: Array) -> Array:
    """p ln p, 0 at 0."""
    clipped = np.clip(values, np.float32(1e-12), 1)
    product: Array = clipped * np.log(clipped)
    return product
