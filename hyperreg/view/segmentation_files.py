"""The files of one segmentation: for 3D Slicer, as a label map, uncertainty, volumes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hyperreg.errors import InputError
from hyperreg.imaging.dicom.identity import without_patient
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.reporting import versions
from hyperreg.segmentation.dicom_output import DicomResults
from hyperreg.view.private_files import zip_up
from hyperreg.view.series import Opened
from hyperreg.worker.segmentation import Segmented


def write(segmented: Segmented, folder: Path, stem: str) -> list[tuple[str, Path]]:
    """Writes segmentation, uncertainty and volumes into `folder`; (title, path) of each. Raises FileError."""
    files = [
        ("Segmentation for 3D Slicer (.seg.nrrd)", folder / f"{stem}.seg.nrrd"),
        ("Label map (.nii.gz)", folder / f"{stem}.nii.gz"),
        ("Uncertainty, 0 to 1, not calibrated (.nii.gz)", folder / f"{stem}-uncertainty.nii.gz"),
        ("Volumes (.csv)", folder / f"{stem}-volumes.csv"),
    ]
    for _title, path in files[:2]:
        write_segmentation(segmented.labels, segmented.card.structures, path)
    write_volume(segmented.uncertainty, files[2][1])
    write_table([found.as_dict() for found in segmented.volumes], files[3][1])
    return files


def write_dicom(segmented: Segmented, opened: Opened, leave_out_patient: bool, folder: Path) -> tuple[str, Path]:
    """Writes what DICOM has for a segmentation of a series, as a zip in `folder`; returns (title, path).

    Raises InputError if it cannot refer to the series, FileError if it cannot be written.
    """
    if isinstance(opened.headers, str):
        raise InputError(opened.headers)
    headers = without_patient(opened.headers) if leave_out_patient else opened.headers
    report = {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": segmented.card.describe(),
        "structures": [volume.as_dict() for volume in segmented.volumes],
        "versions": versions(),
        "warnings": segmented.warnings,
    }
    objects = folder / f"dicom_{segmented.card.name}"
    objects.mkdir()
    DicomResults(objects, headers, leave_out_patient).write(opened.volume, segmented, report, segmented.by_hand)
    return "DICOM: segmentation object, report (zip)", zip_up(objects)


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Writes rows with the same keys as CSV; no rows make a table of one empty column."""
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]) if rows else ["name"])
        table.writeheader()
        table.writerows(rows)
