"""Landmarks from files: point lists of 3D Slicer (.mrk.json, .fcsv), tables of ANTs and plain ones (.csv), as RAS mm.

The formats are described in Slicer's developer guide (Markups). Slicer's own files name their coordinate system, and
one that does not is refused rather than guessed at: left and right would be swapped. The tables of ANTs (columns x, y,
z, t: antsApplyTransformsToPoints) are LPS. A plain table is RAS, and `warnings` says so.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import PathLike
from hyperreg.imaging.plausibility import check_reach

READABLE = (".mrk.json", ".fcsv", ".csv")
# What turns the coordinates of a system to RAS. Slicer before 4.11 wrote numbers into .fcsv files.
TO_RAS = {"RAS": (1, 1, 1), "LPS": (-1, -1, 1), "0": (1, 1, 1), "1": (-1, -1, 1)}
# The columns of .fcsv files that do not name them.
FCSV_COLUMNS = "id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID"
# The columns of a .csv file with a header line: of Slicer's exported tables, of ANTs, or x, y, z in RAS.
COLUMNS = {("r", "a", "s"): "RAS", ("l", "p", "s"): "LPS", ("x", "y", "z", "t"): "LPS", ("x", "y", "z"): "RAS"}
# Slicer's exported tables give points without a place the coordinates 0, 0, 0, and one of these under "defined".
UNDEFINED = ("0", "false")


def read_points(
    path: PathLike, warnings: list[str] | None = None, names: list[str] | None = None
) -> npt.NDArray[np.float64]:
    """The points of a file in its own order: (P, 3), RAS mm.

    .mrk.json, .fcsv: Slicer's point lists. .csv: a point per line, x,y,z in RAS mm, without a header line or with one
    that names the columns x, y, z, or r, a, s, or l, p, s among others; x, y, z, t are those of ANTs, in LPS; points
    that a column "defined" calls 0 have no place yet.
    warnings: is told of a table that names no coordinate system. names: gets what the points are called, point by
    point, if the file says it of all of them.
    Raises FileError if the file is missing, damaged, without points, or does not name a known coordinate system, for
    points without a place, and for coordinates that lie implausibly far.
    """
    path = Path(path)
    kind = next((ending for ending in READABLE if path.name.lower().endswith(ending)), None)
    if kind is None:
        raise FileError(f"'{path.name}': unknown format of landmarks. HyperReg reads {', '.join(READABLE)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise FileError(f"'{path}' does not exist. Check the name and the folder.") from error
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    except UnicodeDecodeError as error:
        raise FileError(f"'{path}' is not a text file with landmarks.") from error
    reader = {".mrk.json": _of_json, ".fcsv": _of_fcsv, ".csv": _of_csv}[kind]
    system, rows, called = reader(path, text)
    if system not in TO_RAS:
        raise FileError(
            f"'{path}' does not say whether its coordinates are RAS or LPS (it says: {system or 'nothing'}). Save it "
            "again from a recent 3D Slicer."
        )
    if not rows:
        raise FileError(f"'{path}' holds no points.")
    points = np.array([_numbers(path, number, row) for number, row in enumerate(rows, 1)])
    try:
        check_reach(points, "Its points lie off")
    except InputError as error:
        raise FileError(f"'{path}': {error}") from error
    if kind == ".csv" and warnings is not None and not _names_system(text):
        warnings.append(
            f"'{path.name}' does not name its coordinate system: it was read as RAS mm. If it is LPS (as ANTs, ITK and "
            "elastix write points), name its columns l,p,s; if it is RAS, r,a,s."
        )
    if names is not None and len(called) == len(points) and all(called):
        names += called
    return points * TO_RAS[system]


def _numbers(path: Path, number: int, row: Any) -> list[float]:
    """Three coordinates of the point `number`, counted from 1."""
    try:
        found = [float(value) for value in row]
    except (TypeError, ValueError, OverflowError):
        found = []
    if len(found) != 3 or not np.isfinite(found).all():
        raise FileError(f"'{path}': point {number} has no three coordinates, but {row}.")
    return found


def _of_json(path: Path, text: str) -> tuple[str, list[Any], list[str]]:
    """Coordinate system, coordinates and names of the points."""
    try:
        markups = json.loads(text)["markups"]
        (markup,) = markups
        points = markup["controlPoints"]
        unset = [point for point in points if point.get("positionStatus", "defined") != "defined"]
        rows, called = [point["position"] for point in points], [str(point.get("label", "")) for point in points]
        units, system = markup.get("coordinateUnits", "mm"), str(markup.get("coordinateSystem", ""))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileError(
            f"'{path}' is not a point list of 3D Slicer: it is damaged, or holds several lists. Save one list again."
        ) from error
    if unset:
        raise _without_place(path, str(unset[0].get("label", "")))
    if units not in ("mm", ["mm", "mm", "mm"]):
        raise FileError(f"'{path}': its coordinates are not in mm. Save it again with mm.")
    return system, rows, called


def _without_place(path: Path, label: str) -> FileError:
    return FileError(f"'{path}': the point '{label}' has no position yet. Set it in Slicer, or delete it.")


def _of_fcsv(path: Path, text: str) -> tuple[str, list[Any], list[str]]:
    found = re.search(r"^#\s*CoordinateSystem\s*=\s*(\w+)", text, re.MULTILINE)
    titles = re.search(r"^#\s*columns\s*=\s*(.+?)\s*$", text, re.MULTILINE)
    columns = [title.strip().lower() for title in (titles.group(1) if titles else FCSV_COLUMNS).split(",")]
    if not {"x", "y", "z"} <= set(columns):
        raise FileError(f"'{path}': its columns are not x, y, z among others, but {', '.join(columns)[:200]}.")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    rows, called = _picked(_rows(path, lines), columns, ("x", "y", "z"))
    return found.group(1) if found else "", rows, called


def _picked(
    rows: Sequence[Sequence[str]], titles: Sequence[str], columns: Sequence[str]
) -> tuple[list[list[str]], list[str]]:
    """Of each row, what is in these columns, and in the one called label; "" where the row has none."""
    places = [titles.index(column) for column in columns]
    label = titles.index("label") if "label" in titles else len(titles)

    def cell(row: Sequence[str], place: int) -> str:
        return row[place].strip() if place < len(row) else ""

    return [[cell(row, place) for place in places] for row in rows], [cell(row, label) for row in rows]


def _rows(path: Path, lines: Sequence[str]) -> list[list[str]]:
    try:
        return [row for row in csv.reader(lines) if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise FileError(f"'{path}' is not a table of points ({error}).") from error


def _names_system(text: str) -> bool:
    """Whether a table's first line has columns that stand for one coordinate system."""
    names = {cell.strip().lower() for cell in text.strip().partition("\n")[0].split(",")}
    return any(names >= set(columns) for columns in COLUMNS if columns != ("x", "y", "z"))


def _of_csv(path: Path, text: str) -> tuple[str, list[Any], list[str]]:
    rows = _rows(path, text.splitlines())
    if not rows or _is_number(rows[0]):
        return "RAS", rows, []
    names = [cell.strip().lower() for cell in rows[0]]
    for columns, system in COLUMNS.items():
        if all(name in names for name in columns):
            found, called = _picked(rows[1:], names, columns[:3])
            if "defined" in names:
                for (defined,), label in zip(_picked(rows[1:], names, ("defined",))[0], called, strict=True):
                    if defined.lower() in UNDEFINED:
                        raise _without_place(path, label)
            return system, found, called
    raise FileError(
        f"'{path}': its first line names no columns r,a,s, l,p,s, x,y,z (RAS mm) or x,y,z,t (ANTs, LPS mm), but "
        f"{', '.join(names)[:200]}."
    )


def _is_number(row: Sequence[str]) -> bool:
    try:
        float(row[0])
    except ValueError:
        return False
    return True
