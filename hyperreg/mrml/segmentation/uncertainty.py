"""What the slice views show of where a segmentation is uncertain: the map over the images, one region after another."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk

from hyperreg.errors import InputError
from hyperreg.mrml import geometry, nodes
from hyperreg.mrml.segmentation.layer import BINARY
from hyperreg.mrml.segmentation.results import uncertainty_of
from hyperreg.segmentation.doubt import DoubtfulRegion, doubtful_regions

MAP_OPACITY = 0.5


class Overlay:
    """Shows the map of a segmentation in front in all slice views, its segments as outlines, until it is hidden.

    Then the views are as they were. scene: the vtkMRMLScene of both.
    """

    def __init__(self, scene: slicer.vtkMRMLScene) -> None:
        self.scene = scene
        self._before: dict[str, tuple[str | None, float]] | None = None
        self._outlined: str | None = None

    def show(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Lays the uncertainty or disagreement map over the views; nothing without one."""
        node = uncertainty_of(segmentation)
        if segmentation is None or node is None:
            return
        display = segmentation.GetDisplayNode()
        if display is not None and display.GetVisibility2DFill():
            display.SetVisibility2DFill(False)
            self._outlined = display.GetID()
        composites = self._composites()
        if self._before is None:
            self._before = {c.GetID(): (c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites}
        for composite in composites:
            composite.SetForegroundVolumeID(node.GetID())
            composite.SetForegroundOpacity(MAP_OPACITY)

    def hide(self) -> None:
        """Puts the views back as they were; harmless if nothing is shown."""
        if self._before is None:
            return
        for composite in self._composites():
            volume_id, opacity = self._before.get(composite.GetID(), (None, 0.0))
            known = volume_id is not None and self.scene.GetNodeByID(volume_id) is not None
            composite.SetForegroundVolumeID(volume_id if known else None)
            composite.SetForegroundOpacity(opacity)
        display = self.scene.GetNodeByID(self._outlined) if self._outlined else None
        if display is not None:
            display.SetVisibility2DFill(True)
        self.forget()

    def forget(self) -> None:
        """Drops what was there before, when the scene closes."""
        self._before = self._outlined = None

    def _composites(self) -> list[slicer.vtkMRMLSliceCompositeNode]:
        return nodes.of_class(self.scene, "vtkMRMLSliceCompositeNode")


class Tour:
    """The uncertain regions of one segmentation, the largest first; found at the first step and after changes."""

    def __init__(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        self.segmentation: Any = segmentation
        self.regions: list[DoubtfulRegion] = []
        self.number = -1
        self._stamp = -1
        # How the crosshair was before the first step.
        self._crosshair_before: int | None = None

    @property
    def is_possible(self) -> bool:
        """Whether there is an uncertainty map to go along."""
        return uncertainty_of(self.segmentation) is not None

    def next(self, scene: slicer.vtkMRMLScene) -> DoubtfulRegion | None:
        """Centres all slice views on the next region and puts the crosshair there; None if nothing is uncertain.

        After the last one comes the first again. Raises InputError without an uncertainty map.
        """
        node = uncertainty_of(self.segmentation)
        if node is None or node.GetImageData() is None:
            raise InputError("This segmentation has no uncertainty map (any more).")
        stamp = node.GetImageData().GetMTime()
        if stamp != self._stamp:
            # Where the map lies below its transform: only the point is carried into the world, which may be bent.
            self.regions, self.number, self._stamp = doubtful_regions(geometry.volume_from_node(node, None)), -1, stamp
        if not self.regions:
            return None
        self.number = (self.number + 1) % len(self.regions)
        point = self.point()
        slicer.vtkMRMLSliceNode.JumpAllSlices(scene, *point, slicer.vtkMRMLSliceNode.CenteredJumpSlice)
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None:
            if self._crosshair_before is None:
                self._crosshair_before = crosshair.GetCrosshairMode()
            crosshair.SetCrosshairRAS(*point)
            crosshair.SetCrosshairMode(slicer.vtkMRMLCrosshairNode.ShowBasic)
        return self.regions[self.number]

    def end(self, scene: slicer.vtkMRMLScene) -> None:
        """Takes the crosshair away again, if it was not there before."""
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        if crosshair is not None and self._crosshair_before is not None:
            crosshair.SetCrosshairMode(self._crosshair_before)
        self._crosshair_before = None

    def point(self) -> np.ndarray:
        """The most uncertain place of the region that is shown, in the world, mm."""
        world = [0.0, 0.0, 0.0]
        node: Any = uncertainty_of(self.segmentation)
        node.TransformPointToWorld(self.regions[self.number].point, world)
        return np.array(world)

    def structure(self) -> str:
        """The segment at the place that is shown; "" for none."""
        local = self.regions[self.number].point
        segmentation = self.segmentation.GetSegmentation()
        for index in range(segmentation.GetNumberOfSegments()):
            segment = segmentation.GetNthSegment(index)
            if _holds(segment, local):
                return str(segment.GetName())
        return ""


def _holds(segment: slicer.vtkSegment, point: np.ndarray) -> bool:
    image = segment.GetRepresentation(BINARY)
    if image is None or image.GetNumberOfPoints() == 0:
        return False
    matrix = vtk.vtkMatrix4x4()
    image.GetWorldToImageMatrix(matrix)
    index = np.rint(geometry.to_numpy(matrix) @ [*point, 1.0])[:3].astype(int)
    first, last = np.array(image.GetExtent()).reshape(3, 2).T
    inside = bool(((index >= first) & (index <= last)).all())
    return inside and image.GetScalarComponentAsDouble(*index.tolist(), 0) == segment.GetLabelValue()
