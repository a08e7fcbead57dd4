"""Filters against torch's own: the pieces and the sums that they are made of must not show."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.registration.filters import (
    PIECE,
    SLAB,
    WHOLE,
    box_kernel,
    box_mean,
    gaussian_kernel,
    largest_within,
    separable,
)

# Longer than a piece and no multiple of it, shorter than a slab, and shorter than the kernels; filtered whole, and in
# pieces; as small as they come.
SHAPES = ((2 * SLAB + 3, PIECE + 5, 7), (2 * SLAB + 3, WHOLE + 5, 7), (5, 2, 4), (5, 4, 1))
UNEVEN = (0.5, 0.3, 0.2)


def convolved(image: Tensor, kernel: tuple[float, ...], border: str) -> Tensor:
    """One axis after the other, in double precision."""
    result = image.double()
    radius = len(kernel) // 2
    for axis in range(3):
        padding = [0] * 6
        padding[2 * (2 - axis)] = padding[2 * (2 - axis) + 1] = radius
        if border == "repeat":
            result = F.pad(result, padding, mode="replicate")
        else:
            result = F.pad(result, padding)
        weights = torch.tensor(kernel, dtype=torch.float64).view([1, 1, *(-1 if a == axis else 1 for a in range(3))])
        result = F.conv3d(result.flatten(0, 1)[:, None], weights)[:, 0].unflatten(0, image.shape[:2])
    return result


@pytest.fixture(params=SHAPES)
def image(request: pytest.FixtureRequest) -> Tensor:
    return torch.rand(1, 2, *request.param, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("kernel", [UNEVEN, box_kernel(5), gaussian_kernel(1.3), gaussian_kernel(5.0)])
@pytest.mark.parametrize("border", ["zeros", "repeat"])
def test_pieces_make_the_same_as_a_convolution(image: Tensor, kernel: tuple[float, ...], border: str) -> None:
    found = separable(image, kernel, border)
    assert found.shape == image.shape
    np.testing.assert_allclose(found.numpy(), convolved(image, kernel, border).numpy(), atol=2e-6)


@pytest.mark.parametrize("width", [3, 5, 9])
def test_a_mean_leaves_out_what_lies_outside(image: Tensor, width: int) -> None:
    kernel = box_kernel(width)
    expected = convolved(image, kernel, "zeros") / convolved(torch.ones_like(image), kernel, "zeros")
    np.testing.assert_allclose(box_mean(image, width).numpy(), expected.numpy(), atol=2e-6)
    np.testing.assert_allclose(box_mean(torch.ones_like(image), width).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("kernel", [box_kernel(3), box_kernel(5), gaussian_kernel(2.0)])
def test_the_gradient_passes_through(image: Tensor, kernel: tuple[float, ...]) -> None:
    """Of the sum of a filtered image, by each voxel: what the filter, symmetric, makes of ones."""
    image.requires_grad_(True)
    separable(image, kernel, "zeros").sum().backward()
    assert image.grad is not None
    expected = convolved(torch.ones(image.shape), kernel, "zeros")
    np.testing.assert_allclose(image.grad.numpy(), expected.numpy(), atol=2e-6)


@pytest.mark.parametrize("width", [3, 5, 17])
def test_the_largest_around_is_that_of_the_whole_cube(image: Tensor, width: int) -> None:
    """Also where the cube is wider than the image."""
    expected = F.max_pool3d(image - 1, width, stride=1, padding=width // 2)
    np.testing.assert_array_equal(largest_within(image - 1, width).numpy(), expected.numpy())
