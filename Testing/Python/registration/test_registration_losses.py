"""Losses: values that can be worked out by hand, and MONAI's as a second opinion."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss, LocalNormalizedCrossCorrelationLoss

from hyperreg.registration import losses


@pytest.fixture
def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    fixed = losses.box_mean(torch.rand(1, 1, 16, 17, 18, generator=generator), 3)
    return fixed, losses.box_mean(torch.rand(1, 1, 16, 17, 18, generator=generator), 3)


def test_the_box_mean_of_a_constant_is_that_constant_up_to_the_border() -> None:
    assert torch.allclose(losses.box_mean(torch.full((1, 1, 9, 9, 9), 2.0), 5), torch.tensor(2.0))


def test_lncc_agrees_with_monai_away_from_the_borders(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, warped = images
    theirs = LocalNormalizedCrossCorrelationLoss(3, kernel_size=5, smooth_nr=0, smooth_dr=1e-7, reduction="none")
    # MONAI returns minus the squared coefficient per voxel, zero-padded as ours.
    expected = -theirs(fixed * 10, warped * 10)
    ours = losses.local_ncc(fixed * 10, warped * 10, 5)
    inner = (..., slice(3, -3), slice(3, -3), slice(3, -3))
    assert torch.allclose(ours[inner], expected[inner], atol=0.02)


def test_lncc_ignores_brightness_and_contrast(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, warped = images
    assert float(losses.lncc_loss(fixed, 0.2 + 0.7 * fixed)) < 0.03
    assert float(losses.lncc_loss(fixed, warped)) > 0.5


def test_mind_ignores_an_inverted_contrast_that_mse_does_not(images: tuple[torch.Tensor, torch.Tensor]) -> None:
    fixed, warped = images
    assert float(losses.mind_loss(fixed, 1 - fixed)) == pytest.approx(0, abs=1e-3)
    assert float(losses.mind_loss(fixed, warped)) > 0.1
    assert float(losses.mse_loss(fixed, 1 - fixed)) > 1


def test_dice_agrees_with_monai_and_skips_absent_labels() -> None:
    generator = torch.Generator().manual_seed(1)
    first, second = (torch.rand(1, 3, 5, 6, 7, generator=generator) for _ in range(2))
    expected = DiceLoss(smooth_nr=0, smooth_dr=0)(first, second)
    assert float(losses.dice_loss(first, second)) == pytest.approx(float(expected), abs=1e-6)
    absent = torch.zeros(1, 1, 5, 6, 7)
    padded = losses.dice_loss(torch.cat((first, absent), 1), torch.cat((second, absent), 1))
    assert float(padded) == pytest.approx(float(expected), abs=1e-6)


def test_diffusion_of_a_unit_slope_along_one_axis_is_a_third() -> None:
    velocity = torch.zeros(1, 3, 8, 8, 8)
    velocity[:] = torch.arange(8.0)[None, None, :, None, None]
    assert float(losses.diffusion(velocity)) == pytest.approx(1 / 3)


def test_the_ends_of_lambda_and_gamma_leave_one_term_each() -> None:
    similarity, smoothness, overlap = (torch.tensor(v) for v in (2.0, 3.0, 5.0))
    assert float(losses.hyper_loss(similarity, smoothness, 0.0)) == 2.0
    assert float(losses.hyper_loss(similarity, smoothness, 1.0)) == 3.0
    assert float(losses.semi_supervised_hyper_loss(similarity, smoothness, overlap, 0.0, 1.0)) == 5.0
    both = losses.semi_supervised_hyper_loss(similarity, smoothness, overlap, 0.25, 0.5)
    assert float(both) == pytest.approx(0.75 * (0.5 * 2 + 0.5 * 5) + 0.25 * 3)
    assert float(losses.semi_supervised_hyper_loss(similarity, smoothness, overlap, 1.0, 0.7)) == 3.0
