"""What counts as an image, what as content, and the common grey scale."""

from __future__ import annotations

import numpy as np
import pytest
from imaging_examples import oblique_grid, scene

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import (
    check_image,
    foreground,
    intensity_range,
    looks_like_labels,
    normalise,
    without_padding,
)
from hyperreg.imaging.volume import Volume

SHAPE = (40, 36, 32)
GRID = oblique_grid(SHAPE)


def _volume(array: np.ndarray) -> Volume:
    return Volume(array, GRID.ijk_to_ras, "scan")


def _body() -> np.ndarray:
    i, j, k = np.indices(SHAPE)
    return ((i - 20) / 14) ** 2 + ((j - 18) / 12) ** 2 + ((k - 16) / 11) ** 2 < 1


def _noise(mean: float, spread: float) -> np.ndarray:
    return np.random.default_rng(1).normal(mean, spread, SHAPE)


def test_a_good_image_passes_unchanged():
    volume = scene(GRID)
    warnings: list[str] = []
    assert check_image(volume, warnings) is volume
    assert warnings == []


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros(SHAPE, np.int16), "every voxel is 0"),
        (np.full(SHAPE, 7.5), "value 7.5"),
        (np.full(SHAPE, np.nan), "every voxel is NaN"),
        (np.full(SHAPE, np.inf), "NaN or infinite"),
        (np.eye(36)[None, :, :32].repeat(1, 0), "fewer than 4 slices"),
        (np.ones((40, 36, 3)), "fewer than 4 slices"),
        (np.zeros(SHAPE, complex), "one real number"),
        (np.digitize(scene(GRID).array, (100, 300, 500)).astype(np.uint8), "label map"),
        (_body().astype(np.float32), "label map"),
        (_body(), "label map"),
    ],
)
def test_unusable_images_are_refused(array, words):
    with pytest.raises(InputError, match=words):
        check_image(_volume(array))


def test_a_single_bright_voxel_is_no_content():
    array = np.zeros(SHAPE, np.float32)
    array[3, 4, 5] = 100
    with pytest.raises(InputError, match="nearly empty"):
        check_image(_volume(array))


def test_nan_and_infinity_are_replaced_and_reported():
    array = scene(GRID).array.copy()
    array[0, 0, :5], array[1, 1, 1], array[2, 2, 2] = np.nan, np.inf, -np.inf
    warnings: list[str] = []
    checked = check_image(_volume(array), warnings)
    assert np.isfinite(checked.array).all()
    finite = array[np.isfinite(array)]
    assert (checked.array[0, 0, 0], checked.array[1, 1, 1]) == (finite.min(), finite.max())
    assert checked.array[2, 2, 2] == finite.min()
    assert len(warnings) == 1 and "7 voxels" in warnings[0] and "'scan'" in warnings[0]


def test_whole_numbered_images_are_no_label_maps():
    ct = np.where(_body(), _noise(40, 20), -1000).astype(np.int16)
    coarse = np.where(_body(), _noise(6, 2), 0).clip(0, 12).astype(np.uint8)  # thirteen grey values, noisy
    for array in (ct, coarse, scene(GRID).array.astype(np.uint8)):
        assert not looks_like_labels(array)
        check_image(_volume(array))


def test_padding_and_outliers_do_not_set_the_scale():
    array = np.where(_body(), _noise(40, 30), _noise(-1000, 10))
    array[:4] = -3024
    array[20, 18, 16] = 30000
    low, high = intensity_range(array)
    assert -1050 < low < -970
    assert 80 < high < 200
    scaled = normalise(array)
    assert scaled.dtype == np.float32
    assert (scaled.min(), scaled.max()) == (0.0, 1.0)
    assert 0.85 < scaled[_body()].mean() < 0.95


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_the_scale_does_not_depend_on_units(scale):
    array = np.where(_body(), _noise(600, 100), 0)
    np.testing.assert_allclose(normalise(array * scale), normalise(array), atol=1e-4)


def test_a_small_object_in_a_large_background_keeps_its_contrast():
    array = np.zeros(SHAPE)
    array[10:14, 10:14, 10:14] = np.arange(64).reshape(4, 4, 4) + 100
    scaled = normalise(array)
    assert scaled[10:14, 10:14, 10:14].min() > 0.5
    assert scaled.max() == 1.0


@pytest.mark.parametrize("background", ["zero", "noise", "air"])
def test_foreground_is_the_body_without_holes(background):
    body = _body()
    hollow = body.copy()
    hollow[18:23, 16:21, 14:19] = False
    outside = {"zero": 0.0, "noise": np.abs(_noise(0, 8)), "air": _noise(-1000, 15)}[background]
    inside = _noise(300, 40) if background != "air" else _noise(40, 30)
    found = foreground(_volume(np.where(hollow, inside, outside)))
    dice = 2 * (found & body).sum() / (found.sum() + body.sum())
    assert dice > 0.98
    assert found[20, 18, 16]


def test_lungs_open_at_the_ends_belong_to_a_ct_foreground():
    i, j, _ = np.indices(SHAPE)
    body = ((i - 20) / 17) ** 2 + ((j - 18) / 15) ** 2 < 1
    lung = ((i - 20) / 10) ** 2 + ((j - 18) / 9) ** 2 < 1
    array = np.where(lung, _noise(-870, 30), np.where(body, _noise(40, 20), _noise(-1000, 10)))
    found = foreground(_volume(array))
    assert found[lung].mean() > 0.99
    assert found[~body].mean() < 0.05


def test_real_images_and_label_maps_are_told_apart(real_data):
    images = [
        "lung/3DCT_lung_baseline.mha",
        "spine/t2.nii.gz",
        "cardiac/SC-HF-I-01_ED_cine.nii.gz",
        "abdomen/ts_example_ct.nii.gz",
    ]
    labels = [
        "lung/3DCT_lung_baseline_mask.mha",
        "spine/t2_seg-manual_labeled.nii.gz",
        "abdomen/ts_example_ct_seg62.nii.gz",
    ]
    for name in images:
        check_image(read_volume(real_data / name))
    for name in labels:
        with pytest.raises(InputError, match="label map"):
            check_image(read_volume(real_data / name))


@pytest.mark.parametrize("padding", [-3024, -32768])
def test_padding_does_not_darken_what_lies_beside_it(padding):
    array = np.where(_body(), _noise(600, 100), padding).astype(np.int16)
    plain = np.where(_body(), array, 0)
    raised = without_padding(_volume(array))
    assert raised.array.dtype == np.int16
    np.testing.assert_array_equal(raised.array[_body()] >= np.percentile(array[_body()], 0.4), True)
    np.testing.assert_array_equal(raised.array[~_body()], raised.array.min())
    assert 200 < raised.array.min() < 450
    for same in (plain, np.where(_body(), _noise(40, 20), _noise(-1000, 15))):
        volume = _volume(same)
        assert without_padding(volume) is volume


@pytest.mark.parametrize(("offset", "kind"), [(1e9, np.float32), (1e9, np.int32), (2.0**40, np.float64)])
def test_values_that_numbers_of_32_bits_hardly_tell_apart_are_refused(offset, kind):
    with pytest.raises(InputError, match=r"grey values are lost\. Subtract"):
        check_image(_volume((scene(GRID).array.astype(np.float64) + offset).astype(kind)))
    check_image(_volume((scene(GRID).array + 1e5).astype(np.float64)))
