"""What the user knows of a pair, marked in the scene: regions (own λ, rigid), landmarks, areas left out."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.transform import Matrix, Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import regions
from hyperreg.mrml.registration import landmarks
from hyperreg.mrml.registration.masks import ROLES, LeftOut
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.landmarks import pair_landmarks
from hyperreg.registration.start import landmark_alignment
from hyperreg.worker.live.state import LiveState, Registration


class Constraints:
    """Keeps the marks, also without a registration, and brings them to one that is live.

    scene: the vtkMRMLScene of the marks. registration: brings them to the worker.
    live_grids(): of the fixed and the moving volume, in the world; None while no registration is live.
    on_change(): what is shown may have been made without the marks of now. on_error(message): in words for the user.
    """

    def __init__(
        self,
        scene: slicer.vtkMRMLScene,
        registration: Registration,
        live_grids: Callable[[], tuple[Grid, Grid] | None],
        on_change: Callable[[], None],
        on_error: Callable[[str], None],
    ) -> None:
        self.scene, self.registration = scene, registration
        self._live_grids, self._on_change, self._on_error = live_grids, on_change, on_error
        self._regions_id: str | None = None
        self._region_lambdas: dict[str, float] = {}
        self._rigid: frozenset[str] = frozenset()
        self._drawn_regions = regions.Drawing()
        # Of the regions' keys, the label values that were sent last.
        self._values: dict[str, int] = {}
        self._left_out = {role: LeftOut(role) for role in ROLES}
        self._landmark_ids: tuple[str | None, str | None] = (None, None)
        self._landmarks = landmarks.Chosen()
        self._pull, self._measured_only, self._growing = 0.0, frozenset[str](), False
        self._rows: tuple[Any, list[landmarks.Row]] = (None, [])

    # What can be asked

    @property
    def words(self) -> list[str]:
        """What a result is made with, for its description; [] for nothing. What the engine has refused is no part."""
        there = self.registration.state.constraints
        found = [
            f"λ of {key}={there.region_lambdas[value]:.2f}"
            for key, value in self._values.items()
            if value in there.region_lambdas
        ]
        if rigid := sorted(key for key, value in self._values.items() if value in there.rigid_values):
            found.append(f"rigid={'+'.join(rigid)}")
        masks = zip(ROLES, (there.fixed_mask, there.moving_mask), strict=True)
        if left_out := [role for role, mask in masks if mask is not None]:
            found.append(f"left out={'+'.join(left_out)}")
        if there.landmarks is not None:
            found.append(f"pull={there.landmarks.pull:.2f}")
        return found

    @property
    def landmarks_note(self) -> str:
        """How many pairs of landmarks there are, or what is missing, in words for the user; "" for none."""
        return self._landmarks.note

    @property
    def landmark_rows(self) -> list[landmarks.Row]:
        """The pairs of landmarks with their distances by what is shown; the same list as long as nothing changes."""
        live = self.registration.state if self._live_grids() is not None else LiveState()
        state = (self._landmarks, live.shown, self._measured_only, live.pair)
        if self._rows[0] != state:
            self._rows = state, self._measured_rows(live)
        return self._rows[1]

    def _measured_rows(self, live: LiveState) -> list[landmarks.Row]:
        found, pair, shown = self._landmarks, live.pair, live.shown
        distances: list[Any] = [[None] * len(found.points)] * 2
        if pair is not None and shown is not None and found.fixed is not None and found.moving is not None:
            ways = Transform((pair.linear,)), Transform((shown.forward, pair.linear))
            distances = [np.linalg.norm(way.apply(found.fixed) - found.moving, axis=1).tolist() for way in ways]
        return [
            landmarks.Row(key, moving_key, name, before, now, key in self._measured_only)
            for (key, moving_key, name), before, now in zip(found.points, *distances, strict=True)
        ]

    def landmark_alignment(self) -> Matrix:
        """The linear map of fixed RAS to moving RAS, mm, that the landmarks alone ask for: (4, 4).

        Raises InputError without pairs of landmarks, and as `start.landmark_alignment` does.
        """
        found = self._chosen_landmarks()
        pair = pair_landmarks(found.fixed, found.moving)
        if pair is None:
            raise InputError(
                found.note or "An alignment by landmarks needs landmarks of both images: place or open them first."
            )
        return landmark_alignment(pair)

    # What can be set

    def set_regions(
        self, node: slicer.vtkMRMLNode | None, lambdas: Mapping[str, float], rigid: Collection[str] = ()
    ) -> None:
        """Gives segments of a segmentation or label map on the fixed volume their own λ, or makes them rigid, live.

        lambdas: by the keys of `regions.regions_of`; what is not named follows the slider. None or {}: no regions.
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
            self.send()

    def set_left_out(self, role: str, node: slicer.vtkMRMLNode | None, key: str = "") -> None:
        """Leaves what a segmentation or label map marks out of the match, live; to be called again when it was edited.

        role: "fixed" or "moving", the volume that it was drawn on. key: of one segment (see `regions.Region`), "" for
        all. None: everything counts. What cannot be used is told by `on_error`, as soon as there is a registration.
        """
        left_out = self._left_out[role]
        wanted = (node.GetID(), key, regions.stamp(node)) if node is not None else None
        if left_out.wanted != wanted:
            left_out.wanted = wanted
            self.send()

    def set_landmarks(
        self,
        fixed: slicer.vtkMRMLMarkupsNode | None,
        moving: slicer.vtkMRMLMarkupsNode | None,
        pull: float = 0.0,
        measured_only: Collection[str] = (),
        growing: bool = False,
    ) -> None:
        """Measures by point lists of both volumes, and lets their points attract each other, live.

        pull: 0, only measured, to 1. measured_only: ids of the fixed list's points that never pull. growing: see
        `landmarks.chosen`. To be called again when points have changed; `landmarks_note` and `landmark_rows` tell what
        came of it. Raises InputError for a list that cannot be used, and for points that cannot pull: they are only
        measured then.
        """
        self._landmark_ids = fixed and fixed.GetID(), moving and moving.GetID()
        self._pull, self._measured_only, self._growing = pull, frozenset(measured_only), growing
        try:
            self._send_landmarks()
        finally:
            self._on_change()

    # The registration

    def send(self) -> None:
        """Brings a live registration all marks; it ignores what it has already."""
        if self._live_grids() is None:
            return
        for send in (self._send_regions, self._send_masks, self._send_landmarks):
            try:
                send()
            except HyperRegError as error:
                self._on_error(str(error))
        self._on_change()

    def node_leaves(self, node: slicer.vtkMRMLNode) -> bool:
        """Whether a node that leaves the scene held marks: they count no more."""
        leaving, found = node.GetID(), False
        if leaving == self._regions_id:
            found = True
            self.set_regions(None, {})
            self._on_error(f"'{node.GetName()}' was deleted; its regions follow the slider again.")
        for role, left_out in self._left_out.items():
            if leaving == left_out.node_id:
                found = True
                self.set_left_out(role, None)
                self._on_error(f"'{node.GetName()}' was deleted; all of the {role} volume counts again.")
        if leaving in self._landmark_ids:
            found = True
            fixed, moving = (None if node_id == leaving else self._node(node_id) for node_id in self._landmark_ids)
            self.set_landmarks(fixed, moving, self._pull, self._measured_only, self._growing)
        return found

    def forget(self) -> None:
        """The scene is closed."""
        self._regions_id, self._region_lambdas, self._rigid = None, {}, frozenset()
        for left_out in self._left_out.values():
            left_out.wanted = None
        self._landmark_ids, self._landmarks = (None, None), landmarks.Chosen()

    def _send_regions(self) -> None:
        node = self._node(self._regions_id)
        labels: Volume | None = None
        self._values = {}
        if node is not None and (self._region_lambdas or self._rigid):
            labels, self._values = self._drawn_regions.read(node)
        lambdas = {self._values[key]: lam for key, lam in self._region_lambdas.items() if key in self._values}
        rigid = sorted(self._values[key] for key in self._rigid if key in self._values)
        self.registration.set_regions(labels if lambdas else None, lambdas)
        self.registration.set_rigid(labels if rigid else None, rigid)

    def _send_masks(self) -> None:
        masks: list[Volume | None] = []
        for grid, left_out in zip(self._live_grids() or (), self._left_out.values(), strict=True):
            node = self._node(left_out.node_id)
            try:
                masks.append(None if node is None else left_out.mask(node, grid))
            except HyperRegError as error:
                masks.append(None)  # an area from before would be worse than none
                self._on_error(str(error))
        self.registration.set_masks(*masks)

    def _send_landmarks(self) -> None:
        self._landmarks = landmarks.Chosen()
        try:
            self._landmarks = self._chosen_landmarks()
        finally:
            if self._live_grids() is not None:
                pair = self._landmarks.fixed, self._landmarks.moving
                try:
                    rows = self._landmarks.rows(self._measured_only)
                    self.registration.set_landmarks(*pair, self._pull, rows)
                except InputError:
                    self.registration.set_landmarks(*pair)
                    raise

    def _chosen_landmarks(self) -> landmarks.Chosen:
        fixed, moving = (self._node(node_id) for node_id in self._landmark_ids)
        return landmarks.chosen(fixed, moving, self._growing)

    def _node(self, node_id: str | None) -> Any:
        return self.scene.GetNodeByID(node_id) if node_id else None
