"""The section of the landmarks: follows two point lists while points are placed and dragged. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer

# Dragging a point changes it many times a second; it is measured when the hand rests.
REST_MS = 300


class LandmarksPanel:
    """ui: the form's widgets. on_change(fixed, moving): other lists were chosen, or their points have changed."""

    def __init__(self, ui: Any, on_change: Callable[[Any, Any], None]) -> None:
        self.ui = ui
        self._on_change = on_change
        self._nodes: tuple[Any, Any] = (None, None)
        self._observed: list[tuple[Any, int]] = []
        self._rest = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.connect("timeout()", self._tell)

    def show(self, fixed: Any, moving: Any) -> None:
        """What the parameter node says."""
        if fixed is self._nodes[0] and moving is self._nodes[1]:
            return
        self._take(fixed, moving)
        self._tell()

    def update(self, note: str, distance: str) -> None:
        """note: how many pairs there are, or what is missing. distance: in mm, or ""."""
        self.ui.landmarksNoteLabel.text = "\n".join(filter(None, (note, distance)))

    def close(self) -> None:
        """Ends listening."""
        self._rest.stop()
        self._take(None, None)

    def _take(self, fixed: Any, moving: Any) -> None:
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._nodes = (fixed, moving)
        markups = slicer.vtkMRMLMarkupsNode
        events = (
            markups.PointModifiedEvent,
            markups.PointPositionDefinedEvent,
            markups.PointPositionUndefinedEvent,
            markups.PointRemovedEvent,
            slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
        )
        self._observed = [
            (node, node.AddObserver(event, self._changed)) for node in (fixed, moving) if node for event in events
        ]

    def _changed(self, _caller: Any, _event: Any) -> None:
        self._rest.start()

    def _tell(self) -> None:
        if not slicer.mrmlScene.IsClosing():
            self._on_change(*self._nodes)
