"""Surfaces of segmentations for the 3D view, one segment at a time.

All of them at once would block the window for seconds: 140 structures took 12 s. Whoever owns this calls `step` now and
then, from a timer. A segmentation gets its surfaces together, with the last one: given the first, a 3D view would have
the others made at once.
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
        # Surfaces that only have to be given to their segments, by node and segment; with the time of the label map
        # that they were made from (None: it is known that they are right).
        self._held: dict[tuple[str, str], tuple[Any, int | None]] = {}

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
        kept = [name for node, name in self._held if node == name_of_node]
        self._held |= {(name_of_node, name): (self._held[name_of_node, name][0], None) for name in kept}
        same = [name for name in before if name not in changed]
        self._held |= {(name_of_node, name): (before[name], None) for name in same}
        self._waiting.append((name_of_node, [*changed, *same], False))

    def step(self) -> None:
        """Makes the next one; those of deleted segmentations and segments are passed over."""
        if not self._waiting:
            return
        node_id, ids, told = self._waiting[0]
        node = self.scene.GetNodeByID(node_id)
        if node is not None and ids:
            self._make(node, ids.pop(0))
        if node is not None and ids:
            return
        self._waiting.pop(0)
        if node is None:
            self._held = {key: made for key, made in self._held.items() if key[0] != node_id}
            return
        if all(waiting[0] != node_id for waiting in self._waiting):
            self._give(node)
        if told:
            self.on_done(node)

    def _make(self, node: slicer.vtkMRMLSegmentationNode, name: str) -> None:
        """The surface of one segment, unless it is there or held."""
        segment = node.GetSegmentation().GetSegment(name)
        image = segment.GetRepresentation(BINARY) if segment is not None else None
        if image is None or segment.GetRepresentation(SURFACE) is not None or (node.GetID(), name) in self._held:
            return
        surface = _surface(segment, image)
        if surface is not None:
            self._held[node.GetID(), name] = surface, image.GetMTime()

    def _give(self, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Gives a segmentation the surfaces that are held for it, but for those of segments that were edited since."""
        modifying = node.StartModify()
        for key in [key for key in self._held if key[0] == node.GetID()]:
            surface, made_at = self._held.pop(key)
            segment = node.GetSegmentation().GetSegment(key[1])
            image = segment.GetRepresentation(BINARY) if segment is not None else None
            if (
                image is None
                or segment.GetRepresentation(SURFACE) is not None
                or made_at not in (None, image.GetMTime())
            ):
                continue
            segment.AddRepresentation(SURFACE, surface)
        node.EndModify(modifying)

    def forget(self) -> None:
        """Nothing is wanted any more."""
        self._waiting, self._held = [], {}


def _surface(segment: slicer.vtkSegment, image: slicer.vtkOrientedImageData) -> Any:
    """The surface of one segment, by the converter that Slicer would use for all of them; None if it makes none."""
    alone = slicer.vtkSegmentation()
    alone.SetSourceRepresentationName(BINARY)
    copy = slicer.vtkSegment()
    copy.SetLabelValue(segment.GetLabelValue())
    copy.AddRepresentation(BINARY, image)
    alone.AddSegment(copy, "alone")
    return alone.GetSegment("alone").GetRepresentation(SURFACE) if alone.CreateRepresentation(SURFACE) else None
