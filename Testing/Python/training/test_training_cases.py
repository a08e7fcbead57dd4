"""Synthetic cases and the losses of segmentation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from segmentation_toy import write_labels

from hyperreg.errors import InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.nets.segresnet import VaeOutput
from hyperreg.training.appearance import Appearance
from hyperreg.training.cases import CaseSynthesiser, class_table
from hyperreg.training.label_maps import LabelMap, brain_from_file
from hyperreg.training.segmentation_config import LossConfig, VaeConfig
from hyperreg.training.segmentation_losses import focal_l2, segmentation_loss, vae_loss

TABLE = class_table([[2], [10, 53]])
PLAIN = Appearance(t1=0, thick=0, cropped=0, blur=0, bias=0, noise=0, gamma=0)


@pytest.fixture(scope="module")
def brain(tmp_path_factory: pytest.TempPathFactory) -> LabelMap:
    path = tmp_path_factory.mktemp("maps") / "labels.nii.gz"
    write_labels(path)
    return brain_from_file(path)


@pytest.fixture
def cases(brain: LabelMap) -> Callable[..., CaseSynthesiser]:
    def make(**changes: object) -> CaseSynthesiser:
        settings = {"shape": (16, 20, 12), "spacing": (1.8, 2.2), "look": PLAIN, **changes}
        return CaseSynthesiser([brain], TABLE, 3, **settings)

    return make


def test_one_number_means_its_group_on_both_sides() -> None:
    for half in TABLE:
        # White matter, cortex, thalamus, hippocampus.
        assert half[[0, 1, 2, 6, 13]].tolist() == [0, 1, 0, 2, 2]


def test_a_structure_may_have_one_side_only() -> None:
    left, right = class_table([[10], [49], [14]], ["left", "right", None])
    assert left[[6, 10]].tolist() == [1, 3] and right[[6, 10]].tolist() == [2, 3]
    with pytest.raises(InputError, match="structures 1 and 3"):
        class_table([[10], [49], [10]], ["left", "right", "left"])


def test_left_and_right_stay_so_in_mirrored_cases() -> None:
    """Two thalami of different size, left and right of the middle: the left one is left, whichever person's it is."""
    labels = np.full((48, 48, 48), 1, np.uint8)
    labels[8:16, 16:32, 16:32] = labels[30:40, 16:32, 16:32] = 6
    right = np.zeros(labels.shape, bool)
    right[24:] = True
    cases = CaseSynthesiser(
        [LabelMap(labels, 1.0, 17, "brain", right)], class_table([[10], [49]], ["left", "right"]), 3, (32, 32, 32),
        (1.5, 1.5), strength=(0, 0), look=PLAIN,
    )  # fmt: skip
    place = torch.arange(32.0).view(-1, 1, 1)
    larger = set()
    for number in range(12):
        _, left, other = cases[number].target[0]
        assert (left * place).sum() / left.sum() < (other * place).sum() / other.sum()
        larger.add(bool(left.sum() > other.sum()))
    assert larger == {False, True}, "no case is mirrored"


def test_the_halves_of_a_map_are_told_from_its_numbers(tmp_path: Path) -> None:
    # A corpus callosum (251) in the middle belongs to the side whose structures are nearer.
    numbers = np.zeros((80, 70, 70), np.int16)
    numbers[30:38, 30:40, 30:40], numbers[42:50, 30:40, 30:40] = 41, 2
    numbers[38:42, 30:40, 30:40] = 251
    # The array's first axis runs to the left, so that what is numbered as right comes first.
    affine = np.diag([-1.0, 1.0, 1.0, 1.0])
    write_volume(Volume(numbers, affine), tmp_path / "two.nii.gz")
    found = brain_from_file(tmp_path / "two.nii.gz")
    assert found.right is not None
    white = found.labels == 1
    half = found.right.any(axis=(1, 2)), white.any(axis=(1, 2))
    where = np.flatnonzero(half[1])
    assert found.right[where[:10], 35, 35].tolist() == [False] * 10
    assert found.right[where[-10:], 35, 35].tolist() == [True] * 10
    numbers[numbers == 41] = 2
    write_volume(Volume(numbers, affine), tmp_path / "one.nii.gz")
    assert brain_from_file(tmp_path / "one.nii.gz").right is None


@pytest.mark.parametrize("structures", [[[2], [41]], [[600]], [[]]])
def test_structures_that_cannot_be_trained_are_refused(structures: list[list[int]]) -> None:
    with pytest.raises(InputError):
        class_table(structures)


def test_a_case_is_an_image_and_shares_of_classes(cases: Callable[..., CaseSynthesiser]) -> None:
    case = cases(images=2)[3]
    assert case.images.shape == (1, 2, 16, 20, 12)
    assert case.target.shape == (1, 3, 16, 20, 12)
    assert 0 <= float(case.images.min()) <= float(case.images.max()) <= 1
    torch.testing.assert_close(case.target.sum(1), torch.ones(1, 16, 20, 12))
    assert float(case.target.min()) >= 0
    assert all(float(case.target[:, n].sum()) > 20 for n in range(3))
    assert bool(((case.target > 0.01) & (case.target < 0.99)).any()), "no partial volume"
    assert not torch.allclose(case.images[:, 0], case.images[:, 1]), "both images have one contrast"


def test_a_case_is_the_same_again_and_others_differ(cases: Callable[..., CaseSynthesiser]) -> None:
    assert torch.equal(cases()[5].images, cases()[5].images)
    assert not torch.equal(cases()[5].target, cases()[6].target)
    assert not torch.equal(cases()[5].images, cases(seed=1)[5].images)


@pytest.mark.parametrize("slices", [(1, 1), (4, 4)])
def test_image_and_target_lie_at_the_same_place(cases: Callable[..., CaseSynthesiser], slices: tuple[int, int]) -> None:
    """Without skull and noise, the grey value follows from the classes: they explain nearly all of its variance."""
    settings = {"stripped": 1.0, "slices": slices}
    together = [explained(case.images, case.target) for case in (cases(**settings)[n] for n in range(6))]
    shifted = [explained(case.images.roll(3, 2), case.target) for case in (cases(**settings)[n] for n in range(6))]
    assert sorted(together)[2] > 0.8
    assert sum(right - wrong > 0.1 for right, wrong in zip(together, shifted, strict=True)) >= 4


def explained(image: torch.Tensor, target: torch.Tensor) -> float:
    """The share of an image's variance that a grey value per class explains."""
    values, classes = image.flatten()[:, None], target[0].flatten(1).T
    rest = values - classes @ torch.linalg.lstsq(classes, values).solution
    return 1 - float(rest.var() / values.var())


@pytest.mark.parametrize(
    ("axis", "any_direction", "expected"),
    [(0, True, {0, 2}), (1, True, {0, 1, 2}), (2, True, {1, 2}), (0, False, {0}), (2, False, {2})],
)
def test_thick_slices_lie_across_any_axis_of_the_body(axis: int, any_direction: bool, expected: set[int]) -> None:
    """Two halves along R, A or S: the axis of the case along which they follow each other tells how it was turned."""
    halves = np.full((48, 48, 48), 1, np.uint8)
    np.moveaxis(halves, axis, 0)[24:] = 6
    cases = CaseSynthesiser(
        [LabelMap(halves, 1.0, 17, "brain")],
        TABLE,
        3,
        (16, 16, 6),
        (1.5, 1.5),
        (3, 4),
        any_direction,
        strength=(0, 0),
        look=PLAIN,
    )
    found = set()
    for number in range(16):
        target = cases[number].target
        assert target.shape == (1, 3, 16, 16, 6)
        torch.testing.assert_close(target.sum(1), torch.ones(1, 16, 16, 6))
        core = target[0, 2]
        ends = [
            float((core.narrow(n, 0, 2).mean() - core.narrow(n, core.shape[n] - 2, 2).mean()).abs()) for n in range(3)
        ]
        found.add(int(np.abs(ends).argmax()))
    assert found == expected


def test_the_focal_term_weights_hard_voxels_up() -> None:
    target = torch.zeros(1, 2, 4, 1, 1)
    wrong = target.clone()
    wrong[0, 0, 0], wrong[0, 0, 1] = 0.9, 0.1
    assert float(focal_l2(wrong, target, 0)) == pytest.approx(float((wrong - target).square().mean()))
    wrong.requires_grad_(True)
    plain, focal = (torch.autograd.grad(focal_l2(wrong, target, gamma), wrong)[0][0, 0, :2, 0, 0] for gamma in (0, 2))
    assert float(plain[0] / plain[1]) == pytest.approx(9, rel=1e-3)
    assert float(focal[0] / focal[1]) > 100 * float(plain[0] / plain[1])
    assert float(focal_l2(target, target, 2)) == 0


def test_the_terms_are_weighted_and_told_apart() -> None:
    target = torch.zeros(1, 2, 4, 4, 4)
    target[:, 0, :2] = target[:, 1, 2:] = 1
    right, wrong = 20 * target, 20 * target.flip(1)
    for name in ("dice", "cross_entropy", "focal"):
        only = LossConfig(**{"dice": 0, "cross_entropy": 0, "focal": 0, name: 3.0})
        low, high = (segmentation_loss(logits, target, only) for logits in (right, wrong))
        (part,) = high[1].values()
        assert float(high[0]) == pytest.approx(3 * float(part))
        assert float(low[0]) < 1e-3 < 0.4 < float(part)


def test_kl_and_reconstruction_have_weights_of_their_own() -> None:
    images = torch.rand(1, 3, 4, 4, 4)
    standard = VaeOutput(images, images[:, 1:], torch.zeros(1, 5), torch.ones(1, 5))
    loss, parts = vae_loss(standard, images, VaeConfig())
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert set(parts) == {"reconstruction", "kl"}
    off = standard._replace(mean=torch.ones(1, 5), reconstruction=images[:, 1:] + 2)
    reconstruction, kl = (vae_loss(off, images, VaeConfig(reconstruction=r, kl=k))[0] for r, k in ((1, 0), (0, 1)))
    assert float(reconstruction) == pytest.approx(4, rel=1e-4)
    assert float(kl) == pytest.approx(0.5, rel=1e-4)


def test_a_label_map_without_a_known_structure_is_refused(tmp_path: Path) -> None:
    write_volume(Volume(np.full((9, 9, 9), 600, np.int16), np.eye(4)), tmp_path / "skin.nii.gz")
    with pytest.raises(InputError, match="none of the FreeSurfer"):
        brain_from_file(tmp_path / "skin.nii.gz")


def test_looks_of_one_deformed_map_differ_in_contrast_alone(cases: Callable[..., CaseSynthesiser]) -> None:
    made = cases(looks=2)
    first, second, third = (made[n] for n in (4, 5, 6))
    assert torch.equal(first.target, second.target)
    assert not torch.equal(first.target, third.target)
    assert not torch.allclose(first.images, second.images, atol=0.05)
    assert torch.equal(cases(looks=2)[5].images, second.images), "a resumed run would see other cases"


def test_balance_ends_with_its_steps() -> None:
    assert [LossConfig(balance=0.5, balanced_steps=10).at(step).balance for step in (0, 9, 10, 99)] == [0.5, 0.5, 0, 0]
    assert LossConfig(balance=0.5).at(10**6).balance == 0.5


def test_balance_makes_a_small_structure_count(cases: Callable[..., CaseSynthesiser]) -> None:
    """A miss of the few voxels of one class costs more of the loss, the larger the balance."""
    target = torch.zeros(1, 2, 10, 10, 10)
    target[:, 1, 5, 5, 5] = 1
    target[:, 0] = 1 - target[:, 1]
    missed, right = 8 * torch.stack((torch.ones(10, 10, 10), torch.zeros(10, 10, 10)))[None], 8 * target
    losses = []
    for balance in (0.0, 0.5, 1.0):
        only = LossConfig(dice=0, balance=balance)
        losses.append(float(segmentation_loss(missed, target, only)[0]))
        assert float(segmentation_loss(right, target, only)[0]) < 1e-3
    assert losses[0] == pytest.approx(8 / 1000, rel=0.05)
    assert losses[2] == pytest.approx(8 / 2, rel=0.05)
    assert losses[0] < 0.1 * losses[1] < 0.1 * losses[2]
