"""What the solver climbs: the local correlation of two images; and whether two images are of one contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from hyperreg.registration.filters import box_kernel, separable

# Side of the window of the local correlation, voxels of the level.
WINDOW = 5
# Below this variance (of images in 0..1) a window is noise.
LEAST_VARIANCE = 1e-5
# The balance of signs from which on two images are of one contrast; `python -m benchmarks contrasts` measures it.
LEAST_BALANCE = 0.9


class LocalCorrelation:
    """Squared local correlation with a fixed image (1, 1, I, J, K), and its gradient; of any sign and contrast."""

    def __init__(self, fixed: Tensor, width: int = WINDOW) -> None:
        self.fixed = fixed
        self.kernel = box_kernel(width)
        self.mean = separable(fixed, self.kernel, "zeros")
        self.variance = (separable(fixed * fixed, self.kernel, "zeros") - self.mean**2).clamp_min(0) + LEAST_VARIANCE

    def windows(self, warped: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Covariance with the fixed image, variance and mean of `warped` in the window around every voxel."""
        maps = torch.cat((warped, warped * warped, self.fixed * warped), dim=1)
        mean, square, product = separable(maps, self.kernel, "zeros").split(1, dim=1)
        return product - self.mean * mean, (square - mean * mean).clamp_min(0) + LEAST_VARIANCE, mean

    def gradient(self, warped: Tensor) -> Tensor:
        """The derivative of the SUM over all voxels by each voxel of `warped`: (1, 1, I, J, K).

        With c the covariance of a window, its squared correlation is c^2 / (vf vw); a window that contains voxel y
        adds 2 c / (vf vw) (F(y) - mean F) - 2 c^2 / (vf vw^2) (W(y) - mean W), over the window's size.
        """
        covariance, variance, mean = self.windows(warped)
        slope = covariance / (self.variance * variance)
        correlation = covariance * slope
        decay = correlation / variance
        sums = separable(torch.cat((slope, decay, decay * mean - slope * self.mean), 1), self.kernel, "zeros")
        return 2 * (sums[:, :1] * self.fixed - sums[:, 1:2] * warped + sums[:, 2:])


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
