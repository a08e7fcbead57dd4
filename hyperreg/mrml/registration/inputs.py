"""What a registration is given, read from the scene and checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.label_checks import as_labels, check_is_label_map, check_on_image
from hyperreg.imaging.structures import LabelMap, Meaning, compared
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import geometry, linked, regions
from hyperreg.mrml.registration import results
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.start import ALIGNMENTS

# A transform that is not linear is taken over at about this many points.
SAMPLES = 500_000


def read_pair(
    fixed: slicer.vtkMRMLScalarVolumeNode,
    moving: slicer.vtkMRMLScalarVolumeNode,
    model: str,
    initial: str | slicer.vtkMRMLTransformNode,
) -> tuple[Volume, Volume, results.Run]:
    """Both volumes in the world, without a live transform, and the run that they make. initial: see `parent_of`.

    Raises InputError if the nodes cannot be registered, WeightsError without the model.
    """
    for role, node in (("fixed", fixed), ("moving", moving)):
        if reason := geometry.refusal(node, role):
            raise InputError(reason)
    if fixed is moving:
        raise InputError("The fixed and the moving volume are the same. Choose two different volumes.")
    before, moving_parent = linked.parent_before(moving), parent_of(moving, initial)
    fixed_volume = geometry.volume_from_node(fixed, linked.parent_before(fixed))
    moving_volume = geometry.volume_from_node(moving, moving_parent)
    run = results.Run(
        fixed_id=fixed.GetID(),
        moving_id=moving.GetID(),
        moving_parent_id=before and before.GetID(),
        parent_to_world=geometry.to_world(moving_parent, f"'{moving.GetName()}'"),
        fixed_grid=fixed_volume.grid,
        moving_grid=moving_volume.grid,
        card=find_model(model),
        initial=initial if isinstance(initial, str) else initial.GetName(),
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
    volume = geometry.volume_from_node(node, linked.original_parent(node))
    labels = dataclasses.replace(volume, array=as_labels(volume))
    check_is_label_map(labels.array, labels.name)
    notes += check_on_image(labels, image, measured_only=True)
    return LabelMap((labels,), {label: Meaning(name) for label, name in regions.names_of(node).items()})


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
    above, place = linked.parent_before(moving), parent_of(moving, initial)
    # Of a volume that is under the start already, the start is taken for itself: the volume is read without it.
    to_place = geometry.to_world(place, f"'{moving.GetName()}'") if above is initial is not place else np.eye(4)
    if is_linear(initial):
        while place is not None:
            if place is initial:
                return np.eye(4)
            place = place.GetParentTransformNode()
        return to_place @ np.linalg.inv(geometry.to_world(initial, "The initial alignment"))
    coarser = max(1.0, (np.prod(fixed.shape) / SAMPLES) ** (1 / 3))
    affine = fixed.ijk_to_ras.copy()
    affine[:3, :3] *= coarser
    i, j, k = (int(np.ceil((n - 1) / coarser)) + 1 for n in fixed.shape)
    grid = Grid((i, j, k), affine)
    return Transform((geometry.sampled(initial, grid), to_place))


def is_linear(transform: slicer.vtkMRMLTransformNode) -> bool:
    """Whether a transform and all above it are linear."""
    return bool(transform.IsTransformToWorldLinear())


def parent_of(
    moving: slicer.vtkMRMLScalarVolumeNode, initial: str | slicer.vtkMRMLTransformNode
) -> slicer.vtkMRMLTransformNode | None:
    """The transform that places the moving volume before anything is registered.

    A nonlinear transform that is to be started from is not part of that place.
    """
    parent = linked.original_parent(moving)
    if parent is None or isinstance(initial, str) or parent is not initial or is_linear(parent):
        return parent
    return parent.GetParentTransformNode()
