"""Moves the border of one structure of the last result, live: between what is sure and all that may be it.

What the engine kept of a result says once for a structure where its border runs at every position
(`hyperreg.segmentation.border`); after that, moving is done here. Who owns whose voxels:

- A structure takes voxels from others as it grows, and gives them back as it shrinks. Where two that were moved want a
  voxel, it belongs to the one that was moved last. What a structure leaves, and nobody else wants, is nothing.
- At `RESULT` a structure is the model's result to the voxel.
- Voxels that somebody changed otherwise (by hand in the Segment Editor, or by Slicer's undo) are not taken: other
  borders stop there. The border of a structure that was changed so does not move until `back` drops that change.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.structures import Structure
from hyperreg.mrml import regions
from hyperreg.mrml.i18n import tr as _
from hyperreg.mrml.lifecycle import ignore
from hyperreg.mrml.segmentation.layer import OTHER, Labels, Layer, segment_id
from hyperreg.mrml.segmentation.results import set_volumes
from hyperreg.mrml.segmentation.surfaces import Surfaces
from hyperreg.segmentation.border import NEVER, RESULT
from hyperreg.segmentation.structures import StructureVolume
from hyperreg.worker.segmentation import Segmented

# Label maps here are as `Layer` has them; these are places in them.
Voxels = npt.NDArray[np.intp]
_CHOOSE = _("Choose a structure in the table to move its border.")
_GONE = _("Segment again to move borders: what this takes is kept of the last result only, and not saved.")


@dataclass
class _Moved:
    """A structure that was moved: where to, and the voxels that it holds."""

    position: int
    voxels: Voxels


@dataclass
class _Case:
    """The last result and what has become of it.

    result, written: the model's label map, and the one last seen in the scene. stamp: of the scene then. counts:
    voxels of every label in it. by_hand: voxels that differ from the result and that nobody moved; changed:
    labels of the structures that have or had such voxels. moved: in the order in which they were moved.
    """

    node_id: str
    segmented: Segmented
    layer: Layer
    result: Labels
    written: Labels
    by_hand: npt.NDArray[np.bool_]
    stamp: tuple[int, ...]
    counts: npt.NDArray[np.int64]
    changed: set[int] = field(default_factory=set)
    moved: dict[int, _Moved] = field(default_factory=dict)


@dataclass
class _Chosen:
    """The structure whose border is moved. levels: of every voxel; None until the engine has told."""

    structure: Structure
    levels: npt.NDArray[np.int8] | None = None
    ground: _Ground | None = None


@dataclass
class _Ground:
    """What a structure is drawn on; made anew after others have changed the label map.

    voxels: those that it holds or can hold; levels, rest: there, of the structure, and the label map without it.
    counts: voxels of every label in the whole label map without it.
    """

    voxels: Voxels
    levels: npt.NDArray[np.int8]
    rest: Labels
    counts: npt.NDArray[np.int64]


class Borders:
    """See above. scene: of the segmentation. remote: a `RemoteSegmenter` or a stand-in. surfaces: made anew by `rest`.

    on_change(): what can be moved, the position or the volumes changed.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, remote: Any, surfaces: Surfaces) -> None:
        self.scene, self.remote, self._surfaces = scene, remote, surfaces
        self.on_change: Callable[[], None] = ignore
        self._case: _Case | None = None
        self._chosen: _Chosen | None = None
        self._refusal = _CHOOSE
        # Labels of structures that have other voxels than at the last rest; {} before the first move since.
        self._moving: set[int] = set()

    # What can be asked

    @property
    def structure(self) -> Structure | None:
        """The one that was chosen."""
        return None if self._chosen is None else self._chosen.structure

    @property
    def reason(self) -> str:
        """Why the border cannot be moved (yet), for the user; "" if it can."""
        return self._refusal

    @property
    def position(self) -> int:
        """Where the border is, see `hyperreg.segmentation.border`; RESULT without a structure."""
        moved = self._case.moved.get(self._chosen.structure.label) if self._case and self._chosen else None
        return RESULT if moved is None else moved.position

    @property
    def volumes_ml(self) -> tuple[float, float]:
        """Of the chosen structure: in the scene, and in the model's result."""
        if self._case is None or self._chosen is None:
            return 0.0, 0.0
        label, volumes = self._chosen.structure.label, self._case.segmented.volumes
        result = next(volume.volume_ml for volume in volumes if volume.structure.label == label)
        return float(self._case.counts[label] * _voxel_ml(self._case)), result

    @property
    def volumes(self) -> list[StructureVolume]:
        """Of all structures of the last result, as they are now; [] for no result."""
        if self._case is None:
            return []
        return [
            replace(volume, volume_ml=ml, mean_probability=probability)
            for volume, (ml, probability) in zip(
                self._case.segmented.volumes, _told_volumes(self._case).values(), strict=True
            )
        ]

    @property
    def segmented(self) -> Segmented | None:
        """The last result with its borders where they are now, for what is written of it; None for no result."""
        case = self._case
        if case is None or np.array_equal(case.written, case.result):
            return None if case is None else case.segmented
        given = case.segmented
        array = np.where(case.written == OTHER[case.written.dtype], 0, case.written).astype(given.labels.array.dtype)
        labels = replace(given.labels, array=array.reshape(given.labels.shape, order="F"))
        different = case.written != case.result
        changed = _found(case.written[different], case.result[different])
        moved = {structure.label: structure.name for structure in given.card.structures if structure.label in changed}
        warning = _("By hand, not by the model: the borders of {names}.").format(names=", ".join(moved.values()))
        warnings = [*given.warnings, warning]
        return replace(given, labels=labels, volumes=self.volumes, warnings=warnings, by_hand=frozenset(moved))

    @property
    def is_changed(self) -> bool:
        """Whether the chosen structure was changed otherwise; `back` drops that."""
        return bool(self._case and self._chosen and self._chosen.structure.label in self._case.changed)

    @property
    def can_go_back(self) -> bool:
        """Whether the chosen structure differs from the result, and could be brought back to it."""
        loaded = self._chosen is not None and self._chosen.levels is not None
        return loaded and (self.is_changed or self.position != RESULT)

    # What can be done

    def arrived(self, node: slicer.vtkMRMLSegmentationNode, segmented: Segmented) -> None:
        """A result is in the scene: it is the one whose borders can be moved from now on."""
        layer = Layer(node, [structure.label for structure in segmented.card.structures])
        result = layer.read()
        self._case = _Case(
            node.GetID(), segmented, layer, result, result.copy(), np.zeros_like(result, bool),
            regions.stamp(node), _counts(result),
        )  # fmt: skip
        self.choose(None, None)

    def forget(self) -> None:
        """The scene closes."""
        self._case = None
        self.choose(None, None)

    def choose(self, node: slicer.vtkMRMLSegmentationNode | None, label: int | None) -> None:
        """The structure of a segmentation whose border is to be moved; None for none. Asks the engine about it."""
        if self._chosen is not None and node is self._node() and label == self._chosen.structure.label:
            return
        self.rest()
        self._chosen, self._refusal = None, _CHOOSE
        if self._node() is None:
            self._case = None
        if node is not None and label is not None:
            self._ask(node, label)
        self.on_change()

    def move(self, position: int) -> None:
        """Moves the border there, at once; nothing happens where `reason` says why not."""
        if self._is_there() and not self._refusal:
            self._draw(position)
        self.on_change()

    def back(self) -> None:
        """Brings the chosen structure back to the model's result, also what was changed otherwise in it."""
        if self._is_there():
            case, chosen = self._case, self._chosen
            assert case is not None and chosen is not None  # noqa: PT018, S101  see _is_there
            label = chosen.structure.label
            if label in case.changed:
                case.by_hand[(case.written == label) | (case.result == label)] = False
                case.changed.discard(label)
                chosen.ground = None
            self._draw(RESULT)
            self._is_there()
        self.on_change()

    def rest(self) -> None:
        """The border moves no more, for now: surfaces follow, and the next move is another step for Slicer's undo."""
        moving, self._moving = self._moving, set()
        node = self._node()
        if moving and node is not None and self._case is not None:
            changed = [segment_id(label) for label in sorted(moving)]
            self._surfaces.renew(node, self._case.layer.take_surfaces(), changed)

    # How it is done

    def _node(self) -> slicer.vtkMRMLSegmentationNode | None:
        return None if self._case is None else self.scene.GetNodeByID(self._case.node_id)

    def _ask(self, node: slicer.vtkMRMLSegmentationNode, label: int) -> None:
        case = self._case
        if case is None or case.node_id != node.GetID():
            self._refusal = _GONE
            return
        structure = next((s for s in case.segmented.card.structures if s.label == label), None)
        if structure is None or node.GetSegmentation().GetSegment(segment_id(label)) is None:
            self._refusal = _("This structure was deleted from the segmentation.")
        elif not case.segmented.case:
            self._refusal = _("There is too little memory to move borders of so large a result.")
        elif not self.remote.keeps(case.segmented.case):
            self._refusal = _GONE
        else:
            chosen = self._chosen = _Chosen(structure)
            self._refusal = _("Looking where {structure} may end...").format(structure=structure.name)
            try:
                self.remote.border(
                    case.segmented,
                    label,
                    lambda levels: self._told(chosen, levels),
                    lambda error: self._refused(chosen, error),
                )
            except HyperRegError as error:  # no room for the answer
                self._refused(chosen, str(error))

    def _told(self, chosen: _Chosen, levels: npt.NDArray[np.int8]) -> None:
        if chosen is not self._chosen or self._case is None:
            return  # another one was chosen meanwhile
        chosen.levels = levels.ravel(order="F")
        self._is_there()
        self.on_change()

    def _refused(self, chosen: _Chosen, error: str) -> None:
        if chosen is self._chosen:
            self._chosen, self._refusal = None, error
            self.on_change()

    def _is_there(self) -> bool:
        """Looks whether the scene holds the chosen structure so that it can be drawn; `reason` says more."""
        case, chosen, node = self._case, self._chosen, self._node()
        if case is None or chosen is None or chosen.levels is None:
            return False
        label = chosen.structure.label
        if node is None or node.GetSegmentation().GetSegment(segment_id(label)) is None:
            self._refusal = _("This structure was deleted from the segmentation.")
            return False
        try:
            self._follow(case, node)
        except InputError as error:
            self._refusal = str(error)
            return False
        self._refusal = ""
        if label in case.changed:
            self._refusal = _(
                "{structure} was changed otherwise. Back to the result drops that; then its border can be moved."
            ).format(structure=chosen.structure.name)
        return True

    def _follow(self, case: _Case, node: slicer.vtkMRMLSegmentationNode) -> None:
        """Takes up what others have changed in the label map. Raises InputError where there is none any more."""
        stamp = regions.stamp(node)
        if stamp == case.stamp:
            return
        current = case.layer.read()
        different = current != case.written
        case.stamp = stamp
        if not different.any():
            return
        case.by_hand[different] = (current != case.result)[different]
        for label in _found(current[different], case.written[different]):
            case.moved.pop(label, None)
            same = np.array_equal(current == label, case.result == label)
            (case.changed.discard if same else case.changed.add)(label)
        case.written = current
        if self._chosen is not None:
            self._chosen.ground = None
        self._tell_volumes(case, node, _counts(current))

    def _draw(self, position: int) -> None:
        case, chosen, node = self._case, self._chosen, self._node()
        assert case is not None and chosen is not None and node is not None  # noqa: PT018, S101  see _is_there
        if not self._moving and self.scene.GetUndoFlag():
            self.scene.SaveStateForUndo()
        label = chosen.structure.label
        ground = chosen.ground = chosen.ground or _ground(case, chosen)
        held = ground.levels <= position
        before, after = case.written[ground.voxels], np.where(held, label, ground.rest).astype(case.written.dtype)
        counts = ground.counts - _counts(ground.rest[held])
        counts[label] += np.count_nonzero(held)
        other = before != after
        self._moving |= {label} | _found(before[other], after[other])
        case.written[ground.voxels] = after
        case.layer.write(case.written, ground.voxels)
        case.stamp = regions.stamp(node)
        case.moved.pop(label, None)
        case.moved[label] = _Moved(position, ground.voxels[held])
        self._tell_volumes(case, node, counts)

    def _tell_volumes(self, case: _Case, node: slicer.vtkMRMLSegmentationNode, counts: npt.NDArray[np.int64]) -> None:
        """To the table. counts: voxels of every label."""
        case.counts = counts
        set_volumes(node, _told_volumes(case))


def _ground(case: _Case, chosen: _Chosen) -> _Ground:
    """What the structure held goes to who would have it otherwise."""
    assert chosen.levels is not None  # noqa: S101  nothing is drawn before
    label = chosen.structure.label
    voxels = np.flatnonzero((case.written == label) | (chosen.levels != NEVER) & ~case.by_hand)
    others = case.result[voxels]
    others[others == label] = 0
    for other, moved in case.moved.items():
        if other != label:
            holds = np.zeros(case.result.shape, bool)
            holds[moved.voxels] = True
            others[others == other] = 0
            others[holds[voxels]] = other
    before = case.written[voxels]
    rest = np.where(before == label, others, before)
    return _Ground(voxels, chosen.levels[voxels], rest, case.counts - _counts(before) + _counts(rest))


def _told_volumes(case: _Case) -> dict[int, tuple[float, float]]:
    """ml and mean probability of every structure as it is now, by label, in the order of the result."""
    voxel_ml, told = _voxel_ml(case), {}
    for volume in case.segmented.volumes:
        label = volume.structure.label
        now = float(case.counts[label] * voxel_ml)
        # It is that of the voxels of the result; of others it is not known.
        same = label not in case.changed and abs(now - volume.volume_ml) < voxel_ml / 2
        told[label] = (now, volume.mean_probability if same else math.nan)
    return told


def _voxel_ml(case: _Case) -> float:
    return float(np.prod(case.segmented.labels.spacing)) / 1000


def _counts(labels: Labels) -> npt.NDArray[np.int64]:
    """How many voxels there are of every label that a label map of this type can have."""
    return np.bincount(labels, minlength=1 + int(OTHER[labels.dtype]))


def _found(*labels: Labels) -> set[int]:
    """Which structures there are in some voxels."""
    return {int(label) for values in labels for label in np.flatnonzero(np.bincount(values)) if label}
