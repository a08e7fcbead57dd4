"""Segmentations and label maps of the scene as label maps that are numbered alike by names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.label_grids import pasted
from hyperreg.imaging.structures import Structure, key_of
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import regions
from hyperreg.mrml.segmentation.results import terminology_of


class Numbering:
    """One number per name: segments of one name, see `key_of`, are one structure. structures: in their order.

    terminology: by name, Slicer's entry of the first segment that has one (see `keep_terminology`).
    """

    def __init__(self) -> None:
        self.structures: list[Structure] = []
        self.terminology: dict[str, str] = {}
        self._numbers: dict[str, int] = {}

    def label_map(self, node: slicer.vtkMRMLNode) -> Volume:
        """A segmentation or label map, in the world. Raises InputError if nothing is drawn, or segments overlap."""
        segmented = node.IsA(regions.SEGMENTATION)
        found = regions.segments_of(node) if segmented else regions.labels_of(node)
        if not found:
            raise InputError(f"'{node.GetName()}' holds no segments. Draw at least one, or leave it out.")
        numbers = [self._number(region) for region in found]
        if segmented:
            for region in found:
                if entry := terminology_of(node.GetSegmentation().GetSegment(region.key)):
                    self.terminology.setdefault(key_of(region.name), entry)
            return _merged(node, [region.key for region in found], numbers)
        drawn = regions.label_volume(node)
        values = [region.label for region in found]
        order = np.argsort(values)
        places = np.searchsorted(values, drawn.array, sorter=order).clip(max=len(values) - 1)
        array = np.where(drawn.array == 0, 0, np.array(numbers, np.int32)[order][places])
        return Volume(array.astype(np.int32), drawn.ijk_to_ras, node.GetName())

    def _number(self, region: regions.Region) -> int:
        """Its own, as far as that is free."""
        key = key_of(region.name)
        if key not in self._numbers:
            taken = set(self._numbers.values())
            number = region.label if region.label not in taken else max(taken) + 1
            self._numbers[key] = number
            red, green, blue = (round(255 * part) for part in region.colour)
            self.structures.append(Structure(number, len(self.structures), region.name, (red, green, blue)))
        return self._numbers[key]


def _merged(node: slicer.vtkMRMLSegmentationNode, keys: Sequence[str], numbers: Sequence[int]) -> Volume:
    """The segments as one label map. Raises InputError if some overlap: here every voxel has one label."""
    found = regions.merged(node, keys, numbers)
    if node.GetSegmentation().GetNumberOfLayers() > 1:  # only then can they overlap, and then the later one counts
        backwards = regions.merged(node, keys[::-1], numbers[::-1])
        if both := int(np.count_nonzero(found.array != backwards.array)):
            raise InputError(
                f"'{node.GetName()}' has segments that overlap (in {both} voxels). Remove the overlap in the Segment "
                "Editor: here every voxel has one label."
            )
    return found


def reader_maps(nodes: Sequence[Any], grid: Grid) -> tuple[list[Volume], Numbering]:
    """A label map for every segmentation, on `grid` where its voxels lie on it, and how the labels are numbered.

    Raises InputError for fewer than two segmentations, or one without anything drawn.
    """
    if len(nodes) < 2:
        raise InputError("Check at least two segmentations of the same image.")
    numbering = Numbering()
    return [pasted(numbering.label_map(node), grid) for node in nodes], numbering
