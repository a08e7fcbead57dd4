"""AH-Net: a 2D network of large kernels, whose encoder then becomes that of an anisotropic 3D network.

Source: Liu et al., "3D Anisotropic Hybrid Network: Transferring Convolutional Features from 2D Images to 3D Anisotropic
Volumes", arXiv 1711.08580. Dense blocks, projections and global convolutions are MONAI's. The rest is ours, because
MONAI's network has one width, wants sizes that 32 divides (the slices too), copies no running statistics, and its
bottleneck has kernels of 3x1 in 2D.
Every level halves by rounding up, and the way back is cut to the size of the skip: any size goes in, slices included,
and no level is padded by more than one voxel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from monai.networks.blocks.fcn import GCN
from monai.networks.nets.ahnet import DenseBlock, Projection
from torch import Tensor, nn
from torch.nn import functional as F

from hyperreg.errors import WeightsError

Dimensions = Literal[2, 3]
# Steps that halve in-plane: first convolution, pooling, and three of the four groups of blocks.
LEVELS = 5
EXPANSION = 4
SLICES = 3
LARGEST_POOLS = 4
# What batch norms keep and instance norms do not.
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


class InstanceNorm(nn.InstanceNorm3d):
    """torch's, for any size: a feature of one voxel has no spread, so that only the bias is left of it."""

    def forward(self, x: Tensor) -> Tensor:
        if x[0, 0].numel() > 1:
            return super().forward(x)
        return torch.zeros_like(x) + self.bias.view(1, -1, 1, 1, 1)


class Bottleneck(nn.Module):
    """ResNet's bottleneck with 3x3 (2D) or 3x3x1 (3D) kernels: `channels` to EXPANSION * `width`.

    stride: in-plane; the first block of a group may have 2. halve_slices: the slices are halved too, by pooling.
    """

    def __init__(self, dims: Dimensions, channels: int, width: int, stride: int, halve_slices: bool) -> None:
        super().__init__()
        out = EXPANSION * width
        self.conv1 = _conv(dims, channels, width, 1)
        self.bn1 = _norm(dims, width)
        self.conv2 = _conv(dims, width, width, 3, stride)
        self.bn2 = _norm(dims, width)
        self.conv3 = _conv(dims, width, out, 1)
        self.bn3 = _norm(dims, out)
        self.pool = nn.MaxPool3d((1, 1, 2), ceil_mode=True) if halve_slices else nn.Identity()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != out:
            # Not the pooling above: torch would list it twice among the modules.
            pool = nn.MaxPool3d((1, 1, 2), ceil_mode=True) if halve_slices else nn.Identity()
            self.shortcut = nn.Sequential(_conv(dims, channels, out, 1, stride), pool, _norm(dims, out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)))
        out = F.relu(self.bn2(self.conv2(out)))
        out = self.pool(self.bn3(self.conv3(out)))
        return F.relu(out + self.shortcut(x))


class Encoder(nn.Module):
    """The ResNet that both networks share, with parameters of the same names.

    2D: (B, SLICES * in_channels, I, J), adjacent slices of each channel in a row. 3D: (B, in_channels, I, J, K).
    Gives six features: after the first convolution (width channels, half size), after pooling (width, a quarter), and
    of the four groups (4, 8, 16, 32 times width; the last a thirty-second).
    width: 64 in the paper. layers: blocks per group. halvings: how many of the LEVELS also halve the slices, the
    deepest first; all in the paper, fewer for volumes of few slices.
    """

    def __init__(
        self, dims: Dimensions, in_channels: int, width: int, layers: Sequence[int], halvings: int = LEVELS
    ) -> None:
        super().__init__()
        if not 0 <= halvings <= LEVELS or len(layers) != 4:
            raise WeightsError(f"AH-Net has four groups of blocks and halves slices 0 to {LEVELS} times.")
        self.halves = [dims == 3 and level >= LEVELS - halvings for level in range(LEVELS)]
        if dims == 2:
            self.conv1: nn.Module = nn.Conv2d(SLICES * in_channels, width, 7, 2, 3, bias=False)
            self.pool: nn.Module = nn.MaxPool2d(3, 2, 1)
        else:
            self.conv1 = nn.Conv3d(in_channels, width, (7, 7, SLICES), (2, 2, 1), (3, 3, 1), bias=False)
            deep = self.halves[1]
            self.pool = nn.MaxPool3d((3, 3, 3 if deep else 1), (2, 2, 2 if deep else 1), (1, 1, int(deep)))
        self.slice_pool = nn.MaxPool3d((1, 1, 2), ceil_mode=True) if self.halves[0] else nn.Identity()
        self.bn0 = _norm(dims, width)
        self.groups = nn.ModuleList()
        channels = width
        for group, blocks in enumerate(layers):
            wide = width * 2**group
            stride = 1 if group == 0 else 2
            halve = group > 0 and self.halves[group + 1]
            made = [Bottleneck(dims, channels, wide, stride, halve)]
            channels = EXPANSION * wide
            made += [Bottleneck(dims, channels, wide, 1, False) for _ in range(1, blocks)]
            self.groups.append(nn.Sequential(*made))

    def forward(self, x: Tensor) -> list[Tensor]:
        first = F.relu(self.bn0(self.slice_pool(self.conv1(x))))
        features = [first, self.pool(first)]
        for group in self.groups:
            features.append(group(features[-1]))
        return features


class Refine(nn.Module):
    """Two times norm, ReLU and convolution, added to the input. (MONAI's has one norm for both.)"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        for _ in range(2):
            parts += [nn.BatchNorm2d(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1)]
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        refined: Tensor = x + self.body(x)
        return refined


class MultiChannelGCN(nn.Module):
    """The 2D network: three adjacent slices in, logits of the middle one out.

    (B, SLICES * in_channels, I, J) to (B, out_channels, I, J), any I, J. inner: channels of the decoder.
    kernel: length of the global convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        layers: Sequence[int] = (3, 4, 6, 3),
        inner: int | None = None,
        kernel: int = 7,
    ) -> None:
        super().__init__()
        inner = inner or width
        self.encoder = Encoder(2, in_channels, width, layers)
        # The pooled feature and the first group have one size; the group knows more.
        widths = [width, *(EXPANSION * width * 2**group for group in range(4))]
        self.globals = nn.ModuleList(nn.Sequential(GCN(n, inner, kernel), Refine(inner)) for n in widths)
        self.refines = nn.ModuleList(Refine(inner) for _ in range(4))
        self.last = nn.Sequential(Refine(inner), nn.Conv2d(inner, out_channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        features = self.encoder(x)
        levels = [part(f) for part, f in zip(self.globals, [features[0], *features[2:]], strict=True)]
        found = levels[-1]
        for level, refine in zip(levels[-2::-1], self.refines, strict=True):
            found = refine(enlarged(found, level.shape[2:]) + level)
        logits: Tensor = self.last(enlarged(found, x.shape[2:]))
        return logits


class AHNet(nn.Module):
    """The 3D network: (B, in_channels, I, J, K) to logits (B, out_channels, I, J, K); any size, K slices.

    width, layers, halvings: see `Encoder`. growth: channels that each of the decoder's dense layers adds (20 in the
    paper). pools: pyramid pooling in-plane over 8, 16, 32, 64 voxels of the half-size grid.
    norm: "batch" as in the paper, whose volumes are of one contrast; "instance" where contrasts vary and a step has one
    volume: what is normalised in training is then the same in use.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        width: int = 64,
        layers: Sequence[int] = (3, 4, 6, 3),
        growth: int = 20,
        halvings: int = LEVELS,
        pools: int = LARGEST_POOLS,
        norm: Literal["batch", "instance"] = "batch",
    ) -> None:
        super().__init__()
        if not 0 <= pools <= LARGEST_POOLS:
            raise WeightsError(f"AH-Net has 0 to {LARGEST_POOLS} sizes of pooling, not {pools}.")
        self.encoder = Encoder(3, in_channels, width, layers, halvings)
        self.locked = False
        skips = [16 * width, 8 * width, 4 * width, width, width]
        self.projections = nn.ModuleList()
        self.dense = nn.ModuleList()
        channels = 32 * width
        for skip in skips:
            self.projections.append(Projection(3, channels, skip))
            self.dense.append(DenseBlock(3, 3, skip, 4, growth, 0.0))
            channels = skip + 3 * growth
        self.pooled = nn.ModuleList(nn.Conv3d(channels, 1, 1) for _ in range(pools))
        self.sizes = [8 * 2**n for n in range(pools)]
        last = channels + pools
        self.last = nn.Sequential(
            nn.BatchNorm3d(last), nn.ReLU(), nn.Conv3d(last, out_channels, (3, 3, 1), padding=(1, 1, 0))
        )
        if norm == "instance":
            # MONAI's blocks have batch norms only.
            for parent in list(self.modules()):
                for name, child in list(parent.named_children()):
                    if isinstance(child, nn.BatchNorm3d):
                        setattr(parent, name, InstanceNorm(child.num_features, affine=True))
        for module in self.modules():
            if isinstance(module, nn.Conv3d) and module.bias is None:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        first, pooled, *groups = self.encoder(x)
        found = groups[-1]
        for skip, project, dense in zip(
            (groups[2], groups[1], groups[0], pooled, first), self.projections, self.dense, strict=True
        ):
            # The pooled feature has the size of the first group: nothing to enlarge there.
            found = dense(enlarged(project(found), skip.shape[2:]) + skip)
        parts = [found, *(self._pool(found, size, conv) for size, conv in zip(self.sizes, self.pooled, strict=True))]
        return enlarged(self.last(torch.cat(parts, dim=1)), x.shape[2:])

    @staticmethod
    def _pool(found: Tensor, size: int, conv: nn.Module) -> Tensor:
        small = conv(F.max_pool3d(found, (size, size, 1), ceil_mode=True))
        large = F.interpolate(small, scale_factor=(size, size, 1), mode="trilinear", align_corners=False)
        return large[..., : found.shape[2], : found.shape[3], :]

    def lock_encoder(self, locked: bool = True) -> None:
        """Keep the encoder as it is while the decoder learns, running statistics included; or let it learn again."""
        self.locked = locked
        self.encoder.requires_grad_(not locked)
        self.train(self.training)

    def train(self, mode: bool = True) -> AHNet:
        super().train(mode)
        if self.locked:
            self.encoder.eval()
        return self

    @torch.no_grad()
    def copy_encoder(self, source: MultiChannelGCN) -> None:
        """Take over the 2D network's encoder, running statistics included where there are any: k x k kernels become
        k x k x 1.

        The first kernels (width, SLICES * in, 7, 7) become (width, in, 7, 7, SLICES): what were channels, slices beside
        each other, lies along the third axis now. Raises WeightsError if the encoders differ.
        """
        target, taken = self.encoder.state_dict(), source.encoder.state_dict()
        if isinstance(self.encoder.bn0, InstanceNorm):
            taken = {name: value for name, value in taken.items() if name.rsplit(".", 1)[-1] not in STATISTICS}
        if set(target) != set(taken):
            raise WeightsError("The 2D network has other layers than the 3D one; train both with the same settings.")
        for name, flat in taken.items():
            value = flat[..., None] if flat.ndim == 4 else flat
            if name == "conv1.weight":
                width, both, *kernel = flat.shape
                value = flat.view(width, both // SLICES, SLICES, *kernel).permute(0, 1, 3, 4, 2)
            if value.shape != target[name].shape:
                raise WeightsError(f"The 2D network's '{name}' has another size than the 3D one's.")
            target[name].copy_(value)


def adjacent_slices(volume: Tensor) -> Tensor:
    """Every slice with its neighbours as channels: (B, C, I, J, K) to (B * K, SLICES * C, I, J).

    Beyond the ends are zeros, as the 3D network's first convolution sees it.
    """
    padded = F.pad(volume, (1, 1))
    windows = padded.unfold(4, SLICES, 1)  # (B, C, I, J, K, SLICES)
    batch, channels, i, j, k, _ = windows.shape
    return windows.permute(0, 4, 1, 5, 2, 3).reshape(batch * k, channels * SLICES, i, j)


def enlarged(x: Tensor, shape: Sequence[int]) -> Tensor:
    """Twice as large along every axis that is smaller than `shape`, linearly, then cut to `shape`.

    Always by two: a voxel keeps its place whatever the image's size, which interpolation to a size does not.
    """
    axes = range(len(shape))
    factors = tuple(2.0 if x.shape[2 + axis] < shape[axis] else 1.0 for axis in axes)
    if any(factor > 1 for factor in factors):
        mode = "bilinear" if len(factors) == 2 else "trilinear"
        x = F.interpolate(x, scale_factor=factors, mode=mode, align_corners=False)
    kept: tuple[Any, ...] = (..., *(slice(0, n) for n in shape))
    return x[kept]


def _conv(dims: Dimensions, channels: int, out: int, kernel: int, stride: int = 1) -> nn.Module:
    if dims == 2:
        return nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    return nn.Conv3d(channels, out, (kernel, kernel, 1), (stride, stride, 1), (kernel // 2, kernel // 2, 0), bias=False)


def _norm(dims: Dimensions, channels: int) -> nn.Module:
    return nn.BatchNorm2d(channels) if dims == 2 else nn.BatchNorm3d(channels)
