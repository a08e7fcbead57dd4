"""The pixels of DICOM images: pydicom decodes them, GDCM (in SimpleITK) what pydicom has no codec for.

What is compressed by JPEG and its kin is decoded by libraries in C, which damaged pixels can crash: in a child process.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hyperreg.errors import FileError, InputError, OutOfMemory
from hyperreg.imaging import guarded
from hyperreg.imaging.dicom.frames import Frame
from hyperreg.imaging.dicom.headers import Instance, parsing, read_whole
from hyperreg.machine import main_memory
from hyperreg.scratch import ScratchFolder

if TYPE_CHECKING:
    from pydicom import Dataset

# Compressed transfer syntaxes that GDCM reads: JPEG (lossy and lossless), JPEG-LS, JPEG 2000.
GDCM_SYNTAXES = {
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.51",
    "1.2.840.10008.1.2.4.57",
    "1.2.840.10008.1.2.4.70",
    "1.2.840.10008.1.2.4.80",
    "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90",
    "1.2.840.10008.1.2.4.91",
}
JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
# Hounsfield units of metal, in CT of 16 bits.
HIGHEST_CT = 32767
WORD_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.3"
BYTE_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7.2"


def check_decodable(instance: Instance) -> None:
    """Raise InputError, naming the package that would help, if no codec here reads the file's pixels."""
    from pydicom.uid import UID

    syntax = instance.transfer_syntax
    if not syntax:
        raise InputError(
            f"The DICOM image '{instance.name}' does not say how its pixels are stored (no Transfer Syntax UID). Let "
            "dcmconv of DCMTK write it anew."
        )
    with parsing(instance.name):
        if _pydicom_decodes(syntax) or syntax in GDCM_SYNTAXES:
            return
        raise InputError(
            f"The DICOM image '{instance.name}' is compressed as '{UID(syntax).name}', which no codec here reads. "
            f"{_remedy(syntax)}"
        )


def unreadable_compressions() -> dict[str, str]:
    """Compressions of DICOM images that no codec here reads, by name, and what would read them."""
    from pydicom import uid

    known = (
        uid.RLETransferSyntaxes,
        uid.JPEGTransferSyntaxes,
        uid.JPEGLSTransferSyntaxes,
        uid.JPEG2000TransferSyntaxes,
    )
    return {
        uid.UID(syntax).name: f"pip install {packages}"
        for syntax in dict.fromkeys(one for kind in known for one in kind)
        if not _pydicom_decodes(syntax) and syntax not in GDCM_SYNTAXES and (packages := _packages(syntax))
    }


def values_of(frames: Sequence[Frame], name: str, warnings: list[str]) -> np.ndarray:
    """The values of all frames, slopes and intercepts applied: (frames, rows, columns), in the order of `frames`.

    Whole numbers stay whole numbers where all slopes and intercepts are whole; otherwise float32 (float64 for 32-bit
    pixels). warnings: is told of files that go on behind their pixels.

    Raises FileError if pixels are damaged or cut, InputError if no codec reads them, OutOfMemory before anything is
    read if they cannot fit.
    """
    instances = list({id(frame.instance): frame.instance for frame in frames}.values())
    for instance in instances:
        check_decodable(instance)
    _check_memory(instances, len(frames), name)
    wanted: dict[int, list[int]] = {}
    for index, frame in enumerate(frames):
        wanted.setdefault(id(frame.instance), []).append(index)
    target = _type_of(frames)
    notes: list[str] = []
    values: np.ndarray | None = None
    for instance in instances:
        stored = _stored(instance, notes)
        if values is None:
            values = np.empty((len(frames), *stored.shape[1:]), dtype=target)
        for index in wanted[id(instance)]:
            frame = frames[index]
            values[index] = _scaled(stored[frame.number], frame, target)
    warnings += [
        *notes[:1],
        *([f"The same is true of {len(notes) - 1} other file(s) of '{name}'."] if notes[1:] else []),
    ]
    if any(instance.text("PhotometricInterpretation") == "MONOCHROME1" for instance in instances):
        warnings.append(
            f"The DICOM series '{name}' shows its smallest values white (MONOCHROME1): it looks inverted beside others."
        )
    if values is not None and instances[0].text("Modality") == "CT" and values.max() > HIGHEST_CT:
        warnings.append(
            f"The CT '{name}' has values up to {values.max():g} HU, which no tissue and no metal has: were numbers "
            "below zero saved as numbers without a sign?"
        )
    assert values is not None  # noqa: S101 (there is at least one frame)
    return _narrowed(values)


def _scaled(stored: np.ndarray, frame: Frame, target: np.dtype) -> np.ndarray:
    if frame.slope == 1 and frame.intercept == 0:
        return stored
    if target.kind in "iu":
        return stored.astype(np.int64) * int(frame.slope) + int(frame.intercept)
    return stored.astype(np.float64) * frame.slope + frame.intercept


def _type_of(frames: Sequence[Frame]) -> np.dtype:
    """The type that holds the values of all frames."""
    stored = np.result_type(*{_stored_type(frame.instance) for frame in frames})
    if all(frame.slope == 1 and frame.intercept == 0 for frame in frames):
        return stored
    scalings = {(frame.slope, frame.intercept) for frame in frames}
    whole = all(slope.is_integer() and intercept.is_integer() for slope, intercept in scalings)
    if whole and stored.kind in "iu":
        ends = np.iinfo(stored)
        extremes = [end * slope + intercept for slope, intercept in scalings for end in (ends.min, ends.max)]
        if min(extremes) >= np.iinfo(np.int32).min and max(extremes) <= np.iinfo(np.int32).max:
            return np.dtype(np.int32)
    return np.dtype(np.float32 if stored.itemsize <= 2 else np.float64)


def _stored_type(instance: Instance) -> np.dtype:
    bits = instance.whole_number("BitsAllocated")
    signed = instance.whole_number("PixelRepresentation", 0) == 1
    if bits == 1:
        return np.dtype(np.uint8)
    if bits not in (8, 16, 32, 64):
        raise InputError(f"The DICOM image '{instance.name}' has {bits} bits per pixel, which HyperReg does not read.")
    if "PixelRepresentation" not in instance.header and bits in (32, 64):
        return np.dtype(np.float32 if bits == 32 else np.float64)  # Float Pixel Data, Double Float Pixel Data
    return np.dtype(f"{'i' if signed else 'u'}{bits // 8}")


def _narrowed(values: np.ndarray) -> np.ndarray:
    """int32 as int16 where that holds the values, as a CT's: half the memory."""
    if values.dtype != np.int32:
        return values
    ends = np.iinfo(np.int16)
    return values.astype(np.int16) if values.min() >= ends.min and values.max() <= ends.max else values


def _stored(instance: Instance, warnings: list[str]) -> np.ndarray:
    """The stored pixels of a file: (frames, rows, columns). Raises FileError if they are damaged or cut."""
    from pydicom.uid import UID, RLELossless

    rows, columns, count = instance.whole_number("Rows"), instance.whole_number("Columns"), instance.frame_count
    with parsing(instance.name):
        dataset = read_whole(instance.entry, warnings)
        shift = _free_low_bits(instance)
        if shift:
            dataset.BitsStored += shift
        syntax = instance.transfer_syntax
        if UID(syntax).is_encapsulated and syntax != RLELossless:
            pixels = _decoded_apart(dataset, instance.name)
        else:
            pixels = dataset.pixel_array
        stored = _without_overlays(np.asarray(pixels).reshape(count, rows, columns), dataset)
        return stored >> shift if shift else stored


def _free_low_bits(instance: Instance) -> int:
    """How many bits below the values old scanners leave free, against today's standard; pydicom takes it for granted.

    Raises InputError where that cannot be told, or for compressed pixels, of which it says nothing.
    """
    if "HighBit" not in instance.header or "BitsStored" not in instance.header:
        return 0
    high, allocated = (instance.whole_number(keyword) for keyword in ("HighBit", "BitsAllocated"))
    free = high + 1 - instance.whole_number("BitsStored")
    if free == 0 or (free > 0 and high < allocated and _is_uncompressed(instance.transfer_syntax)):
        return free
    raise InputError(
        f"The DICOM image '{instance.name}' contradicts itself about the bits of its values (High Bit {high}). Export "
        "it again."
    )


def _without_overlays(stored: np.ndarray, dataset: Dataset) -> np.ndarray:
    """The pixels without drawings that old scanners keep in the bits that the image leaves free."""
    positions = [dataset.get((group, 0x0102)) for group in range(0x6000, 0x6020, 2)]
    if not any(position is not None and position.value for position in positions):
        return stored
    free = dataset.BitsAllocated - dataset.BitsStored
    # Shifting up and down again drops the free bits and repeats the sign.
    return (stored << free) >> free


def decode(path: str) -> tuple[dict[str, Any], list[np.ndarray]]:
    """The stored pixels of a DICOM file, as pydicom decodes them; for the child process of `guarded.call`."""
    from pydicom import dcmread

    return {}, [dcmread(path).pixel_array]


def _decoded_apart(dataset: Dataset, name: str) -> np.ndarray:
    """The stored pixels, decoded in a process that damaged ones may end.

    GDCM applies slopes and sorts out geometry in its own way, so the process is given a secondary capture that holds
    nothing but the pixels. Raises FileError if they are damaged.
    """
    from pydicom import Dataset
    from pydicom.dataset import FileMetaDataset

    bare = Dataset()
    bare.file_meta = FileMetaDataset()
    bare.file_meta.TransferSyntaxUID = dataset.file_meta.TransferSyntaxUID
    bare.SOPClassUID = WORD_SECONDARY_CAPTURE if dataset.BitsAllocated > 8 else BYTE_SECONDARY_CAPTURE
    bare.file_meta.MediaStorageSOPClassUID = bare.SOPClassUID
    bare.SOPInstanceUID = bare.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    for keyword in (
        "Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated",
        "BitsStored", "HighBit", "PixelRepresentation",
    ):  # fmt: skip
        if keyword in dataset:
            bare[keyword] = dataset[keyword]
    bare.add(dataset["PixelData"])
    with ScratchFolder("hyperreg-pixels-") as folder:
        path = folder / "pixels.dcm"
        bare.save_as(path, enforce_file_format=True)
        try:
            syntax = dataset.file_meta.TransferSyntaxUID
            # Pillow reads only the 8-bit form of JPEG Extended.
            if _pydicom_decodes(syntax) and not (syntax == JPEG_EXTENDED and dataset.BitsStored > 8):
                _facts, (pixels,) = guarded.call("hyperreg.imaging.dicom.pixels:decode", path)
            else:
                _facts, (pixels,) = guarded.call("hyperreg.imaging.itk:read_image", path, "GDCMImageIO")
        except (FileError, RuntimeError) as error:
            raise FileError(
                f"'{name}' is damaged or was cut short: its compressed pixels cannot be read. Copy or export it again."
            ) from error
    return pixels


def _check_memory(instances: Sequence[Instance], frames: int, name: str) -> None:
    """Raise OutOfMemory if the headers' sizes cannot fit, FileError if a file cannot hold what its header says."""
    free, _ = main_memory()
    needed = 0.0
    for instance in instances:
        size = instance.frame_count * instance.whole_number("Rows") * instance.whole_number("Columns")
        bits = instance.whole_number("BitsAllocated")
        if _is_uncompressed(instance.transfer_syntax) and instance.entry.size < size * bits // 8:
            raise FileError(
                f"'{instance.name}' is too short for the {instance.frame_count} image(s) that its DICOM header "
                "declares: it is damaged or was cut short. Copy or export it again."
            )
        needed += size * max(bits / 8, 4)
    # The values, a copy in our order of axes, and what is read of one file.
    needed = 2 * needed + max(instance.entry.size for instance in instances)
    if free is not None and needed > free:
        raise OutOfMemory(
            f"The DICOM series '{name}' ({frames} images) needs at least {needed / 1e9:.1f} GB of memory, and "
            f"{free / 1e9:.1f} GB are free. Choose a smaller series, or close other programs."
        )


def _is_uncompressed(syntax: str) -> bool:
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    return syntax in (ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian)


def _pydicom_decodes(syntax: str) -> bool:
    from pydicom.pixels import get_decoder

    try:
        return bool(get_decoder(syntax).is_available)
    except (NotImplementedError, ValueError, AttributeError):
        return False


def _remedy(syntax: str) -> str:
    """What would make the pixels readable: a package if pydicom knows one, else a conversion."""
    convert = "convert the series to an uncompressed one (dcmdjpeg of DCMTK, or gdcmconv --raw)"
    if packages := _packages(syntax):
        return f"Install a codec (pip install {packages}), or {convert}."
    return f"No Python package that HyperReg knows does; {convert}."


def _packages(syntax: str) -> str:
    """The packages with which pydicom would decode a transfer syntax; "" if it knows none."""
    from pydicom.pixels import get_decoder

    try:
        missing = get_decoder(syntax).missing_dependencies
    except (NotImplementedError, ValueError, AttributeError):
        return ""
    names = sorted({word.strip(",") for text in missing for word in text.split() if word.startswith("pylibjpeg")})
    return " ".join(dict.fromkeys(name.partition(">")[0] for name in names)) or ("python-gdcm" if missing else "")
