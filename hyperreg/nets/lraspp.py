"""MobileNetV3-Large with the segmentation head LR-ASPP, for slices and volumes.

Source: Howard et al., "Searching for MobileNetV3", arXiv 1905.02244; in three dimensions as in DeepSTAPLE. Layers are
MONAI's and torch's. Own, because torchvision's has two dimensions only and no choice of strides: crops around one
structure are so small that its first features, an eighth of their size, would hold nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn
from torch.nn import functional as F

Dimensions = Literal[2, 3]
FIRST, LAST, HEAD = 16, 960, 128
# The squeeze of a block is a quarter as wide as its expansion.
SQUEEZE = 4


class Stage(NamedTuple):
    """One inverted residual: kernel size, channels inside and after, squeeze and excitation, hard swish, whether it
    begins a group that halves the resolution, dilation.
    """

    kernel: int
    expansion: int
    channels: int
    squeeze: bool
    hard_swish: bool
    halves: bool = False
    dilation: int = 1


STAGES = (
    Stage(3, 16, 16, False, False),
    Stage(3, 64, 24, False, False, True),
    Stage(3, 72, 24, False, False),
    Stage(5, 72, 40, True, False, True),
    Stage(5, 120, 40, True, False),
    Stage(5, 120, 40, True, False),
    Stage(3, 240, 80, False, True, True),
    Stage(3, 200, 80, False, True),
    Stage(3, 184, 80, False, True),
    Stage(3, 184, 80, False, True),
    Stage(3, 480, 112, True, True),
    Stage(3, 672, 112, True, True),
    # Dilated instead of halved, as for segmentation.
    Stage(5, 672, 160, True, True, False, 2),
    Stage(5, 960, 160, True, True, False, 2),
    Stage(5, 960, 160, True, True, False, 2),
)
# The head also takes what the stage before this one gives.
LOW = 6


class LRASPP(nn.Module):
    """(B, in, *sizes) to logits (B, out, *sizes), any sizes of two or three dimensions.

    width: multiple of all channels. strides: of the first convolution and of the three groups that halve; (2, 2, 2, 2)
    is the paper's, (1, 2, 2, 2) for small crops.
    """

    def __init__(
        self,
        dims: Dimensions,
        in_channels: int,
        out_channels: int,
        width: float = 1.0,
        strides: Sequence[int] = (1, 2, 2, 2),
    ) -> None:
        super().__init__()
        first, *groups = strides
        channels = _scaled(FIRST, width)
        self.stem = _convolution(dims, in_channels, channels, 3, nn.Hardswish(), stride=first)
        stages = []
        for stage in STAGES:
            stride = groups.pop(0) if stage.halves else 1
            stages.append(InvertedResidual(dims, channels, stage, width, stride))
            channels = _scaled(stage.channels, width)
        self.low, self.high = nn.Sequential(*stages[:LOW]), nn.Sequential(*stages[LOW:])
        last, head = _scaled(LAST, width), _scaled(HEAD, width)
        convolution = Conv["conv", dims]
        self.last = _convolution(dims, channels, last, 1, nn.Hardswish())
        self.head = _convolution(dims, last, head, 1, nn.ReLU())
        self.scale = nn.Sequential(Pool["adaptiveavg", dims](1), convolution(last, head, 1, bias=False), nn.Sigmoid())
        self.low_classifier = convolution(_scaled(STAGES[LOW - 1].channels, width), out_channels, 1)
        self.high_classifier = convolution(head, out_channels, 1)
        self.mode = "bilinear" if dims == 2 else "trilinear"

    def forward(self, x: Tensor) -> Tensor:
        low = self.low(self.stem(x))
        high = self.last(self.high(low))
        high = self.head(high) * self.scale(high)
        high = F.interpolate(high, size=low.shape[2:], mode=self.mode, align_corners=False)
        logits = self.low_classifier(low) + self.high_classifier(high)
        return F.interpolate(logits, size=x.shape[2:], mode=self.mode, align_corners=False)


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze and excitation, projection; added to the input where sizes allow."""

    def __init__(self, dims: Dimensions, channels: int, stage: Stage, width: float, stride: int) -> None:
        super().__init__()
        inner, out = _scaled(stage.expansion, width), _scaled(stage.channels, width)
        self.adds = stride == 1 and channels == out

        def activation() -> nn.Module:
            return nn.Hardswish() if stage.hard_swish else nn.ReLU()

        parts: list[nn.Module] = []
        if inner != channels:
            parts.append(_convolution(dims, channels, inner, 1, activation()))
        parts.append(
            _convolution(
                dims, inner, inner, stage.kernel, activation(), stride=stride, groups=inner, dilation=stage.dilation
            )
        )
        if stage.squeeze:
            parts.append(Squeeze(dims, inner, _scaled(inner / SQUEEZE)))
        parts.append(_convolution(dims, inner, out, 1, nn.Identity()))
        self.body = nn.Sequential(*parts)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return x + found if self.adds else found


class Squeeze(nn.Module):
    """Channels weighted by what is in all of the image (squeeze and excitation)."""

    def __init__(self, dims: Dimensions, channels: int, inner: int) -> None:
        super().__init__()
        convolution = Conv["conv", dims]
        self.weights = nn.Sequential(
            Pool["adaptiveavg", dims](1),
            convolution(channels, inner, 1),
            nn.ReLU(),
            convolution(inner, channels, 1),
            nn.Hardsigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        weighted: Tensor = x * self.weights(x)
        return weighted


def _convolution(
    dims: Dimensions,
    channels: int,
    out: int,
    kernel: int,
    activation: nn.Module,
    *,
    stride: int = 1,
    groups: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    padding = (kernel - 1) // 2 * dilation
    convolution = Conv["conv", dims](
        channels, out, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    # The statistics follow ten times faster than the paper's: trainings here are a few hundred steps long.
    return nn.Sequential(convolution, Norm["batch", dims](out, eps=1e-3, momentum=0.1), activation)


def _scaled(channels: float, width: float = 1.0) -> int:
    """The multiple of eight nearest to so many channels, never less than 90 % of them."""
    wanted = channels * width
    found = max(8, int(wanted + 4) // 8 * 8)
    return found if found >= 0.9 * wanted else found + 8
