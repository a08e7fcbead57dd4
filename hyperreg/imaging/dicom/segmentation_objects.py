"""Label maps as DICOM segmentation objects (SEG), written by highdicom."""

from __future__ import annotations

import warnings
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import hyperreg
from hyperreg.errors import FileError, InputError
from hyperreg.imaging.dicom import identity
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.volume import Volume

if TYPE_CHECKING:
    from highdicom.seg import SegmentDescription
    from pydicom import Dataset

# For structures without a code: something in the body.
ANYTHING = ("85756007", "SCT", "Tissue")
LABEL_LENGTH, DESCRIPTION_LENGTH = 64, 1024


class Coded(Protocol):
    """One coded concept: scheme ("SCT" for SNOMED CT), value, meaning."""

    @property
    def scheme(self) -> str: ...
    @property
    def value(self) -> str: ...
    @property
    def meaning(self) -> str: ...


class Terms(Protocol):
    """What a structure is: a category, a type in it, and for some types a side (modifier)."""

    @property
    def category(self) -> Any: ...
    @property
    def type(self) -> Any: ...
    @property
    def modifier(self) -> Any: ...


class Named(Protocol):
    """A structure: its value in the label map, name, colour (0..255), and codes if it has any."""

    @property
    def label(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def colour(self) -> tuple[int, int, int]: ...
    @property
    def terminology(self) -> Any: ...


def check_available() -> None:
    """Raise FileError if highdicom is not installed."""
    try:
        import highdicom  # noqa: F401
    except ImportError as error:
        raise FileError(
            "DICOM segmentations are written by the Python package highdicom. Install it (pip install "
            "'hyperreg[dicom]')."
        ) from error


def write_segmentation(
    labels: Volume,
    structures: Sequence[Named],
    sources: Sequence[Dataset],
    path: Path,
    algorithm: tuple[str, str],
    texts: Mapping[int, str] | None = None,
    by_hand: Collection[int] = (),
) -> None:
    """Write a label map as a segmentation object that refers to the images it was made of.

    labels: in the frame of reference of `sources`, on any grid in it. structures: become segments 1, 2... in this
    order, empty ones too. sources: see `identity.sources_of`. algorithm: name and version. texts: label -> what is said
    of the segment (Segment Description), such as its uncertainty. by_hand: labels that a user has corrected.
    Raises InputError if the label map has values that no structure has, FileError if highdicom is missing.
    """
    check_available()
    import highdicom
    from highdicom.seg import Segmentation, SegmentationTypeValues
    from pydicom.uid import generate_uid

    array = _numbered(labels, structures)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation = Segmentation(
            source_images=sources,
            pixel_array=highdicom.Volume(
                # highdicom's axes are slices, rows, columns; ours are columns, rows, slices.
                np.ascontiguousarray(array.transpose(2, 1, 0)),
                affine=(RAS_LPS @ labels.ijk_to_ras)[:, [2, 1, 0, 3]],
                coordinate_system="PATIENT",
                frame_of_reference_uid=sources[0].FrameOfReferenceUID,
            ),
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[
                _description(
                    number, structure, algorithm, (texts or {}).get(structure.label, ""), structure.label in by_hand
                )
                for number, structure in enumerate(structures, 1)
            ],
            series_instance_uid=generate_uid(),
            series_number=1,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer=identity.MANUFACTURER,
            manufacturer_model_name=identity.MODEL_NAME,
            software_versions=hyperreg.__version__,
            device_serial_number=identity.SERIAL_NUMBER,
            series_description="HyperReg segmentation, not for diagnosis",
            content_label="SEGMENTATION",
            content_qualification=identity.QUALIFICATION,
        )
    for keyword in ("PatientIdentityRemoved", "DeidentificationMethod"):
        if keyword in sources[0]:
            segmentation[keyword] = sources[0][keyword]
    segmentation.save_as(path, enforce_file_format=True)


def _numbered(labels: Volume, structures: Sequence[Named]) -> np.ndarray:
    """The label map with segment numbers, 1, 2... as DICOM wants them, for labels."""
    unknown = set(np.unique(labels.array).tolist()) - {0} - {structure.label for structure in structures}
    if unknown:
        raise InputError(f"The label map has values that are no structure: {sorted(unknown)[:8]}.")
    array = np.zeros(labels.shape, dtype=np.uint8 if len(structures) <= 255 else np.uint16)
    for number, structure in enumerate(structures, 1):
        array[labels.array == structure.label] = number
    return array


def _description(
    number: int, structure: Named, algorithm: tuple[str, str], text: str, by_hand: bool
) -> SegmentDescription:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.color import CIELabColor
    from highdicom.seg import SegmentAlgorithmTypeValues, SegmentDescription
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    terms = structure.terminology
    name, version = algorithm
    description = SegmentDescription(
        segment_number=number,
        segment_label=structure.name[:LABEL_LENGTH],
        segmented_property_category=_code(terms.category if terms else None),
        segmented_property_type=_code(terms.type if terms else None),
        algorithm_type=getattr(SegmentAlgorithmTypeValues, "SEMIAUTOMATIC" if by_hand else "AUTOMATIC"),
        algorithm_identification=AlgorithmIdentificationSequence(
            name=name[:LABEL_LENGTH],
            family=codes.cid7162.ArtificialIntelligence,
            version=version[:LABEL_LENGTH],
            source=identity.MANUFACTURER,
        ),
        tracking_uid=generate_uid(),
        tracking_id=structure.name[:LABEL_LENGTH],
        display_color=CIELabColor.from_rgb(*structure.colour),
    )
    if terms is not None and terms.modifier is not None:
        modifier = terms.modifier
        description.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [
            identity.coded(modifier.value, modifier.scheme, modifier.meaning)
        ]
    said = " ".join(filter(None, (f"Label {structure.label}.", "Corrected by hand." if by_hand else "", text)))
    description.SegmentDescription = said[:DESCRIPTION_LENGTH]
    return description


def _code(code: Coded | None) -> Any:
    from highdicom.sr import CodedConcept

    if code is None:
        return CodedConcept(*ANYTHING)
    return CodedConcept(code.value, code.scheme, code.meaning[:LABEL_LENGTH])
