"""The header of one DICOM file, read with pydicom, and what kind of object it is."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import TYPE_CHECKING, Any, Literal

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.dicom.sources import Entry

if TYPE_CHECKING:
    from pydicom import Dataset

Kind = Literal["image", "segmentation", "directory", "other"]

SEGMENTATION_CLASSES = {"1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"}
DIRECTORY_CLASS = "1.2.840.10008.1.3.10"
PARAMETRIC_MAP = "1.2.840.10008.5.1.4.1.1.30"
DEFLATED = b"1.2.840.10008.1.2.1.99"
# Objects with pixels, or that users take for images, that are none: what they are.
NO_IMAGES = {
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose (RTDOSE)",
    "1.2.840.10008.5.1.4.1.1.481.3": "contours (RT structure set)",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan",
    "1.2.840.10008.5.1.4.1.1.66.1": "a registration",
    "1.2.840.10008.5.1.4.1.1.66.3": "a deformable registration",
    "1.2.840.10008.5.1.4.1.1.66.5": "a surface segmentation",
    "1.2.840.10008.5.1.4.1.1.104.1": "a PDF",
    "1.2.840.10008.5.1.4.1.1.77.1.6": "a whole-slide microscopy image",
}
GROUP_LENGTH_END = 144
# The groups that may come behind the pixels: private data, digital signatures, padding.
PIXEL_DATA, MAY_FOLLOW, UNDEFINED = 0x7FE00010, (0x7FE1, 0xFFFA, 0xFFFC), 0xFFFFFFFF
MOST_META_BYTES = 2**16
MOST_DEFLATED_BYTES = 2**31

# All that is looked at without the pixels. Private elements and the rest of the header are skipped, not read.
_KEYWORDS = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "Modality",
    "PatientID", "PatientName", "PatientBirthDate", "PatientPosition", "SeriesDescription", "StudyDescription",
    "SeriesNumber", "StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "ImageType", "InstanceNumber", "Rows",
    "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored",
    "HighBit", "PixelRepresentation", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness", "SpacingBetweenSlices",
    "ImagePositionPatient", "ImageOrientationPatient", "RescaleSlope", "RescaleIntercept", "RescaleType", "Units",
    "ModalityLUTSequence",
    "TemporalPositionIdentifier", "AcquisitionNumber", "EchoTime", "EchoNumbers", "DiffusionBValue", "TriggerTime",
    "InversionTime", "FlipAngle", "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence",
    "InConcatenationNumber", "InConcatenationTotalNumber", "DirectoryRecordSequence",
)  # fmt: skip


@contextmanager
def parsing(name: str) -> Iterator[None]:
    """Turn whatever a damaged DICOM file makes pydicom raise into a FileError, and keep its warnings to itself."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (HyperRegError, MemoryError):
        raise
    # pydicom decodes values when they are asked for and lets through what that raises: ValueError, KeyError,
    # struct.error, AttributeError, EOFError, RecursionError and others.
    except Exception as error:
        raise FileError(
            f"'{name}' cannot be read as DICOM: it is damaged or was cut short. Copy or export it again."
        ) from error


@dataclass(frozen=True, eq=False)
class Instance:
    """One DICOM file: where it is, and its header without the pixels."""

    entry: Entry
    header: Dataset

    @property
    def name(self) -> str:
        return self.entry.name

    @cached_property
    def sop_class(self) -> str:
        """A DICOMDIR says what it is in its file meta information only."""
        with parsing(self.name):
            declared = str(self.header.file_meta.get("MediaStorageSOPClassUID", ""))
            return DIRECTORY_CLASS if declared == DIRECTORY_CLASS else self.text("SOPClassUID")

    @cached_property
    def kind(self) -> Kind:
        if self.sop_class in SEGMENTATION_CLASSES:
            return "segmentation"
        if self.sop_class == DIRECTORY_CLASS:
            return "directory"
        if self.sop_class in NO_IMAGES or "Rows" not in self.header or "Columns" not in self.header:
            return "other"
        return "image"

    @property
    def is_image_class(self) -> bool:
        """Whether the header says that this is an image, whatever else it has."""
        from pydicom.uid import UID

        return self.sop_class not in NO_IMAGES and "Image Storage" in UID(self.sop_class).name

    @cached_property
    def transfer_syntax(self) -> str:
        with parsing(self.name):
            return str(self.header.file_meta.get("TransferSyntaxUID", ""))

    @cached_property
    def frame_count(self) -> int:
        """Raises FileError if the header has no number there."""
        return max(1, self.whole_number("NumberOfFrames", 1))

    @property
    def what(self) -> str:
        """In words, what kind of object this is."""
        from pydicom.uid import UID

        if self.kind == "segmentation":
            return "a segmentation"
        with parsing(self.name):
            return NO_IMAGES.get(self.sop_class) or f"an object of the kind '{UID(self.sop_class).name}'"

    def text(self, keyword: str) -> str:
        """An attribute as text; "" if it is missing or empty."""
        with parsing(self.name):
            value = self.header.get(keyword)
            return "" if value is None else str(value).strip()

    def whole_number(self, keyword: str, default: int | None = None) -> int:
        """An attribute as a whole number. Raises FileError if it is missing (and there is no default) or none."""
        with parsing(self.name):
            value: Any = self.header.get(keyword)
            if value is None or value == "":
                if default is None:
                    raise FileError(f"'{self.name}' is damaged: its DICOM header has no {keyword}. Export it again.")
                return default
            return int(value)


def read_header(entry: Entry) -> Instance:
    """The header of a DICOM file. Raises FileError if it is damaged."""
    from pydicom import dcmread
    from pydicom.uid import UID

    with parsing(entry.name):
        _check_deflated(entry)
        with entry.open() as file:
            header = dcmread(file, stop_before_pixels=True, specific_tags=list(_KEYWORDS))
        instance = Instance(entry, header)
        if not UID(instance.sop_class).is_valid:
            raise FileError(
                f"'{entry.name}' is damaged or was cut short: its DICOM header does not say what it is (SOP Class UID)."
            )
        if instance.kind == "other" and (instance.is_image_class or not instance.text("SeriesInstanceUID")):
            raise FileError(
                f"'{entry.name}' is damaged or was cut short: its DICOM header lacks the series or the number of "
                "pixels."
            )
        return instance


def read_whole(entry: Entry, warnings: list[str] | None = None) -> Dataset:
    """All of a DICOM file, pixels included. warnings: is told of zeros behind them.

    Raises FileError if it is damaged.
    """
    from pydicom import dcmread

    with parsing(entry.name):
        _check_deflated(entry)
        dataset = dcmread(entry.path if entry.path is not None else BytesIO(entry.read()))
        if (note := _surplus(dataset, entry)) and warnings is not None:
            warnings.append(note)
        return dataset


def _surplus(dataset: Dataset, entry: Entry) -> str:
    """What to say of bytes behind the pixels: nothing of what DICOM has there, a warning of zeros.

    Raises FileError for others: the pixels are not what the file was written with, but moved by what was inserted.
    """
    pixels = dataset.get_item(PIXEL_DATA) if PIXEL_DATA in dataset else None
    place, length = getattr(pixels, "value_tell", 0), getattr(pixels, "length", UNDEFINED)
    if dataset.file_meta.get("TransferSyntaxUID") == DEFLATED.decode() or not place or length in (None, UNDEFINED):
        return ""
    with entry.open() as file:
        file.seek(place + length)
        behind = file.read(MOST_META_BYTES)
    order: Literal["little", "big"] = "little" if dataset.original_encoding[1] else "big"
    if not behind or int.from_bytes(behind[:2], order) in MAY_FOLLOW:
        return ""
    if behind.strip(b"\0"):
        raise FileError(f"'{entry.name}' is damaged: bytes were inserted or lost in it. Copy or export it again.")
    return f"'{entry.name}' has {len(behind)} zeros behind its pixels. Does the image look right?"


def _check_deflated(entry: Entry) -> None:
    """Raise InputError if a deflated file would become far larger than any image (a decompression bomb)."""
    with entry.open() as file:
        # The file meta information begins with its own length, always in this place and in this form.
        head = file.read(GROUP_LENGTH_END)
        (length,) = struct.unpack_from("<I", head, GROUP_LENGTH_END - 4)
        if DEFLATED not in file.read(min(length, MOST_META_BYTES)):
            return
        inflating = zlib.decompressobj(-zlib.MAX_WBITS)
        size = 0
        while packed := file.read(2**16):
            while packed:
                size += len(inflating.decompress(packed, 2**20))
                packed = inflating.unconsumed_tail
                if size > MOST_DEFLATED_BYTES:
                    raise InputError(f"'{entry.name}' unpacks to more than 2 GB. Save it without deflation.")
