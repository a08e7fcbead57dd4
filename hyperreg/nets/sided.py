"""Left and right apart: what a voxel is says one network, on which side of the body it lies another, small one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The side is told on voxels so many times as long: it changes slowly in space.
COARSER = 2


class SidedNet(nn.Module):
    """Logits (B, C, I, J, K) of structures, those with two sides once for each.

    P(structure, side) = P(structure) P(side): what tells a structure from others is the same on both sides, and the
    widest layers, at the finest resolution, need not be twice as wide. A network that does not tell sides can go on as
    it is.
    network: gives logits of structures, both sides together. side: gives the log-odds of lying on the right, one
    channel. channels: by output, the channel of `network` that it comes from; one that is named twice is first its left
    and then its right half. Raises ValueError for one that is named three times.
    """

    def __init__(self, network: nn.Module, side: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        if any(channels.count(channel) > 2 for channel in channels):
            raise ValueError("a channel has two sides at most")
        self.network, self.side = network, side
        self.multiple = max(int(getattr(network, "multiple", 1)), COARSER * int(getattr(side, "multiple", 1)))
        self.channels = list(channels)
        # What the side adds to each output: nothing, or the logarithm of the probability of its side.
        self._place = [
            0 if channels.count(channel) == 1 else 1 + (channel in channels[:n]) for n, channel in enumerate(channels)
        ]

    def forward(self, image: Tensor) -> Tensor:
        right = self.side(F.avg_pool3d(image, COARSER))
        right = F.interpolate(right, scale_factor=COARSER, mode="trilinear", align_corners=False)
        by_place = torch.cat((torch.zeros_like(right), F.logsigmoid(-right), F.logsigmoid(right)), dim=1)
        return self.network(image)[:, self.channels] + by_place[:, self._place]
