"""Synthetic cases to learn segmentation from: a label map, a random deformation, random contrasts (SynthSeg's idea,
Billot et al., arXiv 2107.09559; images as for registration, see `appearance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hyperreg.errors import InputError
from hyperreg.training.appearance import SUPERSAMPLING, Appearance, draw_contrast, render
from hyperreg.training.deformation import random_deformation
from hyperreg.training.draws import Draws
from hyperreg.training.label_maps import BRAIN_STRUCTURES, LabelMap
from hyperreg.training.synthesis import CENTRED, fractions, labels_at
from hyperreg.training.tumours import TUMOUR_NUMBERS, add_tumour, sequence_contrast

Side = Literal["left", "right"]
# (2, 256): the class of every label of a map, in the left and in the right half of the body.
ClassTable = npt.NDArray[np.int64]
# Which of the axes R, A, S the axes of a case are: slices (the last axis) across S, A or R, as inference turns them.
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
# The halves of the body, in the order of a class table's rows.
SIDES: tuple[Side, ...] = ("left", "right")
# Between the seeds of deformations and of looks; further than any run is long, as `engine.SEED_OFFSET`.
LOOK_OFFSET = 750_019


@dataclass(frozen=True)
class SyntheticCase:
    """images: (1, C, I, J, K), 0..1. target: (1, classes, I, J, K), how much of each voxel a class fills; background
    first; the sum is 1. unknown: classes that nobody looked for in this case: what the target calls background may
    be any of them.
    """

    images: Tensor
    target: Tensor
    unknown: tuple[int, ...] = ()

    def to(self, device: torch.device | str) -> SyntheticCase:
        """The same case on another device."""
        return SyntheticCase(self.images.to(device), self.target.to(device), self.unknown)


@dataclass(frozen=True)
class _Deformed:
    """A deformed map: labels on the fine grid, target as a case's, and the first case made of it."""

    number: int
    labels: Tensor
    target: Tensor
    thickness: int
    brain: bool


def class_table(structures: Sequence[Sequence[int]], sides: Sequence[Side | None] | None = None) -> ClassTable:
    """The class of every label of a brain map (`brain_from_file`): 0 (background) or 1 + structure.

    structures: FreeSurfer numbers of each; one number is enough to mean the whole group that training knows
    (BRAIN_STRUCTURES); parts of tumours have their own (TUMOUR_NUMBERS). sides: the half of the body that each lies in;
    None is both. Raises InputError for numbers that no group has, or a group that two structures claim.
    """
    table = np.zeros((len(SIDES), 256), np.int64)
    known = {number for group in BRAIN_STRUCTURES for number in group} | set(TUMOUR_NUMBERS)
    for index, (numbers, side) in enumerate(zip(structures, sides or [None] * len(structures), strict=True), start=1):
        if not numbers or set(numbers) - known:
            raise InputError(f"Structure {index} names labels that training does not know: {sorted(numbers)}.")
        groups = [n for n, group in enumerate(BRAIN_STRUCTURES, start=1) if set(group) & set(numbers)]
        halves = range(len(SIDES)) if side is None else [SIDES.index(side)]
        for label in (*(TUMOUR_NUMBERS[number] for number in set(numbers) & set(TUMOUR_NUMBERS)), *groups):
            for half in halves:
                if label in groups and (other := table[half, label]):
                    group = BRAIN_STRUCTURES[label - 1]
                    raise InputError(f"The labels {group} belong to structures {other} and {index}.")
                table[half, label] = index
    return table


def has_sides(table: ClassTable) -> bool:
    """Whether a table tells left from right."""
    return not np.array_equal(*table)


@dataclass
class CaseSynthesiser(Dataset[SyntheticCase]):
    """An endless series of random cases, a torch data set: case number n is always the same for a seed and a device.

    maps: label maps to draw from. table: of classes, see `class_table`. classes: background included. shape: of cases.
    spacing: range of voxel sizes, mm. slices: range of whole numbers; slices (last axis) are so many voxels thick.
    any_direction: they lie across any axis of the body, else across S. images: how many, each of its own contrast.
    stripped: share without skull. strength: range, multiples of what brains show after linear alignment.
    looks: so many cases in a row are one deformed map with other contrasts: deforming takes most of the time.
    supersampling: the labels' grid is so much finer than the images', for partial volumes; 1 suffices in thick slices.
    tumours: share of cases with one. sequences: of the images, in their order (tumours.SEQUENCES); else any contrast.
    """

    maps: Sequence[LabelMap]
    table: ClassTable
    classes: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float] = (1.0, 1.0)
    slices: tuple[int, int] = (1, 1)
    any_direction: bool = False
    images: int = 1
    seed: int = 0
    stripped: float = 0.5
    strength: tuple[float, float] = (1.0, 2.0)
    look: Appearance = field(default_factory=Appearance)
    looks: int = 1
    supersampling: int = SUPERSAMPLING
    tumours: float = 0.0
    sequences: Sequence[str] = ()
    device: str = "cpu"
    _flat: dict[tuple[int, str], Tensor] = field(default_factory=dict, repr=False)
    _last: _Deformed | None = field(default=None, repr=False)

    def __getitem__(self, number: int) -> SyntheticCase:
        first = number - number % self.looks
        if self._last is None or self._last.number != first:
            self._last = self._deformed(first)
        last = self._last
        draws = Draws(self.seed * 1_000_003 + number + LOOK_OFFSET, self.device)
        contrasts = [sequence_contrast(name, draws) for name in self.sequences] or [
            draw_contrast(last.brain, self.look, draws) for _ in range(self.images)
        ]
        seen = [render(last.labels, contrast, self.look, draws, self.supersampling) for contrast in contrasts]
        return SyntheticCase(_thick(torch.cat(seen, dim=1), last.thickness), last.target)

    def _deformed(self, number: int) -> _Deformed:
        draws = Draws(self.seed * 1_000_003 + number, self.device)
        index = draws.integer(0, len(self.maps) - 1)
        label_map = self.maps[index]
        spacing = draws.uniform(*self.spacing)
        thickness = draws.integer(*self.slices)
        order = draws.choose(ORDERS) if self.any_direction else ORDERS[0]
        stripped = label_map.kind == "brain" and draws.chance(self.stripped)
        mirrored = draws.chance(0.5)
        shape = (*self.shape[:2], self.shape[2] * thickness)
        extent = [label_map.labels.shape[axis] * label_map.spacing for axis in order]
        free = [max(0.0, size - n * spacing) / 2 for size, n in zip(extent, shape, strict=True)]
        middle = draws.uniforms(-1, 1, 3, 1) * CENTRED * torch.tensor(free, device=draws.device).view(3, 1)
        turn = draws.normals(3) * 0.15
        strength = draws.uniform(*self.strength)
        deformation = random_deformation(shape, spacing, turn, False, draws.fields, strength, middle)
        points = torch.empty_like(found := deformation.points(self.supersampling))
        points[list(order)] = found
        if mirrored:
            points[0] = -points[0]
        labels = labels_at(label_map, self._flat_of(index, "labels"), points, stripped).view(
            [n * self.supersampling for n in shape]
        )
        if self.tumours and draws.chance(self.tumours):
            labels = add_tumour(labels, spacing / self.supersampling, draws)
        table = torch.from_numpy(self.table).to(labels.device)
        named = table[0][labels]
        if has_sides(self.table):
            right = self._right_half(index, points).view(labels.shape)
            named = torch.where(right ^ mirrored, table[1][labels], named)
        parts = fractions(named, self.classes - 1, self.supersampling)
        target = torch.cat((1 - parts.sum(1, keepdim=True), parts), dim=1)
        return _Deformed(number, labels, _thick(target, thickness), thickness, label_map.kind == "brain")

    def _right_half(self, index: int, points: Tensor) -> Tensor:
        """Whether points (3, N), mm, of map number `index` lie in the right half of the body: (N,) bool."""
        return labels_at(self.maps[index], self._flat_of(index, "right"), points, False) > 0

    def _flat_of(self, index: int, name: str) -> Tensor:
        """An array of map number `index`, in a row, where the cases are made."""
        if (index, name) not in self._flat:
            self._flat[index, name] = torch.from_numpy(getattr(self.maps[index], name)).flatten().to(self.device)
        return self._flat[index, name]


def _thick(values: Tensor, thickness: int) -> Tensor:
    return F.avg_pool3d(values, (1, 1, thickness)) if thickness > 1 else values
