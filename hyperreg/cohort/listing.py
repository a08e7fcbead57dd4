"""Which pairs a cohort has: from a table, one image with many, or all with all."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hyperreg.errors import FileError, InputError
from hyperreg.fusion.library import find_atlases, images_in
from hyperreg.imaging.dicom import split_number
from hyperreg.imaging.label_maps import stem_of
from hyperreg.imaging.lists import read_list
from hyperreg.imaging.streams import same_file

NEEDED_COLUMNS = ("fixed", "moving")
COLUMNS = (*NEEDED_COLUMNS, "name", "fixed_labels", "moving_labels")
LONGEST_NAME = 150


@dataclass(frozen=True)
class Listed:
    """A pair as it was listed. problem: why it cannot be done, as far as files alone tell it, or ""."""

    name: str
    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    problem: str = ""


def from_table(path: Path) -> list[Listed]:
    """The pairs of a CSV with the columns of COLUMNS; paths count from its folder, a name is made if none is given.

    Raises FileError if it cannot be read, InputError for columns or cells that are missing, and for doubled names.
    """
    columns, rows = read_list(path)
    if missing := [column for column in NEEDED_COLUMNS if column not in columns]:
        raise InputError(
            f"'{path}' has no column '{missing[0]}'. Its first line has to be {','.join(COLUMNS)}; the last three may "
            "be left out."
        )
    if unknown := [column for column in columns if column not in COLUMNS]:
        raise InputError(f"'{path}' has a column '{unknown[0]}' that means nothing here; known: {', '.join(COLUMNS)}.")
    found = []
    for number, row in rows:
        cells = {column: row.get(column, "") for column in COLUMNS}
        if not cells["fixed"] or not cells["moving"]:
            raise InputError(f"Line {number} of '{path}' names no fixed or no moving image.")
        places = {column: path.parent / cells[column] for column in COLUMNS if cells[column] and column != "name"}
        name = _composed(cells["name"]) or _name_of(places["fixed"], places["moving"])
        found.append(_checked(name, **places))
    return with_usable_names(found)


def one_to_many(fixed: Path, folder: Path, fixed_labels: Path | None = None) -> list[Listed]:
    """A fixed image with every other image of a folder, called after that; label maps as `find_atlases` finds them.

    Raises InputError for a folder without images, and for doubled names.
    """
    labels = _labels_in(folder)
    found = [
        _checked(_composed(stem_of(moving)), fixed, moving, fixed_labels, labels.get(moving))
        for moving in images_in(folder)
        if not same_file(fixed, moving)
    ]
    return with_usable_names(found)


def all_to_all(folder: Path) -> list[Listed]:
    """Every image of a folder as fixed, with every other as moving. Raises InputError as `one_to_many`."""
    images, labels = images_in(folder), _labels_in(folder)
    if len(images) < 2:
        raise InputError(f"'{folder}' holds one image; all to all needs two.")
    found = [
        _checked(_name_of(fixed, moving), fixed, moving, labels.get(fixed), labels.get(moving))
        for fixed in images
        for moving in images
        if fixed != moving
    ]
    return with_usable_names(found)


def with_usable_names(pairs: Sequence[Listed]) -> list[Listed]:
    """The pairs; raises InputError if there is none, or names are doubled or cannot be names of folders."""
    if not pairs:
        raise InputError("There is no pair to register.")
    for pair in pairs:
        if not re.fullmatch(r"\w[\w .,+=@()~-]*", pair.name) or len(pair.name) > LONGEST_NAME:
            raise InputError(
                f"'{pair.name[:LONGEST_NAME]}' cannot be the name of a pair, because a folder is called after it: use "
                f"at most {LONGEST_NAME} letters, digits, spaces, and . , + = @ ( ) ~ -, beginning with a letter or "
                "a digit."
            )
    # Some disks do not tell a from A.
    counts = Counter(pair.name.casefold() for pair in pairs)
    if doubled := [pair.name for pair in pairs if counts[pair.name.casefold()] > 1]:
        raise InputError(
            f"Two pairs are called '{doubled[0]}': their results would replace each other. Give each row a name of "
            "its own (column name)."
        )
    return list(pairs)


def _checked(
    name: str, fixed: Path, moving: Path, fixed_labels: Path | None = None, moving_labels: Path | None = None
) -> Listed:
    problem = ""
    for path in (fixed, moving, fixed_labels, moving_labels):
        if path is not None and not os.path.exists(split_number(path)[0]):
            problem = problem or f"'{path}' does not exist. Check the name and the folder."
    if not problem and same_file(fixed, moving):
        problem = f"Fixed and moving are the same file, '{fixed}'."
    return Listed(name, fixed, moving, fixed_labels, moving_labels, problem)


def _name_of(fixed: Path, moving: Path) -> str:
    return _composed(f"{stem_of(moving)}_to_{stem_of(fixed)}")


def _composed(name: str) -> str:
    """A name as those of folders are checked and compared: macOS writes accents as letters of their own."""
    return unicodedata.normalize("NFC", name)


def _labels_in(folder: Path) -> Mapping[Path, Path]:
    """Image -> label map, of those that have one."""
    try:
        return {atlas.image: atlas.labels for atlas in find_atlases(folder).atlases}
    except (InputError, FileError):
        return {}
