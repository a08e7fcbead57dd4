"""Doubtful regions of an uncertainty map: at their place in mm, largest first, without the sheet along every border."""

from __future__ import annotations

import numpy as np
import pytest
from imaging_examples import oblique_grid

from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.doubt import doubtful_regions

GRIDS = {
    "oblique, flipped, anisotropic": oblique_grid((60, 50, 20), (1.0, 1.2, 3.0)),
    "8 mm slices": oblique_grid((70, 60, 8), (1.0, 1.0, 8.0)),
}


def ball(grid: Grid, centre: np.ndarray, radius: float) -> np.ndarray:
    return np.linalg.norm(grid.points() - (grid.centre + centre), axis=-1) < radius


@pytest.mark.parametrize("kind", GRIDS)
def test_regions_are_found_at_their_place_the_largest_first(kind: str) -> None:
    grid = GRIDS[kind]
    centres = [np.array((-8.0, 5.0, 3.0)), np.array((9.0, -6.0, -4.0))]
    array = np.zeros(grid.shape, np.float32)
    for centre, radius in zip(centres, (5.5, 8.0), strict=True):
        array[ball(grid, centre, radius)] = 0.6
    first, second = doubtful_regions(Volume(array, grid.ijk_to_ras))
    assert first.volume_ml > second.volume_ml
    for region, centre, radius in ((first, centres[1], 8.0), (second, centres[0], 5.5)):
        assert np.linalg.norm(region.point - (grid.centre + centre)) < radius
        assert region.volume_ml == pytest.approx(4 / 3 * np.pi * radius**3 / 1000, rel=0.35)
        assert 0.5 < region.mean < 0.601  # of the map, not of the blurred one


def test_the_sheet_along_a_border_is_no_region_of_its_own_beside_bulky_doubt() -> None:
    grid = oblique_grid((60, 60, 60), (1.0, 1.0, 1.0))
    distance = np.linalg.norm(grid.points() - grid.centre, axis=-1)
    array = np.where(np.abs(distance - 22) < 0.5, 0.5, 0).astype(np.float32)
    inside = np.array((3.0, -4.0, 5.0))
    array[ball(grid, inside, 6.0)] = 0.5
    (region,) = doubtful_regions(Volume(array, grid.ijk_to_ras))
    assert np.linalg.norm(region.point - (grid.centre + inside)) < 3


def test_widespread_doubt_is_broken_into_places_that_can_be_looked_at() -> None:
    """A model that doubts everywhere, and at two places most."""
    grid = oblique_grid((60, 60, 60), (2.0, 2.0, 2.0))
    centres = [np.array((20.0, 10.0, -5.0)), np.array((-25.0, -10.0, 5.0))]
    array = np.where(ball(grid, np.zeros(3), 50.0), 0.4, 0).astype(np.float32)
    for centre, radius in zip(centres, (12.0, 9.0), strict=True):
        array[ball(grid, centre, radius)] = 0.6
    regions = doubtful_regions(Volume(array, grid.ijk_to_ras))
    assert len(regions) == 2
    for region, centre in zip(regions, centres, strict=True):
        assert np.linalg.norm(region.point - (grid.centre + centre)) < 12


def test_where_nothing_is_doubtful_there_is_nothing_to_see() -> None:
    grid = GRIDS["oblique, flipped, anisotropic"]
    assert doubtful_regions(Volume(np.full(grid.shape, 0.01, np.float32), grid.ijk_to_ras)) == []
    speck = np.zeros(grid.shape, np.float32)
    speck[30, 25, 10] = 0.5
    assert doubtful_regions(Volume(speck, grid.ijk_to_ras)) == []


def test_a_region_at_the_rim_of_a_thin_image_is_found() -> None:
    grid = oblique_grid((30, 30, 4), (2.0, 2.0, 5.0))
    array = np.zeros(grid.shape, np.float32)
    array[:4, :4, :] = 0.8
    (region,) = doubtful_regions(Volume(array, grid.ijk_to_ras))
    assert array[tuple(np.rint(grid.to_ijk(region.point)).astype(int))] > 0
