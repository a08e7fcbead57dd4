"""The images of one case, read from the scene and checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import slicer

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, linked
from hyperreg.segmentation.catalogue import SegmentationCard

Nodes = Mapping[str, slicer.vtkMRMLScalarVolumeNode | None]


def read(nodes: Nodes, card: SegmentationCard) -> dict[str, Volume]:
    """The volumes, in the world, by the names of the model's inputs; views of the nodes' memory.

    Raises InputError for a node that is missing, chosen twice, or cannot be segmented.
    """
    single = len(card.inputs) == 1
    volumes: dict[str, Volume] = {}
    for entry in card.inputs:
        node = nodes.get(entry.name)
        if node is None:
            what = "a volume" if single else f"the volume that is the input {entry.title}"
            raise InputError(f"Choose {what}; the model '{card.title}' needs it.")
        if reason := geometry.refusal(node, "input" if single else entry.title):
            raise InputError(reason)
        twice = next((name for name in volumes if nodes[name] is node), None)
        if twice is not None:
            raise InputError(
                f"'{node.GetName()}' is chosen as {twice} and as {entry.name}. Choose a different volume for each."
            )
        volumes[entry.name] = geometry.volume_from_node(node, linked.original_parent(node))
    return volumes


def guess(
    nodes: Nodes, card: SegmentationCard, candidates: Iterable[slicer.vtkMRMLScalarVolumeNode]
) -> dict[str, slicer.vtkMRMLScalarVolumeNode]:
    """Nodes for the inputs that have none yet, where exactly one other candidate's name says that it is this input."""
    taken = {node.GetID() for node in nodes.values() if node is not None}
    free = [node for node in candidates if node.GetID() not in taken]
    found = {}
    for entry in card.inputs:
        fitting = [node for node in free if entry.fits(node.GetName())]
        if nodes.get(entry.name) is None and len(fitting) == 1:
            found[entry.name] = fitting[0]
    return found
