"""What can be done to a live registration besides moving λ: resolution, γ, regions, landmarks, the λ response.

MRML only, no Qt; the part of `Logic.RegistrationLogic` that knows nothing of how a registration begins and ends.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import SAME_LAMBDA, check_lambda
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.response import Response, Suggestion, warning
from hyperreg.worker.live_pair import Shown
from HyperRegSlicerLib import Landmarks, Masks, Regions, Results, VolumeChange

IDLE, RUNNING, LIVE = "idle", "running", "live"
# What takes a moment is computed when nothing has moved for so long.
REST_S = 0.15


def ignore(*_anything: Any) -> None:
    """The callback of who does not want to know."""


class Tuning:
    """The base of `RegistrationLogic`; the callbacks are described there."""

    state: str
    is_solved: bool
    grids: tuple[Grid, Grid]
    transform_node: slicer.vtkMRMLTransformNode | None

    def __init__(self, scene: slicer.vtkMRMLScene, registration: Any) -> None:
        self.scene = scene
        self.registration = registration
        self.on_change: Callable[[], None] = ignore
        self.on_work: Callable[[float, str], None] = ignore
        self.on_response: Callable[[], None] = ignore
        self.on_error: Callable[[str], None] = ignore

        self.lam = 0.0
        self.contrast = AUTOMATIC
        self.symmetric = False
        self.shown: Shown | None = None
        self.metrics: Mapping[str, Any] = {}
        self.response = Response()
        self.suggestion: Suggestion | None = None
        self._landmarks = Landmarks.Chosen()
        self._pull, self._measured_only = 0.0, frozenset[str]()
        self._rows: tuple[Any, list[Landmarks.Row]] = (None, [])
        self._values: dict[str, float] = {}
        self._landmark_ids: tuple[str | None, str | None] = (None, None)
        self._regions_id: str | None = None
        self._region_lambdas: dict[str, float] = {}
        self._rigid: frozenset[str] = frozenset()
        self._drawn_regions = Regions.Drawing()
        self._left_out = {role: Masks.LeftOut(role) for role in Masks.ROLES}

        # The map of local volume change: whether it is wanted, what it is of, and when something moved last.
        self._change_wanted = False
        self._change_of: Shown | None = None
        self._moved_at = 0.0
        # Where the fixed volume shows the body, and on which grid.
        self._body: tuple[Any, Any] = (None, None)

        registration.on_work = self._worked
        registration.on_response = self._response_changed

    @property
    def origin(self) -> Results.Origin:
        """λ and everything else that makes what the transform node shows."""
        parts = [f"{name}={value:.2f}" for name, value in self.registration.values.items()]
        parts += [f"λ of {key}={lam:.2f}" for key, lam in self._region_lambdas.items()]
        if self._rigid:
            parts.append(f"rigid={'+'.join(sorted(self._rigid))}")
        if left_out := [role for role, area in self._left_out.items() if area.wanted is not None]:
            parts.append(f"left out={'+'.join(left_out)}")
        if self._pull and self._landmarks.fixed is not None:
            parts.append(f"pull={self._pull:.2f}")
        if self.contrast != AUTOMATIC:
            parts.append(f"contrast={self.contrast}")
        if self.symmetric:
            parts.append("symmetric")
        lam, stage = (self.shown.lam, self.shown.title) if self.shown is not None else (self.lam, "")
        return Results.Origin(lam, stage, "; ".join(parts))

    @property
    def stage_text(self) -> str:
        """In words for the user, what the views show; "" before the first field."""
        if self.shown is None:
            return ""
        if abs(self.shown.lam - self.lam) > SAME_LAMBDA:
            # At one end of the slider no field is known yet: the picture has the nearest λ that has one.
            return f"Shows λ = {self.shown.lam:.2f} until λ = {self.lam:.2f} is computed"
        return self.shown.title

    @property
    def is_final(self) -> bool:
        """Whether what is shown will not become any better."""
        return self.shown is not None and self.shown.final and abs(self.shown.lam - self.lam) <= SAME_LAMBDA

    @property
    def work_text(self) -> str:
        """In words for the user, what is being computed; "" for nothing."""
        found = self.registration.working_at if self.state == LIVE else None
        return "" if found is None else f"{found[1].text} at λ = {found[0]:.2f}"

    @property
    def note(self) -> str:
        """In words for the user, how the pair is registered, such as its contrast; "" for nothing."""
        return str(self.registration.note) if self.state == LIVE else ""

    @property
    def has_stages(self) -> bool:
        """Whether there is a full resolution besides what comes first; a network alone has one stage."""
        return self.state == LIVE and len(self.registration.stages) > 1

    @property
    def is_computing_full(self) -> bool:
        """Whether a field is being computed at full resolution, at whatever λ."""
        found = self.registration.working_at if self.has_stages else None
        return found is not None and found[1] == self.registration.stages[-1]

    @property
    def full_automatically(self) -> bool:
        """Whether full resolution comes by itself."""
        return bool(self.registration.full_automatically)

    @property
    def can_request_full(self) -> bool:
        """Whether full resolution at the shown λ has to be asked for, and can be."""
        return self.state == LIVE and self.shown is not None and not self.is_final and not self.registration.full_wanted

    @property
    def warning(self) -> str:
        """In words for the user, if what is shown is worse than the linear alignment alone; else ""."""
        return warning(self.metrics) or ""

    @property
    def volume_change_node(self) -> slicer.vtkMRMLScalarVolumeNode | None:
        """The map of local volume change, %, of exactly what is shown; None where there is none (yet)."""
        if not self._change_wanted or not self.is_solved or self._change_of is not self.shown:
            return None
        return VolumeChange.node_of(self.transform_node)

    def set_volume_change(self, on: bool) -> None:
        """Whether there is a map of local volume change, made by `settle`; without one none stays in the scene."""
        if on == self._change_wanted:
            return
        self._change_wanted = on
        if not on:
            VolumeChange.remove(self.transform_node)
        self.on_change()

    def settle(self) -> None:
        """To be called regularly: does what has to wait until nothing moves."""
        node = self.transform_node
        if not self._change_wanted or self.state != LIVE or not self.is_solved or node is None or self.shown is None:
            return
        if self.volume_change_node is None and time.monotonic() - self._moved_at >= REST_S:
            fixed, moving = Results.ends(node)
            field = self.shown.fields.forward
            place = (fixed, fixed.GetMTime(), field.grid.shape, field.ijk_to_ras.tobytes())
            if self._body[0] != place:
                self._body = place, VolumeChange.body_of(fixed, field.grid)
            found = VolumeChange.fill(node, field, self._body[1])
            found.SetName(f"{moving.GetName()} local volume change {self.origin.title} (%)")
            self._describe(found)
            self._change_of = self.shown
            self.on_change()

    def _describe(self, node: slicer.vtkMRMLNode) -> None:
        """Writes on a node what it was made with."""
        raise NotImplementedError

    def set_hyperparameter(self, name: str, value: float) -> None:
        """Sets a hyperparameter other than λ, also for registrations to come; models that have it not ignore it.

        Raises InputError outside [0, 1].
        """
        if not 0 <= value <= 1:
            raise InputError(f"'{name}' must lie between 0 and 1, not {value}.")
        if self._values.get(name) != value:
            self._values[name] = value
            self._send_settings()

    def set_regions(
        self, node: slicer.vtkMRMLNode | None, lambdas: Mapping[str, float], rigid: Collection[str] = ()
    ) -> None:
        """Gives segments of a segmentation or label map on the fixed volume their own λ, or makes them rigid, live.

        lambdas: by the keys of `Regions.regions_of`; what is not named follows the slider. None or {}: no regions.
        rigid: keys of segments that move as one rigid body each.
        Raises InputError for a λ outside [0, 1] or a node that cannot be used; nothing has changed then.
        """
        wanted = {key: check_lambda(lam) for key, lam in lambdas.items()} if node is not None else {}
        stiff = frozenset(rigid) if node is not None else frozenset[str]()
        before = self._regions_id, self._region_lambdas, self._rigid, self._drawn_regions.labels
        if node is not None and (wanted or stiff):
            self._drawn_regions.read(node)
        self._regions_id, self._region_lambdas, self._rigid = node and node.GetID(), wanted, stiff
        if (self._regions_id, self._region_lambdas, self._rigid, self._drawn_regions.labels) != before:
            self._send_settings()

    def set_left_out(self, role: str, node: slicer.vtkMRMLNode | None, key: str = "") -> None:
        """Leaves what a segmentation or label map marks out of the match, live; to be called again when it was edited.

        role: "fixed" or "moving", the volume that it was drawn on. key: of one segment (see `Regions.Region`), "" for
        all. None: everything counts. What cannot be used is told by `on_error`, as soon as there is a registration.
        """
        left_out = self._left_out[role]
        wanted = (node.GetID(), key, Regions.stamp(node)) if node is not None else None
        if left_out.wanted != wanted:
            left_out.wanted = wanted
            self._send_settings()

    def set_landmarks(
        self,
        fixed: slicer.vtkMRMLMarkupsNode | None,
        moving: slicer.vtkMRMLMarkupsNode | None,
        pull: float = 0.0,
        measured_only: Collection[str] = (),
    ) -> None:
        """Measures by point lists of both volumes, and lets their points attract each other, live.

        pull: 0, only measured, to 1. measured_only: ids of the fixed list's points that never pull. To be called again
        when points have changed; `landmarks_note` and `landmark_rows` tell what came of it. Raises InputError for a
        list that cannot be used, and for points that cannot pull: they are only measured then.
        """
        self._landmark_ids = fixed and fixed.GetID(), moving and moving.GetID()
        self._pull, self._measured_only = pull, frozenset(measured_only)
        try:
            self._send_landmarks()
        finally:
            self._take_settings()

    def _send_landmarks(self) -> None:
        self._landmarks = Landmarks.Chosen()
        try:
            self._landmarks = Landmarks.chosen(*(self._node(node_id) for node_id in self._landmark_ids))
        finally:
            if self.state == LIVE:
                pair = self._landmarks.fixed, self._landmarks.moving
                try:
                    rows = self._landmarks.rows(self._measured_only)
                    self.registration.set_landmarks(*pair, self._pull, rows)
                except InputError:
                    self.registration.set_landmarks(*pair)
                    raise

    @property
    def landmarks_note(self) -> str:
        """How many pairs of landmarks there are, or what is missing, in words for the user; "" for none."""
        return self._landmarks.note

    @property
    def landmark_rows(self) -> list[Landmarks.Row]:
        """The pairs of landmarks with their distances by what is shown."""
        state = (self._landmarks, self.shown, self._measured_only, self.state)
        if self._rows[0] != state:
            self._rows = state, self._landmark_rows()
        return self._rows[1]

    def _landmark_rows(self) -> list[Landmarks.Row]:
        found = self._landmarks
        distances: list[Any] = [[None] * len(found.points)] * 2
        if self.state == LIVE and self.shown is not None and found.fixed is not None:
            linear = self.registration.linear
            ways = Transform((linear,)), Transform((self.shown.fields.forward, linear))
            distances = [np.linalg.norm(way.apply(found.fixed) - found.moving, axis=1).tolist() for way in ways]
        return [
            Landmarks.Row(key, name, before, now, key in self._measured_only)
            for (key, name), before, now in zip(found.points, *distances, strict=True)
        ]

    @property
    def is_waiting(self) -> bool:
        """Whether the first field with the settings of now is still on its way."""
        return self.state == LIVE and self.shown is None and bool(self.registration.busy)

    def set_full_automatically(self, on: bool) -> None:
        """Whether full resolution comes by itself, first at the shown λ; or only when `request_full` asks for it."""
        if on != self.full_automatically:
            self.registration.set_full_automatically(on)
            self.on_change()

    def request_full(self) -> None:
        """Asks for full resolution at the shown λ. Raises InputError unless a registration is live."""
        self.registration.request_full()
        self.on_change()

    def cancel_full(self) -> None:
        """Gives up full resolution; what is shown stays, and from now on it comes only when asked for."""
        self.registration.cancel_full()
        self.on_change()

    def _worked(self, fraction: float, text: str) -> None:
        self.on_work(fraction, text)

    def _response_changed(self, response: Response, suggestion: Suggestion | None) -> None:
        self.response, self.suggestion = response, suggestion
        self.on_response()

    def _send_settings(self) -> None:
        """Brings the worker what is set besides λ; what it has already is no news to it."""
        if self.state != LIVE:
            return
        for name in self.registration.values:
            if name in self._values:
                self.registration.set_hyperparameter(name, self._values[name])
        for send in (self._send_regions, self._send_masks, self._send_landmarks):
            try:
                send()
            except HyperRegError as error:
                self.on_error(str(error))
        self._take_settings()

    def _take_settings(self) -> None:
        """What was shown with other settings is not the result of those of now."""
        if self.state == LIVE and self.registration.shown is None:
            self.shown, self.metrics = None, {}
        self.on_change()

    def _send_regions(self) -> None:
        node = self._node(self._regions_id)
        labels, values = None, {}
        if node is not None and (self._region_lambdas or self._rigid):
            labels, values = self._drawn_regions.read(node)
        lambdas = {values[key]: lam for key, lam in self._region_lambdas.items() if key in values}
        rigid = sorted(values[key] for key in self._rigid if key in values)
        self.registration.set_regions(labels if lambdas else None, lambdas)
        self.registration.set_rigid(labels if rigid else None, rigid)

    def _send_masks(self) -> None:
        masks: list[Volume | None] = []
        for grid, left_out in zip(self.grids, self._left_out.values(), strict=True):
            node = self._node(left_out.node_id)
            try:
                masks.append(None if node is None else left_out.mask(node, grid))
            except HyperRegError as error:
                masks.append(None)  # an area from before would be worse than none
                self.on_error(str(error))
        self.registration.set_masks(*masks)

    def _marks_leave(self, node: slicer.vtkMRMLNode) -> bool:
        """Whether a node that leaves the scene held regions, landmarks or what is left out: it counts no more."""
        leaving, found = node.GetID(), False
        if leaving == self._regions_id:
            found = True
            self.set_regions(None, {})
            self._tell_end(f"'{node.GetName()}' was deleted; its regions follow the slider again.")
        for role, left_out in self._left_out.items():
            if leaving == left_out.node_id:
                found = True
                self.set_left_out(role, None)
                self._tell_end(f"'{node.GetName()}' was deleted; all of the {role} volume counts again.")
        if leaving in self._landmark_ids:
            found = True
            left = (None if node_id == leaving else self._node(node_id) for node_id in self._landmark_ids)
            self.set_landmarks(*left, self._pull, self._measured_only)
        return found

    def _forget_marks(self) -> None:
        """The scene is closed."""
        self._regions_id, self._region_lambdas, self._rigid = None, {}, frozenset()
        for left_out in self._left_out.values():
            left_out.wanted = None
        self._landmark_ids, self._landmarks = (None, None), Landmarks.Chosen()

    def _tell_end(self, message: str) -> None:
        self.on_change()
        self.on_error(message)

    def _node(self, node_id: str | None) -> Any:
        return self.scene.GetNodeByID(node_id) if node_id else None
