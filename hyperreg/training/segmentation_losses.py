"""Losses of segmentation, and of the variational branch that goes along with it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import TverskyLoss
from torch import Tensor

from hyperreg.nets.segresnet import VaeOutput
from hyperreg.training.segmentation_config import LossConfig, VaeConfig

# A class of fewer voxels, or of none, is weighted as if it had this share of them.
SMALLEST_SHARE = 1e-5
# Added to numerator and denominator of a structure's overlap, as half of it is to Dice's.
SMOOTH = 5e-4


def merge_unknown(logits: Tensor, target: Tensor, unknown: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and target (B, classes, ...) in which the unknown classes count as background.

    The background's probability becomes its own plus theirs, and their channels are left out: the network is free to
    find them wherever the target has background, and nowhere else. Source: the marginal loss of Shi et al., "Marginal
    loss and exclusion loss for partially supervised multi-organ segmentation", arXiv 2007.03868.
    """
    if not unknown:
        return logits, target
    merged = [0, *sorted(unknown)]
    known = [n for n in range(1, logits.shape[1]) if n not in merged]
    background = logits[:, merged].logsumexp(1, keepdim=True)
    rest = target[:, merged].sum(1, keepdim=True)
    return torch.cat((background, logits[:, known]), 1), torch.cat((rest, target[:, known]), 1)


def segmentation_loss(
    logits: Tensor, target: Tensor, weights: LossConfig, unknown: Sequence[int] = ()
) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum and its parts (without gradients): logits and target (B, classes, ...), background first.

    target: shares of the classes in each voxel. unknown: classes that were not looked for, see `merge_unknown`.
    dice: 1 - Dice, the mean over the structures (MONAI's); with a recall other than a half, Tversky's index in its
    place, which weights missed voxels by it and false ones by 1 - recall (Salehi et al., arXiv 1706.05721).
    cross_entropy: classes weighted by (share of the voxels)^-balance, so that small structures count; the mean weight
    of a voxel is 1.
    """
    logits, target = merge_unknown(logits, target, unknown)
    parts: dict[str, Tensor] = {}
    total = logits.new_zeros(())
    if weights.dice and logits.shape[1] > 1:
        parts["dice_loss"] = _overlap(weights.recall)(logits, target)
        total = total + weights.dice * parts["dice_loss"]
    if weights.cross_entropy:
        parts["cross_entropy"] = F.cross_entropy(logits, target, weight=_class_weights(target, weights.balance))
        total = total + weights.cross_entropy * parts["cross_entropy"]
    if weights.focal:
        parts["focal"] = focal_l2(logits.softmax(1), target, weights.gamma)
        total = total + weights.focal * parts["focal"]
    return total, {name: part.detach() for name, part in parts.items()}


def _overlap(recall: float) -> TverskyLoss:
    return TverskyLoss(
        include_background=False,
        softmax=True,
        batch=True,
        alpha=1 - recall,
        beta=recall,
        smooth_nr=SMOOTH,
        smooth_dr=SMOOTH,
    )


def _class_weights(target: Tensor, balance: float) -> Tensor | None:
    if not balance:
        return None
    shares = target.transpose(0, 1).flatten(1).mean(1)
    weights = shares.clamp_min(SMALLEST_SHARE) ** -balance
    return weights / (shares * weights).sum()


def focal_l2(probabilities: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Mean of (D / Dmax)^gamma D, D the squared difference in each voxel and channel, Dmax its largest in the case.

    AH-Net's focal loss in our reading: as it is printed it weights easy voxels up, against its own words. The weight
    carries no gradient. gamma 0 is the mean squared difference.
    """
    difference = (probabilities - target).square()
    largest = difference.detach().flatten(1).amax(1).clamp_min(1e-6)
    shape = (-1, *(1 for _ in difference.shape[1:]))
    return ((difference.detach() / largest.view(shape)) ** gamma * difference).mean()


def vae_loss(output: VaeOutput, images: Tensor, weights: VaeConfig) -> tuple[Tensor, dict[str, Tensor]]:
    """Weighted sum of reconstruction and KL, and its parts (without gradients).

    reconstruction: mean squared difference from the images, of which it may be the last channels. kl: of the code's
    normal distribution from the standard one, mean over the codes.
    """
    wanted = images[:, images.shape[1] - output.reconstruction.shape[1] :]
    reconstruction = F.mse_loss(output.reconstruction.float(), wanted)
    mean, variance = output.mean.float(), output.std.float().square()
    kl = 0.5 * (mean.square() + variance - torch.log(variance) - 1).mean()
    parts = {"reconstruction": reconstruction.detach(), "kl": kl.detach()}
    return weights.reconstruction * reconstruction + weights.kl * kl, parts
