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

# Landmarks nearer than this fraction of a voxel are at one place.
SAME_PLACE = 0.1
# Landmarks that are further apart than this many voxels in both images cannot change places: nearer ones may, by the
# error of placing them; they are brought as near as space allows without folding.
APART = 8.0


@dataclass(frozen=True, eq=False)
class Landmarks:
    """Points (P, 3), RAS mm, of the fixed and of the moving image: row by row the same place of the anatomy.

    pull: how much they pull at each other, 0 (they are only measured) to 1 (at the points, the images have no say).
    left_out: rows that never pull.
    """

    fixed: npt.NDArray[np.float64]
    moving: npt.NDArray[np.float64]
    pull: float = 0.0
    left_out: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.fixed)

    def same_as(self, other: Landmarks | None) -> bool:
        """Whether the other ones are the same points in the same order, and pull as much."""
        return (
            other is not None
            and (self.pull, self.left_out) == (other.pull, other.left_out)
            and np.array_equal(self.fixed, other.fixed)
            and np.array_equal(self.moving, other.moving)
        )

    @property
    def pulling(self) -> Landmarks | None:
        """Those that pull; None if none does."""
        rows = self._pulling_rows
        return Landmarks(self.fixed[rows], self.moving[rows], self.pull) if rows else None

    @property
    def _pulling_rows(self) -> list[int]:
        return [row for row in range(len(self)) if row not in self.left_out] if self.pull > 0 else []

    @property
    def measuring(self) -> Landmarks | None:
        """Those that only measure; None if none does."""
        rows = list(range(len(self))) if self.pull == 0 else sorted(self.left_out)
        return Landmarks(self.fixed[rows], self.moving[rows]) if rows else None

    def distance(self, transform: Transform) -> float:
        """Mean distance, mm, between where `transform` (fixed RAS to moving RAS) leads and the moving points."""
        return float(np.linalg.norm(transform.apply(self.fixed) - self.moving, axis=1).mean())

    def figures(self, transform: Transform) -> dict[str, float]:
        """Mean distances, mm, under `transform`: landmarks_mm of those that only measure, pulled_mm of those that pull.

        The two are kept apart, because points that pulled are no independent judges of the result.
        """
        parts = {"landmarks_mm": self.measuring, "pulled_mm": self.pulling}
        return {name: part.distance(transform) for name, part in parts.items() if part is not None}

    def beside(
        self,
        figures: Mapping[str, Any],
        forward: DisplacementField,
        linear: npt.NDArray[np.float64],
        start: Transform | None = None,
    ) -> dict[str, Any]:
        """The figures with those of the landmarks by x -> linear @ (x + forward(x)) and by the start, which is `linear`
        alone by default, as `LiveSession.metrics` names them."""
        before = {f"{name}_before": value for name, value in self.figures(start or Transform((linear,))).items()}
        return {**figures, **self.figures(Transform((forward, linear))), **before}


def pair_landmarks(
    fixed_points: npt.NDArray | None,
    moving_points: npt.NDArray | None,
    pull: float = 0.0,
    left_out: Sequence[int] = (),
) -> Landmarks | None:
    """The points as pairs; None if none were given.

    fixed_points, moving_points: (P, 3), RAS mm. pull, left_out: see `Landmarks`. Raises InputError for points of one
    image only, other shapes, different numbers, no numbers at all, a pull outside [0, 1], or rows that there are not.
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
    if not 0 <= pull <= 1:
        raise InputError(f"The pull of the landmarks must lie between 0 (only measured) and 1, not {pull}.")
    rows = tuple(sorted({int(row) for row in left_out}))
    if rows and not 0 <= rows[0] <= rows[-1] < len(pair[0]):
        raise InputError(f"A landmark that is left out is none of the {len(pair[0])} that there are.")
    return Landmarks(pair[0], pair[1], float(pull), rows)


def check_pull(landmarks: Landmarks, linear: npt.NDArray[np.float64], fixed: Grid, moving: Grid) -> None:
    """Raise InputError for landmarks that cannot pull: outside of their image, contradictory, or changing places.

    linear: (4, 4), the linear alignment, fixed RAS to moving RAS, mm. fixed, moving: the images' grids.
    """
    every = np.array(landmarks._pulling_rows, dtype=int)
    here, there = landmarks.fixed[every], landmarks.moving[every]
    for what, points, grid in (("fixed", here, fixed), ("moving", there, moving)):
        if (outside := lie_outside(points, grid)).any():
            raise InputError(
                f"Outside of the {what} image, where nothing can pull: landmark {_numbered(every[outside])}. Do the "
                "points belong to this image, and are their coordinates in the system that the file names (RAS or LPS)?"
            )
    there = Transform((np.asarray(np.linalg.inv(linear), dtype=np.float64),)).apply(there)
    offsets = [points[None] - points[:, None] for points in (here, there)]
    voxel = float(fixed.spacing.min())
    lengths = np.stack([np.linalg.norm(offset, axis=-1) for offset in offsets]) / voxel
    doubled = (lengths.min(axis=0) < SAME_PLACE) & (lengths.max(axis=0) > 1)
    if (found := np.argwhere(np.triu(doubled, 1))).size:
        raise InputError(
            f"Landmarks {_numbered(every[found[0]])} are one place in one image and two in the other: remove one."
        )
    turned = ((offsets[0] * offsets[1]).sum(axis=-1) < 0) & (lengths.min(axis=0) > APART)
    if (found := np.argwhere(np.triu(turned, 1))).size:
        raise InputError(
            f"Landmarks {_numbered(every[found[0]])} change places between the images: are left and right mixed up, or "
            "the points not in the same order? Space would have to fold."
        )


def _numbered(rows: npt.NDArray) -> str:
    """Rows as users count them, from 1; a few of many."""
    words = [str(int(row) + 1) for row in rows[:5]]
    return " and ".join(words) if len(rows) < 3 else ", ".join(words) + ("" if len(rows) <= 5 else ", …")


def lie_outside(points: npt.NDArray[np.float64], grid: Grid) -> npt.NDArray[np.bool_]:
    """Which of the points, (P, 3), RAS mm, lie on no voxel of a grid: (P,)."""
    index = grid.to_ijk(points)
    return np.asarray(((index < -0.5) | (index > np.array(grid.shape) - 0.5)).any(axis=1))


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
        if outside := int(lie_outside(points, grid).sum()):
            found.append(
                f"{outside} of {len(points)} landmarks lie outside of the {what} image. Do they belong to it, and are "
                "their coordinates in the system that the file names (RAS or LPS)?"
            )
    return found
