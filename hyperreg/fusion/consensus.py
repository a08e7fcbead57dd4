"""What fusion gives: the consensus, and what can be asked about it, its raters and its structures.

Maps of single labels are made when asked for: 138 of them at 1 mm would need 3 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hyperreg.fusion.records import RaterMetrics, StructureVolumes
from hyperreg.fusion.stack import Codes, LabelStack
from hyperreg.imaging.volume import Volume

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Consensus:
    """The result of fusing a `LabelStack`.

    codes: (I, J, K), the decision as codes of the stack. weights: (A,) shares that sum to 1.
    make_probability: code -> (I, J, K) float32, 0..1.
    estimated: sensitivity and specificity, each (A, L), where the method estimates them itself; NaN for labels without.
    warnings: the stack's and the method's.
    """

    stack: LabelStack
    method: str
    codes: Codes
    weights: Array
    make_probability: Callable[[int], npt.NDArray[np.float32]] = field(repr=False)
    estimated: tuple[Array, Array] | None = None
    warnings: list[str] = field(default_factory=list)

    @cached_property
    def labels(self) -> Volume:
        """The consensus as label values, (I, J, K)."""
        return self.stack.volume(self.codes, "consensus")

    def probability(self, label: int) -> Volume:
        """The probability of one label: (I, J, K) float32, 0..1. Raises InputError if no rater has the label."""
        array = self.make_probability(self.stack.code_of(label))
        return Volume(array, self.stack.ijk_to_ras, f"probability of {label}")

    @cached_property
    def disagreement(self) -> Volume:
        """The share of raters that say something else than the consensus: (I, J, K) float32, 0..1.

        All raters count alike, whatever their weight: the map shows where people or atlases differ.
        """
        other = np.zeros(self.codes.shape, dtype=np.uint16)
        for rater in self.stack.codes:
            other += rater != self.codes
        return Volume(other.astype(np.float32) / len(self.stack.names), self.stack.ijk_to_ras, "disagreement")

    @cached_property
    def confusion(self) -> npt.NDArray[np.int64]:
        """(A, L, L) voxels inside the box around all labels, by the rater's label (second axis) and the consensus'."""
        count = len(self.stack.labels)
        box = self.stack.box
        decided = self.codes[box].ravel().astype(np.int64)
        return np.stack(
            [
                np.bincount(rater[box].ravel() * np.int64(count) + decided, minlength=count**2).reshape(count, count)
                for rater in self.stack.codes
            ]
        )

    @cached_property
    def sensitivity(self) -> Array:
        """(A, L): the share of each label's voxels that the rater labelled so; the background's first."""
        return self.estimated[0] if self.estimated is not None else performance(self.confusion)[0]

    @cached_property
    def specificity(self) -> Array:
        """(A, L): the share of the other voxels, in the box around all labels, that the rater did not label so."""
        return self.estimated[1] if self.estimated is not None else performance(self.confusion)[1]

    @cached_property
    def dice(self) -> Array:
        """(A, L): Dice overlap of each rater with the consensus; NaN where neither has the label."""
        both = np.diagonal(self.confusion, axis1=1, axis2=2)
        sizes = self.confusion.sum(axis=2) + self.confusion.sum(axis=1)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(sizes > 0, 2 * both / sizes, np.nan)

    def raters(self) -> list[RaterMetrics]:
        """The metrics of every rater, in the order of the stack."""
        there = self.confusion[0].sum(axis=0)[1:] > 0 if self.codes.size else np.zeros(0, dtype=bool)
        means = [_means(table[:, 1:][:, there]) for table in (self.sensitivity, self.specificity, self.dice)]
        rows = zip(self.stack.names, self.weights, *means, strict=True)
        return [RaterMetrics(name, *(float(value) for value in values)) for name, *values in rows]

    def structures(self) -> list[StructureVolumes]:
        """The volume of every label that a rater has, ascending, with its spread over the raters."""
        consensus = np.bincount(self.codes.ravel(), minlength=len(self.stack.labels)) * self.stack.voxel_ml
        raters = self.stack.counts * self.stack.voxel_ml
        found = []
        for code, label in enumerate(self.stack.labels.tolist()):
            if code:
                each = raters[:, code]
                volumes = (consensus[code], each.mean(), each.std(), each.min(), each.max())
                found.append(StructureVolumes(label, *(float(value) for value in volumes)))
        return found


def performance(confusion: npt.NDArray) -> tuple[Array, Array]:
    """Sensitivity and specificity, each (A, L), of a table (A, L of the rater, L of the truth); NaN where undefined."""
    right = np.diagonal(confusion, axis1=1, axis2=2)
    truth, said = confusion.sum(axis=1), confusion.sum(axis=2)
    others = confusion.sum(axis=(1, 2))[:, None] - truth
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = np.where(truth > 0, right / truth, np.nan)
        specificity = np.where(others > 0, 1 - (said - right) / others, np.nan)
    return sensitivity, specificity


def _means(table: Array) -> Sequence[float]:
    """The mean of each row, without NaN; NaN for a row without a number."""
    return [float(np.nanmean(row)) if np.isfinite(row).any() else float("nan") for row in table]
