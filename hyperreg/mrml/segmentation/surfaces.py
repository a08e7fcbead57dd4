"""Surfaces of segmentations for the 3D view, one segment at a time.

All of them at once would block the window for seconds: 140 structures took 12 s. Whoever owns this calls `step` now and
then, in Slicer from a timer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

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

    @property
    def pending(self) -> bool:
        """Whether anything is still to be made."""
        return bool(self._waiting)

    def add(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Surfaces of all segments are wanted."""
        segmentation = node.GetSegmentation()
        ids = [segmentation.GetNthSegmentID(index) for index in range(segmentation.GetNumberOfSegments())]
        self._waiting.append((node.GetID(), ids, True))

    def renew(self, node: slicer.vtkMRMLSegmentationNode, ids: Sequence[str]) -> None:
        """Surfaces of segments that have changed are wanted, if the segmentation has any; nobody is told."""
        segmentation = node.GetSegmentation()
        segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
        made = any(segment.GetRepresentation(SURFACE) is not None for segment in segments)
        if not made and all(waiting[0] != node.GetID() for waiting in self._waiting):
            return
        there = [name for name in ids if segmentation.GetSegment(name) is not None]
        for name in there:
            segmentation.GetSegment(name).RemoveRepresentation(SURFACE)
        self._waiting.append((node.GetID(), there, False))

    def step(self) -> None:
        """Makes the next one; those of deleted segmentations and segments are passed over."""
        if not self._waiting:
            return
        node_id, ids, told = self._waiting[0]
        node = self.scene.GetNodeByID(node_id)
        if node is not None and ids:
            _make(node.GetSegmentation(), ids.pop(0))
        if node is None or not ids:
            self._waiting.pop(0)
        if node is not None and not ids and told:
            self.on_done(node)

    def forget(self) -> None:
        """Nothing is wanted any more."""
        self._waiting = []


def _make(segmentation: slicer.vtkSegmentation, segment_id: str) -> None:
    """The surface of one segment, by the converter that Slicer would use for all of them."""
    segment = segmentation.GetSegment(segment_id)
    image = segment.GetRepresentation(BINARY) if segment is not None else None
    if image is None or segment.GetRepresentation(SURFACE) is not None:
        return
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(BINARY)
    copy = slicer.vtkSegment()
    copy.SetLabelValue(segment.GetLabelValue())
    copy.AddRepresentation(BINARY, image)
    alone.AddSegment(copy, segment_id)
    if alone.CreateRepresentation(SURFACE):
        segment.AddRepresentation(SURFACE, alone.GetSegment(segment_id).GetRepresentation(SURFACE))
