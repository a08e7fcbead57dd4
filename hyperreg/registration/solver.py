"""The solver: the field of one lambda, found on the images of this very pair, from the linear alignment on.

The map grows by many small steps: phi <- phi o (id + d). As in greedy diffeomorphic registration (Joshi et al. 2004;
Yushkevich et al. 2016), d follows the gradient of the squared local correlation, which minds neither sign nor scale of
intensities, smoothed with a Gaussian and scaled to a fixed length, from coarse to fine.

lambda is in every step: with it grow the width of the Gaussian and the diffusion of the displacement, which is the
descent of the smoothness term of the loss; (1 - lambda) weighs every step, so that at lambda = 1 nothing is deformed.
The number of steps is fixed and every lambda is solved for itself: the path over lambda is smooth, and fields between
two values can be interpolated. (Warm starts from a neighbouring lambda drift, an early stop makes the path jump.)

Steps cannot fold: d fades to zero towards the border of the grid, where displacements that do not would tear, and where
the map compresses space most, less of the similarity's step is taken and the displacement is evened out instead.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

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
from hyperreg.registration.field import compose, jacobian_determinant, sample, to_ras
from hyperreg.registration.filters import central_gradient, gaussian_kernel, separable
from hyperreg.registration.grids import coarser_grid, fade, image_grid
from hyperreg.registration.regions import Regions
from hyperreg.registration.similarity import LEAST_BALANCE, LEAST_SHARE, LocalCorrelation, contrast_balance
from hyperreg.registration.stages import Stage


@dataclass(frozen=True)
class Level:
    """Voxels of the image along each axis of a voxel of the level, and how many steps it gets."""

    factor: int
    steps: int


# A stage is the levels up to its own; the last one is as fine as the images.
LEVELS = (Level(8, 20), Level(4, 20), Level(2, 20), Level(1, 5))
# A coarser level than that says nothing: each of its voxels holds several structures.
MIN_LEVEL_VOXELS = 1500
# What users see of the levels: name and title of the stage that ends with it. The coarsest is nothing to look at.
STAGES = {4: ("draft", "First draft"), 2: ("quick", "Quick result"), 1: ("full", "Full resolution")}
# Fields are kept and shown on voxels of this many of the image: a finer grid would cost eight times the memory, and
# moves hardly anything.
FIELD_FACTOR = 2
# Shapes have to be a multiple of this, so that the levels' voxels lie where they should.
MULTIPLE = max(level.factor for level in LEVELS)
# Larger pairs are solved on a coarser grid: it bounds time and memory.
MAX_VOXELS = 7_500_000
# Room around the foreground. Steps fade to zero over all of it: where a neck leaves the picture, what lies outside
# may be displaced by many voxels, and would fold on a shorter way.
MARGIN_VOXELS = 8
# SD of the Gaussian that smooths the gradient, voxels of the level: at lambda = 0, and what lambda = 1 adds.
SMOOTHING_SD, SMOOTHING_SD_BY_LAMBDA = 2.0, 4.0
# Where the contrasts differ, less of the detail of one image has a counterpart in the other: the Gaussian is this many
# times as wide.
WIDER_ACROSS_CONTRASTS = 2.5
# The length of a step at lambda = 0, voxels of the level: 99 of 100 vectors are shorter, and none is longer. (Scaled by
# the longest vector alone, all others wait for a single voxel.)
STEP_VOXELS = 0.6
STEP_QUANTILE = 0.99
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
# Compression and masks are looked at before every so many steps.
LOOK_EVERY = 3
# Beside voxels that do not count, a smoothed gradient is divided by how much counts around it, but by no less than
# this: deep inside such a region only diffusion acts.
LEAST_NEARBY = 0.1
# Damped fixed-point steps towards the inverse: on the coarsest grid, and on each finer one.
INVERSE_STEPS, INVERSE_STEPS_FINER = 20, 6
# The contrasts are compared under the draft at this lambda, on voxels of this many of the image.
CONTRAST_LAMBDA, CONTRAST_FACTOR = 0.7, 2
# Maps of the latest lambdas that are kept for the next stage.
KEPT_MAPS = 24

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
    return F.max_pool3d(F.max_pool3d(lam, factor), 3, stride=1, padding=1)


def scaled(step: Tensor) -> Tensor:
    """A step (1, 3, I, J, K) whose STEP_QUANTILE of lengths is STEP_VOXELS; longer vectors are cut to that length."""
    length = step.square().sum(1, keepdim=True).sqrt()
    some = length.flatten()[:: max(1, length.numel() // QUANTILE_SAMPLES)]
    typical = torch.quantile(some, STEP_QUANTILE)
    # Where nearly nothing has a gradient (a small organ in a large field of view) the longest vector decides.
    typical = torch.where(typical > 0.01 * length.max(), typical, length.max()).clamp_min(1e-12)
    return step * (STEP_VOXELS / length.clamp_min(typical))


def room_to_compress(displacement: Tensor) -> Tensor:
    """How much of a step each voxel may take, 0 to 1: (1, 1, I, J, K); less where the map x + u(x), (1, 3, I, J, K),
    compresses space to less than COMPRESSED of its volume."""
    # A determinant of forward differences is one of the cell between a voxel and the next ones.
    volume = F.pad(jacobian_determinant(displacement)[:, None], (0, 1, 0, 1, 0, 1), mode="replicate")
    largest = -volume
    for size in ((3, 1, 1), (1, 3, 1), (1, 1, 3)):  # axis by axis: a third of the time of the whole cube at once
        largest = F.max_pool3d(largest, size, stride=1, padding=tuple(n // 2 for n in size))
    room = ((-largest - FULLY_COMPRESSED) / (COMPRESSED - FULLY_COMPRESSED)).clamp(0, 1)
    return separable(room, (0.25, 0.5, 0.25), "repeat")


def climb(
    fixed: Tensor,
    moving: Tensor,
    displacement: Tensor,
    lam: Tensor,
    smoothing_sd: float,
    level: Level,
    tick: Tick,
    counted: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """A map x + u(x) after the steps of one level: (1, 3, I, J, K), voxels of the level.

    fixed, moving: (1, 1, I, J, K) in 0..1, on the level's voxels. displacement: u to start from.
    lam: lambda of every voxel, (1, 1, I, J, K), or (1, 1, 1, 1, 1). smoothing_sd: voxels. tick: called several times
    in every step with the fraction done; may raise, to cancel. counted: gives how much each voxel of the fixed image
    counts under a map, 0 to 1, (1, 1, I, J, K): where none does, the displacement is carried on from the surroundings.
    """
    correlation, smoothing = LocalCorrelation(fixed), gaussian_kernel(smoothing_sd)
    shape = (fixed.shape[2], fixed.shape[3], fixed.shape[4])
    freedom = (1 - lam) * fade(shape, MARGIN_VOXELS / level.factor).to(fixed)
    diffusion = (DIFFUSION + DIFFUSION_BY_LAMBDA * lam) / EVENED_FRACTION
    room = nearby = torch.ones(1, 1, 1, 1, 1).to(fixed)
    for step in range(level.steps):
        # On the finest level a step takes a second or two: too long for a cancel to wait.
        tick(step / level.steps)
        warped = sample(moving, displacement, padding="border")
        if counted is not None and step % LOOK_EVERY == 0:
            here = counted(displacement)
            correlation = LocalCorrelation(fixed, counted=here)
            nearby = separable(here, smoothing, "zeros").clamp_min(LEAST_NEARBY)
        tick((step + 0.25) / level.steps)
        force = correlation.gradient(warped) * central_gradient(warped)
        tick((step + 0.5) / level.steps)
        if step % LOOK_EVERY == 0:
            room = room_to_compress(displacement)
        change = scaled(separable(force, smoothing, "zeros") / nearby) * room
        tick((step + 0.75) / level.steps)
        change += (diffusion + (1 - room)) * (separable(displacement, EVEN_OUT, "repeat") - displacement)
        displacement = compose(displacement, change * freedom)
    return displacement


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


class Solver:
    """A pair whose field can be found at any lambda, stage by stage.

    linear: (4, 4), fixed RAS to moving RAS, mm. foreground: the fixed image's, 1 inside, on its own grid.
    contrast: one of `contrast.CONTRASTS`. fixed_mask, moving_mask: what counts of each image for the similarity (not
    0), on any grid; None: everything. The moving image's is carried along with the map.
    native_grid: as fine as the fixed image, around its foreground. grid: where fields are given, see FIELD_FACTOR.
    stages: coarse to fine; a stage is named by its place among them.
    same_contrast: whether both images were taken for one contrast; set by `find_contrast`.
    """

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        linear: npt.NDArray[np.float64],
        foreground: Volume,
        contrast: str = AUTOMATIC,
        fixed_mask: Volume | None = None,
        moving_mask: Volume | None = None,
    ) -> None:
        self.native_grid = image_grid(fixed.grid, foreground.array > 0, MARGIN_VOXELS, MULTIPLE, MAX_VOXELS)
        self.grid = coarser_grid(self.native_grid, FIELD_FACTOR)
        spacing, voxels = float(self.native_grid.spacing.min()), int(np.prod(self.native_grid.shape))
        finest = LEVELS[-1].factor
        self._levels = [
            level for level in LEVELS if level.factor == finest or voxels / level.factor**3 >= MIN_LEVEL_VOXELS
        ]
        self._last_levels = [n for n, level in enumerate(self._levels) if level.factor in STAGES]
        self.stages = tuple(
            Stage(*STAGES[self._levels[n].factor], spacing_mm=spacing * self._levels[n].factor)
            for n in self._last_levels
        )
        arrays = [
            resample_smoothed(fixed, self.native_grid).array,
            resample_smoothed(moving, self.native_grid, Transform((linear,))).array,
        ]
        self._images = [torch.from_numpy(normalise(array))[None, None] for array in arrays]
        self._masks = _counted(fixed_mask, self.native_grid), _counted(moving_mask, self.native_grid, linear)
        self._foreground, self._contrast = foreground, contrast
        self.same_contrast: bool | None = None
        self._shrunken: dict[int, list[Tensor]] = {}
        # Of a lambda, the level that is done, an index of _levels, and the map on its voxels.
        self._maps: OrderedDict[float, tuple[int, Tensor]] = OrderedDict()

    @property
    def images(self) -> list[Tensor]:
        """Fixed and moving image, after the linear alignment, on `grid`: (1, 1, I, J, K) in 0..1."""
        return self._level(FIELD_FACTOR, "cpu")

    def forget(self) -> None:
        """Something other than lambda has changed: every lambda is solved anew."""
        self._maps.clear()

    @torch.inference_mode()
    def find_contrast(self, device: str, tick: Tick) -> None:
        """Tell whether the images are of one contrast, unless the user has said it; see `contrast_balance`."""
        if self._contrast != AUTOMATIC:
            self.same_contrast = self._contrast == SAME
            return
        balance = self.balance(device, tick)
        self.same_contrast = balance > LEAST_BALANCE
        self.forget()

    def balance(self, device: str, tick: Tick) -> float:
        """By what the images are taken for one contrast or two: their `contrast_balance` under a draft.

        The draft is as smooth as across contrasts: a freer one makes T1 and FLAIR agree where they should not.
        """
        self.same_contrast = False
        level, displacement = self._solved(CONTRAST_LAMBDA, 0, device, None, tick)
        displacement = self._on(displacement, level, CONTRAST_FACTOR)
        fixed, moving = self._level(CONTRAST_FACTOR, device)
        grid = coarser_grid(self.native_grid, CONTRAST_FACTOR)
        inside = torch.from_numpy(resample(self._foreground, grid, interpolation="nearest").array > 0)
        warped = sample(moving, displacement, padding="border")
        return contrast_balance(fixed, warped, inside[None, None].to(device))

    @torch.inference_mode()
    def fields(self, lam: float, stage: int, device: str, regions: Regions | None, tick: Tick) -> Fields:
        """Fields at lambda on `grid`, RAS mm. regions: where lambda is not `lam`.

        tick: called with the fraction done; may raise, to cancel.
        """
        return self._fields(*self._solved(lam, stage, device, regions, tick))

    @torch.inference_mode()
    def finest_fields(self, lam: float, device: str, regions: Regions | None, tick: Tick) -> Fields:
        """Fields of the last stage: the forward one on `native_grid`, its inverse on `grid`."""
        level, displacement = self._solved(lam, len(self.stages) - 1, device, regions, tick)
        return Fields(_as_field(displacement, self.native_grid), self._fields(level, displacement).inverse)

    def _on(self, displacement: Tensor, level: int, factor: int) -> Tensor:
        own = self._levels[level].factor
        return finer(displacement, own // factor) if own >= factor else coarser(displacement, factor // own)

    def _fields(self, level: int, displacement: Tensor) -> Fields:
        factor = self._levels[level].factor
        if factor < FIELD_FACTOR:
            displacement, factor = coarser(displacement, FIELD_FACTOR // factor), FIELD_FACTOR
        both = displacement, inverse_of(displacement, factor)
        return Fields(*(_as_field(finer(field, factor // FIELD_FACTOR), self.grid) for field in both))

    def _solved(self, lam: float, stage: int, device: str, regions: Regions | None, tick: Tick) -> tuple[int, Tensor]:
        """The level, an index of _levels, and the map on it."""
        lam = round(lam, 6)
        last = self._last_levels[stage]
        done, displacement = self._maps.get(lam, (-1, None))
        if displacement is None or done > last:
            coarsest = coarser_grid(self.native_grid, self._levels[0].factor)
            done, displacement = -1, torch.zeros(1, 3, *coarsest.shape)
        displacement = displacement.to(device)
        everywhere = torch.full((1, 1, 1, 1, 1), lam, device=device)
        if regions is not None:
            lambdas = resample(regions.lambda_map(lam), self.native_grid, fill=lam).array.astype(np.float32)
            everywhere = torch.from_numpy(lambdas)[None, None].to(device)
        smoothing_sd = SMOOTHING_SD + SMOOTHING_SD_BY_LAMBDA * lam
        if self.same_contrast is False:
            smoothing_sd *= WIDER_ACROSS_CONTRASTS
        to_do = self._levels[done + 1 : last + 1]
        whole = sum(level.steps / level.factor**3 for level in to_do)
        spent, factor = 0.0, self._levels[max(done, 0)].factor
        for number, level in enumerate(to_do):
            displacement, factor = finer(displacement, factor // level.factor), level.factor
            fixed, moving = self._level(factor, device)
            own = level.steps / factor**3 / whole
            if bool((everywhere < 1).any()):
                here = everywhere if regions is None else stiffest(everywhere, factor)
                part = partial(_tick_part, tick, spent, own)
                counted = None if self._masks == (None, None) else partial(self._counted_on, factor)
                displacement = climb(fixed, moving, displacement, here, smoothing_sd, level, part, counted)
            spent += own
            self._keep(lam, done + 1 + number, displacement)
        return last, displacement

    def _counted_on(self, factor: int, displacement: Tensor) -> Tensor:
        """How much each voxel of a level counts under a map: (1, 1, I, J, K).

        What is left out is two voxels larger on each side, because interpolation and gradients reach so far.
        """
        fixed, moving = (
            torch.ones(1, 1, 1, 1, 1).to(displacement) if mask is None else F.avg_pool3d(mask, factor).to(displacement)
            for mask in self._masks
        )
        carried = moving if moving.numel() == 1 else sample(moving, displacement, padding="border")
        return -F.max_pool3d(-fixed * carried, 5, stride=1, padding=2)

    def _keep(self, lam: float, level: int, displacement: Tensor) -> None:
        """Keep a map for the next stage; those as fine as the images are too large, and have none."""
        if level + 1 == len(self._levels):
            return
        self._maps[lam] = level, displacement.cpu()
        self._maps.move_to_end(lam)
        while len(self._maps) > KEPT_MAPS:
            self._maps.popitem(last=False)

    def _level(self, factor: int, device: str) -> list[Tensor]:
        if factor not in self._shrunken:
            pairs = zip(self._images, self._masks, strict=True)
            self._shrunken[factor] = [shrink(image, factor, mask) for image, mask in pairs]
        return [image.to(device) for image in self._shrunken[factor]]


def _counted(mask: Volume | None, grid: Grid, linear: npt.NDArray[np.float64] | None = None) -> Tensor | None:
    """1 where a mask is not 0, on `grid`: (1, 1, I, J, K) float32."""
    if mask is None:
        return None
    transform = None if linear is None else Transform((linear,))
    ones = Volume((mask.array != 0).astype(np.uint8), mask.ijk_to_ras, mask.name)
    return torch.from_numpy(resample(ones, grid, transform, "nearest").array.astype(np.float32))[None, None]


def _tick_part(tick: Tick, start: float, length: float, fraction: float) -> None:
    tick(start + length * fraction)


def _as_field(displacement: Tensor, grid: Grid) -> DisplacementField:
    """Voxels of `grid` to RAS mm."""
    array = to_ras(displacement, torch.from_numpy(grid.ijk_to_ras.copy()))[0].float().cpu().numpy()
    return DisplacementField(np.ascontiguousarray(array), grid.ijk_to_ras)
