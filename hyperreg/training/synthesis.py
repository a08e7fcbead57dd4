"""Synthetic image pairs: one or two label maps, random deformations, random contrasts (SynthMorph, arXiv 2004.10282).

Both label maps of a pair are known, so training compares structures and never depends on the images' contrast.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from hyperreg.training.deformation import displacement_between, random_deformation, smooth_noise
from hyperreg.training.label_maps import LabelMap

# Images are made on a grid this much finer and averaged down: that is what gives partial volumes at tissue borders.
SUPERSAMPLING = 2
# White and grey matter, fluid, and deep nuclei between the first two, in the order of BRAIN_STRUCTURES.
T1_TISSUES = "wgfwgdggdffwggfgd"


@dataclass(frozen=True)
class SyntheticPair:
    """images: (1, 2, I, J, K) fixed and moving, 0..1; structures: two (1, L, I, J, K) maps of fractions per voxel.

    displacement: the true pull-back field (1, 3, I, J, K), voxels; None if the pair is made of two label maps.
    same_contrast: whether an intensity loss such as LNCC makes sense for this pair.
    """

    images: Tensor
    fixed_structures: Tensor
    moving_structures: Tensor
    displacement: Tensor | None
    same_contrast: bool


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
    """An endless series of random pairs, a torch data set: pair number n is always the same for a seed.

    So a run can be resumed and repeated, and pairs can be made in other processes.
    maps: label maps to draw from; pairs are of one kind ("brain", "shapes"), of one map or of two.
    stages: by number; the last one goes on for ever.
    """

    maps: Sequence[LabelMap]
    stages: Sequence[Stage]
    seed: int = 0
    two_maps: float = 0.5
    same_contrast: float = 0.6
    stripped: float = 0.6
    shapes: float = 0.3

    def uniform(self, low: float, high: float, *size: int) -> Tensor:
        return torch.rand(*size, generator=self.generator) * (high - low) + low

    def normal(self, *size: int) -> Tensor:
        return torch.randn(*size, generator=self.generator)

    def chance(self, probability: float) -> bool:
        return bool(self.uniform(0, 1, 1) < probability)

    def choose(self, maps: Sequence[LabelMap]) -> LabelMap:
        return maps[int(torch.randint(len(maps), (1,), generator=self.generator))]

    def __getitem__(self, number: int) -> SyntheticPair:
        self.generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        stage = next((stage for stage in self.stages if number < stage.until), self.stages[-1])
        self.shape = stage.shape
        brains = [m for m in self.maps if m.kind == "brain"]
        shapes = [m for m in self.maps if m.kind == "shapes"]
        brain = bool(brains) and (not shapes or not self.chance(self.shapes))
        first = second = self.choose(brains if brain else shapes)
        if brain and self.chance(self.two_maps):
            second = self.choose(brains)
        spacing = float(self.uniform(*stage.spacing, 1))
        stripped = self.chance(self.stripped)
        mirrored = self.chance(0.5)
        turn = self.normal(3) * 0.15
        deformations = [random_deformation(self.shape, spacing, turn, mirrored, self.generator) for _ in range(2)]
        labels = [
            self.labels_at(label_map, deformation.points(SUPERSAMPLING), stripped)
            for label_map, deformation in zip((first, second), deformations, strict=True)
        ]
        same_contrast = self.chance(self.same_contrast)
        contrast = self.contrast(256, brain)
        images = []
        for label in labels:
            images.append(self.image(label, contrast))
            if not same_contrast:
                contrast = self.contrast(256, brain)
        fixed, moving = (self.fractions(label, first.structures) for label in labels)
        truth = displacement_between(*deformations) if first is second else None
        return SyntheticPair(torch.cat(images, dim=1), fixed, moving, truth, same_contrast)

    def labels_at(self, label_map: LabelMap, points: Tensor, stripped: bool) -> Tensor:
        """Labels (I', J', K') of the fine grid whose voxels lie at `points` (3, N), mm from the map's middle."""
        extent = torch.tensor(label_map.labels.shape).view(3, 1)
        index = torch.round(points / label_map.spacing + extent / 2).long()
        inside = ((index >= 0) & (index < extent)).all(0)
        index = torch.minimum(index.clamp_min(0), extent - 1)
        _, height, depth = label_map.labels.shape
        flat = (index[0] * height + index[1]) * depth + index[2]
        labels = torch.from_numpy(label_map.labels).flatten()[flat] * inside
        if stripped and label_map.kind == "brain":
            labels = labels * (labels <= label_map.structures)
        return labels.view([n * SUPERSAMPLING for n in self.shape])

    def contrast(self, count: int, brain: bool) -> tuple[Tensor, Tensor]:
        """Mean and SD of the intensity per label: random, or for brains at times ordered as in a T1 image."""
        means = self.uniform(0.1, 1.0, count)
        if brain and self.chance(0.4):
            white, grey, fluid = (float(self.uniform(*bounds, 1)) for bounds in ((0.8, 1), (0.45, 0.75), (0.1, 0.3)))
            tissue = {"w": white, "g": grey, "f": fluid, "d": (white + grey) / 2}
            t1 = torch.tensor([tissue[letter] for letter in T1_TISSUES])
            means[1 : 1 + len(t1)] = t1 + self.normal(len(t1)) * 0.03
        means[0] = 0.0 if self.chance(0.8) else float(self.uniform(0, 0.3, 1))
        return means, self.uniform(0.01, 0.08, count)

    def image(self, labels: Tensor, contrast: tuple[Tensor, Tensor]) -> Tensor:
        """An image (1, 1, I, J, K) in 0..1 of fine labels: texture, partial volume, blur, bias field, noise, gamma."""
        means, spreads = contrast
        index = labels.long()
        means = means + self.normal(means.numel()) * 0.02
        image = (means[index] + spreads[index] * self.normal(*labels.shape))[None, None]
        if self.chance(0.3):
            image = self.thicken(image)
        image = F.avg_pool3d(image, SUPERSAMPLING)
        if self.chance(0.5):
            blurred = F.avg_pool3d(F.pad(image, (1,) * 6, mode="replicate"), 3, stride=1)
            image = blurred.lerp(image, float(self.uniform(0, 1, 1)))
        bias = smooth_noise(self.shape, max(self.shape) / 3, self.generator, channels=1)
        image = image * (bias * float(self.uniform(0, 0.25, 1))).exp()
        head = F.avg_pool3d((index > 0).float()[None, None], SUPERSAMPLING)
        noise = self.normal(*image.shape) * float(self.uniform(0, 0.04, 1))
        image = (image + noise * (head > 0)).clamp_min(0)
        top = torch.quantile(image[head > 0.5][::7], 0.99) if bool((head > 0.5).any()) else image.max()
        image = (image / top.clamp_min(1e-3)).clamp(0, 1)
        return image ** float(torch.exp(self.normal(1) * 0.2))

    def thicken(self, image: Tensor) -> Tensor:
        """Thick slices along a random axis: averaged and spread out again by linear interpolation."""
        axis = int(torch.randint(3, (1,), generator=self.generator))
        factor = int(torch.randint(2, 5, (1,), generator=self.generator))
        size = [factor if a == axis else 1 for a in range(3)]
        return F.interpolate(F.avg_pool3d(image, size), size=image.shape[2:], mode="trilinear", align_corners=False)

    def fractions(self, labels: Tensor, structures: int) -> Tensor:
        """How much of each voxel every structure fills: (1, L, I, J, K); other labels count as background."""
        kept = (labels * (labels <= structures)).long()
        one_hot = torch.zeros(structures + 1, kept.numel()).scatter_(0, kept.view(1, -1), 1.0)
        return F.avg_pool3d(one_hot[1:].view(1, structures, *labels.shape), SUPERSAMPLING)
