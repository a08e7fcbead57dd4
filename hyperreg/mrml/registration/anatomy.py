"""Segments the fixed and the moving volume with one model, into label maps for the registration.

Done again with the same volume and model, the label map of before is filled anew, unless somebody has changed it since.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.mrml import geometry, linked, nodes, regions
from hyperreg.mrml.lifecycle import ignore
from hyperreg.segmentation.catalogue import SegmentationCard, find_model, list_models
from hyperreg.worker.segmentation import Segmented

ROLES = ("fixed", "moving")
# Node reference of a label map: the volume that it was made from.
VOLUME_ROLE = "HyperReg.segmentedVolume"


def models() -> list[SegmentationCard]:
    """The models that can segment a volume by itself."""
    return [card for card in list_models() if len(card.inputs) == 1]


class PairSegmentation:
    """One volume after the other; the scene is touched only when both are done.

    segmenter: a `hyperreg.worker.segmentation.RemoteSegmenter` or a stand-in.
    Callbacks, on the thread that polls: on_change(): running or not. on_progress(fraction, text).
    on_done(fixed_labels, moving_labels): label map nodes, on the voxels of their volumes. on_error(message).
    """

    def __init__(self, scene: slicer.vtkMRMLScene, segmenter: Any) -> None:
        self.scene = scene
        self.segmenter = segmenter
        self.on_change: Callable[[], None] = ignore
        self.on_progress: Callable[[float, str], None] = ignore
        self.on_done: Callable[[Any, Any], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        self._ids: list[str] = []
        self._results: list[Segmented] = []
        self._card: SegmentationCard | None = None
        self._device = "auto"
        # How the images of the label maps that were made here were left, by node id.
        self._left: dict[str, int] = {}
        segmenter.on_progress = self._progressed
        segmenter.on_done = self._volume_done
        segmenter.on_error = self._failed
        segmenter.on_cancelled = self._ended

    @property
    def running(self) -> bool:
        return self._card is not None or self.segmenter.running

    def start(self, fixed: Any, moving: Any, model: str, device: str = "auto") -> None:
        """Starts with the fixed volume and returns at once.

        Raises InputError for volumes that cannot be segmented or while it runs, WeightsError without the model.
        """
        if self.running:
            raise InputError("The volumes are being segmented. Wait, or cancel it first.")
        card = find_model(model)
        for role, node in zip(ROLES, (fixed, moving), strict=True):
            if reason := geometry.refusal(node, role):
                raise InputError(reason)
        if fixed is moving:
            raise InputError("The fixed and the moving volume are the same. Choose two different volumes.")
        self._ids, self._results, self._device = [fixed.GetID(), moving.GetID()], [], device
        self._send(card)
        self._card = card
        self.on_change()

    def cancel(self) -> None:
        """Gives it up at once; the scene stays as it is."""
        self._card = None
        self.segmenter.cancel()
        self.on_change()

    def close(self) -> None:
        """Gives it up; no callback any more."""
        self._card = None
        self.segmenter.close()

    def _send(self, card: SegmentationCard) -> None:
        node = self._node(len(self._results))
        volume = geometry.volume_from_node(node, linked.original_parent(node))
        self.segmenter.segment({card.inputs[0].name: volume}, card.name, device=self._device)

    def _node(self, index: int) -> Any:
        node = self.scene.GetNodeByID(self._ids[index])
        if node is None or node.GetImageData() is None:
            raise InputError(f"The {ROLES[index]} volume was deleted while it was being segmented.")
        return node

    def _progressed(self, fraction: float, text: str) -> None:
        index = len(self._results)
        if self._card is not None and index < len(ROLES):
            self.on_progress((index + fraction) / len(ROLES), f"{ROLES[index].capitalize()} volume: {text}")

    def _volume_done(self, segmented: Segmented) -> None:
        card = self._card
        if card is None:
            self._ended()
            return
        self._results.append(segmented)
        try:
            if len(self._results) < len(ROLES):
                self._send(card)
                return
            volumes = [self._node(index) for index in range(len(ROLES))]
            for node, result in zip(volumes, self._results, strict=True):
                if node.GetImageData().GetDimensions() != result.labels.shape:
                    raise InputError(f"'{node.GetName()}' was changed while it was segmented. Segment it again.")
        except HyperRegError as error:
            self._failed(str(error))
            return
        if self.scene.GetUndoFlag():
            self.scene.SaveStateForUndo()  # once for both
        made = [self._labels(node, result) for node, result in zip(volumes, self._results, strict=True)]
        self._ended()
        self.on_done(*made)

    def _labels(self, volume: Any, segmented: Segmented) -> Any:
        """The result as a label map of the volume: the one of before if it is as it was left, else a new one."""
        card = segmented.card
        untouched = (
            node for node in self._made_from(volume, card) if self._left.get(node.GetID()) == _image_stamp(node)
        )
        labels = next(untouched, None)
        if labels is None:
            labels = self.scene.AddNewNodeByClass(regions.LABEL_MAP, f"{volume.GetName()} {card.title}")
            labels.SetNodeReferenceID(VOLUME_ROLE, volume.GetID())
            labels.CreateDefaultDisplayNodes()
            labels.GetDisplayNode().SetAndObserveColorNodeID(_colours(self.scene, card).GetID())
        linked.accompany(volume, labels)
        geometry.volume_to_node(segmented.labels, labels)
        labels.CopyOrientation(volume)  # its own place, below the transform that it is under
        nodes.mark(labels, card.name, card.version)
        labels.SetUndoEnabled(self.scene.GetUndoFlag())
        self._left[labels.GetID()] = _image_stamp(labels)
        return labels

    def _made_from(self, volume: Any, card: SegmentationCard) -> list[Any]:
        return [
            node
            for node in nodes.of_class(self.scene, regions.LABEL_MAP)
            if node.GetNodeReference(VOLUME_ROLE) is volume and nodes.made_by(node)[0] == card.name
        ]

    def _failed(self, message: str) -> None:
        self._ended()
        self.on_error(message)

    def _ended(self) -> None:
        self._card, self._results = None, []
        self.on_change()


def _image_stamp(node: Any) -> int:
    """Differs when somebody has painted in the label map, wherever it was moved to."""
    return -1 if node.GetImageData() is None else int(node.GetImageData().GetMTime())


def _colours(scene: slicer.vtkMRMLScene, card: SegmentationCard) -> slicer.vtkMRMLColorTableNode:
    """Names and colours of the structures, by which Slicer and the regions of the module call the labels."""
    for table in nodes.of_class(scene, nodes.COLOUR_TABLE):
        if nodes.made_by(table) == (card.name, card.version):
            return table
    colours = {0: ("Background", 0.0, 0.0, 0.0, 0.0)}
    for structure in card.structures:
        red, green, blue = (part / 255 for part in structure.colour)
        colours[structure.label] = (structure.name, red, green, blue, 1.0)
    table = nodes.add_colour_table(scene, card.title, colours)
    nodes.mark(table, card.name, card.version)
    return table
