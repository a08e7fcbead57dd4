"""The section of what is left out of the match: a selector for each volume, and one of its segments. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer
from slicer.i18n import tr as _

from hyperreg.mrml import regions
from hyperreg.mrml.registration.masks import ROLES
from HyperRegSlicerLib import Forms
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
            self.node, self._observed = node, regions.observe(node, self._edited) if node is not None else []
            with Forms.quiet(self.selector):
                self.selector.setCurrentNode(node)
        self.fill()

    def fill(self) -> None:
        """Offers the segments that there are now, if there is a choice. Raises InputError for a node without any."""
        self._segments.visible = False
        found = regions.regions_of(self.node)
        keys = [region.key for region in found]
        entries = [(_("All that is marked"), ""), *((region.name, region.key) for region in found)]
        Forms.fill_combo(self._segments, entries, self.key if self.key in keys else "")
        self._segments.visible = len(found) > 1


class LeaveOutPanel:
    """What is left out, between form, parameter node and logic.

    ui: the form's widgets. parameters(): the parameter node, or None. set_left_out: see `Constraints`.
    attempt: does an action and shows what it raises for the user; told: the same of a slot.
    """

    def __init__(
        self,
        ui: Any,
        parameters: Callable[[], Any],
        set_left_out: Callable[[str, Any, str], None],
        attempt: Callable[[Callable[[], Any]], None],
        told: Callable[[Callable[..., Any]], Callable[..., None]],
    ) -> None:
        self._parameters, self._set_left_out, self._attempt = parameters, set_left_out, attempt
        self._areas = [_Area(ui, role, self, told) for role in ROLES]
        # Ids of the nodes and keys of the segments before `clear`.
        self._before: list[tuple[str | None, str]] = [(None, "")] * len(ROLES)
        self._rest = Forms.rest_timer(REST_MS, told(self._look_again))

    def show(self, parameters: Any) -> None:
        """What the parameter node says, to form and logic."""
        for area in self._areas:
            node, key = (getattr(parameters, f"{area.role}{what}") for what in ("LeaveOut", "LeaveOutSegment"))
            if node is not area.node or key != area.key:
                self._attempt(lambda area=area, node=node, key=key: area.take(node, key))
                self._set_left_out(area.role, node, key)

    def chosen(self, area: _Area, node: Any, key: str) -> None:
        """The user chose another node or segment."""
        parameters = self._parameters()
        if parameters is None:
            return
        modifying = parameters.parameterNode.StartModify()
        setattr(parameters, f"{area.role}LeaveOut", node)
        setattr(parameters, f"{area.role}LeaveOutSegment", key)
        parameters.parameterNode.EndModify(modifying)

    def clear(self) -> None:
        """Nothing is left out any more, until `put_back`; what was drawn stays."""
        self._before = [(area.node and area.node.GetID(), area.key) for area in self._areas]
        for area in self._areas:
            self.chosen(area, None, "")

    def put_back(self) -> None:
        """Undoes `clear`, but for volumes of which something else is left out now."""
        for area, (node_id, key) in zip(self._areas, self._before, strict=True):
            node = slicer.mrmlScene.GetNodeByID(node_id) if node_id else None
            if node is not None and area.node is None:
                self.chosen(area, node, key)

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
                self._set_left_out(area.role, area.node, area.key)
                area.fill()
