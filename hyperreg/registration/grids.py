"""The grids that registration works on: along the fixed image's own axes, around its foreground."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.imaging.orientation import closest_directions
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.catalogue import ModelCard

# Room around the head for what moves in from outside, and for the border over which the field fades to zero.
MARGIN_VOXELS = 4
FADE_VOXELS = 3.0
# A small organ is shown to the network at least this large (share of the longest side of the model's largest grid): the
# network knows anatomy at that size.
LEAST_EXTENT = 0.6
# Voxels that fit the body, as multiples of those of the training: with a model of brains, heads need less, trunks more.
MOST_COARSER = 1.4


def network_grid(fixed: Grid, inside: npt.NDArray[np.bool_], card: ModelCard) -> Grid:
    """The grid that the network sees.

    fixed, inside: the fixed image's grid and its foreground (I, J, K). Voxels are cubes of the model's spacing; larger
    if the foreground would not fit the model's largest grid, smaller for a small organ, but not finer than the image.
    """
    directions, low, high = _extent(fixed, inside)
    extent = high - low
    small = float(extent.max()) / (LEAST_EXTENT * max(card.max_shape))
    spacing = max(min(card.spacing_mm, small), float(fixed.spacing.min()), _fitting(extent, card))
    return _around(directions, low, high, spacing, MARGIN_VOXELS, card.multiple)


def beyond_model(fixed: Volume, inside: npt.NDArray[np.bool_], card: ModelCard) -> list[str]:
    """A text if the body (inside: the fixed image's foreground) is far larger than what the model was trained on.

    What is no larger than that, and another part of the body all the same, is not told.
    """
    _, low, high = _extent(fixed.grid, inside)
    if _fitting(high - low, card) <= MOST_COARSER * card.spacing_mm:
        return []
    size = " x ".join(f"{side:.0f}" for side in high - low)
    text = (
        f"The body in '{fixed.name}' ({size} mm) is larger than what the model '{card.name}' was made for. If it is "
        "another part of the body, choose no model."
    )
    return [text]


def _fitting(extent: npt.NDArray[np.float64], card: ModelCard) -> float:
    """How large voxels must be for the model's largest grid to hold a body, mm."""
    return float((extent / (np.array(card.max_shape) - 2 * MARGIN_VOXELS)).max())


def image_grid(
    fixed: Grid, inside: npt.NDArray[np.bool_], margin_voxels: int, multiple: int, most_voxels: float
) -> Grid:
    """A grid as fine as the fixed image, of cubes; coarser where it would have more than `most_voxels`."""
    directions, low, high = _extent(fixed, inside)
    spacing = float(fixed.spacing.min())
    grid = _around(directions, low, high, spacing, margin_voxels, multiple)
    while np.prod(grid.shape) > most_voxels:
        spacing *= 1.02
        grid = _around(directions, low, high, spacing, margin_voxels, multiple)
    return grid


def coarser_grid(grid: Grid, factor: int) -> Grid:
    """Voxels that are each `factor` x `factor` x `factor` of those of `grid`, whose shape is divisible by it."""
    affine = grid.ijk_to_ras.copy()
    affine[:3, 3] = grid.to_ras(np.full(3, (factor - 1) / 2))
    affine[:3, :3] *= factor
    return Grid((grid.shape[0] // factor, grid.shape[1] // factor, grid.shape[2] // factor), affine)


def _extent(
    fixed: Grid, inside: npt.NDArray[np.bool_]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The image's axes ordered as R, A, S (columns, unit vectors), and the ends of the foreground along them, mm."""
    directions = closest_directions(fixed.ijk_to_ras)
    box = np.argwhere(inside)
    corners = np.stack([box.min(0) - 0.5, box.max(0) + 0.5])
    every = np.stack(np.meshgrid(*corners.T, indexing="ij"), axis=-1).reshape(-1, 3)
    along = fixed.to_ras(every) @ directions
    return directions, along.min(0), along.max(0)


def _around(
    directions: npt.NDArray[np.float64],
    low: npt.NDArray[np.float64],
    high: npt.NDArray[np.float64],
    spacing: float,
    margin_voxels: int,
    multiple: int,
) -> Grid:
    """Cubes of `spacing` mm around a box, whose sides count multiples of `multiple` voxels."""
    shape = np.ceil(((high - low) / spacing + 2 * margin_voxels) / multiple - 1e-6).astype(int) * multiple
    affine = np.eye(4)
    affine[:3, :3] = directions * spacing
    affine[:3, 3] = directions @ ((low + high) / 2 - (shape - 1) / 2 * spacing)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def fade(shape: tuple[int, int, int], voxels: float = FADE_VOXELS) -> Tensor:
    """1 inside, falling to 0 over that many outermost voxels: (I, J, K). Beyond the grid is no field: so no jump.

    A displacement of that many voxels or more folds there.
    """
    result = torch.ones(shape)
    for axis, size in enumerate(shape):
        index = torch.arange(size, dtype=torch.float32)
        ramp = (torch.minimum(index, size - 1 - index) / voxels).clamp(max=1)
        result = result * ramp.view([-1 if a == axis else 1 for a in range(3)])
    return result
