"""A network for structures and one for the side."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyperreg.nets.sided import SidedNet

CHANNELS = [0, 1, 1, 2, 2, 3]


class Known(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *logits: float) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, image: Tensor) -> Tensor:
        return self.logits.view(1, -1, 1, 1, 1).expand(len(image), -1, *image.shape[2:])


STRUCTURES = Known(0.5, 2.0, -1.0, 1.0)


def test_both_sides_together_are_as_probable_as_the_structure() -> None:
    image = torch.zeros(2, 1, 4, 2, 6)
    without = STRUCTURES(image).softmax(1)
    found = SidedNet(STRUCTURES, Known(0.7), CHANNELS)(image).softmax(1)
    assert found.shape == (2, 6, 4, 2, 6)
    torch.testing.assert_close(found[:, [0, 5]], without[:, [0, 3]])
    torch.testing.assert_close(found[:, 1] + found[:, 2], without[:, 1])
    torch.testing.assert_close(found[:, 3] + found[:, 4], without[:, 2])
    # The first of two is the left one; the side is the log-odds of right.
    right = torch.sigmoid(torch.tensor(0.7))
    torch.testing.assert_close(found[:, 2], without[:, 1] * right)
    assert float(SidedNet(STRUCTURES, Known(-50.0), CHANNELS)(image).softmax(1)[:, 2].max()) < 1e-6


def test_the_side_is_found_where_it_is() -> None:
    """The side sees the image on voxels twice as long, and is brought back to where it belongs."""

    class Bright(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return 40 * (image - 0.5)

    image = torch.zeros(1, 1, 16, 4, 4)
    image[:, :, 8:] = 1
    found = SidedNet(STRUCTURES, Bright(), CHANNELS)(image).softmax(1)
    assert bool((found[:, 1, :7] > 10 * found[:, 2, :7]).all()) and bool((found[:, 2, 9:] > 10 * found[:, 1, 9:]).all())


def test_three_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="two sides"):
        SidedNet(STRUCTURES, Known(0.0), [0, 1, 1, 1])
