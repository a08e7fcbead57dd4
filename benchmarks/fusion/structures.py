"""Which labels of brain_oasis are fused, and how overlap with the manual ones is measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from benchmarks.registration.cases import oasis_groups
from hyperreg.registration.metrics import dice, mean_dice


@dataclass(frozen=True)
class Structures:
    """labels: those that count, in order; empty: all. merged: they become one, 1."""

    name: str
    labels: tuple[int, ...]
    merged: bool = False

    def of(self, labels: npt.NDArray) -> npt.NDArray[np.uint8]:
        """The label map with these structures alone."""
        if not self.labels:
            return labels.astype(np.uint8)
        table = np.zeros(256, dtype=np.uint8)
        table[list(self.labels)] = 1 if self.merged else list(self.labels)
        return table[labels]

    def dice(self, truth: npt.NDArray[np.uint8], found: npt.NDArray[np.uint8]) -> float:
        """Mean over the structures that the truth has; one that was not found counts as 0."""
        present = [int(label) for label in np.unique(truth) if label]
        return mean_dice(dice(truth, found, present))


HIPPOCAMPUS = Structures("hippocampus", (47, 48), merged=True)


def structures(name: str) -> Structures:
    """ "hippocampus" (both sides as one), "subcortical" (16 labels), or "all"."""
    if name == "hippocampus":
        return HIPPOCAMPUS
    return Structures(name, subcortical() if name == "subcortical" else ())


def subcortical() -> tuple[int, ...]:
    """The subcortical labels that the subjects have."""
    # Two names of the list are parts that nobody has drawn.
    return tuple(label for label in oasis_groups()[0] if label not in (33, 34))


def box_of(labels: Sequence[npt.NDArray], margin: int) -> tuple[slice, slice, slice]:
    """The box around all labels of all maps, so many voxels larger."""
    anywhere = np.any([array > 0 for array in labels], axis=0)
    ends = [np.flatnonzero(anywhere.any(axis=tuple(n for n in range(3) if n != axis)))[[0, -1]] for axis in range(3)]
    i, j, k = (
        slice(max(0, int(low) - margin), min(n, int(high) + 1 + margin))
        for (low, high), n in zip(ends, anywhere.shape, strict=True)
    )
    return i, j, k
