"""Synthetic pairs: what is drawn, known fields, appearances, any device."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hyperreg.errors import InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.registration import losses
from hyperreg.registration.field import sample
from hyperreg.training.appearance import Appearance, cropped, draw_contrast, render, thick_slices
from hyperreg.training.deformation import positions, random_deformation, rotation
from hyperreg.training.draws import Draws
from hyperreg.training.label_maps import (
    BRAIN_STRUCTURES,
    LabelMap,
    affine_between,
    brain_from_file,
    halves,
    random_shapes,
)
from hyperreg.training.synthesis import PairSynthesiser, Stage, fractions


@pytest.fixture
def synthesiser() -> PairSynthesiser:
    generator = torch.Generator().manual_seed(3)
    shapes = random_shapes(generator, size=48, spacing=3.0, count=5)
    stages = [Stage(100, (16, 24, 16), (1.5, 2.0)), Stage(200, (16, 16, 24), (1.5, 2.0))]
    return PairSynthesiser([shapes], stages)


def test_a_pair_holds_two_different_images_and_fractions_of_structures(synthesiser: PairSynthesiser) -> None:
    pair = synthesiser[5]
    assert pair.images.shape == (1, 2, 16, 24, 16)
    assert float(pair.images.min()) >= 0 and float(pair.images.max()) <= 1 and not pair.images.isnan().any()
    assert float((pair.images[:, 0] - pair.images[:, 1]).abs().mean()) > 0.01
    for structures in (pair.fixed_structures, pair.moving_structures):
        assert structures.shape == (1, 5, 16, 24, 16)
        assert float(structures.sum(1).max()) <= 1 + 1e-5
        assert bool(((structures > 0) & (structures < 1)).any()), "no partial volume"


def test_a_pair_depends_on_its_number_and_the_seed_alone(synthesiser: PairSynthesiser) -> None:
    first = synthesiser[7].images
    assert not torch.equal(synthesiser[8].images, first)
    assert torch.equal(synthesiser[7].images, first)
    synthesiser.seed = 1
    assert not torch.equal(synthesiser[7].images, first)


def test_pairs_follow_their_stage_and_the_last_one_goes_on(synthesiser: PairSynthesiser) -> None:
    shapes = [tuple(synthesiser[number].images.shape[2:]) for number in (99, 100, 1000)]
    assert shapes == [(16, 24, 16), (16, 16, 24), (16, 16, 24)]


def test_the_true_field_carries_the_moving_structures_onto_the_fixed_ones(synthesiser: PairSynthesiser) -> None:
    totals = torch.zeros(3)
    for number in range(4):
        pair = synthesiser[number]
        assert pair.displacement is not None
        assert 0.5 < float(pair.displacement.abs().max()) < 10
        for index, factor in enumerate((0.0, 1.0, -1.0)):
            moved = sample(pair.moving_structures, factor * pair.displacement, padding="border")
            totals[index] += losses.dice_loss(pair.fixed_structures, moved)
    nothing, truth, opposite = totals.tolist()
    assert truth < 0.8 * nothing < 0.8 * opposite


def test_a_deformation_and_its_inverse_bring_points_back_in_mm() -> None:
    generator = torch.Generator().manual_seed(0)
    deformation = random_deformation((24, 28, 20), 3.0, torch.tensor([0.1, -0.2, 0.3]), True, generator)
    start = positions((24, 28, 20), 3.0)
    inner = (slice(None), slice(5, -5), slice(5, -5), slice(5, -5))
    back = deformation.back(deformation.points(1)).view(3, 24, 28, 20)
    error = (back - start)[inner].norm(dim=0)
    assert float(error.mean()) < 0.1 and float(error.max()) < 1.0


def test_brain_labels_are_joined_across_sides_and_turned_to_ras(tmp_path: Path) -> None:
    array = np.zeros((20, 24, 28), np.int16)
    array[4:8, 5:9, 6:10] = 2
    array[10:14, 5:9, 6:10] = 41
    array[4:8, 12:16, 20:24] = 17
    array[15:17, 2:4, 2:4] = 600
    flipped = np.diag((-1.0, 1.0, -1.0, 1.0))
    write_volume(Volume(array, flipped), tmp_path / "labels.nii.gz")
    brain = brain_from_file(tmp_path / "labels.nii.gz")
    assert brain.structures == len(BRAIN_STRUCTURES)
    # Structure 1 is white matter of both sides, 13 the hippocampus; the first and the last axis were turned round.
    expected = np.zeros(array.shape, np.uint8)
    expected[(array == 2) | (array == 41)] = 1
    expected[array == 17] = 13
    expected[array == 600] = len(BRAIN_STRUCTURES) + 1
    np.testing.assert_array_equal(brain.labels, expected[::-1, :, ::-1])


def test_a_file_without_brain_labels_is_refused(tmp_path: Path) -> None:
    write_volume(Volume(np.full((8, 8, 8), 999, np.int16), np.eye(4)), tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match="none of the FreeSurfer"):
        brain_from_file(tmp_path / "other.nii.gz")


def test_fractions_count_the_fine_voxels_of_every_structure_by_hand() -> None:
    labels = torch.zeros(4, 2, 2, dtype=torch.long)
    labels[0, 0, 0], labels[1], labels[2] = 2, 1, 9
    found = fractions(labels, 2)
    assert found.shape == (1, 2, 2, 1, 1)
    assert found[0, :, 0, 0, 0].tolist() == [0.5, 0.125]
    assert found[0, :, 1, 0, 0].tolist() == [0, 0], "label 9 is not one of the two structures"


def test_a_shifted_middle_shows_another_part_and_the_true_field_stays_true() -> None:
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[40:48] = 1
    brain = LabelMap(labels, 1.0, 1, "brain")
    pairs = PairSynthesiser([brain], [Stage(1, (16, 16, 16), (1.0, 1.0))], two_maps=0)
    shown = [float(pairs[number].fixed_structures.mean()) for number in range(24)]
    assert min(shown) == 0 < 0.02 < max(shown), "always the same part of the map"
    errors = torch.zeros(2)
    for number in np.flatnonzero(np.array(shown) > 0.02):
        pair = pairs[int(number)]
        assert pair.displacement is not None
        for index, factor in enumerate((0.0, 1.0)):
            moved = sample(pair.moving_structures, factor * pair.displacement, padding="border")
            errors[index] += losses.dice_loss(pair.fixed_structures, moved)
    assert errors[1] < 0.8 * errors[0]


def test_strength_scales_the_deformation() -> None:
    shapes = random_shapes(torch.Generator().manual_seed(1), size=32, spacing=3.0, count=3)
    sizes = []
    for strength in (0.0, 3.0):
        pairs = PairSynthesiser([shapes], [Stage(1, (16, 16, 16), (3.0, 3.0))], strength=(strength, strength))
        truths = [pairs[number].displacement for number in range(4)]
        # Without its mean and slope: those come from the linear part, which has one size.
        sizes.append(np.mean([float(torch.diff(torch.diff(t, dim=2), dim=2).abs().mean()) for t in truths]))
    assert sizes[1] > 10 * sizes[0]


def test_pairs_made_on_the_training_device_are_pairs_of_that_device() -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = random_shapes(torch.Generator().manual_seed(1), size=32, spacing=3.0, count=3)
    pairs = PairSynthesiser([shapes], [Stage(1, (16, 16, 16), (3.0, 3.0))], device=device)
    pair = pairs[0]
    for tensor in (pair.images, pair.fixed_structures, pair.moving_structures, pair.displacement):
        assert tensor.device.type == device
    assert torch.equal(pairs[0].images, pair.images)
    assert pair.to("cpu").images.device.type == "cpu"


def test_decisions_do_not_depend_on_the_device() -> None:
    first, second = Draws(5), Draws(5, "cuda" if torch.cuda.is_available() else "cpu")
    assert [first.uniform(0, 1), first.integer(0, 9), first.choose("abc")] == [
        second.uniform(0, 1), second.integer(0, 9), second.choose("abc"),
    ]  # fmt: skip
    assert {Draws(seed).integer(2, 4) for seed in range(30)} == {2, 3, 4}


def test_a_cropped_field_of_view_is_empty_beyond_planes_and_unchanged_inside() -> None:
    image = torch.ones(1, 1, 20, 20, 20)
    shares = []
    for seed in range(10):
        cut = cropped(image, 0.5, Draws(seed))
        kept = cut[0, 0] > 0
        box = [kept.any(dim=d1).any(dim=d2) for d1, d2 in ((1, 1), (0, 1), (0, 0))]
        assert int(kept.sum()) == int(box[0].sum() * box[1].sum() * box[2].sum()), "not a box"
        shares.append(float(kept.float().mean()))
    assert min(shares) < 0.7 and float(image.min()) == 1


def test_thick_slices_average_along_one_axis_alone() -> None:
    image = torch.arange(8.0).view(8, 1, 1).expand(8, 8, 8) + torch.arange(8.0) * 10
    thick = thick_slices(image, 0, 4)
    assert torch.allclose(thick[0, 0], torch.full((8,), 1.5) + torch.arange(8.0) * 10)
    assert float(torch.diff(thick, dim=0).abs().max()) == pytest.approx(1.0)


def test_noise_bias_blur_and_crops_are_what_the_settings_say() -> None:
    labels = torch.ones(32, 32, 32, dtype=torch.long)
    labels[:8] = 0
    plain = Appearance(thick=0, cropped=0, blur=0, bias=0, noise=0, gamma=0)
    contrast = draw_contrast(False, plain, Draws(0))
    contrast.spreads.zero_()
    clean = render(labels, contrast, plain, Draws(1))
    assert float(clean[0, 0, 5:].std()) < 1e-5, "texture without any"
    for changed in ({"bias": 1.0}, {"noise": 0.5}, {"cropped": 1.0, "crop": 0.4}):
        look = Appearance(**{**vars(plain), **changed})
        assert float(render(labels, contrast, look, Draws(1))[0, 0, 5:].std()) > 0.01, changed


def test_two_brains_are_aligned_by_their_structures_in_mm() -> None:
    """A map and the same turned, stretched and shifted: the affine between their structures is that."""
    axis = np.stack(np.meshgrid(*(np.arange(60),) * 3, indexing="ij"), axis=-1) - 29.5
    centres = np.random.default_rng(0).uniform(-12, 12, (6, 3))
    matrix = rotation(torch.tensor([0.1, -0.2, 0.15])).numpy() @ np.diag([1.1, 0.9, 1.0])
    shift = np.array([3.0, -2.0, 1.0])

    def labels(points: np.ndarray) -> LabelMap:
        distance = np.linalg.norm(points[..., None, :] - centres, axis=-1)
        found = np.where(distance.min(-1) < 6, distance.argmin(-1) + 1, 0)
        return LabelMap(found.astype(np.uint8), 1.0, len(centres), "brain")

    first, second = labels(axis), labels((axis - shift) @ np.linalg.inv(matrix).T)
    turn, offset = affine_between(halves(first), halves(second))
    found = axis[::10, ::10, ::10].reshape(-1, 3)[:, :, None]
    error = (turn.numpy() @ found + offset.numpy()) - (matrix @ found + shift[:, None])
    assert np.linalg.norm(error, axis=1).mean() < 1.0
