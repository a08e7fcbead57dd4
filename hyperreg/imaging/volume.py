"""Grids, volumes and displacement fields: arrays with a place in space (RAS, mm)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError

FloatArray = npt.NDArray[np.floating]

# Two grids are the same if no corner moves by more than this, or than this share of a small voxel: far below any voxel,
# far above float32 headers.
GRID_TOLERANCE_MM = 1e-3
GRID_TOLERANCE_VOXELS = 0.01
SMALLEST_SPACING_MM = 1e-9
# Numbers of an affine whose products stay exact enough to be looked at.
LARGEST_NUMBER = 1e15
# Cosine between two axes above which an affine counts as sheared (0.3 degrees off a right angle).
SHEAR_TOLERANCE = 5e-3


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxels in space.

    shape: (I, J, K) voxel counts, in the order of the columns of `ijk_to_ras`.
    ijk_to_ras: (4, 4) float64; maps the centre of voxel (i, j, k) to RAS mm.
    Raises InputError for a shape or affine that describes no right-angled grid.
    """

    shape: tuple[int, int, int]
    ijk_to_ras: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        affine = np.array(self.ijk_to_ras, dtype=np.float64)
        # Not true for NaN either. What fits into a computer, but not into the world, is for `plausibility` to name.
        usable = affine.shape == (4, 4) and bool((np.abs(affine) < LARGEST_NUMBER).all())
        if not usable or not np.allclose(affine[3], (0, 0, 0, 1)):
            raise InputError("The image's position in space (its affine) is not a finite 4x4 matrix; re-export it.")
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise InputError(f"Expected a 3D image, got the shape {self.shape}.")
        columns = affine[:3, :3]
        spacing = np.linalg.norm(columns, axis=0)
        if spacing.min() < SMALLEST_SPACING_MM:
            raise InputError("The image has a voxel size of zero; its header is damaged. Re-export it.")
        directions = columns / spacing
        if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR_TOLERANCE:
            raise InputError(
                "The image's axes are not at right angles (sheared affine, as from a tilted CT gantry or an affine "
                "registration). Resample it to a straight grid first, or harden the transform that shears it."
            )
        affine.setflags(write=False)
        object.__setattr__(self, "ijk_to_ras", affine)
        object.__setattr__(self, "shape", shape)

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        """Voxel size along i, j, k: (3,), mm."""
        return np.linalg.norm(self.ijk_to_ras[:3, :3], axis=0)

    @property
    def ras_to_ijk(self) -> npt.NDArray[np.float64]:
        """(4, 4) inverse of `ijk_to_ras`."""
        return np.asarray(np.linalg.inv(self.ijk_to_ras), dtype=np.float64)

    @property
    def centre(self) -> npt.NDArray[np.float64]:
        """RAS mm of the middle of the grid: (3,)."""
        return self.to_ras((np.array(self.shape) - 1) / 2)

    @property
    def corners(self) -> npt.NDArray[np.float64]:
        """RAS mm of the centres of the eight corner voxels: (8, 3)."""
        ends = [(0, n - 1) for n in self.shape]
        return self.to_ras(np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3))

    def to_ras(self, ijk: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(..., 3) voxel indices to (..., 3) RAS mm."""
        return np.asarray(ijk, dtype=np.float64) @ self.ijk_to_ras[:3, :3].T + self.ijk_to_ras[:3, 3]

    def to_ijk(self, ras: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """(..., 3) RAS mm to (..., 3) continuous voxel indices."""
        inverse = self.ras_to_ijk
        return np.asarray(ras, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]

    def points(self) -> npt.NDArray[np.float64]:
        """RAS mm of every voxel centre: (I, J, K, 3)."""
        return self.to_ras(np.moveaxis(np.indices(self.shape, dtype=np.float64), 0, -1))

    def matches(self, other: Grid) -> bool:
        """Whether both grids have the same voxels in the same places (within GRID_TOLERANCE_...)."""
        tolerance = min(GRID_TOLERANCE_MM, GRID_TOLERANCE_VOXELS * float(self.spacing.min()))
        return self.shape == other.shape and bool(np.abs(self.corners - other.corners).max() <= tolerance)


def spatial_sizes(sizes: Sequence[int], name: str) -> tuple[int, int, int]:
    """The sizes of the one 3D image among those of all axes of a file. Raises InputError for none or several."""
    if len(sizes) < 3:
        raise InputError(
            f"'{name}' is a {len(sizes)}D image; HyperReg takes 3D images. Give a volume or a DICOM series folder."
        )
    if max(sizes[3:], default=1) > 1:
        raise InputError(
            f"'{name}' is a {len(sizes)}D image with {math.prod(sizes[3:])} volumes (time points or channels); "
            "HyperReg takes one 3D image per file. Export the volume you want as a file of its own."
        )
    return sizes[0], sizes[1], sizes[2]


@dataclass(frozen=True, eq=False)
class Volume:
    """A scalar image or label map with its geometry.

    array: (I, J, K), in the order of the columns of `ijk_to_ras`; any real dtype.
    ijk_to_ras: (4, 4), mm; see `Grid`.
    name: what messages call it. warnings: what was odd about its file, in words for the user.
    Raises InputError if the array is not 3D or the affine is unusable.
    """

    array: npt.NDArray
    ijk_to_ras: npt.NDArray[np.float64]
    name: str = "image"
    warnings: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.array.ndim != 3:
            raise InputError(f"'{self.name}' has {self.array.ndim} dimensions; HyperReg takes 3D scalar images.")
        try:
            grid = Grid(self.array.shape, self.ijk_to_ras)
        except InputError as error:
            raise InputError(f"'{self.name}' cannot be used. {error}") from error
        object.__setattr__(self, "ijk_to_ras", grid.ijk_to_ras)

    @property
    def shape(self) -> tuple[int, int, int]:
        i, j, k = self.array.shape
        return i, j, k

    @property
    def grid(self) -> Grid:
        return Grid(self.shape, self.ijk_to_ras)

    @property
    def spacing(self) -> npt.NDArray[np.float64]:
        return self.grid.spacing


@dataclass(frozen=True, eq=False)
class DisplacementField:
    """A displacement per voxel of a grid, in RAS mm, pull-back: the point x of the grid's space maps to x + u(x).

    array: (3, I, J, K) float32, RAS mm. Between voxels it is interpolated linearly, outside the grid it is zero.
    ijk_to_ras: (4, 4), mm; see `Grid`.
    """

    array: npt.NDArray[np.float32]
    ijk_to_ras: npt.NDArray[np.float64]

    def __post_init__(self) -> None:
        if self.array.ndim != 4 or self.array.shape[0] != 3:
            raise InputError(f"A displacement field has the shape (3, I, J, K), not {self.array.shape}.")
        object.__setattr__(self, "ijk_to_ras", Grid(self.array.shape[1:], self.ijk_to_ras).ijk_to_ras)

    @property
    def grid(self) -> Grid:
        i, j, k = self.array.shape[1:]
        return Grid((i, j, k), self.ijk_to_ras)
