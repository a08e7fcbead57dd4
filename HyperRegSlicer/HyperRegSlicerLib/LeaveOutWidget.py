"""The section of what is left out of the match: a selector for each volume, and one of its segments. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from HyperRegSlicerLib import Regions
from HyperRegSlicerLib.Masks import ROLES
from HyperRegSlicerLib.RegionsWidget import REST_MS


class _Area:
    """Selector and segments of one volume."""

    def __init__(self, ui: Any, role: str, panel: LeaveOutPanel, told: Callable[..., Any]) -> None:
        self.role = role
        self.selector, self._segments = getattr(ui, f"{role}LeaveOutSelector"), getattr(ui, f"{role}LeaveOutCombo")
        self.node: Any = None
        self.key = ""
        self._observed: list[tuple[Any, int]] = []
        self._panel = panel
        self._edited = lambda _caller, _event: panel.rest()
        self.selector.connect("currentNodeChanged(vtkMRMLNode*)", told(lambda node: panel.chosen(self, node, "")))
        self._segments.connect("currentIndexChanged(int)", told(self._segment_chosen))
        self.fill()

    def _segment_chosen(self, index: int) -> None:
        self._panel.chosen(self, self.node, str(self._segments.itemData(index) or ""))

    def take(self, node: Any, key: str) -> None:
        """Follows another node."""
        self.key = key
        if node is not self.node:
            for observed, tag in self._observed:
                observed.RemoveObserver(tag)
            self.node, self._observed = node, Regions.observe(node, self._edited) if node is not None else []
            was = self.selector.blockSignals(True)
            self.selector.setCurrentNode(node)
            self.selector.blockSignals(was)
        self.fill()

    def fill(self) -> None:
        """Offers the segments that there are now, if there is a choice. Raises InputError for a node without any."""
        self._segments.visible = False
        found = Regions.regions_of(self.node)
        was = self._segments.blockSignals(True)
        self._segments.clear()
        self._segments.addItem(_("All that is marked"), "")
        for region in found:
            self._segments.addItem(region.name, region.key)
        self._segments.setCurrentIndex(max(0, self._segments.findData(self.key)))
        self._segments.blockSignals(was)
        self._segments.visible = len(found) > 1


class LeaveOutPanel:
    """ui: the form's widgets. on_choice(role, node, key): the user chose; key of a segment, "" for all of them.

    on_change(role, node, key): what is marked there is to be left out; also after an edit. told(slot): the slot; what
    it raises is shown to the user.
    """

    def __init__(
        self,
        ui: Any,
        on_choice: Callable[[str, Any, str], None],
        on_change: Callable[[str, Any, str], None],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self._on_choice, self._on_change = on_choice, on_change
        self._areas = [_Area(ui, role, self, told) for role in ROLES]
        self._rest = qt.QTimer()
        self._rest.setSingleShot(True)
        self._rest.setInterval(REST_MS)
        self._rest.connect("timeout()", told(self._look_again))

    def show(self, role: str, node: Any, key: str) -> None:
        """What the parameter node says. Raises InputError for a node that cannot be used."""
        area = self._areas[ROLES.index(role)]
        if node is area.node and key == area.key:
            return
        try:
            area.take(node, key)
        finally:
            self._on_change(role, node, key)

    def chosen(self, area: _Area, node: Any, key: str) -> None:
        """The user chose another node or segment."""
        self._on_choice(area.role, node, key)

    def rest(self) -> None:
        """Somebody draws: looked at when the hand rests."""
        self._rest.start()

    def close(self) -> None:
        """Ends listening."""
        self._rest.stop()
        for area in self._areas:
            area.take(None, "")

    def _look_again(self) -> None:
        if slicer.mrmlScene.IsClosing():
            return
        for area in self._areas:
            if area.node is not None:
                area.fill()
                self._on_change(area.role, area.node, area.key)
