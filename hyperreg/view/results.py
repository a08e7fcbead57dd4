"""The files of one result: resampled volume, transform, inverse, warped labels and reports."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hyperreg.imaging.dicom.identity import without_patient
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import Volume
from hyperreg.mrml.registration.report import Result, page_images, report_of, write_page
from hyperreg.registration.dicom_output import DicomResults
from hyperreg.view.private_files import safe_name, zip_up

if TYPE_CHECKING:
    from pydicom import Dataset

# Whose versions are told.
PACKAGES = ("SimpleITK", "numpy", "slicer-core", "trame-slicer")
# Letters of an image's name in that of a result.
IMAGE_NAME = 32


def write(result: Result, folder: Path) -> list[tuple[str, Path]]:
    """Writes the files into `folder`; returns (title, path) of each. Raises FileError if one cannot be written."""
    at = _case(result)
    grid = result.fixed.grid
    files = [
        ("Registered moving image", folder / f"registered_{at}.nii.gz"),
        ("Transform (fixed to moving, ITK)", folder / f"transform_{at}.h5"),
        ("Inverse transform (ITK)", folder / f"inverse_{at}.h5"),
    ]
    write_volume(resample(result.moving, grid, result.transform), files[0][1])
    write_transform(result.transform, files[1][1], grid)
    write_transform(result.inverse, files[2][1], result.moving.grid)
    if result.moving_labels is not None:
        files.append(("Registered label map", folder / f"labels_{at}.nii.gz"))
        write_volume(resample(result.moving_labels, grid, result.transform, interpolation="nearest"), files[-1][1])
    report = report_of(result, PACKAGES)
    files += [("Report on one page", folder / f"page_{at}.pdf"), ("Report", folder / f"report_{at}.json")]
    write_page(result, report, files[-2][1])
    report["outputs"] = {title: path.name for title, path in files}
    files[-1][1].write_text(json.dumps(report, indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8")
    return files


def write_dicom(
    result: Result, sources: Sequence[list[Dataset]], leave_out_patient: bool, folder: Path
) -> tuple[str, Path]:
    """Writes what DICOM has for a result, as a zip in `folder`; returns (title, path). Raises FileError.

    sources: headers of the fixed and of the moving series.
    """
    fixed, moving = (without_patient(headers) if leave_out_patient else headers for headers in sources)
    # Not the images' names: they hold the date, and what somebody has called the series.
    objects = folder / f"dicom_lambda-{result.lam:.3f}-{result.stage.name}"
    objects.mkdir()
    DicomResults(objects, fixed, moving, leave_out_patient).write(page_images(result), report_of(result, PACKAGES), {})
    return "DICOM: registration object, resampled series, report (zip)", zip_up(objects)


def write_alignment(fixed: Volume, moving: Volume, transform: Transform, folder: Path) -> list[tuple[str, Path]]:
    """Writes a linear alignment into `folder`; returns (title, path) of each file. Raises FileError.

    transform: fixed to moving RAS.
    """
    at = f"{_images(moving, fixed)}_aligned"
    files = [
        ("Aligned moving image", folder / f"aligned_{at}.nii.gz"),
        ("Transform (fixed to moving, ITK)", folder / f"transform_{at}.h5"),
    ]
    write_volume(resample(moving, fixed.grid, transform), files[0][1])
    write_transform(transform, files[1][1], fixed.grid)
    return files


def _images(moving: Volume, fixed: Volume) -> str:
    """For names of files."""
    return "-on-".join(safe_name(volume.name).split(".")[0][:IMAGE_NAME] for volume in (moving, fixed))


def _case(result: Result) -> str:
    """For names of files: which images, and everything that was set."""
    settings = [part.replace("=", "-") for part in result.settings.split("; ") if part and not part.startswith("λ of")]
    if "λ of" in result.settings:
        settings.append("regions")
    if result.card.has_network:
        settings.insert(0, result.card.name)
    return "_".join(
        [
            _images(result.moving, result.fixed),
            f"lambda-{result.lam:.3f}-{result.stage.name}",
            *map(safe_name, settings),
        ]
    )
