"""Landmarks of the open pair: placed by clicks, dragged, named, removed and saved, or opened from files."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.errors import HyperRegError
from hyperreg.mrml import linked
from hyperreg.mrml.lifecycle import LIVE
from hyperreg.mrml.registration import landmarks
from hyperreg.mrml.registration.logic import RegistrationLogic
from hyperreg.registration.landmarks import lie_outside
from hyperreg.view.loading import POINTS
from hyperreg.view.pair import OpenPair
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS, SIDE_BY_SIDE

FIXED, MOVING = POINTS
# As in the page: the fixed image's cyan, the moving one's orange.
COLOURS = {FIXED: (0.2, 0.9, 1.0), MOVING: (1.0, 0.6, 0.1)}
# Where the points of each image are drawn, side by side.
VIEWS = {FIXED: tuple(BOTH_VIEWS), MOVING: tuple(MOVING_VIEWS)}
# What the page calls a list that is of no file.
PLACED = "placed here"
LONGEST_NAME = 40
MOST_UNDONE = 100
# While a point is dragged the registration is told so often at most.
EVERY_S = 0.1

# Of all lists: of each point, by role and id, its name and its place, (3,) mm, on its own image.
Where = dict[str, dict[str, tuple[str, tuple[float, ...]]]]


@dataclass(frozen=True)
class Marks:
    """All landmarks at one time. files: that the lists are of, by role, "" for what was placed here. growing: whether
    pairs were placed one after the other, see `landmarks.chosen`. measured_only: ids of the fixed list."""

    where: Where
    files: dict[str, str]
    growing: bool
    measured_only: frozenset[str]


class LandmarkControls:
    """The controller's part for landmarks.

    state, scene, logic, views, pair, files, tell: as for `TuningControls`.
    discard(node): takes a node out of the scene, unless it may be wanted again.
    """

    def __init__(
        self,
        state: Any,
        scene: slicer.vtkMRMLScene,
        logic: RegistrationLogic,
        views: Any,
        pair: OpenPair,
        files: PrivateFiles,
        discard: Callable[[Any], None],
        tell: Callable[[str], None],
    ) -> None:
        self._state, self._scene, self._logic, self._views = state, scene, logic, views
        self._pair, self._downloads, self._discard, self._tell = pair, files, discard, tell
        # The point lists by role, None for none; of the rest see `Marks`.
        self.nodes: dict[str, Any] = dict.fromkeys(POINTS)
        self._files = dict.fromkeys(POINTS, "")
        self._growing = False
        self._measured_only = frozenset[str]()
        self._pull = self._pull_wanted = 0.0
        self._placing, self._mode_before = False, ""
        # Since the last look: whether a point has changed; of which list one is being dragged.
        self._touched, self._dragged = False, ""
        # Whether points have changed since the registration was told of them, and when that was.
        self._unsent, self._sent_at = False, 0.0
        self._settled = self._marks()
        self._past: list[Marks] = []
        self._rows: Any = None

    # The user's actions

    def open(self, role: str, points: npt.NDArray[np.float64], names: Sequence[str], file: str) -> None:
        """Takes the landmarks of one image from a file. role: one of POINTS; points: (P, 3), RAS mm; names: of each."""
        self.set_placing(False)
        self._drop(role)
        self._growing = False
        if role == FIXED:
            self._measured_only = frozenset()
        self._fill(role, [(name, point.tolist()) for name, point in zip(names, points, strict=True)], file)
        self._changed()

    def remove_list(self, role: Any) -> None:
        """Forgets the landmarks of one image; harmless if there are none."""
        if role in POINTS and self.nodes[role] is not None:
            self.set_placing(False)
            self._drop(role)
            self._changed()

    def image_leaves(self, image: str) -> None:
        """Another image takes the place of this one: its landmarks go, and no undo brings them back."""
        self.remove_list(f"{image}_points")
        self._forget_past()

    def set_placing(self, on: Any) -> None:
        """Whether a click into a view places a landmark: one in the fixed image, then the same in the moving one."""
        if not isinstance(on, bool) or on is self._placing:
            return
        if on and (problem := self._why_not_placed()):
            self._state.placing = False
            self._tell(problem)
            return
        state = self._state
        state.placing = self._placing = on
        if on:
            state.error = ""
            self._mode_before, state.mode = state.mode, SIDE_BY_SIDE
            state.sections = list(dict.fromkeys([*state.sections, "labels"]))
            self._name_pairs_alike()
            self._growing = True
            self._ask_for_next()
        else:
            self._views.place(None)
            state.placing_hint = state.placing_role = ""
            if state.mode == SIDE_BY_SIDE:
                state.mode = self._mode_before

    def ask_pull(self, pull: Any) -> None:
        """The pull of the landmarks was moved; the newest value is taken by the next `step`."""
        if isinstance(pull, bool) or not isinstance(pull, (int, float)) or not 0 <= pull <= 1:
            self._tell(f"The pull of the landmarks is a number between 0 (only measured) and 1, not {pull!r}.")
            return
        self._pull_wanted = float(pull)

    def set_pulling(self, key: Any, on: Any) -> None:
        """Whether a pair of landmarks pulls, or only measures."""
        if isinstance(on, bool) and self._row(key) is not None:
            self._measured_only = self._measured_only - {key} if on else self._measured_only | {key}
            self._changed()

    def rename(self, key: Any, name: Any) -> None:
        """Another name for a pair of landmarks; lists of files are paired by names, so that no two are alike."""
        row, name = self._row(key), " ".join(str(name).split())[:LONGEST_NAME]
        if row is None or name == row.name:
            return
        if not name or name in self._names():
            self._tell(f"There is a landmark '{name}' already." if name else "A landmark needs a name.")
            self._state.dirty("landmark_rows")  # what was typed gives way to the name that it has
            return
        self._name_pairs_alike()
        self._name(row, name)
        self._changed()

    def remove(self, key: Any) -> None:
        """Takes a pair of landmarks away."""
        if (row := self._row(key)) is not None:
            self._name_pairs_alike()
            for node, point in self._points_of(row):
                node.RemoveNthControlPoint(point)
            self._measured_only -= {key}
            self._changed()

    def go_to(self, key: Any) -> None:
        """Shows the slices through a landmark of the fixed image."""
        if (row := self._row(key)) is not None:
            self._show_point(*self._points_of(row)[0])

    def undo(self) -> None:
        """Takes the last change back: landmarks that were placed, dragged, named, removed, opened, or pull no more."""
        if self._past:
            self._restore(self._past.pop())
            self._changed(undone=True)
            if self._placing:
                self._ask_for_next()

    def save(self) -> None:
        """Writes the landmarks of both images for download, as point lists of 3D Slicer."""
        folder, written = self._downloads.new_folder(), []
        try:
            for role, found in self._settled.where.items():
                if found:
                    image = role.removesuffix("_points")
                    path = folder / f"{image}_landmarks.mrk.json"
                    landmarks.write(self.nodes[role], path)
                    written.append((f"Landmarks of the {image} image", path))
        except HyperRegError as error:
            self._tell(str(error))
        self._state.landmark_downloads = self._downloads.offer(written, "landmarks")

    # The clock

    def step(self, shown: bool) -> None:
        """Takes clicks and drags since the last step, and the newest pull. shown: whether the panel is."""
        side_by_side = self._state.mode == SIDE_BY_SIDE
        if self._placing and not (shown and side_by_side):
            self.set_placing(False)
        if self._touched:
            self._look()
        if self._placing and not self._views.is_placing:  # a click with the right button ends it, too
            self.set_placing(False)
        for role, node in self.nodes.items():
            if node is not None:
                self._views.draw_points(node.GetDisplayNode(), shown, VIEWS[role] if side_by_side else ())
        if self._pull_wanted != self._pull:
            self._pull, self._unsent, self._state.error = self._pull_wanted, True, ""
        soon = not self._dragged or time.monotonic() > self._sent_at + EVERY_S
        if self._unsent and soon and not self._logic.live.is_waiting and not self._aims_at_the_bent:
            self.measure()

    @property
    def _aims_at_the_bent(self) -> bool:
        """Whether a point is being dragged over a picture that its own pull would move away below the mouse."""
        return self._dragged == MOVING and self._pull > 0 and self._state.phase == LIVE

    def measure(self) -> None:
        """Tells the registration of the landmarks as they are."""
        self._unsent, self._sent_at = False, time.monotonic()
        fixed, moving = (
            node if self._growing or self._settled.where[role] else None for role, node in self.nodes.items()
        )
        try:
            self._logic.constraints.set_landmarks(fixed, moving, self._pull, self._measured_only, self._growing)
        except HyperRegError as error:
            self._tell(str(error))
        self.update()

    def update(self) -> None:
        """Shows the landmarks where their images are, and their distances by what the views show."""
        state, moving = self._state, self._pair.nodes.get("moving")
        if moving is not None and self.nodes[MOVING] is not None:
            linked.accompany(moving, self.nodes[MOVING])
        state.landmarks_note = self._logic.constraints.landmarks_note
        if (rows := self._logic.constraints.landmark_rows) is not self._rows:
            self._rows = rows
            state.landmark_rows = [
                {
                    "key": row.key,
                    "name": row.name,
                    "before": _mm(row.before),
                    "now": _mm(row.now),
                    "pulls": not row.measured,
                }
                for row in rows
            ]

    # Other images

    @property
    def marks(self) -> Marks:
        """All landmarks of now."""
        return self._settled

    def bring_back(self, nodes: Mapping[str, Any], marks: Marks) -> None:
        """The landmarks that there were with images that are open again, in their very nodes, and no others."""
        self.set_placing(False)
        for role in POINTS:
            self._drop(role)
            self.nodes[role], self._files[role] = nodes[role], marks.files[role]
        self._growing, self._measured_only = marks.growing, marks.measured_only
        if self._where() != marks.where:  # they were dragged since, on an image that stayed open
            self._restore(marks)
        self._forget_past()
        self._changed(undone=True)

    def _forget_past(self) -> None:
        self._past, self._state.landmarks_undoable = [], False

    # What is placed and dragged

    def _look(self) -> None:
        """A click has placed a point, one is being dragged, or one follows the mouse and has no place yet."""
        self._touched = False
        before, clicked = self._settled.where, False
        for role, node in self.nodes.items():
            for point in landmarks.placed(node) if node is not None else ():
                if node.GetNthControlPointID(point) not in before[role]:
                    clicked = True
                    node.SetNthControlPointLabel(point, self._next_name(role))
        changed = {role: dict(found.items() - before[role].items()) for role, found in self._where().items()}
        outside = self._outside(changed)
        if self._dragged:
            self._unsent = self._unsent or (any(changed.values()) and not outside)
        elif outside:
            self._restore(self._settled)
            self._changed(undone=True)
            self._tell(f"That place is outside of the {outside} image, where no landmark can be.")
        elif any(changed.values()):
            self._changed()
        if clicked and self._placing:
            self._ask_for_next()

    def _outside(self, changed: Where) -> str:
        """The image outside of which one of these points lies; "" for none."""
        for role, points in changed.items():
            image = role.removesuffix("_points")
            places = np.array([place for _name, place in points.values()]).reshape(-1, 3)
            if lie_outside(places, self._pair.volumes[image].grid).any():
                return image
        return ""

    def _why_not_placed(self) -> str:
        """Why no landmark can be placed now, in words; "" if one can."""
        if not self._pair.is_complete:
            return "Open both images first, then place landmarks on them."
        fixed, moving = (len(found) for found in self._settled.where.values())
        if not self._growing and fixed != moving and fixed and moving:
            return (
                f"There are {fixed} landmarks of the fixed image and {moving} of the moving one: which belong together "
                "is not known. Open lists of pairs, or remove one of the lists, before more are placed."
            )
        return ""

    def _ask_for_next(self) -> None:
        """The next click places the counterpart that is missing, or the first point of another pair."""
        for role in POINTS:
            if self.nodes[role] is None:
                self._fill(role, [], "")
        fixed, moving = (len(found) for found in self._settled.where.values())
        role, other = (MOVING, FIXED) if moving < fixed else (FIXED, MOVING)
        image, side = ("fixed", "left") if role == FIXED else ("moving", "right")
        place = "a place"
        if fixed != moving:
            place = "the same place"
            self._show_point(self.nodes[other], landmarks.placed(self.nodes[other])[min(fixed, moving)])
        self._state.placing_role = image
        self._state.placing_hint = f"Landmark {self._next_name(role)}: click {place} in the {image} image ({side})."
        self._views.place(self.nodes[role])

    def _show_point(self, node: Any, point: int) -> None:
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPositionWorld(point, place)
        self._views.jump(place)

    def _next_name(self, role: str) -> str:
        """Of the next point of a list: its counterpart's, or a number that is free."""
        other = list(self._settled.where[MOVING if role == FIXED else FIXED].values())
        here = len(self._settled.where[role])
        if here < len(other):
            return other[here][0]
        used = self._names()
        return next(name for name in map(str, range(here + 1, here + len(used) + 2)) if name not in used)

    # Points and lists

    def _changed(self, *, undone: bool = False) -> None:
        """Points are what they are now until the next change, and the registration is told. undone: it was an undo."""
        found, state = self._marks(), self._state
        if not undone and found != self._settled:
            self._past = [*self._past, self._settled][-MOST_UNDONE:]
        self._settled = found
        state.error, state.landmarks_undoable = "", bool(self._past)
        if state.landmark_downloads:  # they are of points that were elsewhere
            state.landmark_downloads = self._downloads.offer([], "landmarks")
        for role, points in found.where.items():
            setattr(state, f"{role}_name", self._files[role] or (PLACED if points else ""))
        self.update()
        self._unsent = True
        if not self._logic.live.is_waiting:
            self.measure()

    def _marks(self) -> Marks:
        return Marks(self._where(), dict(self._files), self._growing, self._measured_only)

    def _restore(self, marks: Marks) -> None:
        """Makes all points what they were; their ids are others."""
        ids: dict[str, str] = {}
        for role, points in marks.where.items():
            self._fill(role, list(points.values()), marks.files[role])
            if role == FIXED:
                ids = dict(zip(points, self._where()[role], strict=True))
        self._growing = marks.growing
        self._measured_only = frozenset(ids[key] for key in marks.measured_only if key in ids)

    def _where(self) -> Where:
        found: Where = {}
        for role, node in self.nodes.items():
            found[role] = {}
            for point in landmarks.placed(node) if node is not None else ():
                place = [0.0, 0.0, 0.0]
                node.GetNthControlPointPosition(point, place)
                found[role][node.GetNthControlPointID(point)] = node.GetNthControlPointLabel(point), tuple(place)
        return found

    def _names(self) -> set[str]:
        return {name for points in self._settled.where.values() for name, _place in points.values()}

    def _row(self, key: Any) -> landmarks.Row | None:
        return next((row for row in self._logic.constraints.landmark_rows if row.key == key), None)

    def _points_of(self, row: landmarks.Row) -> list[tuple[Any, int]]:
        """The node and the index of both points of a pair."""
        keys = (row.key, row.moving_key)
        nodes = self.nodes.values()
        return [(node, node.GetNthControlPointIndexByID(key)) for node, key in zip(nodes, keys, strict=True)]

    def _name_pairs_alike(self) -> None:
        """Gives both points of every pair one name, so that lists that were paired by their order stay paired so."""
        for row in self._logic.constraints.landmark_rows:
            self._name(row, row.name)

    def _name(self, row: landmarks.Row, name: str) -> None:
        for node, point in self._points_of(row):
            node.SetNthControlPointLabel(point, name)

    def _fill(self, role: str, points: Sequence[tuple[str, Sequence[float]]], file: str) -> None:
        """Gives a list these points, names and places, and makes its node if there is none."""
        node = self.nodes[role]
        if node is None:
            node = self.nodes[role] = self._scene.AddNewNodeByClass(landmarks.NODE_TYPE, file or role)
            _dress(node, COLOURS[role])
            self._observe(role, node)
        self._files[role] = file
        node.RemoveAllControlPoints()
        for name, place in points:
            node.AddControlPoint(list(place), name)

    def _observe(self, role: str, node: Any) -> None:
        markups = slicer.vtkMRMLMarkupsNode

        def touched(*_event: Any) -> None:
            self._touched = self._touched or self.nodes[role] is node

        def dragged(on: bool) -> None:
            self._dragged = role if on else ""
            touched()

        for event in (markups.PointModifiedEvent, markups.PointPositionDefinedEvent):
            node.AddObserver(event, touched)
        node.AddObserver(markups.PointStartInteractionEvent, lambda *_event: dragged(True))
        node.AddObserver(markups.PointEndInteractionEvent, lambda *_event: dragged(False))

    def _drop(self, role: str) -> None:
        node, self.nodes[role] = self.nodes[role], None
        self._files[role] = ""
        self._discard(node)


def _dress(node: Any, colour: tuple[float, float, float]) -> None:
    """Draws points in one colour, each with its name; the one that follows the mouse before a click has none yet."""
    node.SetControlPointLabelFormat("")
    node.CreateDefaultDisplayNodes()
    display = node.GetDisplayNode()
    display.SetSelectedColor(*colour)
    display.SetColor(*colour)
    display.SetPropertiesLabelVisibility(False)
    display.SetPointLabelsVisibility(True)
    display.SetGlyphScale(2.0)
    display.SetTextScale(3.0)


def _mm(distance: float | None) -> str:
    return "" if distance is None else f"{distance:.1f}"
