"""The losses that a configuration names, for cases of which only some structures were contoured."""

from __future__ import annotations

from collections.abc import Callable

import torch
from monai.losses import DiceCELoss, DiceLoss, FocalLoss
from torch import Tensor, nn

# A logit that leaves nothing to a class.
NEVER = -1e4


class Loss(nn.Module):
    """MONAI's loss of a name in `space.LOSSES`; the Dice terms are of the structures, pooled over the batch."""

    def __init__(self, name: str) -> None:
        super().__init__()
        dice = {"include_background": False, "to_onehot_y": True, "softmax": True, "batch": True}
        makers: dict[str, Callable[[], nn.Module]] = {
            "dice": lambda: DiceLoss(**dice),
            "dice_squared": lambda: DiceLoss(**dice, squared_pred=True),
            "cross_entropy": _CrossEntropy,
            "dice_cross_entropy": lambda: DiceCELoss(**dice),
            "dice_focal": lambda: _DiceFocal(DiceLoss(**dice), FocalLoss(to_onehot_y=True, use_softmax=True)),
        }
        self.loss = makers[name]()

    def forward(self, logits: Tensor, classes: Tensor, known: Tensor) -> Tensor:
        """Logits (B, channels, I, J, K), classes (B, I, J, K), known (B, channels) bool, to a scalar."""
        found: Tensor = self.loss(merge_unknown(logits, known), classes[:, None])
        return found


class _CrossEntropy(nn.Module):
    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        return nn.functional.cross_entropy(logits, classes[:, 0].long())


class _DiceFocal(nn.Module):
    """MONAI's DiceFocalLoss has a focal loss of independent regions (sigmoid), whatever its Dice is of."""

    def __init__(self, dice: nn.Module, focal: nn.Module) -> None:
        super().__init__()
        self.dice, self.focal = dice, focal

    def forward(self, logits: Tensor, classes: Tensor) -> Tensor:
        found: Tensor = self.dice(logits, classes) + self.focal(logits, classes)
        return found


def merge_unknown(logits: Tensor, known: Tensor) -> Tensor:
    """Logits in which classes that nobody contoured have become part of the background.

    Where an organ was not contoured, "background" means "background or that organ": their probabilities are added up,
    which neither rewards nor punishes finding it (marginal loss, Shi et al., arXiv 2007.03868).
    logits: (B, channels, I, J, K), background first. known: (B, channels), bool.
    """
    if bool(known.all()):
        return logits
    there = known[:, :, None, None, None]
    outside = there.clone()
    outside[:, 1:] = ~there[:, 1:]
    outside[:, 0] = True
    background = logits.masked_fill(~outside, float("-inf")).logsumexp(1, keepdim=True)
    return torch.cat((background, logits[:, 1:].masked_fill(~there[:, 1:], NEVER)), dim=1)
