"""Label maps of one image on one grid: which one, and what comes there without being resampled. numpy only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume

# Places of voxels that differ by less than this share of a voxel are the same.
ALIGNED = 1e-3
# Label maps of one image do not need a grid of so many times the voxels of the largest of them.
MOST_GROWTH = 8


def offset_in(grid: Grid, other: Grid) -> npt.NDArray[np.int64] | None:
    """Where the first voxel of `other` lies among those of `grid`, (3,); None if their voxels do not coincide."""
    offset = grid.to_ijk(other.to_ras((0, 0, 0)))
    start = np.rint(offset)
    steps = grid.ras_to_ijk[:3, :3] @ other.ijk_to_ras[:3, :3]
    drift = np.abs(steps - np.eye(3)).max() * max(other.shape)
    return None if np.abs(offset - start).max() > ALIGNED or drift > 10 * ALIGNED else start.astype(np.int64)


def pasted(volume: Volume, grid: Grid) -> Volume:
    """The map in the frame of `grid`, 0 around it, if its voxels lie on those of `grid`; else as it is."""
    start = offset_in(grid, volume.grid)
    if start is None:
        return volume
    low, high = np.maximum(start, 0), np.minimum(start + np.array(volume.shape), grid.shape)
    if (high <= low).any():
        return volume
    array = np.zeros(grid.shape, dtype=volume.array.dtype)
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    array[target] = volume.array[source]
    return Volume(array, grid.ijk_to_ras, volume.name)


def covering(volume: Volume, grid: Grid) -> Volume | None:
    """The map in its own voxels, 0 around it, made large enough for all places of `grid`; None if that is far larger.

    Programs save segmentations cut to what is drawn: what is compared with them there is more than that.
    """
    index = np.rint(volume.grid.to_ijk(grid.corners)).astype(np.int64)
    low, high = np.minimum(index.min(axis=0), 0), np.maximum(index.max(axis=0) + 1, volume.shape)
    size = high - low
    most = MOST_GROWTH * max(np.prod(one.shape, dtype=float) for one in (volume.grid, grid))
    if float(np.prod(size, dtype=float)) > most:
        return None
    return pasted(volume, Grid((int(size[0]), int(size[1]), int(size[2])), _shifted(volume.ijk_to_ras, low)))


def common_grid(maps: Sequence[Volume]) -> Grid:
    """The grid of most of the maps, made larger where labels of others lie outside of it.

    Maps without any label do not count: some programs save them as one voxel somewhere. Among equally frequent grids
    the finer, then the larger one is taken: the order of the maps decides nothing. Raises InputError for maps that
    lie far from each other.
    """
    drawn = [volume for volume in maps if volume.array.any()] or list(maps)
    grids = [volume.grid for volume in drawn]

    def rank(grid: Grid) -> tuple[object, ...]:
        on_it = sum(offset_in(grid, other) is not None for other in grids)
        same = sum(grid.matches(other) for other in grids)
        voxel = round(float(grid.spacing.prod()), 6)
        return -on_it, voxel, -same, -int(np.prod(grid.shape)), grid.ijk_to_ras.round(4).ravel().tolist()

    grid = min(grids, key=rank)
    low, high = np.zeros(3, np.int64), np.array(grid.shape)
    for volume in drawn:
        inside = np.argwhere(volume.array != 0)
        if not len(inside) or volume.grid.matches(grid):
            continue
        box = Grid(tuple(np.ptp(inside, axis=0) + 1), _shifted(volume.ijk_to_ras, inside.min(axis=0)))
        corners = np.rint(grid.to_ijk(box.corners)).astype(np.int64)
        low, high = np.minimum(low, corners.min(axis=0)), np.maximum(high, corners.max(axis=0) + 1)
    size = high - low
    if float(np.prod(size, dtype=float)) > MOST_GROWTH * max(np.prod(one.shape, dtype=float) for one in grids):
        raise InputError(
            "The label maps lie far from each other in space: they are not of one image, or one of them has lost its "
            "place (" + ", ".join(f"'{volume.name}'" for volume in drawn[:8]) + ")."
        )
    return Grid((int(size[0]), int(size[1]), int(size[2])), _shifted(grid.ijk_to_ras, low))


def _shifted(ijk_to_ras: npt.NDArray[np.float64], first: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """The affine of a grid that begins at the voxel `first`."""
    affine = ijk_to_ras.copy()
    affine[:3, 3] += affine[:3, :3] @ first
    return affine
