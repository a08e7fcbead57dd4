"""Where each frame of a DICOM image lies and what its numbers mean, for single-frame and enhanced objects alike."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.dicom.headers import PARAMETRIC_MAP, Instance, parsing

# What tells several images of one place apart: attribute -> (its functional group in enhanced objects, words).
DISTINCTIONS = {
    "TemporalPositionIndex": ("FrameContentSequence", "time points"),
    "TemporalPositionIdentifier": (None, "time points"),
    "TriggerTime": (None, "trigger times"),
    "NominalCardiacTriggerDelayTime": ("CardiacSynchronizationSequence", "cardiac phases"),
    "EffectiveEchoTime": ("MREchoSequence", "echo times"),
    "EchoTime": (None, "echo times"),
    "InversionTime": (None, "inversion times"),
    "FlipAngle": (None, "flip angles"),
    "DiffusionBValue": ("MRDiffusionSequence", "diffusion weightings"),
    "StackID": ("FrameContentSequence", "stacks"),
    "FrameType": ("MRImageFrameTypeSequence", "kinds of image"),
    "ImageType": (None, "kinds of image"),
    "AcquisitionNumber": (None, "acquisitions"),
    "RescaleType": ("PixelValueTransformationSequence", "units of values"),
    "Units": (None, "units of values"),
    "PhotometricInterpretation": (None, "scales of grey"),
}
# Those of them by which slices of one volume may differ: they are taken in turns.
TURNS = {"TriggerTime", "NominalCardiacTriggerDelayTime", "AcquisitionNumber"}


@dataclass(frozen=True)
class Frame:
    """One slice of an image, in DICOM's own terms (LPS, mm).

    number: within its file, from 0. position: (3,) of the centre of the first pixel. orientation: (6,) direction of a
    row, then of a column. spacing: (2,) between rows, between columns. slope, intercept: value = stored * slope +
    intercept. thickness, distance: of slices, as the header has them; NaN if it does not. distinctions: attributes that
    may tell images of the same place apart, as text.
    """

    instance: Instance
    number: int
    position: np.ndarray
    orientation: np.ndarray
    spacing: np.ndarray
    slope: float
    intercept: float
    thickness: float
    distance: float
    distinctions: dict[str, str]


def frames_of(instance: Instance) -> list[Frame]:
    """The frames of one image file, in the order in which they are stored.

    Raises InputError if a frame does not say where in the patient it lies, or has values that no slope explains;
    FileError if the header is damaged.
    """
    with parsing(instance.name):
        _check_pixels(instance)
        return list(_frames(instance))


def _check_pixels(instance: Instance) -> None:
    """Raise InputError for colour, and for several frames of which nothing is told."""
    name = instance.name
    if instance.whole_number("SamplesPerPixel", 1) > 1 or "PALETTE" in instance.text("PhotometricInterpretation"):
        raise InputError(f"The DICOM image '{name}' is a colour image; HyperReg takes grey-value images.")
    count = instance.frame_count
    groups = instance.header.get("PerFrameFunctionalGroupsSequence")
    if count > 1 and groups is None:
        raise InputError(
            f"The DICOM file '{name}' holds {count} frames ({instance.what}) and does not say where each frame lies. "
            "Export it as single slices, or as NIfTI or NRRD."
        )
    if groups is not None and len(groups) != count:
        raise InputError(
            f"The DICOM file '{name}' contradicts itself: it holds {count} frames and describes {len(groups)}. "
            "Export it again."
        )


def _frames(instance: Instance) -> Iterator[Frame]:
    header = instance.header
    shared = _first(header.get("SharedFunctionalGroupsSequence"))
    own = header.get("PerFrameFunctionalGroupsSequence") or [None]
    for number, group in enumerate(own):

        def find(sequence: str | None, keyword: str, places: tuple[Any, ...] = (group, shared)) -> Any:
            """An attribute from the frame's group, else from the one of all frames, else from the header itself."""
            for place in places if sequence else ():
                item = _first(place.get(sequence)) if place is not None else None
                if item is not None and item.get(keyword) not in (None, ""):
                    return item[keyword].value
            return header.get(keyword)

        slope, intercept = _scaling(instance, find)
        yield Frame(
            instance,
            number,
            _numbers(instance, find("PlanePositionSequence", "ImagePositionPatient"), 3),
            _numbers(instance, find("PlaneOrientationSequence", "ImageOrientationPatient"), 6),
            _spacing(instance, find("PixelMeasuresSequence", "PixelSpacing")),
            slope,
            intercept,
            _number(find("PixelMeasuresSequence", "SliceThickness")),
            _number(find("PixelMeasuresSequence", "SpacingBetweenSlices")),
            {
                keyword: str(value)
                for keyword, (sequence, _) in DISTINCTIONS.items()
                if (value := find(sequence, keyword)) not in (None, "")
            },
        )


def _scaling(instance: Instance, find: Any) -> tuple[float, float]:
    if "ModalityLUTSequence" in instance.header:
        raise InputError(
            f"The values of the DICOM image '{instance.name}' are defined by a look-up table, not by a slope. Export "
            "it as NIfTI or NRRD."
        )
    if instance.sop_class == PARAMETRIC_MAP:
        slope = find("RealWorldValueMappingSequence", "RealWorldValueSlope")
        intercept = find("RealWorldValueMappingSequence", "RealWorldValueIntercept")
    else:
        slope = find("PixelValueTransformationSequence", "RescaleSlope")
        intercept = find("PixelValueTransformationSequence", "RescaleIntercept")
    values = (1.0 if slope in (None, "") else float(slope), 0.0 if intercept in (None, "") else float(intercept))
    if not np.isfinite(values).all() or values[0] == 0:
        raise InputError(
            f"The DICOM image '{instance.name}' has a rescale slope of {values[0]:g} and an intercept of "
            f"{values[1]:g}: its values cannot be told. Export it again."
        )
    return values


def _numbers(instance: Instance, value: Any, count: int) -> np.ndarray:
    try:
        array = np.array([float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise InputError(
            f"The DICOM image '{instance.name}' does not say where in the patient it lies (no usable Image Position "
            "and Image Orientation). Export it as NIfTI or NRRD."
        )
    return array


def _spacing(instance: Instance, value: Any) -> np.ndarray:
    try:
        array = np.array([float(part) for part in value], dtype=np.float64)
    except (TypeError, ValueError):
        array = np.empty(0)
    if array.shape != (2,) or not np.isfinite(array).all() or array.min() <= 0:
        if "ImagerPixelSpacing" in instance.header:
            raise InputError(
                f"The DICOM image '{instance.name}' is a projection (a radiograph), not a slice; HyperReg takes "
                "volumes. Choose another series."
            )
        raise InputError(
            f"The DICOM image '{instance.name}' does not say how large its pixels are (no usable Pixel Spacing). "
            "Export it as NIfTI or NRRD."
        )
    return array


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return float("nan")
    return number if np.isfinite(number) else float("nan")


def _first(sequence: Any) -> Any:
    return sequence[0] if sequence else None
