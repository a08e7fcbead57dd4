"""Numbers that no medical image has are refused in words; small and large bodies work and are told."""

from __future__ import annotations

import numpy as np
import pytest
from imaging_examples import affine, oblique_grid, scene

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.intensity import check_image, normalise
from hyperreg.imaging.plausibility import check_grid, check_reach, check_values
from hyperreg.imaging.volume import Grid, Volume


def _grid(spacing=(1.0, 1.0, 1.0), shift=(0.0, 0.0, 0.0), shape=(24, 20, 16)):
    return Grid(shape, affine(25, (1, 2, 3), shift, spacing))


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        (_grid((1e6, 1e6, 1e6)), "voxels of 1e\\+06"),
        (_grid((1e-7, 1e-7, 1e-7)), "voxels of 1e-07"),
        (_grid((0.001, 1, 1000)), "voxels of 0.001 x 1 x 1000"),
        (_grid((0.001, 1, 2)), "voxels of 0.001 x 1 x 2"),
        (_grid(shift=(0, 1e6, 0)), "1000 m from the origin"),
        (_grid((50, 50, 50), shape=(300, 3, 3)), "extent of 15 m"),
        (_grid((1, 1, 1e14)), "voxels"),
    ],
)
def test_impossible_grids_are_refused_by_images_and_by_reading(tmp_path, grid, words):
    with pytest.raises(InputError, match=f"'x'.*{words}.*header is damaged"):
        check_grid(grid, "x")
    volume = Volume(np.random.default_rng(0).random(grid.shape, dtype=np.float32), grid.ijk_to_ras, "x")
    with pytest.raises(InputError, match=words):
        check_image(volume)
    write_volume(volume, tmp_path / "x.nrrd")
    with pytest.raises(InputError, match=words):
        read_volume(tmp_path / "x.nrrd")


@pytest.mark.parametrize("number", [1e300, np.inf, np.nan])
def test_numbers_that_cannot_be_computed_with_are_refused(number):
    matrix = np.eye(4)
    matrix[1, 3] = number
    with pytest.raises(InputError, match="not a finite 4x4 matrix"):
        Grid((4, 4, 4), matrix)


@pytest.mark.parametrize("spacing", [(0.0004, 0.0004, 0.0004), (0.2, 0.2, 0.2), (0.5, 0.5, 60)])
def test_possible_grids_pass_and_small_ones_are_told(spacing):
    volume = scene(_grid(spacing), size=6 * max(spacing))
    warnings: list[str] = []
    check_image(volume, warnings)
    small = max(np.multiply(spacing, volume.shape)) < 20
    assert small == (len(warnings) == 1 and "very small" in warnings[0]), warnings


def test_a_building_is_told():
    warnings: list[str] = []
    check_image(scene(oblique_grid(shape=(60, 50, 40), spacing=(60, 60, 60))), warnings)
    assert len(warnings) == 1 and "very large" in warnings[0]


@pytest.mark.parametrize("value", [1e34, -3e38, 1e16])
def test_values_that_are_no_grey_values_are_refused(value):
    volume = scene(oblique_grid())
    array = volume.array.copy()
    array[3, 4, 5] = value
    with pytest.raises(InputError, match="no grey values"):
        check_image(Volume(array, volume.ijk_to_ras, "x"))


def test_values_without_range_are_refused():
    volume = scene(oblique_grid())
    with pytest.raises(InputError, match="Scale them up"):
        check_image(Volume(volume.array.astype(np.float64) * 1e-40, volume.ijk_to_ras, "x"))
    check_values(-1024, 3071, "x")
    check_values(0, 1e-20, "x")


@pytest.mark.parametrize("dtype", [np.int32, np.uint32, np.float64, np.int64])
def test_wide_numbers_keep_their_contrast(dtype):
    """A range of 1000 on top of 1e9: float32 has steps of 64 there."""
    small = scene(oblique_grid()).array.round()
    np.testing.assert_allclose(normalise((small.astype(np.float64) + 1e9).astype(dtype)), normalise(small), atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e16, -2e9])
def test_points_and_displacements_out_of_reach_are_refused(bad):
    check_reach(np.array([[3.0, -200.0, 40.0]]), "The points lie off")
    check_reach(np.empty((0, 3)), "The points lie off")
    with pytest.raises(InputError, match="The points lie off by up to"):
        check_reach(np.array([[3.0, bad, 40.0]]), "The points lie off")


def test_grids_are_compared_by_their_voxels():
    """Two voxels of 0.4 micrometre are another place; the rounding of a header is not, for large and small voxels."""
    fine = _grid((0.0004, 0.0004, 0.0004))
    moved = Grid(fine.shape, fine.ijk_to_ras + np.diag([0.0008, 0, 0, 0])[:, [1, 2, 3, 0]])
    assert not fine.matches(moved)
    for spacing in ((0.0004, 0.0004, 0.0004), (0.05, 0.05, 0.05), (1.0, 1.0, 5.0)):
        grid = _grid(spacing, shift=tuple(100 * s for s in spacing))
        assert grid.matches(Grid(grid.shape, grid.ijk_to_ras.astype(np.float32)))
