"""The section of the landmarks: follows two point lists while points are placed and dragged. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from hyperreg.mrml import regions
from hyperreg.mrml.registration.logic import RegistrationLogic
from HyperRegSlicerLib import Forms

# Dragging a point changes it many times a second: what changes is taken so often, and no sooner than the field of the
# last time is there.
EVERY_MS = 300
NAME_COLUMN, BEFORE_COLUMN, NOW_COLUMN = range(3)


class LandmarksPanel:
    """Point lists, how much they pull, and a table of their distances.

    ui: the form's widgets. attempt: does an action and shows what it raises for the user.
    """

    def __init__(self, ui: Any, logic: RegistrationLogic, attempt: Callable[[Callable[[], Any]], None]) -> None:
        self.ui, self._logic, self._attempt = ui, logic, attempt
        self._parameters: Any = None
        self._nodes: tuple[Any, Any] = (None, None)
        self._said: tuple[Any, ...] = ()
        self._rows: list[Any] = []
        self._filling = False
        self._observed: list[tuple[Any, int]] = []
        self._soon = Forms.rest_timer(EVERY_MS, self._changed_before)
        table = ui.landmarksTable
        Forms.prepare_table(table, [_("Pulls"), _("before"), _("now, mm")], NAME_COLUMN)
        table.connect("itemChanged(QTableWidgetItem*)", self._ticked)

    def show(self, parameters: Any) -> None:
        """What the parameter node says, to form and logic."""
        self._parameters = parameters
        nodes = parameters.fixedLandmarks, parameters.movingLandmarks
        if (*nodes, parameters.pull, parameters.measuredOnly) != self._said:
            self._said = (*nodes, parameters.pull, parameters.measuredOnly)
            if nodes != self._nodes:
                self._take(*nodes)
            self._tell()

    def update(self, distance: str) -> None:
        """Shows the state. distance: of all landmarks, in words, or ""."""
        ui, logic = self.ui, self._logic
        ui.landmarksNoteLabel.text = "\n".join(filter(None, (logic.constraints.landmarks_note, distance)))
        rows = logic.constraints.landmark_rows
        if rows is self._rows:
            return
        self._rows = rows
        table = ui.landmarksTable
        self._filling = True
        table.setRowCount(len(rows))
        for index, row in enumerate(rows):
            hint = _("Not ticked: this pair only measures, so that it can judge the result.")
            table.setItem(index, NAME_COLUMN, Forms.checkable(row.name, not row.measured, hint))
            for column, value in ((BEFORE_COLUMN, row.before), (NOW_COLUMN, row.now)):
                item = qt.QTableWidgetItem("" if value is None else f"{value:.1f}")
                item.setFlags(qt.Qt.ItemIsEnabled)
                table.setItem(index, column, item)
        self._filling = False
        Forms.show_rows(table, len(rows))

    def close(self) -> None:
        """Ends listening."""
        self._soon.stop()
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
        if not self._soon.isActive():
            self._soon.start()

    def _changed_before(self) -> None:
        if self._logic.live.is_waiting:
            self._soon.start()  # else a field that takes long would never be there while a point is dragged
        else:
            self._tell()

    def _tell(self) -> None:
        if not slicer.mrmlScene.IsClosing() and self._parameters is not None:
            pull, only = self._parameters.pull, regions.keys_from_text(self._parameters.measuredOnly)
            self._attempt(lambda: self._logic.constraints.set_landmarks(*self._nodes, pull, only))

    def _ticked(self, item: qt.QTableWidgetItem) -> None:
        if self._filling or item.column() != NAME_COLUMN or self._parameters is None:
            return
        key, only = self._rows[item.row()].key, regions.keys_from_text(self._parameters.measuredOnly)
        only = only - {key} if item.checkState() == qt.Qt.Checked else only | {key}
        self._parameters.measuredOnly = regions.keys_to_text(only)
