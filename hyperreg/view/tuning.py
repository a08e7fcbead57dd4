"""What the page offers beyond λ: resolution, response, γ, regions, areas left out; between its state and the logic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from hyperreg.catalogue import Hyperparameter
from hyperreg.errors import HyperRegError, InputError, WeightsError
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, linked, regions
from hyperreg.mrml.lifecycle import LIVE
from hyperreg.mrml.registration import landmarks, texts, volume_change
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.registration.catalogue import find_model
from hyperreg.view import chart, outlines
from hyperreg.view.landmarks import LandmarkControls, Marks
from hyperreg.view.loading import LEFT_OUT, REGIONS
from hyperreg.view.pair import OpenPair
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import PANEL

# A suggested λ this near is the one that is set.
SAME_ON_SCREEN = 0.005


@dataclass(frozen=True, eq=False)
class HeldMarks:
    """What was marked, see `TuningControls.hold`: nodes by role, and what the page says of them."""

    points: dict[str, Any]
    landmarks: Marks
    left_out: dict[str, Any]
    regions_node: Any
    colours: Any
    regions_name: str
    regions: list[dict[str, Any]]

    @property
    def all_nodes(self) -> list[Any]:
        marks = [*self.points.values(), *self.left_out.values(), self.regions_node]
        found = [*marks, *(_colours_of(node) for node in marks), self.colours]
        return [node for at, node in enumerate(found) if node is not None and node not in found[:at]]


class TuningControls:
    """The controller's part for resolution, response, γ, regions and areas left out, with the one for landmarks.

    state: the shared state. logic: the `RegistrationLogic`. move_lambda(lam): moves the slider. tell(text): an error.
    views: the `SliceViews`. pair: the images that are open. files: for downloads.
    """

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        logic: RegistrationLogic,
        move_lambda: Callable[[float], None],
        tell: Callable[[str], None],
        views: Any,
        pair: OpenPair,
        files: PrivateFiles,
    ) -> None:
        self._views, self._pair = views, pair
        self._state, self._scene, self._logic = state, scene, logic
        self._move_lambda, self._tell = move_lambda, tell
        self._left_out: dict[str, Any] = dict.fromkeys(LEFT_OUT)
        # What was left out before a reset, by role.
        self._left_out_aside: dict[str, Any] = {}
        # Nodes that stay in the scene although nothing is marked by them any more.
        self._held: list[Any] = []
        self.landmarks = LandmarkControls(state, scene, logic, views, pair, files, self._discard, tell)
        legend = volume_change.legend(chart.WIDTH, chart.INK)
        state.volume_change_legend = chart.picture(legend[0], legend[1], "Scale of the local volume change")
        state.contrasts = [{"title": title, "value": name} for name, title in texts.CONTRAST_TITLES.items()]
        # The regions' label map and its colours.
        self._node: Any = None
        self._colours: Any = None
        self._gamma_wanted: float | None = None
        self._drawn: tuple[Any, ...] = ()

    # The user's actions

    def set_full_automatically(self, on: Any) -> None:
        """Whether full resolution comes by itself, or only when asked for."""
        if isinstance(on, bool):
            self._try(lambda: self._logic.set_full_automatically(on))

    def request_full(self) -> None:
        """Full resolution at the λ that is shown."""
        self._try(self._logic.registration.request_full)

    def stop_full(self) -> None:
        """Gives full resolution up; what is shown stays."""
        self._try(self._logic.registration.cancel_full)

    def set_volume_change(self, on: Any) -> None:
        """Whether a map of local volume change lies over the views."""
        if isinstance(on, bool):
            self._logic.volume_change.want(on)

    def use_suggested(self) -> None:
        if (suggestion := self._logic.live.suggestion) is not None:
            self._move_lambda(suggestion.lam)

    def click_response(self, x: Any) -> None:
        """A click at this many pixels from the left of the response."""
        live = self._logic.live
        if _is_number(x) and self._state.phase == LIVE and live.response.rows:
            self._move_lambda(chart.lambda_at(float(x), live.response, live.suggestion))

    def show_hyperparameters(self, model: Any) -> None:
        """Another model was chosen: its γ, if it declares one, begins with its default."""
        gamma = _declared_gamma(model)
        state = self._state
        state.has_gamma = gamma is not None
        if gamma is not None:
            state.gamma, state.gamma_title, state.gamma_hint = gamma.default, gamma.title, gamma.description
            self.ask_gamma(gamma.default)

    def ask_gamma(self, gamma: Any) -> None:
        """γ was moved; the newest value is taken by the next `step`."""
        if not _is_number(gamma) or not 0 <= gamma <= 1:
            self._tell(f"γ is a number between 0 and 1, not {gamma!r}.")
            return
        self._gamma_wanted = float(gamma)

    def step(self) -> None:
        """Takes the newest γ, and keeps the map of volume change. Raises HyperRegError."""
        self._logic.volume_change.settle()
        mine = self._state.panel == PANEL
        self._views.set_map(self._logic.volume_change.node if mine else None)
        self._state.volume_change_note = self._logic.volume_change.note
        self._views.set_marked([node for node in self._left_out.values() if node is not None] if mine else [])
        if self._gamma_wanted is not None:
            gamma, self._gamma_wanted = self._gamma_wanted, None
            self._logic.set_hyperparameter("gamma", gamma)
        self.landmarks.step(mine)

    def place_area(self, role: str, volume: Volume, names: Mapping[int, str]) -> None:
        """Takes a label map of regions, or of what is left out of the match. names: of its labels, as far as known.

        Raises InputError if it marks nothing.
        """
        if role == REGIONS:
            self.place_regions(volume, names)
            return
        self.remove_left_out(role)
        marked = Volume((volume.array != 0).astype(np.uint8), volume.ijk_to_ras, volume.name)
        node = self._label_map(marked)
        outlines.draw_only(outlines.give_colours(node, [1], {1: "Left out"}), {1})
        self._leave_out(role, node)

    def remove_left_out(self, role: Any) -> None:
        """All of an image counts again; harmless if it does already. role: one of LEFT_OUT."""
        if role in LEFT_OUT and self._left_out[role] is not None:
            self._remove(self._take_left_out(role))

    def put_left_out_aside(self) -> None:
        """All of both images counts again, until `bring_left_out_back`."""
        self.drop_left_out_aside()
        self._left_out_aside = {role: self._take_left_out(role) for role, node in self._left_out.items() if node}

    def bring_left_out_back(self) -> None:
        """Undoes `put_left_out_aside`, but for images of which something else is left out now."""
        aside, self._left_out_aside = self._left_out_aside, {}
        for role, node in aside.items():
            if self._left_out[role] is None:
                self._leave_out(role, node)
            else:
                self._remove(node)

    def drop_left_out_aside(self) -> None:
        """What was put aside cannot be brought back any more."""
        for node in self._left_out_aside.values():
            self._remove(node)
        self._left_out_aside = {}

    def _leave_out(self, role: str, node: Any) -> None:
        self._left_out[role] = node
        self._take_along()
        setattr(self._state, f"{role}_name", node.GetName())
        self._try(lambda: self._logic.constraints.set_left_out(role.partition("_")[0], node))

    def _take_along(self) -> None:
        """What is left out of the moving image is where that is, also while λ bends it."""
        moving, area = self._pair.nodes.get("moving"), self._left_out["moving_left_out"]
        if moving is not None and area is not None:
            linked.accompany(moving, area)

    def _take_left_out(self, role: str) -> Any:
        """All of an image counts again; the node, which stays in the scene."""
        node, self._left_out[role] = self._left_out[role], None
        setattr(self._state, f"{role}_name", "")
        self._try(lambda: self._logic.constraints.set_left_out(role.partition("_")[0], None))
        return node

    def _remove(self, node: Any) -> None:
        """Of a label map, with its colours."""
        colours = node.GetDisplayNode().GetColorNode()
        self._discard(node)
        self._discard(colours)

    def _discard(self, node: Any) -> None:
        """Takes a node out of the scene; one that is held is only hidden."""
        if node in self._held:
            if node.IsA(landmarks.NODE_TYPE):  # label maps are seen only where a view is told to show them
                node.GetDisplayNode().SetVisibility(False)
        elif node is not None:
            self._scene.RemoveNode(node)

    # What is marked, while other images are open

    def hold(self) -> HeldMarks:
        """What is marked, so that `bring_back` can bring it back whatever is opened meanwhile; until `drop`."""
        state = self._state
        held = HeldMarks(
            points=dict(self.landmarks.nodes),
            landmarks=self.landmarks.marks,
            left_out=dict(self._left_out),
            regions_node=self._node,
            colours=self._colours,
            regions_name=state.regions_name,
            regions=state.regions,
        )
        self._held = held.all_nodes
        return held

    def bring_back(self, held: HeldMarks) -> None:
        """Marks what was marked then, by its very nodes, and nothing else."""
        for role in LEFT_OUT:
            self.remove_left_out(role)
        self.remove_regions()
        self.landmarks.bring_back(held.points, held.landmarks)
        self._held = []
        for role, node in held.left_out.items():
            if node is not None:
                self._leave_out(role, node)
        if held.regions_node is not None:
            self._node, self._colours = held.regions_node, held.colours
            self._views.set_outlines(self._node.GetID())
            self._state.regions_name = held.regions_name
            self._set_regions(held.regions)

    def drop(self, held: HeldMarks) -> None:
        """What was marked then, and is not now, is wanted no more."""
        self._held = []
        marks = [*self.landmarks.nodes.values(), *self._left_out.values(), self._node]
        still = [*marks, *(_colours_of(node) for node in marks), self._colours]
        for node in held.all_nodes:
            if node not in still:
                self._scene.RemoveNode(node)

    def _label_map(self, volume: Volume) -> Any:
        node = self._scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", volume.name)
        geometry.volume_to_node(volume, node)
        node.CreateDefaultDisplayNodes()
        return node

    def place_regions(self, volume: Volume, names: Mapping[int, str] | None = None) -> None:
        """Offers the labels of a label map of the fixed image as regions. names: of its labels, as far as known.

        Raises InputError if it has none.
        """
        self.remove_regions()
        node = self._label_map(volume)
        node.GetDisplayNode().SetVisibility(False)
        labels = [int(label) for label in np.unique(volume.array) if label > 0]
        self._colours = outlines.give_colours(node, labels, names or {})
        self._node = node
        try:
            found = regions.regions_of(node)
        except InputError:
            self.remove_regions()
            raise
        self._views.set_outlines(node.GetID())
        self._state.regions_name = volume.name
        self._state.regions = [
            {
                "key": region.key,
                "name": region.name,
                "colour": _hex(region.colour),
                "own": False,
                "lam": None,
                "rigid": False,
            }
            for region in found
        ]

    def remove_regions(self) -> None:
        """Everything follows the slider again; the label map is forgotten."""
        self._state.regions, self._state.regions_name = [], ""
        node, self._node = self._node, None
        colours, self._colours = self._colours, None
        if node is not None:
            self._views.set_outlines(None)
            self._logic.constraints.set_regions(None, {})
        self._discard(node)
        self._discard(colours)

    def set_region(self, key: Any, own: Any, lam: Any) -> None:
        """A segment was given a λ of its own, or left to the slider; lam None: begins where the slider is."""
        lam = round(self._logic.lam, 2) if lam is None else lam
        if not isinstance(own, bool) or not _is_number(lam) or not 0 <= lam <= 1:
            self._tell("The λ of a region is a number between 0 (most flexible) and 1 (most rigid).")
            return
        self._change_region(key, {"own": own, "lam": float(lam)})

    def set_rigid(self, key: Any, on: Any) -> None:
        """A segment moves as one rigid body from now on, or bends again."""
        if isinstance(on, bool):
            self._change_region(key, {"rigid": on})

    def _change_region(self, key: Any, changes: dict[str, Any]) -> None:
        self._set_regions([{**row, **changes} if row["key"] == key else row for row in self._state.regions])

    def _set_regions(self, rows: list[dict[str, Any]]) -> None:
        self._state.regions = rows
        lambdas = {row["key"]: row["lam"] for row in rows if row["own"]}
        rigid = {row["key"] for row in rows if row["rigid"]}
        outlines.draw_only(self._colours, {int(other) for other in rigid | set(lambdas)})
        self._try(lambda: self._logic.constraints.set_regions(self._node, lambdas, rigid))

    # What the logic says

    def update(self) -> None:
        """Shows what can be done, and the response with the slider in it."""
        state, logic, live = self._state, self._logic, self._logic.live
        is_live, suggestion, lam = state.phase == LIVE, live.suggestion, logic.lam
        self._take_along()
        state.stage_text = texts.stage_text(live) if is_live else ""
        state.contrast_note = live.note if is_live else ""
        state.full_automatically, state.can_request_full = live.full_automatically, live.can_request_full
        state.work_text = texts.work_text(live)
        state.work_progress = 0.0 if live.work is None else 100 * live.work.fraction
        state.full_running = live.is_computing_full
        self.landmarks.update()
        state.worse = live.worse if is_live else ""
        state.suggested = "" if suggestion is None else f"{suggestion.lam:.2f}"
        state.suggestion_reason = "" if suggestion is None else suggestion.reason
        state.suggestion_taken = suggestion is not None and abs(suggestion.lam - lam) < SAME_ON_SCREEN
        drawn = (live.response, suggestion, lam, live.metrics)
        if drawn != self._drawn:
            self._drawn = drawn
            state.response_svg = chart.svg(*drawn)

    def _try(self, action: Callable[[], None]) -> None:
        self._state.error = ""
        try:
            action()
        except HyperRegError as error:
            self._tell(str(error))
        self.update()


def _colours_of(node: Any) -> Any:
    display = node.GetDisplayNode() if node is not None and node.IsA("vtkMRMLLabelMapVolumeNode") else None
    return display.GetColorNode() if display is not None else None


def _declared_gamma(model: Any) -> Hyperparameter | None:
    try:
        card = find_model(str(model))
    except WeightsError:
        return None
    return next((found for found in card.hyperparameters[1:] if found.name == "gamma"), None)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _hex(colour: tuple[float, float, float]) -> str:
    return "#" + "".join(f"{round(255 * part):02x}" for part in colour)
