"""What the solver climbs: the local correlation of two images; and whether two images are of one contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperreg.registration.filters import box_kernel, separable

# Side of the window of the local correlation, voxels of the level.
WINDOW = 5
# Below this variance (of images in 0..1) a window is noise.
LEAST_VARIANCE = 1e-5
# A window in which less than this fraction counts is as one in which so much does.
LEAST_SHARE = 1e-3
# The balance of signs from which on two images are of one contrast; `python -m benchmarks contrasts` measures it.
LEAST_BALANCE = 0.9


class LocalCorrelation:
    """Squared local correlation with a fixed image (1, 1, I, J, K), and its gradient; of any sign and contrast.

    counted: how much each voxel counts, 0 to 1, the same shape: means are weighted by it, and windows count as much as
    the voxels in them (weighted, normalised correlation). None: all count.
    """

    def __init__(self, fixed: Tensor, width: int = WINDOW, counted: Tensor | None = None) -> None:
        self.fixed, self.counted = fixed, counted
        self.kernel = box_kernel(width)
        self.share = None
        if counted is not None:
            # Beyond the grid nothing is left out: where everything counts, this is the correlation without weights.
            self.share = (1 - separable(1 - counted, self.kernel, "zeros")).clamp_min(LEAST_SHARE)
        self.mean, square = self._means(fixed, fixed * fixed)
        self.variance = (square - self.mean**2).clamp_min(0) + LEAST_VARIANCE

    def _means(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """The mean of each in the window around every voxel."""
        together = torch.cat(maps, dim=1)
        if self.counted is not None:
            together = together * self.counted
        found = separable(together, self.kernel, "zeros")
        return (found if self.share is None else found / self.share).split(1, dim=1)

    def windows(self, warped: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Covariance with the fixed image, variance and mean of `warped` in the window around every voxel."""
        mean, square, product = self._means(warped, warped * warped, self.fixed * warped)
        return product - self.mean * mean, (square - mean * mean).clamp_min(0) + LEAST_VARIANCE, mean

    def gradient(self, warped: Tensor) -> Tensor:
        """The derivative of the SUM over all voxels by each voxel of `warped`: (1, 1, I, J, K).

        With c the covariance of a window, its squared correlation is c^2 / (vf vw); a window that contains voxel y
        adds 2 c / (vf vw) (F(y) - mean F) - 2 c^2 / (vf vw^2) (W(y) - mean W), over the window's size. Where voxels
        count differently, so much of it as y counts: a window's own weight is what its sums are divided by.
        """
        covariance, variance, mean = self.windows(warped)
        slope = covariance / (self.variance * variance)
        correlation = covariance * slope
        decay = correlation / variance
        sums = separable(torch.cat((slope, decay, decay * mean - slope * self.mean), 1), self.kernel, "zeros")
        gradient = 2 * (sums[:, :1] * self.fixed - sums[:, 1:2] * warped + sums[:, 2:])
        return gradient if self.counted is None else gradient * self.counted


def contrast_balance(fixed: Tensor, warped: Tensor, inside: Tensor) -> float:
    """How far what is brighter in one image is brighter in the other, too, -1 to 1: dimmer or saturated is the same.

    fixed, warped: roughly aligned, (1, 1, I, J, K) in 0..1. inside: the foreground, the same shape, bool.
    It is the balance of the squared local correlation with the sign of the correlation: nearly all of it is positive
    for one contrast even before images are well aligned; T1 and FLAIR agree at the ventricles, but not between grey and
    white matter; T1 and T2, or CT and MRI, agree hardly anywhere. 1 if there is nothing to tell by.
    """
    correlation = LocalCorrelation(fixed)
    covariance, variance, _mean = correlation.windows(warped)
    squared = (covariance * covariance / (correlation.variance * variance))[inside]
    total = float(squared.sum())
    return 1.0 if total == 0 else float((squared * covariance[inside].sign()).sum()) / total
