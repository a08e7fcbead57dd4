"""Agreement of the images' fine detail, on oblique, anisotropic, flipped grids: the right mm are told from others."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_pair import grid

from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.detail import MOST_VOXELS, Detail, apart, detail_grid, field_on

FINE = grid((60, 50, 30), (1.0, 1.2, 2.0), (10, -20, 30))
COARSE = grid((22, 22, 22), (3.0, 3.0, 3.0), (10, -20, 30))
# RAS mm; well below the coarse voxel.
SHIFT = np.array((0.9, -1.3, 1.1))


def picture(place: Grid, shift: np.ndarray) -> Volume:
    """Smooth noise of about 9 mm, moved by `shift`, the same in mm whatever the grid."""
    random = np.random.default_rng(4)
    points = place.points() - shift
    value = np.zeros(place.shape)
    for _ in range(24):
        value += np.sin(points @ (random.normal(size=3) * 0.4) + random.uniform(0, 6))
    return Volume((value + 20).astype(np.float32), place.ijk_to_ras, "picture")


@pytest.fixture(scope="module")
def detail() -> Detail:
    inside = np.zeros(COARSE.shape, bool)
    inside[5:17, 5:17, 5:17] = True
    return Detail(picture(FINE, np.zeros(3)), picture(FINE, SHIFT), np.eye(4), COARSE, inside)


def constant(vector: np.ndarray, place: Grid = COARSE) -> DisplacementField:
    array = np.tile(vector.astype(np.float32)[:, None, None, None], (1, *place.shape))
    return DisplacementField(array, place.ijk_to_ras)


def test_the_finer_grid_covers_what_is_inside() -> None:
    inside = np.zeros(COARSE.shape, bool)
    inside[4:9, 6:16, 2:20] = True
    fine = detail_grid(COARSE, inside)
    assert fine.shape == (10, 20, 36)
    np.testing.assert_allclose(fine.spacing, 1.5)
    np.testing.assert_allclose(fine.centre, COARSE.to_ras((6, 10.5, 10.5)), atol=1e-9)


def test_a_large_grid_does_not_become_larger_still() -> None:
    large = Grid((300, 300, 300), np.eye(4))
    fine = detail_grid(large, np.ones(large.shape, bool))
    assert np.prod(fine.shape) == pytest.approx(MOST_VOXELS, rel=0.05)


def test_a_field_keeps_its_millimetres_on_another_grid() -> None:
    slopes = np.array([[0.02, 0.01, 0], [0, -0.03, 0.01], [0.02, 0, 0.01]])
    values = COARSE.points() @ slopes.T
    field = DisplacementField(np.moveaxis(values, -1, 0).astype(np.float32), COARSE.ijk_to_ras)
    other = grid((9, 8, 7), (1.1, 2.0, 0.7), (12, -19, 31))
    found = field_on(field, other, "cpu")[0].numpy()
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), other.points() @ slopes.T, atol=1e-4)


def test_the_true_displacement_agrees_best(detail: Detail) -> None:
    true = detail.agreement(constant(SHIFT))
    assert true > 0.9
    assert true > detail.agreement(constant(SHIFT * 0.5)) + 0.05
    assert true > detail.agreement(constant(-SHIFT)) + 0.2
    assert true > detail.agreement() + 0.1
    assert detail.agreement() == pytest.approx(detail.agreement(constant(np.zeros(3))), abs=1e-4)
    # The grid of the field does not matter, the displacement in mm does.
    assert detail.agreement(constant(SHIFT, FINE)) == pytest.approx(true, abs=0.02)


def test_the_linear_part_is_taken_into_account() -> None:
    linear = np.eye(4)
    linear[:3, 3] = SHIFT
    everything = np.ones(COARSE.shape, bool)
    found = Detail(picture(FINE, np.zeros(3)), picture(FINE, SHIFT), linear, COARSE, everything)
    inner = np.zeros(COARSE.shape, bool)
    inner[5:17, 5:17, 5:17] = True
    assert Detail(picture(FINE, np.zeros(3)), picture(FINE, SHIFT), linear, COARSE, inner).agreement() > 0.9
    # No foreground at all: the whole grid counts.
    nothing = Detail(picture(FINE, np.zeros(3)), picture(FINE, SHIFT), linear, COARSE, ~everything)
    assert nothing.agreement() == pytest.approx(found.agreement())


def test_what_agreed_from_the_start_hardly_counts() -> None:
    """A heart in a still chest: one corner has moved, and the field that follows it disturbs all the rest a little."""
    still, moved = (picture(FINE, shift).array for shift in (np.zeros(3), SHIFT * 2))
    points = FINE.points()
    corner = (points < COARSE.to_ras((10, 10, 10))).all(-1)
    moving = Volume(np.where(corner, moved, still), FINE.ijk_to_ras, "moving")
    detail = Detail(picture(FINE, np.zeros(3)), moving, np.eye(4), COARSE, np.ones(COARSE.shape, bool))
    inner = COARSE.points()
    inside = (inner < COARSE.to_ras((10, 10, 10))).all(-1)
    field = np.where(inside[..., None], SHIFT * 2, SHIFT * 0.3).astype(np.float32)
    follows = DisplacementField(np.moveaxis(field, -1, 0), COARSE.ijk_to_ras)
    assert detail.agreement(follows) > detail.agreement() + 0.1


def test_equal_images_are_nowhere_apart() -> None:
    image = torch.rand(1, 1, 17, 20, 24, generator=torch.Generator().manual_seed(0))
    same = apart(image, image)
    assert same.shape == image.shape
    assert float(same.max()) < 0.01
    other = torch.rand(1, 1, 17, 20, 24, generator=torch.Generator().manual_seed(1))
    assert float(apart(image, other).mean()) > 0.8


def test_what_agrees_by_chance_is_told_from_what_belongs_together(detail: Detail) -> None:
    inside = np.zeros(COARSE.shape, bool)
    inside[5:17, 5:17, 5:17] = True
    fixed, one = (
        picture(FINE, np.zeros(3)),
        DisplacementField(np.zeros((3, *COARSE.shape), np.float32), COARSE.ijk_to_ras),
    )
    noise = np.random.default_rng(5).normal(300, 60, FINE.shape).astype(np.float32)
    chance = Detail(fixed, Volume(noise, FINE.ijk_to_ras, "noise"), np.eye(4), COARSE, inside)
    assert 0.7 < chance.over_chance() < 1.3
    assert detail.over_chance() > 3
    # Also of a start that is a field: where it leads the images apart, chance is left.
    assert detail.over_chance(one) == pytest.approx(detail.over_chance(), rel=1e-3)
    assert detail.over_chance(constant(np.array([9.0, -7.0, 8.0]))) < 0.5 * detail.over_chance()
