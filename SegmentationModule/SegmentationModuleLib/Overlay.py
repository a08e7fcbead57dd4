"""A map over the images of all slice views, and what was there before. Qt-free."""

from __future__ import annotations

import slicer

OPACITY = 0.5


class Overlay:
    """Shows one volume in front in all slice views until it is hidden; then the views are as they were."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[str | None, float]] | None = None

    def show(self, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Lays the volume over the views; nothing for None."""
        if node is None:
            return
        composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        if self._before is None:
            self._before = {c.GetID(): (c.GetForegroundVolumeID(), c.GetForegroundOpacity()) for c in composites}
        for composite in composites:
            composite.SetForegroundVolumeID(node.GetID())
            composite.SetForegroundOpacity(OPACITY)

    def hide(self) -> None:
        """Puts the views back as they were; harmless if nothing is shown."""
        if self._before is None:
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            volume_id, opacity = self._before.get(composite.GetID(), (None, 0.0))
            known = volume_id is not None and slicer.mrmlScene.GetNodeByID(volume_id) is not None
            composite.SetForegroundVolumeID(volume_id if known else None)
            composite.SetForegroundOpacity(opacity)
        self._before = None

    def forget(self) -> None:
        """Drops what was there before, when the scene closes."""
        self._before = None
