"""What the user has chosen: typed, saved with the scene, checked before anything runs."""

from __future__ import annotations

import enum
from typing import Annotated

import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper

from hyperreg.errors import InputError
from hyperreg.mrml import geometry, linked, views
from hyperreg.mrml.registration import inputs, texts
from hyperreg.registration import catalogue, contrast


class Initial(enum.Enum):
    """Where the registration begins; the value is what `RegistrationLogic.register` is told."""

    AFFINE = "affine"
    SIMILARITY = "similarity"
    RIGID = "rigid"
    CENTRES = "com"
    LANDMARKS = "landmarks"
    NONE = "none"
    TRANSFORM = "transform"

    def label(self) -> str:
        return texts.ALIGNMENT_TITLES.get(self.value, _("A transform of the scene, of any kind"))


class Device(enum.Enum):
    """Where the network runs."""

    AUTO = "auto"
    CPU = "cpu"
    GPU = "cuda"

    def label(self) -> str:
        return texts.DEVICE_TITLES[self.value]


class Contrast(enum.Enum):
    """What the volumes are taken for; the value is what `RegistrationLogic.register` is told."""

    AUTO = contrast.AUTOMATIC
    SAME = contrast.SAME
    DIFFERENT = contrast.DIFFERENT

    def label(self) -> str:
        return texts.CONTRAST_TITLES[self.value]


class Comparison(enum.Enum):
    """How the slice views show both volumes."""

    FADE = views.FADE
    CHECKERBOARD = views.CHECKERBOARD
    SIDE_BY_SIDE = views.SIDE_BY_SIDE

    def label(self) -> str:
        return {
            Comparison.FADE: _("Fade one into the other"),
            Comparison.CHECKERBOARD: _("Checkerboard"),
            Comparison.SIDE_BY_SIDE: _("Side by side"),
        }[self]


@parameterNodeWrapper
class RegistrationParameters:
    """The module's parameter node.

    initialTransform: for Initial.TRANSFORM.
    contrast: whether both volumes show tissues alike. symmetric: whether neither is preferred.
    model: a name of the catalogue; "" until one was chosen.
    lam: λ, 0 (most flexible) to 1 (most rigid). gamma: γ, for models that declare it.
    regions: segmentation or label map whose segments may have a λ of their own; regionLambdas: see `regions.to_text`;
    rigidRegions: those that move as one rigid body, see `regions.keys_to_text`.
    fixedLeaveOut, movingLeaveOut: segmentation or label map of what does not count for the match;
    fixedLeaveOutSegment, movingLeaveOutSegment: the key of one of its segments (see `regions.Region`), "" for all.
    fixedLabels, movingLabels: label maps for the overlap measure; optional.
    fixedLandmarks, movingLandmarks: point lists, the same places in the same order; optional.
    pull: how much the landmarks attract each other, 0 (only measured) to 1; measuredOnly: ids of points that never do
    (see `regions.keys_to_text`).
    transform: the live transform, so that a reopened scene finds it again.
    fullAutomatically: whether full resolution comes by itself.
    showVolumeChange: whether the map of local volume change lies over the views.
    fade: share of the moving volume in the views, 0 to 1.
    """

    fixed: slicer.vtkMRMLScalarVolumeNode
    moving: slicer.vtkMRMLScalarVolumeNode
    contrast: Contrast = Contrast.AUTO
    symmetric: bool = False
    initial: Initial = Initial.AFFINE
    initialTransform: slicer.vtkMRMLTransformNode
    model: str
    device: Device = Device.AUTO
    lam: Annotated[float, WithinRange(0, 1)] = catalogue.NONE.default_lambda
    gamma: Annotated[float, WithinRange(0, 1)] = 0.5
    regions: slicer.vtkMRMLDisplayableNode
    regionLambdas: str
    rigidRegions: str
    fixedLeaveOut: slicer.vtkMRMLDisplayableNode
    fixedLeaveOutSegment: str
    movingLeaveOut: slicer.vtkMRMLDisplayableNode
    movingLeaveOutSegment: str
    fixedLabels: slicer.vtkMRMLLabelMapVolumeNode
    movingLabels: slicer.vtkMRMLLabelMapVolumeNode
    fixedLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    movingLandmarks: slicer.vtkMRMLMarkupsFiducialNode
    pull: Annotated[float, WithinRange(0, 1)] = 0.0
    measuredOnly: str
    fullAutomatically: bool = True
    transform: slicer.vtkMRMLTransformNode
    comparison: Comparison = Comparison.FADE
    showVolumeChange: bool = False
    fade: Annotated[float, WithinRange(0, 1)] = 0.5

    def isValid(self) -> tuple[bool, str]:
        """Whether Register can be pressed, and if not, what the user has to do first."""
        for role, node in (("fixed", self.fixed), ("moving", self.moving)):
            if reason := geometry.refusal(node, role):
                return False, reason
        if self.fixed is self.moving:
            return False, _("The fixed and the moving volume are the same. Choose two different volumes.")
        for node in (self.fixed, self.moving):
            try:
                place = inputs.parent_of(node, self.start) if node is self.moving else linked.parent_before(node)
                geometry.volume_from_node(node, place)
            except InputError as error:
                return False, str(error)
        if self.start is None:
            return False, _("Choose the transform to begin with, or another initial alignment.")
        return True, ""

    @property
    def start(self) -> str | slicer.vtkMRMLTransformNode | None:
        """Where the registration begins, as `RegistrationLogic.register` takes it; None: no transform is chosen."""
        return self.initialTransform if self.initial is Initial.TRANSFORM else self.initial.value
