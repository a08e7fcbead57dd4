"""What a registration is given, read from the scene and checked. MRML only, no Qt."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.files import as_labels
from hyperreg.imaging.label_maps import check_is_label_map, check_on_image
from hyperreg.imaging.structures import LabelMap, Meaning, compared
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import find_model
from HyperRegSlicerLib import Geometry, Regions, Results

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


def label_maps(
    nodes: Sequence[slicer.vtkMRMLLabelMapVolumeNode | None], images: Sequence[Volume]
) -> tuple[list[Volume | None], dict[int, str], list[str]]:
    """The label maps of the fixed and the moving image in the world, what they are called, and what the user should
    know.

    They are numbered alike where both name their structures; names are by these numbers. Raises InputError for one that
    is empty, no label map, or not of its image, and for two without a structure in common.
    """
    notes: list[str] = []
    drawn = [_label_map(node, image, notes) for node, image in zip(nodes, images, strict=True)]
    if drawn[0] is not None and drawn[1] is not None:
        drawn[0], drawn[1], table, texts = compared(drawn[0], drawn[1])
        notes += texts
    else:
        table = {label: meaning for one in drawn if one is not None for label, meaning in one.table.items()}
    volumes = [None if one is None else one.layers[0] for one in drawn]
    return volumes, {label: meaning.name for label, meaning in table.items()}, notes


def _label_map(node: slicer.vtkMRMLLabelMapVolumeNode | None, image: Volume, notes: list[str]) -> LabelMap | None:
    if node is None:
        return None
    if node.GetImageData() is None:
        raise InputError(f"The label map '{node.GetName()}' is empty. Choose another one or none.")
    volume = Geometry.volume_from_node(node, Results.original_parent(node))
    labels = dataclasses.replace(volume, array=as_labels(volume))
    check_is_label_map(labels.array, labels.name)
    notes += check_on_image(labels, image, measured_only=True)
    return LabelMap((labels,), {label: Meaning(name) for label, name in Regions.names_of(node).items()})


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
