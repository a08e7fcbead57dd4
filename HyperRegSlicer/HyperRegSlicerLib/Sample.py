"""A pair to try the module with: two head phantoms and the known deformation between them, made on this computer."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from hyperreg.imaging.volume import Volume
from hyperreg.phantom import LABEL_NAMES, head_phantom_pair
from HyperRegSlicerLib import Geometry

# The colour table that names the structures.
COLOURS = "Sample structures"


@dataclass(frozen=True)
class Sample:
    """The nodes that `load` adds."""

    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode
    fixed_labels: slicer.vtkMRMLLabelMapVolumeNode
    moving_labels: slicer.vtkMRMLLabelMapVolumeNode


def load(scene: slicer.vtkMRMLScene) -> Sample:
    """Adds the sample pair with its label maps to the scene."""
    pair = head_phantom_pair()
    scalar, label_map = "vtkMRMLScalarVolumeNode", "vtkMRMLLabelMapVolumeNode"
    sample = Sample(
        fixed=_node(scene, scalar, "Sample fixed", pair.fixed),
        moving=_node(scene, scalar, "Sample moving", pair.moving),
        fixed_labels=_node(scene, label_map, "Sample fixed labels", pair.fixed_labels),
        moving_labels=_node(scene, label_map, "Sample moving labels", pair.moving_labels),
    )
    for labels in (sample.fixed_labels, sample.moving_labels):
        _name_labels(scene, labels)
    return sample


def _node(scene: slicer.vtkMRMLScene, kind: str, name: str, volume: Volume) -> slicer.vtkMRMLScalarVolumeNode:
    node = scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))
    Geometry.volume_to_node(volume, node)
    node.CreateDefaultDisplayNodes()
    return node


def _name_labels(scene: slicer.vtkMRMLScene, labels: slicer.vtkMRMLLabelMapVolumeNode) -> None:
    """The structures' names instead of those of the colours, which stay."""
    table = scene.GetFirstNodeByName(COLOURS)
    if table is None:
        table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", COLOURS)
        table.SetTypeToUser()
        table.SetNumberOfColors(max(LABEL_NAMES) + 1)
        colours = labels.GetDisplayNode().GetColorNode()
        for value, name in LABEL_NAMES.items():
            rgba = [0.6, 0.6, 0.6, 1.0]
            if colours is not None:
                colours.GetColor(value, rgba)
            table.SetColor(value, name.capitalize(), *rgba)
    labels.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
