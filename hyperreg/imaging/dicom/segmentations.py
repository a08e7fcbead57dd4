"""DICOM segmentation objects (SEG) as label maps, read by highdicom: values are segment numbers, with their names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging.dicom.headers import parsing, read_whole
from hyperreg.imaging.dicom.sources import Entry
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.volume import Volume
from hyperreg.machine import main_memory

if TYPE_CHECKING:
    from highdicom.seg import Segmentation
    from pydicom import Dataset

BACKGROUND = 0
# Per voxel: highdicom's label map, and a copy in our order of axes.
WORKING_BYTES = 2
BACKGROUND_CODE = "125040"
SEGMENT_NUMBER, SEGMENT_IDENTIFICATION = 0x0062000B, 0x0062000A


@dataclass(frozen=True)
class CodedName:
    """One coded concept: scheme ("SCT" for SNOMED CT), value, meaning."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Segment:
    """One segment of a SEG object. number: its value in the label map. colour: 0..255, None if it has none.

    category, type, modifier: what it is; a modifier is, for example, its side.
    """

    number: int
    name: str
    colour: tuple[int, int, int] | None
    category: CodedName
    type: CodedName
    modifier: CodedName | None


def read_label_map(entry: Entry, name: str) -> Volume:
    """A segmentation object as a label map over the slices from its first to its last.

    Raises InputError if segments overlap or are fractional (a label map cannot hold that), or if its slices are no
    volume; OutOfMemory if that cannot fit; FileError if it is damaged or highdicom is missing.
    """
    with parsing(entry.name):
        segmentation = _open(entry)
        if segmentation.SegmentationType == "FRACTIONAL":
            _check_binary(segmentation, name)
        _check_background(segmentation, name)
        geometry = segmentation.get_volume_geometry()
        if geometry is None:
            raise InputError(
                f"The frames of the DICOM segmentation '{name}' form no evenly spaced volume. Export it as NRRD."
            )
        _check_memory(geometry.spatial_shape, name)
        try:
            volume = segmentation.get_volume(combine_segments=True)
        except RuntimeError as error:
            if "overlap" in str(error).lower():
                raise InputError(
                    f"Segments of the DICOM segmentation '{name}' overlap, which one label map cannot hold. Export "
                    "each segment, or those that do not overlap, as a file of its own."
                ) from error
            raise
        # highdicom's axes are slices, rows, columns; ours are columns, rows, slices along the normal, as of images.
        array = np.asarray(volume.array).transpose(2, 1, 0)
        lps = volume.affine[:, [2, 1, 0, 3]]
        if np.linalg.det(lps[:3, :3]) < 0:
            array = array[:, :, ::-1]
            lps[:3, 3] += lps[:3, 2] * (array.shape[2] - 1)
            lps[:3, 2] *= -1
    return Volume(_compact(np.ascontiguousarray(array)), RAS_LPS @ lps, name)


def read_segments(entry: Entry) -> list[Segment]:
    """The segments of a segmentation object, by number. Raises FileError if it is damaged."""
    with parsing(entry.name):
        return [_segment(item) for item in _open(entry).SegmentSequence if int(item.SegmentNumber) != BACKGROUND]


def _segment(item: Dataset) -> Segment:
    from highdicom.color import CIELabColor

    kind = item.SegmentedPropertyTypeCodeSequence[0]
    modifiers = kind.get("SegmentedPropertyTypeModifierCodeSequence")
    lab = item.get("RecommendedDisplayCIELabValue")
    red, green, blue = CIELabColor.from_dicom_value(lab).to_rgb(clip=True) if lab else (0, 0, 0)
    return Segment(
        int(item.SegmentNumber),
        str(item.SegmentLabel),
        (red, green, blue) if lab else None,
        _code(item.SegmentedPropertyCategoryCodeSequence[0]),
        _code(kind),
        _code(modifiers[0]) if modifiers else None,
    )


def _code(code: Dataset) -> CodedName:
    return CodedName(str(code.CodingSchemeDesignator), str(code.CodeValue), str(code.CodeMeaning))


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


def _check_background(segmentation: Segmentation, name: str) -> None:
    """Raise InputError if number 0 is a structure, which a label map cannot hold."""
    for item in segmentation.SegmentSequence:
        if int(item.SegmentNumber) == BACKGROUND and _segment(item).type.value != BACKGROUND_CODE:
            raise InputError(
                f"The DICOM segmentation '{name}' gives number 0 to '{item.SegmentLabel}'; label maps have nothing "
                "there. Export it as NRRD with other numbers."
            )


def _compact(array: np.ndarray) -> np.ndarray:
    """Label values in the smallest unsigned type that holds them."""
    largest = int(array.max()) if array.size else 0
    return array.astype(np.uint8 if largest <= 255 else np.uint16 if largest <= 65535 else np.int32)
