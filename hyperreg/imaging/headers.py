"""What ITK does not check of MetaImage and NRRD files: whose voxels they name, whether these are whole, and units.

ITK's readers report success on damaged compressed data, follow a header to any file of the machine, and ignore units.
So the text of the header is read here first, and the voxels are verified; ITK then reads the image
(`itk.read_image`). Formats: https://teem.sourceforge.net/nrrd/format.html,
https://docs.itk.org/en/latest/learn/metaio.html.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import streams

# No header of an image is longer; segmentations with many segments have some 100 kB.
LONGEST_HEADER = 1 << 22
# Directions may be written with three digits.
DIRECTION_TOLERANCE = 1e-2
NRRD_MARK = b"NRRD0"
# ITK adds whatever it knew of the file that an image was read from: "dim[0] = 3" of NIfTI, "0008|0060 = CT" of DICOM.
_META_LINE = re.compile(rb"^\s*([^\s=:][^=:]*?)\s*[=:]\s*(.*?)\s*$")
# MetaImage's own keys; all others are what programs add.
_META_KEYS = {
    "ObjectType", "ObjectSubType", "NDims", "Comment", "BinaryData", "BinaryDataByteOrderMSB", "ElementByteOrderMSB",
    "CompressedData", "CompressedDataSize", "TransformMatrix", "Rotation", "Orientation", "Offset", "Position",
    "Origin", "CenterOfRotation", "DistanceUnits", "AnatomicalOrientation", "ElementSpacing", "ElementSize", "DimSize",
    "HeaderSize", "ElementType", "ElementNumberOfChannels", "ElementToIntensityFunctionSlope",
    "ElementToIntensityFunctionOffset", "ElementDataFile",
}  # fmt: skip
_META_DIRECTIONS = ("TransformMatrix", "Rotation", "Orientation")
_META_TYPES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "LONG": 4, "ULONG": 4}
_META_TYPES |= {"LONG_LONG": 8, "ULONG_LONG": 8, "FLOAT": 4, "DOUBLE": 8}
_NRRD_TYPES = {
    1: "signed char, int8, int8_t, uchar, unsigned char, uint8, uint8_t",
    2: "short, short int, signed short, signed short int, int16, int16_t, ushort, unsigned short, unsigned short int, "
    "uint16, uint16_t",
    4: "int, signed int, int32, int32_t, uint, unsigned int, uint32, uint32_t, float",
    8: "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t, ulonglong, "
    "unsigned long long, unsigned long long int, uint64, uint64_t, double",
}
_NRRD_BYTES = {name: size for size, names in _NRRD_TYPES.items() for name in names.split(", ")}
_NRRD_TO_LPS = {"left-posterior-superior": (1, 1, 1), "right-anterior-superior": (-1, -1, 1)}
_NRRD_TO_LPS |= {"left-anterior-superior": (1, -1, 1), "lps": (1, 1, 1), "ras": (-1, -1, 1), "las": (1, -1, 1)}
_UNITS = {
    "mm": "mm, millimeter, millimeters, millimetre, millimetres",
    "cm": "cm, centimeter, centimeters, centimetre, centimetres",
    "m": "m, meter, meters, metre, metres",
    "micrometre": "um, µm, μm, micron, microns, micrometer, micrometers, micrometre, micrometres",
    "nanometre": "nm, nanometer, nanometers, nanometre, nanometres",
}
_UNIT_NAMES = {word: unit for unit, words in _UNITS.items() for word in words.split(", ")}
_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0, "micrometre": 1e-3, "nanometre": 1e-6}
_TRUE = ("true", "t", "1", "yes", "y")


@dataclass(frozen=True)
class Header:
    """What the text says.

    reader: the class of ITK that reads it. sizes: of all axes. item_bytes: of one number. data_file, offset: where the
    numbers begin, compressed or not. packed_bytes: length of the compressed data, if it is said. mm: how long its
    unit is. pairs: NRRD's own keys and values, as of segmentations. turned: whether vectors count along other
    directions than left, posterior and superior, or NRRD's header leaves it open. warnings: what it leaves open, in
    words.
    """

    reader: str
    sizes: tuple[int, ...]
    item_bytes: int
    data_file: Path
    offset: int
    compressed: bool
    packed_bytes: int | None = None
    mm: float = 1.0
    pairs: Mapping[str, str] = field(default_factory=dict)
    turned: bool = False
    warnings: list[str] = field(default_factory=list)

    @property
    def data_bytes(self) -> int:
        return math.prod(self.sizes) * self.item_bytes


def is_meta(start: bytes) -> bool:
    """Whether the first bytes of a file are a MetaImage header's."""
    return _META_LINE.match(start.split(b"\n", 1)[0]) is not None and b"NDims" in start


def read_header(path: Path) -> Header | None:
    """The header of a NRRD or MetaImage file; None for other files.

    Raises FileError if it is damaged, InputError for ways of storing voxels that HyperReg does not take.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(LONGEST_HEADER)
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    try:
        if start.startswith(NRRD_MARK):
            return _nrrd(path, start)
        return _meta(path, start) if is_meta(start[:8192]) else None
    except (ValueError, KeyError) as error:
        raise FileError(f"'{path}' is damaged: its header makes no sense ({error}). Export it again.") from error


def check_voxels(path: Path, header: Header, confined: bool = False) -> None:
    """Raise FileError if the voxels are cut, damaged or missing, or a `confined` header names another folder's file.

    The header's warnings are added to.
    """
    data = header.data_file
    if confined and data.resolve().parent != path.resolve().parent:
        raise FileError(f"'{path.name}' names a file of another folder for its voxels. Give it the file itself.")
    if not data.is_file():
        raise FileError(f"The voxels of '{path}' are missing: '{data.name}' belongs to it and is not there.")
    try:
        length = data.stat().st_size
        if header.packed_bytes not in (None, length - header.offset):
            raise streams.damaged(data)
        if header.compressed:
            if streams.inflated_size(data, header.offset) != header.data_bytes:
                raise streams.damaged(data)
            return
        end = length if header.offset < 0 else header.offset + header.data_bytes
        if length < max(end, header.data_bytes):
            raise streams.damaged(data)
        with open(data, "rb") as file:
            file.seek(end)
            header.warnings.extend(streams.check_surplus(data, *streams.rest(file)))
    except OSError as error:
        raise FileError(f"'{data}' cannot be opened: {error.strerror or error}.") from error


def _meta(path: Path, start: bytes) -> Header:
    fields: dict[str, str] = {}
    offset = 0
    key = "ObjectType"
    for line in io.BytesIO(start):
        offset += len(line)
        found = _META_LINE.match(line)
        if found is None:
            # A text of another program may go on over several lines.
            if line.strip() and (key in _META_KEYS or line.split()[0].decode("latin-1") in _META_KEYS):
                raise ValueError("a line without '='")
            continue
        key, value = _text(found[1]), _text(found[2])
        if key in fields and key != "Comment":
            raise ValueError(f"'{key}' is given twice")
        fields[key] = value
        if key == "ElementDataFile":
            break
    else:
        raise streams.damaged(path)
    sizes = _sizes(fields["DimSize"], int(fields["NDims"]))
    channels = int(fields.get("ElementNumberOfChannels", "1"))
    kind = fields["ElementType"].removeprefix("MET_").removesuffix("_ARRAY")
    if fields.get("BinaryData", "True").lower() not in _TRUE:
        raise InputError(f"'{path.name}' holds its voxels as text; save it in binary form.")
    name = fields["ElementDataFile"]
    if name == "LIST" or "%" in name:
        raise InputError(f"The voxels of '{path.name}' are spread over several files; save it as one.")
    local = name.lower() == "local"
    compressed = fields.get("CompressedData", "False").lower() in _TRUE
    skipped = int(fields.get("HeaderSize", "0"))
    unit, warnings = _unit(path, [fields.get("DistanceUnits", "mm")])
    _check_directions(next((fields[key] for key in _META_DIRECTIONS if key in fields), ""), len(sizes))
    if not fields.keys() & {"ElementSpacing", "ElementSize"}:
        warnings.append(_no_size(path))
    if not fields.keys() & {"Offset", "Position", "Origin"}:
        warnings.append(_no_place(path))
    scaling = (fields.get("ElementToIntensityFunctionSlope", "1"), fields.get("ElementToIntensityFunctionOffset", "0"))
    if tuple(float(number) for number in scaling) != (1, 0):
        warnings.append(
            f"The header of '{path.name}' says how to scale its values (slope {scaling[0]}, offset {scaling[1]}): they "
            "were left as they are, as in 3D Slicer."
        )
    return Header(
        reader="MetaImageIO",
        sizes=sizes,
        item_bytes=_META_TYPES[kind] * channels,
        data_file=path if local else path.parent / name,
        offset=skipped or (offset if local else 0),
        compressed=compressed,
        # Without this number, ITK reads nothing and says nothing.
        packed_bytes=int(fields["CompressedDataSize"]) if compressed else None,
        mm=unit,
        warnings=warnings,
    )


def _check_directions(text: str, rank: int) -> None:
    """Raise ValueError for axes of MetaImage that are no directions: ITK would take their lengths for voxel sizes."""
    numbers = [float(word) for word in text.split()]
    rows = [numbers[start : start + rank] for start in range(0, len(numbers), rank)]
    if any(abs(math.hypot(*row) - 1) > DIRECTION_TOLERANCE for row in rows):
        raise ValueError(f"directions that have not the length 1: {text[:80]}")


def _nrrd(path: Path, start: bytes) -> Header:
    fields: dict[str, str] = {}
    offset = 0
    pairs: dict[str, str] = {}
    complete = False
    for number, line in enumerate(io.BytesIO(start)):
        offset += len(line)
        text = _text(line.rstrip(b"\r\n"))
        if not text:
            complete = True
            break
        if number == 0 or text.startswith("#"):
            continue
        colon = text.find(":")
        if colon < 0:
            raise ValueError("a line without ':'")
        key, value = text[:colon].strip(), text[colon + 1 :]
        if value.startswith("="):
            pairs[key] = value[1:]
            continue
        key = key.lower().replace("datafile", "data file").replace("lineskip", "line skip")
        key = key.replace("byteskip", "byte skip").replace("centerings", "centers")
        if key in fields:
            raise ValueError(f"'{key}' is given twice")
        fields[key] = value.strip()
    sizes = _sizes(fields["sizes"], int(fields["dimension"]))
    encoding = fields["encoding"].lower()
    if encoding not in ("raw", "gzip", "gz"):
        raise InputError(f"'{path.name}' holds its voxels in the encoding '{encoding}'; save it with 'gzip' or 'raw'.")
    lines, skipped = int(fields.get("line skip", "0")), int(fields.get("byte skip", "0"))
    if lines or (skipped and encoding != "raw"):
        raise InputError(f"The voxels of '{path.name}' begin behind other things in their file; save it as one file.")
    name = fields.get("data file", "")
    if not name and not complete:
        raise streams.damaged(path)
    if name.startswith("LIST") or "%" in name:
        raise InputError(f"The voxels of '{path.name}' are spread over several files; save it as one.")
    units = re.findall(r'"([^"]*)"|(\S+)', fields.get("space units", fields.get("units", "")))
    unit, warnings = _unit(path, [quoted or word for quoted, word in units])
    sides = [float(number) for number in fields.get("spacings", "").split()]
    if "space directions" not in fields and sum(math.isfinite(side) for side in sides) < min(3, len(sizes)):
        warnings.append(_no_size(path))
    elif fields.get("space", "").lower() not in _NRRD_TO_LPS.keys() | {s + "-time" for s in _NRRD_TO_LPS}:
        warnings.append(
            f"The header of '{path.name}' does not say which of its directions are left and right, front and back: "
            "left-posterior-superior was taken, as in 3D Slicer."
        )
    elif "space origin" not in fields:
        warnings.append(_no_place(path))
    return Header(
        reader="NrrdImageIO",
        sizes=sizes,
        item_bytes=_NRRD_BYTES[fields["type"].lower()],
        data_file=path.parent / name if name else path,
        offset=skipped if name else offset + skipped if skipped >= 0 else -1,
        compressed=encoding != "raw",
        mm=unit,
        pairs=pairs,
        turned=_are_turned(fields.get("space", ""), fields.get("measurement frame", "")),
        warnings=warnings,
    )


def _are_turned(space: str, frame: str) -> bool:
    """Whether vectors count along other directions than LPS, or along an unknown one of a `space` that is not LPS.

    frame: the measurement frame, three vectors in the coordinates of `space`; "" as in 3D Slicer's own files.
    """
    own = _NRRD_TO_LPS.get(space.lower().removesuffix("-time"), (1, 1, 1))
    if not frame:
        return own != (1, 1, 1)
    columns = [[float(number) for number in vector.split(",")] for vector in re.findall(r"\(([^)]*)\)", frame)[:3]]
    return any(
        abs(sign * number - (axis == row)) > DIRECTION_TOLERANCE
        for axis, column in enumerate(columns)
        for row, (sign, number) in enumerate(zip(own, column, strict=True))
    )


def _text(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("latin-1")


def _sizes(text: str, rank: int) -> tuple[int, ...]:
    sizes = tuple(int(word) for word in text.split())
    if len(sizes) != rank or min(sizes, default=0) < 1:
        raise ValueError(f"{rank} dimensions of the sizes {text[:80]}")
    return sizes


def _unit(path: Path, names: list[str]) -> tuple[float, list[str]]:
    """Length of the unit in mm, and a text if that is not the usual one."""
    found = {name.strip().lower() for name in names} - {"", "?", "unknown", "none", "???", "s", "sec", "ms"}
    units = {_UNIT_NAMES.get(name) for name in found}
    if not found or units == {"mm"}:
        return 1.0, []
    if len(units) > 1 or None in units:
        raise InputError(
            f"The header of '{path.name}' counts in units that HyperReg does not know ({', '.join(sorted(found))}). "
            "Export it in mm."
        )
    unit = str(units.pop())
    text = (
        f"'{path.name}' counts in the unit {unit}: its sizes were converted to mm. Programs that ignore units show it "
        f"{1 / _MM[unit]:g} times as large."
    )
    return _MM[unit], [text]


def _no_place(path: Path) -> str:
    return f"The header of '{path.name}' does not say where the image lies: its first voxel was put at 0, 0, 0."


def _no_size(path: Path) -> str:
    return f"The header of '{path.name}' does not say how large its voxels are: 1 mm was taken."
