"""Small targets with label maps of known quality, on a grid that is oblique, anisotropic and flipped."""

from __future__ import annotations

import numpy as np

from hyperreg.fusion.samples import LabelledTarget
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.volume import Grid, Volume

# Where the ball lies, RAS mm, and its radius.
CENTRE = np.array([12.0, -7.0, 31.0])
RADIUS = 8.0


def oblique_grid(shape: tuple[int, int, int] = (28, 20, 26), spacing: tuple[float, ...] = (1.5, 2.0, 1.6)) -> Grid:
    """Axes turned by 20 degrees, the first one flipped; its middle is near the ball."""
    turn = np.deg2rad(20)
    axes = np.array([[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = axes * np.array([-1, 1, 1]) * np.array(spacing)
    affine[:3, 3] = CENTRE + np.array([1.0, 0.5, -0.5]) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def ball(grid: Grid, shift_mm: tuple[float, float, float] = (0, 0, 0), label: int = 1) -> np.ndarray:
    inside = np.linalg.norm(grid.points() - CENTRE - shift_mm, axis=-1) < RADIUS
    return inside.astype(np.int16) * label


def ball_target(
    name: str, shifts: dict[str, tuple[float, float, float]], grid: Grid | None = None, seed: int = 0
) -> LabelledTarget:
    """A bright ball in noise, and a label map of it for each name, shifted by so many mm."""
    grid = oblique_grid() if grid is None else grid
    noise = np.random.default_rng(seed).normal(0, 0.1, grid.shape)
    image = Volume((ball(grid) + noise).astype(np.float32), grid.ijk_to_ras, name)
    maps = [Volume(ball(grid, shift), grid.ijk_to_ras, atlas) for atlas, shift in shifts.items()]
    return LabelledTarget(name, image, stack_labels(maps))
