"""DICOM segmentation objects (SEG) as label maps, read by highdicom: numbers are segment numbers, with their names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging.dicom.headers import parsing, read_whole
from hyperreg.imaging.dicom.sources import Entry
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.structures import Code, LabelMap, Meaning, Terminology, unique_names
from hyperreg.imaging.volume import Volume
from hyperreg.machine import main_memory

if TYPE_CHECKING:
    from highdicom import Volume as HighdicomVolume
    from highdicom.seg import Segmentation
    from pydicom import Dataset

BACKGROUND = 0
# Per voxel: highdicom's label map, and a copy in our order of axes.
WORKING_BYTES = 2
BACKGROUND_CODE = "125040"
SEGMENT_NUMBER, SEGMENT_IDENTIFICATION = 0x0062000B, 0x0062000A


def read_segmentation(entry: Entry, name: str) -> LabelMap:
    """A segmentation object over the slices from its first to its last, with names, colours and codes by number.

    Segments that overlap come in layers. Raises InputError if segments are fractional (a label map cannot hold that),
    or if its slices are no volume; OutOfMemory if that cannot fit; FileError if it is damaged or highdicom is missing.
    """
    with parsing(entry.name):
        segmentation = _open(entry)
        if segmentation.SegmentationType == "FRACTIONAL":
            _check_binary(segmentation, name)
        table = {
            int(item.SegmentNumber): _meaning(item)
            for item in segmentation.SegmentSequence
            if not _is_background(item, name)
        }
        geometry = segmentation.get_volume_geometry()
        if geometry is None:
            raise InputError(
                f"The frames of the DICOM segmentation '{name}' form no evenly spaced volume. Export it as NRRD."
            )
        _check_memory(geometry.spatial_shape, name)
        try:
            volumes = [segmentation.get_volume(combine_segments=True)]
        except RuntimeError as error:
            if "overlap" not in str(error).lower():
                raise
            # Opened anew: what failed keeps its tables locked.
            volumes = _apart(_open(entry), sorted(table))
        return LabelMap(tuple(_in_our_axes(one, name) for one in volumes), unique_names(table))


def _apart(segmentation: Segmentation, numbers: Sequence[int]) -> list[HighdicomVolume]:
    """Segments that overlap, in as few volumes as it takes to put one after the other where there is room."""
    volumes: list[HighdicomVolume] = []
    for number in numbers:
        one = segmentation.get_volume(segment_numbers=[number], combine_segments=True)
        inside = one.array != 0
        place = next((volume for volume in volumes if not volume.array[inside].any()), None)
        if place is None:
            volumes.append(one)
        else:
            place.array[inside] = one.array[inside]
    return volumes


def _in_our_axes(volume: HighdicomVolume, name: str) -> Volume:
    """highdicom's axes are slices, rows, columns; ours are columns, rows, slices along the normal, as of images."""
    array = np.asarray(volume.array).transpose(2, 1, 0)
    lps = volume.affine[:, [2, 1, 0, 3]]
    if np.linalg.det(lps[:3, :3]) < 0:
        array = array[:, :, ::-1]
        lps[:3, 3] += lps[:3, 2] * (array.shape[2] - 1)
        lps[:3, 2] *= -1
    return Volume(_compact(np.ascontiguousarray(array)), RAS_LPS @ lps, name)


def _meaning(item: Dataset) -> Meaning:
    from highdicom.color import CIELabColor

    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence")
    lab = item.get("RecommendedDisplayCIELabValue")
    red, green, blue = CIELabColor.from_dicom_value(lab).to_rgb(clip=True) if lab else (0, 0, 0)
    return Meaning(
        " ".join(str(item.SegmentLabel).split()) or f"Label {item.SegmentNumber}",
        (red, green, blue) if lab else None,
        Terminology(
            _code(item.SegmentedPropertyCategoryCodeSequence[0]),
            _code(kind),
            _code(modifiers[0]) if modifiers else None,
        ),
    )


def _code(code: Dataset) -> Code:
    return Code(str(code.CodingSchemeDesignator), str(code.CodeValue), str(code.CodeMeaning))


def _open(entry: Entry) -> Segmentation:
    try:
        import highdicom
    except ImportError as error:
        raise FileError(
            f"'{entry.name}' is a DICOM segmentation, which needs the Python package highdicom. Install it "
            "(pip install 'hyperreg[dicom]'), or export the segmentation as NIfTI or NRRD."
        ) from error
    dataset = read_whole(entry)
    _index_segments(dataset)
    return highdicom.seg.Segmentation.from_dataset(dataset, copy=False)


def _index_segments(dataset: Dataset) -> None:
    """Make the segment number a dimension index of the frames, which highdicom needs and older writers leave out."""
    from pydicom import Dataset

    pointers = [item.DimensionIndexPointer for item in dataset.get("DimensionIndexSequence") or ()]
    groups = dataset.get("PerFrameFunctionalGroupsSequence") or ()
    if (
        not pointers
        or SEGMENT_NUMBER in pointers
        or not all("SegmentIdentificationSequence" in item for item in groups)
    ):
        return
    index = Dataset()
    index.DimensionOrganizationUID = dataset.DimensionIndexSequence[0].DimensionOrganizationUID
    index.DimensionIndexPointer, index.FunctionalGroupPointer = SEGMENT_NUMBER, SEGMENT_IDENTIFICATION
    dataset.DimensionIndexSequence.append(index)
    for group in groups:
        values = group.FrameContentSequence[0].DimensionIndexValues
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        group.FrameContentSequence[0].DimensionIndexValues = [
            *([values] if isinstance(values, int) else values),
            number,
        ]


def _check_memory(shape: tuple[int, ...], name: str) -> None:
    """Raise OutOfMemory if frames lie so far apart that the volume between them cannot fit."""
    free, _ = main_memory()
    needed = WORKING_BYTES * float(np.prod(shape, dtype=float))
    if free is not None and needed > free:
        raise OutOfMemory(
            f"The DICOM segmentation '{name}' spans {' x '.join(str(n) for n in shape[::-1])} voxels: that needs at "
            f"least {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free. Crop it first."
        )


def _check_binary(segmentation: Segmentation, name: str) -> None:
    """Raise InputError for a fractional segmentation with values between nothing and everything."""
    if not set(np.unique(segmentation.pixel_array).tolist()) <= {0, int(segmentation.MaximumFractionalValue)}:
        raise InputError(
            f"The DICOM segmentation '{name}' holds fractions (probabilities or occupancies), not labels. Threshold it "
            "first, and export it as a label map."
        )


def _is_background(item: Dataset, name: str) -> bool:
    """Whether a segment has number 0. Raises InputError if it is a structure, which a label map cannot hold."""
    if int(item.SegmentNumber) != BACKGROUND:
        return False
    if str(item.SegmentedPropertyTypeCodeSequence[0].CodeValue) != BACKGROUND_CODE:
        raise InputError(
            f"The DICOM segmentation '{name}' gives number 0 to '{item.SegmentLabel}'; label maps have nothing "
            "there. Export it as NRRD with other numbers."
        )
    return True


def _compact(array: np.ndarray) -> np.ndarray:
    """Label values in the smallest unsigned type that holds them."""
    largest = int(array.max()) if array.size else 0
    return array.astype(np.uint8 if largest <= 255 else np.uint16 if largest <= 65535 else np.int32)
