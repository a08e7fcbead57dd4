"""Landmarks from two point lists of the scene: what was placed, in mm, and whether it makes pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.errors import FileError
from hyperreg.mrml import geometry, linked
from hyperreg.registration.landmarks import order_by_name

NODE_TYPE = "vtkMRMLMarkupsFiducialNode"
# Of points that wait for their counterparts, so many are named.
MOST_NAMED = 5


@dataclass(frozen=True, eq=False)
class Chosen:
    """What two point lists hold. fixed, moving: (P, 3), RAS mm, in pairs; None if they make none.

    note: how many pairs there are, or what is missing, in words for the user; "" if no list was chosen.
    points: of every pair, the ids of its points in the fixed and the moving list, and its name.
    """

    fixed: npt.NDArray[np.float64] | None = None
    moving: npt.NDArray[np.float64] | None = None
    note: str = ""
    points: tuple[tuple[str, str, str], ...] = ()

    def rows(self, keys: Collection[str]) -> list[int]:
        """Which pairs the ids of the fixed list belong to."""
        return [row for row, (key, _moving_key, _name) in enumerate(self.points) if key in keys]


@dataclass(frozen=True)
class Row:
    """One pair. key, moving_key: ids of its points. before, now: distance, mm, by the linear alignment alone and as
    shown; None while nothing is shown. measured: whether it only measures."""

    key: str
    moving_key: str
    name: str
    before: float | None
    now: float | None
    measured: bool


def points_of(node: slicer.vtkMRMLMarkupsNode) -> npt.NDArray[np.float64]:
    """The points of a list that have been placed, in its order: (P, 3), RAS mm of the world.

    Of a list that follows the moving volume, where the points are on that volume itself, without the deformation.
    Raises InputError for a list under a nonlinear transform.
    """
    world = geometry.to_world(linked.original_parent(node), f"'{node.GetName()}'")
    found = []
    for index in placed(node):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPosition(index, place)
        found.append(place)
    local = np.array(found, dtype=np.float64).reshape(-1, 3)
    return local @ world[:3, :3].T + world[:3, 3]


def placed(node: slicer.vtkMRMLMarkupsNode) -> list[int]:
    """Which points of a list have a place; those that follow the mouse before a click have none."""
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    count = node.GetNumberOfControlPoints()
    return [index for index in range(count) if node.GetNthControlPointPositionStatus(index) == defined]


def names_of(node: slicer.vtkMRMLMarkupsNode) -> list[str]:
    """What the points of a list are called that have been placed, in its order."""
    return [node.GetNthControlPointLabel(index) for index in placed(node)]


def write(node: slicer.vtkMRMLMarkupsNode, path: Path) -> None:
    """Writes the points of a list that have been placed as a point list of Slicer (.mrk.json), where they are on their
    own volume, whatever that was moved by. Raises FileError."""
    plain = slicer.vtkMRMLMarkupsFiducialNode()
    for index, name in zip(placed(node), names_of(node), strict=True):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPosition(index, place)
        plain.AddControlPoint(place, name)
    storage = slicer.vtkMRMLMarkupsJsonStorageNode()
    storage.SetFileName(str(path))
    if not storage.WriteData(plain):
        raise FileError(f"The landmarks could not be written to '{path}'.")


def chosen(fixed: Any, moving: Any, growing: bool = False) -> Chosen:
    """What the lists of the fixed and the moving volume give; either may be None. Raises InputError.

    growing: pairs are being placed one after the other, so that points at the end of the longer list still wait for
    their counterparts. Otherwise lists of different lengths make no pairs: which points belong together is not known.
    """
    if fixed is None and moving is None:
        return Chosen()
    if fixed is None or moving is None:
        return Chosen(note=f"Choose the points of the {'fixed' if fixed is None else 'moving'} volume, too.")
    if fixed is moving:
        return Chosen(note="The same list was chosen twice: each volume needs points of its own.")
    here, there = points_of(fixed), points_of(moving)
    names, names_there = names_of(fixed), names_of(moving)
    waiting = ""
    count = min(len(here), len(there))
    if growing:
        if left := (names if len(here) > count else names_there)[count:]:
            other = "moving" if len(here) > count else "fixed"
            waiting = f"waiting for the place in the {other} volume: {', '.join(left[:MOST_NAMED])}"
            waiting += ", ..." if len(left) > MOST_NAMED else ""
        if count == 0:
            return Chosen(note=waiting.capitalize())
        here, there, names, names_there = here[:count], there[:count], names[:count], names_there[:count]
    elif len(here) != len(there) or count == 0:
        return Chosen(
            note=f"Points placed: {len(here)} on the fixed volume, {len(there)} on the moving one. Both lists need the "
            "same number, in the same order.",
        )
    keys = [[node.GetNthControlPointID(n) for n in placed(node)[:count]] for node in (fixed, moving)]
    note = f"{count} pairs of landmarks" if count > 1 else "1 pair of landmarks"
    if (order := order_by_name(names, names_there)) is not None:
        there, keys[1] = there[order], [keys[1][place] for place in order]
        note = f"{note}, paired by name: the lists differ in order"
    return Chosen(here, there, "; ".join(filter(None, (note, waiting))), tuple(zip(*keys, names, strict=True)))
