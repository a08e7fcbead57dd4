"""The network that a search over architectures builds: a graph of blocks between a stem and a head.

Source of the space: Yang et al., "T-AutoML: Automated machine learning for lesion segmentation using transformers in
3D medical imaging", ICCV 2021. Widths, norms and the way inputs are joined are not published; they are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# A level halves the resolution once more; level 0 is what the stem gives.
LEVELS = 4
# The channels double with every level, up to so many times those of level 0.
WIDEST = 4
STEM = -1


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions beside a shortcut, norms first (He et al., arXiv 1603.05027)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *_norm_act(channels), nn.Conv3d(channels, channels, 3, padding=1),
            *_norm_act(channels), nn.Conv3d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class BottleneckBlock(nn.Module):
    """A 3x3x3 convolution at half the width between two of 1x1x1, beside a shortcut."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = max(1, channels // 2)
        self.layers = nn.Sequential(
            *_norm_act(channels), nn.Conv3d(channels, inner, 1),
            *_norm_act(inner), nn.Conv3d(inner, inner, 3, padding=1),
            *_norm_act(inner), nn.Conv3d(inner, channels, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class AxialAttentionBlock(nn.Module):
    """Attention of every voxel to those of its row along each axis, the three results added, beside a shortcut.

    Source: Ho et al., "Axial attention in multidimensional transformers", arXiv 1912.12180. Positions come from a
    depthwise convolution (Chu et al., arXiv 2102.10882), so that images may have any size.
    """

    def __init__(self, channels: int, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads if channels % heads == 0 else 1
        self.position = nn.Conv3d(channels, channels, 3, padding=1, groups=channels)
        self.norm = nn.GroupNorm(1, channels)
        self.project = nn.Conv3d(channels, 3 * 3 * channels, 1)
        self.join = nn.Conv3d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.position(x)
        each = self.project(self.norm(x)).chunk(3, dim=1)
        total = sum((self._along(part, axis) for axis, part in enumerate(each)), torch.zeros((), device=x.device))
        joined: Tensor = self.join(total)
        return x + joined

    def _along(self, projected: Tensor, axis: int) -> Tensor:
        """(B, 3 C, I, J, K), queries, keys and values, to (B, C, I, J, K)."""
        # The axis goes to the end, the other two to the batch.
        rows = projected.movedim(axis + 2, -1)
        batch, _, one, two, length = rows.shape
        rows = rows.permute(0, 2, 3, 4, 1).reshape(batch * one * two, length, 3, self.heads, -1)
        q, k, v = rows.permute(2, 0, 3, 1, 4)
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, one, two, length, -1)
        return found.permute(0, 4, 1, 2, 3).movedim(-1, axis + 2)


BLOCKS: dict[str, type[nn.Module]] = {
    "residual": ResidualBlock,
    "bottleneck": BottleneckBlock,
    "axial_attention": AxialAttentionBlock,
}


class _Join(nn.Module):
    """Brings features to a level's resolution and width, and adds them up."""

    def __init__(self, sources: Sequence[int], level: int, width: int) -> None:
        super().__init__()
        self.steps = [level - source for source in sources]
        self.fit = nn.ModuleList(
            nn.Identity() if (have := channels_at(source, width)) == (want := channels_at(level, width))
            else nn.Conv3d(have, want, 1)
            for source in sources
        )  # fmt: skip

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        total: Tensor | None = None
        for feature, step, fit in zip(features, self.steps, self.fit, strict=True):
            if step > 0:
                found = fit(F.avg_pool3d(feature, 2**step))
            else:
                # The narrower of the two is the one to be enlarged.
                found = fit(feature)
                if step < 0:
                    found = F.interpolate(found, scale_factor=2.0**-step, mode="trilinear", align_corners=False)
            total = found if total is None else total + found
        assert total is not None  # noqa: S101 (a block has an input)
        return total


class SearchedNet(nn.Module):
    """Images (B, inputs, I, J, K) to logits (B, channels, I, J, K); the sides are multiples of `multiple`.

    blocks: {"type", "level", "inputs"} each, inputs two numbers of earlier blocks or -1, the stem; one given twice
    counts once. The head takes the last block. width: channels of level 0, whose voxels are twice as large as the
    image's. Raises ValueError for blocks that make no network.
    """

    def __init__(self, inputs: int, channels: int, blocks: Sequence[Mapping[str, Any]], width: int = 16) -> None:
        super().__init__()
        levels = [int(block["level"]) for block in blocks]
        self.sources = [sorted({int(n) for n in block["inputs"]}, reverse=True) for block in blocks]
        for number, (block, sources) in enumerate(zip(blocks, self.sources, strict=True)):
            if block["type"] not in BLOCKS:
                raise ValueError(f"block {number} is {' or '.join(BLOCKS)}, not '{block['type']}'")
            if not sources or min(sources) < STEM or max(sources) >= number or not 0 <= levels[number] < LEVELS:
                raise ValueError(f"block {number} takes earlier blocks, at a level from 0 to {LEVELS - 1}")
        if not blocks:
            raise ValueError("a network has at least one block")
        self.multiple = 2 ** (1 + max(levels))
        half = max(1, width // 2)
        self.stem = nn.Sequential(
            nn.Conv3d(inputs, half, 3, padding=1), *_norm_act(half), nn.Conv3d(half, width, 3, stride=2, padding=1)
        )
        level_of = {STEM: 0, **dict(enumerate(levels))}
        self.joins = nn.ModuleList(
            _Join([level_of[n] for n in sources], level, width)
            for sources, level in zip(self.sources, levels, strict=True)
        )
        self.blocks = nn.ModuleList(
            BLOCKS[block["type"]](channels_at(level, width)) for block, level in zip(blocks, levels, strict=True)
        )
        self.last = _Join([levels[-1]], 0, width)
        self.head = nn.Sequential(
            *_norm_act(width), nn.ConvTranspose3d(width, half, 2, stride=2), *_norm_act(half),
            nn.Conv3d(half, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        features = {STEM: self.stem(images)}
        for number, (sources, join, block) in enumerate(zip(self.sources, self.joins, self.blocks, strict=True)):
            features[number] = block(join([features[n] for n in sources]))
        logits: Tensor = self.head(self.last([features[len(self.blocks) - 1]]))
        return logits


def channels_at(level: int, width: int) -> int:
    """How many channels a level has."""
    return width * min(WIDEST, 2**level)


def _norm_act(channels: int) -> tuple[nn.Module, nn.Module]:
    groups = next(n for n in (4, 2, 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels), nn.LeakyReLU(0.01, inplace=False)
