"""The backbone of the learned solver: a step that follows the solver's own, from learned features of both images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Offsets of a voxel's neighbours, itself included, voxels. (All 27 of the cube take four times as long.)
NEIGHBOURS = ((0, 0, 0), (-1, 0, 0), (1, 0, 0), (0, -1, 0), (0, 1, 0), (0, 0, -1), (0, 0, 1))
# Correlations lie in -1..1; the soft argmax sees them so many times as large.
SHARPNESS = 8.0
# The last convolutions start almost at zero: untrained, nothing is changed.
LAST_SD = 1e-5
# The convolutions' output is multiplied with this: Adam's first steps change all weights alike, and would otherwise
# add whole voxels everywhere.
SCALE = 0.1
# A step is nowhere longer than this, voxels: after the solver's Gaussian, SD of 2 voxels or more, no step folds.
LONGEST = 1.0
# Channels beside the features of both images: correlations, soft argmax, demons step, its trust, diffusion.
SHOWN = len(NEIGHBOURS) + 3 + 3 + 1 + 3


class SolverUpdate(nn.Module):
    """Per level of the solver an encoder of the images, and three convolutions that make the update.

    levels: a mapping each: spacing_mm, the level's voxels; detail, images are given that many times finer than the
    level; channels, of the features; width, of the convolutions; steps, how many steps of the level are learned.
    """

    def __init__(self, *, levels: Sequence[Mapping[str, Any]]) -> None:
        super().__init__()
        self.encoders, self.updates = nn.ModuleList(), nn.ModuleList()
        for level in levels:
            channels, width = int(level["channels"]), int(level["width"])
            self.encoders.append(_convolutions(int(level["detail"]) ** 3, channels, channels, channels))
            self.updates.append(_convolutions(SHOWN + 2 * channels, width, width, 3))
            weight, bias = list(self.updates[-1].parameters())[-2:]
            nn.init.normal_(weight, 0, LAST_SD)
            nn.init.zeros_(bias)
        self.detail = [int(level["detail"]) for level in levels]

    def encode(self, level: int, image: Tensor) -> Tensor:
        """Features (1, C, I, J, K) of unit length of an image (1, 1, d I, d J, d K), d the level's `detail`."""
        found = F.instance_norm(self.encoders[level](space_to_depth(image, self.detail[level])).float())
        return found / found.square().sum(1, keepdim=True).add(1e-4).sqrt()

    def forward(self, level: int, fixed: Tensor, warped: Tensor, demons: Tensor, diffusion: Tensor) -> Tensor:
        """A step before smoothing: (1, 3, I, J, K), voxels.

        fixed, warped: features of both images, the moving one's warped. demons: step and trust (1, 4, I, J, K).
        diffusion: a step (1, 3, I, J, K).
        """
        correlations = neighbours_correlation(fixed, warped)
        offsets = torch.tensor(NEIGHBOURS, dtype=fixed.dtype, device=fixed.device)
        argmax = torch.einsum("bnijk,nc->bcijk", torch.softmax(SHARPNESS * correlations, dim=1), offsets)
        shown = torch.cat((correlations, argmax, demons, diffusion, fixed, warped), dim=1)
        found = SCALE * self.updates[level](shown.contiguous(memory_format=torch.channels_last_3d)).float()
        return LONGEST * found / (1 + found.square().sum(1, keepdim=True)).sqrt()


def _convolutions(*channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(channels):
        layers += [nn.Conv3d(before, after, 3, padding=1), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1])


def space_to_depth(image: Tensor, factor: int) -> Tensor:
    """(B, 1, f I, f J, f K) to (B, f^3, I, J, K)."""
    if factor == 1:
        return image
    i, j, k = (n // factor for n in image.shape[2:])
    parts = image.view(-1, i, factor, j, factor, k, factor)
    return parts.permute(0, 2, 4, 6, 1, 3, 5).reshape(-1, factor**3, i, j, k)


def neighbours_correlation(fixed: Tensor, warped: Tensor) -> Tensor:
    """Scalar products of the features (B, C, I, J, K) of each voxel with NEIGHBOURS in the other: (B, 7, I, J, K)."""
    i, j, k = fixed.shape[2:]
    padded = F.pad(warped, (1,) * 6)
    products = [
        (fixed * padded[:, :, 1 + a : 1 + a + i, 1 + b : 1 + b + j, 1 + c : 1 + c + k]).sum(1) for a, b, c in NEIGHBOURS
    ]
    return torch.stack(products, dim=1)
