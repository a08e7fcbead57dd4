"""Tables that say what the numbers of label maps mean, as many programs write them: read by content, not by name."""

from __future__ import annotations

import csv
import io
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from hyperreg.errors import FileError
from hyperreg.imaging.lists import decoded
from hyperreg.imaging.structures import Meaning, Table, unique_names

# Names of tables in a folder of label maps, and the endings of tables beside a single label map.
FOLDER_TABLES = ("labels.csv", "labels.tsv", "labels.ctbl", "labels.txt", "label_information.csv")
ENDINGS = (".csv", ".tsv", ".ctbl", ".txt", ".label", ".lut")
# No table of structures is larger; a table of measurements may be.
MOST_BYTES = 4_000_000
# Titles of columns, in lower case and without "_", "-" and ".", the surest first.
NUMBERS = (
    "label value", "labelvalue", "label number", "label id", "label index", "label", "value", "voxel value",
    "number", "no", "id", "index", "idx", "intensity", "key", "roi", "structure id", "region id", "segment number",
)  # fmt: skip
NAMES = (
    "name", "label name", "structure name", "region name", "roi name", "segment name", "full name", "anatomical name",
    "structure", "region", "anatomy", "label", "description", "title", "meaning", "abbreviation", "acronym",
)  # fmt: skip
SIDES = ("hemisphere", "hemi", "side", "laterality")
SHADES = (("red", "green", "blue"), ("r", "g", "b"), ("color r", "color g", "color b"))
COLOURS = ("color", "colour", "rgb", "hex", "color hex triplet", "rgb triplet", "color hex")
# ITK-SNAP's label descriptions: index, red, green, blue, opacity, two flags, and the name in quotes.
ITK_SNAP = re.compile(r'\s*(-?\d+)\s+(\d+)\s+(\d+)\s+(\d+)\s+\S+\s+\d+\s+\d+\s+"(.*)"\s*')


def read_table(path: Path) -> Table:
    """What the numbers mean, by a table in text.

    Read are: tables with a line of titles (separated by commas, semicolons or tabs), of which one column holds the
    numbers and one the names, and if wanted others the colours and the side; the same without titles; label
    descriptions of ITK-SNAP; and colour tables of 3D Slicer (.ctbl) and FreeSurfer (number, name, red, green, blue,
    opacity). 0, the background, is left out. Raises FileError, naming the file, for one that is none of these.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        table = _parsed(decoded(path.read_bytes()), path.suffix.lower() in (".csv", ".tsv"))
    except OSError as error:
        raise FileError(f"The table of labels '{path}' cannot be opened: {error.strerror or error}.") from error
    except (ValueError, csv.Error) as error:
        raise FileError(
            f"'{path}' is not a table of labels ({error}). It should have a column 'label' with whole numbers and a "
            "column 'name'."
        ) from error
    if not table:
        raise FileError(f"The table of labels '{path}' has no rows.")
    return unique_names(table)


def read_extension(raw: bytes) -> Table:
    """The table of labels in an extension of a NIfTI header, as Connectome Workbench and TotalSegmentator write it.

    {} without one. Raises FileError for one that is damaged.
    """
    found = re.search(rb"<LabelTable\b.*?</LabelTable>", raw, re.DOTALL)
    if found is None:
        return {}
    table: Table = {}
    try:
        # Within an element, no entities can be declared.
        for entry in ET.fromstring(found.group()).iter("Label"):  # noqa: S314
            shades = [entry.get(name, "") for name in ("Red", "Green", "Blue")]
            number, name = int(entry.attrib["Key"]), _clean(entry.text or "")
            if number != 0 and name:
                table[number] = Meaning(name, _fractions(shades) if all(shades) else None)
    except (ET.ParseError, KeyError, ValueError) as error:
        raise FileError("the table of labels in its header is damaged.") from error
    return unique_names(table)


def _fractions(words: Sequence[str]) -> tuple[int, int, int]:
    return _colour(str(255 * float(word)) for word in words)


def _parsed(text: str, separated: bool) -> Table:
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith(("#", "//"))]
    if lines and all(ITK_SNAP.fullmatch(line) for line in lines):
        rows = [ITK_SNAP.fullmatch(line).groups() for line in lines]  # type: ignore[union-attr]
        return {int(row[0]): Meaning(_clean(row[4]), _colour(row[1:4])) for row in rows if int(row[0]) != 0}
    separator = max("\t;,", key=lines[0].count) if lines else ","
    if separated or (lines and all(separator in line for line in lines)):
        return _columns(list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True)))
    return _colour_table(lines)


def _columns(rows: Sequence[Sequence[str]]) -> Table:
    """A table in columns: which of them is what, its titles say, and where they do not, what is in them."""
    if not rows:
        return {}
    titled = not any(_whole(cell) is not None for cell in rows[0])
    titles = [re.sub(r"[\s_.-]+", " ", cell).strip().casefold() if titled else "" for cell in rows[0]]
    body = [row for row in rows[1 if titled else 0 :] if any(cell.strip() for cell in row)]
    columns = [[row[n].strip() if n < len(row) else "" for row in body] for n in range(len(titles))]
    numbers = _chosen(titles, NUMBERS, [n for n, column in enumerate(columns) if _are_numbers(column)])
    worded = [n for n, column in enumerate(columns) if n != numbers and titles[n] not in SIDES and _are_names(column)]
    # The column that tells rows apart, not one of the kinds that they are of.
    most = max((len(set(columns[n])) for n in worded if not any(titles) or titles[n] in NAMES), default=0)
    names = _chosen(titles, NAMES, [n for n in worded if 10 * len(set(columns[n])) >= 9 * most])
    if body and (numbers is None or names is None):
        missing = "unique whole numbers" if numbers is None else "names"
        raise ValueError(f"no column of {missing} among: {', '.join(cell.strip() for cell in rows[0])[:200]}")
    if numbers is None or names is None:
        return {}
    words = columns[names]
    side = next((n for n, title in enumerate(titles) if title in SIDES), None)
    if side is not None and len({word.casefold() for word in words}) < len(words):
        words = [f"{word} {where}".strip() for word, where in zip(words, columns[side], strict=True)]
    colours = _colours(titles, columns)
    return {
        number: Meaning(_clean(word) or f"Label {number}", colour)
        for cell, word, colour in zip(columns[numbers], words, colours, strict=True)
        if (number := _whole(cell))
    }


def _chosen(titles: Sequence[str], known: Sequence[str], fitting: Sequence[int]) -> int | None:
    """Of the columns that fit by what is in them, the one with the surest title; without any, the only one."""
    for title in known:
        for column in fitting:
            if titles[column] == title:
                return column
    untitled = not any(titles)
    return fitting[0] if fitting and (untitled or len(fitting) == 1) else None


def _are_numbers(column: Sequence[str]) -> bool:
    found = [_whole(cell) for cell in column if cell]
    return bool(found) and None not in found and len(set(found)) == len(found)


def _are_names(column: Sequence[str]) -> bool:
    """Whether most of the cells hold words, not numbers."""
    filled = [cell for cell in column if cell]
    return bool(filled) and 2 * sum(bool(re.search(r"[^\W\d_]", cell)) for cell in filled) > len(column)


def _colours(titles: Sequence[str], columns: Sequence[Sequence[str]]) -> list[tuple[int, int, int] | None]:
    for shades in SHADES:
        if all(shade in titles for shade in shades):
            parts = zip(*(columns[titles.index(shade)] for shade in shades), strict=True)
            return [_colour(row) if all(row) else None for row in parts]
    single = next((n for title in COLOURS for n, own in enumerate(titles) if own == title), None)
    if single is None:
        return [None] * len(columns[0])
    return [_one_colour(cell) for cell in columns[single]]


def _one_colour(cell: str) -> tuple[int, int, int] | None:
    """A colour in one cell: "#a0b1c2", or three numbers; None for words."""
    if found := re.fullmatch(r"#?([0-9a-fA-F]{2})([0-9a-fA-F]{2})([0-9a-fA-F]{2})", cell):
        red, green, blue = (int(part, 16) for part in found.groups())
        return red, green, blue
    parts = re.findall(r"[\d.]+", cell)
    return _colour(parts[:3]) if len(parts) in (3, 4) else None


def _colour_table(lines: Sequence[str]) -> Table:
    """Number, name, and mostly red, green, blue and opacity, separated by blanks."""
    rows = [line.split("#")[0].split() for line in lines]
    rows = [row for row in rows if row]
    if not rows:
        return {}
    trailing = [next((n for n, word in enumerate(reversed(row)) if _whole(word) is None), len(row)) for row in rows]
    shades = 4 if min(trailing) >= 4 else 3 if min(trailing) >= 3 else 0
    table: Table = {}
    for row, count in zip(rows, trailing, strict=True):
        number = _whole(row[0])
        words = row[1 : len(row) - (shades or count)]
        if number is None or not words:
            raise ValueError(f"the line '{' '.join(row)[:40]}' has no number and name")
        if number != 0:
            ending = row[len(row) - shades :]
            table[number] = Meaning(" ".join(words), _colour(ending[:3]) if shades else None)
    if table and not _are_names([meaning.name for meaning in table.values()]):
        raise ValueError("its names are numbers")
    return table


def _colour(values: Iterable[str]) -> tuple[int, int, int]:
    """0 to 255; fractions up to 1 are taken as such."""
    words = list(values)
    parts = [float(value) for value in words]
    if max(parts) <= 1 and any("." in word for word in words):
        parts = [255 * part for part in parts]
    if not all(-0.5 <= part <= 255.5 for part in parts):
        raise ValueError("colours are numbers from 0 to 255")
    red, green, blue = (min(255, max(0, round(part))) for part in parts)
    return red, green, blue


def _whole(cell: str) -> int | None:
    """A whole number, also as spreadsheets write it (4.0); None for anything else."""
    found = re.fullmatch(r"\s*([+-]?\d{1,18})(?:\.0*)?\s*", cell)
    return int(found.group(1)) if found else None


def _clean(name: str) -> str:
    return " ".join(name.split())
