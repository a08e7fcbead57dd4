"""What the user has chosen: typed, saved with the scene, checked before anything runs."""

from __future__ import annotations

import json
from typing import Annotated, Any

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from hyperreg.errors import InputError, WeightsError
from hyperreg.mrml.segmentation import inputs
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from HyperRegSlicerLib.Parameters import Device

# Role of the node references, on the parameter node, of the images that only some models want.
INPUT_ROLE = "HyperReg.input."


@parameterNodeWrapper
class SegmentationParameters:
    """The module's parameter node.

    volume: what is segmented; the model's first input. model: a name of the catalogue; "" until one was chosen.
    flips, ensemble: average over flipped images, over all weights of the model. align: bring the other inputs to the
    first one. show3D: make surfaces. hyperparameters: JSON, name -> value; what it lacks has the model's default.
    segmentation, consensus: the last results, so that a reopened scene finds them again.
    atlasFolder: on disk; atlasSceneFolder: path in the subject hierarchy; atlasesInScene: which of them counts.
    atlasMethod ("local", "vote", "staple", "dp"), atlasLambda, atlasRefine, atlasSelect (0: all atlases).
    readersMethod ("vote", "staple"): of segmentations that are fused.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    model: str
    device: Device = Device.AUTO
    flips: bool = False
    ensemble: bool = False
    hyperparameters: str
    align: bool = False
    show3D: bool = True
    segmentation: slicer.vtkMRMLSegmentationNode
    atlasFolder: str = ""
    atlasesInScene: bool = False
    atlasSceneFolder: str = ""
    atlasMethod: str = "local"
    readersMethod: str = "vote"
    atlasLambda: Annotated[float, WithinRange(0.0, 1.0)] = 0.3
    atlasRefine: bool = False
    atlasSelect: Annotated[int, WithinRange(0, 999)] = 0
    consensus: slicer.vtkMRMLSegmentationNode

    def card(self) -> SegmentationCard | None:
        """The chosen model; None if there is none, or no such model any more."""
        try:
            return find_model(self.model)
        except WeightsError:
            return None

    def options(self) -> dict[str, Any]:
        """How to compute, as `SegmentationLogic.segment_all` wants it: only what the chosen model knows.

        Options stay set while other models are tried.
        """
        card = self.card()
        try:
            saved = dict(json.loads(self.hyperparameters or "{}"))
        except (ValueError, TypeError):
            saved = {}  # an edited scene file
        return {
            "device": self.device.value,
            "flips": bool(card is not None and card.flips and self.flips),
            "ensemble": bool(card is not None and card.ensemble and self.ensemble),
            "hyperparameters": {
                entry.name: min(1.0, max(0.0, float(saved.get(entry.name, entry.default))))
                for entry in (card.hyperparameters if card is not None else ())
            },
            "show_3d": self.show3D,
        }

    def set_hyperparameter(self, name: str, value: float) -> None:
        """Sets one of the chosen model; those of others are forgotten."""
        self.hyperparameters = json.dumps({**self.options()["hyperparameters"], name: round(value, 4)})

    def images(self) -> dict[str, slicer.vtkMRMLScalarVolumeNode | None]:
        """The nodes of all inputs of the chosen model, by name; {} without a model."""
        card = self.card()
        names = [entry.name for entry in card.inputs] if card is not None else []
        others = {name: self.parameterNode.GetNodeReference(INPUT_ROLE + name) for name in names[1:]}
        return {name: self.volume if name == names[0] else others[name] for name in names}

    def set_image(self, name: str, node: slicer.vtkMRMLScalarVolumeNode | None) -> None:
        """Chooses the node of an input other than the first one."""
        self.parameterNode.SetNodeReferenceID(INPUT_ROLE + name, node and node.GetID())

    def isValid(self) -> tuple[bool, str]:
        """Whether Segment can be pressed, and if not, what the user has to do first."""
        if self.volume is None:
            return False, _("Choose a volume.")
        card = self.card()
        if card is None:
            return False, _("Choose a model.")
        try:
            inputs.read(self.images(), card)
        except InputError as error:
            return False, str(error)
        return True, ""
