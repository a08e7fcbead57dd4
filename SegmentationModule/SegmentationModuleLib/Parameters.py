"""What the user has chosen: typed, saved with the scene, checked before anything runs."""

from __future__ import annotations

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper

from hyperreg.errors import InputError, WeightsError
from hyperreg.segmentation.catalogue import SegmentationCard, find_model
from HyperRegSlicerLib.Parameters import Device
from SegmentationModuleLib import Inputs

# Role of the node references, on the parameter node, of the images that only some models want.
INPUT_ROLE = "HyperReg.input."


@parameterNodeWrapper
class SegmentationParameters:
    """The module's parameter node.

    volume: what is segmented; the model's first input. model: a name of the catalogue; "" until one was chosen.
    flips: average over flipped images. align: bring the other inputs to the first one. show3D: make surfaces.
    segmentation: the last result, so that a reopened scene finds it again.
    """

    volume: slicer.vtkMRMLScalarVolumeNode
    model: str
    device: Device = Device.AUTO
    flips: bool = False
    align: bool = False
    show3D: bool = True
    segmentation: slicer.vtkMRMLSegmentationNode

    def card(self) -> SegmentationCard | None:
        """The chosen model; None if there is none, or no such model any more."""
        try:
            return find_model(self.model)
        except WeightsError:
            return None

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
            Inputs.read(self.images(), card)
        except InputError as error:
            return False, str(error)
        return True, ""
