"""Distances between surfaces."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperreg.segmentation.measures import hausdorff95

SPACING = (0.8, 1.5, 3.0)


def ball(centre: tuple[float, float, float], radius: float, shape: tuple[int, int, int] = (30, 20, 12)) -> np.ndarray:
    points = np.moveaxis(np.indices(shape), 0, -1) * SPACING
    return np.linalg.norm(points - np.array(centre), axis=-1) < radius


def by_hand(one: np.ndarray, two: np.ndarray) -> float:
    """All distances between all surface voxels, without any distance map."""
    surfaces = []
    for mask in (one, two):
        found = []
        for voxel in np.argwhere(mask):
            faces = [voxel + step * np.eye(3, dtype=int)[axis] for axis in range(3) for step in (-1, 1)]
            inside = [((face >= 0) & (face < mask.shape)).all() and mask[tuple(face)] for face in faces]
            if not all(inside):
                found.append(voxel * SPACING)
        surfaces.append(np.array(found))
    distances = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return max(np.percentile(distances.min(1), 95), np.percentile(distances.min(0), 95))


@pytest.mark.parametrize("other", [ball((12, 15, 18), 6), ball((9, 12, 12), 7.5), ball((22, 27, 30), 9)])
def test_the_distance_is_in_mm_on_an_anisotropic_grid(other: np.ndarray) -> None:
    one = ball((12, 15, 18), 9)
    assert hausdorff95(one, other, SPACING) == pytest.approx(by_hand(one, other), rel=1e-5)
    assert hausdorff95(other, one, SPACING) == hausdorff95(one, other, SPACING)


def test_equal_masks_have_no_distance_and_empty_ones_none_that_is_known() -> None:
    one = ball((12, 15, 18), 9)
    assert hausdorff95(one, one, SPACING) == pytest.approx(0, abs=1e-4)
    assert math.isnan(hausdorff95(one, np.zeros_like(one), SPACING))
