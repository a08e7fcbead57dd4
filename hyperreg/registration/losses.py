"""What registration minimises. Images and fields are (B, C, I, J, K); every loss is a scalar, lower is better."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.registration.filters import box_mean


def local_ncc(fixed: Tensor, warped: Tensor, width: int = 9) -> Tensor:
    """Squared local correlation coefficient per voxel (Avants et al. 2008): (B, 1, I, J, K) in [0, 1]."""
    maps = torch.cat((fixed, warped, fixed * fixed, warped * warped, fixed * warped), dim=1)
    f, w, ff, ww, fw = box_mean(maps, width).split(fixed.shape[1], dim=1)
    covariance = fw - f * w
    variances = (ff - f * f).clamp_min(0) * (ww - w * w).clamp_min(0)
    # Images are scaled to 0..1: below this product of variances a window is flat and says nothing.
    return covariance * covariance / (variances + 1e-7)


def lncc_loss(fixed: Tensor, warped: Tensor, width: int = 9) -> Tensor:
    """1 - mean local NCC."""
    return 1 - local_ncc(fixed, warped, width).mean()


def mse_loss(fixed: Tensor, warped: Tensor, sigma: float = 0.05) -> Tensor:
    """Mean squared difference over sigma^2, as VoxelMorph scales it: sigma is the expected noise of 0..1 images."""
    return F.mse_loss(warped, fixed) / sigma**2


def mind(image: Tensor, width: int = 3) -> Tensor:
    """Modality-independent neighbourhood descriptor on the six face neighbours (Heinrich et al. 2012): (B, 6, I, J, K).

    exp(-D / V): D the patch distance to each neighbour, V their mean; scaled so that the largest entry is 1.
    """
    distances = []
    for axis in range(3):
        for shift in (-1, 1):
            shifted = torch.roll(image, shift, dims=2 + axis)
            distances.append(box_mean((image - shifted) ** 2, width))
    distance = torch.cat(distances, dim=1)
    distance = distance - distance.amin(dim=1, keepdim=True)
    variance = distance.mean(dim=1, keepdim=True)
    middle = variance.mean().detach()
    variance = variance.clamp(middle * 1e-3 + 1e-12, middle * 1e3 + 1e-6)
    return torch.exp(-distance / variance)


def mind_loss(fixed: Tensor, warped: Tensor, width: int = 3) -> Tensor:
    """Mean absolute difference of the MIND descriptors: for images of different modalities."""
    return (mind(fixed, width) - mind(warped, width)).abs().mean()


def dice_loss(fixed: Tensor, warped: Tensor) -> Tensor:
    """1 - mean soft Dice over the labels that either map contains. Maps: one-hot or probabilities (B, L, I, J, K)."""
    axes = (2, 3, 4)
    overlap = 2 * (fixed * warped).sum(axes)
    total = fixed.sum(axes) + warped.sum(axes)
    present = total > 0
    if not bool(present.any()):
        return total.sum() * 0
    return 1 - (overlap[present] / total[present]).mean()


def diffusion(velocity: Tensor) -> Tensor:
    """Mean squared forward difference of a field (voxels): the smoothness term of VoxelMorph and HyperMorph."""
    return sum((torch.diff(velocity, dim=axis) ** 2).mean() for axis in (2, 3, 4)) / 3  # type: ignore[return-value]


def hyper_loss(similarity: Tensor, smoothness: Tensor, lam: Tensor | float) -> Tensor:
    """HyperMorph's loss: (1 - lambda) L_sim + lambda L_smooth."""
    return (1 - lam) * similarity + lam * smoothness


def semi_supervised_hyper_loss(
    similarity: Tensor, smoothness: Tensor, overlap: Tensor, lam: Tensor | float, gamma: Tensor | float
) -> Tensor:
    """With label maps: (1 - lambda) ((1 - gamma) L_sim + gamma L_seg) + lambda L_smooth.

    HyperMorph's own form (Hoopes et al., arXiv 2101.01035): lambda = 1 means the most rigid whatever gamma is. The form
    without (1 - lambda) before L_seg, which one also finds, has no rigid end (see docs/developer-guide.md).
    """
    return hyper_loss((1 - gamma) * similarity + gamma * overlap, smoothness, lam)
