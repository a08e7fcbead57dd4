"""DICOM objects that tests write themselves with pydicom: an oblique, anisotropic series, in single files or in one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from imaging_examples import rotation
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

from hyperreg.imaging.volume import Volume

# (columns, rows, slices); between columns, between rows, between slices, mm; LPS mm of the first pixel.
SHAPE, SPACING, ORIGIN = (20, 16, 12), np.array([0.8, 0.7, 2.5]), np.array([-40.0, 25.0, 310.0])
# Directions of rows, of columns, and of their normal, in LPS.
DIRECTION = rotation(20, (1, 2, 0))
STUDY, FRAME_OF_REFERENCE = generate_uid(entropy_srcs=["study"]), generate_uid(entropy_srcs=["frame of reference"])


def values(shape: Sequence[int] = SHAPE) -> np.ndarray:
    """(columns, rows, slices) int16, different in every voxel's neighbourhood."""
    i, j, k = np.indices(shape)
    return (10 * i + 3 * j + 100 * k).astype(np.int16)


def position(k: float, direction: np.ndarray = DIRECTION) -> np.ndarray:
    """LPS mm of the first pixel of slice k."""
    return ORIGIN + direction[:, 2] * SPACING[2] * k


def check(volume: Any, expected: np.ndarray | None = None, direction: np.ndarray = DIRECTION) -> None:
    """Every voxel has its value, and corners lie where the headers said, in RAS mm."""
    expected = values() if expected is None else expected
    assert volume.shape == expected.shape
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    i, j, k = (n - 1 for n in expected.shape)
    for ijk in ((0, 0, 0), (i, 0, 0), (0, j, 0), (0, 0, k), (3, 4, k)):
        lps = ORIGIN + direction @ (SPACING * ijk)
        np.testing.assert_allclose(volume.grid.to_ras(ijk), lps * (-1, -1, 1), atol=1e-3)


def dataset(sop_class: str, uid: str, series: str = "series", **attributes: Any) -> Dataset:
    """An object's patient, study and series; `attributes` replace any of it, None leaves it out."""
    result = Dataset()
    result.file_meta = FileMetaDataset()
    result.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    result.file_meta.MediaStorageSOPClassUID = result.SOPClassUID = sop_class
    result.file_meta.MediaStorageSOPInstanceUID = result.SOPInstanceUID = generate_uid(entropy_srcs=[series, uid])
    usual = {
        "StudyInstanceUID": STUDY,
        "SeriesInstanceUID": generate_uid(entropy_srcs=[series]),
        "FrameOfReferenceUID": FRAME_OF_REFERENCE,
        "Modality": "CT" if sop_class == CTImageStorage else "MR",
        "SeriesDescription": series,
        "PatientName": "Doe^Jane",
        "PatientID": "PAT4711X",
        "PatientBirthDate": "19700102",
        "PatientSex": "F",
        "StudyDate": "20260304",
        "StudyTime": "101112",
        "StudyID": "1",
        "AccessionNumber": "A1",
        "ReferringPhysicianName": "Roe^Richard",
        "SeriesNumber": 3,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
    }
    for keyword, value in {**usual, **attributes}.items():
        if value is not None:
            setattr(result, keyword, value)
    return result


def add_pixels(target: Dataset, pixels: np.ndarray) -> None:
    """pixels: (rows, columns) or (frames, rows, columns), a 16-bit type."""
    target.Rows, target.Columns = pixels.shape[-2:]
    target.SamplesPerPixel, target.PhotometricInterpretation = 1, "MONOCHROME2"
    target.BitsAllocated = target.BitsStored = 16
    target.HighBit = 15
    target.PixelRepresentation = int(pixels.dtype.kind == "i")
    target.PixelData = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder("<"))).tobytes()


def write_slices(
    folder: Path,
    *,
    array: np.ndarray | None = None,
    places: Sequence[float] | None = None,
    direction: np.ndarray = DIRECTION,
    sop_class: str = CTImageStorage,
    series: str = "series",
    prefix: str = "slice",
    change: Callable[[Dataset, int], None] | None = None,
    **attributes: Any,
) -> list[Path]:
    """Single-frame files, one per place (in slices; all of them by default). array: (columns, rows, files).

    change: is given each dataset and its number before it is saved.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = values() if array is None else array
    files = []
    for number, place in enumerate(range(array.shape[2]) if places is None else places):
        one = dataset(sop_class, f"{prefix}{number}", series, **attributes)
        one.InstanceNumber = number + 1
        one.ImagePositionPatient = [f"{x:.6f}" for x in position(place, direction)]
        one.ImageOrientationPatient = [f"{x:.9f}" for x in direction[:, :2].T.ravel()]
        one.PixelSpacing, one.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
        add_pixels(one, array[:, :, int(place) if places is not None else number].T)
        if change is not None:
            change(one, number)
        files.append(folder / f"{prefix}{number:03d}.dcm")
        one.save_as(files[-1], enforce_file_format=True)
    return files


def write_enhanced(
    path: Path,
    *,
    array: np.ndarray | None = None,
    places: Sequence[float] | None = None,
    shifts: np.ndarray | None = None,
    scalings: Sequence[tuple[float, float]] | None = None,
    contents: Sequence[dict[str, Any]] | None = None,
    sop_class: str = EnhancedMRImageStorage,
    change: Callable[[Dataset], None] | None = None,
    **attributes: Any,
) -> Path:
    """One enhanced file. array: (columns, rows, frames), as stored. places: of the frames, in slices.

    shifts: (frames, 3), LPS mm, added to their positions. scalings: slope and intercept per frame. contents: attributes
    of each Frame Content.
    """
    array = values() if array is None else array
    places = range(array.shape[2]) if places is None else places
    one = dataset(sop_class, path.name, path.stem, **attributes)
    one.InstanceNumber, one.NumberOfFrames = 1, array.shape[2]
    shared, measures, orientation = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [SPACING[1], SPACING[0]], SPACING[2]
    orientation.ImageOrientationPatient = [f"{x:.9f}" for x in DIRECTION[:, :2].T.ravel()]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    one.SharedFunctionalGroupsSequence = [shared]
    groups = []
    for number, place in enumerate(places):
        group, plane, content = Dataset(), Dataset(), Dataset()
        where = position(place) + (0 if shifts is None else shifts[number])
        plane.ImagePositionPatient = [f"{x:.6f}" for x in where]
        for keyword, value in (contents[number] if contents else {}).items():
            setattr(content, keyword, value)
        group.PlanePositionSequence, group.FrameContentSequence = [plane], [content]
        if scalings is not None:
            transformation = Dataset()
            transformation.RescaleSlope, transformation.RescaleIntercept = (str(x) for x in scalings[number])
            transformation.RescaleType = "US"
            group.PixelValueTransformationSequence = [transformation]
        groups.append(group)
    one.PerFrameFunctionalGroupsSequence = groups
    add_pixels(one, array.transpose(2, 1, 0))
    if change is not None:
        change(one)
    one.save_as(path, enforce_file_format=True)
    return path


def write_image(folder: Path, volume: Volume, series: str, **attributes: Any) -> Path:
    """A volume as a CT series of its own study, whole numbers, slices along its third axis."""
    folder.mkdir(parents=True)
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.ijk_to_ras
    cosines = (lps[:3, :2] / volume.spacing[:2]).T.ravel()
    for k in range(volume.shape[2]):
        own = {"StudyInstanceUID": generate_uid(entropy_srcs=["study", series]),
               "FrameOfReferenceUID": generate_uid(entropy_srcs=["frame", series])}  # fmt: skip
        one = dataset(CTImageStorage, str(k), series, **{**own, **attributes})
        one.InstanceNumber = k + 1
        one.ImagePositionPatient = [f"{x:.6f}" for x in (lps @ [0, 0, k, 1])[:3]]
        one.ImageOrientationPatient = [f"{x:.9f}" for x in cosines]
        one.PixelSpacing, one.SliceThickness = volume.spacing[[1, 0]].tolist(), volume.spacing[2]
        add_pixels(one, np.rint(volume.array[:, :, k].T).astype(np.int16))
        one.save_as(folder / f"{k:03d}.dcm", enforce_file_format=True)
    return folder
