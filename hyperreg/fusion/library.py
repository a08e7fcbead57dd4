"""Atlases, images with label maps: in a folder, by `atlases.csv` or by their names; or a list of pairs of files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.fusion.records import AtlasFiles
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.intensity import check_image, normalise
from hyperreg.imaging.label_checks import check_on_image
from hyperreg.imaging.label_maps import read_structures, stem_of
from hyperreg.imaging.label_tables import FOLDER_TABLES, read_table
from hyperreg.imaging.lists import read_list
from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.segment_files import SEGMENTATION
from hyperreg.imaging.structures import LabelMap, Table, numbered_alike, structures_of
from hyperreg.imaging.volume import Volume

LIST = "atlases.csv"
LABELS = "_labels"
IMAGES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
# Of a file's name in messages.
NAME_SHOWN = 100
# How much of a label's colour lies over the image there.
TINT = 0.45


@dataclass(frozen=True, eq=False)
class Atlas:
    """One atlas in memory; its labels numbered as the library's table says."""

    name: str
    image: Volume
    labels: Volume


@dataclass(frozen=True)
class Library:
    """Atlases that belong together. table: of their labels. skipped: name -> why a pair of files was left out.

    folder: None for a list of pairs.
    """

    folder: Path | None
    atlases: tuple[AtlasFiles, ...]
    table: Table = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """For messages."""
        return "the list of atlases" if self.folder is None else f"'{self.folder}'"


def find_atlases(folder: Path) -> Library:
    """The atlases of a folder: those listed in `atlases.csv`, else every NAME_labels.* with its image.

    `atlases.csv` has the columns image and labels (paths from the folder), and if wanted name and lambda. Otherwise the
    image of NAME_labels.* is the one other image whose name begins with NAME (and goes on with no letter or digit).
    Nothing is read yet but tables. What does not fit is named in `skipped`. Raises FileError for a missing folder or an
    unusable list, InputError if no atlas is left.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise FileError(f"The atlas folder '{folder}' does not exist.")
    skipped: dict[str, str] = {}
    listed = folder / LIST
    atlases = _listed(listed, skipped) if listed.is_file() else _paired(folder, skipped)
    table: Table = {}
    for name in FOLDER_TABLES:
        if not table and (folder / name).is_file():
            table = read_table(folder / name)
    if not atlases:
        reasons = " ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(
            f"'{folder}' holds no atlas. An atlas is an image with a label map: NAME_labels.nii.gz beside NAME.nii.gz, "
            f"or pairs listed in {LIST} (columns image, labels). {reasons}".rstrip()
        )
    return Library(folder, tuple(atlases), table, skipped)


def images_in(folder: Path) -> list[Path]:
    """The images of a folder, by name: not its label maps, and not what lies in a folder below.

    Raises InputError if the folder does not exist, or holds none.
    """
    if not Path(folder).is_dir():
        raise InputError(f"The folder of images '{folder}' does not exist.")
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and extension(path) in IMAGES)
    images = [path for path in files if not stem_of(path).endswith(LABELS) and not path.name.startswith(".")]
    images = [path for path in images if not path.name.lower().endswith(SEGMENTATION)]
    if not images:
        raise InputError(f"'{folder}' holds no image.")
    return images


def given_atlases(pairs: Sequence[AtlasFiles], table: Table | None = None) -> Library:
    """The atlases of a list. table: what their labels mean, as far as their files do not say it.

    Pairs with a missing file or a name that stands above them are named in `skipped`. Raises InputError if none is
    left.
    """
    skipped: dict[str, str] = {}
    found: list[AtlasFiles] = []
    for pair in pairs:
        _add(pair, "the list", found, skipped)
    if not found:
        reasons = " ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise InputError(f"The list holds no atlas: pairs of an image and a label map are needed. {reasons}".rstrip())
    return Library(None, tuple(found), dict(table or {}), skipped)


def read_atlas(files: AtlasFiles, common: Table) -> tuple[Volume, LabelMap, list[str]]:
    """An atlas: its image, its label map as its own table has it, and what the user should know.

    common: the table of all; without one, a table in the folder may name the structures.
    Raises InputError or FileError that name the file.
    """
    warnings: list[str] = []
    image = check_image(read_volume(files.image), warnings)
    found = read_structures(files.labels, folder_table=not common)
    labels = found.flat
    if not labels.array.any():
        raise InputError(f"The label map '{files.labels.name}' is empty.")
    warnings += [*found.warnings, *check_on_image(labels, image)]
    own = Volume(labels.array, labels.ijk_to_ras, files.name)
    return image, LabelMap((own,), found.table), warnings


def read_atlases(library: Library) -> tuple[dict[str, Atlas], Table, dict[str, str], list[str]]:
    """Name -> atlas, of those that can be read; what their labels mean; name -> why, of those that cannot; warnings.

    Atlases that number their structures differently are numbered alike, by the library's table or by each other's.
    """
    images: dict[str, Volume] = {}
    maps: list[LabelMap] = []
    skipped, warnings = dict(library.skipped), []
    for files in library.atlases:
        try:
            image, labels, texts = read_atlas(files, library.table)
        except HyperRegError as error:
            skipped[files.name] = str(error)
            continue
        images[files.name] = image
        maps.append(labels)
        warnings += texts
    alike, table, texts = numbered_alike(maps, library.table, skipped)
    atlases = {labels.name: Atlas(labels.name, images[labels.name], labels.flat) for labels in alike}
    return atlases, table, skipped, [*warnings, *texts]


def thumbnail(atlas: Atlas, table: Table, size: int) -> npt.NDArray[np.uint8]:
    """The middle axial slice through the labels, in their colours: (size, size, 3), front up, patient's right left."""
    image, labels = atlas.image, atlas.labels
    inside = np.argwhere(labels.array != 0)
    centre = labels.grid.to_ras(inside.mean(axis=0) if len(inside) else (np.array(labels.shape) - 1) / 2)
    axes = closest_axes(image.ijk_to_ras)[0]
    extent = float(max(image.spacing[axis] * image.shape[axis] for axis in axes[:2]))
    steps = ((np.arange(size) + 0.5) / size - 0.5) * extent
    middle = image.grid.centre
    right, front = np.meshgrid(-steps, -steps)
    points = np.stack((middle[0] + right, middle[1] + front, np.full_like(right, centre[2])), axis=-1)
    grey = _nearest(normalise(image.array), image, points)
    shown = _nearest(labels.array, labels, points)
    picture = np.repeat(255 * grey[..., None], 3, axis=2)
    for structure in structures_of([int(label) for label in np.unique(shown) if label], table):
        here = shown == structure.label
        picture[here] = (1 - TINT) * picture[here] + TINT * np.array(structure.colour)
    return picture.astype(np.uint8)


def _nearest(array: npt.NDArray, volume: Volume, points: npt.NDArray[np.float64]) -> npt.NDArray:
    """Values at RAS points (..., 3), 0 outside."""
    ijk = np.rint(volume.grid.to_ijk(points)).astype(int)
    inside = ((ijk >= 0) & (ijk < np.array(volume.shape))).all(axis=-1)
    ijk[~inside] = 0
    return np.where(inside, array[tuple(np.moveaxis(ijk, -1, 0))], 0)


def _listed(path: Path, skipped: dict[str, str]) -> list[AtlasFiles]:
    columns, rows = read_list(path)
    if not rows or not {"image", "labels"} <= set(columns):
        raise FileError(f"'{path}' needs the columns 'image' and 'labels', and a row per atlas.")
    found: list[AtlasFiles] = []
    for _line, row in rows:
        image, labels = (path.parent / row[column] for column in ("image", "labels"))
        name = row.get("name") or stem_of(labels).removesuffix(LABELS)
        try:
            # Spreadsheets of some countries write 0,3.
            lam = float(row["lambda"].replace(",", ".")) if row.get("lambda") else None
        except ValueError:
            skipped[name] = f"its λ in {LIST} is no number ('{row['lambda']}')."
            continue
        _add(AtlasFiles(name, image, labels, lam), LIST, found, skipped)
    return found


def _add(pair: AtlasFiles, where: str, found: list[AtlasFiles], skipped: dict[str, str]) -> None:
    """Put a pair of a list to those found, or say why not. where: the list, for messages."""
    missing = [file.name[:NAME_SHOWN] for file in (pair.image, pair.labels) if not _is_file(file)]
    if missing:
        skipped[pair.name] = f"'{missing[0]}' does not exist."
    elif pair.lam is not None and not 0 <= pair.lam <= 1:
        skipped[pair.name] = f"its λ in {where} is not between 0 and 1."
    elif pair.name in {atlas.name for atlas in found}:
        skipped[f"{pair.name} (again)"] = "an atlas of this name stands above it."
    else:
        found.append(pair)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _paired(folder: Path, skipped: dict[str, str]) -> list[AtlasFiles]:
    images = sorted(path for path in folder.iterdir() if path.is_file() and _kind(path) in (*IMAGES, SEGMENTATION))
    maps = [path for path in images if stem_of(path).endswith(LABELS)]
    found: list[AtlasFiles] = []
    for labels in maps:
        name = stem_of(labels).removesuffix(LABELS)
        beside = [path for path in images if path not in maps and _kind(path) != SEGMENTATION and _belongs(path, name)]
        if len(beside) == 1 and name not in {atlas.name for atlas in found}:
            found.append(AtlasFiles(name, beside[0], labels))
        elif len(beside) == 1:
            skipped[labels.name] = f"there is another label map of '{name}'."
        elif not beside:
            skipped[name] = f"there is no image beside '{labels.name}' whose name begins with '{name}'."
        else:
            names = ", ".join(path.name for path in beside)
            skipped[name] = f"several images begin with '{name}' ({names}); list the right one in {LIST}."
    return found


def _belongs(path: Path, name: str) -> bool:
    rest = path.name[len(name) :]
    return path.name.startswith(name) and not rest[:1].isalnum()


def _kind(path: Path) -> str:
    return SEGMENTATION if path.name.lower().endswith(SEGMENTATION) else extension(path)
