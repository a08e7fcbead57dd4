"""What the refinement climbs: the local correlation of two images; and whether two images are of one contrast."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from torch import Tensor

from hyperreg.registration.filters import box_kernel, separable

# Side of the window of the local correlation, voxels of the level.
WINDOW = 5
# Below this variance (of images in 0..1) a window is noise.
LEAST_VARIANCE = 1e-5
# Bins of the joint histogram along each axis.
BINS = 48
# The contrasts differ if a curve that may fall explains this much more of the variance than one that only rises. Pairs
# of one contrast gain less than 0.005, T1 with T2 and MRI with CT more than 0.04.
LEAST_GAIN = 0.02
# With fewer voxels nothing can be said.
LEAST_VOXELS = 500


class LocalCorrelation:
    """Mean squared local correlation with a fixed image (1, 1, I, J, K), and its gradient; of any sign and contrast."""

    def __init__(self, fixed: Tensor, width: int = WINDOW) -> None:
        self.fixed = fixed
        self.kernel = box_kernel(width)
        self.mean = separable(fixed, self.kernel, "zeros")
        self.variance = (separable(fixed * fixed, self.kernel, "zeros") - self.mean**2).clamp_min(0) + LEAST_VARIANCE

    def __call__(self, warped: Tensor) -> tuple[Tensor, Tensor]:
        """Mean over all voxels, and the derivative of the SUM over voxels by each voxel of `warped`: (1, 1, I, J, K).

        With c the covariance of a window, its squared correlation is c^2 / (vf vw); a window that contains voxel y
        adds 2 c / (vf vw) (F(y) - mean F) - 2 c^2 / (vf vw^2) (W(y) - mean W), over the window's size.
        """
        maps = torch.cat((warped, warped * warped, self.fixed * warped), dim=1)
        mean, square, product = separable(maps, self.kernel, "zeros").split(1, dim=1)
        variance = (square - mean * mean).clamp_min(0) + LEAST_VARIANCE
        covariance = product - self.mean * mean
        slope = covariance / (self.variance * variance)
        correlation = covariance * slope
        decay = correlation / variance
        sums = separable(torch.cat((slope, decay, decay * mean - slope * self.mean), 1), self.kernel, "zeros")
        return correlation.mean(), 2 * (sums[:, :1] * self.fixed - sums[:, 1:2] * warped + sums[:, 2:])


def _bins(image: Tensor) -> Tensor:
    """The bin of every voxel, counted from 0: flat, long."""
    return (image.flatten().clamp(0, 1) * (BINS - 1)).round().long()


def _histogram(rows: Tensor, columns: Tensor) -> Tensor:
    """How many voxels have bin i in the first image and j in the second: (BINS, BINS)."""
    return torch.bincount(rows * BINS + columns, minlength=BINS * BINS).view(BINS, BINS).float()


def same_contrast(fixed: Tensor, warped: Tensor) -> bool:
    """Whether a rising curve explains one image's intensities by the other's as well as any curve does.

    fixed, warped: (N,) intensities in 0..1 of roughly aligned voxels. The share of the variance that the best curve
    explains (the correlation ratio, Roche et al. 1998) is compared with that of the best rising one (isotonic
    regression), in both directions; the smaller gain counts. Dimmer, brighter and saturated images are of the same
    contrast; T1 and T2, or CT and MRI, are not. T1 and FLAIR can be: most of their tissues rank alike.
    """
    if fixed.numel() < LEAST_VOXELS:
        return True
    joint = _histogram(_bins(fixed), _bins(warped))
    return min(_gain_of_any_curve(joint), _gain_of_any_curve(joint.T)) < LEAST_GAIN


def _gain_of_any_curve(joint: Tensor) -> float:
    """How much more of the rows' variance any curve of the columns explains than a rising one, as a share of it.

    joint: histogram, (BINS, BINS). 0 if there is nothing to explain.
    """
    counts = joint.double().cpu().numpy()
    counts = counts[:, counts.sum(0) > 0]
    values, weights = np.arange(BINS, dtype=np.float64), counts.sum(0)
    if weights.size == 0:
        return 0.0
    means = values @ counts / weights
    mean = float(means @ weights / weights.sum())
    variance = float(counts.sum(1) @ (values - mean) ** 2)
    if variance == 0:
        return 0.0
    rising = isotonic_regression(means, weights=weights).x
    return float((means - mean) ** 2 @ weights - (rising - mean) ** 2 @ weights) / variance
