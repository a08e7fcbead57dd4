"""Landmarks from two point lists of the scene: what was placed, in mm, and whether it makes pairs."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import slicer

from hyperreg.mrml import geometry, linked
from hyperreg.registration.landmarks import order_by_name

NODE_TYPE = "vtkMRMLMarkupsFiducialNode"


@dataclass(frozen=True, eq=False)
class Chosen:
    """What two point lists hold. fixed, moving: (P, 3), RAS mm, in pairs; None if they make none.

    note: how many pairs there are, or what is missing, in words for the user; "" if no list was chosen.
    points: id and name of every point of the fixed list, in the pairs' order.
    """

    fixed: npt.NDArray[np.float64] | None = None
    moving: npt.NDArray[np.float64] | None = None
    note: str = ""
    points: tuple[tuple[str, str], ...] = ()

    def rows(self, keys: Collection[str]) -> list[int]:
        """Which pairs the ids belong to."""
        return [row for row, (key, _name) in enumerate(self.points) if key in keys]


@dataclass(frozen=True)
class Row:
    """One pair. key: see `Chosen.points`. before, now: distance, mm, by the linear alignment alone and as shown; None
    while nothing is shown. measured: whether it only measures."""

    key: str
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
    for index in _placed(node):
        place = [0.0, 0.0, 0.0]
        node.GetNthControlPointPosition(index, place)
        found.append(place)
    local = np.array(found, dtype=np.float64).reshape(-1, 3)
    return local @ world[:3, :3].T + world[:3, 3]


def _placed(node: slicer.vtkMRMLMarkupsNode) -> list[int]:
    defined = slicer.vtkMRMLMarkupsNode.PositionDefined
    count = node.GetNumberOfControlPoints()
    return [index for index in range(count) if node.GetNthControlPointPositionStatus(index) == defined]


def names_of(node: slicer.vtkMRMLMarkupsNode) -> list[str]:
    """What the points of a list are called that have been placed, in its order."""
    return [node.GetNthControlPointLabel(index) for index in _placed(node)]


def chosen(fixed: Any, moving: Any) -> Chosen:
    """What the lists of the fixed and the moving volume give; either may be None. Raises InputError."""
    if fixed is None and moving is None:
        return Chosen()
    if fixed is None or moving is None:
        return Chosen(note=f"Choose the points of the {'fixed' if fixed is None else 'moving'} volume, too.")
    if fixed is moving:
        return Chosen(note="The same list was chosen twice: each volume needs points of its own.")
    here, there = points_of(fixed), points_of(moving)
    order = order_by_name(names_of(fixed), names_of(moving))
    if len(here) != len(there) or len(here) == 0:
        return Chosen(
            note=f"Points placed: {len(here)} on the fixed volume, {len(there)} on the moving one. Both lists need the "
            "same number, in the same order.",
        )
    points = tuple(zip((fixed.GetNthControlPointID(n) for n in _placed(fixed)), names_of(fixed), strict=True))
    note = f"{len(here)} pairs of landmarks" if len(here) > 1 else "1 pair of landmarks"
    if order is not None:
        there, note = there[order], f"{note}, paired by name: the lists differ in order"
    return Chosen(here, there, note, points)
