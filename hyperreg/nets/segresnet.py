"""SegResNet with a variational branch that exists in training only.

Source: Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", arXiv 1810.11654. Layers are
MONAI's; what is ours is that reconstruction and code are handed out (MONAI adds their losses up unweighted), that
the standard deviation is estimated (MONAI fixes it by default, which leaves a layer without gradient), and, where it is
asked for, norms on the residual stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from monai.networks.nets import segresnet
from torch import Tensor, nn
from torch.nn import functional as F

from hyperreg.errors import WeightsError

BRANCH = "vae_"
HEADS = "deep_heads"
# log(std) is needed by the KL term: softplus underflows to 0 for very negative inputs.
SMALLEST_STD = 1e-4


class VaeOutput(NamedTuple):
    """What a network with a variational branch gives in training and evaluation.

    logits: (B, C, I, J, K). reconstruction: (B, images, I, J, K), on the scale of the images. mean, std: (B, codes) of
    the code's normal distribution.
    """

    logits: Tensor
    reconstruction: Tensor
    mean: Tensor
    std: Tensor


class DeepOutput(NamedTuple):
    """What a network under deep supervision gives in training.

    output: as without it. deeper: logits of the decoder's coarser levels, each half the size of the one before.
    """

    output: Tensor | VaeOutput
    deeper: tuple[Tensor, ...]


class SegResNet(segresnet.SegResNet):
    """(B, in, I, J, K) to logits (B, out, I, J, K); I, J, K are multiples of `multiple`.

    filters: of the first level, doubled at each (32 in the paper). gated: attention gates on the skips, see
    `AttentionGate`. dropout: of whole channels after the first convolution; the paper's is 0.2.
    normed: a norm on what each level hands on, which the paper has not: without it the deep levels' part of the sum can
    outgrow the skips that carry the detail.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        dropout: float | None = None,
        gated: bool = False,
        normed: bool = False,
    ) -> None:
        super().__init__(
            init_filters=filters,
            in_channels=in_channels,
            out_channels=out_channels,
            norm=_norm(filters),
            dropout_prob=dropout,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )
        self.gates = make_gates(filters, len(blocks_up)) if gated else None
        if normed:
            norm_stream(self, filters)

    @property
    def multiple(self) -> int:
        """What the sizes of an input must be multiples of."""
        return 2 ** (len(self.blocks_down) - 1)

    def decode(self, x: Tensor, down_x: list[Tensor]) -> Tensor:
        return decode(self, x, down_x)


class SegResNetVAE(segresnet.SegResNetVAE):
    """`SegResNet` with the variational branch: (B, in, *shape) to `VaeOutput`. For training; see `without_vae`.

    shape: the only input size there is (the branch has dense layers); multiples of 16 for the usual four levels.
    codes: length of the code: so many means and so many standard deviations. reconstructed: how many channels, the last
    ones of the input, are reconstructed; by default all. Other parameters as `SegResNet`'s.
    In evaluation the code is its mean, so that a result can be repeated. branch: False for steps that leave it out,
    which then give the logits alone. deep: a head on every level of the decoder, for deep supervision: in training the
    output is then a `DeepOutput`.
    Raises WeightsError for a shape that cannot be halved often enough.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        shape: Sequence[int],
        filters: int = 32,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        dropout: float | None = 0.2,
        gated: bool = False,
        normed: bool = False,
        codes: int = 128,
        reconstructed: int | None = None,
        deep: bool = False,
    ) -> None:
        multiple = 2 ** len(blocks_down)
        if len(shape) != 3 or any(n < multiple or n % multiple for n in shape):
            raise WeightsError(f"The training patch {tuple(shape)} must have three sides that {multiple} divides.")
        # The network to use afterwards; see `without_vae`.
        self.options: dict[str, Any] = {
            "in_channels": in_channels,
            "out_channels": out_channels,
            "filters": filters,
            "blocks_down": list(blocks_down),
            "blocks_up": list(blocks_up),
            "gated": gated,
            "normed": normed,
        }
        super().__init__(
            input_image_size=tuple(shape),
            vae_estimate_std=True,
            vae_nz=codes,
            init_filters=filters,
            in_channels=in_channels,
            out_channels=out_channels,
            norm=_norm(filters),
            dropout_prob=dropout,
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
        )
        self.reconstructed = in_channels if reconstructed is None else reconstructed
        self.vae_conv_final = self._make_final_conv(self.reconstructed)
        self.gates = make_gates(filters, len(blocks_up)) if gated else None
        if normed:
            norm_stream(self, filters)
        self.branch = True
        levels = range(1, len(blocks_up)) if deep else ()
        self.deep_heads = nn.ModuleList(nn.Conv3d(filters * 2**level, out_channels, 1) for level in levels)

    def decode(self, x: Tensor, down_x: list[Tensor]) -> Tensor:
        return decode(self, x, down_x)

    def forward(self, x: Tensor) -> VaeOutput | DeepOutput | Tensor:
        bottom, features = self.encode(x)
        seen: list[Tensor] = []
        logits = decode(self, bottom, features[::-1], seen)
        output = self._with_branch(logits, bottom) if self.branch else logits
        if not (self.training and len(self.deep_heads)):
            return output
        # The decoder's levels come coarsest first, the finest of them is the output's own.
        return DeepOutput(output, tuple(head(x) for head, x in zip(self.deep_heads, seen[-2::-1], strict=True)))

    def _with_branch(self, logits: Tensor, bottom: Tensor) -> VaeOutput:
        mean, std = self._code(bottom)
        # Reparameterised: the noise carries no gradient, mean and standard deviation do.
        code = mean + std * torch.randn_like(std) if self.training else mean
        return VaeOutput(logits, self._reconstruct(code), mean, std)

    def _code(self, bottom: Tensor) -> tuple[Tensor, Tensor]:
        flat = self.vae_down(bottom).flatten(1)
        return self.vae_fc1(flat), F.softplus(self.vae_fc2(flat)) + SMALLEST_STD

    def _reconstruct(self, code: Tensor) -> Tensor:
        x = F.relu(self.vae_fc3(code)).view(-1, self.smallest_filters, *self.fc_insize)
        x = self.vae_fc_up_sample(x)
        # The decoder's own layers, without skips: what the encoder knows has to be in the code.
        for up, block in zip(self.up_samples, self.up_layers, strict=True):
            x = block(up(x))
        reconstruction: Tensor = self.vae_conv_final(x)
        return reconstruction


def without_vae(network: SegResNetVAE) -> SegResNet:
    """The same network without its variational branch and deep heads, with the same logits, for inference.

    Raises WeightsError if anything but the branch would be lost.
    """
    plain = SegResNet(**network.options)
    # Dropout has no weights, so it needs no place in the plain network.
    missing, unexpected = plain.load_state_dict(network.state_dict(), strict=False)
    lost = [name for name in unexpected if not name.startswith((BRANCH, HEADS))]
    if missing or lost:
        raise WeightsError(f"The network does not fit without its branch: {[*missing, *lost]}.")
    return plain.train(network.training).to(next(network.parameters()).device)


def decode(network: Any, x: Tensor, features: Sequence[Tensor], seen: list[Tensor] | None = None) -> Tensor:
    """Bottom feature and the encoder's features, bottom first, to logits; the skips go through the gates if any.

    seen: gets the feature of each level, coarsest first.
    """
    for level, (up, block) in enumerate(zip(network.up_samples, network.up_layers, strict=True)):
        skip = features[level + 1]
        if network.gates is not None:
            skip = network.gates[level](x, skip)
        x = block(up(x) + skip)
        if seen is not None:
            seen.append(x)
    logits: Tensor = network.conv_final(x)
    return logits


class AttentionGate(nn.Module):
    """What of a skip is let through, judged by the coarser feature below it.

    Source: Lyu and Shu, "A two-stage cascade model with variational autoencoders and attention gates for MRI brain
    tumor segmentation", arXiv 2011.02881: alpha = up2(sigmoid(N(psi(relu(N(Wg g) + N(Wx x)))))), x alpha goes on, Wx
    with stride 2. The norms are over groups: batches of one or two patches have no statistics.
    MONAI's attention block needs both features at one size.
    coarse, fine, inner: channels of g, of x, and between (256, 128, 128 at the paper's lowest gate).
    """

    def __init__(self, coarse: int, fine: int, inner: int) -> None:
        super().__init__()
        self.coarse = nn.Sequential(nn.Conv3d(coarse, inner, 1), nn.GroupNorm(_groups(inner), inner))
        self.fine = nn.Sequential(nn.Conv3d(fine, inner, 2, stride=2), nn.GroupNorm(_groups(inner), inner))
        self.psi = nn.Sequential(nn.Conv3d(inner, 1, 1), nn.GroupNorm(1, 1))

    def alpha(self, g: Tensor, x: Tensor) -> Tensor:
        """The weights of x in 0..1: g (B, coarse, I, J, K), x (B, fine, 2I, 2J, 2K) to (B, 1, 2I, 2J, 2K)."""
        weights = torch.sigmoid(self.psi(F.relu(self.coarse(g) + self.fine(x))))
        return F.interpolate(weights, scale_factor=2, mode="trilinear", align_corners=False)

    def forward(self, g: Tensor, x: Tensor) -> Tensor:
        return x * self.alpha(g, x)


def make_gates(filters: int, levels: int) -> nn.ModuleList:
    """The gates of a decoder's levels, lowest first."""
    widths = [filters * 2**level for level in range(levels, -1, -1)]
    return nn.ModuleList(AttentionGate(coarse, fine, fine) for coarse, fine in pairwise(widths))


def norm_stream(network: Any, filters: int) -> None:
    """A norm behind each level on the way down and behind each enlargement on the way up."""
    for level, layer in enumerate(network.down_layers):
        width = filters * 2**level
        network.down_layers[level] = nn.Sequential(layer, nn.GroupNorm(_groups(width), width))
    for level, layer in enumerate(network.up_samples):
        width = filters * 2 ** (len(network.up_samples) - 1 - level)
        network.up_samples[level] = nn.Sequential(layer, nn.GroupNorm(_groups(width), width))


def _norm(filters: int) -> tuple[str, dict[str, int]]:
    return ("GROUP", {"num_groups": _groups(filters)})


def _groups(channels: int) -> int:
    """Eight groups as in the papers; as many as there are channels in a smaller network."""
    return next(n for n in (8, 4, 2, 1) if channels % n == 0)
