"""What *Reset* ends, held so that it can be undone: the live transform, what was under it, what was known of it."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer
import vtk

from hyperreg.errors import InputError
from hyperreg.mrml import linked
from hyperreg.mrml.registration.live_node import Live

# A volume whose corners have moved by more is not where it was.
SAME_PLACE_MM = 1e-3


@dataclass(frozen=True, eq=False)
class Undo:
    """A registration that was reset.

    node_id: of the alignment that the moving volume was taken out of, which stays in the scene; "" for a live
    transform, which is made again from name, transform (its map, the very VTK object) and attributes.
    parent_id: what the moving volume was under before it was registered. linked_ids: what followed it.
    places: corners of the fixed and the moving volume in the world, without the registration, (2, 8, 3), RAS mm.
    live: None unless λ moved it.
    """

    node_id: str
    name: str
    transform: vtk.vtkAbstractTransform
    attributes: Mapping[str, str]
    fixed_id: str
    moving_id: str
    parent_id: str | None
    linked_ids: tuple[str, ...]
    places: npt.NDArray[np.float64]
    live: Live | None

    @classmethod
    def of(cls, node: slicer.vtkMRMLTransformNode, live: Live | None) -> Undo | None:
        """To be asked before a live transform or an alignment is reset; None if one of its volumes is gone."""
        fixed, moving = linked.ends(node)
        if fixed is None or moving is None:
            return None
        return cls(
            node_id=node.GetID() if linked.is_alignment(node) else "",
            name=node.GetName(),
            transform=node.GetTransformFromParent(),
            attributes={name: node.GetAttribute(name) for name in node.GetAttributeNames()},
            fixed_id=fixed.GetID(),
            moving_id=moving.GetID(),
            parent_id=node.GetNodeReferenceID(linked.MOVING_PARENT_ROLE),
            linked_ids=tuple(one.GetID() for one in linked.linked_nodes(node)),
            places=_places(fixed, moving, node.GetNodeReference(linked.MOVING_PARENT_ROLE)),
            live=live,
        )

    def put_back(self, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLTransformNode:
        """The transform in the scene again, with the moving volume and what followed it under it.

        Raises InputError if a volume is gone or lies elsewhere now; nothing has changed then.
        """
        fixed, moving = (scene.GetNodeByID(node_id) for node_id in (self.fixed_id, self.moving_id))
        if fixed is None or moving is None:
            raise InputError("One of the registered volumes was deleted; the reset cannot be undone.")
        parent = moving.GetParentTransformNode()
        moved = (parent and parent.GetID()) != self.parent_id
        if moved or not np.allclose(_places(fixed, moving, parent), self.places, rtol=0, atol=SAME_PLACE_MM):
            raise InputError("A volume was moved since the reset, which can no longer be undone. Register again.")
        node = scene.GetNodeByID(self.node_id) if self.node_id else self._made_again(scene)
        if node is None:
            raise InputError("The alignment was deleted; the reset cannot be undone.")
        moving.SetAndObserveTransformNodeID(node.GetID())
        for one in (scene.GetNodeByID(node_id) for node_id in self.linked_ids):
            if one is not None and one.GetParentTransformNode() is parent:
                linked.take_along(node, one)
        return node

    def _made_again(self, scene: slicer.vtkMRMLScene) -> slicer.vtkMRMLTransformNode:
        node = scene.AddNewNodeByClass("vtkMRMLTransformNode", self.name)
        modifying = node.StartModify()
        for name, value in self.attributes.items():
            node.SetAttribute(name, value)
        linked.set_ends(node, self.fixed_id, self.moving_id)
        node.SetNodeReferenceID(linked.MOVING_PARENT_ROLE, self.parent_id)
        node.SetAndObserveTransformFromParent(self.transform)
        node.EndModify(modifying)
        return node


def _places(fixed: Any, moving: Any, moving_parent: slicer.vtkMRMLTransformNode | None) -> npt.NDArray[np.float64]:
    return np.stack([_corners(fixed, linked.parent_before(fixed)), _corners(moving, moving_parent)])


def _corners(volume: Any, parent: slicer.vtkMRMLTransformNode | None) -> npt.NDArray[np.float64]:
    """Of a volume under a transform of any kind, in the world: (8, 3), RAS mm; zeros for an empty volume."""
    if volume.GetImageData() is None:
        return np.zeros((8, 3))
    matrix, to_world = vtk.vtkMatrix4x4(), vtk.vtkGeneralTransform()
    volume.GetIJKToRASMatrix(matrix)
    if parent is not None:
        parent.GetTransformToWorld(to_world)
    ends = [(0, n - 1) for n in volume.GetImageData().GetDimensions()]
    return np.array([to_world.TransformPoint(matrix.MultiplyPoint((*ijk, 1))[:3]) for ijk in itertools.product(*ends)])
