"""The solver: the field of one lambda, found on the images of this very pair, from the linear alignment on.

It is found in many small steps (see `steps`), from coarse to fine. lambda is in every step: with it grow the width of
the Gaussian and the diffusion of the displacement, which is the descent of the smoothness term of the loss;
(1 - lambda) weighs every step, so that at lambda = 1 nothing is deformed. The number of steps is fixed and every lambda
is solved for itself: the path over lambda is smooth, and fields between two values can be interpolated. (Warm starts
from a neighbouring lambda drift, an early stop makes the path jump.)
"""

from __future__ import annotations

from collections import OrderedDict
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError, OutOfMemory
from hyperreg.imaging.intensity import normalise
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.machine import main_memory
from hyperreg.registration.anchors import Fields
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC, SAME
from hyperreg.registration.field import compose, from_ras, sample, to_ras
from hyperreg.registration.filters import largest_within
from hyperreg.registration.forces import Pull, at_points, on_level
from hyperreg.registration.grids import coarser_grid, image_grid
from hyperreg.registration.masks import check_together, counted_by
from hyperreg.registration.regions import Regions, regions_of
from hyperreg.registration.rigid import Body, RigidMotion, bodies_of
from hyperreg.registration.similarity import LEAST_BALANCE, contrast_balance
from hyperreg.registration.stages import Stage
from hyperreg.registration.steps import (
    INVERSE_STEPS,
    LEVELS,
    MARGIN_VOXELS,
    Tick,
    climb,
    coarser,
    finer,
    inverse_of,
    shrink,
    stiffest,
)  # fmt: skip

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
# SD of the Gaussian that smooths the gradient, voxels of the level: at lambda = 0, and what lambda = 1 adds.
SMOOTHING_SD, SMOOTHING_SD_BY_LAMBDA = 2.0, 4.0
# Where the contrasts differ, less of the detail of one image has a counterpart in the other: the Gaussian is this many
# times as wide.
WIDER_ACROSS_CONTRASTS = 2.5
# The contrasts are compared under the draft at this lambda, on voxels of this many of the image.
CONTRAST_LAMBDA, CONTRAST_FACTOR = 0.7, 2
# Main memory that solving a level takes, bytes for each of its voxels and each map that grows there: measured.
BYTES_PER_VOXEL = 200
# Maps of the latest lambdas that are kept for the next stage.
KEPT_MAPS = 24


def smoothing_of(lam: float, same_contrast: bool = True) -> float:
    """SD of the Gaussian that smooths a step, voxels of the level."""
    return (SMOOTHING_SD + SMOOTHING_SD_BY_LAMBDA * lam) * (1 if same_contrast else WIDER_ACROSS_CONTRASTS)


class Solver:
    """A pair whose field can be found at any lambda, stage by stage.

    linear: (4, 4), fixed RAS to moving RAS, mm. foreground: the fixed image's, 1 inside, on its own grid.
    contrast: one of `contrast.CONTRASTS`. start: what comes before `linear`, fixed RAS to fixed RAS, see `split`. The
    map that is solved for comes before both; it is the identity at lambda = 1. The fields hold it and the start.
    symmetric: both images move towards a middle, instead of one of them to the other.
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
        start: Transform | None = None,
        symmetric: bool = False,
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
        # From the fixed image's space to the moving image's, before anything is solved.
        self._whole = Transform((*(start or Transform()).stages, linear))
        arrays = [
            resample_smoothed(fixed, self.native_grid).array,
            resample_smoothed(moving, self.native_grid, self._whole).array,
        ]
        self._images = [torch.from_numpy(normalise(array))[None, None] for array in arrays]
        self._image_grids = fixed.grid, moving.grid
        self._aligned = None
        if start is not None:
            aligned = normalise(resample_smoothed(moving, self.grid, Transform((linear,))).array)
            self._aligned = torch.from_numpy(aligned)[None, None]
        self._linear, self._foreground, self._contrast = linear, foreground, contrast
        self._start = None if start is None else _Start(start, self.native_grid)
        self._constraints = Constraints()
        self._masks: tuple[Tensor | None, Tensor | None] = (None, None)
        self._regions: Regions | None = None
        # Landmarks that pull, and where they should lead, voxels of native_grid.
        self._pulled: tuple[Tensor, Tensor] | None = None
        self._bodies: list[Body] = []
        self.same_contrast: bool | None = None
        self._shrunken: dict[int, list[Tensor]] = {}
        # How many maps grow: the moving image's, and in symmetric mode the fixed image's.
        self._moved = 2 if symmetric else 1
        # Of a lambda, the level that is done, an index of _levels, and the maps on its voxels.
        self._maps: OrderedDict[float, tuple[int, Tensor]] = OrderedDict()

    @property
    def images(self) -> list[Tensor]:
        """Fixed and moving image, after the linear alignment, on `grid`: (1, 1, I, J, K) in 0..1."""
        fixed, moving = self._level(FIELD_FACTOR, "cpu")
        return [fixed, moving if self._aligned is None else self._aligned]

    def forget(self) -> None:
        """Something other than lambda has changed: every lambda is solved anew."""
        self._maps.clear()

    def constrain(self, constraints: Constraints) -> list[str]:
        """Take the constraints into account from now on; returns warnings. Raises InputError, changing nothing."""
        before = self._constraints
        bodies = self._bodies_of(constraints)
        regions = regions_of(constraints, self._regions, self.grid)
        if not constraints.same_masks(before):
            self._masks = self._masks_of(constraints)
            self._shrunken.clear()
        warnings = [] if regions is None else list(regions.warnings)
        self._pulled = None
        if constraints.landmarks is not None:
            back = Transform((np.asarray(np.linalg.inv(self._linear), dtype=np.float64),))
            places = constraints.landmarks.fixed, back.apply(constraints.landmarks.moving)
            here, there = (self.native_grid.to_ijk(points) for points in places)
            wanted = torch.from_numpy(there).float()
            self._pulled = torch.from_numpy(here).float(), wanted if self._start is None else self._start.before(wanted)
            if beside := int(((here < 0) | (here > np.array(self.native_grid.shape) - 1)).any(axis=1).sum()):
                warnings.append(f"{beside} landmarks lie outside of the registered part of the fixed image: no pull.")
        self._regions, self._bodies, self._constraints = regions, bodies, constraints
        self.forget()
        return warnings

    def _masks_of(self, constraints: Constraints) -> tuple[Tensor | None, Tensor | None]:
        """What counts of either image, on the finest grid; that of the moving image is carried along with the map."""
        given, ways = (constraints.fixed_mask, constraints.moving_mask), (Transform(), self._whole)
        fixed, moving = (
            None if mask is None else counted_by(mask, image, self.native_grid, way)
            for mask, image, way in zip(given, self._image_grids, ways, strict=True)
        )
        inside = resample(self._foreground, self.native_grid, interpolation="nearest").array > 0
        check_together([mask for mask in (fixed, moving) if mask is not None], inside)
        return _as_weights(fixed), _as_weights(moving)

    def _bodies_of(self, constraints: Constraints) -> list[Body]:
        before = self._constraints
        if constraints.rigid is None or not constraints.rigid_values:
            return []
        if constraints.rigid is before.rigid and constraints.rigid_values == before.rigid_values:
            return self._bodies
        if self._moved > 1:
            raise InputError("Rigid regions are drawn on the fixed image, and symmetric mode prefers none: use one.")
        if self._start is not None:
            raise InputError("Rigid regions need a linear start: choose an alignment without deformation for them.")
        return bodies_of(constraints.rigid, constraints.rigid_values, self._foreground, self.native_grid, MULTIPLE)

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
        level, displacement = self._solved(CONTRAST_LAMBDA, 0, device, tick)
        displacement = self._on(displacement, level, CONTRAST_FACTOR)
        if self._moved > 1:
            displacement = _both_ways(displacement, CONTRAST_FACTOR)[0]
        fixed, moving = self._level(CONTRAST_FACTOR, device)
        grid = coarser_grid(self.native_grid, CONTRAST_FACTOR)
        inside = torch.from_numpy(resample(self._foreground, grid, interpolation="nearest").array > 0)
        warped = sample(moving, displacement, padding="border")
        return contrast_balance(fixed, warped, inside[None, None].to(device))

    @torch.inference_mode()
    def fields(self, lam: float, stage: int, device: str, tick: Tick) -> Fields:
        """Fields at lambda on `grid`, RAS mm.

        tick: called with the fraction done; may raise, to cancel.
        """
        return self._fields(*self._solved(lam, stage, device, tick))

    @torch.inference_mode()
    def finest_fields(self, lam: float, device: str, tick: Tick) -> Fields:
        """Fields of the last stage: the forward one on `native_grid`, its inverse on `grid`."""
        level, displacement = self._solved(lam, len(self.stages) - 1, device, tick)
        inverse = self._fields(level, displacement).inverse
        if self._moved > 1:
            of_fixed = inverse_of(coarser(displacement[1:], FIELD_FACTOR), FIELD_FACTOR)
            displacement = compose(displacement[:1], finer(of_fixed, FIELD_FACTOR))
        finest = displacement if self._start is None else compose(self._start.finest.to(displacement), displacement)
        return Fields(_as_field(finest, self.native_grid), inverse)

    def _on(self, displacement: Tensor, level: int, factor: int) -> Tensor:
        own = self._levels[level].factor
        return finer(displacement, own // factor) if own >= factor else coarser(displacement, factor // own)

    def _fields(self, level: int, displacement: Tensor) -> Fields:
        factor = self._levels[level].factor
        if factor < FIELD_FACTOR:
            displacement, factor = coarser(displacement, FIELD_FACTOR // factor), FIELD_FACTOR
        both = [finer(field, factor // FIELD_FACTOR) for field in _both_ways(displacement, factor)]
        if self._start is not None:
            forward, inverse = (start.to(displacement) for start in self._start.both)
            both = [compose(forward, both[0]), compose(both[1], inverse)]
        return Fields(*(_as_field(field, self.grid) for field in both))

    def _solved(self, lam: float, stage: int, device: str, tick: Tick) -> tuple[int, Tensor]:
        """The level, an index of _levels, and the maps on it."""
        lam = round(lam, 6)
        last = self._last_levels[stage]
        done, displacement = self._maps.get(lam, (-1, None))
        if displacement is None or done > last:
            coarsest = coarser_grid(self.native_grid, self._levels[0].factor)
            done, displacement = -1, torch.zeros(self._moved, 3, *coarsest.shape)
        displacement = displacement.to(device)
        everywhere, regions = torch.full((1, 1, 1, 1, 1), lam, device=device), self._regions
        if regions is not None:
            lambdas = resample(regions.lambda_map(lam), self.native_grid, fill=lam).array.astype(np.float32)
            everywhere = torch.from_numpy(lambdas)[None, None].to(device)
        smoothing_sd = smoothing_of(lam, self.same_contrast is not False)
        to_do = self._levels[done + 1 : last + 1]
        if device == "cpu" and to_do:
            self._check_memory(stage)
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
                pull = self._pull_on(factor, lam, here)
                rigid = partial(self._rigid_on, factor, here) if self._bodies else None
                displacement = climb(fixed, moving, displacement, here, smoothing_sd, level, part, counted, pull, rigid)
            spent += own
            self._keep(lam, done + 1 + number, displacement)
        return last, displacement

    def _check_memory(self, stage: int) -> None:
        """Raise OutOfMemory before the system is short of memory: it would end the process, with all that is known."""
        needed = BYTES_PER_VOXEL * self._moved * np.prod(self.native_grid.shape)
        needed = float(needed) / self._levels[self._last_levels[stage]].factor ** 3
        free, _total = main_memory()
        if free is None or needed <= free:
            return
        text = (
            f"There is not enough memory for {_named(self.stages[stage])}: it takes about {needed / 1e9:.2g} GB, and "
            f"{free / 1e9:.2g} GB are free. Close other programs"
        )
        if stage > 0:
            text += f", or make do with {_named(self.stages[stage - 1])}"
        raise OutOfMemory(f"{text}.")

    def _counted_on(self, factor: int, displacement: Tensor) -> Tensor:
        """How much each voxel of a level counts under a map: (1, 1, I, J, K).

        What is left out is two voxels larger on each side, because interpolation and gradients reach so far.
        """
        fixed, moving = (
            torch.ones(1, 1, 1, 1, 1).to(displacement) if mask is None else F.avg_pool3d(mask, factor).to(displacement)
            for mask in self._masks
        )
        carried = moving if moving.numel() == 1 else sample(moving, displacement[:1], padding="border")
        if self._moved > 1 and fixed.numel() > 1:
            fixed = sample(fixed, displacement[1:], padding="border")
        return -largest_within(-fixed * carried, 5)

    def _pull_on(self, factor: int, lam: float, lambdas: Tensor) -> Pull | None:
        """The landmarks that pull on a level. lambdas: of its voxels, where the slider is at `lam`."""
        if self._pulled is None or self._constraints.landmarks is None:
            return None
        here, there = (on_level(points, factor).to(lambdas) for points in self._pulled)
        return Pull(here, there, self._constraints.landmarks.pull, smoothing_of(lam), lambdas)

    def _rigid_on(self, factor: int, lambdas: Tensor, window: Tensor) -> RigidMotion:
        to_fixed = self.native_grid.ijk_to_ras
        return RigidMotion(self._bodies, to_fixed, self._linear @ to_fixed, factor, lambdas, window)

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


class _Start:
    """The non-linear part of where a pair starts from, as displacements in voxels, (1, 3, I, J, K).

    start: fixed RAS to fixed RAS, mm. finest: on `grid`. both: it and its inverse on voxels FIELD_FACTOR times as long.
    """

    def __init__(self, start: Transform, grid: Grid) -> None:
        field = torch.from_numpy(start.to_field(grid).array)[None]
        self.finest = from_ras(field, torch.from_numpy(grid.ijk_to_ras.copy()))
        forward = coarser(self.finest, FIELD_FACTOR)
        self.both = forward, inverse_of(forward, FIELD_FACTOR)

    def before(self, points: Tensor) -> Tensor:
        """Where the start takes points (P, 3), voxels of the finest grid, from."""
        found = points
        for _ in range(INVERSE_STEPS):
            found = found - 0.5 * (found + at_points(self.finest, found) - points)
        return found


def _as_weights(counted: npt.NDArray[np.bool_] | None) -> Tensor | None:
    """1 where voxels count: (1, 1, I, J, K) float32; None: all do."""
    return None if counted is None else torch.from_numpy(counted.astype(np.float32))[None, None]


def _both_ways(displacement: Tensor, factor: int) -> tuple[Tensor, Tensor]:
    """The map from the fixed to the moving image and its inverse, (1, 3, I, J, K), on voxels of `factor` of the image.

    displacement: that map; or, in symmetric mode, those from the middle to the moving and to the fixed image.
    """
    back = inverse_of(displacement, factor)
    if len(displacement) == 1:
        return displacement, back
    return compose(displacement[:1], back[1:]), compose(displacement[1:], back[:1])


def _named(stage: Stage) -> str:
    """For the middle of a sentence."""
    return stage.text[:1].lower() + stage.text[1:]


def _tick_part(tick: Tick, start: float, length: float, fraction: float) -> None:
    tick(start + length * fraction)


def _as_field(displacement: Tensor, grid: Grid) -> DisplacementField:
    """Voxels of `grid` to RAS mm."""
    array = to_ras(displacement, torch.from_numpy(grid.ijk_to_ras.copy()))[0].float().cpu().numpy()
    return DisplacementField(np.ascontiguousarray(array), grid.ijk_to_ras)
