"""FreeSurfer's MGH and MGZ by nibabel's header, from a stream that is verified."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
from nibabel.freesurfer.mghformat import MGHError, MGHHeader
from nibabel.spatialimages import HeaderDataError

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import streams
from hyperreg.imaging.volume import Volume

MARK = b"\x00\x00\x00\x01"  # the version
HEADER_BYTES = 284
# Behind the voxels are scan parameters and whatever FreeSurfer's commands left: history, transforms, colour tables.
LARGEST_FOOTER = 1 << 20
# Of the footer's beginning: TR, flip angle, TE, TI, field of view; and of FreeSurfer's tags.
FOOTER_BYTES = 20
OLD_FOOTERS = (0, 16)
LARGEST_TAG = 1000
# Directions are written as float32.
DIRECTION_TOLERANCE = 1e-2
TYPES = (np.uint8, np.int16, np.int32, np.float32)


def is_mgh(path: Path) -> bool:
    """Whether a file begins as MGH does. The mark is short, so names count, too."""
    with streams.reading(path) as file:
        return file.read(len(MARK)) == MARK and path.name.lower().endswith((".mgz", ".mgh", ".mgh.gz"))


def read_header(path: Path) -> tuple[MGHHeader, npt.NDArray[np.float64], list[str]]:
    """nibabel's header, the (4, 4) ijk-to-RAS matrix, mm, and what the header leaves open, in words.

    Raises FileError if it is damaged.
    """
    with streams.reading(path) as file:
        raw = file.read(HEADER_BYTES)
    if len(raw) < HEADER_BYTES:
        raise streams.damaged(path)
    placed = int.from_bytes(raw[28:30], "big", signed=True) > 0
    try:
        header = MGHHeader(raw)
        header.get_data_dtype()
    except (HeaderDataError, MGHError, KeyError, ValueError) as error:
        raise FileError(f"'{path}' is damaged: its MGH header makes no sense. Copy or export it again.") from error
    if min(header["dims"]) < 1:
        raise FileError(f"'{path}' is damaged: its MGH header gives sizes of {header['dims'].tolist()}.")
    if not placed:
        # FreeSurfer's coronal orientation: voxels count to the left, down, to the front (nibabel turns it over).
        header["goodRASFlag"], header["delta"], header["Pxyz_c"] = 1, 1, 0
        header["Mdc"] = [[-1, 0, 0], [0, 0, -1], [0, 1, 0]]
    lengths = np.linalg.norm(header["Mdc"], axis=1)
    if not np.abs(lengths - 1).max() < DIRECTION_TOLERANCE:
        raise FileError(f"'{path}' is damaged: its MGH header gives directions of the lengths {lengths.tolist()}.")
    text = (
        f"The header of '{path.name}' does not say where the image lies in the patient, nor its voxel size: 1 mm and "
        "FreeSurfer's usual (coronal) orientation were taken, as FreeSurfer does."
    )
    with np.errstate(over="ignore", invalid="ignore"):  # a grid of such numbers is refused
        matrix = np.asarray(header.get_affine(), dtype=np.float64)
    return header, matrix, [] if placed else [text]


def read_voxels(path: Path, header: MGHHeader, warnings: list[str]) -> npt.NDArray:
    """The voxels in C order and native byte order; `warnings` is told of an end that is missing.

    Raises FileError if they are damaged or cut.
    """
    stored = np.empty(header.get_data_shape(), header.get_data_dtype(), order="F")
    with streams.reading(path) as file:
        streams.skip(file, HEADER_BYTES)
        if not streams.fill(file, stored):
            raise streams.damaged(path)
        count, first = streams.rest(file)
    whole = count >= FOOTER_BYTES or count in OLD_FOOTERS
    if not whole or count > LARGEST_FOOTER or not _is_footer(first):
        raise streams.damaged(path)
    if count < FOOTER_BYTES:
        warnings.append(f"'{path.name}' lacks what programs write behind the voxels: compare it with the original.")
    return np.ascontiguousarray(stored, dtype=stored.dtype.newbyteorder("="))


def _is_footer(first: bytes) -> bool:
    """Whether these bytes, behind the voxels, are up to five times and angles, then the number of a tag."""
    numbers = np.abs(np.frombuffer(first[: min(len(first), FOOTER_BYTES) // 4 * 4], ">f4"))
    tag = int.from_bytes(first[FOOTER_BYTES : FOOTER_BYTES + 4], "big")
    return bool(((numbers == 0) | ((numbers > 1e-6) & (numbers < 1e7))).all()) and tag < LARGEST_TAG


def write(target: Path, array: npt.NDArray, volume: Volume) -> None:
    """Write `array` with the place in space of `volume`. Raises InputError if the format cannot hold the numbers."""
    fitting = next((t for t in TYPES if np.can_cast(array.dtype, t)), np.float32)
    if array.dtype.kind in "iu" and fitting is np.float32:
        limits = np.iinfo(np.int32)
        if array.size and (array.min() < limits.min or array.max() > limits.max):
            raise InputError(
                f"'{target.name}': the format cannot hold numbers as large as {array.max()}; choose .nii.gz or .nrrd."
            )
        fitting = np.int32
    nibabel.save(nibabel.MGHImage(array.astype(fitting), volume.ijk_to_ras), target)
