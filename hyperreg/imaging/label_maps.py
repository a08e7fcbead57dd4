"""Label maps from files: with what their numbers mean, told from images, and compared with the image they belong to."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError
from hyperreg.imaging import dicom, files, nifti
from hyperreg.imaging.label_checks import check_is_label_map
from hyperreg.imaging.label_tables import ENDINGS, FOLDER_TABLES, MOST_BYTES, read_extension, read_table
from hyperreg.imaging.segment_files import SEGMENTATION, read_segments
from hyperreg.imaging.structures import LabelMap, Table, values_of
from hyperreg.imaging.volume import Volume

# A value other than 0 in more than this share of the outermost voxels, and nowhere a 0, may mean the background.
BORDER = 0.5
# A table under another name counts if it names every structure, and there are at least so many.
FEWEST_NAMED = 3
MOST_TABLES = 20


def read_structures(path: Path, *, folder_table: bool = True, confined: bool = False) -> LabelMap:
    """A label map and what its numbers mean: by its own header (.seg.nrrd, DICOM SEG), or by a table beside it.

    Tables are looked for under the name of the label map, then in its header (NIfTI), then (folder_table) under the
    usual names for a folder, then any one table in the folder that names every structure; see `label_tables`.
    A background that is not 0 becomes 0, with a warning. confined: see `files.read_volume`. Raises FileError or
    InputError as that does, and InputError for values that are not whole numbers, and for an image.
    """
    path = Path(path)
    try:
        found = read_segments(path, confined) or dicom.read_segmentation(path)
    except OSError as error:
        raise FileError(f"'{path}' cannot be opened: {error.strerror or error}.") from error
    if found is not None:
        return found
    volume = files.read_label_map(path, confined=confined)
    warnings = list(volume.warnings)
    array = _with_background(volume.array, volume.name, warnings)
    check_is_label_map(array, volume.name)
    labels = LabelMap((Volume(array, volume.ijk_to_ras, volume.name),))
    table, texts = _table_beside(path, labels.labels, folder_table)
    return replace(labels, table=table, warnings=(*warnings, *texts))


def _with_background(array: npt.NDArray[np.integer], name: str, warnings: list[str]) -> npt.NDArray[np.integer]:
    """The array with 0 for a background of another value (-1024 of a CT that was resampled with its fill value)."""
    values = values_of(array)
    if values[0] == 0:
        return array
    border = np.concatenate([np.take(array, end, axis=axis).ravel() for axis in range(array.ndim) for end in (0, -1)])
    found, counts = np.unique(border, return_counts=True)
    common = int(found[counts.argmax()])
    if counts.max() <= BORDER * border.size or common == 0:
        return array
    if common < 0:
        warnings.append(f"'{name}' has {common} where 0 means the background: it was taken as the background.")
        return np.where(array == common, 0, array)
    if 0 not in values and len(values) > 1:
        warnings.append(
            f"'{name}' has no voxel of 0, the background; {common}, which most of its outermost voxels have, counts as "
            "a structure. If it means the background, set it to 0."
        )
    return array


def _table_beside(path: Path, labels: list[int], folder_table: bool) -> tuple[Table, list[str]]:
    """The table of a label map, and what the user should know of where it came from."""
    stem = stem_of(path)
    for ending in ENDINGS:
        beside = path.with_name(stem + ending)
        if os.path.isfile(beside):  # False for a name that became too long
            try:
                return _fitting(read_table(beside), beside, path, labels)
            except FileError as error:
                return {}, [f"The names of the structures of '{path.name}' are not known: {error}"]
    try:
        if own := read_extension(nifti.read_extensions(path)):
            return _fitting(own, path, path, labels)
    except FileError as error:
        return {}, [f"The names of the structures of '{path.name}' are not known: {error}"]
    if not folder_table or not labels:
        return {}, []
    for name in FOLDER_TABLES:
        if path.with_name(name).is_file():
            return _fitting(read_table(path.with_name(name)), path.with_name(name), path, labels)
    return _only_table(path, labels)


def _fitting(table: Table, beside: Path, path: Path, labels: list[int]) -> tuple[Table, list[str]]:
    if labels and not set(labels) & set(table):
        return {}, [f"'{beside.name}' names none of the labels of '{path.name}': its names were not used."]
    return table, []


def _only_table(path: Path, labels: list[int]) -> tuple[Table, list[str]]:
    """The one table in the folder that names every label, under whatever name."""
    tables = {}
    beside = sorted(file for file in path.parent.iterdir() if file.suffix.lower() in ENDINGS and file.is_file())
    if len(labels) < FEWEST_NAMED or len(beside) > MOST_TABLES:
        return {}, []
    for file in beside:
        try:
            table = read_table(file) if file.stat().st_size <= MOST_BYTES else {}
        except (FileError, OSError):
            continue
        if set(labels) <= set(table):
            tables[file.name] = table
    if len(tables) == 1:
        name = next(iter(tables))
        return tables[name], [f"The names of the structures of '{path.name}' were taken from '{name}' beside it."]
    if tables:
        names = ", ".join(f"'{name}'" for name in tables)
        return {}, [f"Several tables could name the structures of '{path.name}' ({names}): call one labels.csv."]
    return {}, []


def stem_of(path: Path) -> str:
    """A file's name without its ending, .nii.gz and .seg.nrrd in one piece."""
    kind = SEGMENTATION if path.name.lower().endswith(SEGMENTATION) else files.extension(path)
    return path.name[: len(path.name) - len(kind)]
