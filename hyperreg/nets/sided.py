"""Left and right apart at the price of one more channel: what a voxel is, and on which side of the body it lies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SidedNet(nn.Module):
    """Logits (B, C, I, J, K) of structures, those with two sides once for each, from a network that finds structures
    and, in its last channel, the log-odds of lying on the right.

    P(structure, side) = P(structure) P(side): both sides of a structure share what tells it from others, and the
    network's widest layers, at the finest resolution, are half as wide.
    channels: by output, the channel of `network` that it comes from; one that is named twice is first its left and
    then its right half. Raises ValueError for one that is named three times.
    """

    def __init__(self, network: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        if any(channels.count(channel) > 2 for channel in channels):
            raise ValueError("a channel has two sides at most")
        self.network = network
        self.multiple = int(getattr(network, "multiple", 1))
        self.channels = list(channels)
        # What the side adds to each output: nothing, or the logarithm of the probability of its side.
        self._place = [
            0 if channels.count(channel) == 1 else 1 + (channel in channels[:n]) for n, channel in enumerate(channels)
        ]

    def forward(self, image: Tensor) -> Tensor:
        found = self.network(image)
        right = found[:, -1:]
        by_place = torch.cat((torch.zeros_like(right), F.logsigmoid(-right), F.logsigmoid(right)), dim=1)
        return found[:, self.channels] + by_place[:, self._place]
