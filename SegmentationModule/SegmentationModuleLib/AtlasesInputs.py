"""Segmentations of the scene as label maps of one image, numbered alike by the names of their segments. No Qt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import Structure
from HyperRegSlicerLib import Regions

# Places of voxels that differ by less than this share of a voxel are the same.
ALIGNED = 1e-3


def reader_maps(nodes: Sequence[slicer.vtkMRMLSegmentationNode], grid: Grid) -> tuple[list[Volume], list[Structure]]:
    """A label map for every segmentation, on `grid` where its voxels lie on it, and what the labels mean.

    Segments of one name (whatever its case) are one structure. Raises InputError for fewer than two segmentations, or
    one without anything drawn.
    """
    if len(nodes) < 2:
        raise InputError("Check at least two segmentations of the same image.")
    numbers: dict[str, int] = {}
    structures: list[Structure] = []
    maps = []
    for node in nodes:
        regions = Regions.segments_of(node)
        if not regions:
            raise InputError(f"'{node.GetName()}' holds no segments. Draw at least one, or leave it out.")
        values = []
        for region in regions:
            key = region.name.strip().casefold()
            if key not in numbers:
                numbers[key] = len(numbers) + 1
                red, green, blue = (round(255 * part) for part in region.colour)
                structures.append(Structure(numbers[key], len(structures), region.name, (red, green, blue)))
            values.append(numbers[key])
        maps.append(pasted(Regions.merged(node, [region.key for region in regions], values), grid))
    return maps, structures


def pasted(volume: Volume, grid: Grid) -> Volume:
    """The map in the frame of `grid`, if its voxels lie on those of `grid`; else as it is."""
    offset = grid.to_ijk(volume.grid.to_ras((0, 0, 0)))
    start = np.rint(offset).astype(int)
    steps = grid.ras_to_ijk[:3, :3] @ volume.ijk_to_ras[:3, :3]
    if np.abs(offset - start).max() > ALIGNED or np.abs(steps - np.eye(3)).max() * max(volume.shape) > ALIGNED * 10:
        return volume
    array = np.zeros(grid.shape, dtype=volume.array.dtype)
    low = np.maximum(start, 0)
    high = np.minimum(start + np.array(volume.shape), grid.shape)
    if (high <= low).any():
        return volume
    target = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    source = tuple(slice(a, b) for a, b in zip(low - start, high - start, strict=True))
    array[target] = volume.array[source]
    return Volume(array, grid.ijk_to_ras, volume.name)
