"""Synthetic image pairs: one or two label maps, random deformations, random contrasts (SynthMorph, arXiv 2004.10282).

Both label maps of a pair are known, so training compares structures and never depends on the images' contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hyperreg.training.appearance import SUPERSAMPLING, Appearance, draw_contrast, render
from hyperreg.training.deformation import Deformation, displacement_between, random_deformation
from hyperreg.training.draws import Draws
from hyperreg.training.label_maps import LabelMap, affine_between, halves

# How far from the middle of a map pairs lie, as a share of what would still fit: the rim is mostly background.
CENTRED = 0.7


@dataclass(frozen=True)
class SyntheticPair:
    """images: (1, 2, I, J, K) fixed and moving, 0..1; structures: two (1, L, I, J, K) maps of fractions per voxel, with
    L = 0 where none are known.

    displacement: the true pull-back field (1, 3, I, J, K), voxels; None if the pair is made of two label maps.
    same_contrast: whether an intensity loss such as LNCC makes sense for this pair.
    """

    images: Tensor
    fixed_structures: Tensor
    moving_structures: Tensor
    displacement: Tensor | None
    same_contrast: bool

    @property
    def has_structures(self) -> bool:
        return self.fixed_structures.shape[1] > 0

    def to(self, device: torch.device | str) -> SyntheticPair:
        """The same pair on another device."""
        truth = None if self.displacement is None else self.displacement.to(device)
        fixed, moving = self.fixed_structures.to(device), self.moving_structures.to(device)
        return SyntheticPair(self.images.to(device), fixed, moving, truth, self.same_contrast)


@dataclass(frozen=True)
class Stage:
    """The pairs before number `until` (that no earlier stage has): their shape (I, J, K), and between which voxel sizes
    (low, high), mm, each is drawn. Coarse pairs first: they are small, and long displacements are learned from them.
    """

    until: int
    shape: tuple[int, int, int]
    spacing: tuple[float, float]


@dataclass
class PairSynthesiser(Dataset[SyntheticPair]):
    """An endless series of random pairs, a torch data set: pair number n is always the same for a seed and a device.

    So a run can be resumed and repeated, and pairs can be made in other processes or on the GPU that trains.
    maps: label maps to draw from; pairs are of one kind ("brain", "shapes"), of one map or of two.
    stages: by number; the last one goes on for ever. two_maps, same_contrast, stripped (no skull), shapes: shares.
    strength: the deformations' size is drawn between these multiples of what brains show after linear alignment.
    """

    maps: Sequence[LabelMap]
    stages: Sequence[Stage]
    seed: int = 0
    two_maps: float = 0.5
    same_contrast: float = 0.6
    stripped: float = 0.6
    shapes: float = 0.3
    strength: tuple[float, float] = (1.0, 1.0)
    look: Appearance = field(default_factory=Appearance)
    device: str = "cpu"
    _on_device: dict[int, Tensor] = field(default_factory=dict, repr=False)
    _halves: dict[int, Tensor] = field(default_factory=dict, repr=False)

    def __getitem__(self, number: int) -> SyntheticPair:
        draws = Draws(self.seed * 1_000_003 + number, self.device)
        stage = next((stage for stage in self.stages if number < stage.until), self.stages[-1])
        brains = [index for index, label_map in enumerate(self.maps) if label_map.kind == "brain"]
        shapes = [index for index, label_map in enumerate(self.maps) if label_map.kind == "shapes"]
        brain = bool(brains) and (not shapes or not draws.chance(self.shapes))
        first = second = draws.choose(brains if brain else shapes)
        if brain and draws.chance(self.two_maps):
            second = draws.choose(brains)
        spacing = draws.uniform(*stage.spacing)
        stripped = brain and draws.chance(self.stripped)
        mirrored = draws.chance(0.5)
        strength = draws.uniform(*self.strength)
        turn = draws.normals(3) * 0.15
        # Small voxels show a part of the map: any part.
        extent = [n * self.maps[first].spacing for n in self.maps[first].labels.shape]
        free = [max(0.0, size - n * spacing) / 2 for size, n in zip(extent, stage.shape, strict=True)]
        middle = draws.uniforms(-1, 1, 3, 1) * CENTRED * torch.tensor(free, device=draws.device).view(3, 1)
        fixed, moving = (
            random_deformation(stage.shape, spacing, turn, mirrored, draws.fields, strength, middle) for _ in range(2)
        )
        if first != second:
            moving = self._aligned(moving, first, second)
        labels = [
            self.labels_at(index, deformation.points(SUPERSAMPLING), stripped).view(
                [n * SUPERSAMPLING for n in stage.shape]
            )
            for index, deformation in ((first, fixed), (second, moving))
        ]
        same_contrast = draws.chance(self.same_contrast)
        contrast = draw_contrast(brain, self.look, draws)
        images = [render(labels[0], contrast, self.look, draws)]
        images.append(
            render(labels[1], contrast if same_contrast else draw_contrast(brain, self.look, draws), self.look, draws)
        )
        fixed_structures, moving_structures = (fractions(label, self.maps[first].structures) for label in labels)
        truth = displacement_between(fixed, moving) if first == second else None
        return SyntheticPair(torch.cat(images, dim=1), fixed_structures, moving_structures, truth, same_contrast)

    def _aligned(self, deformation: Deformation, first: int, second: int) -> Deformation:
        """The deformation of map number `first` for `second`, whose brain is aligned linearly with the first one's."""
        for index in (first, second):
            if index not in self._halves:
                self._halves[index] = halves(self.maps[index])
        turn, shift = affine_between(self._halves[first], self._halves[second])
        matrix, shift = turn.to(deformation.matrix), shift.to(deformation.matrix)
        return replace(deformation, matrix=matrix @ deformation.matrix, shift=matrix @ deformation.shift + shift)

    def labels_at(self, index: int, points: Tensor, stripped: bool) -> Tensor:
        """Labels (N,) int64 of map number `index` at `points` (3, N), mm from its middle; 0 outside of it."""
        if index not in self._on_device:
            self._on_device[index] = torch.from_numpy(self.maps[index].labels).flatten().to(self.device)
        return labels_at(self.maps[index], self._on_device[index], points, stripped)


def labels_at(label_map: LabelMap, flat: Tensor, points: Tensor, stripped: bool) -> Tensor:
    """Labels (N,) int64 at `points` (3, N), mm from the map's middle; 0 outside of it.

    flat: the map's labels in a row, on the device of the points. stripped: nothing but the structures.
    """
    extent = torch.tensor(label_map.labels.shape, device=points.device).view(3, 1)
    place = torch.round(points / label_map.spacing + extent / 2).long()
    inside = ((place >= 0) & (place < extent)).all(0)
    place = torch.minimum(place.clamp_min(0), extent - 1)
    _, height, depth = label_map.labels.shape
    labels = flat[(place[0] * height + place[1]) * depth + place[2]] * inside
    if stripped:
        labels = labels * (labels <= label_map.structures)
    return labels.long()


def fractions(labels: Tensor, structures: int, supersampling: int = SUPERSAMPLING) -> Tensor:
    """How much of each voxel every structure fills, of labels on a grid so much finer: (1, L, I, J, K).

    Labels above `structures` count as background.
    """
    shape = [n // supersampling for n in labels.shape]
    voxel = torch.arange(shape[0] * shape[1] * shape[2], device=labels.device).view(1, 1, *shape)
    voxel = voxel.repeat_interleave(supersampling, 2).repeat_interleave(supersampling, 3)
    voxel = voxel.repeat_interleave(supersampling, 4)[0, 0]
    kept = labels * (labels <= structures)
    count = voxel.max().item() + 1
    counts = torch.bincount((kept * count + voxel).flatten(), minlength=int(count) * (structures + 1))
    return counts.view(structures + 1, *shape)[1:][None].float() / supersampling**3
