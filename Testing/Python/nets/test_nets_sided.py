"""A network that tells left from right by one channel more."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from hyperreg.nets.sided import SidedNet


class Known(nn.Module):
    """Logits of background, two structures and a midline one, and the side."""

    def __init__(self, side: float) -> None:
        super().__init__()
        self.side = side

    def forward(self, image: Tensor) -> Tensor:
        logits = torch.tensor([0.5, 2.0, -1.0, 1.0, self.side]).view(1, 5, 1, 1, 1)
        return logits.expand(len(image), 5, *image.shape[2:])


def test_both_sides_together_are_as_probable_as_the_structure() -> None:
    image = torch.zeros(2, 1, 3, 2, 4)
    without = Known(0.7)(image)[:, :4].softmax(1)
    found = SidedNet(Known(0.7), [0, 1, 1, 2, 2, 3])(image).softmax(1)
    assert found.shape == (2, 6, 3, 2, 4)
    torch.testing.assert_close(found[:, [0, 5]], without[:, [0, 3]])
    torch.testing.assert_close(found[:, 1] + found[:, 2], without[:, 1])
    torch.testing.assert_close(found[:, 3] + found[:, 4], without[:, 2])
    # The first of two is the left one; the last channel is the log-odds of right.
    right = torch.sigmoid(torch.tensor(0.7))
    torch.testing.assert_close(found[:, 2], without[:, 1] * right)
    assert float(SidedNet(Known(-50.0), [0, 1, 1, 2, 2, 3])(image).softmax(1)[:, 2].max()) < 1e-6


def test_three_sides_are_refused() -> None:
    with pytest.raises(ValueError, match="two sides"):
        SidedNet(Known(0.0), [0, 1, 1, 1])
