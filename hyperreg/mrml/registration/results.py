"""What a registration leaves in the scene, and how its nodes are marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import slicer
import vtk

import hyperreg
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.mrml import geometry, linked, nodes
from hyperreg.registration.catalogue import ModelCard
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.worker.live.state import LiveState

# Attributes and node references of the nodes: they are saved with the scene, so that a reopened one can go on.
LAMBDA_ATTRIBUTE = "HyperReg.lambda"
STAGE_ATTRIBUTE = "HyperReg.stage"
SETTINGS_ATTRIBUTE = "HyperReg.settings"


@dataclass(frozen=True)
class Run:
    """One registration: its nodes' ids and what the worker was given.

    moving_parent_id: the transform that the moving volume was under before; parent_to_world: (4, 4), its map, RAS mm.
    fixed_grid, moving_grid: the images' voxels in the world. card: the model's, as it was then: the model may be
    removed or replaced while its result is shown.
    label_names: of the labels that both label maps have in the worker, where they are named.
    alignment: the method, where nothing but a linear alignment was asked for; else "". initial: where it began, a
    method or the name of a transform. contrast, symmetric: see `LiveSession.prepare`.
    """

    fixed_id: str
    moving_id: str
    moving_parent_id: str | None
    parent_to_world: np.ndarray
    fixed_grid: Grid
    moving_grid: Grid
    card: ModelCard
    label_names: Mapping[int, str] = field(default_factory=dict)
    alignment: str = ""
    initial: str = ""
    contrast: str = AUTOMATIC
    symmetric: bool = False


@dataclass(frozen=True)
class Origin:
    """What a result was made with. stage: how far the field was improved, in words; "" before there is any.

    settings: what was set besides λ, in words; "" for nothing.
    """

    lam: float
    stage: str = ""
    settings: str = ""

    @classmethod
    def of(cls, live: LiveState, lam: float, run: Run | None, words: Sequence[str]) -> Origin:
        """Of what is shown. lam: of the slider, where nothing is yet. words: of what the user has marked."""
        settings = [f"{name}={value:.2f}" for name, value in live.values.items()] + list(words)
        if run is not None and run.contrast != AUTOMATIC:
            settings.append(f"contrast={run.contrast}")
        if run is not None and run.symmetric:
            settings.append("symmetric")
        lam, stage = (lam, "") if live.shown is None else (live.shown.lam, live.shown.title)
        return cls(lam, stage, "; ".join(settings))

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
    result = resample(geometry.volume_from_node(moving, None), run.fixed_grid, Transform(forward_stages))

    name, suffix = moving.GetName(), origin.title
    volume = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", f"{name} registered {suffix}")
    geometry.volume_to_node(result, volume)
    _copy_display(moving, volume)
    transforms = []
    for title, stages in (("transform", forward_stages), ("inverse transform", inverse_stages)):
        node = scene.AddNewNodeByClass("vtkMRMLTransformNode", f"{name} {title} {suffix}")
        node.SetAndObserveTransformFromParent(geometry.vtk_transform(stages))
        transforms.append(node)
    for node in (volume, transforms[0]):
        describe(node, run, origin)
        linked.set_ends(node, run.fixed_id, run.moving_id)
    describe(transforms[1], run, origin)
    linked.set_ends(transforms[1], run.moving_id, run.fixed_id)
    for node in (volume, *transforms):
        # Not of the fixed volume: it may be another patient's.
        nodes.put_into_study_of(moving, node)
    return Kept(volume, *transforms)


def place_alignment(scene: slicer.vtkMRMLScene, run: Run, linear: np.ndarray) -> slicer.vtkMRMLTransformNode:
    """Puts the moving volume under a linear transform of its own, by which it lies on the fixed one; the node stays.

    linear: (4, 4), fixed RAS -> moving RAS, both in the world.
    """
    moving = scene.GetNodeByID(run.moving_id)
    name = scene.GenerateUniqueName(f"{moving.GetName()} {run.alignment} alignment")
    node = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", name)
    # In the place of the transform that the volume was under, as in `keep`.
    node.SetMatrixTransformFromParent(geometry.to_vtk(np.linalg.inv(run.parent_to_world) @ linear))
    node.SetAttribute(linked.ALIGNMENT_ATTRIBUTE, run.alignment)
    node.SetAttribute(nodes.VERSION_ATTRIBUTE, hyperreg.__version__)
    node.SetNodeReferenceID(linked.MOVING_PARENT_ROLE, run.moving_parent_id)
    linked.set_ends(node, run.fixed_id, run.moving_id)
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


def describe(node: slicer.vtkMRMLNode, run: Run, origin: Origin) -> None:
    """Writes on a node which λ (and what else), model and version it comes from; one event."""
    modifying = node.StartModify()
    node.SetAttribute(LAMBDA_ATTRIBUTE, f"{origin.lam:.4f}")
    node.SetAttribute(STAGE_ATTRIBUTE, origin.stage or None)
    node.SetAttribute(SETTINGS_ATTRIBUTE, origin.settings or None)
    nodes.mark(node, run.card.name, run.card.version)
    node.EndModify(modifying)


def _copy_display(source: slicer.vtkMRMLVolumeNode, target: slicer.vtkMRMLVolumeNode) -> None:
    target.CreateDefaultDisplayNodes()
    if source.GetDisplayNode() is not None and target.GetDisplayNode() is not None:
        target.GetDisplayNode().CopyContent(source.GetDisplayNode())


def _with_rim(stages: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(
        geometry.padded(stage) if isinstance(stage, DisplacementField) else stage for stage in geometry.merged(stages)
    )
