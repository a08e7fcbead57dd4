"""Synthetic cases to learn segmentation from: a label map, a random deformation, random contrasts (SynthSeg's idea,
Billot et al., arXiv 2107.09559; images as for registration, see `appearance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

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

# Which of the axes R, A, S the axes of a case are: slices (the last axis) across S, A or R, as inference turns them.
ORDERS = ((0, 1, 2), (0, 2, 1), (1, 2, 0))
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


def class_table(structures: Sequence[Sequence[int]]) -> list[int]:
    """The class of every label of a brain map (`brain_from_file`): label -> 0 (background) or 1 + structure.

    structures: FreeSurfer numbers of each; one number is enough to mean the whole group that training knows
    (BRAIN_STRUCTURES); parts of tumours have their own (TUMOUR_NUMBERS). Raises InputError for numbers that no group
    has, or a group that two structures claim.
    """
    table = [0] * 256
    for index, numbers in enumerate(structures, start=1):
        groups = [n for n, group in enumerate(BRAIN_STRUCTURES, start=1) if set(group) & set(numbers)]
        known = {number for group in BRAIN_STRUCTURES for number in group} | set(TUMOUR_NUMBERS)
        for number in set(numbers) & set(TUMOUR_NUMBERS):
            table[TUMOUR_NUMBERS[number]] = index
        if not numbers or set(numbers) - known:
            raise InputError(f"Structure {index} names labels that training does not know: {sorted(numbers)}.")
        for group in groups:
            if table[group]:
                raise InputError(
                    f"The labels {BRAIN_STRUCTURES[group - 1]} belong to structures {table[group]} and {index}."
                )
            table[group] = index
    return table


@dataclass
class CaseSynthesiser(Dataset[SyntheticCase]):
    """An endless series of random cases, a torch data set: case number n is always the same for a seed and a device.

    maps: label maps to draw from. table: see `class_table`. classes: background included. shape: of the cases.
    spacing: range of voxel sizes, mm. slices: range of whole numbers; slices (last axis) are so many voxels thick.
    any_direction: they lie across any axis of the body, else across S. images: how many, each of its own contrast.
    stripped: share without skull. strength: range, multiples of what brains show after linear alignment.
    looks: so many cases in a row are one deformed map with other contrasts: deforming takes most of the time.
    supersampling: the labels' grid is so much finer than the images', for partial volumes; 1 suffices in thick slices.
    tumours: share of cases with one. sequences: of the images, in their order (tumours.SEQUENCES); else any contrast.
    """

    maps: Sequence[LabelMap]
    table: Sequence[int]
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
    _flat: dict[int, Tensor] = field(default_factory=dict, repr=False)
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
        if index not in self._flat:
            self._flat[index] = torch.from_numpy(label_map.labels).flatten().to(self.device)
        labels = labels_at(label_map, self._flat[index], points, stripped).view([n * self.supersampling for n in shape])
        if self.tumours and draws.chance(self.tumours):
            labels = add_tumour(labels, spacing / self.supersampling, draws)
        named = torch.tensor(self.table, device=labels.device)[labels]
        parts = fractions(named, self.classes - 1, self.supersampling)
        target = torch.cat((1 - parts.sum(1, keepdim=True), parts), dim=1)
        return _Deformed(number, labels, _thick(target, thickness), thickness, label_map.kind == "brain")


def _thick(values: Tensor, thickness: int) -> Tensor:
    return F.avg_pool3d(values, (1, 1, thickness)) if thickness > 1 else values
