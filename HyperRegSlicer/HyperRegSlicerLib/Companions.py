"""Nodes that were made on the moving volume and move along with it. MRML only, no Qt."""

from __future__ import annotations

import slicer

from hyperreg.errors import InputError
from HyperRegSlicerLib import Results


def take_along(transform: slicer.vtkMRMLTransformNode | None, node: slicer.vtkMRMLTransformableNode) -> None:
    """Puts a segmentation, markup or model that was made on the moving volume under its live transform.

    Points need the map to the parent, the inverse of what images need. VTK inverts the grid point by point (Newton):
    0.1 s for 100,000 points to 0.001 mm, of exactly the field that the views show; 0.3 s where 6 % of the voxels fold,
    with a few points off by millimetres there. A second node with the worker's inverse field would be faster, but would
    differ from the first by the discretisation of both fields: not worth it.
    Raises InputError if there is no result yet or the node is in another space than the moving volume.
    """
    if transform is None:
        raise InputError("Register first, then let other nodes follow the moving volume.")
    if node in Results.ends(transform):
        raise InputError("The fixed and the moving volume are already part of the registration.")
    if node in Results.companions(transform):
        return
    if node.GetParentTransformNode() is not transform.GetNodeReference(Results.MOVING_PARENT_ROLE):
        raise InputError(
            f"'{node.GetName()}' is under another transform than the moving volume was. "
            "Harden that transform or take the node out of it first."
        )
    transform.AddNodeReferenceID(Results.COMPANION_ROLE, node.GetID())
    node.SetAndObserveTransformNodeID(transform.GetID())


def leave_behind(transform: slicer.vtkMRMLTransformNode | None, node: slicer.vtkMRMLTransformableNode) -> None:
    """Undoes `take_along`; harmless for a node that does not follow."""
    if transform is None:
        return
    for index in reversed(range(transform.GetNumberOfNodeReferences(Results.COMPANION_ROLE))):
        if transform.GetNthNodeReferenceID(Results.COMPANION_ROLE, index) == node.GetID():
            transform.RemoveNthNodeReferenceID(Results.COMPANION_ROLE, index)
            node.SetAndObserveTransformNodeID(transform.GetNodeReferenceID(Results.MOVING_PARENT_ROLE))


def accompany(volume: slicer.vtkMRMLVolumeNode, node: slicer.vtkMRMLTransformableNode) -> None:
    """Puts what was made on a volume where the volume is: under its transform, also while λ moves it."""
    if node.GetParentTransformNode() is volume.GetParentTransformNode():
        return
    parent = Results.parent_before(volume)
    node.SetAndObserveTransformNodeID(parent and parent.GetID())
    if Results.is_live_transform(volume.GetParentTransformNode()):
        take_along(volume.GetParentTransformNode(), node)
