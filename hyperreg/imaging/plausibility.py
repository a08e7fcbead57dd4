"""Bounds of what the position, size and values of a medical image, its transforms and its points can be.

A damaged header, a wrong unit or a program that writes uninitialised memory gives numbers far outside. They are refused
where a file is read and where an image is used; sizes that only an animal or a building has are worth a warning.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume

# Voxels: from electron microscopy (10 nm) to the slices of a localiser.
SMALLEST_VOXEL_MM, LARGEST_VOXEL_MM = 1e-5, 100.0
# Between the shortest and the longest side of a voxel; a localiser of 0.5 mm pixels has 200.
LARGEST_ASPECT = 1000.0
# Sides of an image: a building's would be larger. Positions: scanners and stages count from points in the same room.
LARGEST_EXTENT_MM = 10_000.0
FARTHEST_MM = 100_000.0
# Of a linear map: from micrometres to millimetres.
LARGEST_STRETCH = 1000.0
# Images whose longest side is outside of this show no part of a human body: a mouse, a unit that is not mm.
HUMAN_EXTENT_MM = (20.0, 2500.0)
# Of the longest sides of two images: a torso against one organ of it has 5, cm against mm 10, if both show the same.
LARGEST_RATIO = 6.0
# Grey values: far above any physical unit (Bq/ml: 1e9), below where squares leave float32 (1.8e19).
LARGEST_VALUE = 1e15
SMALLEST_RANGE = 1e-30


def check_grid(grid: Grid, name: str) -> None:
    """Raise InputError for voxels, an extent or a position that no image has."""
    voxel, extent = grid.spacing, grid.spacing * grid.shape
    size = " x ".join(f"{s:.4g}" for s in voxel)
    if voxel.min() < SMALLEST_VOXEL_MM or voxel.max() > LARGEST_VOXEL_MM or voxel.max() / voxel.min() > LARGEST_ASPECT:
        problem = f"voxels of {size} mm"
    elif extent.max() > LARGEST_EXTENT_MM:
        problem = f"an extent of {extent.max() / 1000:.4g} m (voxels of {size} mm)"
    elif np.abs(grid.corners).max() > FARTHEST_MM:
        problem = f"a position {np.abs(grid.corners).max() / 1000:.4g} m from the origin"
    else:
        return
    raise InputError(
        f"'{name}' has {problem}, which no medical image has: its header is damaged or counts in another unit. "
        "Export it again, in mm."
    )


def size_warnings(grid: Grid, name: str) -> list[str]:
    """A text if no part of a human body is as small or as large as the image."""
    longest = float((grid.spacing * grid.shape).max())
    if HUMAN_EXTENT_MM[0] <= longest <= HUMAN_EXTENT_MM[1]:
        return []
    what = "small" if longest < HUMAN_EXTENT_MM[0] else "large"
    size = " x ".join(f"{s:.3g}" for s in grid.spacing)
    text = (
        f"'{name}' is very {what}: its longest side is {longest:.3g} mm (voxels of {size} mm). If it shows a human "
        "body, its header counts in another unit than mm; models and settings are made for human bodies."
    )
    return [text]


def ratio_warnings(one: Volume, other: Volume) -> list[str]:
    """A text if an image is so much larger than the other one that they hardly count in the same unit."""
    sizes = [float((volume.spacing * volume.shape).max()) for volume in (one, other)]
    if max(sizes) <= LARGEST_RATIO * min(sizes):
        return []
    text = (
        f"'{one.name}' is {sizes[0]:.3g} mm long, '{other.name}' {sizes[1]:.3g} mm. If both show the same part of a "
        "body, one of them counts in another unit than mm."
    )
    return [text]


def check_values(low: float, high: float, name: str) -> None:
    """Raise InputError for an image whose finite values reach from `low` to `high`, if these are no grey values."""
    largest = max(abs(low), abs(high))
    if largest > LARGEST_VALUE:
        raise InputError(
            f"'{name}' has values up to {largest:.2g}, which are no grey values: the file is damaged, or they stand "
            "for missing voxels. Replace them, or export the image again."
        )
    if 0 < high - low < SMALLEST_RANGE:
        raise InputError(f"'{name}' has values from {low:.2g} to {high:.2g} only. Scale them up and try again.")


def check_reach(values: npt.NDArray[np.number], what: str) -> None:
    """Raise InputError if a coordinate or displacement (any shape, mm) is farther than FARTHEST_MM, or not finite.

    what: the beginning of a sentence that goes on with "by up to ... mm".
    """
    farthest = float(np.abs(values).max(initial=0))
    if not farthest <= FARTHEST_MM:
        raise InputError(
            f"{what} by up to {farthest:.2g} mm, which no body needs: the file is damaged, or its numbers are not in "
            "mm. Export it again."
        )
