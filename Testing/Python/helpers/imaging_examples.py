"""Grids, images and fields with which the geometry tests work: oblique, anisotropic, left-handed."""

from __future__ import annotations

import numpy as np

from hyperreg.imaging.volume import DisplacementField, Grid, Volume


def rotation(degrees: float, axis: tuple[float, float, float]) -> np.ndarray:
    """(3, 3) rotation about an axis, by Rodrigues' formula."""
    x, y, z = np.array(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def affine(
    degrees: float, axis: tuple[float, float, float], shift: tuple[float, float, float], scale=(1.0, 1.0, 1.0)
) -> np.ndarray:
    """(4, 4): scale, then rotate, then shift (mm)."""
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees, axis) * np.array(scale)
    matrix[:3, 3] = shift
    return matrix


def oblique_grid(shape=(24, 20, 16), spacing=(1.5, 2.0, 3.0), shift=(31.0, -47.0, 12.5)) -> Grid:
    """Rotated 25 degrees about a slanted axis, its first axis flipped: left-handed."""
    return Grid(shape, affine(25, (1, 2, 3), shift, (-spacing[0], spacing[1], spacing[2])))


def blobs(points: np.ndarray, centre: np.ndarray, size: float) -> np.ndarray:
    """A smooth scene without symmetry at (..., 3) RAS points: 0 outside, up to about 1."""
    value = np.zeros(points.shape[:-1])
    for offset, width, height in (
        ((0.0, 0.0, 0.0), 0.30, 0.5),
        ((0.22, 0.08, -0.05), 0.10, 0.6),
        ((-0.15, 0.20, 0.10), 0.08, 0.5),
        ((0.02, -0.25, 0.16), 0.12, 0.4),
        ((-0.10, -0.08, -0.24), 0.07, -0.4),
    ):
        distance = ((points - centre - size * np.array(offset)) ** 2).sum(axis=-1)
        value += height * np.exp(-distance / (2 * (width * size) ** 2))
    return value


def scene(grid: Grid, size: float | None = None, name: str = "scene") -> Volume:
    """The scene of `blobs` in the middle of a grid, float32, 0..1000 or so."""
    size = float((grid.spacing * grid.shape).min()) if size is None else size
    return Volume((1000 * blobs(grid.points(), grid.centre, size)).astype(np.float32), grid.ijk_to_ras, name)


def smooth_field(grid: Grid, amplitude: float = 4.0) -> DisplacementField:
    """Waves of `amplitude` mm, different in each direction, as long as the grid."""
    extent = float((grid.spacing * grid.shape).max())
    phase = 2 * np.pi * (grid.points() - grid.centre) / extent
    array = amplitude * np.stack(
        [np.sin(phase[..., 1]), 0.7 * np.cos(phase[..., 2]), 0.5 * np.sin(phase[..., 0] + phase[..., 1])]
    )
    return DisplacementField(array.astype(np.float32), grid.ijk_to_ras)


def points_inside(grid: Grid, count: int = 200, seed: int = 3) -> np.ndarray:
    """Random RAS points in the inner part of a grid: (N, 3)."""
    ijk = np.random.default_rng(seed).uniform(0.15, 0.85, (count, 3)) * (np.array(grid.shape) - 1)
    return grid.to_ras(ijk)
