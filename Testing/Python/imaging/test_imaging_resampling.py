"""Resampling, checked against closed forms and against SimpleITK working from the saved transform alone."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import affine, blobs, oblique_grid, scene, smooth_field

from hyperreg.errors import InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import Grid, Volume

LINEAR = affine(12, (1, 0, 1), (6.0, -4.0, 5.0), (1.05, 0.95, 1.0))


def _moving() -> Volume:
    grid = oblique_grid((48, 44, 30), (1.2, 1.4, 2.0))
    return scene(grid, 50.0, "moving")


def _fixed_grid(moving: Volume) -> Grid:
    centre = np.linalg.inv(LINEAR) @ [*moving.grid.centre, 1]
    matrix = affine(-33, (2, 1, 0), (0, 0, 0), (1.7, -1.3, 2.4))
    matrix[:3, 3] = centre[:3] - matrix[:3, :3] @ [14.5, 15.5, 9.5]
    return Grid((30, 32, 20), matrix)


def test_values_come_from_where_the_transform_says():
    moving = _moving()
    grid = _fixed_grid(moving)
    transform = Transform((smooth_field(grid, 3.0), LINEAR))
    where = transform.apply(grid.points().reshape(-1, 3)).reshape(*grid.shape, 3)
    expected = 1000 * blobs(where, moving.grid.centre, 50.0)
    ijk = moving.grid.to_ijk(where)
    inside = ((ijk > 1) & (ijk < np.array(moving.shape) - 2)).all(axis=-1)
    assert inside.mean() > 0.4
    warped = resample(moving, grid, transform)
    assert warped.grid.matches(grid)
    # The narrowest blob (SD 3.5 mm, height 400) bends by 400 / 3.5^2 per mm^2: times the voxels' squares / 8, that is
    # 30.
    assert np.abs(warped.array - expected)[inside].max() < 30
    assert np.abs(resample(moving, grid, transform, "bspline").array - expected)[inside].max() < 2


@pytest.mark.parametrize("ending", [".h5", ".tfm", ".nii.gz", ".nii", ".nrrd", ".mha"])
def test_simpleitk_alone_makes_the_same_volume_from_the_saved_files(tmp_path, ending):
    moving = _moving()
    grid = _fixed_grid(moving)
    transform = Transform((smooth_field(grid, 3.0), LINEAR))
    warped = resample(moving, grid, transform, fill=0.0)
    write_volume(moving, tmp_path / "moving.nii.gz")
    write_volume(warped, tmp_path / "warped.nii.gz")
    write_transform(transform, tmp_path / f"transform{ending}", grid)

    reference = sitk.ReadImage(str(tmp_path / "warped.nii.gz"))
    if ending in (".h5", ".tfm"):
        loaded = sitk.ReadTransform(str(tmp_path / f"transform{ending}"))
    else:
        field = sitk.ReadImage(str(tmp_path / f"transform{ending}"), sitk.sitkVectorFloat64)
        loaded = sitk.DisplacementFieldTransform(field)
    alone = sitk.Resample(sitk.ReadImage(str(tmp_path / "moving.nii.gz")), reference, loaded, sitk.sitkLinear, 0.0)
    difference = np.abs(sitk.GetArrayFromImage(alone) - sitk.GetArrayFromImage(reference))
    assert sitk.GetArrayFromImage(reference).std() > 50
    # A float32 position on the very edge of the moving image may fall to either side of it: at most a voxel or two.
    assert np.count_nonzero(difference > 0.5) <= 3


def test_label_maps_keep_their_values_and_type():
    moving = _moving()
    labels = Volume(np.digitize(moving.array, (200, 400, 600)).astype(np.int16) * 40, moving.ijk_to_ras, "labels")
    warped = resample(labels, _fixed_grid(moving), Transform((LINEAR,)), "nearest")
    assert warped.array.dtype == np.int16
    assert set(np.unique(warped.array)) <= {0, 40, 80, 120}
    assert np.count_nonzero(warped.array) > 500


def test_default_fill_is_the_darkest_value():
    moving = Volume(np.full((8, 8, 8), 50, np.int16), np.eye(4), "ct")
    moving.array[4:] = -1000
    far = Grid((4, 4, 4), affine(0, (0, 0, 1), (500, 0, 0)))
    assert (resample(moving, far).array == -1000).all()
    assert (resample(moving, far, interpolation="nearest").array == 0).all()
    assert (resample(moving, far, fill=7).array == 7).all()


def test_going_coarser_is_low_passed():
    grid = Grid((64, 64, 64), np.eye(4))
    stripes = (1.0 * (np.indices(grid.shape)[0] % 2)).astype(np.float32)
    coarse = Grid((14, 14, 14), affine(0, (0, 0, 1), (4, 4, 4), (4, 4, 4)))
    aliased = resample(Volume(stripes, grid.ijk_to_ras), coarse).array
    smooth = resample_smoothed(Volume(stripes, grid.ijk_to_ras), coarse).array
    assert np.abs(aliased - 0.5).max() > 0.4
    assert np.abs(smooth - 0.5).max() < 0.01


def test_axes_that_do_not_become_coarser_stay_sharp():
    volume = scene(oblique_grid())
    np.testing.assert_array_equal(resample_smoothed(volume, volume.grid).array, resample(volume, volume.grid).array)
    # Along the second axis only: the stripes along the first must survive.
    stripes = np.broadcast_to(100 * np.sin(np.arange(40))[:, None, None], (40, 40, 20)).astype(np.float32)
    fine = Volume(np.ascontiguousarray(stripes), oblique_grid((40, 40, 20), (1, 1, 1)).ijk_to_ras)
    coarser = np.array(fine.ijk_to_ras)
    coarser[:3, 1] *= 3
    kept = resample_smoothed(fine, Grid((40, 13, 20), coarser)).array
    np.testing.assert_allclose(kept, fine.array[:, :13], atol=0.01)


def test_smoothing_looks_through_the_transform():
    volume = Volume(np.random.default_rng(0).normal(0, 1, (40, 40, 40)).astype(np.float32), np.eye(4))
    shrink = np.diag([4.0, 4.0, 4.0, 1.0])
    grid = Grid((10, 10, 10), np.eye(4))
    assert (
        resample_smoothed(volume, grid, Transform((shrink,))).array.std()
        < 0.3 * resample(volume, grid, Transform((shrink,))).array.std()
    )


@pytest.mark.parametrize("size", [0.3, 10.0])
def test_very_small_and_very_large_voxels(size):
    grid = oblique_grid((20, 18, 16), (size, size, size))
    volume = scene(grid)
    shifted = Transform((affine(0, (0, 0, 1), tuple(grid.ijk_to_ras[:3, 0] * 2)),))
    warped = resample(volume, grid, shifted)
    np.testing.assert_allclose(warped.array[:-2], volume.array[2:], atol=0.01)


def test_unknown_interpolation_is_refused():
    with pytest.raises(InputError, match="cubic"):
        resample(scene(oblique_grid()), oblique_grid(), interpolation="cubic")
