"""The pair of images that is open: its volumes, their nodes, and whether they lie in the same place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import geometry, regions
from hyperreg.view import outlines
from hyperreg.view.loading import IMAGES, describe

LABELS = {"fixed": "fixed_labels", "moving": "moving_labels"}
# The role of images and label maps that lie in the moving image's space.
MOVING = ("moving", "moving_labels")
# Images of which less than this share lies in each other's box are out of each other's sight.
LEAST_OVERLAP = 0.1
# Per side, of the points by which that is told.
SAMPLES = 12


@dataclass(frozen=True, eq=False)
class HeldPair:
    """What was open, see `OpenPair.hold`; its names are those of `OpenPair`."""

    volumes: dict[str, Volume]
    nodes: dict[str, Any]
    names: dict[str, Any]
    shift_node: Any
    shift: npt.NDArray[np.float64]

    @property
    def all_nodes(self) -> list[Any]:
        found = [*self.nodes.values(), *self.names.values(), self.shift_node]
        return [node for node in found if node is not None]


class OpenPair:
    """Both images and their label maps.

    state: the shared state. volumes, nodes: by role ("fixed", "moving", "fixed_labels", "moving_labels").
    """

    def __init__(self, state: Any, scene: slicer.vtkMRMLScene) -> None:
        self._state, self._scene = state, scene
        self.volumes: dict[str, Volume] = {}
        self.nodes: dict[str, Any] = {}
        self._names: dict[str, Any] = {}
        self._shift_node: Any = None
        self._shift = np.eye(4)
        # Nodes that stay in the scene although they are not open any more.
        self._held: list[Any] = []

    def hold(self) -> HeldPair:
        """What is open, so that `bring_back` can bring it back whatever is opened meanwhile; until `drop`."""
        held = HeldPair(dict(self.volumes), dict(self.nodes), dict(self._names), self._shift_node, self._shift)
        self._held = held.all_nodes
        return held

    def bring_back(self, held: HeldPair) -> None:
        """Opens what was open then, in its very nodes, and nothing else."""
        self.undo_centring()
        for role in [*self.nodes]:
            self.remove(role)
        self._held = []
        self.volumes, self.nodes, self._names = dict(held.volumes), dict(held.nodes), dict(held.names)
        for role, volume in self.volumes.items():
            self._tell(role, volume)
        if held.shift_node is not None:
            self._shift_node, self._shift = held.shift_node, held.shift
            self._put_under(held.shift_node.GetID())
            self._state.overlap_note, self._state.centred = "", True

    def drop(self, held: HeldPair) -> None:
        """What was open then, and is not now, is wanted no more."""
        self._held = []
        still = [*self.nodes.values(), *self._names.values(), self._shift_node]
        for node in held.all_nodes:
            if node not in still:
                self._scene.RemoveNode(node)

    def _discard(self, node: Any) -> None:
        """Takes a node out of the scene, unless it is held."""
        if node is not None and node not in self._held:
            self._scene.RemoveNode(node)

    def place(self, role: str, volume: Volume, names: Mapping[int, str]) -> None:
        """Makes a node of a volume, in the place of the one that had the role; an image's label map goes, too.

        names: of the labels of a label map, as far as they are known.
        """
        self.remove(role)
        if role in IMAGES:
            self.remove(LABELS[role])
            self.undo_centring()
        kind = "vtkMRMLScalarVolumeNode" if role in IMAGES else "vtkMRMLLabelMapVolumeNode"
        node = self._scene.AddNewNodeByClass(kind, volume.name)
        geometry.volume_to_node(volume, node)
        node.CreateDefaultDisplayNodes()
        if names and max(names) <= outlines.LARGEST_LABEL:
            self._names[role] = regions.name_labels(node, names, f"{volume.name} names")
        self.nodes[role], self.volumes[role] = node, volume
        if role in MOVING:
            node.SetAndObserveTransformNodeID(self.shift_id)
        self._tell(role, volume)

    def _tell(self, role: str, volume: Volume) -> None:
        setattr(self._state, f"{role}_name", volume.name)
        if role in IMAGES:
            setattr(self._state, f"{role}_info", describe(volume))
            self._say_whether_they_meet()

    def remove(self, role: str) -> None:
        """Forgets the image or label map of a role; harmless if there is none."""
        self.volumes.pop(role, None)
        node, names = self.nodes.pop(role, None), self._names.pop(role, None)
        setattr(self._state, f"{role}_name", "")
        if role in IMAGES:
            setattr(self._state, f"{role}_info", "")
        self._discard(node)
        self._discard(names)

    @property
    def fixed_names(self) -> dict[int, str]:
        """What the labels of the fixed image's label map are called, as far as that is known."""
        node = self.nodes.get(LABELS["fixed"])
        return regions.names_of(node) if node is not None else {}

    @property
    def is_complete(self) -> bool:
        """Whether both images are open."""
        return all(role in self.nodes for role in IMAGES)

    def images(self) -> dict[str, Any]:
        """The nodes of both images, as far as they are open, by what the page calls them."""
        return {role.capitalize(): self.nodes[role] for role in IMAGES if role in self.nodes}

    def label_nodes(self) -> Mapping[str, Any]:
        """The label maps as `RegistrationLogic.register` wants them: both or none."""
        both = all(role in self.nodes for role in LABELS.values())
        return {role: self.nodes[role] if both else None for role in LABELS.values()}

    # Images that do not lie in the same place

    @property
    def shift_id(self) -> str | None:
        """The transform that everything of the moving image is under; None unless its centre was moved."""
        return self._shift_node and self._shift_node.GetID()

    def align_centres(self) -> None:
        """Moves the moving image, as a whole, so that both boxes have the same centre; its file is not changed."""
        if not self.is_complete or self._shift_node is not None:
            return
        self._shift = np.eye(4)
        self._shift[:3, 3] = self.volumes["fixed"].grid.centre - self.volumes["moving"].grid.centre
        node = self._scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Centres aligned")
        node.SetMatrixTransformToParent(geometry.to_vtk(self._shift))
        self._shift_node = node
        self._put_under(node.GetID())
        self._state.overlap_note, self._state.centred = "", True

    def undo_centring(self) -> None:
        """The moving image lies where its file says again; harmless if it does already."""
        if self._shift_node is None:
            return
        self._put_under(None)
        node, self._shift_node, self._shift = self._shift_node, None, np.eye(4)
        self._discard(node)
        self._state.centred = False
        self._say_whether_they_meet()

    def from_file(self, transform: Transform, inverse: Transform) -> tuple[Transform, Transform]:
        """Of transforms between fixed and moving RAS as they lie in the views, those between the files."""
        if self._shift_node is None:
            return transform, inverse
        back = np.asarray(np.linalg.inv(self._shift), dtype=np.float64)
        return Transform((*transform.stages, back)), Transform((self._shift, *inverse.stages))

    def _put_under(self, transform_id: str | None) -> None:
        for role in MOVING:
            if role in self.nodes:
                self.nodes[role].SetAndObserveTransformNodeID(transform_id)

    def _say_whether_they_meet(self) -> None:
        if not self.is_complete:
            self._state.overlap_note = ""
            return
        fixed, moving = (self.volumes[role].grid for role in IMAGES)
        apart = float(np.linalg.norm(fixed.centre - moving.centre))
        self._state.overlap_note = (
            ""
            if overlap(fixed, moving) >= LEAST_OVERLAP
            else f"The two images do not lie in the same place: their centres are {apart:.0f} mm apart, so that the "
            "moving image is out of sight."
        )


def overlap(first: Grid, second: Grid) -> float:
    """The share of one image's box that lies in the other's, 0 to 1; the larger of both shares."""
    return max(_share(first, second), _share(second, first))


def _share(inner: Grid, outer: Grid) -> float:
    axes = [np.linspace(0, n - 1, SAMPLES) for n in inner.shape]
    points: npt.NDArray[np.float64] = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    ijk = outer.to_ijk(inner.to_ras(points))
    inside = ((ijk >= -0.5) & (ijk <= np.array(outer.shape) - 0.5)).all(axis=1)
    return float(inside.mean())
