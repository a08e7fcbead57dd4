"""What a model sees of an image, and what comes back: in mm, on grids of every kind."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from imaging_examples import oblique_grid, scene
from segmentation_bench import make_card

from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.frame import Frame, make_frame, overlap


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    return make_card(tmp_path_factory.mktemp("card"))


def with_grid(card: SegmentationCard, axes: str = "ras", spacing: tuple = (2.0, 2.0, 2.0)) -> SegmentationCard:
    return dataclasses.replace(card, axes=axes, spacing_mm=spacing)


def every_orientation() -> list[Grid]:
    """The 48 ways to order and flip the axes of a slanted grid."""
    base = oblique_grid((12, 10, 9))
    grids = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            affine = base.ijk_to_ras.copy()
            affine[:3, :3] = base.ijk_to_ras[:3, list(order)] * signs
            i, j, k = (base.shape[n] for n in order)
            grids.append(Grid((i, j, k), affine))
    return grids


def with_border(grid: Grid) -> Volume:
    """Random values, every voxel different, so that no mix-up of axes goes unnoticed."""
    return Volume(np.random.default_rng(2).random(grid.shape, dtype=np.float32) + 1, grid.ijk_to_ras)


def test_turning_and_turning_back_is_exact_for_every_orientation(card: SegmentationCard) -> None:
    kept = with_grid(card, spacing=(None, None, None))
    for grid in every_orientation():
        volume = with_border(grid)
        frame = make_frame(volume, kept)
        assert not frame.is_resampled
        shown = frame.shown(volume)
        assert closest_axes(frame.part.ijk_to_ras) == ((0, 1, 2), (1, 1, 1))
        back = frame.to_image(frame.to_part(shown), "back")
        assert np.array_equal(back.array, volume.array)
        assert np.array_equal(back.ijk_to_ras, grid.ijk_to_ras)
        # The same voxel lies at the same place in mm: the shown array belongs to the frame's grid.
        ijk = np.array(np.unravel_index(shown.argmax(), shown.shape))
        there = np.array(np.unravel_index(volume.array.argmax(), volume.shape))
        np.testing.assert_allclose(frame.part.to_ras(ijk), grid.to_ras(there), atol=1e-9)


def test_voxels_that_the_model_knows_are_not_touched(card: SegmentationCard) -> None:
    volume = scene(oblique_grid(spacing=(2.0, 2.0, 2.03)))
    frame = make_frame(volume, card)
    assert frame.model is frame.part
    assert set(np.unique(frame.shown(volume))) <= set(np.unique(volume.array))


@pytest.mark.parametrize("grid", [oblique_grid(), oblique_grid((90, 70, 12), (0.5, 0.6, 4.0))])
def test_what_the_model_sees_is_the_scene_at_its_place_in_mm(card: SegmentationCard, grid: Grid) -> None:
    size = float((grid.spacing * grid.shape).min())
    frame = make_frame(scene(grid, size), card)
    assert frame.is_resampled
    np.testing.assert_allclose(frame.model.spacing, 2.0)
    shown = frame.shown(scene(grid, size)).astype(float)
    weights = shown.ravel() / shown.sum()
    centre = (frame.model.points().reshape(-1, 3) * weights[:, None]).sum(0)
    original = scene(grid, size).array.astype(float)
    expected = (grid.points().reshape(-1, 3) * (original.ravel() / original.sum())[:, None]).sum(0)
    assert np.linalg.norm(centre - expected) < 0.15


@pytest.mark.parametrize("grid", every_orientation()[::7])
def test_a_linear_function_of_space_survives_the_way_back(card: SegmentationCard, grid: Grid) -> None:
    """Values on the model's grid that are x + 2 y - z in mm are that on the image's grid too."""
    volume = with_border(grid)
    frame = make_frame(volume, with_grid(card, spacing=(1.0, 0.9, 1.3)))
    direction = np.array([1.0, 2.0, -1.0])
    values = (frame.model.points() @ direction).astype(np.float32)
    back = frame.to_image(frame.to_part(values), "back")
    error = np.abs(back.array - grid.points() @ direction)
    assert error.max() < 1.5  # at the rim linear interpolation has only one neighbour, half a voxel away
    assert error[2:-2, 2:-2, 2:-2].max() < 1e-3


def test_the_model_s_grid_reaches_as_far_as_the_image(card: SegmentationCard) -> None:
    volume = with_border(oblique_grid((13, 11, 7), (1.1, 2.3, 5.7)))
    frame = make_frame(volume, card)
    index = frame.model.to_ijk(volume.grid.corners)
    assert index.min() > -0.5 - 1e-6
    assert (index.max(axis=0) < np.array(frame.model.shape) - 0.5 + 1e-6).all()


def test_a_constant_border_is_left_out_and_comes_back(card: SegmentationCard) -> None:
    grid = oblique_grid((60, 50, 40), (2.0, 2.0, 2.0))
    array = np.zeros(grid.shape, np.float32)
    array[30:34, 20:24, 10:14] = 5
    frame = make_frame(Volume(array, grid.ijk_to_ras), card)
    assert frame.part.shape == (14, 14, 14)  # 10 mm on each side
    back = frame.to_image(np.ones(frame.part.shape, np.uint8), "back")
    inside = np.zeros(grid.shape, bool)
    inside[25:39, 15:29, 5:19] = True
    assert np.array_equal(back.array == 1, inside)


def test_thick_slices_go_last_whatever_the_orientation(card: SegmentationCard) -> None:
    for grid in every_orientation():  # spacing 1.5, 2, 3 in some order
        frame = make_frame(with_border(grid), with_grid(card, "slices_last", (None, None, None)))
        assert frame.part.spacing[2] == pytest.approx(3.0)
        back = frame.to_image(frame.shown(with_border(grid)), "back")
        assert np.array_equal(back.array, with_border(grid).array)


def test_the_slices_own_thickness_can_be_kept(card: SegmentationCard) -> None:
    grid = oblique_grid((40, 12, 40), (0.9, 5.0, 0.9))
    frame = make_frame(with_border(grid), with_grid(card, "slices_last", (1.5, 1.5, None)))
    np.testing.assert_allclose(frame.model.spacing, (1.5, 1.5, 5.0))
    assert frame.model.shape == (24, 24, 12)


def test_overlap_is_the_covered_share(card: SegmentationCard) -> None:
    grid = Grid((40, 40, 40), np.diag([2.0, 2.0, 2.0, 1.0]))
    frame: Frame = make_frame(with_border(grid), card)
    shifted = grid.ijk_to_ras.copy()
    assert overlap(frame, grid) == 1
    shifted[0, 3] = 40
    assert 0.4 < overlap(frame, Grid(grid.shape, shifted)) < 0.6
    shifted[0, 3] = 100
    assert overlap(frame, Grid(grid.shape, shifted)) == 0
