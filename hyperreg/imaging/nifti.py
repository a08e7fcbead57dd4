"""NIfTI-1 at the level of bytes: what ITK's reader and writer do not tell.

ITK reads a file that was cut in the middle as if the rest were zero, does not notice a full disk while writing, picks
the other
of two contradictory affines when one is sheared, and cannot write a displacement field with intent 1006. So headers are
looked at here before ITK reads, and NIfTI files are written here. Format: nifti1.h, https://nifti.nimh.nih.gov/nifti-1.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal, cast

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.volume import SHEAR_TOLERANCE, Grid

HEADER_BYTES = 348
INTENT_DISPLACEMENT = 1006
RGB_TYPES = {128: "colour (RGB)", 2304: "colour (RGBA)", 32: "complex", 1792: "complex", 2048: "complex"}
TYPE_CODES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024, "u8": 1280}
# ITK refuses files whose axes are further off a right angle than this; other formats bear the full SHEAR_TOLERANCE.
WRITABLE_SHEAR = 1e-4
# Speed matters more than the last per cent of size: level 1 halves the time of a large field and costs about 5 % more
# bytes.
GZIP_LEVEL = 1
CHUNK = 1 << 24


@dataclass(frozen=True)
class Header:
    """What is needed of a header. dims: sizes of all axes; data_bytes: of the voxels; sform, qform: codes; srow: (3,
    4).
    """

    dims: tuple[int, ...]
    datatype: int
    data_offset: int
    data_bytes: int
    intent: int
    qform_code: int
    sform_code: int
    srow: npt.NDArray[np.float64]


def is_nifti_name(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_header(path: Path) -> Header | None:
    """The header of a single-file NIfTI-1; None if the file is something else (NIfTI-2 or wrongly named)."""
    try:
        with _open(path) as file:
            raw = file.read(HEADER_BYTES)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(_cut_message(path)) from error
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if len(raw) < HEADER_BYTES:
        raise FileError(_cut_message(path))
    order = next((o for o in "<>" if struct.unpack_from(o + "i", raw, 0)[0] == HEADER_BYTES), None)
    if order is None or raw[344:347] != b"n+1":
        return None
    rank, *sizes = struct.unpack_from(order + "8h", raw, 40)
    intent, datatype, bits = struct.unpack_from(order + "3h", raw, 68)
    (offset,) = struct.unpack_from(order + "f", raw, 108)
    qform_code, sform_code = struct.unpack_from(order + "2h", raw, 252)
    srow = np.array(struct.unpack_from(order + "12f", raw, 280)).reshape(3, 4)
    dims = tuple(max(1, n) for n in sizes[: min(max(rank, 0), 7)])
    data_bytes = int(np.prod(dims, dtype=np.int64)) * bits // 8
    return Header(dims, datatype, int(offset), data_bytes, intent, qform_code, sform_code, srow)


def check_readable(path: Path, header: Header) -> None:
    """Raise a FileError for a cut file, an InputError for voxels or axes that HyperReg does not take."""
    if header.datatype in RGB_TYPES:
        raise InputError(
            f"'{path.name}' holds {RGB_TYPES[header.datatype]} voxels; HyperReg takes grey-value images. "
            "Convert it to one grey value per voxel."
        )
    if header.sform_code > 0:
        columns = header.srow[:, :3]
        lengths = np.linalg.norm(columns, axis=0)
        if lengths.min() > 0:
            directions = columns / lengths
            if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR_TOLERANCE:
                raise InputError(
                    f"'{path.name}' has axes that are not at right angles (sheared affine, as from a tilted CT "
                    f"gantry or "
                    "an affine registration). Resample it to a straight grid first."
                )
    if _count_bytes(path) < header.data_offset + header.data_bytes:
        raise FileError(_cut_message(path))


def write(
    path: Path, array: npt.NDArray, grid: Grid, *, description: str = "HyperReg", intent: int = 0, intent_name: str = ""
) -> None:
    """Write an array to .nii or .nii.gz.

    array: (I, J, K), or (3, I, J, K) vectors in RAS mm, which are stored along the fifth axis as the format wants them.
    Raises InputError if the grid is further off right angles than NIfTI readers bear; OSError if the disk does not
    take it.
    """
    directions = grid.ijk_to_ras[:3, :3] / grid.spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > WRITABLE_SHEAR:
        raise InputError(
            f"The axes of '{path.name}' are slightly off right angles, which NIfTI files cannot hold exactly. "
            "Save it as .nrrd instead."
        )
    code = TYPE_CODES[array.dtype.str[1:]]
    vectors = array.ndim == 4
    header = bytearray(HEADER_BYTES + 4)
    dims = (5, *grid.shape, 1, 3, 1, 1) if vectors else (3, *grid.shape, 1, 1, 1, 1)
    quaternion, handedness = _quaternion(directions)
    origin = grid.ijk_to_ras[:3, 3]
    struct.pack_into("<i", header, 0, HEADER_BYTES)
    struct.pack_into("<8h", header, 40, *dims)
    struct.pack_into("<3h", header, 68, intent, code, array.dtype.itemsize * 8)
    struct.pack_into("<8f", header, 76, handedness, *grid.spacing, 1, 1, 1, 1)
    struct.pack_into("<3f", header, 108, HEADER_BYTES + 4, 1, 0)
    header[123] = 2  # millimetres
    header[148:227] = description.encode()[:79].ljust(79, b"\0")
    struct.pack_into("<2h", header, 252, 1, 1)
    struct.pack_into("<6f", header, 256, *quaternion, *origin)
    struct.pack_into("<12f", header, 280, *grid.ijk_to_ras[:3].ravel())
    header[328:343] = intent_name.encode()[:15].ljust(15, b"\0")
    header[344:348] = b"n+1\0"
    with _open(path, "wb") as file:
        file.write(header)
        for part in array if vectors else (array,):
            for k in range(part.shape[2]):
                plane = np.ascontiguousarray(part[:, :, k].T, dtype=array.dtype.newbyteorder("<"))
                file.write(plane.tobytes())


def _quaternion(directions: npt.NDArray[np.float64]) -> tuple[tuple[float, float, float], float]:
    """(b, c, d) of the rotation nearest to `directions`, and -1 for a left-handed grid (its third axis is then
    reversed).
    """
    handedness = 1.0 if np.linalg.det(directions) > 0 else -1.0
    u, _, vt = np.linalg.svd(directions * (1, 1, handedness))
    r = u @ vt
    # The largest of the four candidates keeps the division well conditioned (Shepperd's method).
    squares = np.array([np.trace(r), r[0, 0], r[1, 1], r[2, 2]])
    n = int(squares.argmax())
    if n == 0:
        q = np.array([1 + squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1]])
    else:
        i, j, k = (n - 1, n % 3, (n + 1) % 3)
        q = np.empty(4)
        q[0] = r[k, j] - r[j, k]
        q[1 + i] = 1 + r[i, i] - r[j, j] - r[k, k]
        q[1 + j] = r[j, i] + r[i, j]
        q[1 + k] = r[k, i] + r[i, k]
    q /= np.linalg.norm(q)
    if q[0] < 0:
        q = -q
    return (float(q[1]), float(q[2]), float(q[3])), handedness


def _open(path: Path, mode: Literal["rb", "wb"] = "rb") -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return cast(BinaryIO, gzip.open(path, mode, compresslevel=GZIP_LEVEL))
    return open(path, mode)


def _count_bytes(path: Path) -> int:
    """Length of the uncompressed file; reading a compressed one to its end also verifies its checksum."""
    if not path.name.lower().endswith(".gz"):
        return path.stat().st_size
    count = 0
    try:
        with _open(path) as file:
            while chunk := file.read(CHUNK):
                count += len(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise FileError(_cut_message(path)) from error
    return count


def _cut_message(path: Path) -> str:
    return f"'{path}' is damaged or was cut short (an interrupted copy or download?). Copy or export it again."
