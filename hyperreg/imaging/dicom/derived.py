"""A resampled volume as a DICOM series: the moving image's pixels in the fixed image's frame of reference."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.dicom import identity
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.volume import Volume

if TYPE_CHECKING:
    from pydicom import Dataset

# PET is not among them: its images must say when and how long each slice was measured, which a resampled one cannot.
# Modality -> SOP class, values of Image Type, and what the acquisition said of itself that still holds. The second
# dictionary has what the standard demands and a source of another kind may lack.
KINDS: dict[str, tuple[str, list[str], tuple[str, ...], dict[str, object]]] = {
    "CT": (
        "1.2.840.10008.5.1.4.1.1.2",
        ["DERIVED", "SECONDARY", "AXIAL", "RESAMPLED"],
        ("KVP", "WindowCenter", "WindowWidth"),
        {"KVP": None, "AcquisitionNumber": None, "RescaleType": "HU"},
    ),
    "MR": (
        "1.2.840.10008.5.1.4.1.1.4",
        ["DERIVED", "SECONDARY", "OTHER", "RESAMPLED"],
        (
            "ScanningSequence", "SequenceVariant", "ScanOptions", "MRAcquisitionType", "RepetitionTime", "EchoTime",
            "EchoTrainLength", "InversionTime", "FlipAngle", "MagneticFieldStrength",
        ),
        {
            "ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": None, "MRAcquisitionType": None,
            "RepetitionTime": None, "EchoTime": None, "EchoTrainLength": None,
        },
    ),
}  # fmt: skip
SOURCE_PURPOSE = ("121322", "DCM", "Source image for image processing operation")


def can_be_written(modality: str) -> bool:
    """Whether a resampled volume of this modality can become a series of single images."""
    return modality in KINDS


def write_series(
    volume: Volume,
    fixed: Sequence[Dataset],
    moving: Sequence[Dataset],
    folder: Path,
    derivation: str,
    whole_numbers: bool,
) -> list[Path]:
    """Write a volume as one file per slice and return the files.

    volume: the moving image on a grid in the fixed image's frame of reference. fixed, moving: headers, see
    `identity.sources_of`. derivation: how it was made, in words. whole_numbers: whether the moving image's values are
    whole numbers; they are rounded then. Other values, and large ones, get a slope that uses all of 16 bits.
    Raises InputError for a modality that cannot be written.
    """
    modality = str(moving[0].get("Modality", ""))
    if not can_be_written(modality):
        raise InputError(f"A resampled volume of the modality '{modality}' cannot be written as a DICOM series.")
    from pydicom.uid import generate_uid
    from pydicom.valuerep import DSfloat

    sop_class, image_type, kept, demanded = KINDS[modality]
    affine, array = RAS_LPS @ volume.ijk_to_ras, volume.array
    if np.linalg.det(affine[:3, :3]) < 0:
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
        array = array[:, :, ::-1]
    stored, slope = _stored(array, whole_numbers)
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    uid = generate_uid()
    source_images = [identity.reference_to(image) for image in moving]
    for item in source_images:
        item.PurposeOfReferenceCodeSequence = [identity.coded(*SOURCE_PURPOSE)]
    files = []
    for k in range(stored.shape[2]):
        one = identity.new_object(moving[0], sop_class, modality, uid, "HyperReg resampled, not for diagnosis")
        one.FrameOfReferenceUID = fixed[0].FrameOfReferenceUID
        one.PositionReferenceIndicator = fixed[0].get("PositionReferenceIndicator", None)
        one.ImageType = image_type
        one.InstanceNumber = k + 1
        one.PatientPosition = fixed[0].get("PatientPosition", None)
        for keyword, value in demanded.items():
            setattr(one, keyword, value)
        for keyword in kept:
            if keyword in moving[0]:
                one[keyword] = moving[0][keyword]
        one.DerivationDescription = derivation[:1024]
        one.SourceImageSequence = source_images
        one.ImagePositionPatient = [DSfloat(float(x), auto_format=True) for x in affine @ [0, 0, k, 1]][:3]
        cosines = (affine[:3, :2] / spacing[:2]).T.ravel()
        one.ImageOrientationPatient = [DSfloat(float(x), auto_format=True) for x in cosines]
        one.PixelSpacing = [DSfloat(float(x), auto_format=True) for x in (spacing[1], spacing[0])]
        one.SliceThickness = one.SpacingBetweenSlices = DSfloat(float(spacing[2]), auto_format=True)
        if slope != 1 or modality != "MR":
            one.RescaleSlope, one.RescaleIntercept = DSfloat(slope, auto_format=True), 0
        one.LossyImageCompression = moving[0].get("LossyImageCompression") or "00"
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.Columns, one.Rows = stored.shape[:2]
        one.BitsAllocated = one.BitsStored = 16
        one.HighBit, one.PixelRepresentation = 15, 1
        one.PixelData = np.ascontiguousarray(stored[:, :, k].T.astype("<i2")).tobytes()
        files.append(folder / f"{k + 1:04d}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def _stored(array: np.ndarray, whole_numbers: bool) -> tuple[np.ndarray, float]:
    """Values as int16 and the slope that gives them back."""
    largest = float(np.abs(array).max(initial=0))
    ends = np.iinfo(np.int16)
    if whole_numbers and largest <= ends.max:
        return np.rint(array).astype(np.int16), 1.0
    # A decimal of at most 16 letters, so that the slope that is read is the one that was divided by.
    slope = float(f"{largest / ends.max:.9g}") or 1.0
    return np.clip(np.rint(array / slope), -ends.max, ends.max).astype(np.int16), slope
