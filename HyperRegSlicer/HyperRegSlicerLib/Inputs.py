"""What a registration is given, read from the scene and checked. MRML only, no Qt."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import find_model
from HyperRegSlicerLib import Geometry, Results

INITIAL_METHODS = ("affine", "rigid", "com", "none")


def read_pair(
    fixed: slicer.vtkMRMLScalarVolumeNode, moving: slicer.vtkMRMLScalarVolumeNode, model: str
) -> tuple[Volume, Volume, Results.Run]:
    """Both volumes in the world, without a live transform, and the run that they make.

    Raises InputError if the nodes cannot be registered, WeightsError without the model.
    """
    for role, node in (("fixed", fixed), ("moving", moving)):
        if reason := Geometry.refusal(node, role):
            raise InputError(reason)
    if fixed is moving:
        raise InputError("The fixed and the moving volume are the same. Choose two different volumes.")
    moving_parent = Results.original_parent(moving)
    fixed_volume = Geometry.volume_from_node(fixed, Results.original_parent(fixed))
    moving_volume = Geometry.volume_from_node(moving, moving_parent)
    run = Results.Run(
        fixed_id=fixed.GetID(),
        moving_id=moving.GetID(),
        moving_parent_id=moving_parent and moving_parent.GetID(),
        parent_to_world=Geometry.to_world(moving_parent, f"'{moving.GetName()}'"),
        fixed_grid=fixed_volume.grid,
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


def initial_alignment(initial: str | slicer.vtkMRMLTransformNode, moving_parent: Any) -> str | np.ndarray:
    """What the worker is told to begin with: a method, or (4, 4) fixed RAS -> moving RAS."""
    if isinstance(initial, str):
        if initial not in INITIAL_METHODS:
            raise InputError(f"Unknown initial alignment '{initial}'. Choose one of {', '.join(INITIAL_METHODS)}.")
        return initial
    above = moving_parent
    while above is not None:
        if above is initial:
            return np.eye(4)
        above = above.GetParentTransformNode()
    return np.linalg.inv(Geometry.to_world(initial, "The initial alignment"))
