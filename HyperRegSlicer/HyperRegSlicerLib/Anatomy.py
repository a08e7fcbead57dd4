"""Segments the fixed and the moving volume with one model, into label maps for the registration. MRML only, no Qt."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import slicer

from hyperreg.errors import HyperRegError, InputError
from hyperreg.segmentation.catalogue import SegmentationCard, find_model, list_models
from hyperreg.worker.segmentation import Segmented
from HyperRegSlicerLib import Companions, Geometry, Results
from HyperRegSlicerLib.Tuning import ignore

ROLES = ("fixed", "moving")


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
            if reason := Geometry.refusal(node, role):
                raise InputError(reason)
        if fixed is moving:
            raise InputError("The fixed and the moving volume are the same. Choose two different volumes.")
        self._ids, self._results, self._device = [fixed.GetID(), moving.GetID()], [], device
        self._send(card)
        self._card = card
        self.on_change()

    def cancel(self) -> None:
        """Gives it up, within a second or so; the scene stays as it is."""
        self._card = None
        self.segmenter.cancel()
        self.on_change()

    def close(self) -> None:
        """Gives it up; no callback any more."""
        self._card = None
        self.segmenter.close()

    def _send(self, card: SegmentationCard) -> None:
        node = self._node(len(self._results))
        volume = Geometry.volume_from_node(node, Results.original_parent(node))
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
            nodes = [self._node(index) for index in range(len(ROLES))]
            for node, result in zip(nodes, self._results, strict=True):
                if node.GetImageData().GetDimensions() != result.labels.shape:
                    raise InputError(f"'{node.GetName()}' was changed while it was segmented. Segment it again.")
        except HyperRegError as error:
            self._failed(str(error))
            return
        colours = _add_colours(self.scene, card)
        made = [
            _add_labels(self.scene, node, result, colours) for node, result in zip(nodes, self._results, strict=True)
        ]
        self._ended()
        self.on_done(*made)

    def _failed(self, message: str) -> None:
        self._ended()
        self.on_error(message)

    def _ended(self) -> None:
        self._card, self._results = None, []
        self.on_change()


def _add_colours(scene: slicer.vtkMRMLScene, card: SegmentationCard) -> slicer.vtkMRMLColorTableNode:
    """Names and colours of the structures, by which Slicer and the regions of the module call the labels."""
    table = scene.AddNewNodeByClass("vtkMRMLColorTableNode", card.title)
    table.SetTypeToUser()
    table.SetNumberOfColors(max(structure.label for structure in card.structures) + 1)
    table.SetColor(0, "Background", 0.0, 0.0, 0.0, 0.0)
    for structure in card.structures:
        table.SetColor(structure.label, structure.name, *(part / 255 for part in structure.colour), 1.0)
    table.NamesInitialisedOn()
    return table


def _add_labels(scene: slicer.vtkMRMLScene, node: Any, segmented: Segmented, colours: Any) -> Any:
    labels = scene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", f"{node.GetName()} {segmented.card.title}")
    Geometry.volume_to_node(segmented.labels, labels)
    labels.CopyOrientation(node)  # its own place, below the transform that it is put under
    labels.CreateDefaultDisplayNodes()
    labels.GetDisplayNode().SetAndObserveColorNodeID(colours.GetID())
    labels.SetAttribute(Results.MODEL_ATTRIBUTE, segmented.card.name)
    labels.SetAttribute(Results.MODEL_VERSION_ATTRIBUTE, segmented.card.version)
    Companions.accompany(node, labels)
    return labels
