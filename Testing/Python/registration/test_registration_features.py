"""The demons step of the local fit points the right way, whatever the contrast."""

from __future__ import annotations

import pytest
import torch

from hyperreg.registration.features import CHANNELS, FEATURES, central_gradient, correlation, demons_step
from hyperreg.registration.field import sample
from hyperreg.registration.losses import box_mean


@pytest.fixture
def image() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(1, 1, 24, 26, 28, generator=generator)
    for _ in range(3):
        noise = box_mean(noise, 5)
    return (noise - noise.min()) / (noise.max() - noise.min())


def test_the_gradient_of_a_slope_is_its_steepness() -> None:
    ramp = torch.arange(6.0)[None, None, None, :, None].expand(1, 1, 5, 6, 7).contiguous() * 0.3
    gradient = central_gradient(ramp)[0, :, 2, 2:4, 3]
    assert torch.allclose(gradient, torch.tensor([[0.0, 0.0], [0.3, 0.3], [0.0, 0.0]]), atol=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("contrast", [1.0, -0.6])
def test_the_step_finds_a_small_shift_under_either_contrast(image: torch.Tensor, axis: int, contrast: float) -> None:
    shift = torch.zeros(1, 3, 24, 26, 28)
    shift[:, axis] = 0.4
    fixed = 0.5 + contrast * (sample(image, shift, padding="border") - 0.5)
    inner = (slice(None), slice(5, -5), slice(5, -5), slice(5, -5))
    step = demons_step(fixed, image)[0][0][inner].mean(dim=(1, 2, 3))
    other = [a for a in range(3) if a != axis]
    assert float(step[axis]) > 0.03
    assert float(step[axis]) > 3 * float(step[other].abs().max())


def test_images_that_differ_in_contrast_only_ask_for_nothing_and_are_trusted(image: torch.Tensor) -> None:
    step, trust = demons_step(image, 1 - image)
    inner = (..., slice(5, -5), slice(5, -5), slice(5, -5))
    assert float(step[inner].abs().mean()) < 0.02
    assert float(trust[inner].mean()) > 0.9


def test_the_averaged_step_of_a_shift_is_nearly_constant_and_points_along_it(image: torch.Tensor) -> None:
    shift = torch.zeros(1, 3, 24, 26, 28)
    shift[:, 1] = 0.4
    shown = correlation(sample(image, shift, padding="border"), image)[0, 2:, 6:-6, 6:-6, 6:-6]
    for near in (shown[:3], shown[3:]):
        assert float(near[1].min()) > 0
        assert float(near[1].mean()) > 3 * float(near[[0, 2]].abs().mean())


def test_every_kind_has_the_channels_that_it_declares(image: torch.Tensor) -> None:
    for name, make in FEATURES.items():
        assert make(image, image).shape[1] == CHANNELS[name]
