"""NIfTI-1 and NIfTI-2 by nibabel, from exactly the file that was asked for.

The headers are nibabel's; files are opened here, because nibabel and ITK look for the voxels by name: beside `x.nii`
they can take `x.nii.gz` for it. Position in space: the sform, else the qform, as nibabel and FSL do (ITK sometimes
prefers the qform); contradictions are told. Units are applied, which nibabel leaves to its user. Format: nifti1.h,
nifti2.h, https://nifti.nimh.nih.gov.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header, Nifti1PairHeader
from nibabel.nifti2 import Nifti2Header, Nifti2PairHeader
from nibabel.spatialimages import HeaderDataError

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import streams
from hyperreg.imaging.volume import LARGEST_NUMBER, SHEAR_TOLERANCE, Grid

INTENT_DISPLACEMENT = 1006
UNREADABLE_TYPES = {"V": "colour (RGB)", "c": "complex"}
# ITK refuses files whose axes are further off a right angle than this; other formats bear the full SHEAR_TOLERANCE.
WRITABLE_SHEAR = 1e-4
MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
# Voxel sizes of sform and pixdim may differ by this share before the header contradicts itself.
SIZE_TOLERANCE = 0.01
# So may sform and qform, by this share of a voxel at any corner.
PLACE_TOLERANCE = 0.1
_KINDS = {
    (348, b"n+1\0"): Nifti1Header,
    (348, b"ni1\0"): Nifti1PairHeader,
    (540, b"n+2\0"): Nifti2Header,
    (540, b"ni2\0"): Nifti2PairHeader,
}
# Where the mark of a header of that size is.
_MARKS = {348: 344, 540: 4}
# Of extensions; Workbench's are of some kB.
MOST_BYTES = 1 << 22
_PAIRS = {".hdr": ".img", ".img": ".hdr"}


@dataclass(frozen=True)
class Header:
    """What the header says.

    dims: sizes of all axes. data_file: where the voxels are, from `offset` on. ijk_to_ras: (4, 4), mm, as it stands,
    sheared or not. scale: (slope, intercept) of the values, if they are scaled. mm: how long the header's unit is.
    warnings: contradictions, in words.
    """

    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    data_file: Path
    offset: int
    ijk_to_ras: npt.NDArray[np.float64]
    scale: tuple[float, float] | None
    intent: int
    mm: float
    warnings: list[str] = field(default_factory=list)

    @property
    def data_bytes(self) -> int:
        return int(np.prod(self.dims, dtype=object)) * self.dtype.itemsize


def is_nifti_name(path: Path) -> bool:
    return path.name.lower().endswith((".nii", ".nii.gz"))


def read_header(path: Path) -> Header | None:
    """The header of a NIfTI file, or of the pair of files (.hdr, .img) that it belongs to; None for other files.

    Raises FileError if it is damaged, or the other file of a pair is missing; InputError for an Analyze 7.5 header.
    """
    header_file = path
    if not _has_mark(path) and _ending(path) == ".img":
        header_file = _partner(path)
    with streams.reading(header_file) as file:
        start = file.read(540)
    found = _kind(start)
    if found is None:
        return None
    size, order, mark = found
    if len(start) < size:
        raise streams.damaged(header_file)
    kind = _KINDS.get((size, mark))
    if kind is None:
        if _ending(header_file) == ".hdr":
            raise InputError(
                f"'{path.name}' has an Analyze 7.5 header, which does not tell left from right. Convert the image to "
                "NIfTI in a program that knows where it comes from."
            )
        return None
    fields = kind(start[:size], order, check=False)
    try:
        with np.errstate(over="ignore", invalid="ignore"):  # what comes of it is looked at
            return _checked(fields, path, header_file)
    except (HeaderDataError, KeyError, ValueError, OverflowError) as error:
        raise FileError(f"'{path}' is damaged: its NIfTI header makes no sense ({error}). Export it again.") from error


def read_extensions(path: Path) -> bytes:
    """What lies between the header and the voxels of a file: the text of its extensions, at most MOST_BYTES of it.

    b"" for other files, and for pairs of files. Raises as `read_header`.
    """
    header = read_header(path)
    if header is None or header.data_file != path or _ending(path) == ".img":
        return b""
    with streams.reading(path) as file:
        return file.read(min(header.offset, MOST_BYTES))


def read_voxels(path: Path, header: Header) -> npt.NDArray:
    """The voxels, scaled as the header says: of the shape `header.dims`, in C order and native byte order.

    The header's warnings are added to.
    Raises FileError if they are damaged or cut, InputError for colours, complex numbers and sheared axes.
    """
    _check_kind(path, header)
    with streams.reading(header.data_file) as file:
        if streams.skip(file, header.offset) < header.offset:
            raise streams.damaged(header.data_file)
        stored = np.empty(header.dims, header.dtype, order="F")
        if not streams.fill(file, stored):
            raise streams.damaged(header.data_file)
        header.warnings.extend(streams.check_surplus(header.data_file, *streams.rest(file)))
    if header.scale is None:
        return np.ascontiguousarray(stored, dtype=header.dtype.newbyteorder("="))
    slope, intercept = header.scale
    narrow = header.dtype.itemsize <= 2 or (header.dtype.itemsize == 4 and header.dtype.kind == "f")
    values = np.ascontiguousarray(stored, dtype=np.float32 if narrow else np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # told where images are checked
        values *= slope
        values += intercept
    return values


def write(
    path: Path, array: npt.NDArray, grid: Grid, *, description: str = "HyperReg", intent: int = 0, intent_name: str = ""
) -> None:
    """Write an array to .nii or .nii.gz.

    array: (I, J, K), or (3, I, J, K) vectors in RAS mm, which are stored along the fifth axis as the format wants them.
    Raises InputError if the format cannot hold the grid: NIfTI readers want right angles, its numbers are float32, its
    sizes 16 bits; OSError if the disk does not take it.
    """
    directions = grid.ijk_to_ras[:3, :3] / grid.spacing
    if np.abs(directions.T @ directions - np.eye(3)).max() > WRITABLE_SHEAR:
        raise InputError(
            f"The axes of '{path.name}' are slightly off right angles, which NIfTI files cannot hold exactly. "
            "Save it as .nrrd instead."
        )
    stored = Grid(grid.shape, grid.ijk_to_ras.astype(np.float32))
    off = np.abs(stored.corners - grid.corners).max() / grid.spacing.min()
    if off > PLACE_TOLERANCE or max(grid.shape) > np.iinfo(np.int16).max:
        raise InputError(f"The grid of '{path.name}' is too fine or too far away for NIfTI. Save it as .nrrd instead.")
    vectors = array.ndim == 4
    header = Nifti1Header(endianness="<")
    header.set_data_dtype(array.dtype.newbyteorder("<"))
    header.set_data_shape((*grid.shape, 1, 3) if vectors else grid.shape)
    header.set_sform(grid.ijk_to_ras, 1)
    header.set_qform(grid.ijk_to_ras, 1)
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = Nifti1Header.single_vox_offset
    header["intent_code"], header["intent_name"] = intent, intent_name.encode()[:15]
    header["descrip"] = description.encode()[:79]
    with streams.writing(path) as file:
        file.write(header.binaryblock + bytes(4))  # no extensions
        for part in array if vectors else (array,):
            for k in range(part.shape[2]):
                plane = np.ascontiguousarray(part[:, :, k].T, dtype=array.dtype.newbyteorder("<"))
                file.write(plane.tobytes())


def _kind(start: bytes) -> tuple[int, str, bytes] | None:
    """Size, byte order and mark of the header that begins like this; None for other files."""
    for order, name in (("<", "little"), (">", "big")):
        size = int.from_bytes(start[:4], name)  # type: ignore[arg-type]
        if size in _MARKS:
            return size, order, start[_MARKS[size] : _MARKS[size] + 4]
    return None


def _ending(path: Path) -> str:
    """In lower case, without the .gz that may follow."""
    return (path.with_suffix("") if path.suffix.lower() == ".gz" else path).suffix.lower()


def _has_mark(path: Path) -> bool:
    with streams.reading(path) as file:
        found = _kind(file.read(348))
    return found is not None and (found[0], found[2]) in _KINDS


def _partner(path: Path) -> Path:
    """The other file of a pair: exactly this name with the other ending, compressed (.gz) like it, or not like it.

    Raises FileError if it is missing.
    """
    packed = path.suffix.lower() == ".gz"
    plain = path.with_suffix("") if packed else path
    ending = _PAIRS[plain.suffix.lower()]
    partner = plain.with_suffix(ending.upper() if plain.suffix.isupper() else ending)
    either = [partner, partner.with_name(f"{partner.name}.gz")]
    partner = next((file for file in (either[::-1] if packed else either) if file.is_file()), partner)
    if not partner.is_file():
        raise FileError(f"'{path}' is one of two files that belong together; '{partner.name}' is missing beside it.")
    return partner


def _checked(fields: Any, path: Path, header_file: Path) -> Header:
    rank, *sizes = (int(n) for n in fields["dim"])
    if not 1 <= rank <= 7 or min(sizes[: min(rank, 3)]) < 1:
        raise ValueError(f"{rank} dimensions of the sizes {sizes}")
    dims = tuple(max(1, n) for n in sizes[:rank])
    dtype = np.dtype(fields.get_data_dtype())
    if dtype.itemsize * 8 != int(fields["bitpix"]):
        raise ValueError(f"{int(fields['bitpix'])} bits per voxel of the type {dtype}")
    start = float(fields["vox_offset"])
    if not 0 <= start <= 1 << 40 or start != int(start):
        raise ValueError(f"voxels that begin at byte {start}")
    pair = not fields.is_single
    if pair and _ending(header_file) not in _PAIRS:
        raise ValueError("it says that its voxels are in a file .img beside it")
    if not pair and 0 < start < fields.single_vox_offset:
        raise ValueError(f"voxels that begin at byte {start:.0f}, in the header")
    data_file = _partner(header_file) if pair and path == header_file else path
    slope, intercept = fields.get_slope_inter()
    scale = None if slope is None or (slope, intercept) == (1, 0) else (slope, intercept)
    matrix, warnings = _place(fields, path.name, (*dims, 1, 1)[:3])
    unit = _unit(fields, path.name, warnings)
    matrix[:3] *= unit
    intent = int(fields["intent_code"])
    offset = int(start) if pair or start else fields.single_vox_offset
    return Header(dims, dtype, data_file, offset, matrix, scale, intent, unit, warnings)


def _place(fields: Any, name: str, shape: tuple[int, ...]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """The (4, 4) ijk-to-RAS matrix in the header's unit, and how the header contradicts itself."""
    warnings = []
    if fields["pixdim"][0] == 0:  # as nifti1.h has it
        fields["pixdim"][0] = 1
    pixdim = np.asarray(fields["pixdim"][1:4], dtype=np.float64)
    by_sform, by_qform = int(fields["sform_code"]) > 0, int(fields["qform_code"]) > 0
    if by_sform or by_qform:
        matrix = np.asarray(fields.get_sform() if by_sform else fields.get_qform(), dtype=np.float64)
    else:
        # What ITK and so 3D Slicer show; nibabel and FSL place such an image differently.
        matrix = np.diag([-pixdim[0], -pixdim[1], pixdim[2], 1.0])
    if not (np.abs(matrix) < LARGEST_NUMBER).all():  # NaN neither
        raise ValueError("a position of no finite numbers")
    if by_sform:
        sizes = np.linalg.norm(matrix[:3, :3], axis=0)
        if not np.allclose(sizes, pixdim, rtol=SIZE_TOLERANCE, atol=0):
            warnings.append(
                f"The header of '{name}' contradicts itself: voxels of {_listed(sizes)} by its sform, of "
                f"{_listed(pixdim)} by its pixdim. The sform was taken, as nibabel and FSL do."
            )
        elif by_qform and _apart(matrix, np.asarray(fields.get_qform(), dtype=np.float64), shape) > PLACE_TOLERANCE:
            warnings.append(
                f"The header of '{name}' gives two positions in space, sform and qform, that differ. The sform was "
                "taken, as nibabel and FSL do; other programs may show the image elsewhere."
            )
    elif not by_qform:
        warnings.append(
            f"The header of '{name}' does not say where the image lies in the patient (neither sform nor qform): left "
            "and right, front and back cannot be told. It is shown as in 3D Slicer."
        )
    return matrix, warnings


def _unit(fields: Any, name: str, warnings: list[str]) -> float:
    """How long the header's unit is, in mm; `warnings` is told of one that is not known."""
    try:
        return MM[fields.get_xyzt_units()[0]]
    except KeyError:
        warnings.append(f"The header of '{name}' names no known unit of length; mm was taken.")
        return 1.0


def _apart(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64], shape: tuple[int, ...]) -> float:
    """How far two matrices place any corner from each other, in voxels of the first."""
    ends = np.array(np.meshgrid(*[(0, n - 1) for n in shape])).reshape(3, -1)
    distance = np.abs((one - other)[:3, :3] @ ends + (one - other)[:3, 3:]).max()
    return float(distance / max(np.linalg.norm(one[:3, :3], axis=0).min(), 1e-9))


def _listed(sizes: npt.NDArray[np.float64]) -> str:
    return " x ".join(f"{size:.4g}" for size in sizes)


def _check_kind(path: Path, header: Header) -> None:
    if header.dtype.kind in UNREADABLE_TYPES or header.dtype.itemsize > 8:
        what = UNREADABLE_TYPES.get(header.dtype.kind, "128-bit")
        raise InputError(
            f"'{path.name}' holds {what} voxels; HyperReg takes grey-value images. Convert it to one grey value per "
            "voxel."
        )
    columns = header.ijk_to_ras[:3, :3]
    lengths = np.linalg.norm(columns, axis=0)
    if lengths.min() > 0:
        directions = columns / lengths
        if np.abs(directions.T @ directions - np.eye(3)).max() > SHEAR_TOLERANCE:
            raise InputError(
                f"'{path.name}' has axes that are not at right angles (sheared affine, as from a tilted CT gantry or "
                "an affine registration). Resample it to a straight grid first."
            )
