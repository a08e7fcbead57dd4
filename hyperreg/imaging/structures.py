"""What the numbers of label maps mean: names, colours and terminology, and one numbering for the same names.

Numbers mean nothing by themselves: two programs, and two readers in one program, number the same structures
differently. So label maps are compared by the names of their structures wherever these are known.
"""

from __future__ import annotations

import colorsys
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume

# Step of the hue between structures without a colour (the golden ratio's): neighbours in number look different.
HUE_STEP = 0.618033988749895
# Label values within so wide a range are counted in a table, which is much faster than sorting all voxels.
COUNTED_RANGE = 1 << 20
# Messages name at most so many structures.
NAMED = 8
# Slicer's list of categories and types, in which ours are; a list of regions is named, but none is given.
CONTEXT = "Segmentation category and type - 3D Slicer General Anatomy list"
REGIONS = "Anatomic codes - DICOM master list"


@dataclass(frozen=True)
class Code:
    """One coded concept, as DICOM writes it: scheme ("SCT" for SNOMED CT), value, meaning."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True)
class Terminology:
    """What a structure is: a category, a type in it, and for some types a side (modifier)."""

    category: Code
    type: Code
    modifier: Code | None = None


def terminology_entry(terminology: Terminology) -> str:
    """The text by which Slicer keeps a terminology entry: contexts and codes, separated by ~, parts of codes by ^."""
    codes = [terminology.category, terminology.type, terminology.modifier]
    return "~".join([CONTEXT, *(_code(code) for code in codes), REGIONS, _code(None), _code(None)])


def _code(code: Code | None) -> str:
    return "^^" if code is None else f"{code.scheme}^{code.value}^{code.meaning}"


@dataclass(frozen=True)
class Expected:
    """What a structure was like in the people that a model learned from; see `segmentation.plausibility`.

    ml: smallest and largest volume, 0 if it was missing in any of them. centre_mm: its centre of mass, RAS mm, in a
    frame that the card's structures share, and spread_mm, how far from it people's were (RMS). cut: whether it reached
    the border of the image in any of them.
    """

    ml: tuple[float, float]
    centre_mm: tuple[float, float, float]
    spread_mm: float
    cut: bool = False


@dataclass(frozen=True)
class Structure:
    """One structure: its value in label maps, the network's channel, its name and colour (0..255).

    expected: None where nothing is said about it.
    """

    label: int
    channel: int
    name: str
    colour: tuple[int, int, int]
    terminology: Terminology | None = None
    expected: Expected | None = None


@dataclass(frozen=True)
class Meaning:
    """What one number of a label map means, as far as its table says it. colour: 0..255."""

    name: str
    colour: tuple[int, int, int] | None = None
    terminology: Terminology | None = None

    @property
    def key(self) -> str:
        return key_of(self.name)


Table = dict[int, Meaning]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Structures drawn on one grid.

    layers: label maps of whole numbers, 0 is nothing; at least one. Structures that overlap lie in different layers; a
    number means the same in all of them, and no number is in two. table: what the numbers mean, as far as it is known.
    warnings: what the user should know of how it was read.
    """

    layers: tuple[Volume, ...]
    table: Table = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.layers[0].name

    @property
    def grid(self) -> Grid:
        return self.layers[0].grid

    @cached_property
    def labels(self) -> list[int]:
        """The numbers that have voxels, ascending, without 0."""
        return sorted({int(n) for layer in self.layers for n in values_of(layer.array)} - {0})

    @property
    def flat(self) -> Volume:
        """All structures as one label map. Raises InputError, naming two of them, if structures overlap."""
        if len(self.layers) == 1:
            return self.layers[0]
        kind = np.result_type(*(layer.array.dtype for layer in self.layers))
        array = np.zeros(self.grid.shape, dtype=kind)
        for layer in self.layers:
            inside = layer.array != 0
            both = inside & (array != 0)
            if both.any():
                place = tuple(np.argwhere(both)[0])
                names = [self.name_of(int(one[place])) for one in (array, layer.array)]
                raise InputError(
                    f"'{self.name}' holds segments that overlap ('{names[0]}' and '{names[1]}', in "
                    f"{np.count_nonzero(both)} voxels), stored in {len(self.layers)} layers; here every voxel has one "
                    "label. Remove the overlap, or save the segments in files of their own."
                )
            array[inside] = layer.array[inside]
        return Volume(array, self.layers[0].ijk_to_ras, self.name)

    def name_of(self, label: int) -> str:
        return name_of(label, self.table)


def key_of(name: str) -> str:
    """What is compared of a name: neither its case nor how its words are joined ("Left-Thalamus", "left thalamus").

    Nor how its accents are written: as parts of letters, or behind them (macOS).
    """
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().casefold()


def name_of(label: int, table: Mapping[int, Meaning]) -> str:
    """What a label is called, by the table, else by its number: with a minus, since a hyphen would only join words."""
    return table[label].name if label in table else f"Label {label}".replace("-", "\N{MINUS SIGN}")


def unique_names(table: Mapping[int, Meaning]) -> Table:
    """The table with its number behind every name that it has twice: these structures are not the same one."""
    times = Counter(meaning.key for meaning in table.values())
    return {
        label: meaning if times[meaning.key] == 1 else replace(meaning, name=f"{meaning.name} ({label})")
        for label, meaning in table.items()
    }


def structures_of(labels: Iterable[int], table: Mapping[int, Meaning]) -> list[Structure]:
    """The labels as structures for files and tables, with made-up names and colours where the table has none."""
    found = []
    for channel, label in enumerate(labels):
        meaning = table.get(label, Meaning(name_of(label, table)))
        shade = colorsys.hsv_to_rgb((label * HUE_STEP) % 1, 0.65, 0.95)
        colour = meaning.colour or (int(255 * shade[0]), int(255 * shade[1]), int(255 * shade[2]))
        found.append(Structure(int(label), channel, meaning.name, colour, meaning.terminology))
    return found


def numbered_alike(
    maps: Sequence[LabelMap], common: Mapping[int, Meaning] | None = None, skipped: dict[str, str] | None = None
) -> tuple[list[LabelMap], Table, list[str]]:
    """The maps with one number per name, what the numbers mean, and what was changed, in words.

    common: meanings that stand above those of the maps (the table of a folder of atlases); these numbers are kept. A
    name that is not among them gets the number of the map that agrees most with the others, else the one that most
    maps give it, else a new one: the order of the maps decides nothing. A number whose own map has no name for it means
    what `common` says, else what all other maps with a name for it say, else a structure without a name.
    Where other maps disagree about what such a number means, an InputError that names the map is raised; with
    `skipped`, the map is left out, and its name and the reason are put there.
    """
    common = common or {}
    own: list[tuple[LabelMap, dict[int, Meaning], list[int]]] = []
    for index, one in enumerate(maps):
        try:
            own.append((one, *_meanings(one, index, maps, common)))
        except InputError as error:
            if skipped is None:
                raise
            skipped[one.name] = str(error)
    numbers = _numbers([named for _one, named, _guessed in own], common)
    table: Table = dict(common)
    changed, texts = [], []
    for one, named, guessed in own:
        changes = {label: numbers[meaning.key] for label, meaning in named.items() if numbers[meaning.key] != label}
        for label, meaning in named.items():
            number = numbers[meaning.key]
            known = table.get(number)
            if known is None and (label in one.table or number != label):
                table[number] = meaning
            elif known is not None and known.colour is None:
                table[number] = replace(known, colour=meaning.colour)
        changed.append(_renumbered(one, changes))
        if changes:
            texts.append(
                f"'{one.name}' numbers its structures differently; they were matched by name: "
                f"{_some(f'{old} → {new} ({named[old].name})' for old, new in changes.items())}."
            )
        if guessed and one.table:
            texts.append(
                f"'{one.name}' has no name for some of its labels; they were taken for what the others say: "
                f"{_some(f'{label} = {named[label].name}' for label in guessed)}."
            )
        elif guessed:
            texts.append(
                f"'{one.name}' names none of its structures; its numbers were taken to mean what the others say: "
                f"{_some(f'{label} = {named[label].name}' for label in guessed)}."
            )
    for one, _named, _guessed in own:  # rows of structures that no voxel shows
        for label, meaning in one.table.items():
            if label not in table and meaning.key not in numbers:
                table[label] = meaning
    return changed, table, texts


def compared(fixed: LabelMap, moving: LabelMap) -> tuple[LabelMap, LabelMap, Table, list[str]]:
    """The label maps of two images, numbered alike, what their numbers mean, and what was changed, in words.

    Raises InputError if they have no structure in common: neither a name, nor, where one has no names, a number.
    """
    (one, other), table, texts = numbered_alike([fixed, moving])
    if not set(one.labels) & set(other.labels):
        held = [", ".join(labels.name_of(label) for label in labels.labels[:NAMED]) for labels in (one, other)]
        raise InputError(
            f"The label maps have no structure in common: '{fixed.name}' holds {held[0]}; '{moving.name}' holds "
            f"{held[1]}. Give label maps of the same structures under the same numbers or names."
        )
    alone = [
        f"only '{mine.name}' has {_some(name_of(label, table) for label in mine.labels if label not in theirs.labels)}"
        for mine, theirs in ((one, other), (other, one))
        if set(mine.labels) - set(theirs.labels)
    ]
    if alone:
        texts.append(f"Of some structures no overlap can be measured: {'; '.join(alone)}.")
    return one, other, table, texts


def _meanings(
    one: LabelMap, index: int, maps: Sequence[LabelMap], common: Mapping[int, Meaning]
) -> tuple[dict[int, Meaning], list[int]]:
    """Of every label of a map what it means, and those of them that it was told by other maps."""
    found = {label: one.table[label] for label in one.labels if label in one.table}
    taken = {meaning.key for meaning in found.values()}
    guessed = []
    for label in one.labels:
        if label in found:
            continue
        named = [common[label]] if label in common else []
        named = named or [o.table[label] for n, o in enumerate(maps) if n != index and label in o.table]
        named = [meaning for meaning in named if meaning.key not in taken]
        if len({meaning.key for meaning in named}) > 1:
            raise InputError(
                f"'{one.name}' does not say what its label {label} means, and the other label maps disagree: "
                f"{_some(sorted({meaning.name for meaning in named}))}. Give it a table of names (label, name) beside "
                "the file, or save it with names (.seg.nrrd)."
            )
        if named and label not in common:
            guessed.append(label)
        found[label] = named[0] if named else Meaning(name_of(label, {}))
        taken.add(found[label].key)
    return found, guessed


def _numbers(own: Sequence[Mapping[int, Meaning]], common: Mapping[int, Meaning]) -> dict[str, int]:
    """The number of every name, by its key."""
    numbers: dict[str, int] = {}
    for label, meaning in common.items():
        numbers.setdefault(meaning.key, label)
    votes: dict[str, Counter[int]] = {}
    for named in own:
        for label, meaning in named.items():
            votes.setdefault(meaning.key, Counter())[label] += 1
    free = max([0, *common, *(label for named in own for label in named)]) + 1
    taken = set(common)

    # Whose numbers agree most with all others', never who comes first; then by how often a number is wanted.
    def agreement(named: Mapping[int, Meaning]) -> tuple[int, list[tuple[int, str]]]:
        rows = sorted((label, meaning.key) for label, meaning in named.items())
        return -sum(votes[key][label] for label, key in rows), rows

    most = min(own, key=agreement, default={})
    wanted = [(-count, label, key) for key, counter in votes.items() for label, count in counter.items()]
    for label, key in [*agreement(most)[1], *((label, key) for _count, label, key in sorted(wanted))]:
        if key not in numbers and label not in taken:
            numbers[key] = label
            taken.add(label)
    for key in sorted(set(votes) - set(numbers)):
        numbers[key], free = free, free + 1
    return numbers


def _renumbered(one: LabelMap, changes: Mapping[int, int]) -> LabelMap:
    if not changes:
        return one
    table = {changes.get(label, label): meaning for label, meaning in one.table.items() if label in one.labels}
    return replace(one, layers=tuple(_with_labels(layer, changes) for layer in one.layers), table=table)


def _with_labels(volume: Volume, changes: Mapping[int, int]) -> Volume:
    """The label map with other numbers; those that are not among the changes stay."""
    values = values_of(volume.array)
    fresh = np.array([changes.get(int(value), int(value)) for value in values], dtype=np.int64)
    return Volume(fresh[places_in(values, volume.array)], volume.ijk_to_ras, volume.name)


def values_of(array: npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
    """The different values of an array, ascending."""
    low, high = int(array.min()), int(array.max())
    if high - low >= COUNTED_RANGE:
        return np.unique(array).astype(np.int64)
    return np.flatnonzero(np.bincount(array.ravel().astype(np.int64) - low)) + low


def places_in(values: npt.NDArray[np.int64], array: npt.NDArray[np.integer]) -> npt.NDArray[np.intp]:
    """Where in `values`, which ascend and hold them all, the values of an array stand: an array of its shape."""
    low, high = int(values[0]), int(values[-1])
    if high - low >= COUNTED_RANGE:
        return np.searchsorted(values, array)
    table = np.zeros(high - low + 1, dtype=np.intp)
    table[values - low] = np.arange(len(values))
    return table[array.astype(np.int64) - low]


def _some(words: Iterable[str]) -> str:
    """The first words of a list in a message, and how many more there are."""
    found = list(words)
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    return ", ".join(found[:NAMED]) + more
