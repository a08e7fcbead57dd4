"""DICOM in: series of images, multi-frame objects and segmentations as volumes, everything checked from the headers."""

from hyperreg.imaging.dicom.series import (
    Listing,
    Series,
    different_patients,
    find_series,
    frame_of_reference,
    is_dicom_source,
    list_series,
    read_dicom,
    read_segmentation,
    read_series,
    split_number,
    two_patients,
)
from hyperreg.imaging.dicom.sources import BARE, is_bare_file

__all__ = [
    "BARE",
    "Listing",
    "Series",
    "different_patients",
    "find_series",
    "frame_of_reference",
    "is_bare_file",
    "is_dicom_source",
    "list_series",
    "read_dicom",
    "read_segmentation",
    "read_series",
    "split_number",
    "two_patients",
]
