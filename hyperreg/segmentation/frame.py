"""How an image is shown to a model, and how what the model says comes back to the image's own voxels.

Axes are turned, not resampled; a constant border is cut off; voxel sizes are changed only where the model knows
another one. Whatever is done, is done once, and undone exactly.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import DIRECTIONS, SLICES_LAST, SegmentationCard

# Voxel sizes that differ by less are the same: no image is blurred for a hundredth of a millimetre.
SAME_SPACING = 0.02
# Left around the content where a constant border is cut off, mm.
MARGIN_MM = 10.0
# Slices count as thick if they are so much thicker than the voxels are wide.
THICK = 1.2

Triple = tuple[int, int, int]
Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Frame:
    """The way from an image's grid to a model's and back.

    image: the image's own grid. axes, signs: turned axis n is the image's axis axes[n], reversed if signs[n] is -1.
    turned: the image's grid with its axes turned: the same voxels. box: the part of it that is looked at, and its grid.
    model: the grid that the network sees; the same object as `part` where nothing needs resampling.
    """

    image: Grid
    axes: Triple
    signs: Triple
    turned: Grid
    box: Box
    part: Grid
    model: Grid

    @property
    def is_resampled(self) -> bool:
        """Whether the model sees other voxels than the image's."""
        return self.model is not self.part

    def shown(self, volume: Volume, transform: Transform | None = None) -> npt.NDArray:
        """A volume on any grid, as the network sees it: (I, J, K) of `model`. Resampled once, or not at all.

        transform: from the image's RAS points to the volume's, where they are not aligned.
        """
        if transform is None and not self.is_resampled and volume.grid.matches(self.image):
            return np.ascontiguousarray(self._turn(volume.array)[self.box])
        return resample_smoothed(volume, self.model, transform).array

    def to_part(self, values: npt.NDArray[np.float32], boxes: tuple[Box, Box] | None = None) -> npt.NDArray[np.float32]:
        """Values on `model` to values on `part`, linearly; untouched where both are the same.

        boxes: of `boxes`, where the values are those of a box of the model's grid, and only that of the part is wanted.
        """
        if not self.is_resampled:
            return values
        model, part = self.model, self.part
        if boxes is not None:
            model, part = _part(model, boxes[0]), _part(part, boxes[1])
        # The model's grid reaches at least as far as the part: nothing is filled in.
        return resample(Volume(values, model.ijk_to_ras), part).array

    def boxes(self, box: Box) -> tuple[Box, Box]:
        """Of `model`, and of `part`, what the voxels of a box of the model have any weight for."""
        if not self.is_resampled:
            return box, box
        ends = np.array(self.model.shape) - 1
        low = np.maximum([side.start - 1 for side in box], 0)
        high = np.minimum([side.stop for side in box], ends)
        # Both grids have the same directions. What lies beyond the outermost centres has the value there.
        begin, step = self.model.to_ijk(self.part.to_ras((0, 0, 0))), self.part.spacing / self.model.spacing
        start = np.where(low == 0, 0, np.ceil((low - begin) / step - 1e-6))
        stop = np.where(high == ends, self.part.shape, np.floor((high - begin) / step + 1e-6) + 1)
        return _box(low, high + 1), _box(start, stop)

    def to_image(self, values: npt.NDArray, name: str, background: float = 0) -> Volume:
        """Values on `part` to a volume on the image's grid: `background` outside of the box, axes as they were."""
        whole = np.full(self.turned.shape, background, dtype=values.dtype)
        whole[self.box] = values
        flipped = whole[_steps(self.signs)]
        back = np.empty(3, dtype=int)
        back[list(self.axes)] = range(3)
        return Volume(np.ascontiguousarray(flipped.transpose(back)), self.image.ijk_to_ras, name)

    def _turn(self, array: npt.NDArray) -> npt.NDArray:
        return array.transpose(self.axes)[_steps(self.signs)]


def make_frame(volume: Volume, card: SegmentationCard) -> Frame:
    """The frame in which a model looks at an image."""
    axes, signs = closest_axes(volume.ijk_to_ras)
    if card.axes == SLICES_LAST:
        axes, signs = _slices_last(volume.spacing, axes, signs)
    else:
        ways = [DIRECTIONS[letter] for letter in card.axes]
        axes = _triple(axes[along] for along, _ in ways)
        signs = _triple(signs[along] * sign for along, sign in ways)
    turned = _turned(volume.grid, axes, signs)
    array = volume.array.transpose(axes)[_steps(signs)]
    box = _content(array, turned.spacing)
    part = _part(turned, box)
    return Frame(volume.grid, axes, signs, turned, box, part, _model_grid(part, card.spacing_mm))


def box_of(mask: npt.NDArray[np.bool_]) -> Box:
    """The smallest box around what is marked; of no voxels for nothing."""
    ends = []
    for axis in range(3):
        others: tuple[int, ...] = tuple(n for n in range(3) if n != axis)
        where = np.flatnonzero(mask.any(axis=others))
        ends.append(slice(int(where[0]), int(where[-1]) + 1) if where.size else slice(0, 0))
    i, j, k = ends
    return i, j, k


def overlap(frame: Frame, other: Grid, transform: Transform | None = None) -> float:
    """The share of the part that is looked at which lies inside another grid, 0 to 1; see `Frame.shown`."""
    lattice = [np.linspace(0, n - 1, 9) for n in frame.part.shape]
    points = frame.part.to_ras(np.stack(np.meshgrid(*lattice, indexing="ij"), axis=-1)).reshape(-1, 3)
    if transform is not None:
        points = transform.apply(points)
    index = other.to_ijk(points)
    inside = (index >= -0.5) & (index <= np.array(other.shape) - 0.5)
    return float(inside.all(axis=-1).mean())


def _triple(values: Iterable[int]) -> Triple:
    i, j, k = values
    return i, j, k


def _box(start: Iterable[float], stop: Iterable[float]) -> Box:
    i, j, k = (slice(int(low), int(high)) for low, high in zip(start, stop, strict=True))
    return i, j, k


def _steps(signs: Triple) -> Box:
    i, j, k = (slice(None, None, sign) for sign in signs)
    return i, j, k


def _slices_last(spacing: npt.NDArray[np.float64], axes: Triple, signs: Triple) -> tuple[Triple, Triple]:
    """The axis of the thick slices goes to the end; without thick slices, the one along the body is there already."""
    sizes = spacing[list(axes)]
    thick = int(sizes.argmax())
    if sizes[thick] < THICK * np.median(sizes):
        return axes, signs
    a, b, c = (*(n for n in range(3) if n != thick), thick)
    return (axes[a], axes[b], axes[c]), (signs[a], signs[b], signs[c])


def _turned(grid: Grid, axes: Triple, signs: Triple) -> Grid:
    first = np.zeros(3)
    for axis, sign in zip(axes, signs, strict=True):
        first[axis] = 0 if sign > 0 else grid.shape[axis] - 1
    affine = np.eye(4)
    affine[:3, :3] = grid.ijk_to_ras[:3, list(axes)] * np.array(signs)
    affine[:3, 3] = grid.to_ras(first)
    i, j, k = (grid.shape[axis] for axis in axes)
    return Grid((i, j, k), affine)


def _content(array: npt.NDArray, spacing: npt.NDArray[np.float64]) -> Box:
    """What is not a border of one value, and MARGIN_MM around it."""
    content = box_of(array != array[0, 0, 0])
    if content[0].stop == 0:
        return _box((0, 0, 0), array.shape)
    margins = [int(np.ceil(MARGIN_MM / size - 1e-6)) for size in spacing]
    return _box(
        [max(0, side.start - margin) for side, margin in zip(content, margins, strict=True)],
        [min(size, s.stop + margin) for s, margin, size in zip(content, margins, array.shape, strict=True)],
    )


def _part(grid: Grid, box: Box) -> Grid:
    affine = grid.ijk_to_ras.copy()
    affine[:3, 3] = grid.to_ras([side.start for side in box])
    i, j, k = (side.stop - side.start for side in box)
    return Grid((i, j, k), affine)


def _model_grid(part: Grid, wanted: tuple[float | None, float | None, float | None]) -> Grid:
    """A grid along the part's axes with the wanted voxel sizes, around the same middle, reaching at least as far."""
    own = part.spacing
    spacing = np.array(
        [
            have if want is None or abs(want - have) <= SAME_SPACING * have else want
            for want, have in zip(wanted, own, strict=True)
        ]
    )
    if np.array_equal(spacing, own):
        return part
    shape = np.maximum(1, np.ceil(np.array(part.shape) * own / spacing - 1e-6)).astype(int)
    affine = np.eye(4)
    affine[:3, :3] = part.ijk_to_ras[:3, :3] / own * spacing
    affine[:3, 3] = part.centre - affine[:3, :3] @ ((shape - 1) / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)
