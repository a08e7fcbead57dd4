"""Label maps to synthesise images from: random shapes, and brains from files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_label_map
from hyperreg.imaging.orientation import to_closest_ras
from hyperreg.imaging.volume import Volume

# FreeSurfer numbers of one structure on both sides. SynthSeg's maps have their own numbers for the choroid plexus.
BRAIN_STRUCTURES: tuple[tuple[int, ...], ...] = (
    (2, 41, 25, 57, 77, 80, 251, 252, 253, 254, 255, 85, 30, 62),  # cerebral white matter, its lesions, corpus callosum
    (3, 42),  # cerebral cortex
    (4, 43, 5, 44, 31, 63, 136, 137, 163, 164, 72),  # lateral ventricle, choroid plexus
    (7, 46),  # cerebellar white matter
    (8, 47),  # cerebellar cortex
    (10, 49),  # thalamus
    (11, 50),  # caudate
    (12, 51),  # putamen
    (13, 52),  # pallidum
    (14,),  # third ventricle
    (15,),  # fourth ventricle
    (16,),  # brain stem
    (17, 53),  # hippocampus
    (18, 54),  # amygdala
    (24,),  # cerebrospinal fluid
    (26, 58),  # accumbens
    (28, 60),  # ventral diencephalon
)
# Those of them that lie on one side.
LEFT = (2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 17, 18, 25, 26, 28, 30, 31, 136, 137)
RIGHT = (41, 42, 43, 44, 46, 47, 49, 50, 51, 52, 53, 54, 57, 58, 60, 62, 63, 163, 164)


@dataclass(frozen=True)
class LabelMap:
    """labels: (I, J, K) uint8, axes to RAS, contiguous; spacing in mm. numpy, so that it travels to other processes.
    right: (I, J, K) bool, the right half of the body; None where the labels do not tell.

    structures: labels 1..structures mean the same thing in every map of this kind; higher ones are whatever lies around
    (skull, skin) and are never compared between two maps.
    """

    labels: npt.NDArray[np.uint8]
    spacing: float
    structures: int
    kind: str
    right: npt.NDArray[np.bool_] | None = None


def random_shapes(
    generator: torch.Generator,
    size: int = 112,
    spacing: float = 1.5,
    count: int = 16,
    scales: Sequence[int] = (8, 16, 32),
) -> LabelMap:
    """Labels of random smooth shapes: the largest of `count` multi-scale noise images (SynthMorph, arXiv 2004.10282).

    scales: of the noise, voxels. Around half of the maps are cut to a random blob, so that they have a background as
    organs have.
    """

    def noise(channels: int, scales: Sequence[int]) -> Tensor:
        total = torch.zeros(1, channels, size, size, size)
        for scale in scales:
            low = torch.randn(1, channels, *(3 * (max(2, size // scale),)), generator=generator)
            total += F.interpolate(low, size=(size,) * 3, mode="trilinear", align_corners=True) * scale**0.5
        return total[0]

    labels = noise(count, scales).argmax(0) + 1
    if torch.rand(1, generator=generator) < 0.5:
        radius = torch.linspace(-1, 1, size).square()
        ball = (radius[:, None, None] + radius[None, :, None] + radius[None, None, :]).sqrt()
        labels[ball + 0.08 * noise(1, (24, 40))[0] > 0.8] = 0
    return LabelMap(labels.to(torch.uint8).numpy(), spacing, count, "shapes")


def brain_from_file(path: Path) -> LabelMap:
    """A FreeSurfer-style label map: the structures of BRAIN_STRUCTURES, and every other non-zero label after them.

    Reads what `hyperreg.imaging.files` reads, and VoxelMorph's .npz with an array `seg` (L, I, A axes, 1 mm).
    Raises InputError if the voxels are not of one size or no structure is found.
    """
    if path.suffix == ".npz":
        array = np.load(path, allow_pickle=False)["seg"].astype(np.int32)
        volume = Volume(
            array, np.array([[-1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]], dtype=float), path.name
        )
    else:
        volume = read_label_map(path)
    spacing = volume.spacing
    if np.ptp(spacing) > 0.01:
        raise InputError(f"Label map '{path.name}' has voxels of {spacing.round(3)} mm; resample it to one voxel size.")
    array = to_closest_ras(volume.array, volume.ijk_to_ras)
    table = np.zeros(max(int(array.max()), 1) + 1, dtype=np.uint8)
    for index, numbers in enumerate(BRAIN_STRUCTURES, start=1):
        for number in numbers:
            if number < table.size:
                table[number] = index
    others = [n for n in np.unique(array) if n > 0 and table[n] == 0]
    for index, number in enumerate(others, start=len(BRAIN_STRUCTURES) + 1):
        table[number] = index
    labels = table[array]
    inside = np.argwhere((labels > 0) & (labels <= len(BRAIN_STRUCTURES)))
    if inside.size == 0:
        raise InputError(f"'{path.name}' has none of the FreeSurfer brain labels that training expects.")
    # The brain in the middle, so that random turns are about it; far-away neck and shoulders are cut.
    low = np.maximum(inside.min(0) - 30, 0)
    high = inside.max(0) + 30
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    cut, right = np.ascontiguousarray(labels[box]), _right_half(array[box])
    return LabelMap(cut, float(spacing[0]), len(BRAIN_STRUCTURES), "brain", right)


def _right_half(numbers: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_] | None:
    """Where what is numbered as right is nearer than what is numbered as left: the corpus callosum, say, has no side.

    None for a map that does not tell the sides apart.
    """
    left, right = (np.isin(numbers, side) for side in (LEFT, RIGHT))
    if not (left.any() and right.any()):
        return None
    to_left, to_right = (
        sitk.GetArrayFromImage(
            sitk.SignedMaurerDistanceMap(sitk.GetImageFromArray(side.astype(np.uint8)), False, False)
        )
        for side in (left, right)
    )
    nearer: npt.NDArray[np.bool_] = to_right < to_left
    return nearer


def halves(label_map: LabelMap) -> Tensor:
    """The centres of the left and of the right half of every structure, mm from the map's middle: (L, 2, 3); NaN for
    one that is not there."""
    labels = label_map.labels
    found = np.full((label_map.structures, 2, 3), np.nan, dtype=np.float32)
    for index in range(label_map.structures):
        places = np.argwhere(labels == index + 1)
        if len(places):
            left = places[:, 0] < np.median(places[:, 0])
            for side, half in enumerate((places[left], places[~left])):
                if len(half):
                    found[index, side] = (half.mean(0) + 0.5 - np.array(labels.shape) / 2) * label_map.spacing
    return torch.from_numpy(found)


def affine_between(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The affine map of a brain's `halves` onto another's, by least squares: matrix (3, 3) and shift (3, 1), mm."""
    both = torch.isfinite(first).all(-1) & torch.isfinite(second).all(-1)
    start = torch.cat((first[both], torch.ones(int(both.sum()), 1)), dim=1)
    found = torch.linalg.lstsq(start.double(), second[both].double()).solution.T.float()
    return found[:, :3], found[:, 3:]
