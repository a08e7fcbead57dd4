"""Segmentation files: label maps, and .seg.nrrd with names, colours and terminology, as 3D Slicer reads and writes it.

Format: https://slicer.readthedocs.io/en/latest/developer_guide/modules/segmentations.html (segmentation storage node).
A .seg.nrrd file is an ordinary NRRD label map whose header says what the labels are. Segments that overlap lie in
layers, which are the first axis of a file of four; before Slicer 4.11, every segment was a layer.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import FileError, InputError
from hyperreg.imaging import files, headers, itk
from hyperreg.imaging.output import replacing
from hyperreg.imaging.structures import (
    Code,
    LabelMap,
    Meaning,
    Structure,
    Terminology,
    places_in,
    terminology_entry,
    unique_names,
    values_of,
)
from hyperreg.imaging.volume import Grid, Volume

SEGMENTATION = ".seg.nrrd"
WRITABLE = (".nii", ".nii.gz", SEGMENTATION, ".nrrd", ".mha", ".mhd", ".mgz")


# What the header says of a segment, and what it says of each of them.
KEY = re.compile(r"Segment(\d{1,6})_(\w+)$")
OF_EACH = ("ID", "Name", "LabelValue")


@dataclass(frozen=True)
class Segment:
    """A segment as the header describes it: the voxels of `value` in a layer."""

    layer: int
    value: int
    meaning: Meaning


def read_segments(path: Path, confined: bool = False) -> LabelMap | None:
    """The segments of a NRRD file whose header describes any; None for all other files.

    Where several layers use the same number, the segments are numbered from 1 in their order. Names that come twice get
    their number behind them. confined: see `files.read_volume`. Raises FileError for a damaged file, InputError for one
    that HyperReg does not take.
    """
    header = headers.read_header(path) if os.path.isfile(path) else None
    if header is None or not any(KEY.match(key) for key in header.pairs):
        return None
    layered = len(header.sizes) > 3 and header.sizes[0] > 1
    try:
        segments = _segments(header.pairs, layered)
    except (ValueError, IndexError) as error:
        raise FileError(
            f"'{path}' cannot be read: what its header says of its segments is damaged. Export it again."
        ) from error
    arrays, grid, name = _arrays(path, layered, confined)
    if any(segment.layer >= len(arrays) for segment in segments):
        raise FileError(f"'{path}' is damaged: its header names more layers of segments than it holds.")
    places = [(segment.layer, segment.value) for segment in segments]
    if len(set(places)) < len(places):
        raise FileError(f"'{path}' is damaged: two of its segments have the same label value.")
    warnings = list(header.warnings)
    if lost := [segment.meaning.name for segment in segments if segment.value == 0]:
        warnings.append(f"'{name}' gives segments the value 0, of the background: {', '.join(lost)}. They are empty.")
        segments = [segment for segment in segments if segment.value != 0]
    distinct = len({segment.value for segment in segments}) == len(segments)
    labels = [segment.value if distinct else n for n, segment in enumerate(segments, 1)]
    table = {label: segment.meaning for label, segment in zip(labels, segments, strict=True)}
    layers = []
    free = max([0, *labels]) + 1
    for number, array in enumerate(arrays):
        own = {s.value: label for s, label in zip(segments, labels, strict=True) if s.layer == number}
        values = values_of(array)
        strange = [int(value) for value in values if value != 0 and int(value) not in own]
        if strange:
            warnings.append(
                f"'{name}' holds values that belong to none of its segments ({', '.join(map(str, strange[:8]))}); they "
                "count as structures without a name."
            )
        for value in strange:
            own[value], free = (value, free) if len(arrays) == 1 else (free, free + 1)
        kind = np.result_type(array.dtype, np.min_scalar_type(max([0, *own.values()])))
        fresh = np.array([own.get(int(value), 0) for value in values], dtype=kind)
        layers.append(Volume(fresh[places_in(values, array)], grid.ijk_to_ras, name))
    drawn = tuple(layer for layer in layers if layer.array.any()) or tuple(layers[:1])
    return _flattened(LabelMap(drawn, unique_names(table), tuple(warnings)))


def _arrays(path: Path, layered: bool, confined: bool) -> tuple[list[npt.NDArray], Grid, str]:
    if not layered:
        volume = files.read_label_map(path, confined=confined)
        return [volume.array], volume.grid, volume.name
    array, ijk_to_ras, _intent = files.read_components(path, confined)
    if array.dtype.kind not in "iu":
        raise InputError(f"'{path.name}' is no segmentation: its values are not whole numbers.")
    return list(array), Grid(array.shape[1:], ijk_to_ras), path.name.removesuffix(path.suffix)


def _flattened(labels: LabelMap) -> LabelMap:
    """One layer where no segments overlap."""
    try:
        return LabelMap((labels.flat,), labels.table, labels.warnings)
    except InputError:
        return labels


def _segments(keys: Mapping[str, str], layered: bool) -> list[Segment]:
    """The segments of a header, in its order. Raises ValueError or IndexError for one that is damaged."""
    found: list[Segment] = []
    # Some programs count from 1, or leave a number out.
    for number in sorted({int(match[1]) for match in map(KEY.match, keys) if match and match[2] in OF_EACH}):
        words = {name: keys.get(f"Segment{number}_{name}", "") for name in ("LabelValue", "Layer", "Name", "Color")}
        shades = [round(255 * min(1.0, max(0.0, float(part)))) for part in words["Color"].split()]
        colour = (shades[0], shades[1], shades[2]) if words["Color"].strip() else None
        layer = int(words["Layer"] or (len(found) if layered else 0))
        if layer < 0:
            raise ValueError("a layer below zero")
        meaning = Meaning(
            " ".join(words["Name"].split()) or f"Segment {number + 1}",
            colour,
            _terminology(keys.get(f"Segment{number}_Tags", "")),
        )
        found.append(Segment(layer, int(words["LabelValue"] or 1), meaning))
    return found


def _terminology(tags: str) -> Terminology | None:
    """The entry in a segment's tags (see `terminology_entry`); None without one, or for one that is incomplete."""
    entry = next((tag.partition(":")[2] for tag in tags.split("|") if tag.startswith("TerminologyEntry:")), "")
    codes = [_code_of(text) for text in entry.split("~")[1:4]]
    if len(codes) < 3 or codes[0] is None or codes[1] is None:
        return None
    return Terminology(codes[0], codes[1], codes[2])


def _code_of(text: str) -> Code | None:
    parts = text.split("^")
    return Code(*parts) if len(parts) == 3 and all(parts) else None


def check_name(path: Path) -> None:
    """Raise InputError for a name whose ending tells no format that can hold a segmentation."""
    if not path.name.lower().endswith(WRITABLE):
        raise InputError(f"'{path.name}' has no ending that tells the format; use one of {', '.join(WRITABLE)}.")


def write_segmentation(labels: Volume, structures: Sequence[Structure], path: Path) -> None:
    """Write a label map; the ending decides the format, and only .seg.nrrd holds names, colours and terminology.

    Every structure is written, empty ones too, so that results of several cases have the same segments.
    Raises FileError if it cannot be written, InputError if the format cannot hold the geometry.
    """
    if not path.name.lower().endswith(SEGMENTATION):
        files.write_volume(labels, path)
        return
    image = itk.volume_to_itk(labels)
    for key, value in _header([labels], structures, {}).items():
        image.SetMetaData(key, value)
    with replacing(path, labels.array.nbytes + files.HEADER_ALLOWANCE) as target, itk.quiet():
        sitk.WriteImage(image, itk.text_of(target), useCompression=True)


def write_layers(layers: Sequence[Volume], structures: Sequence[Structure], path: Path) -> None:
    """Write label maps of one grid whose structures overlap. No label is in two of them.

    Raises FileError if the file cannot be written, InputError for another format than .seg.nrrd, which holds layers.
    """
    if not path.name.lower().endswith(SEGMENTATION):
        raise InputError(
            f"Structures overlap here, and '{path.name}' can hold one label per voxel only. Choose .seg.nrrd."
        )
    kind = np.result_type(*(layer.array.dtype for layer in layers))
    stacked = np.stack([layer.array.astype(kind).transpose(2, 1, 0) for layer in layers], axis=-1)
    image = sitk.GetImageFromArray(stacked, isVector=True)
    itk.set_geometry(image, layers[0].grid)
    layer_of = {int(label): n for n, layer in enumerate(layers) for label in values_of(layer.array)}
    for key, value in _header(layers, structures, layer_of).items():
        image.SetMetaData(key, value)
    with replacing(path, stacked.nbytes + files.HEADER_ALLOWANCE) as target, itk.quiet():
        sitk.WriteImage(image, itk.text_of(target), useCompression=True)


def _header(layers: Sequence[Volume], structures: Sequence[Structure], layer_of: Mapping[int, int]) -> dict[str, str]:
    """layer_of: of a label; the first one for labels without voxels."""
    header = {
        "Segmentation_ContainedRepresentationNames": "Binary labelmap|",
        "Segmentation_SourceRepresentation": "Binary labelmap",
        "Segmentation_ReferenceImageExtentOffset": "0 0 0",
    }
    for index, structure in enumerate(structures):
        entry = "" if structure.terminology is None else f"TerminologyEntry:{terminology_entry(structure.terminology)}|"
        fields = {
            "ID": f"Segment_{structure.label}",
            "Name": structure.name,
            "NameAutoGenerated": "0",
            "Color": " ".join(f"{part / 255:.6g}" for part in structure.colour),
            "ColorAutoGenerated": "0",
            "LabelValue": str(structure.label),
            "Layer": str(layer_of.get(structure.label, 0)),
            "Extent": _extent(layers[layer_of.get(structure.label, 0)], structure.label),
            "Tags": f"Segmentation.Status:completed|{entry}",
        }
        header |= {f"Segment{index}_{name}": value for name, value in fields.items()}
    return header


def _extent(labels: Volume, label: int) -> str:
    """First and last voxel along each axis; an empty extent is one that ends before it begins."""
    inside = labels.array == label
    if not inside.any():
        return "0 -1 0 -1 0 -1"
    ends: list[int] = []
    for axis in range(3):
        where = np.flatnonzero(inside.any(axis=tuple(n for n in range(3) if n != axis)))
        ends += [int(where[0]), int(where[-1])]
    return " ".join(str(end) for end in ends)
