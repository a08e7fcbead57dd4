"""The transform node that λ moves: placed, filled with fields, and taken out of the scene again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer

from hyperreg.mrml import geometry, linked
from hyperreg.mrml.registration import results, volume_change
from hyperreg.worker.live.state import Prepared, Shown


@dataclass(eq=False)
class Live:
    """A registration that λ moves.

    run, pair: what it is of, in the scene and in the worker. transform: the VTK transform whose field changes.
    drawn: the fields that it has now. warned: how many of the worker's warnings the user was told.
    """

    run: results.Run
    pair: Prepared
    transform: geometry.LiveTransform
    drawn: Shown | None = None
    warned: int = 0

    def draw(self, shown: Shown) -> bool:
        """Fills the transform in place, unless it has these very fields; whether it was filled."""
        if shown is self.drawn:
            return False
        self.transform.fill(shown.forward)
        self.drawn = shown
        return True


class LiveNode:
    """The transform node that λ moves, of this session or of a reopened scene; there is one at most.

    on_change(): another node follows it, or one follows no more.
    """

    def __init__(self, scene: slicer.vtkMRMLScene, on_change: Callable[[], None]) -> None:
        self._scene, self._on_change = scene, on_change
        self._id: str | None = None

    @property
    def node(self) -> Any:
        """The transform node; None before the first result and after `remove`."""
        return self._scene.GetNodeByID(self._id) if self._id else None

    @property
    def linked_nodes(self) -> list[slicer.vtkMRMLTransformableNode]:
        """The nodes that move along with the moving volume."""
        return [] if self.node is None else linked.linked_nodes(self.node)

    def take_along(self, node: slicer.vtkMRMLTransformableNode) -> None:
        """See `linked.take_along`."""
        linked.take_along(self.node, node)
        self._on_change()

    def leave_behind(self, node: slicer.vtkMRMLTransformableNode) -> None:
        """Undoes `take_along`."""
        linked.leave_behind(self.node, node)
        self._on_change()

    def adopt(self, node: slicer.vtkMRMLTransformNode) -> None:
        """The next registration goes on with this node."""
        self._id = node.GetID()

    def place(self, run: results.Run, pair: Prepared) -> Live:
        """Puts the moving volume under the transform, which begins as the linear alignment."""
        moving = self._scene.GetNodeByID(run.moving_id)
        live = Live(run, pair, geometry.LiveTransform(pair.grid, np.linalg.inv(run.parent_to_world) @ pair.linear))
        if self.node is not None and linked.ends(self.node)[1] is not moving:
            self.remove()
        node = self.node
        if node is None:
            node = self._scene.AddNewNodeByClass("vtkMRMLTransformNode", f"{moving.GetName()} live registration")
            self.adopt(node)
        modifying = node.StartModify()
        linked.set_ends(node, run.fixed_id, run.moving_id)
        node.SetNodeReferenceID(linked.MOVING_PARENT_ROLE, run.moving_parent_id)
        node.SetAttribute(linked.LIVE_ATTRIBUTE, "1")
        node.SetAndObserveTransformFromParent(live.transform.transform)
        node.EndModify(modifying)
        moving.SetAndObserveTransformNodeID(node.GetID())
        return live

    def remove(self) -> None:
        """Puts everything back under what it was under before, and the node out of the scene."""
        node = self.node
        if node is not None:
            self.let_go(node)
            self._scene.RemoveNode(node)

    def is_leaving(self, node: slicer.vtkMRMLNode) -> bool:
        """Whether a node that somebody takes out of the scene is this one; it is let go then."""
        if self._id is None or node.GetID() != self._id:
            return False
        self.let_go(node)
        return True

    def let_go(self, node: Any) -> None:
        """Nothing is under the node any more, and it is the live one no more."""
        linked.release(node)
        volume_change.remove(node)
        self._id = None

    def forget(self) -> None:
        """The scene is closed."""
        self._id = None
