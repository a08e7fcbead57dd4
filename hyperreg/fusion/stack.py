"""Label maps of several raters on one grid, as small codes: what every method of fusion works on."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.label_checks import as_labels
from hyperreg.imaging.label_grids import common_grid, pasted
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.structures import COUNTED_RANGE, Meaning, values_of
from hyperreg.imaging.volume import Grid, Volume

Codes = npt.NDArray[np.unsignedinteger]

# A value of more than this many labels has no code of two bytes.
MOST_LABELS = 65535
# A map that overlaps with another by so much more (Dice) voxel by voxel than in its own place has lost its place.
LOST = 0.05
# Lists of raters in messages name at most so many.
NAMED = 8


@dataclass(frozen=True, eq=False)
class LabelStack:
    """Label maps of one image by several raters (readers, or atlases brought onto it).

    codes: (A, I, J, K) uint8 or uint16; the position of each voxel's label in `labels`.
    labels: (L,) int64, the label values; `labels[0]` is 0, the background, the others ascend (negative ones first).
    names: the raters', (A,). ijk_to_ras: (4, 4), mm.
    warnings: what was done to the maps to bring them together, for the user.
    """

    codes: Codes
    labels: npt.NDArray[np.int64]
    names: tuple[str, ...]
    ijk_to_ras: npt.NDArray[np.float64]
    warnings: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.codes.ndim != 4 or len(self.codes) != len(self.names):
            raise InputError(f"Labels are an array (A, I, J, K) with {len(self.names)} raters, not {self.codes.shape}.")

    @property
    def grid(self) -> Grid:
        i, j, k = self.codes.shape[1:]
        return Grid((i, j, k), self.ijk_to_ras)

    @property
    def voxel_ml(self) -> float:
        """The volume of a voxel, ml."""
        return float(self.grid.spacing.prod()) / 1000

    @property
    def flat(self) -> Codes:
        """The codes as (A, N), N voxels in the order of `ravel`; a view."""
        return self.codes.reshape(len(self.codes), -1)

    @cached_property
    def disputed(self) -> npt.NDArray[np.intp]:
        """(D,) positions in `flat` at which not all raters say the same: the only ones where fusing is work."""
        first = self.flat[0]
        differ = np.zeros(first.shape, dtype=bool)
        for other in self.flat[1:]:
            differ |= other != first
        return np.flatnonzero(differ)

    @cached_property
    def box(self) -> tuple[slice, slice, slice]:
        """The smallest box that holds every label of every rater; empty slices if there is no label at all."""
        anywhere = np.logical_or.reduce(self.codes > 0, axis=0)
        ends = [np.flatnonzero(anywhere.any(axis=tuple(n for n in range(3) if n != axis))) for axis in range(3)]
        i, j, k = (slice(int(e[0]), int(e[-1]) + 1) if e.size else slice(0, 0) for e in ends)
        return i, j, k

    @cached_property
    def counts(self) -> npt.NDArray[np.int64]:
        """(A, L) voxels of each label by each rater."""
        return np.stack([np.bincount(rater, minlength=len(self.labels)) for rater in self.flat])

    def code_of(self, label: int) -> int:
        """The code of a label value. Raises InputError if no rater has it."""
        found = np.flatnonzero(self.labels == label)
        if not found.size:
            raise InputError(f"No rater has the label {label}.")
        return int(found[0])

    def volume(self, codes: Codes, name: str) -> Volume:
        """Label values, (I, J, K) in the smallest usual type, of codes of that shape."""
        kinds = (np.uint8, np.int16, np.uint16, np.int32)
        low, high = int(self.labels.min()), int(self.labels.max())
        kind = next((k for k in kinds if np.iinfo(k).min <= low and high <= np.iinfo(k).max), np.int64)
        return Volume(self.labels.astype(kind)[codes], self.ijk_to_ras, name)

    def check_weights(self, weights: npt.ArrayLike | None) -> npt.NDArray[np.float32]:
        """Weights of the raters as (A, 1) or (A, D), D disputed voxels.

        weights: None (all equal), (A,), (A, I, J, K), or (A, D).
        Raises InputError for other shapes, negative or infinite values, or voxels at which all weights are zero.
        """
        raters = len(self.names)
        if weights is None:
            return np.ones((raters, 1), dtype=np.float32)
        array = np.asarray(weights, dtype=np.float32)
        if array.shape == self.codes.shape:
            array = array.reshape(raters, -1)[:, self.disputed]
        elif array.shape == (raters,):
            array = array[:, None]
        elif array.shape != (raters, self.disputed.size):
            raise InputError(
                f"There are {raters} label maps; their weights are one number each, or one for each voxel of the "
                f"shape {self.codes.shape}, not an array of the shape {array.shape}."
            )
        if not np.isfinite(array).all() or (array < 0).any():
            raise InputError("Weights of raters are finite numbers, zero or larger.")
        if array.size and not (array.sum(axis=0) > 0).all():
            raise InputError("The weights of all raters are zero; at least one has to count.")
        return array


def stack_labels(
    maps: Sequence[Volume], grid: Grid | None = None, table: Mapping[int, Meaning] | None = None
) -> LabelStack:
    """Label maps of one image as a `LabelStack`.

    maps: at least one; whole numbers of any type, 0 is background. Their names name the raters (made unique).
    grid: the grid of the result; by default `common_grid`. Maps on other grids are resampled to it by nearest
    neighbour, and `warnings` says so; it also names labels that only some raters have, and negative ones.
    table: what the labels mean, for messages.
    Raises InputError, naming the map, for one that holds other numbers, does not reach the grid, or has lost its place
    in space; and without maps.
    """
    if not maps:
        raise InputError("No label map was given.")
    grid = common_grid(maps) if grid is None else grid
    warnings: list[str] = []
    names = _unique([volume.name for volume in maps])
    arrays = [_on_grid(volume, name, grid, warnings) for volume, name in zip(maps, names, strict=True)]
    _check_places(maps, arrays, grid, names)
    present = [values_of(array) for array in arrays]
    values = np.unique(np.concatenate(present))
    if values.size > MOST_LABELS:
        raise InputError(f"The label maps hold {values.size} different values. Was an image given instead of labels?")
    labels = np.concatenate(([0], values[values != 0])).astype(np.int64)
    codes = np.empty((len(arrays), *grid.shape), dtype=np.uint8 if labels.size <= 255 else np.uint16)
    for target, array in zip(codes, arrays, strict=True):
        _encode(array, labels, target)
    warnings += [*_about_copies(codes, names), *_about_labels(labels[1:], present, names, table or {})]
    return LabelStack(codes, labels, names, grid.ijk_to_ras, warnings)


def _on_grid(volume: Volume, name: str, grid: Grid, warnings: list[str]) -> npt.NDArray[np.integer]:
    array = as_labels(volume)
    if volume.grid.matches(grid):
        return array
    if not array.any():  # programs save empty segmentations as one voxel, wherever
        return np.zeros(grid.shape, dtype=array.dtype)
    framed = pasted(Volume(array, volume.ijk_to_ras, name), grid)
    if framed.grid.matches(grid) and np.count_nonzero(framed.array) == np.count_nonzero(array):
        if np.prod(volume.shape) < np.prod(grid.shape):
            size = " x ".join(str(n) for n in volume.shape)
            warnings.append(
                f"'{name}' covers only a part of the image ({size} of {' x '.join(str(n) for n in grid.shape)} "
                "voxels); what lies outside of it counts as not labelled."
            )
        return framed.array
    moved = resample(Volume(array, volume.ijk_to_ras, name), grid, interpolation="nearest").array
    if not moved.any():
        raise InputError(
            f"The labels of '{name}' lie outside of the image that they are to be fused on. Are they of another "
            "patient, or not registered yet?"
        )
    kept = np.count_nonzero(moved) * grid.spacing.prod() / max(np.count_nonzero(array) * volume.spacing.prod(), 1e-9)
    warnings.append(
        f"'{name}' lies on another grid ({_describe(volume.grid)} instead of {_describe(grid)}): it was resampled by "
        f"nearest neighbour; its labelled volume is now {100 * kept:.1f} % of what it was."
    )
    return moved


def _check_places(
    maps: Sequence[Volume], arrays: Sequence[npt.NDArray[np.integer]], grid: Grid, names: Sequence[str]
) -> None:
    """Raise InputError for a map that agrees with the others voxel by voxel, but not where its header places it."""
    known = [n for n, volume in enumerate(maps) if volume.grid.matches(grid) and arrays[n].any()]
    for n, volume in enumerate(maps):
        if not known or volume.grid.matches(grid) or volume.shape != grid.shape or not volume.array.any():
            continue
        placed, own = (_overlap(array, arrays[known[0]]) for array in (arrays[n], volume.array))
        if own > placed + LOST:
            raise InputError(
                f"'{names[n]}' has as many voxels as '{names[known[0]]}' and agrees with it voxel by voxel, but its "
                "header says that it lies elsewhere: its place in space was lost when it was saved. Save it with the "
                "geometry of the image."
            )


def _overlap(first: npt.NDArray, second: npt.NDArray) -> float:
    """Dice overlap of what is labelled."""
    both = np.count_nonzero((first != 0) & (second != 0))
    return 2 * both / max(1, np.count_nonzero(first) + np.count_nonzero(second))


def _describe(grid: Grid) -> str:
    size = " x ".join(str(n) for n in grid.shape)
    return f"{size} voxels of {' x '.join(f'{s:.3g}' for s in grid.spacing)} mm"


def _encode(array: npt.NDArray[np.integer], labels: npt.NDArray[np.int64], target: Codes) -> None:
    """Write the position in `labels` of every voxel's value to `target`."""
    low, high = int(array.min()), int(array.max())
    order = np.argsort(labels, kind="stable")
    if high - low >= COUNTED_RANGE:
        target[...] = order[np.searchsorted(labels[order], array)]
        return
    table = np.zeros(high - low + 1, dtype=target.dtype)
    inside = np.flatnonzero((labels >= low) & (labels <= high))
    table[labels[inside] - low] = inside
    target[...] = table[array.astype(np.int64) - low]


def _about_copies(codes: Codes, names: Sequence[str]) -> list[str]:
    """A text that names label maps that are the same in every voxel: a copy is no second opinion."""
    groups: dict[int, list[str]] = {}
    for array, name in zip(codes, names, strict=True):
        if array.any():
            groups.setdefault(zlib.crc32(np.ascontiguousarray(array).data), []).append(name)
    same = [" = ".join(group[:NAMED]) for group in groups.values() if len(group) > 1]
    return (
        [f"Some label maps agree in every voxel, as copies do, and each of them counts: {listed(same)}."]
        if same
        else []
    )


def _about_labels(
    labels: npt.NDArray[np.int64],
    present: Sequence[npt.NDArray[np.int64]],
    names: Sequence[str],
    table: Mapping[int, Meaning],
) -> list[str]:
    """What the user should know about the labels that the raters have."""
    if not labels.size:
        return ["All label maps are empty: there is nothing to fuse, and the consensus is empty, too."]
    texts = []
    empty = [name for name, values in zip(names, present, strict=True) if not values.any()]
    if empty:
        texts.append(f"Without any label: {listed(empty)}. They count as votes for the background.")
    if (labels < 0).any():
        texts.append(
            f"Negative label values ({listed([str(n) for n in labels[labels < 0]])}) are labels like any other here. "
            "If they mean 'not labelled', set them to 0."
        )
    drawing = [(name, values) for name, values in zip(names, present, strict=True) if values.any()]
    if len(drawing) > 1:
        every = [set(values.tolist()) for _name, values in drawing]
        partial = sorted(set.union(*every) - set.intersection(*every) - {0})
        if partial:
            few = [label for label in partial if sum(label in values for values in every) * 2 <= len(every)]
            called = {n: f"{n} ({table[n].name})" if n in table else str(n) for n in partial}
            text = f"Labels that not every rater has: {listed([called[n] for n in partial])}."
            if few:
                which, them = ("label", "it") if len(few) == 1 else ("labels", "them")
                numbers = listed([called[n] for n in few])
                text += f" Half of them or fewer have {which} {numbers}: voting will hardly keep {them}."
            unnamed = any(n not in table for n in partial)
            texts.append(text + (" Do all maps use the same numbers for the same structures?" if unnamed else ""))
    return texts


def listed(words: Sequence[str]) -> str:
    """The first words of a list in a message, and how many more there are."""
    more = len(words) - NAMED
    return ", ".join(words[:NAMED]) + (f" and {more} more" if more > 0 else "")


def _unique(names: Sequence[str]) -> tuple[str, ...]:
    """The names, numbered where one comes twice."""
    found: list[str] = []
    for name in names:
        new, number = name, 2
        while new in found:
            new, number = f"{name} ({number})", number + 1
        found.append(new)
    return tuple(found)
