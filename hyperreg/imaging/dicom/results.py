"""What DICOM results of any kind share: where they go, what they are made of, and what is said of that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperreg.errors import InputError
from hyperreg.imaging.dicom.series import Series, find_series, is_dicom_source

if TYPE_CHECKING:
    from pydicom import Dataset


@dataclass(frozen=True)
class DicomRequest:
    """folder: where DICOM results go; new or empty. leave_out_patient: without names, IDs, dates; UIDs stay."""

    folder: Path
    leave_out_patient: bool = False


def warning_rows(texts: Sequence[str], leave_out_patient: bool) -> dict[str, str]:
    """Warnings as rows of a sheet; only their number where they might name files, and so patients."""
    if leave_out_patient and texts:
        return {"Warnings": f"{len(texts)}; left out, as they may name files. See the program's messages."}
    return {f"Warning {number}": text for number, text in enumerate(texts, 1)}


def series_of(path: Path) -> Series:
    """The DICOM series that an image was read from. Raises InputError if it came from another kind of file."""
    if not is_dicom_source(path):
        raise InputError(
            f"'{path}' is no DICOM image: DICOM results refer to the series that they were made of. Give DICOM images, "
            "or save the results as image and transform files."
        )
    series, _ = find_series(path)
    return series


def about_series(source: Dataset, name: str) -> dict[str, str]:
    """What a sheet says of the series an image came from, as far as its header (still) has it."""
    date = str(source.get("AcquisitionDate") or source.get("StudyDate") or "")
    patient = " ".join(str(source.get(keyword) or "") for keyword in ("PatientName", "PatientID")).strip()
    series = " ".join(str(source.get(keyword) or "") for keyword in ("Modality", "SeriesDescription")).strip()
    facts = {f"{name}: patient": patient, f"{name}: series": series, f"{name}: date": date}
    return {key: value for key, value in facts.items() if value}
