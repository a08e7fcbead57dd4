"""Landmarks of a pair: points of both images that are the same place of the anatomy. numpy only, so that it runs in
Slicer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (P, 3), RAS mm, of the fixed and of the moving image: row by row the same place of the anatomy."""

    fixed: npt.NDArray[np.float64]
    moving: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.fixed)

    def same_as(self, other: Landmarks | None) -> bool:
        """Whether the other ones are the same points in the same order."""
        return (
            other is not None and np.array_equal(self.fixed, other.fixed) and np.array_equal(self.moving, other.moving)
        )

    def distance(self, transform: Transform) -> float:
        """Mean distance, mm, between where `transform` (fixed RAS to moving RAS) leads and the moving points."""
        return float(np.linalg.norm(transform.apply(self.fixed) - self.moving, axis=1).mean())

    def beside(
        self, figures: Mapping[str, Any], forward: DisplacementField, linear: npt.NDArray[np.float64]
    ) -> dict[str, Any]:
        """The figures with the distances by x -> linear @ (x + forward(x)) and by `linear` alone, as
        `LiveSession.metrics` names them."""
        return {
            **figures,
            "landmarks_mm": self.distance(Transform((forward, linear))),
            "landmarks_mm_before": self.distance(Transform((linear,))),
        }


def pair_landmarks(fixed_points: npt.NDArray | None, moving_points: npt.NDArray | None) -> Landmarks | None:
    """The points as pairs; None if none were given.

    fixed_points, moving_points: (P, 3), RAS mm. Raises InputError for points of one image only, other shapes, different
    numbers, or no numbers at all.
    """
    if fixed_points is None and moving_points is None:
        return None
    if fixed_points is None or moving_points is None:
        missing = "fixed" if fixed_points is None else "moving"
        raise InputError(f"Landmarks of one image only: give those of the {missing} image, too, in the same order.")
    pair = [np.array(points, dtype=np.float64) for points in (fixed_points, moving_points)]
    for points in pair:
        if points.ndim != 2 or points.shape[1] != 3 or len(points) == 0:
            raise InputError(f"Landmarks must be points of three coordinates, (P, 3), not of shape {points.shape}.")
        if not np.isfinite(points).all():
            raise InputError("A landmark has a coordinate that is not a number.")
    if len(pair[0]) != len(pair[1]):
        raise InputError(
            f"{len(pair[0])} landmarks of the fixed image and {len(pair[1])} of the moving one: they have to belong "
            "together in pairs, in the same order."
        )
    return Landmarks(*pair)


def order_by_name(fixed: Sequence[str], moving: Sequence[str]) -> list[int] | None:
    """Where in `moving` each name of `fixed` stands; None if names tell nothing: other ones, one twice, or in order.

    Programs sort lists of points as they like; what both lists call alike is the same place.
    """
    if len(set(fixed)) < len(fixed) or set(fixed) != set(moving) or list(fixed) == list(moving):
        return None
    places = {name: place for place, name in enumerate(moving)}
    return [places[name] for name in fixed] if len(places) == len(moving) else None


def outside_warnings(landmarks: Landmarks, fixed: Grid, moving: Grid) -> list[str]:
    """In words for the user, how many of the points lie outside of their image; [] if none does."""
    found = []
    for what, points, grid in (("fixed", landmarks.fixed, fixed), ("moving", landmarks.moving, moving)):
        index = grid.to_ijk(points)
        outside = int(((index < -0.5) | (index > np.array(grid.shape) - 0.5)).any(axis=1).sum())
        if outside:
            found.append(
                f"{outside} of {len(points)} landmarks lie outside of the {what} image. Do they belong to it, and are "
                "their coordinates in the system that the file names (RAS or LPS)?"
            )
    return found
