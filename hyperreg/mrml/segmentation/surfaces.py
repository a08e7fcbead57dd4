"""Surfaces of segmentations for the 3D view, one segment at a time.

All of them at once would block the window for seconds: 140 structures took 12 s. Whoever owns this calls `step` now and
then, in Slicer from a timer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import slicer

from hyperreg.mrml.lifecycle import ignore
from hyperreg.mrml.segmentation.layer import BINARY, SURFACE


class Surfaces:
    """What is still to be made. on_done(node): all surfaces of a segmentation are there."""

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.scene = scene
        self.on_done: Callable[[slicer.vtkMRMLSegmentationNode], None] = ignore
        # Node, segments, and whether somebody is told at the end.
        self._waiting: list[tuple[str, list[str], bool]] = []
        # Surfaces that only have to be given back, by node and segment.
        self._held: dict[tuple[str, str], Any] = {}

    @property
    def pending(self) -> bool:
        """Whether anything is still to be made."""
        return bool(self._waiting)

    def add(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Surfaces of all segments are wanted."""
        segmentation = node.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
        self._waiting.append((node.GetID(), ids, True))

    def renew(self, node: slicer.vtkMRMLSegmentationNode, before: Mapping[str, Any], changed: Sequence[str]) -> None:
        """The surfaces that a segmentation had before a change come back; those of changed segments are made anew.

        Nobody is told. Nothing happens where no surfaces are wanted.
        """
        name_of_node, segmentation = node.GetID(), node.GetSegmentation()
        segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
        made = bool(before) or any(segment.GetRepresentation(SURFACE) is not None for segment in segments)
        if not made and all(waiting[0] != name_of_node for waiting in self._waiting):
            return
        # What an earlier change has left to be given back is older than this change.
        for name in changed:
            self._held.pop((name_of_node, name), None)
            if (segment := segmentation.GetSegment(name)) is not None:
                segment.RemoveRepresentation(SURFACE)
        same = [name for name in before if name not in changed]
        self._held |= {(name_of_node, name): before[name] for name in same}
        self._waiting.append((name_of_node, [*changed, *same], False))

    def step(self) -> None:
        """Makes the next one; those of deleted segmentations and segments are passed over."""
        if not self._waiting:
            return
        node_id, ids, told = self._waiting[0]
        node = self.scene.GetNodeByID(node_id)
        if node is not None and ids:
            name = ids.pop(0)
            _make(node.GetSegmentation(), name, self._held.pop((node_id, name), None))
        if node is None or not ids:
            self._waiting.pop(0)
        if node is not None and not ids and told:
            self.on_done(node)

    def forget(self) -> None:
        """Nothing is wanted any more."""
        self._waiting, self._held = [], {}


def _make(segmentation: slicer.vtkSegmentation, segment_id: str, held: Any = None) -> None:
    """The surface of one segment, by the converter that Slicer would use for all of them; or the one that it had."""
    segment = segmentation.GetSegment(segment_id)
    image = segment.GetRepresentation(BINARY) if segment is not None else None
    if image is None or segment.GetRepresentation(SURFACE) is not None:
        return
    if held is not None:
        segment.AddRepresentation(SURFACE, held)
        return
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(BINARY)
    copy = slicer.vtkSegment()
    copy.SetLabelValue(segment.GetLabelValue())
    copy.AddRepresentation(BINARY, image)
    alone.AddSegment(copy, segment_id)
    if alone.CreateRepresentation(SURFACE):
        segment.AddRepresentation(SURFACE, alone.GetSegment(segment_id).GetRepresentation(SURFACE))
