"""Which file is which input, and which images are refused, in words that say what to do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from imaging_examples import oblique_grid
from monai.transforms import NormalizeIntensity, ScaleIntensityRange
from segmentation_bench import OBLIQUE, eggs, make_card, scene_centre

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.inputs import assign, check_inputs, scaled, show

FOUR = [
    {"name": "T1c", "title": "T1 with contrast", "patterns": ["t1ce", "t1gd", "t1post"]},
    {"name": "T1", "title": "T1", "patterns": ["t1n", "t1w"]},
    {"name": "T2", "title": "T2", "patterns": ["t2w"]},
    {"name": "FLAIR", "title": "T2 FLAIR", "patterns": ["t2f", "flair*"]},
]


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., SegmentationCard]:
    return lambda **entries: make_card(tmp_path_factory.mktemp("card"), **entries)


@pytest.fixture(scope="module")
def four(make: Callable[..., SegmentationCard]) -> SegmentationCard:
    return make(inputs=FOUR)


@pytest.fixture(scope="module")
def one(make: Callable[..., SegmentationCard]) -> SegmentationCard:
    return make()


def with_spacing_kept(make: Callable[..., SegmentationCard], **entries: object) -> SegmentationCard:
    grid = {"axes": "ras", "spacing_mm": [None, None, None], "window": [32, 32, 32]}
    return make(grid=grid, **entries)


def names(found: dict[str, Path]) -> dict[str, str]:
    return {name: path.name for name, path in found.items()}


@pytest.mark.parametrize(
    "files",
    [
        ["p_t1n.nii.gz", "p_t1ce.nii.gz", "p_t2w.nii.gz", "p_t2f.nii.gz"],
        ["p-FLAIR3D.nii.gz", "p-T2.nii.gz", "p-T1c.nii.gz", "p-T1.nii.gz"],
    ],
)
def test_files_are_recognised_by_name_in_any_order(four: SegmentationCard, files: list[str]) -> None:
    found = names(assign(files, four))
    assert list(found) == ["T1c", "T1", "T2", "FLAIR"]
    by_word = {"T1c": ("t1ce", "t1c"), "T1": ("t1n", "t1"), "T2": ("t2w", "t2"), "FLAIR": ("t2f", "flair3d")}
    for name, file in found.items():
        assert any(f"{word}." in file.lower() for word in by_word[name])


def test_a_name_can_be_given(four: SegmentationCard) -> None:
    found = names(assign(["T2=a.nii", "p_t1n.nii", "FLAIR=b.nii", "T1c=c.nii"], four))
    assert found == {"T1c": "c.nii", "T1": "p_t1n.nii", "T2": "a.nii", "FLAIR": "b.nii"}


def test_a_missing_channel_is_named(four: SegmentationCard) -> None:
    with pytest.raises(InputError, match=r"missing: T2\. Name a file as NAME=FILE"):
        assign(["p_t1n.nii", "p_t1ce.nii", "p_flair.nii"], four)
    with pytest.raises(InputError, match=r"4 images .*missing: T1c \(T1 with contrast\), T1, FLAIR \(T2 FLAIR\)"):
        assign(["T2=x.nii"], four)


def test_too_many_images_are_refused(four: SegmentationCard, one: SegmentationCard) -> None:
    with pytest.raises(InputError, match=r"takes 4 images.*5 were given"):
        assign(["t1.nii", "t1c.nii", "t2.nii", "flair.nii", "dwi.nii"], four)
    with pytest.raises(InputError, match=r"one image .*once for each"):
        assign(["a.nii", "b.nii"], one)


def test_names_that_tell_nothing_or_too_much_are_refused(four: SegmentationCard) -> None:
    with pytest.raises(InputError, match=r"does not tell.*'b\.nii'.*T1c=FILE"):
        assign(["p_t1.nii", "b.nii", "p_t2.nii", "p_flair.nii"], four)
    with pytest.raises(InputError, match="several ways"):
        assign(["t1_t2_a.nii", "t1_t2_b.nii", "t1c.nii", "flair.nii"], four)
    with pytest.raises(InputError, match="Two images were given as T2"):
        assign(["T2=a.nii", "T2=b.nii", "T1=c.nii", "T1c=d.nii"], four)


def test_words_count_whole(four: SegmentationCard) -> None:
    """ "t1" is in "t1ce", but that is another input."""
    assert names(assign(["x_t1ce.nii", "x_t1.nii", "x_t2.nii", "x_flair.nii"], four))["T1c"] == "x_t1ce.nii"


def test_one_image_needs_no_name(one: SegmentationCard) -> None:
    assert names(assign(["whatever.nii.gz"], one)) == {"image": "whatever.nii.gz"}


def label_map() -> Volume:
    image = eggs(OBLIQUE)
    return Volume(np.rint(image.array / 500).astype(np.uint8), image.ijk_to_ras, "labels")


def flat(slices: int) -> Volume:
    grid = Grid((30, 26, slices), OBLIQUE.ijk_to_ras)
    return Volume(np.random.default_rng(0).random(grid.shape), grid.ijk_to_ras, "flat")


def noisy(name: str = "image", scale: float = 1.0, shift: float = 0.0, seed: int = 0) -> Volume:
    image = eggs(OBLIQUE)
    noise = np.random.default_rng(seed).normal(0, 20, image.shape)
    return Volume((scale * (image.array + noise) + shift).astype(np.float32), image.ijk_to_ras, name)


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (label_map(), "looks like a label map"),
        (flat(1), "fewer than 4 slices"),
        (Volume(np.zeros((9, 9, 9)), np.eye(4), "void"), "empty"),
        (noisy(scale=2.0, shift=-1024.0), "looks like a CT"),
    ],
)
def test_what_is_no_mr_image_is_refused(one: SegmentationCard, volume: Volume, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check_inputs({"image": volume}, one, [])


def test_the_ringing_of_a_resampled_mr_image_is_no_ct(one: SegmentationCard) -> None:
    volume = Volume(20 * eggs(OBLIQUE).array, OBLIQUE.ijk_to_ras, "image")
    volume.array[3, 3, :4] = -1200
    assert check_inputs({"image": volume}, one, [])


def test_mr_given_to_a_ct_model_is_refused(make: Callable[..., SegmentationCard]) -> None:
    card = make(modality="CT", intensities={"method": "window", "window": [-200, 300]})
    with pytest.raises(InputError, match="no CT in Hounsfield units"):
        check_inputs({"image": noisy(shift=100.0)}, card, [])
    assert check_inputs({"image": noisy(scale=2.0, shift=-1024.0)}, card, [])


def slab(padding: float, air: float, tissue: float) -> Volume:
    """A CT: padding around a round field of view, air, and a body of soft tissue with some bone."""
    grid = oblique_grid((40, 40, 12), (2.0, 2.0, 4.0))
    along = np.arange(40) - 19.5
    distance = np.hypot(*np.meshgrid(along, along, indexing="ij"))[..., None] * np.ones(12)
    array = np.where(distance > 19, padding, np.where(distance > 14, air, np.where(distance < 3, tissue + 800, tissue)))
    noise = np.random.default_rng(0).normal(0, 15, grid.shape) * (distance <= 19)
    return Volume((array + noise).astype(np.int16), grid.ijk_to_ras, "slab")


def test_padding_of_a_ct_counts_for_nothing(make: Callable[..., SegmentationCard]) -> None:
    card = make(modality="CT", intensities={"method": "window", "window": [-200, 300]})
    for padding in (-1024, -2000, -3024):
        volume = slab(padding, -1000, 40)
        seen, _ = show(check_inputs({"image": volume}, card, []), card, None, [])
        assert seen.min() == 0
        assert float(np.median(seen[seen > 0.1])) == pytest.approx(240 / 500, abs=0.01)


@pytest.mark.parametrize(
    ("volume", "words"),
    [
        (slab(-2000, 0, 1064), "a CT in scanner units.*around 1000"),
        (slab(0, 24, 1064), "no CT in Hounsfield units.*subtract the offset"),
    ],
)
def test_a_ct_in_scanner_units_is_refused(make: Callable[..., SegmentationCard], volume: Volume, words: str) -> None:
    card = make(modality="CT", intensities={"method": "window", "window": [-200, 300]})
    with pytest.raises(InputError, match=words):
        check_inputs({"image": volume}, card, [])


def test_the_inside_of_a_body_is_a_ct_too(make: Callable[..., SegmentationCard]) -> None:
    card = make(modality="CT", intensities={"method": "window", "window": [-200, 300]})
    inner = slab(-110, -110, 40)  # fat around, no air: a crop
    assert check_inputs({"image": inner}, card, [])


def test_the_same_image_twice_is_refused(four: SegmentationCard) -> None:
    volumes = {entry.name: noisy(entry.name, seed=n) for n, entry in enumerate(four.inputs)}
    volumes["T2"] = Volume(volumes["T1c"].array.copy(), volumes["T1c"].ijk_to_ras, "copy")
    with pytest.raises(InputError, match=r"'T1c' \(T1c\) and 'copy' \(T2\) are the same image"):
        check_inputs(volumes, four, [])


def test_a_missing_volume_is_named(four: SegmentationCard) -> None:
    with pytest.raises(InputError, match=r"missing: FLAIR"):
        check_inputs({name: noisy(name) for name in ("T1", "T1c", "T2")}, four, [])


def test_damaged_voxels_are_told(one: SegmentationCard) -> None:
    volume = noisy()
    volume.array[3, 3, 3] = np.nan
    warnings: list[str] = []
    checked = check_inputs({"image": volume}, one, warnings)
    assert np.isfinite(checked["image"].array).all()
    assert "1 voxels" in warnings[0]


def test_images_on_other_grids_meet_in_mm(make: Callable[..., SegmentationCard]) -> None:
    """Two channels of one scene, the second on another oblique, coarser, flipped grid: they agree where both are."""
    card = with_spacing_kept(make, inputs=FOUR[:2])
    centre = scene_centre(OBLIQUE)
    affine = OBLIQUE.ijk_to_ras.copy()
    affine[:3, :3] = np.array([[0, -2.5, 0], [2.5, 0, 0], [0, 0, -2.5]])
    other = Grid((40, 40, 40), affine)
    affine = affine.copy()
    affine[:3, 3] += centre - other.centre
    other = Grid(other.shape, affine)
    images, frame = show({"T1c": eggs(OBLIQUE, centre), "T1": eggs(other, centre)}, card, None, [])
    assert images.shape == (1, 2, *frame.model.shape)
    assert not frame.is_resampled
    first, second = images[0].numpy()
    assert np.corrcoef(first.ravel(), second.ravel())[0, 1] > 0.95
    points = frame.model.points()
    for values in (first, second):
        mass = (values > 0.75).astype(float)
        found = (points * mass[..., None]).reshape(-1, 3).sum(0) / mass.sum()
        assert np.linalg.norm(found - centre - (2.0, 1.0, -1.0)) < 0.6


def test_the_result_is_wanted_on_the_grid_of_the_first_image(make: Callable[..., SegmentationCard]) -> None:
    card = with_spacing_kept(make, inputs=FOUR[:2])
    larger = Grid((40, 40, 40), OBLIQUE.ijk_to_ras)
    volumes = {"T1c": eggs(OBLIQUE), "T1": eggs(larger, scene_centre(OBLIQUE))}
    assert show(volumes, card, "T1", [])[1].image is not None
    assert show(volumes, card, "T1", [])[1].image.shape == (40, 40, 40)
    assert show(volumes, card, None, [])[1].image.shape == OBLIQUE.shape


def test_images_of_other_places_are_refused_and_partial_cover_is_told(
    make: Callable[..., SegmentationCard],
) -> None:
    card = with_spacing_kept(make, inputs=FOUR[:2])
    volumes = {"T1c": eggs(OBLIQUE), "T1": eggs(OBLIQUE, name="second")}
    far = OBLIQUE.ijk_to_ras.copy()
    far[0, 3] += 500
    with pytest.raises(InputError, match=r"'second' \(T1\).*do not overlap in space.*[Aa]lign"):
        show({**volumes, "T1": Volume(volumes["T1"].array, far, "second")}, card, None, [])
    near = OBLIQUE.ijk_to_ras.copy()
    near[:3, 3] += near[:3, 0] * 15
    warnings: list[str] = []
    show({**volumes, "T1": Volume(volumes["T1"].array, near, "second")}, card, None, warnings)
    assert "covers only" in warnings[0]


def test_grey_values_are_scaled_as_the_card_says(make: Callable[..., SegmentationCard]) -> None:
    values = np.zeros((8, 8, 8), np.float32)
    values[2:6, 2:6, 2:6] = np.arange(64).reshape(4, 4, 4) + 100
    nonzero = scaled(values, make(intensities={"method": "nonzero"}))
    inside = nonzero[values != 0]
    assert abs(inside.mean()) < 1e-5
    assert inside.std() == pytest.approx(1, abs=1e-5)
    assert (nonzero[values == 0] == 0).all()
    window = scaled(values, make(intensities={"method": "window", "window": [50, 150]}))
    assert window.min() == 0
    assert window.max() == 1
    assert window[2, 2, 2] == pytest.approx(0.5)
    # Against MONAI's own transforms, composed as Auto3DSeg's inference does.
    soft = scaled(values, make(intensities={"method": "soft_window", "window": [50, 150]}))
    ranged = ScaleIntensityRange(50, 150, -1, 1, clip=False)(torch.from_numpy(values))
    np.testing.assert_allclose(soft, torch.sigmoid(ranged).numpy(), atol=1e-6)
    bent = scaled(40 * values, make(intensities={"method": "nonzero_tanh"}))
    normal = NormalizeIntensity(nonzero=True)(torch.from_numpy(40 * values))
    np.testing.assert_allclose(bent, (3 * torch.tanh(normal / 3)).numpy(), atol=1e-5)
    robust = scaled(values, make())
    assert robust.min() == 0
    assert robust.max() == 1
