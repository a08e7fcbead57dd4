"""What a registration is given, read from the scene and checked. MRML only, no Qt."""

from __future__ import annotations

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.start import ALIGNMENTS
from HyperRegSlicerLib import Geometry, Results

# A transform that is not linear is taken over at about this many points.
SAMPLES = 500_000


def read_pair(
    fixed: slicer.vtkMRMLScalarVolumeNode,
    moving: slicer.vtkMRMLScalarVolumeNode,
    model: str,
    initial: str | slicer.vtkMRMLTransformNode,
) -> tuple[Volume, Volume, Results.Run]:
    """Both volumes in the world, without a live transform, and the run that they make. initial: see `parent_of`.

    Raises InputError if the nodes cannot be registered, WeightsError without the model.
    """
    for role, node in (("fixed", fixed), ("moving", moving)):
        if reason := Geometry.refusal(node, role):
            raise InputError(reason)
    if fixed is moving:
        raise InputError("The fixed and the moving volume are the same. Choose two different volumes.")
    before, moving_parent = Results.parent_before(moving), parent_of(moving, initial)
    fixed_volume = Geometry.volume_from_node(fixed, Results.parent_before(fixed))
    moving_volume = Geometry.volume_from_node(moving, moving_parent)
    run = Results.Run(
        fixed_id=fixed.GetID(),
        moving_id=moving.GetID(),
        moving_parent_id=before and before.GetID(),
        parent_to_world=Geometry.to_world(moving_parent, f"'{moving.GetName()}'"),
        fixed_grid=fixed_volume.grid,
        moving_grid=moving_volume.grid,
        model=model,
        model_version=find_model(model).version,
    )
    return fixed_volume, moving_volume, run


def label_map(node: slicer.vtkMRMLLabelMapVolumeNode | None) -> Volume | None:
    """The voxels of a label map node in the world; None for no node. Raises InputError for an empty one."""
    if node is None:
        return None
    if node.GetImageData() is None:
        raise InputError(f"The label map '{node.GetName()}' is empty. Choose another one or none.")
    return Geometry.volume_from_node(node, Results.original_parent(node))


def initial_alignment(
    initial: str | slicer.vtkMRMLTransformNode, moving: slicer.vtkMRMLScalarVolumeNode, fixed: Grid
) -> str | np.ndarray | Transform:
    """What the worker is told to begin with: a method, or the map of fixed RAS to moving RAS of a transform node.

    initial: carries the moving volume onto the fixed one; above the moving volume, as it is there or on top of that.
    fixed: the fixed volume's grid in the world. Raises InputError for an unknown method.
    """
    if isinstance(initial, str):
        if initial not in ALIGNMENTS:
            raise InputError(f"Unknown initial alignment '{initial}'. Choose one of {', '.join(ALIGNMENTS)}.")
        return initial
    above, place = Results.parent_before(moving), parent_of(moving, initial)
    # Of a volume that is under the start already, the start is taken for itself: the volume is read without it.
    to_place = Geometry.to_world(place, f"'{moving.GetName()}'") if above is initial is not place else np.eye(4)
    if is_linear(initial):
        while place is not None:
            if place is initial:
                return np.eye(4)
            place = place.GetParentTransformNode()
        return to_place @ np.linalg.inv(Geometry.to_world(initial, "The initial alignment"))
    coarser = max(1.0, (np.prod(fixed.shape) / SAMPLES) ** (1 / 3))
    affine = fixed.ijk_to_ras.copy()
    affine[:3, :3] *= coarser
    grid = Grid(tuple(int(np.ceil((n - 1) / coarser)) + 1 for n in fixed.shape), affine)
    return Transform((Geometry.sampled(initial, grid), to_place))


def is_linear(transform: slicer.vtkMRMLTransformNode) -> bool:
    """Whether a transform and all above it are linear."""
    return bool(transform.IsTransformToWorldLinear())


def parent_of(
    moving: slicer.vtkMRMLScalarVolumeNode, initial: str | slicer.vtkMRMLTransformNode
) -> slicer.vtkMRMLTransformNode | None:
    """The transform that places the moving volume before anything is registered.

    A nonlinear transform that is to be started from is not part of that place.
    """
    parent = Results.original_parent(moving)
    if parent is not None and parent is initial and not is_linear(parent):
        return parent.GetParentTransformNode()
    return parent
