"""Refinement: the network's field, improved on the images of this very pair (instance optimisation).

phi, the network's map, is followed by many small ones: phi <- phi o (id + d). Each d is small and smooth, so that its
inverse is known, too: phi^-1 <- (id + d)^-1 o phi^-1. As in greedy diffeomorphic registration (Joshi et al. 2004;
Yushkevich et al. 2016), d follows the gradient of the local correlation, smoothed with a Gaussian and scaled to a fixed
length, from coarse to fine.

lambda keeps its meaning: (1 - lambda) weighs the step of the images, lambda a step of diffusion of the displacement,
which is the descent of the smoothness term of the network's loss. At lambda = 1 nothing is refined.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.imaging.intensity import normalise
from hyperreg.imaging.resampling import resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.detail import field_on
from hyperreg.registration.field import compose, from_ras, sample, to_ras
from hyperreg.registration.filters import box_kernel, central_gradient, gaussian_kernel, separable
from hyperreg.registration.grids import fade, image_grid

# Voxels of the image along each axis of a voxel of the level, and how many steps it gets at most.
LEVELS = ((8, 60), (4, 60), (2, 40), (1, 10))
# Shapes have to be a multiple of this, so that the levels' voxels lie where they should.
MULTIPLE = max(factor for factor, _ in LEVELS)
# Larger pairs are refined on a coarser grid: it bounds time and memory.
MOST_VOXELS = 7_500_000
MARGIN_VOXELS = 8
# Side of the window of the local correlation, and SD of the Gaussian that smooths its gradient, voxels of the level.
WINDOW = 5
SMOOTHING_SD = 1.7
# Below this variance (of images in 0..1) a window is noise.
LEAST_VARIANCE = 1e-5
# The longest vector of a step at lambda = 0, voxels of the level.
STEP_VOXELS = 1.0
# Diffusion per step at lambda = 0.5, as a share of the difference to each neighbour; more than MOST would be unstable.
DIFFUSION = 0.03
MOST_DIFFUSION = 0.15
# A level ends when its last steps together have brought less than this share of what it has brought in all.
CHECK_EVERY = 5
LEAST_GAIN = 0.03
# Damped fixed-point steps that correct the inverse at the end.
CORRECTIONS = 8


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


def longest(field: Tensor) -> float:
    """Length of the longest vector of a field (1, 3, I, J, K)."""
    return float(field.square().sum(1).max().sqrt())


def shrink(image: Tensor, factor: int) -> Tensor:
    """`image` on voxels `factor` times as long, after a low-pass of half their length."""
    if factor == 1:
        return image
    smooth = separable(image, gaussian_kernel(0.5 * factor), "repeat")
    return F.interpolate(smooth, scale_factor=1 / factor, mode="trilinear", align_corners=False)


def finer(field: Tensor, factor: int) -> Tensor:
    """A field in voxels on voxels that are `factor` times shorter."""
    if factor == 1:
        return field
    return factor * F.interpolate(field, scale_factor=factor, mode="trilinear", align_corners=False)


def diffusion(lam: float) -> float:
    """How much of the difference to each neighbour is evened out with a step."""
    return min(MOST_DIFFUSION, DIFFUSION * lam / max(1 - lam, 1e-6))


class Climb:
    """A map x + u(x), and y + w(y), its inverse, that climb the similarity of two images on one level.

    fixed, moving: (1, 1, I, J, K) in 0..1. forward, inverse: u and w, (1, 3, I, J, K), voxels. seen: the similarity
    before every step.
    """

    def __init__(self, fixed: Tensor, moving: Tensor, forward: Tensor, inverse: Tensor, lam: float) -> None:
        self.moving, self.forward, self.inverse = moving, forward, inverse
        self.correlation = LocalCorrelation(fixed)
        self.diffusion = diffusion(lam)
        self.length = STEP_VOXELS * (1 - lam)
        self.seen: list[float] = []

    def step(self) -> None:
        warped = sample(self.moving, self.forward, padding="border")
        value, by_intensity = self.correlation(warped)
        self.seen.append(float(value))
        step = separable(by_intensity * central_gradient(warped), gaussian_kernel(SMOOTHING_SD), "zeros")
        step *= self.length / max(longest(step), 1e-12)
        if self.diffusion > 0:
            kernel = (self.diffusion, 1 - 2 * self.diffusion, self.diffusion)
            step += separable(self.forward, kernel, "repeat") - self.forward
        self.forward = compose(self.forward, step)
        # Of a step whose gradient is small: (id + d)^-1 = id - d o (id - d), up to the gradient squared.
        self.inverse = compose(-sample(step, -step, padding="border"), self.inverse)

    def finished(self) -> bool:
        """Whether the last steps have brought so little that more do not pay."""
        seen = self.seen
        if len(seen) <= 2 * CHECK_EVERY:
            return False
        return seen[-1] - seen[-1 - CHECK_EVERY] < LEAST_GAIN * (seen[-1] - seen[0])


def refine(
    fixed: Tensor, moving: Tensor, forward: Tensor, inverse: Tensor, lam: float, tell: Callable[[float], None]
) -> tuple[Tensor, Tensor, list[int]]:
    """A map and its inverse, u and w (1, 3, I, J, K), voxels, refined; and the steps done per level.

    fixed, moving: (1, 1, I, J, K) in 0..1, sizes multiples of MULTIPLE. tell: called after every step with the share
    done; may raise, to cancel.
    """
    costs = [steps / factor**3 for factor, steps in LEVELS]
    done: list[int] = []
    # On coarse levels only what is added to the given map is coarse: that map itself stays as it is.
    start = sample(moving, forward, padding="border")
    coarser = LEVELS[0][0]
    nothing = torch.zeros(1, 3, *(size // coarser for size in fixed.shape[2:]), device=fixed.device)
    added, removed = nothing, nothing
    for number, (factor, steps) in enumerate(LEVELS):
        added, removed = finer(added, coarser // factor), finer(removed, coarser // factor)
        coarser = factor
        climb = Climb(shrink(fixed, factor), shrink(start, factor), added, removed, lam)
        for step in range(steps):
            climb.step()
            tell((sum(costs[:number]) + costs[number] * (step + 1) / steps) / sum(costs))
            if climb.finished():
                break
        added, removed = climb.forward, climb.inverse
        done.append(len(climb.seen))
    forward, inverse = compose(forward, added), compose(removed, inverse)
    # What the approximations of all steps have left: w(y) + u(y + w(y)) is zero for the inverse.
    for _ in range(CORRECTIONS):
        inverse = inverse - 0.5 * (inverse + sample(forward, inverse, padding="border"))
    return forward, inverse, done


@dataclass(frozen=True)
class Refined:
    """fields: on the refinement's grid. figures: as `LiveSession.metrics`. message: for the user, how it went."""

    fields: Fields
    figures: dict[str, float | dict[int, float]]
    message: str


class Refiner:
    """A pair at the resolution of its images, ready to be refined from any field and at any lambda.

    linear: (4, 4), fixed RAS to moving RAS, mm. grid: where the refined fields will lie; see `refined_grid`.
    """

    def __init__(self, fixed: Volume, moving: Volume, linear: npt.NDArray[np.float64], grid: Grid) -> None:
        self.grid = grid
        self._affine = torch.from_numpy(grid.ijk_to_ras.copy())
        arrays = [
            resample_smoothed(fixed, grid).array,
            resample_smoothed(moving, grid, Transform((linear,))).array,
        ]
        self._fixed, self._moving = (torch.from_numpy(normalise(array))[None, None] for array in arrays)

    @torch.inference_mode()
    def refine(self, start: Fields, lam: float, device: str, tell: Callable[[float], None]) -> tuple[Fields, list[int]]:
        """Fields refined from phi and phi^-1, RAS mm, and the steps done per level.

        start: phi and its inverse, on any grid. tell: see `refine`.
        """
        known = (field_on(field, self.grid, device) for field in (start.forward, start.inverse))
        forward, inverse = (from_ras(displacement, self._affine) for displacement in known)
        fixed, moving = self._fixed.to(device), self._moving.to(device)
        forward, inverse, steps = refine(fixed, moving, forward, inverse, lam, tell)
        window = fade(self.grid.shape).to(device)
        return Fields(self._field(forward * window), self._field(inverse * window)), steps

    def _field(self, displacement: Tensor) -> DisplacementField:
        array = to_ras(displacement, self._affine)[0].cpu().numpy()
        return DisplacementField(np.ascontiguousarray(array), self.grid.ijk_to_ras)


def refined_grid(fixed: Grid, inside: npt.NDArray[np.bool_]) -> Grid:
    """As fine as the fixed image, around its foreground `inside` (I, J, K), within MOST_VOXELS."""
    return image_grid(fixed, inside, MARGIN_VOXELS, MULTIPLE, MOST_VOXELS)
