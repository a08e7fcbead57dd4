"""Whose DICOM objects are: what new ones take over from the series that they are made of, and what can be left out."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from datetime import datetime
from typing import TYPE_CHECKING

import hyperreg
from hyperreg.errors import InputError
from hyperreg.imaging.dicom.geometry import stack
from hyperreg.imaging.dicom.headers import Instance, parsing
from hyperreg.imaging.dicom.series import Series

if TYPE_CHECKING:
    from pydicom import Dataset

MANUFACTURER = MODEL_NAME = "HyperReg"
# Required of objects like ours; a program has none.
SERIAL_NUMBER = "none"
QUALIFICATION = "RESEARCH"

PATIENT = (
    "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge", "PatientSize",
    "PatientWeight",
)  # fmt: skip
STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName", "StudyDescription")
# Attributes that objects must have, empty where nothing is known.
NEVER_MISSING = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName",
)  # fmt: skip
REMOVAL = "HyperReg: names, IDs, dates and descriptions left out; UIDs kept"


def sources_of(series: Series, leave_out_patient: bool = False) -> list[Dataset]:
    """The headers of a series' files, in the order of its volume's slices, as far as new objects may take from them.

    leave_out_patient: see `without_patient`.
    Raises InputError if they lack what objects must refer to (study, series, frame of reference), FileError if damaged.
    """
    from pydicom import dcmread

    found: list[Dataset] = []
    for instance in _in_order(series):
        with parsing(instance.name), instance.entry.open() as file:
            header = dcmread(file, stop_before_pixels=True)
        missing = [keyword for keyword in _REFERENCES if not str(header.get(keyword) or "")]
        if missing:
            raise InputError(
                f"The DICOM image '{instance.name}' has no {' and no '.join(missing)}: DICOM objects cannot refer to "
                "it. Save the result as an image file instead."
            )
        for keyword in NEVER_MISSING:
            if keyword not in header:
                setattr(header, keyword, None)
        found.append(header)
    return without_patient(found) if leave_out_patient else found


def without_patient(sources: Sequence[Dataset]) -> list[Dataset]:
    """Copies of headers without names, IDs, birth date, study date and the like.

    UIDs stay: without them an object would not say which images it belongs to.
    """
    copies = [deepcopy(header) for header in sources]
    for header in copies:
        _leave_out(header)
    return copies


_REFERENCES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID", "FrameOfReferenceUID")


def _in_order(series: Series) -> list[Instance]:
    """The files, in the order of the slices, each once."""
    frames = series.frames()
    if len(series.unique) == 1:
        return series.unique
    return list(dict.fromkeys(frames[index].instance for index in stack(frames, series.description).order))


def _leave_out(header: Dataset) -> None:
    for keyword in (*PATIENT, *STUDY, *_DESCRIBING):
        if keyword in NEVER_MISSING:
            setattr(header, keyword, None)
        elif keyword in header:
            delattr(header, keyword)
    header.PatientIdentityRemoved = "YES"
    header.DeidentificationMethod = REMOVAL


# Of the series and institution: may hold names.
_DESCRIBING = (
    "SeriesDescription", "ProtocolName", "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName",
    "StationName", "PerformingPhysicianName", "OperatorsName", "PhysiciansOfRecord", "OtherPatientIDs",
    "OtherPatientNames", "PatientComments", "ImageComments", "RequestAttributesSequence", "DeviceSerialNumber",
    "SeriesDate", "SeriesTime", "AcquisitionDate", "AcquisitionTime", "AcquisitionDateTime", "ContentDate",
    "ContentTime", "PerformedProcedureStepDescription", "PerformedProcedureStepStartDate",
    "PerformedProcedureStepStartTime", "PerformedProcedureStepID",
)  # fmt: skip


def new_object(source: Dataset, sop_class: str, modality: str, series_uid: str, description: str) -> Dataset:
    """An object of a new series in the study of `source`: patient, study, series, equipment, frame of reference, time.

    To be filled and saved by the caller; Series Number and Instance Number are 1.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID = UID(sop_class)
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID = generate_uid()
    # Names in objects of ours hold letters of any script.
    result.SpecificCharacterSet = source.get("SpecificCharacterSet") or "ISO_IR 192"
    removal = ("PatientIdentityRemoved", "DeidentificationMethod")
    for keyword in (*PATIENT, *STUDY, *removal, "StudyInstanceUID", "FrameOfReferenceUID"):
        if keyword in source:
            result[keyword] = source[keyword]
    now = datetime.now().astimezone()
    result.Modality, result.SeriesInstanceUID = modality, series_uid
    result.SeriesNumber = result.InstanceNumber = 1
    result.SeriesDescription = description[:64]
    result.PositionReferenceIndicator = source.get("PositionReferenceIndicator", None)
    result.Manufacturer, result.ManufacturerModelName = MANUFACTURER, MODEL_NAME
    result.SoftwareVersions, result.DeviceSerialNumber = hyperreg.__version__, SERIAL_NUMBER
    result.SeriesDate = result.ContentDate = result.InstanceCreationDate = now.strftime("%Y%m%d")
    result.SeriesTime = result.ContentTime = result.InstanceCreationTime = now.strftime("%H%M%S")
    return result


def reference_to(source: Dataset) -> Dataset:
    """An item that refers to an image (SOP Instance Reference Macro)."""
    from pydicom import Dataset

    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    return item


def add_references(target: Dataset, sources: Sequence[Dataset]) -> None:
    """Say which studies and series hold the images that an object refers to (Common Instance Reference Module)."""
    from pydicom import Dataset

    studies: dict[str, dict[str, list[Dataset]]] = {}
    for source in sources:
        studies.setdefault(source.StudyInstanceUID, {}).setdefault(source.SeriesInstanceUID, []).append(source)
    for study, by_series in studies.items():
        items = []
        for uid, images in by_series.items():
            item = Dataset()
            item.SeriesInstanceUID = uid
            item.ReferencedInstanceSequence = [reference_to(image) for image in images]
            items.append(item)
        if study == target.StudyInstanceUID:
            target.ReferencedSeriesSequence = items
        else:
            other = Dataset()
            other.StudyInstanceUID, other.ReferencedSeriesSequence = study, items
            others = target.get("StudiesContainingOtherReferencedInstancesSequence") or []
            target.StudiesContainingOtherReferencedInstancesSequence = [*others, other]


def coded(value: str, scheme: str, meaning: str) -> Dataset:
    """An item with one coded concept."""
    from pydicom import Dataset

    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
    return item
