"""Regions with a λ of their own, from a segmentation or a label map of the scene."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, linked, nodes

SEGMENTATION, LABEL_MAP = "vtkMRMLSegmentationNode", "vtkMRMLLabelMapVolumeNode"
# What Slicer gives a label map of which nothing is known, read from a file of its own.
PALETTES = ("GenericColors",)
# More rows than this are no choice any more but a measurement; and each costs a weight map.
MAX_REGIONS = 64


@dataclass(frozen=True)
class Region:
    """One segment. key: how it is called in the scene (segment id, or label value as text), kept when others change.

    label: its value in `label_volume`. colour: red, green, blue, 0 to 1.
    """

    key: str
    label: int
    name: str
    colour: tuple[float, float, float]


def regions_of(node: slicer.vtkMRMLNode | None) -> list[Region]:
    """The segments of a segmentation or the labels of a label map; [] for no node.

    Raises InputError for a node that is neither, holds nothing, or has too many labels.
    """
    if node is None:
        return []
    found = segments_of(node) if node.IsA(SEGMENTATION) else labels_of(node)
    if not found:
        raise InputError(f"'{node.GetName()}' holds no segments. Draw at least one, or choose another one.")
    if len(found) > MAX_REGIONS:
        raise InputError(
            f"'{node.GetName()}' has {len(found)} labels; at most {MAX_REGIONS} regions can be told apart."
        )
    return found


def label_volume(node: slicer.vtkMRMLNode) -> Volume:
    """The label map of `regions_of`, in the world; where segments overlap, the later one counts.

    Raises InputError for a nonlinear parent transform or an empty segmentation.
    """
    if not node.IsA(SEGMENTATION):
        return geometry.volume_from_node(node, linked.original_parent(node))
    regions = regions_of(node)
    return merged(node, [region.key for region in regions], [region.label for region in regions])


def merged(node: slicer.vtkMRMLSegmentationNode, keys: Sequence[str], labels: Sequence[int]) -> Volume:
    """Segments of a segmentation as a label map with these labels, in the world; the later one counts.

    Raises InputError for a nonlinear parent transform or an empty segmentation.
    """
    parent = linked.original_parent(node)
    ids, values = vtk.vtkStringArray(), vtk.vtkIntArray()
    for key, label in zip(keys, labels, strict=True):
        ids.InsertNextValue(key)
        values.InsertNextValue(label)
    image = slicer.vtkOrientedImageData()
    extent_mode = slicer.vtkSegmentation.EXTENT_UNION_OF_SEGMENTS
    done = node.GenerateMergedLabelmapForAllSegments(image, extent_mode, None, ids, values)
    if not done or image.GetNumberOfPoints() == 0 or min(image.GetDimensions()) < 1:
        raise InputError(f"'{node.GetName()}' is empty. Draw something into its segments first.")
    matrix = vtk.vtkMatrix4x4()
    image.GetImageToWorldMatrix(matrix)
    affine = geometry.to_numpy(matrix)
    first = image.GetExtent()[::2]
    affine[:3, 3] = (affine @ [*first, 1.0])[:3]
    array = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1]).T
    # A copy: the image is gone with this function. "World" is the segmentation's own space here.
    return Volume(array.copy(), geometry.to_world(parent, f"'{node.GetName()}'") @ affine, node.GetName())


class Drawing:
    """Reads a segmentation or label map once: the same objects as long as nothing was drawn."""

    def __init__(self) -> None:
        self._read: tuple[Any, Volume, dict[str, int]] | None = None

    @property
    def labels(self) -> Volume | None:
        """What was read last."""
        return self._read[1] if self._read is not None else None

    def read(self, node: slicer.vtkMRMLNode) -> tuple[Volume, dict[str, int]]:
        """Label map of a node, see `label_volume`, and the label value of every region's key. Raises InputError."""
        state = (node.GetID(), stamp(node))
        if self._read is None or self._read[0] != state:
            self._read = state, label_volume(node), {region.key: region.label for region in regions_of(node)}
        return self._read[1], self._read[2]


def observe(node: slicer.vtkMRMLNode, edited: Callable[[Any, Any], None]) -> list[tuple[Any, int]]:
    """Calls `edited` after every change of what a node marks; observed objects and their tags, to end that."""
    events: tuple[int, ...]
    if node.IsA(SEGMENTATION):
        changes, observed = slicer.vtkSegmentation, node.GetSegmentation()
        events = (
            changes.SourceRepresentationModified,
            changes.SegmentModified,
            changes.SegmentAdded,
            changes.SegmentRemoved,
        )
    else:
        observed, events = node, (slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,)
    return [(observed, observed.AddObserver(event, edited)) for event in events]


def stamp(node: slicer.vtkMRMLNode) -> tuple[int, ...]:
    """Differs when `label_volume` would: changes with every edit of the segments or the label map.

    Like that one it minds no live transform: λ, *Reset* and its undo draw nothing.
    """
    above = linked.original_parent(node)
    moved = 0 if above is None else above.GetTransformToWorldMTime()
    if not node.IsA(SEGMENTATION):
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        image = node.GetImageData()
        return (moved, hash(geometry.to_numpy(matrix).tobytes()), 0 if image is None else image.GetMTime())
    segmentation = node.GetSegmentation()
    segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
    drawn = [segment.GetRepresentation(segmentation.GetSourceRepresentationName()) for segment in segments]
    return (moved, len(segments), *(image.GetMTime() for image in drawn if image is not None))


def to_text(lambdas: dict[str, float]) -> str:
    """λ per region key, as the parameter node keeps it."""
    return json.dumps(lambdas, sort_keys=True) if lambdas else ""


def from_text(text: str) -> dict[str, float]:
    """What `to_text` wrote; {} for what is no such text (an edited scene file)."""
    try:
        found = json.loads(text) if text else {}
        return {str(key): min(1.0, max(0.0, float(lam))) for key, lam in found.items()}
    except (ValueError, TypeError, AttributeError):
        return {}


def keys_to_text(keys: Collection[str]) -> str:
    """Keys of regions or points, as the parameter node keeps them."""
    return json.dumps(sorted(keys)) if keys else ""


def keys_from_text(text: str) -> set[str]:
    """What `keys_to_text` wrote; empty for what is no such text."""
    try:
        return {str(key) for key in json.loads(text)} if text else set()
    except (ValueError, TypeError):
        return set()


def segments_of(node: slicer.vtkMRMLSegmentationNode) -> list[Region]:
    """All segments of a segmentation, numbered from 1 in their order."""
    segmentation = node.GetSegmentation()
    found = []
    for index in range(segmentation.GetNumberOfSegments()):
        segment = segmentation.GetNthSegment(index)
        found.append(
            Region(segmentation.GetNthSegmentID(index), index + 1, segment.GetName(), tuple(segment.GetColor()))
        )
    return found


def labels_of(node: slicer.vtkMRMLNode) -> list[Region]:
    if not node.IsA(LABEL_MAP):
        raise InputError(f"'{node.GetName()}' is neither a segmentation nor a label map.")
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None:
        return []
    values = np.unique(vtk_to_numpy(image.GetPointData().GetScalars()))
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    named = colours is not None and _names_structures(colours)
    found = []
    for value in (int(value) for value in values if value != 0):
        rgba = [0.6, 0.6, 0.6, 1.0]
        name = ""
        if colours is not None and 0 <= value < colours.GetNumberOfColors():
            colours.GetColor(value, rgba)
            name = colours.GetColorName(value) if named else ""
        found.append(Region(str(value), value, name or f"Label {value}", (rgba[0], rgba[1], rgba[2])))
    return found


def names_of(node: slicer.vtkMRMLNode) -> dict[int, str]:
    """What the labels of a label map are called, where somebody has named them; voxels are not looked at."""
    display = node.GetDisplayNode()
    colours = display.GetColorNode() if display is not None else None
    if colours is None or not _names_structures(colours):
        return {}
    names = {value: str(colours.GetColorName(value)) for value in range(1, colours.GetNumberOfColors())}
    return {value: name for value, name in names.items() if name}


def name_labels(node: slicer.vtkMRMLLabelMapVolumeNode, names: Mapping[int, str], title: str) -> Any:
    """Gives the labels of a label map names, for `names_of`; colours stay. Returns the colour table."""
    display = node.GetDisplayNode()
    before = display.GetColorNode()
    colours = {}
    for label, name in names.items():
        rgba = [0.6, 0.6, 0.6, 1.0]
        if before is not None:
            before.GetColor(label, rgba)
        colours[label] = (name, rgba[0], rgba[1], rgba[2], rgba[3])
    table = nodes.add_colour_table(node.GetScene(), title, colours)
    display.SetAndObserveColorNodeID(table.GetID())
    return table


def _names_structures(colours: slicer.vtkMRMLColorNode) -> bool:
    """Whether a colour table was made or loaded by someone: the built-in ones only name colours, such as "Peach"."""
    kinds = (slicer.vtkMRMLColorTableNode.User, slicer.vtkMRMLColorTableNode.File)
    return bool(colours.GetType() in kinds and colours.GetName() not in PALETTES)
