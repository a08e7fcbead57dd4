"""Targets and their label maps as a small network learns from them: cropped to the labels, coarser where needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.fusion.stack import LabelStack
from hyperreg.imaging.intensity import normalise
from hyperreg.imaging.orientation import closest_axes, closest_directions
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.volume import Grid, Volume

# Sizes of the samples are multiples of this: every network here halves at most three times.
MULTIPLE = 8
# Augmentation: largest turn (rad), zoom, shift (share of the size), SD of the smooth displacement (share of the size)
# at so many points per axis, of the noise, and of gain and offset; intensities have SD 1.
TURN, ZOOM, SHIFT, BEND, POINTS, NOISE, GAIN = 0.15, 0.1, 0.05, 0.02, 5, 0.1, 0.1


@dataclass(frozen=True, eq=False)
class LabelledTarget:
    """An image, and the label maps that atlases (or readers) gave it: one sample for each of these."""

    name: str
    image: Volume
    stack: LabelStack


@dataclass(frozen=True, eq=False)
class Samples:
    """What the network sees, in two dimensions if the targets are single slices.

    grids: of each target, with axes closest to R, A, S. images: (1, *sizes) float32, mean 0 and SD 1. labels: for each
    target (A, *sizes) uint8 or int16, the position in `classes`; classes: (L,) label values, 0 first.
    flat: the axis of `grids` that has one voxel, or None.
    """

    grids: tuple[Grid, ...]
    images: tuple[Tensor, ...]
    labels: tuple[Tensor, ...]
    classes: npt.NDArray[np.int64]
    flat: int | None

    @property
    def dims(self) -> int:
        return 3 if self.flat is None else 2

    @property
    def offsets(self) -> list[int]:
        """The number of the first sample of each target, and of all samples."""
        return [0, *np.cumsum([len(labels) for labels in self.labels]).tolist()]

    def to(self, device: str) -> Samples:
        images, labels = (tuple(part.to(device) for part in parts) for parts in (self.images, self.labels))
        return Samples(self.grids, images, labels, self.classes, self.flat)


def make_samples(
    targets: Sequence[LabelledTarget],
    labels: Sequence[int] | None = None,
    spacing_mm: float | None = None,
    most_voxels: int = 40**3,
    margin_mm: float = 10.0,
) -> Samples:
    """Cut the targets to boxes of one size around all their labels.

    labels: only these count, the others are background; None: all. spacing_mm: voxel size of the samples; None: as the
    targets', or as much coarser as `most_voxels` needs. margin_mm: left around the labels.
    Raises InputError without targets, without any of the labels, or for slices among volumes.
    """
    if not targets:
        raise InputError("No target was given.")
    values = np.unique(np.concatenate([target.stack.labels for target in targets]))
    chosen = values[values != 0] if labels is None else np.intersect1d(values, [n for n in labels if n != 0])
    if not chosen.size:
        what = "any label" if labels is None else f"one of the labels {', '.join(str(n) for n in labels)}"
        raise InputError(f"No label map of any target has {what}: there is nothing to learn from.")
    flats = {_flat_axis(target.stack.grid) for target in targets}
    if len(flats) > 1:
        raise InputError("Single slices of one direction, or volumes: they cannot be learned from together.")
    flat = flats.pop()
    boxes = [_box(target, chosen) for target in targets]
    extents = np.max([extent for _centre, extent in boxes], axis=0) + 2 * margin_mm
    finest = np.min([_directed_spacing(target.stack.grid) for target in targets], axis=0)
    deep = [axis for axis in range(3) if axis != flat]
    spacing = finest.copy()
    spacing[deep] = spacing_mm or max(finest[deep].min(), (extents[deep].prod() / most_voxels) ** (1 / len(deep)))
    shape = [1 if n == flat else max(2, int(np.ceil(extents[n] / spacing[n] / MULTIPLE))) * MULTIPLE for n in range(3)]
    classes = np.concatenate(([0], chosen)).astype(np.int64)
    grids, images, maps = [], [], []
    for target, (centre, _extent) in zip(targets, boxes, strict=True):
        grid = _grid(target.stack.grid, centre, spacing, shape)
        scaled = Volume(normalise(target.image.array), target.image.ijk_to_ras, target.name)
        image = torch.from_numpy(resample_smoothed(scaled, grid).array.astype(np.float32))
        grids.append(grid)
        images.append(_without(flat, (image - image.mean()) / image.std(correction=0).clamp(min=1e-6))[None])
        maps.append(torch.stack([_without(flat, torch.from_numpy(m)) for m in _maps(target.stack, grid, classes)]))
    return Samples(tuple(grids), tuple(images), tuple(maps), classes, flat)


def augmented(image: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The same random affine and smooth deformation of both, and another contrast and noise of the image.

    image: (1, *sizes). labels: (A, *sizes); nearest neighbour, background beyond the border.
    """
    sizes, dims, device = image.shape[1:], image.ndim - 1, image.device
    steps = torch.randn(dims, dims, generator=generator)
    matrix = torch.matrix_exp(TURN * (steps - steps.T) / 2)
    scale = 1 + ZOOM * (2 * torch.rand(1, generator=generator) - 1)
    shift = SHIFT * torch.randn(dims, 1, generator=generator)
    points = F.affine_grid(torch.cat([matrix * scale, shift], dim=1)[None], [1, 1, *sizes], align_corners=False)
    bend = torch.randn(1, dims, *[POINTS] * dims, generator=generator) * (2 * BEND)
    mode = "bilinear" if dims == 2 else "trilinear"
    points = points + F.interpolate(bend, size=sizes, mode=mode, align_corners=True).movedim(1, -1)
    points = points.to(device)
    moved = F.grid_sample(image[None], points, "bilinear", "border", align_corners=False)[0]
    gain, offset = (GAIN * torch.randn(2, generator=generator)).tolist()
    noise = torch.randn(moved.shape, generator=generator).to(device) * NOISE
    maps = F.grid_sample(labels[None].float(), points, "nearest", "zeros", align_corners=False)[0]
    return moved * (1 + gain) + offset + noise, maps.long()


def _flat_axis(grid: Grid) -> int | None:
    """Which of R, A, S has a single voxel; None if none has."""
    axes, _signs = closest_axes(grid.ijk_to_ras)
    shape = [grid.shape[axis] for axis in axes]
    return shape.index(1) if 1 in shape else None


def _directed_spacing(grid: Grid) -> npt.NDArray[np.float64]:
    """Voxel size along the axes closest to R, A, S."""
    return grid.spacing[list(closest_axes(grid.ijk_to_ras)[0])]


def _box(target: LabelledTarget, labels: npt.NDArray) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """RAS mm of the middle, and extent along the axes closest to R, A, S in mm, of the box around some labels; of the
    whole image if it has none of them.
    """
    grid = target.stack.grid
    codes = np.flatnonzero(np.isin(target.stack.labels, labels))
    table = np.zeros(len(target.stack.labels), dtype=bool)
    table[codes] = True
    anywhere = np.zeros(grid.shape, dtype=bool)
    for rater in target.stack.codes:
        anywhere |= table[rater]
    if not anywhere.any():
        anywhere[...] = True
    ends = [np.flatnonzero(anywhere.any(axis=tuple(n for n in range(3) if n != axis)))[[0, -1]] for axis in range(3)]
    low, high = (np.array([end[side] for end in ends], dtype=np.float64) for side in (0, 1))
    order = list(closest_axes(grid.ijk_to_ras)[0])
    return grid.to_ras((low + high) / 2), ((high - low + 1) * grid.spacing)[order]


def _grid(
    target: Grid, centre: npt.NDArray[np.float64], spacing: npt.NDArray[np.float64], shape: Sequence[int]
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = closest_directions(target.ijk_to_ras) * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid((shape[0], shape[1], shape[2]), affine)


def _maps(stack: LabelStack, grid: Grid, classes: npt.NDArray[np.int64]) -> list[npt.NDArray]:
    """Every rater's labels on a grid, as positions in `classes`."""
    places = np.searchsorted(classes[1:], stack.labels) + 1
    known = np.isin(stack.labels, classes[1:])
    table = np.where(known, places, 0).astype(np.uint8 if len(classes) <= 255 else np.int16)
    return [
        resample(Volume(table[codes], stack.ijk_to_ras, name), grid, interpolation="nearest").array
        for codes, name in zip(stack.codes, stack.names, strict=True)
    ]


def _without(flat: int | None, image: Tensor) -> Tensor:
    return image if flat is None else image.squeeze(flat)
