"""A map over the images of all slice views, and what was there before."""

from __future__ import annotations

import slicer

from hyperreg.mrml import nodes
from hyperreg.mrml.segmentation import results

OPACITY = 0.5


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
        node = results.uncertainty_of(segmentation)
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
            composite.SetForegroundOpacity(OPACITY)

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
