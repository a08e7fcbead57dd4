"""The steps of the solver on one level, and the inverse of a map: pure functions of tensors, in voxels.

The map grows by many small steps: phi <- phi o (id + d). As in greedy diffeomorphic registration (Joshi et al. 2004;
Yushkevich et al. 2016), d follows the gradient of the squared local correlation, which minds neither sign nor scale of
intensities, smoothed with a Gaussian and scaled to a fixed length.

Steps cannot fold: d fades to zero towards the border of the grid, where displacements that do not would tear, and where
the map compresses space most, less of the similarity's step is taken and the displacement is evened out instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.registration.field import compose, jacobian_determinant, sample
from hyperreg.registration.filters import central_gradient, gaussian_kernel, largest_within, separable
from hyperreg.registration.forces import Pull
from hyperreg.registration.grids import fade
from hyperreg.registration.rigid import RigidMotion
from hyperreg.registration.similarity import LEAST_SHARE, LocalCorrelation


@dataclass(frozen=True)
class Level:
    """Voxels of the image along each axis of a voxel of the level, and how many steps it gets."""

    factor: int
    steps: int


# A stage is the levels up to its own; the last one is as fine as the images.
LEVELS = (Level(8, 20), Level(4, 14), Level(2, 16), Level(1, 5))
# Room around the foreground. Steps fade to zero over all of it: where a neck leaves the picture, what lies outside
# may be displaced by many voxels, and would fold on a shorter way.
MARGIN_VOXELS = 8
# The length of the first and of the last step of a level at lambda = 0, voxels of the level: 99 of 100 vectors are
# shorter, and none is longer. (Scaled by the longest vector alone, all others wait for a single voxel.)
FIRST_STEP_VOXELS, LAST_STEP_VOXELS = 0.6, 0.3
STEP_QUANTILE = 0.99
# How much of the direction of a step is that of the one before. Steps of one length go back and forth across the
# optimum; this evens them out, so that fewer come further.
MOMENTUM = 0.5
# A quantile of this many of the vectors is exact enough.
QUANTILE_SAMPLES = 20_000
# Diffusion per step, as a fraction of the difference to each neighbour: at lambda = 0, and what lambda = 1 adds.
DIFFUSION, DIFFUSION_BY_LAMBDA = 0.03, 0.25
# A filter that evens out this fraction of the differences.
EVENED_FRACTION = 0.15
EVEN_OUT = (EVENED_FRACTION, 1 - 2 * EVENED_FRACTION, EVENED_FRACTION)
# Local volume (Jacobian determinant) from which on space counts as compressed, and at which the similarity has no say
# any more.
COMPRESSED, FULLY_COMPRESSED = 0.35, 0.1
# Filter of what is left of a step there: where that changes abruptly, a step tears. It reaches no further than what is
# compressed was widened before.
WIDENED = 5
EASED = (1 / 16, 4 / 16, 6 / 16, 4 / 16, 1 / 16)
# Compression and masks are looked at before every so many steps.
LOOK_EVERY = 2
# Beside voxels that do not count, a smoothed gradient is divided by how much counts around it, but by no less than
# this: deep inside such a region only diffusion acts.
LEAST_NEARBY = 0.1
# Damped fixed-point steps towards the inverse: on the coarsest grid, and on each finer one.
INVERSE_STEPS, INVERSE_STEPS_FINER = 20, 6

Tick = Callable[[float], None]


def shrink(image: Tensor, factor: int, mask: Tensor | None = None) -> Tensor:
    """`image` on voxels `factor` times as long, after a low-pass of half their length. mask: 1 where it counts: what is
    left out has no share in the means."""
    if factor == 1:
        return image
    if mask is not None:
        return shrink(image * mask, factor) / shrink(mask, factor).clamp_min(LEAST_SHARE)
    smooth = separable(image, gaussian_kernel(0.5 * factor), "repeat")
    return F.interpolate(smooth, scale_factor=1 / factor, mode="trilinear", align_corners=False)


def finer(field: Tensor, factor: int) -> Tensor:
    """A field in voxels on voxels that are `factor` times shorter."""
    if factor == 1:
        return field
    return factor * F.interpolate(field, scale_factor=factor, mode="trilinear", align_corners=False)


def coarser(field: Tensor, factor: int) -> Tensor:
    """A field in voxels on voxels that are `factor` times longer: the mean of each."""
    return field if factor == 1 else F.avg_pool3d(field, factor) / factor


def stiffest(lam: Tensor, factor: int) -> Tensor:
    """Lambda (1, 1, I, J, K) on a coarse level, so that what moves there does not reach into stiff regions when it is
    brought to finer ones: the largest in and beside each of its voxels."""
    if factor == 1:
        return lam
    return largest_within(F.max_pool3d(lam, factor), 3)


def scaled(step: Tensor) -> Tensor:
    """A step (1, 3, I, J, K) whose STEP_QUANTILE of lengths is 1; longer vectors are cut to that length."""
    length = step.square().sum(1, keepdim=True).sqrt()
    some = length.flatten()[:: max(1, length.numel() // QUANTILE_SAMPLES)]
    typical = torch.quantile(some, STEP_QUANTILE)
    # Where nearly nothing has a gradient (a small organ in a large field of view) the longest vector decides.
    typical = torch.where(typical > 0.01 * length.max(), typical, length.max()).clamp_min(1e-12)
    return step / length.clamp_min(typical)


def cut(step: Tensor) -> Tensor:
    """A step (B, 3, I, J, K) without vectors longer than the first step of a level.

    Where a displacement is rough, evening it out may ask for many voxels, and such a step would tear it instead.
    """
    length = step.square().sum(1, keepdim=True).sqrt()
    return step * (FIRST_STEP_VOXELS / length.clamp_min(FIRST_STEP_VOXELS))


def room_to_compress(displacement: Tensor) -> Tensor:
    """How much of a step each voxel may take, 0 to 1: (1, 1, I, J, K); less where the map x + u(x), (1, 3, I, J, K),
    compresses space to less than COMPRESSED of its volume."""
    # A determinant of forward differences is one of the cell between a voxel and the next ones.
    volume = F.pad(jacobian_determinant(displacement)[:, None], (0, 1, 0, 1, 0, 1), mode="replicate")
    room = ((-largest_within(-volume, WIDENED) - FULLY_COMPRESSED) / (COMPRESSED - FULLY_COMPRESSED)).clamp(0, 1)
    return separable(room, EASED, "repeat")


def climb(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    lam: Tensor,
    smoothing_sd: float,
    level: Level,
    tick: Tick,
    counted: Callable[[Tensor], Tensor] | None = None,
    pull: Pull | None = None,
    rigid: Callable[[Tensor], RigidMotion] | None = None,
) -> Tensor:
    """A map x + u(x) after the steps of one level: the shape of `displacement`, voxels of the level.

    fixed, moving: (1, 1, I, J, K) in 0..1, on the level's voxels. displacement: u to start from, (1, 3, I, J, K); or
    two, (2, 3, I, J, K), if both images move towards a middle, first that of the moving and then that of the fixed one.
    lam: lambda of every voxel, (1, 1, I, J, K), or (1, 1, 1, 1, 1). smoothing_sd: voxels. tick: called several times
    in every step with the fraction done; may raise, to cancel. counted: gives how much each voxel counts under a map,
    0 to 1, (1, 1, I, J, K): where none does, the displacement is carried on from the surroundings.
    pull: landmarks that pull. rigid: gives the bodies on the level; it is told where steps fade to zero, (I, J, K).
    """
    correlation, smoothing = LocalCorrelation(fixed), gaussian_kernel(smoothing_sd)
    shape = (fixed.shape[2], fixed.shape[3], fixed.shape[4])
    window = fade(shape, MARGIN_VOXELS / level.factor).to(fixed)
    freedom = (1 - lam) * window
    bodies = None if rigid is None else rigid(window)
    diffusion = (DIFFUSION + DIFFUSION_BY_LAMBDA * lam) / EVENED_FRACTION
    room = nearby = torch.ones(1, 1, 1, 1, 1).to(fixed)
    here: Tensor | None = None
    middle = len(displacement) > 1
    images = torch.cat((moving, fixed)) if middle else moving
    lengths = torch.linspace(FIRST_STEP_VOXELS, LAST_STEP_VOXELS, level.steps).tolist()
    direction: Tensor | None = None
    for step in range(level.steps):
        # On the finest level a step takes a second or two: too long for a cancel to wait.
        tick(step / level.steps)
        warped = sample(images, displacement, padding="border")
        look = step % LOOK_EVERY == 0
        if counted is not None and look:
            here = counted(displacement)
            nearby = (1 - separable(1 - here, smoothing, "zeros")).clamp_min(LEAST_NEARBY)
        if middle or (counted is not None and look):
            correlation = LocalCorrelation(warped[1:] if middle else fixed, counted=here)
        tick((step + 0.25) / level.steps)
        force = correlation.gradient(warped[:1]) * central_gradient(warped[:1])
        if middle:
            other = LocalCorrelation(warped[:1], counted=here)
            force -= other.gradient(warped[1:]) * central_gradient(warped[1:])
        tick((step + 0.5) / level.steps)
        if look:
            room = room_to_compress(displacement).amin(dim=0, keepdim=True)
        uphill = scaled(separable(force, smoothing, "zeros") / nearby)
        direction = uphill if direction is None else torch.lerp(uphill, direction, MOMENTUM)
        change = _shared(direction * (lengths[step] * room), middle)
        tick((step + 0.75) / level.steps)
        change += (diffusion + (1 - room)) * (separable(displacement, EVEN_OUT, "repeat") - displacement)
        change = cut(change * freedom)
        if pull is not None:
            near, towards = pull.step(displacement)
            change = (1 - near) * change + _shared(towards * room * window, middle)
        if bodies is not None:
            change = bodies.stiffen(change)
        displacement = compose(displacement, change)
        if bodies is not None:
            displacement = bodies.correct(displacement)
    return displacement


def _shared(step: Tensor, middle: bool) -> Tensor:
    """A step of the moving image, or half of it for each image: (1, 3, I, J, K) or (2, 3, I, J, K)."""
    return torch.cat((step / 2, step / -2)) if middle else step


def inverse_of(displacement: Tensor, factor: int, coarsest: int = LEVELS[0].factor) -> Tensor:
    """w with w(y) + u(y + w(y)) = 0, coarse to fine: (1, 3, I, J, K), voxels.

    displacement: u, on voxels of `factor` of the image; its shape is divisible down to those of `coarsest`.
    """
    if factor >= coarsest:
        found, steps = -displacement, INVERSE_STEPS
    else:
        found, steps = finer(inverse_of(coarser(displacement, 2), 2 * factor, coarsest), 2), INVERSE_STEPS_FINER
    for _ in range(steps):
        found = found - 0.5 * (found + sample(displacement, found, padding="border"))
    return found
