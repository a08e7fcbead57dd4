"""A head that nobody owns: a T1-like pair of volumes whose true displacement is known.

The anatomy is a set of level sets (signed distances in mm, negative inside) over a head's own RAS space, so it can be
evaluated at any point: the fixed volume samples it on its grid, the moving volume at the points that the true map sends
there. Nothing is interpolated on the way, so the truth is exact, whatever the two grids are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.phantom_anatomy import LABEL_NAMES, Array, Head, Waves

__all__ = ["LABEL_NAMES", "PhantomPair", "head_phantom_pair"]

# Right, anterior and superior extent of the fixed field of view, mm.
FIELD_OF_VIEW_MM = (192.0, 240.0, 192.0)
DEFAULT_SHAPE = (128, 160, 128)
# The non-linear part of the true map: wavelengths (mm) and how far each may move a point (mm, before the random signs
# and directions average them); the sum is rescaled to LARGEST_WARP_MM.
WARP_WAVELENGTHS_MM = (150.0, 120.0, 95.0, 75.0, 62.0, 52.0)
WARP_WEIGHTS = (5.0, 4.0, 3.0, 1.7, 1.1, 0.7)
LARGEST_WARP_MM = 10.0


@dataclass(frozen=True, eq=False)
class PhantomPair:
    """Two volumes of the same head, their label maps (values in LABEL_NAMES, 0 outside) and the truth between them.

    field: on the fixed grid, RAS mm, pull-back: the fixed point x lies at x + field(x) in the moving volume (the whole
    map, misalignment included).
    """

    fixed: Volume
    moving: Volume
    fixed_labels: Volume
    moving_labels: Volume
    field: DisplacementField


def head_phantom_pair(shape: tuple[int, int, int] = DEFAULT_SHAPE, seed: int = 0) -> PhantomPair:
    """A T1-like head and the same head deformed, turned and scanned on another grid.

    shape: (I, J, K) of the fixed volume; its voxels are cubes that make the head fill it (1.5 mm for the default).
    seed: another seed is another head with another deformation.
    Raises InputError if the shape is too small to show a head.
    """
    if len(shape) != 3 or min(shape) < 16:
        raise InputError(f"The phantom needs at least 16 voxels along each axis, got {tuple(shape)}.")
    random = np.random.default_rng(seed)
    spacing = max(extent / n for extent, n in zip(FIELD_OF_VIEW_MM, shape, strict=True))
    fixed_grid = _grid_around(np.zeros(3), np.eye(3), (spacing,) * 3, shape)
    head = Head(random)
    truth = _TrueMap(random)

    moving_spacing = spacing * np.array([0.9, 0.9, 1.25])
    axes = _rotation(4.0, -6.0, 9.0) @ np.diag([-1.0, -1.0, 1.0])  # oblique, and stored from right to left as by DICOM
    moving_shape = tuple(
        int(np.ceil(1.03 * extent / s)) for extent, s in zip(FIELD_OF_VIEW_MM, moving_spacing, strict=True)
    )
    moving_grid = _grid_around(truth.forward(np.zeros((1, 3)))[0], axes, moving_spacing, moving_shape)

    back = truth.inverse_displacement(moving_grid)
    fixed, fixed_labels = head.scan(fixed_grid, None, random, gamma=1.0, noise=2.5, bias=0.12)
    moving, moving_labels = head.scan(moving_grid, back, random, gamma=0.9, noise=3.0, bias=0.18)
    field = truth.displacement(fixed_grid)
    return PhantomPair(
        Volume(fixed, fixed_grid.ijk_to_ras, "Sample head (fixed)"),
        Volume(moving, moving_grid.ijk_to_ras, "Sample head (moving)"),
        Volume(fixed_labels, fixed_grid.ijk_to_ras, "Sample structures (fixed)"),
        Volume(moving_labels, moving_grid.ijk_to_ras, "Sample structures (moving)"),
        DisplacementField(field, fixed_grid.ijk_to_ras),
    )


def _grid_around(
    centre: npt.NDArray, axes: npt.NDArray, spacing: Sequence[float] | npt.NDArray, shape: Sequence[int] | npt.NDArray
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = axes * np.asarray(spacing)
    affine[:3, 3] = centre - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    i, j, k = (int(n) for n in shape)
    return Grid((i, j, k), affine)


def _rotation(about_x: float, about_y: float, about_z: float) -> npt.NDArray[np.float64]:
    """Degrees about the three axes -> (3, 3)."""
    result = np.eye(3)
    for axis, degrees in enumerate((about_x, about_y, about_z)):
        turn = np.eye(3)
        c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
        a, b = (axis + 1) % 3, (axis + 2) % 3
        turn[[a, a, b, b], [a, b, a, b]] = c, -s, s, c
        result = turn @ result
    return result


class _TrueMap:
    """x -> A (x + v(x)): a smooth, invertible warp followed by an affine misalignment (RAS mm)."""

    def __init__(self, random: np.random.Generator) -> None:
        self.waves = [[Waves(random, wavelength, 3) for _ in range(3)] for wavelength in WARP_WAVELENGTHS_MM]
        self.gain = 1.0
        probe = np.stack(np.meshgrid(*[np.linspace(-75, 75, 13)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        self.gain = LARGEST_WARP_MM / float(np.linalg.norm(self.warp(probe), axis=1).max())
        self.affine = np.eye(4)
        shear = np.eye(3)
        shear[0, 1], shear[1, 2] = random.uniform(-0.03, 0.03, 2)
        size = np.diag(random.uniform(0.94, 1.06, 3))
        self.affine[:3, :3] = _rotation(*random.uniform(-7, 7, 3)) @ size @ shear
        self.affine[:3, 3] = random.uniform(-9, 9, 3)

    def warp(self, points: npt.NDArray) -> npt.NDArray[np.float64]:
        """v: (N, 3) mm -> (N, 3) mm."""
        total = np.zeros(points.shape)
        points = np.ascontiguousarray(points.T, dtype=np.float32)
        for waves, weight in zip(self.waves, WARP_WEIGHTS, strict=True):
            for axis in range(3):
                total[:, axis] += weight * waves[axis](points)
        return self.gain * total

    def forward(self, points: npt.NDArray) -> npt.NDArray[np.float64]:
        """Fixed RAS (N, 3) -> moving RAS (N, 3)."""
        return (points + self.warp(points)) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def displacement(self, grid: Grid) -> Array:
        """(3, I, J, K), mm. Evaluated every 5 mm and interpolated by cubic B-splines: the map is smooth."""
        return _interpolate(self._lattice(grid), grid, lambda points: self.forward(points) - points)

    def inverse_displacement(self, grid: Grid) -> Array:
        """What to add to a moving point to find it in the fixed space: (3, I, J, K), mm."""
        back = np.linalg.inv(self.affine)

        def solve(points: npt.NDArray) -> npt.NDArray[np.float64]:
            target = points @ back[:3, :3].T + back[:3, 3]
            guess = target.copy()
            for _ in range(30):  # the warp's gradient is well below one, so that this converges
                guess = target - self.warp(guess)
            return guess - points

        return _interpolate(self._lattice(grid), grid, solve)

    @staticmethod
    def _lattice(grid: Grid) -> Grid:
        """A coarse grid over `grid`, 5 mm, with a margin for the splines."""
        spacing = np.maximum(5.0, grid.spacing)
        shape = np.ceil(np.array(grid.shape) * grid.spacing / spacing).astype(int) + 4
        return _grid_around(grid.centre, grid.ijk_to_ras[:3, :3] / grid.spacing, spacing, shape)


def _interpolate(lattice: Grid, grid: Grid, function: Callable[[npt.NDArray], npt.NDArray]) -> Array:
    """Values of `function` ((N, 3) -> (N, 3)) on `lattice`, by cubic B-splines on `grid`: (3, I, J, K).

    Both grids share axes and centre, so the splines are separable: three small matrix products.
    """
    values = function(lattice.points().reshape(-1, 3)).reshape(*lattice.shape, 3)
    for axis in range(3):
        ratio = grid.spacing[axis] / lattice.spacing[axis]
        positions = (np.arange(grid.shape[axis]) - (grid.shape[axis] - 1) / 2) * ratio + (lattice.shape[axis] - 1) / 2
        values = np.moveaxis(
            np.tensordot(_spline_matrix(positions, lattice.shape[axis]), values, axes=(1, axis)), 0, axis
        )
    return np.ascontiguousarray(np.moveaxis(values, -1, 0), dtype=np.float32)


def _spline_matrix(positions: npt.NDArray, count: int) -> npt.NDArray[np.float64]:
    """(M, count): samples -> values of the interpolating cubic B-spline at `positions` (in samples)."""

    def basis(at: npt.NDArray) -> npt.NDArray[np.float64]:
        distance = np.abs(at[:, None] - np.arange(count))
        near = 2 / 3 - distance**2 + distance**3 / 2
        far = (2 - distance).clip(0) ** 3 / 6
        return np.where(distance < 1, near, far)

    return basis(positions) @ np.linalg.inv(basis(np.arange(count, dtype=float)))
