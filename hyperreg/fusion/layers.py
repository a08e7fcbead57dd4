"""Label maps whose structures overlap: structures that overlap in no map are fused together, the others apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.records import RaterMetrics, StructureVolumes
from hyperreg.fusion.stack import LabelStack, stack_labels
from hyperreg.imaging.label_grids import common_grid
from hyperreg.imaging.segment_files import write_layers, write_segmentation
from hyperreg.imaging.structures import LabelMap, Table, structures_of
from hyperreg.imaging.volume import Volume


@dataclass(frozen=True, eq=False)
class Layers:
    """The consensus in one or several layers, each of other structures; all on one grid, by the same raters."""

    parts: tuple[Consensus, ...]

    @property
    def labels(self) -> list[int]:
        """All labels that a rater has, ascending."""
        return sorted(int(label) for part in self.parts for label in part.stack.labels if label != 0)

    @property
    def method(self) -> str:
        return self.parts[0].method

    @property
    def warnings(self) -> list[str]:
        return list(dict.fromkeys(text for part in self.parts for text in part.warnings))

    @property
    def disputed_percent(self) -> float:
        """Voxels in which the raters differ in any layer, percent of all."""
        disputed = np.unique(np.concatenate([part.stack.disputed for part in self.parts]))
        return 100 * disputed.size / self.parts[0].codes.size

    @property
    def disagreement(self) -> Volume:
        """The share of raters that say something else than the consensus, in the layer where most do."""
        first = self.parts[0].disagreement
        array = np.maximum.reduce([part.disagreement.array for part in self.parts])
        return Volume(array, first.ijk_to_ras, first.name)

    def raters(self) -> list[RaterMetrics]:
        """The metrics of every rater; means of the layers', by the number of their labels."""
        tables = [part.raters() for part in self.parts]
        counts = np.array([len(part.stack.labels) - 1 for part in self.parts], dtype=float)
        return [rows[0] if len(rows) == 1 else _mean(rows, counts) for rows in zip(*tables, strict=True)]

    def structures(self) -> list[StructureVolumes]:
        return sorted((row for part in self.parts for row in part.structures()), key=lambda row: row.label)

    def write(self, table: Table, path: Path) -> None:
        """Write the consensus. Raises FileError; InputError for several layers in another format than .seg.nrrd."""
        structures = structures_of(self.labels, table)
        if len(self.parts) == 1:
            write_segmentation(self.parts[0].labels, structures, path)
        else:
            write_layers([part.labels for part in self.parts], structures, path)


def fuse_layers(maps: Sequence[LabelMap], table: Table, fuse: Callable[[LabelStack], Consensus]) -> Layers:
    """Fuse label maps that are numbered alike. fuse: the consensus of those structures that do not overlap.

    Raises InputError as `stack_labels` does.
    """
    groups = _groups(maps)
    grid = common_grid([layer for one in maps for layer in one.layers])
    return Layers(tuple(fuse(stack_labels([_only(one, group) for one in maps], grid, table)) for group in groups))


def _groups(maps: Sequence[LabelMap]) -> list[set[int] | None]:
    """Labels that overlap in no map, as few groups as a greedy search finds; None: all labels there are."""
    apart: dict[int, set[int]] = {}
    for one in maps:
        for first, second in combinations(one.layers, 2):
            both = (first.array != 0) & (second.array != 0)
            for pair in np.unique(np.stack([first.array[both], second.array[both]]), axis=1).T.tolist():
                apart.setdefault(pair[0], set()).add(pair[1])
                apart.setdefault(pair[1], set()).add(pair[0])
    if not apart:
        return [None]
    groups: list[set[int]] = []
    for label in sorted({label for one in maps for label in one.labels}):
        fitting = next((group for group in groups if not group & apart.get(label, set())), None)
        if fitting is None:
            groups.append({label})
        else:
            fitting.add(label)
    return list(groups)


def _only(one: LabelMap, group: set[int] | None) -> Volume:
    """The structures of a group, which do not overlap, as one label map."""
    if group is None:
        return one.flat
    array = np.zeros(one.grid.shape, dtype=np.result_type(*(layer.array.dtype for layer in one.layers)))
    for layer in one.layers:
        chosen = np.isin(layer.array, list(group))
        array[chosen] = layer.array[chosen]
    return Volume(array, one.layers[0].ijk_to_ras, one.name)


def _mean(rows: Sequence[RaterMetrics], counts: np.ndarray) -> RaterMetrics:
    table = np.array([[row.weight, row.sensitivity, row.specificity, row.dice] for row in rows])
    known = np.isfinite(table)
    weights = counts[:, None] * known
    with np.errstate(invalid="ignore", divide="ignore"):
        means = np.where(known, table, 0).T @ counts / weights.sum(axis=0)
    return RaterMetrics(rows[0].name, *(float(value) for value in means))
