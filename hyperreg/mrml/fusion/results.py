"""What a fusion leaves in the scene: consensus, disagreement map, tables of label maps and volumes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import slicer

import hyperreg
from hyperreg.fusion.records import Learned, Rater
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import linked, nodes
from hyperreg.mrml.fusion.weights_plot import Course
from hyperreg.mrml.segmentation.results import (
    LABEL,
    STRUCTURE,
    UNCERTAINTY_ROLE,
    add_map,
    fill_columns,
    fill_segmentation,
)
from hyperreg.worker.fusion import EarlyAnswer, Fused, FusedStructure

# The table of label maps is a node reference of the consensus, saved with the scene.
RATERS_ROLE = "HyperReg.labelMaps"
# As is the table of data parameters over the steps, where any were learned.
LEARNED_ROLE = "HyperReg.dataParameters"
# Smaller shares are not coloured in the views: of many atlases one or two differ at every border.
SHOWN_FROM = 0.25
METHOD_ATTRIBUTE = "HyperReg.fusion"
STEP = "Step"
NAME, STATE, WEIGHT, LAMBDA, REASON = "Label map", "State", "Weight", "Lambda", "Reason"
FIGURES = {
    "Sensitivity": "sensitivity",
    "Specificity": "specificity",
    "Dice with consensus": "dice",
    "Similarity": "similarity",
}
VOLUMES = {
    "Volume (ml)": "volume_ml",
    "Mean of label maps (ml)": "raters_mean_ml",
    "SD (ml)": "raters_sd_ml",
    "Minimum (ml)": "raters_minimum_ml",
    "Maximum (ml)": "raters_maximum_ml",
}


def add_consensus(
    scene: slicer.vtkMRMLScene, reference: slicer.vtkMRMLScalarVolumeNode, fused: Fused
) -> slicer.vtkMRMLSegmentationNode:
    """Adds segmentation, disagreement map and both tables, in the place of the volume they belong to."""
    name = reference.GetName()
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{name} consensus")
    structures = [entry.structure for entry in fused.structures]
    fill_segmentation(node, reference, _narrow(fused.labels), structures)
    node.CreateDefaultDisplayNodes()
    disagreement = add_map(scene, reference, fused.disagreement, f"{name} disagreement")
    disagreement.GetDisplayNode().SetLowerThreshold(SHOWN_FROM)
    raters = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} label maps")
    fill_raters(raters, fused.raters)
    volumes = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} consensus volumes")
    fill_volumes(volumes, fused.structures)
    node.SetNodeReferenceID(UNCERTAINTY_ROLE, disagreement.GetID())
    node.SetNodeReferenceID(RATERS_ROLE, raters.GetID())
    if fused.learned is not None:
        learned = scene.AddNewNodeByClass("vtkMRMLTableNode", f"{name} data parameters")
        fill_learned(learned, fused.learned)
        node.SetNodeReferenceID(LEARNED_ROLE, learned.GetID())
    for made in (node, disagreement):
        made.SetAttribute(METHOD_ATTRIBUTE, fused.method)
        made.SetAttribute(nodes.VERSION_ATTRIBUTE, hyperreg.__version__)
        linked.accompany(reference, made)
    return node


def add_early(
    scene: slicer.vtkMRMLScene, reference: slicer.vtkMRMLScalarVolumeNode, answer: EarlyAnswer
) -> slicer.vtkMRMLSegmentationNode:
    """Adds an early consensus, to be looked at; it is neither saved with the scene nor a step of undo."""
    node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", f"{reference.GetName()} consensus so far")
    node.SetSaveWithScene(False)
    node.SetUndoEnabled(False)
    fill_segmentation(node, reference, _narrow(answer.labels), answer.structures)
    node.CreateDefaultDisplayNodes()
    linked.accompany(reference, node)
    return node


def fill_learned(table: slicer.vtkMRMLTableNode, learned: Learned) -> None:
    """Writes a line per noted step: the data parameter of every label map. Wanted steps: in the description."""
    fill_columns(
        table,
        {
            STEP: list(learned.history_steps),
            **{atlas.name: list(atlas.history) for atlas in learned.atlases},
        },
    )
    table.SetDescription(str(learned.wanted))


def course_of(segmentation: slicer.vtkMRMLSegmentationNode | None) -> Course:
    """Its data parameters over the steps; an empty one where none were learned."""
    table = None if segmentation is None else segmentation.GetNodeReference(LEARNED_ROLE)
    columns = {name: list(map(float, column)) for name, column in nodes.columns_of(table).items()}
    steps = [int(step) for step in columns.pop(STEP, ())]
    if table is None or not steps:
        return Course()
    wanted = table.GetDescription() or ""
    return Course(steps, int(wanted) if wanted.isdigit() else steps[-1], columns)


def fill_raters(table: slicer.vtkMRMLTableNode, raters: Sequence[Rater]) -> None:
    """Writes a line per label map, those left out as well."""
    columns: dict[str, Sequence[str | int | float]] = {
        NAME: [rater.name for rater in raters],
        STATE: [rater.state for rater in raters],
        WEIGHT: [rater.weight for rater in raters],
        **{title: [getattr(rater, field) for rater in raters] for title, field in FIGURES.items()},
        LAMBDA: [math.nan if rater.lam is None else rater.lam for rater in raters],
        REASON: [rater.reason for rater in raters],
    }
    fill_columns(table, columns)


def fill_volumes(table: slicer.vtkMRMLTableNode, structures: Sequence[FusedStructure]) -> None:
    """Writes a line per structure: its volume, and the spread over the label maps."""
    columns: dict[str, Sequence[str | int | float]] = {
        STRUCTURE: [entry.structure.name for entry in structures],
        LABEL: [entry.structure.label for entry in structures],
        **{title: [getattr(entry.volumes, field) for entry in structures] for title, field in VOLUMES.items()},
    }
    fill_columns(table, columns)


def raters_of(segmentation: slicer.vtkMRMLSegmentationNode | None) -> list[dict[str, str]]:
    """The lines of its table of label maps, by column, as texts; [] where there is none."""
    columns = nodes.columns_of(segmentation and segmentation.GetNodeReference(RATERS_ROLE))
    if not {NAME, STATE, WEIGHT, LAMBDA, REASON, *FIGURES} <= set(columns):
        return []
    return [dict(zip(columns, line, strict=True)) for line in zip(*columns.values(), strict=True)]


def _narrow(labels: Volume) -> Volume:
    """The labels in the smallest of the types that segmentations usually have."""
    low, high = int(labels.array.min()), int(labels.array.max())
    kind = next(k for k in (np.uint8, np.int16, np.int32) if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return Volume(labels.array.astype(kind), labels.ijk_to_ras, labels.name)
