"""A pair to try the module with: two head phantoms and the known deformation between them, made on this computer."""

from __future__ import annotations

from dataclasses import dataclass

import slicer

from hyperreg.imaging.volume import Volume
from hyperreg.phantom import LABEL_NAMES, head_phantom_pair
from HyperRegSlicerLib import Geometry, Regions

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
    names = {value: name.capitalize() for value, name in LABEL_NAMES.items()}
    for labels in (sample.fixed_labels, sample.moving_labels):
        if table := scene.GetFirstNodeByName(COLOURS):
            labels.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
        else:
            Regions.name_labels(labels, names, COLOURS)
    return sample


def _node(scene: slicer.vtkMRMLScene, kind: str, name: str, volume: Volume) -> slicer.vtkMRMLScalarVolumeNode:
    node = scene.AddNewNodeByClass(kind, scene.GenerateUniqueName(name))
    Geometry.volume_to_node(volume, node)
    node.CreateDefaultDisplayNodes()
    return node
