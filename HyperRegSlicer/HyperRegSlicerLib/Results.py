"""What a registration leaves in the scene, and how its nodes are marked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import vtk

import hyperreg
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid
from HyperRegSlicerLib import Geometry

# Attributes and node references of the nodes: they are saved with the scene, so that a reopened one can go on.
LAMBDA_ATTRIBUTE = "HyperReg.lambda"
MODEL_ATTRIBUTE = "HyperReg.model"
MODEL_VERSION_ATTRIBUTE = "HyperReg.modelVersion"
VERSION_ATTRIBUTE = "HyperReg.version"
STAGE_ATTRIBUTE = "HyperReg.stage"
SETTINGS_ATTRIBUTE = "HyperReg.settings"
LIVE_ATTRIBUTE = "HyperReg.live"
ALIGNMENT_ATTRIBUTE = "HyperReg.alignment"
MOVING_PARENT_ROLE = "HyperReg.movingParent"
COMPANION_ROLE = "HyperReg.companion"
VOLUME_CHANGE_ROLE = "HyperReg.volumeChange"


@dataclass(frozen=True)
class Run:
    """One registration: its nodes' ids and what the worker was given.

    moving_parent_id: the transform that the moving volume was under before; parent_to_world: (4, 4), its map, RAS mm.
    fixed_grid, moving_grid: the images' voxels in the world. model, model_version: as on the model's card.
    label_names: of the labels that both label maps have in the worker, where they are named.
    alignment: the method, where nothing but a linear alignment was asked for; else "".
    """

    fixed_id: str
    moving_id: str
    moving_parent_id: str | None
    parent_to_world: np.ndarray
    fixed_grid: Grid
    moving_grid: Grid
    model: str
    model_version: str
    label_names: Mapping[int, str] = field(default_factory=dict)
    alignment: str = ""


@dataclass(frozen=True)
class Origin:
    """What a result was made with. stage: how far the field was improved, in words; "" before there is any.

    settings: what was set besides λ, in words; "" for nothing.
    """

    lam: float
    stage: str = ""
    settings: str = ""

    @property
    def title(self) -> str:
        """For names of nodes."""
        return f"λ={self.lam:.2f}"


@dataclass(frozen=True)
class Kept:
    """Nodes that stay.

    volume: the moving image resampled on the fixed grid.
    forward: the transform that carries the moving image onto the fixed one.
    inverse: the transform that carries the fixed image onto the moving one.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    forward: slicer.vtkMRMLTransformNode
    inverse: slicer.vtkMRMLTransformNode


def keep(scene: slicer.vtkMRMLScene, run: Run, origin: Origin, forward: Transform, inverse: Transform) -> Kept:
    """Adds what is shown of a registration to the scene: resampled volume, forward and inverse transform.

    forward: fixed RAS -> moving RAS, both in the world; inverse: its inverse.
    """
    moving = scene.GetNodeByID(run.moving_id)
    # The moving volume's own parent transform P is part of its place in the world. A volume has only ONE parent in
    # MRML, so the new transform takes P's place: it maps to the space below P and contains P's map.
    forward_stages = _with_rim((*forward.stages, np.linalg.inv(run.parent_to_world)))
    inverse_stages = _with_rim((run.parent_to_world, *inverse.stages))
    # Resampled with exactly the map that is saved, so that transform and volume agree.
    result = resample(Geometry.volume_from_node(moving, None), run.fixed_grid, Transform(forward_stages))

    name, suffix = moving.GetName(), origin.title
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{name} registered {suffix}")
    Geometry.volume_to_node(result, volume)
    _copy_display(moving, volume)
    transforms = []
    for title, stages in (("transform", forward_stages), ("inverse transform", inverse_stages)):
        node = scene.AddNewNodeByClass("vtkMRMLTransformNode", f"{name} {title} {suffix}")
        node.SetAndObserveTransformFromParent(Geometry.vtk_transform(stages))
        transforms.append(node)
    for node in (volume, transforms[0]):
        describe(node, run, origin)
        set_ends(node, run.fixed_id, run.moving_id)
    describe(transforms[1], run, origin)
    set_ends(transforms[1], run.moving_id, run.fixed_id)
    return Kept(volume, *transforms)


def place_alignment(scene: slicer.vtkMRMLScene, run: Run, linear: np.ndarray) -> slicer.vtkMRMLTransformNode:
    """Puts the moving volume under a linear transform of its own, by which it lies on the fixed one; the node stays.

    linear: (4, 4), fixed RAS -> moving RAS, both in the world.
    """
    moving = scene.GetNodeByID(run.moving_id)
    name = scene.GenerateUniqueName(f"{moving.GetName()} {run.alignment} alignment")
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    # In the place of the transform that the volume was under, as in `keep`.
    node.SetMatrixTransformFromParent(Geometry.to_vtk(np.linalg.inv(run.parent_to_world) @ linear))
    node.SetAttribute(ALIGNMENT_ATTRIBUTE, run.alignment)
    node.SetAttribute(VERSION_ATTRIBUTE, hyperreg.__version__)
    node.SetNodeReferenceID(MOVING_PARENT_ROLE, run.moving_parent_id)
    set_ends(node, run.fixed_id, run.moving_id)
    moving.SetAndObserveTransformNodeID(node.GetID())
    return node


def interpolate_linearly(transform: slicer.vtkMRMLTransformNode) -> None:
    """Corrects a transform of a reopened scene: Slicer reads grids with cubic interpolation, but this one is linear."""
    general = vtk.vtkGeneralTransform.SafeDownCast(transform.GetTransformFromParent())
    for index in range(general.GetNumberOfConcatenatedTransforms() if general else 0):
        grid = slicer.vtkOrientedGridTransform.SafeDownCast(general.GetConcatenatedTransform(index))
        if grid is not None:
            grid.SetInterpolationModeToLinear()
            general.Modified()


def is_alignment(node: slicer.vtkMRMLNode | None) -> bool:
    """Whether a node was made by `place_alignment`."""
    return node is not None and node.GetAttribute(ALIGNMENT_ATTRIBUTE) is not None


def describe(node: slicer.vtkMRMLNode, run: Run, origin: Origin) -> None:
    """Writes on a node which λ (and what else), model and version it comes from; one event."""
    modifying = node.StartModify()
    node.SetAttribute(LAMBDA_ATTRIBUTE, f"{origin.lam:.4f}")
    node.SetAttribute(STAGE_ATTRIBUTE, origin.stage or None)
    node.SetAttribute(SETTINGS_ATTRIBUTE, origin.settings or None)
    node.SetAttribute(MODEL_ATTRIBUTE, run.model)
    node.SetAttribute(MODEL_VERSION_ATTRIBUTE, run.model_version)
    node.SetAttribute(VERSION_ATTRIBUTE, hyperreg.__version__)
    node.EndModify(modifying)


def set_ends(node: slicer.vtkMRMLNode, fixed_id: str, moving_id: str) -> None:
    """Sets the references by which Slicer's other modules know what a registration was made from."""
    node.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetFixedNodeReferenceRole(), fixed_id)
    node.SetNodeReferenceID(slicer.vtkMRMLTransformNode.GetMovingNodeReferenceRole(), moving_id)


def ends(transform: slicer.vtkMRMLTransformNode) -> tuple[Any, Any]:
    """The fixed and the moving volume node of a transform; None where one is gone."""
    return (
        transform.GetNodeReference(transform.GetFixedNodeReferenceRole()),
        transform.GetNodeReference(transform.GetMovingNodeReferenceRole()),
    )


def is_live_transform(node: slicer.vtkMRMLNode | None) -> bool:
    """Whether a node is a transform that λ moves or moved (also one from a reopened scene)."""
    return node is not None and node.IsA("vtkMRMLTransformNode") and node.GetAttribute(LIVE_ATTRIBUTE) is not None


def parent_before(node: slicer.vtkMRMLTransformableNode) -> slicer.vtkMRMLTransformNode | None:
    """The transform a node is under; for a node under a live transform, the one that it was under before."""
    parent = node.GetParentTransformNode()
    return parent.GetNodeReference(MOVING_PARENT_ROLE) if is_live_transform(parent) else parent


def original_parent(node: slicer.vtkMRMLTransformableNode) -> slicer.vtkMRMLTransformNode | None:
    """The transform a node was under before anything was registered, by a live transform or by an alignment."""
    parent = parent_before(node)
    while is_alignment(parent):
        parent = parent.GetNodeReference(MOVING_PARENT_ROLE)
    return parent


def companions(transform: slicer.vtkMRMLTransformNode) -> list[slicer.vtkMRMLTransformableNode]:
    """The nodes that move along with the moving volume."""
    count = transform.GetNumberOfNodeReferences(COMPANION_ROLE)
    found = [transform.GetNthNodeReference(COMPANION_ROLE, n) for n in range(count)]
    return [node for node in found if node is not None]


def release(transform: slicer.vtkMRMLTransformNode) -> None:
    """Puts everything under a live transform back under what it was under before."""
    before = transform.GetNodeReferenceID(MOVING_PARENT_ROLE)
    for node in (ends(transform)[1], *companions(transform)):
        if node is not None and node.GetParentTransformNode() is transform:
            node.SetAndObserveTransformNodeID(before)


def _copy_display(source: slicer.vtkMRMLVolumeNode, target: slicer.vtkMRMLVolumeNode) -> None:
    target.CreateDefaultDisplayNodes()
    if source.GetDisplayNode() is not None and target.GetDisplayNode() is not None:
        target.GetDisplayNode().CopyContent(source.GetDisplayNode())


def _with_rim(stages: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        Geometry.padded(stage) if isinstance(stage, DisplacementField) else stage for stage in Geometry.merged(stages)
    )
