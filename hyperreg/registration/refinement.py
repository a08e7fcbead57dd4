"""Refinement: the network's field, improved on the images of this very pair (instance optimisation).

phi, the network's map, is followed by many small ones: phi <- phi o (id + d). Each d is small and smooth, so that its
inverse is known, too: phi^-1 <- (id + d)^-1 o phi^-1. As in greedy diffeomorphic registration (Joshi et al. 2004;
Yushkevich et al. 2016), d follows the gradient of the squared local correlation, which minds neither sign nor scale of
intensities, smoothed with a Gaussian and scaled to a fixed length, from coarse to fine.

lambda keeps its meaning: with it grow the width of the Gaussian and the diffusion of the displacement, which is the
descent of the smoothness term of the network's loss; (1 - lambda) weighs every step, so that at lambda = 1 nothing is
refined. It starts from the network's field at a stiff lambda: detail is better taken from the images themselves.
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
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.contrast import AUTOMATIC, SAME
from hyperreg.registration.detail import field_on
from hyperreg.registration.field import compose, from_ras, sample, to_ras
from hyperreg.registration.filters import central_gradient, gaussian_kernel, separable
from hyperreg.registration.grids import fade, image_grid
from hyperreg.registration.similarity import LEAST_BALANCE, LocalCorrelation, contrast_balance

# Voxels of the image along each axis of a voxel of the level, and how many steps it gets at most.
LEVELS = ((8, 60), (4, 60), (2, 40), (1, 10))
# Shapes have to be a multiple of this, so that the levels' voxels lie where they should.
MULTIPLE = max(factor for factor, _ in LEVELS)
# Larger pairs are refined on a coarser grid: it bounds time and memory.
MOST_VOXELS = 7_500_000
# Room around the foreground. The field fades to zero over all of it: where a neck leaves the picture, what lies outside
# may be displaced by many voxels, and would fold on a shorter way.
MARGIN_VOXELS = 8
# The network's field at this lambda, or a stiffer one, is the start.
START_LAMBDA = 0.7
# SD of the Gaussian that smooths the gradient, voxels of the level: at lambda = 0, and what lambda = 1 adds.
SMOOTHING_SD, SMOOTHING_SD_BY_LAMBDA = 2.0, 4.0
# Where the contrasts differ, less of the detail of one image has a counterpart in the other: the Gaussian is this many
# times as wide.
WIDER_ACROSS_CONTRASTS = 2.5
# Voxels of the image along each axis of a voxel of the level on which the contrasts are compared.
CONTRAST_FACTOR = 2
# The longest vector of a step at lambda = 0, voxels of the level.
STEP_VOXELS = 0.6
# Diffusion per step, as a share of the difference to each neighbour: at lambda = 0, and what lambda = 1 adds.
DIFFUSION, DIFFUSION_BY_LAMBDA = 0.03, 0.25
# A filter that evens out this share of the differences.
EVENED_SHARE = 0.15
EVEN_OUT = (EVENED_SHARE, 1 - 2 * EVENED_SHARE, EVENED_SHARE)
# A level ends when its last steps together have brought less than this share of what it has brought in all.
CHECK_EVERY = 5
LEAST_GAIN = 0.03
# Damped fixed-point steps that correct the inverse at the end.
CORRECTIONS = 10


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


def stiffest(lam: Tensor, factor: int) -> Tensor:
    """Lambda (1, 1, I, J, K) on a coarse level, so that what moves there does not reach into stiff regions when it is
    brought to finer ones: the largest in and beside each of its voxels."""
    if factor == 1:
        return lam
    return F.max_pool3d(F.max_pool3d(lam, factor), 3, stride=1, padding=1)


class Climb:
    """A map x + u(x), and y + w(y), its inverse, that climb the similarity of two images on one level.

    fixed, moving: (1, 1, I, J, K) in 0..1. forward, inverse: u and w, (1, 3, I, J, K), voxels.
    lam: lambda of every voxel, (1, 1, I, J, K), or (1, 1, 1, 1, 1). smoothing_sd: voxels.
    seen: the similarity before every step.
    """

    def __init__(
        self,
        fixed: Tensor,
        moving: Tensor,
        forward: Tensor,
        inverse: Tensor,
        lam: Tensor,
        smoothing_sd: float,
    ) -> None:
        self.moving, self.forward, self.inverse = moving, forward, inverse
        self.correlation = LocalCorrelation(fixed)
        self.smoothing = gaussian_kernel(smoothing_sd)
        self.freedom = 1 - lam
        self.diffusion = (DIFFUSION + DIFFUSION_BY_LAMBDA * lam) / EVENED_SHARE
        self.seen: list[float] = []

    def next_step(self) -> Tensor:
        """d, the next small displacement: (1, 3, I, J, K), voxels."""
        warped = sample(self.moving, self.forward, padding="border")
        value, by_intensity = self.correlation(warped)
        self.seen.append(float(value))
        step = separable(by_intensity * central_gradient(warped), self.smoothing, "zeros")
        step *= STEP_VOXELS / max(longest(step), 1e-12)
        step += self.diffusion * (separable(self.forward, EVEN_OUT, "repeat") - self.forward)
        return step * self.freedom

    def go(self, step: Tensor, invert: bool) -> None:
        """Follow a step; the inverse stays behind if not `invert`."""
        self.forward = compose(self.forward, step)
        if not invert:
            return
        # Of a step whose gradient is small: (id + d)^-1 = id - d o (id - d), up to the gradient squared.
        self.inverse = compose(-sample(step, -step, padding="border"), self.inverse)

    def finished(self) -> bool:
        """Whether the last steps have brought so little that more do not pay."""
        seen = self.seen
        if len(seen) <= 2 * CHECK_EVERY:
            return False
        return seen[-1] - seen[-1 - CHECK_EVERY] < LEAST_GAIN * (seen[-1] - seen[0])


def refine(
    fixed: Tensor,
    moving: Tensor,
    start: tuple[Tensor, Tensor],
    lam: Tensor,
    smoothing_sd: float,
    tell: Callable[[float], None],
) -> tuple[Tensor, Tensor, list[int]]:
    """A map and its inverse, u and w (1, 3, I, J, K), voxels, refined; and the steps done per level.

    fixed, moving: (1, 1, I, J, K) in 0..1, sizes multiples of MULTIPLE. start: u and w. lam, smoothing_sd: see `Climb`.
    tell: called twice in every step with the share done; may raise, to cancel.
    """
    forward, inverse = start
    costs = [steps / factor**3 for factor, steps in LEVELS]
    done: list[int] = []
    share = 0.0
    # On coarse levels only what is added to the given map is coarse: that map itself stays as it is.
    warped = sample(moving, forward, padding="border")
    coarser = LEVELS[0][0]
    nothing = torch.zeros(1, 3, *(size // coarser for size in fixed.shape[2:]), device=fixed.device)
    added, removed = nothing, nothing
    for number, (factor, steps) in enumerate(LEVELS):
        added, removed = finer(added, coarser // factor), finer(removed, coarser // factor)
        coarser = factor
        here = lam if lam.numel() == 1 else stiffest(lam, factor)
        climb = Climb(shrink(fixed, factor), shrink(warped, factor), added, removed, here, smoothing_sd)
        for step in range(steps):
            next_step = climb.next_step()
            # At full resolution a step takes a second or two: too long for a cancel to wait.
            tell(share)
            # Along the last level's steps, the slowest, the inverse is not kept: the corrections bring it there.
            climb.go(next_step, invert=factor > LEVELS[-1][0])
            share = (sum(costs[:number]) + costs[number] * (step + 1) / steps) / sum(costs)
            tell(share)
            if climb.finished():
                break
        added, removed = climb.forward, climb.inverse
        done.append(len(climb.seen))
    forward, inverse = compose(forward, added), compose(removed, inverse)
    # What is left of all steps' approximations, and of the last level: w(y) + u(y + w(y)) is zero for the inverse.
    for _ in range(CORRECTIONS):
        inverse = inverse - 0.5 * (inverse + sample(forward, inverse, padding="border"))
    return forward, inverse, done


@dataclass(frozen=True)
class Refined:
    """fields: on the refinement's grid. figures: as `LiveSession.metrics`. message: for the user, how it went.

    warning: a sentence for the user if it made the registration worse than the network had.
    """

    fields: Fields
    figures: dict[str, float | dict[int, float]]
    message: str
    warning: str | None = None

    @property
    def text(self) -> str:
        """Message and warning."""
        return f"{self.message} {self.warning}" if self.warning else self.message


@dataclass(frozen=True)
class RefinedFields:
    """fields: on the refinement's grid. steps: of all levels. same_contrast: see `similarity.contrast_balance`."""

    fields: Fields
    steps: int
    same_contrast: bool


class Refiner:
    """A pair at the resolution of its images, ready to be refined from any field and at any lambda.

    linear: (4, 4), fixed RAS to moving RAS, mm. grid: where the refined fields will lie; see `refined_grid`.
    foreground: the fixed image's, 1 inside, on any grid.
    """

    def __init__(
        self, fixed: Volume, moving: Volume, linear: npt.NDArray[np.float64], grid: Grid, foreground: Volume
    ) -> None:
        self.grid = grid
        self._affine = torch.from_numpy(grid.ijk_to_ras.copy())
        arrays = [
            resample_smoothed(fixed, grid).array,
            resample_smoothed(moving, grid, Transform((linear,))).array,
        ]
        self._fixed, self._moving = (torch.from_numpy(normalise(array))[None, None] for array in arrays)
        inside = torch.from_numpy(resample(foreground, grid, interpolation="nearest").array > 0)
        self._inside = inside[None, None, ::CONTRAST_FACTOR, ::CONTRAST_FACTOR, ::CONTRAST_FACTOR]

    @torch.inference_mode()
    def refine(
        self,
        start: Fields,
        lam: float,
        device: str,
        tell: Callable[[float], None],
        regions: Volume | None = None,
        contrast: str = AUTOMATIC,
    ) -> RefinedFields:
        """Fields refined from phi and phi^-1, RAS mm.

        start: phi and its inverse, on any grid. lam: the slider's lambda. tell: see `refine`. regions: lambda of every
        voxel on any grid, where it is not the slider's everywhere. contrast: one of `contrast.CONTRASTS`.
        """
        known = (field_on(field, self.grid, device) for field in (start.forward, start.inverse))
        forward, inverse = (from_ras(displacement, self._affine) for displacement in known)
        fixed, moving = self._fixed.to(device), self._moving.to(device)
        alike = self._balance(forward, device) > LEAST_BALANCE if contrast == AUTOMATIC else contrast == SAME
        smoothing_sd = SMOOTHING_SD + SMOOTHING_SD_BY_LAMBDA * lam
        everywhere = torch.full((1, 1, 1, 1, 1), lam, device=device)
        if regions is not None:
            lambdas = resample(regions, self.grid, fill=lam).array.astype(np.float32)
            everywhere = torch.from_numpy(lambdas)[None, None].to(device)
        forward, inverse, steps = refine(
            fixed,
            moving,
            (forward, inverse),
            everywhere,
            smoothing_sd if alike else smoothing_sd * WIDER_ACROSS_CONTRASTS,
            tell,
        )
        window = fade(self.grid.shape, MARGIN_VOXELS).to(device)
        fields = Fields(self._field(forward * window), self._field(inverse * window))
        return RefinedFields(fields, sum(steps), alike)

    @torch.inference_mode()
    def balance(self, start: Fields, device: str) -> float:
        """By what `refine` takes the images for one contrast or two: their `contrast_balance` under the start."""
        return self._balance(from_ras(field_on(start.forward, self.grid, device), self._affine), device)

    def _balance(self, forward: Tensor, device: str) -> float:
        warped = sample(self._moving.to(device), forward, padding="border")
        here, there = (shrink(image, CONTRAST_FACTOR) for image in (self._fixed.to(device), warped))
        return contrast_balance(here, there, self._inside.to(device))

    def _field(self, displacement: Tensor) -> DisplacementField:
        array = to_ras(displacement, self._affine)[0].cpu().numpy()
        return DisplacementField(np.ascontiguousarray(array), self.grid.ijk_to_ras)


def refined_grid(fixed: Grid, inside: npt.NDArray[np.bool_]) -> Grid:
    """As fine as the fixed image, around its foreground `inside` (I, J, K), within MOST_VOXELS."""
    return image_grid(fixed, inside, MARGIN_VOXELS, MULTIPLE, MOST_VOXELS)
