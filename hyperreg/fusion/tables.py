"""What the numbers of label maps mean: names and colours, from tables beside the maps or inside of .seg.nrrd files."""

from __future__ import annotations

import colorsys
import csv
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from hyperreg.errors import FileError
from hyperreg.imaging import itk
from hyperreg.imaging.files import as_labels, read_volume
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.catalogue import Structure

# Names of tables in a folder of atlases, and the endings of tables beside a single label map.
FOLDER_TABLES = ("labels.csv", "labels.ctbl", "labels.txt", "label_information.csv")
TABLES = (".csv", ".ctbl", ".txt")
NUMBER_COLUMNS = ("label", "label number", "number", "value", "id", "index")
NAME_COLUMNS = ("name", "label name", "structure")
# Step of the hue between structures without a colour (the golden ratio's): neighbours in number look different.
HUE_STEP = 0.618033988749895


@dataclass(frozen=True)
class Meaning:
    """A structure's name, and its colour (0..255) if the table has one."""

    name: str
    colour: tuple[int, int, int] | None = None


Table = dict[int, Meaning]


def read_table(path: Path) -> Table:
    """A table of labels: CSV with a number and a name column (colours: red, green, blue), or a colour table.

    Colour tables are 3D Slicer's .ctbl and FreeSurfer's look-up table: number, name, red, green, blue, opacity.
    Raises FileError, naming the file, for one that is neither.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"The table of labels '{path}' cannot be read as text.") from error
    try:
        table = _csv(text) if path.suffix.lower() == ".csv" else _colour_table(text)
    except (ValueError, KeyError, IndexError) as error:
        raise FileError(
            f"'{path}' is not a table of labels ({error}). It should have a column 'label' with whole numbers and a "
            "column 'name'."
        ) from error
    if not table:
        raise FileError(f"The table of labels '{path}' has no rows.")
    return table


def segment_table(path: Path) -> Table:
    """Names and colours of the segments in a .seg.nrrd file; {} for other files, and for what cannot be read."""
    if not path.name.lower().endswith(".seg.nrrd"):
        return {}
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        with itk.quiet():
            reader.ReadImageInformation()
    except RuntimeError:
        return {}
    table: Table = {}
    number = 0
    while reader.HasMetaDataKey(f"Segment{number}_LabelValue"):
        words = {
            key: reader.GetMetaData(f"Segment{number}_{key}")
            for key in ("LabelValue", "Name", "Color")
            if reader.HasMetaDataKey(f"Segment{number}_{key}")
        }
        parts = [round(255 * float(part)) for part in words.get("Color", "").split()]
        colour = (parts[0], parts[1], parts[2]) if len(parts) == 3 else None
        table[int(words["LabelValue"])] = Meaning(words.get("Name", f"Segment {number + 1}"), colour)
        number += 1
    return table


def renumbered(volume: Volume, table: Mapping[int, Meaning], common: Mapping[int, Meaning]) -> tuple[Volume, list[str]]:
    """The map with the numbers that `common` has for the names in its own table, and what was changed, in words.

    Names that `common` does not know keep their number unless it means something else there; then they get a new one.
    """
    numbers = {meaning.name.casefold(): label for label, meaning in common.items()}
    array = as_labels(volume)
    present = [int(label) for label in np.unique(array) if label != 0]
    free = max([0, *common, *table, *present]) + 1
    changes: dict[int, int] = {}
    for label in present:
        own = table.get(label)
        if own is None:
            continue
        wanted = numbers.get(own.name.casefold())
        if wanted is None and label in common:
            wanted, free = free, free + 1
        if wanted is not None and wanted != label:
            changes[label] = wanted
    if not changes:
        return volume, []
    fresh = array.astype(np.int64)
    for label, wanted in changes.items():
        fresh[array == label] = wanted
    text = ", ".join(f"{label} → {wanted} ({table[label].name})" for label, wanted in list(changes.items())[:8])
    more = f" and {len(changes) - 8} more" if len(changes) > 8 else ""
    words = f"'{volume.name}' numbers its structures differently; they were matched by name: {text}{more}."
    return Volume(fresh, volume.ijk_to_ras, volume.name), [words]


def merged(tables: Iterable[Mapping[int, Meaning]]) -> Table:
    """All rows; where a number or a name comes again the first one counts."""
    found: Table = {}
    names: set[str] = set()
    for table in tables:
        for label, meaning in table.items():
            if label not in found and meaning.name.casefold() not in names:
                found[label] = meaning
                names.add(meaning.name.casefold())
    return found


def structures_of(labels: Iterable[int], table: Mapping[int, Meaning]) -> list[Structure]:
    """The labels as structures for files and tables, with made-up names and colours where the table has none."""
    found = []
    for channel, label in enumerate(labels):
        meaning = table.get(label, Meaning(f"Label {label}"))
        shade = colorsys.hsv_to_rgb((label * HUE_STEP) % 1, 0.65, 0.95)
        colour = meaning.colour or (int(255 * shade[0]), int(255 * shade[1]), int(255 * shade[2]))
        found.append(Structure(int(label), channel, meaning.name, colour))
    return found


def read_labels_with_table(path: Path) -> tuple[Volume, Table]:
    """A label map and what its numbers mean, from the file itself or a table of the same name beside it."""
    volume = read_volume(path)
    table = segment_table(path)
    stem = path.name[: len(path.name) - len("".join(path.suffixes[-2:]))] if path.suffixes else path.name
    for ending in TABLES:
        beside = path.with_name(stem + ending)
        if not table and beside.is_file():
            table = read_table(beside)
    return Volume(as_labels(volume), volume.ijk_to_ras, volume.name), table


def _csv(text: str) -> Table:
    rows = csv.DictReader(text.splitlines())
    columns = {str(name).strip().casefold(): name for name in rows.fieldnames or ()}
    number = next((columns[name] for name in NUMBER_COLUMNS if name in columns), None)
    title = next((columns[name] for name in NAME_COLUMNS if name in columns), None)
    if number is None or title is None:
        raise ValueError("no column 'label' or no column 'name'")
    shades = [columns.get(name) for name in ("red", "green", "blue")]
    table: Table = {}
    for row in rows:
        if not (row[number] or "").strip():
            continue
        values = [row[name] for name in shades if name is not None]
        colour = _colour(values) if len(values) == 3 and all((v or "").strip() for v in values) else None
        table[int(row[number])] = Meaning(" ".join((row[title] or "").split()) or f"Label {row[number]}", colour)
    return table


def _colour_table(text: str) -> Table:
    table: Table = {}
    for line in text.splitlines():
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) < 5:
            raise ValueError(f"the line '{line[:40]}' has not five columns")
        if int(words[0]) != 0:
            shades = words[-4:-1] if len(words) > 5 else words[-3:]
            table[int(words[0])] = Meaning(" ".join(words[1 : words.index(shades[0], 2)]), _colour(shades))
    return table


def _colour(values: Iterable[str]) -> tuple[int, int, int]:
    red, green, blue = (int(value) for value in values)
    if min(red, green, blue) < 0 or max(red, green, blue) > 255:
        raise ValueError("colours are numbers from 0 to 255")
    return red, green, blue
