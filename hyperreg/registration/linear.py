"""Linear alignment before the network: centre of mass, then rigid, then similarity or affine, each only if it helps.

Starts are searched and stages accepted by a mutual information of our own, taken symmetrically over both images'
content with the outside counting as background: unlike the optimiser's metric it cannot be improved by pushing the
images apart.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging import itk
from hyperreg.imaging.intensity import foreground, normalise
from hyperreg.imaging.orientation import closest_directions
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Matrix, checked_matrix
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.start import ALIGNMENTS
from hyperreg.reporting import Progress

Array = npt.NDArray[np.float64]

# Images are aligned at about this many voxels (2 mm for a head): finer brings no accuracy to twelve parameters.
WORKING_VOXELS = 700_000
# Room around the content, as a share of its size: edges against the background guide the alignment.
MARGIN = 0.1
SEED = 20240229
# The comparison by which starts are chosen and stages accepted: points per image and histogram bins.
POINTS, BINS = 20_000, 32
SEARCH_POINTS, SEARCH_BINS = 3_000, 16
# Starting shifts (shares of the fixed content's size along R, A and S) and rotations (degrees about them).
SHIFTS = (-0.15, 0.0, 0.15)
ROTATIONS = (-20.0, 20.0)
# Starts are compared on images blurred to this share of the content's size.
SEARCH_BLUR = 0.02
# Another start, or a later stage, must be better by this much (nats) to be believed.
LEAST_GAIN = 1e-4
# How many times better images must agree under the inverse of a given map to doubt its direction.
OTHER_WAY = 1.5
# Limits of the plausible: stretch along any direction, and change of volume, between two people or two visits.
STRETCH = (0.6, 1.0 / 0.6)
VOLUME_CHANGE = (0.4, 2.5)
# Steps towards the square root of a matrix that is near to the identity: it converges quadratically.
ROOT_STEPS = 10
# The optimiser's first and last step, as shares of the content's size (4 mm and 0.004 mm for a head).
FIRST_STEP, LAST_STEP = 0.02, 2e-5


@dataclass(frozen=True)
class _Stage:
    """One optimisation by ITK.

    blur (share of the content's size), samples: per level, coarse to fine. iterations: at most, per level.
    start, end: the shares of the whole alignment between which it reports progress.
    """

    text: str
    blur: tuple[float, ...]
    samples: tuple[int, ...]
    iterations: int
    start: float
    end: float


RIGID = _Stage("Aligning: rigid", (0.04, 0.02), (8_000, 12_000), 60, 0.25, 0.5)
SIMILARITY = _Stage("Aligning: rigid and scale", (0.03, 0.015), (8_000, 15_000), 60, 0.5, 1.0)
AFFINE = _Stage("Aligning: affine", (0.03, 0.015, 0.0), (8_000, 15_000, 25_000), 60, 0.5, 1.0)

# What each method optimises, one after the other; the others end before.
STAGES = {"rigid": (RIGID,), "similarity": (RIGID, SIMILARITY), "affine": (RIGID, AFFINE)}


@dataclass(frozen=True)
class _Side:
    """One image, made ready.

    image, blurred: its content at working resolution, 0..1; inside: which voxels are content (uint8).
    centre, spread: weighted mean and SD of the content, RAS mm, (3,).
    size: of its box, mm, (3,), along the axes of `directions` (3, 3).
    points: (POINTS, 3) RAS mm, evenly random over the box.
    """

    image: Volume
    blurred: Volume
    inside: Volume
    centre: Array
    spread: Array
    size: Array
    directions: Array
    points: Array


def align(
    fixed: Volume,
    moving: Volume,
    method: str | npt.ArrayLike = "affine",
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
    *,
    symmetric: bool = False,
) -> Matrix:
    """The linear map of fixed RAS points to moving RAS points, mm: (4, 4).

    method: "none" (as the headers say), "com" (centres of mass), "rigid", "similarity" (rigid and one scale) or
    "affine" (these start from the best of the former), or a (4, 4) matrix, which is checked and handed back.
    progress: called with a share of 0..1 and a text. cancelled: asked at every iteration; True raises Cancelled.
    symmetric: the mean of the maps that are found in both directions, so that neither image is preferred.
    Raises InputError if the images do not overlap ("none" or a given matrix), or for an unknown method.
    """
    if not isinstance(method, str):
        matrix = checked_matrix(method, "The initial transform")
        _check_overlap(fixed, moving, matrix, "With the given initial transform the images do not overlap.")
        return matrix
    if method not in ALIGNMENTS:
        raise InputError(f"Unknown initial alignment '{method}'. Use one of {', '.join(ALIGNMENTS)}.")
    if method == "none":
        _check_overlap(fixed, moving, np.eye(4), "The fixed and the moving image do not overlap in space.")
        return np.eye(4)
    if symmetric:
        tell = progress or (lambda _fraction, _text: None)
        there = align(fixed, moving, method, lambda fraction, text: tell(fraction / 2, text), cancelled)
        back = align(moving, fixed, method, lambda fraction, text: tell((1 + fraction) / 2, text), cancelled)
        return middle_of(there, np.asarray(np.linalg.inv(back), dtype=np.float64))
    watch = _Watch(progress, cancelled)
    watch.report(0.0, "Aligning: looking at the images")
    sides = _prepare(fixed), _prepare(moving)
    watch.report(0.15, "Aligning: centres of mass")
    matrix = _best_start(*sides)
    if method != "com":
        matrix = _search(*sides, matrix, watch)
        for stage in STAGES[method]:
            proposal = _optimise(*sides, matrix, stage, watch)
            if is_plausible(proposal) and agreement(*sides, proposal) > agreement(*sides, matrix) + LEAST_GAIN:
                matrix = proposal
    watch.report(1.0, "Aligned")
    return matrix


def middle_of(first: Matrix, second: Matrix) -> Matrix:
    """The map halfway between two that are near each other: first (first^-1 second)^(1/2), (4, 4).

    The same in either order, the inverse of the middle of the inverses, and rigid between rigid maps.
    """
    return np.asarray(first @ square_root(np.linalg.inv(first) @ second), dtype=np.float64)


def square_root(matrix: Matrix) -> Matrix:
    """The principal root of a (4, 4) map without mirroring: that map done half. By Denman and Beavers (1976)."""
    root, other = matrix, np.eye(4)
    for _ in range(ROOT_STEPS):
        root, other = (root + np.linalg.inv(other)) / 2, (other + np.linalg.inv(root)) / 2
    return np.asarray(root, dtype=np.float64)


def direction_warnings(fixed: Volume, moving: Volume, matrix: Matrix) -> list[str]:
    """A text if the images agree much better under the inverse of a map that somebody gave.

    Programs differ in which way round they save a transform.
    """
    sides = _prepare(fixed), _prepare(moving)
    inverse = checked_matrix(np.linalg.inv(matrix))
    if agreement(*sides, inverse) <= OTHER_WAY * agreement(*sides, matrix) + LEAST_GAIN:
        return []
    text = (
        "The images agree much better under the inverse of the given initial transform: it seems to map the moving to "
        "the fixed image. HyperReg, as ITK, takes the map from fixed to moving; invert it where it was saved."
    )
    return [text]


def overlap(fixed: Grid, moving: Grid, matrix: Matrix) -> float:
    """The share of the fixed image's space that `matrix` maps into the moving image: 0..1."""
    steps = [np.linspace(-0.5, n - 0.5, 25) for n in fixed.shape]
    ijk = np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, 3)
    mapped = moving.to_ijk(_map(matrix, fixed.to_ras(ijk)))
    inside = (mapped >= -0.5) & (mapped <= np.array(moving.shape) - 0.5)
    return float(inside.all(axis=1).mean())


def is_plausible(matrix: Matrix) -> bool:
    """Whether a linear map could be between two bodies: no mirror, no collapse, no stretch beyond STRETCH."""
    part = matrix[:3, :3]
    if not np.isfinite(matrix).all():
        return False
    stretch = np.linalg.svd(part, compute_uv=False)
    volume = float(np.linalg.det(part))
    limits = STRETCH[0] <= stretch.min() and stretch.max() <= STRETCH[1]
    return bool(limits and VOLUME_CHANGE[0] <= volume <= VOLUME_CHANGE[1])


class _Watch:
    """Progress and cancellation of one alignment."""

    def __init__(self, progress: Progress | None, cancelled: Callable[[], bool] | None) -> None:
        self._progress = progress
        self.is_cancelled = cancelled or (lambda: False)

    def report(self, fraction: float, text: str) -> None:
        self.check()
        if self._progress is not None:
            self._progress(fraction, text)

    def check(self) -> None:
        if self.is_cancelled():
            raise Cancelled("The alignment was cancelled.")


def _check_overlap(fixed: Volume, moving: Volume, matrix: Matrix, complaint: str) -> None:
    if overlap(fixed.grid, moving.grid, matrix) == 0:
        raise InputError(f"{complaint} Choose an initial alignment that starts from the centres of mass ('affine').")


def _prepare(volume: Volume) -> _Side:
    """Crop to the content, bring it to the working resolution, and draw the points that the comparison uses."""
    thinned = _thinned(volume)
    content = foreground(thinned)
    corners = np.argwhere(content)
    low, high = corners.min(axis=0), corners.max(axis=0) + 1
    room = np.ceil(MARGIN * (high - low))
    factor = np.round(thinned.spacing / volume.spacing)
    first = (np.maximum(low - room, 0) * factor).astype(int)
    last = np.minimum((high + room) * factor, volume.shape).astype(int)
    scaled = normalise(volume.array)[tuple(slice(a, b) for a, b in zip(first, last, strict=True))]
    affine = np.array(volume.ijk_to_ras)
    affine[:3, 3] = volume.grid.to_ras(first)
    cropped = Volume(scaled, affine, volume.name)
    grid = _working_grid(cropped.grid)
    image = resample_smoothed(cropped, grid, fill=0.0)
    share = resample(Volume(content.astype(np.float32), thinned.ijk_to_ras, volume.name), grid, fill=0.0).array
    weights = share * (image.array + 0.1)  # content counts wherever it is, bright content more
    places = grid.points().reshape(-1, 3)
    centre = np.average(places, axis=0, weights=weights.ravel())
    directions = closest_directions(affine)
    size = np.abs(directions.T @ (grid.ijk_to_ras[:3, :3] * grid.shape)).max(axis=1)
    smooth = sitk.SmoothingRecursiveGaussian(itk.volume_to_itk(image), SEARCH_BLUR * float(size.max()))
    positions = np.random.default_rng(SEED).uniform(-0.5, np.array(grid.shape) - 0.5, (POINTS, 3))
    return _Side(
        image=image,
        blurred=itk.volume_from_itk(smooth, volume.name),
        inside=Volume((share > 0.5).astype(np.uint8), grid.ijk_to_ras, volume.name),
        centre=centre,
        spread=np.sqrt(np.average((places - centre) ** 2, axis=0, weights=weights.ravel())),
        size=size,
        directions=directions,
        points=grid.to_ras(positions),
    )


def _thinned(volume: Volume) -> Volume:
    """Every n-th voxel along each axis, n such that about WORKING_VOXELS are left: enough to find the content."""
    room = volume.array.size * volume.spacing.prod()
    step = max(float((room / WORKING_VOXELS) ** (1 / 3)), float(volume.spacing.min()))
    every = np.maximum(np.minimum(step // volume.spacing, np.array(volume.shape) // 4), 1).astype(int)
    affine = np.array(volume.ijk_to_ras)
    affine[:3, :3] *= every
    return Volume(np.ascontiguousarray(volume.array[tuple(slice(None, None, n) for n in every)]), affine, volume.name)


def _working_grid(grid: Grid) -> Grid:
    """The space of `grid` in about WORKING_VOXELS voxels, as cubic as its own allow, at least four along each axis."""
    extent = np.array(grid.shape) * grid.spacing
    step = np.maximum(grid.spacing, float((extent.prod() / WORKING_VOXELS) ** (1 / 3)))
    i, j, k = (max(4, int(np.ceil(n))) for n in extent / step)
    affine = np.array(grid.ijk_to_ras)
    affine[:3, :3] *= step / grid.spacing
    affine[:3, 3] = grid.centre - affine[:3, :3] @ ((np.array((i, j, k)) - 1) / 2)
    return Grid((i, j, k), affine)


def _map(matrix: Matrix, points: Array) -> Array:
    return points @ matrix[:3, :3].T + matrix[:3, 3]


def _values(volume: Volume, points: Array) -> Array:
    """Linearly interpolated values at (N, 3) RAS points: (N,); 0, the background, outside."""
    shape = np.array(volume.shape)
    ijk = volume.grid.to_ijk(points)
    inside = np.flatnonzero(((ijk >= 0) & (ijk <= shape - 1)).all(axis=1))
    low = np.minimum(ijk[inside].astype(np.intp), shape - 2)
    weight = ijk[inside] - low
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    flat, start = volume.array.reshape(-1), low @ strides
    total = np.zeros(inside.size)
    for corner in itertools.product((0, 1), repeat=3):
        total += np.where(corner, weight, 1 - weight).prod(axis=1) * flat[start + strides @ corner]
    values = np.zeros(len(points))
    values[inside] = total
    return values


def _mutual_information(a: Array, b: Array, bins: int) -> float:
    """Of two lists of values in 0..1, nats."""
    joint = np.histogram2d(a, b, bins=bins, range=((0, 1), (0, 1)))[0] / a.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())


def agreement(fixed: _Side, moving: _Side, matrix: Matrix, *, coarse: bool = False) -> float:
    """How well two images agree under a map of fixed to moving points: mutual information, nats, both directions' mean.

    coarse: on blurred images and few points, for the search of a start.
    """
    count, bins = (SEARCH_POINTS, SEARCH_BINS) if coarse else (POINTS, BINS)
    inverse: Matrix = np.linalg.inv(matrix).astype(np.float64)
    a, b = (fixed.blurred, moving.blurred) if coarse else (fixed.image, moving.image)
    here: Array = fixed.points[:count]
    there: Array = moving.points[:count]
    forward = _mutual_information(_values(a, here), _values(b, _map(matrix, here)), bins)
    return (forward + _mutual_information(_values(a, _map(inverse, there)), _values(b, there), bins)) / 2


def _shift(offset: Array) -> Matrix:
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    return matrix


def _best_start(fixed: _Side, moving: _Side) -> Matrix:
    """Centre of mass on centre of mass, or the headers' own alignment where that agrees better."""
    by_mass = _shift(moving.centre - fixed.centre)
    return max((by_mass, np.eye(4)), key=lambda matrix: agreement(fixed, moving, matrix))


def _search(fixed: _Side, moving: _Side, start: Matrix, watch: _Watch) -> Matrix:
    """The best of a lattice of shifts around `start`, then of a few rotations: for partial views and tilted heads."""
    best, value = start, agreement(fixed, moving, start, coarse=True)

    def consider(matrix: Matrix) -> None:
        nonlocal best, value
        watch.check()
        gain = agreement(fixed, moving, matrix, coarse=True) - value
        if gain > LEAST_GAIN:
            best, value = matrix, value + gain

    for shares in itertools.product(SHIFTS, repeat=3):
        consider(_shift(fixed.directions @ (np.array(shares) * fixed.size)) @ start)
    shifted = best
    for axis, degrees in itertools.product(range(3), ROTATIONS):
        turn = sitk.VersorRigid3DTransform()
        turn.SetRotation(fixed.directions[:, axis].tolist(), np.deg2rad(degrees))
        rotation = np.eye(4)
        rotation[:3, :3] = np.array(turn.GetMatrix()).reshape(3, 3)
        consider(shifted @ _shift(fixed.centre) @ rotation @ _shift(-fixed.centre))
    return best


def _optimise(fixed: _Side, moving: _Side, start: Matrix, stage: _Stage, watch: _Watch) -> Matrix:
    """ITK's mutual information, from `start`: rigid or affine, coarse to fine, with a fixed seed."""
    watch.report(stage.start, stage.text)
    # Lengths from the content's centre, in units of its radius, make turning, stretching and shifting equally large and
    # independent steps for the optimiser, whether the voxels measure 0.3 or 10 mm and wherever the scanner's origin is.
    unit = float(np.sqrt((fixed.spread**2).sum() * 2 / 3))
    there = _map(start, fixed.centre[None])[0]
    scale = np.diag([1 / unit, 1 / unit, 1 / unit, 1.0])
    fixed_units, moving_units = scale @ _shift(-fixed.centre), scale @ _shift(-there)
    size = float(fixed.size.max()) / unit
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # threads add up in any order, and the same pair must give the same result every time
    method.SetMetricAsMattesMutualInformation(BINS)
    method.SetMetricFixedMask(_to_units(_widened(fixed), unit, fixed.centre))
    method.SetMetricSamplingStrategy(method.RANDOM)
    voxels = fixed.image.array.size
    method.SetMetricSamplingPercentagePerLevel([min(1.0, n / voxels) for n in stage.samples], SEED)
    method.SetShrinkFactorsPerLevel([1] * len(stage.blur))  # sampling, not shrinking, sets the cost of an iteration
    method.SetSmoothingSigmasPerLevel([share * size for share in stage.blur])
    method.SetSmoothingSigmasAreSpecifiedInPhysicalUnits(True)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsRegularStepGradientDescent(FIRST_STEP * size, LAST_STEP * size, stage.iterations, 0.75)
    # How far, squared, a unit of each parameter moves the content: a versor turns by twice its length.
    spread = (fixed.spread / unit) ** 2
    moved, scales = {
        RIGID: (sitk.VersorRigid3DTransform(), [4.0] * 3 + [1.0] * 3),
        SIMILARITY: (sitk.Similarity3DTransform(), [4.0] * 3 + [1.0] * 3 + [float(spread.sum())]),
        AFFINE: (sitk.AffineTransform(3), [*spread] * 3 + [1.0] * 3),
    }[stage]
    method.SetOptimizerScales(scales)
    method.SetInitialTransform(moved, inPlace=True)
    method.SetMovingInitialTransform(itk.affine_to_itk(moving_units @ start @ np.linalg.inv(fixed_units)))
    done = 0

    def on_iteration() -> None:
        nonlocal done
        done += 1
        if watch.is_cancelled():
            method.StopRegistration()
            return
        share = min(1.0, done / (stage.iterations * len(stage.blur)))
        watch.report(stage.start + share * (stage.end - stage.start), stage.text)

    method.AddCommand(sitk.sitkIterationEvent, on_iteration)
    try:
        method.Execute(
            _to_units(itk.volume_to_itk(fixed.image), unit, fixed.centre),
            _to_units(itk.volume_to_itk(moving.image), unit, there),
        )
    except RuntimeError:
        watch.check()
        return start  # ITK gives up where too few samples fall on the moving image: the start stays
    watch.check()
    return start @ np.linalg.inv(fixed_units) @ itk.affine_from_itk(moved) @ fixed_units


def _to_units(image: sitk.Image, unit: float, centre: Array) -> sitk.Image:
    """The image with its lengths counted from `centre` (RAS mm) in units of `unit` mm."""
    image.SetSpacing((np.array(image.GetSpacing()) / unit).tolist())
    image.SetOrigin(((np.array(image.GetOrigin()) - itk.RAS_LPS[:3, :3] @ centre) / unit).tolist())
    return image


def _widened(side: _Side) -> sitk.Image:
    """The content and a rim of background around it, as a mask."""
    return sitk.BinaryDilate(itk.volume_to_itk(side.inside), [4, 4, 4])
