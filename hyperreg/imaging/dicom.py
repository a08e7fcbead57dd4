"""A DICOM series as one volume, refused where its slices do not form one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import itk
from hyperreg.imaging.volume import SHEAR_TOLERANCE, Volume

POSITION, ORIENTATION, DESCRIPTION = "0020|0032", "0020|0037", "0008|103e"
# Gaps between slices may differ by this share of their median before slices count as missing.
GAP_TOLERANCE = 0.05
SAME_PLACE_MM = 1e-3


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries DICOM's mark after its 128 bytes of preamble."""
    with open(path, "rb") as file:
        return file.read(132)[128:] == b"DICM"


def read_folder(folder: Path) -> Volume:
    """The only image series of a folder. Raises InputError if there are several, FileError if there is none."""
    with itk.quiet():
        series = {uid: _files_of(folder, uid) for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))}
    if not series:
        raise FileError(
            f"The folder '{folder}' holds no DICOM images. Give the folder of one series, or an image file."
        )
    if len(series) > 1:
        listed = "; ".join(
            f"{_describe(files[0])}: {len(files)} files, e.g. {files[0].name}" for files in series.values()
        )
        raise InputError(
            f"The folder '{folder}' holds {len(series)} DICOM series ({listed}). Give one file of the series you "
            f"want instead "
            "of the folder."
        )
    return _read_series(next(iter(series.values())), folder.name)


def read_file(path: Path) -> Volume:
    """The whole series that a DICOM file belongs to (all its slices in the same folder)."""
    with itk.quiet():
        for uid in sitk.ImageSeriesReader.GetGDCMSeriesIDs(str(path.absolute().parent)):
            files = _files_of(path.absolute().parent, uid)
            if any(file.name == path.name for file in files):
                return _read_series(files, path.stem)
    raise FileError(f"'{path}' cannot be read as a DICOM image; it may be damaged or hold no image.")


def _files_of(folder: Path, uid: str) -> list[Path]:
    return [Path(name) for name in sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), uid)]


def _tags(path: Path, *keys: str) -> list[str]:
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    return [reader.GetMetaData(key).strip() if reader.HasMetaDataKey(key) else "" for key in keys]


def _describe(path: Path) -> str:
    return _tags(path, DESCRIPTION)[0] or "without description"


def _read_series(files: list[Path], name: str) -> Volume:
    try:
        with itk.quiet():
            if len(files) == 1:
                image = sitk.ReadImage(str(files[0]), imageIO="GDCMImageIO")
            else:
                gap = _check_slices(files, name)
                reader = sitk.ImageSeriesReader()
                reader.SetImageIO("GDCMImageIO")
                reader.SetFileNames([str(file) for file in files])
                image = reader.Execute()
                image.SetSpacing((*image.GetSpacing()[:2], gap))
    except RuntimeError as error:
        raise FileError(
            f"The DICOM series '{name}' cannot be read; a slice is damaged or was cut short. Export it again."
        ) from error
    if image.GetNumberOfComponentsPerPixel() > 1:
        raise InputError(f"The DICOM series '{name}' is a colour image; HyperReg takes grey-value images.")
    return itk.volume_from_itk(image, name)


def _check_slices(files: list[Path], name: str) -> float:
    """The distance between slices, mm. Raises InputError if they are uneven, tilted or in the same place."""
    tags = [_tags(file, POSITION, ORIENTATION) for file in files]
    try:
        positions = np.array([[float(x) for x in position.split("\\")] for position, _ in tags])
        orientations = np.array([[float(x) for x in orientation.split("\\")] for _, orientation in tags])
        normal = np.cross(orientations[0, :3], orientations[0, 3:])
    except (ValueError, IndexError) as error:
        raise InputError(
            f"Slices of the DICOM series '{name}' do not say where in the patient they lie. Export it as NIfTI or NRRD."
        ) from error
    if np.abs(orientations - orientations[0]).max() > SHEAR_TOLERANCE:
        raise InputError(
            f"The slices of the DICOM series '{name}' are not parallel (a localiser?). Choose another series."
        )
    steps = np.diff(positions, axis=0)
    gaps = np.abs(steps @ normal)
    if gaps.min() < SAME_PLACE_MM:
        raise InputError(
            f"The DICOM series '{name}' has several slices in the same place (a time series, or several echoes). "
            "Export one volume of it as NIfTI or NRRD."
        )
    middle = float(np.median(gaps))
    if np.abs(gaps - middle).max() > GAP_TOLERANCE * middle:
        raise InputError(
            f"The slices of the DICOM series '{name}' are between {gaps.min():.2f} and {gaps.max():.2f} mm apart: "
            f"slices are "
            "missing or unevenly spaced. Copy the series again, or resample it to even slices."
        )
    sideways = steps - (steps @ normal)[:, None] * normal
    if np.linalg.norm(sideways.mean(axis=0)) > SHEAR_TOLERANCE * middle:
        raise InputError(
            f"The DICOM series '{name}' was taken with a tilted gantry: its axes are not at right angles. "
            "Straighten it first (3D Slicer does so when it loads the series) and export it as NIfTI or NRRD."
        )
    return float(gaps.mean())
