"""The backbones that a model card can name. Ours are thin choices among MONAI's networks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from hyperreg.catalogue import MALFORMED
from hyperreg.errors import WeightsError


def voxelmorph_unet(
    *, in_channels: int, channels: Sequence[int], unet_out_channels: int, final_channels: Sequence[int]
) -> nn.Module:
    """VoxelMorph's U-Net (Balakrishnan et al., arXiv 1809.05231) in MONAI's implementation.

    Takes what is shown of a pair, (B, in_channels, I, J, K), and gives a velocity (B, 3, I, J, K) in voxels.
    channels: pairs (down, up) from the top level to the bottom; each pair below the first halves the resolution.
    """
    from monai.networks.nets.voxelmorph import VoxelMorphUNet

    return VoxelMorphUNet(
        spatial_dims=3,
        in_channels=in_channels,
        unet_out_channels=unet_out_channels,
        channels=tuple(channels),
        final_conv_channels=tuple(final_channels),
    )


BACKBONES: dict[str, Callable[..., nn.Module]] = {"voxelmorph_unet": voxelmorph_unet}


def make_backbone(name: str, in_channels: int, options: Mapping[str, Any]) -> nn.Module:
    """Build the backbone that a card or training configuration names, for inputs of `in_channels` channels.

    Raises WeightsError for a name or options that this version does not know.
    """
    if name not in BACKBONES:
        raise WeightsError(f"The model needs the network '{name}', which this version does not have; update HyperReg.")
    try:
        return BACKBONES[name](in_channels=in_channels, **options)
    except MALFORMED as error:
        raise WeightsError(f"The model's description of its network '{name}' cannot be used: {error}") from error
