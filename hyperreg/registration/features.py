"""What the network is shown of a pair: the images, and how their local correlation asks to be improved.

A U-Net that sees nothing but two images has to discover by itself that a displacement is a product of an intensity
difference and a gradient, for every contrast anew. The correlation features give it that product, as classical
registration computes it; what is left to learn is where to believe it and how to spread it.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from hyperreg.registration.filters import box_mean, central_gradient

WINDOW = 7
# Images are in 0..1; below this variance a window is noise.
LEAST_VARIANCE = 1e-4
# Twice a box of each width in voxels, the second on top of the first.
NEIGHBOURHOODS = (5, 5)
NEAR = 3
LEAST_TRUST = 1e-3
# Averaged steps are well below half a voxel; this brings them to the size of a displacement.
STEP_SCALE = 4.0


def images(fixed: Tensor, warped: Tensor) -> Tensor:
    """Both images as they are: (1, 2, I, J, K)."""
    return torch.cat((fixed, warped), dim=1)


def demons_step(fixed: Tensor, warped: Tensor) -> tuple[Tensor, Tensor]:
    """The demons step of a local fit (1, 3, I, J, K), voxels, and the squared correlation of that fit (1, 1, I, J, K).

    In a window around each voxel the warped image is fitted to the fixed one, a W + b; r is what is left of F, and
    g = a grad W. The step is r g / (|g|^2 + r^2) (Thirion 1998), at most half a voxel. Because of the fit it depends
    neither on the contrast nor on its sign; the correlation says how far to trust it.
    """
    maps = torch.cat((fixed, warped, fixed * fixed, warped * warped, fixed * warped), dim=1)
    f, w, ff, ww, fw = box_mean(maps, WINDOW).split(1, dim=1)
    variance_f, variance_w = ff - f * f, ww - w * w
    covariance = fw - f * w
    slope = covariance / (variance_w + LEAST_VARIANCE)
    residual = (fixed - f) - slope * (warped - w)
    gradient = slope * central_gradient(warped)
    step = residual * gradient / (gradient.square().sum(1, keepdim=True) + residual.square() + 1e-6)
    trust = covariance.square() / ((variance_f + LEAST_VARIANCE) * (variance_w + LEAST_VARIANCE))
    return step, trust


def correlation(fixed: Tensor, warped: Tensor) -> Tensor:
    """Images, and their demons step averaged over two sizes of neighbourhood, weighted by trust: (1, 8, I, J, K)."""
    return torch.cat((fixed, warped, *averaged_steps(fixed, warped)), dim=1)


def fine_correlation(fixed: Tensor, warped: Tensor) -> Tensor:
    """The same, then step and trust of a voxel's own neighbours alone, for the flexible end: (1, 12, I, J, K)."""
    return torch.cat((fixed, warped, *averaged_steps(fixed, warped, near=True)), dim=1)


def averaged_steps(fixed: Tensor, warped: Tensor, near: bool = False) -> list[Tensor]:
    """The demons step averaged over NEIGHBOURHOODS; if wanted also over NEAR, with the trust: (1, 3 or 1, I, J, K)."""
    step, trust = demons_step(fixed, warped)
    first = torch.cat((step * trust, trust), dim=1)
    averages = [first]
    for width in NEIGHBOURHOODS:
        averages.append(box_mean(box_mean(averages[-1], width), width))
    averages = averages[1:] + ([box_mean(first, NEAR)] if near else [])
    steps = [STEP_SCALE * average[:, :3] / (average[:, 3:] + LEAST_TRUST) for average in averages]
    return [*steps, averages[-1][:, 3:]] if near else steps


FEATURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "images": images,
    "correlation": correlation,
    "fine_correlation": fine_correlation,
}
CHANNELS = {"images": 2, "correlation": 8, "fine_correlation": 12}
