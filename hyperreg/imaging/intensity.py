"""Grey values: is this an image at all, which voxels show the body, and a common scale for networks and metrics."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import InputError
from hyperreg.imaging import plausibility
from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.volume import Volume

FEWEST_SLICES = 4
# An image in which fewer voxels than this differ from its commonest value shows nothing to work on.
FEWEST_VOXELS = 64
# Values are computed with as 32-bit floats: with fewer steps than this between the darkest and the brightest, grey
# values are lost.
FEWEST_STEPS = 256
# Label maps: whole numbers, few of them, and most neighbours equal. Over 48 images (CT, MR, cine, atlases) at most
# 0.21 of the
# neighbours outside the background were equal, over 26 label maps at least 0.69.
MOST_LABELS = 1024
EQUAL_NEIGHBOURS = 0.5
# Percentiles are taken over about this many voxels, evenly spread: stable to a fraction of a grey value, and 20 times
# faster.
SAMPLE = 500_000
LOW_PERCENTILE, HIGH_PERCENTILE = 0.5, 99.5
# Scanners pad the outside of a round field of view with one value far below all others (-3024, -2000...).
PADDING_GAP = 0.2
# Where between the darkest value and Otsu's threshold the body begins: Otsu alone loses dark tissue (lung, skull, CSF).
FOREGROUND_SHARE = 0.5
# Darkest values, in Hounsfield units, by which a CT is recognised: air, give or take noise and calibration.
CT_AIR = (-1300.0, -850.0)
# An exact background, as after skull-stripping, fills at least this share of the volume.
EXACT_BACKGROUND = 0.2


def check_image(volume: Volume, warnings: list[str] | None = None) -> Volume:
    """The volume, fit to be used: NaN and infinite voxels replaced (a text is added to `warnings`), otherwise
    unchanged. What was odd about its file, and a size that no human body has, are added to `warnings`, too.

    Raises InputError, in plain words, for an image with too few slices, without any content, with impossible numbers,
    or that is a label map.
    """
    name, array = volume.name, volume.array
    warnings = [] if warnings is None else warnings
    plausibility.check_grid(volume.grid, name)
    warnings += [*volume.warnings, *plausibility.size_warnings(volume.grid, name)]
    if min(volume.shape) < FEWEST_SLICES:
        raise InputError(
            f"'{name}' has the size {volume.shape[0]} x {volume.shape[1]} x {volume.shape[2]}: fewer than "
            f"{FEWEST_SLICES} "
            "slices in one direction. HyperReg works on volumes; give a whole series."
        )
    if array.dtype.kind not in "iufb":
        raise InputError(f"'{name}' has voxels of the type {array.dtype}; HyperReg needs one real number per voxel.")
    if array.dtype.kind == "f":
        array = _finite(volume, warnings)
    low, high = array.min(), array.max()
    plausibility.check_values(float(low), float(high), name)
    if low == high:
        what = "every voxel is 0" if low == 0 else f"every voxel has the value {low:g}"
        raise InputError(f"'{name}' is empty ({what}). Check that the right file or series was chosen.")
    _check_steps(float(low), float(high), name)
    values, counts = np.unique(_sampled(array), return_counts=True)
    if np.count_nonzero(array != values[counts.argmax()]) < FEWEST_VOXELS:
        raise InputError(
            f"'{name}' is nearly empty: almost every voxel has the same value. Check that the right file was chosen."
        )
    if looks_like_labels(array):
        raise InputError(
            f"'{name}' looks like a label map (segmentation), not an image. Give the image that it was drawn on; "
            "label maps belong where labels are asked for."
        )
    return volume if array is volume.array else replace(volume, array=array)


def _check_steps(low: float, high: float, name: str) -> None:
    """Raise InputError for values so far from 0 that 32-bit floats hardly tell them apart."""
    step = float(np.spacing(np.float32(max(abs(low), abs(high)))))
    if high - low < FEWEST_STEPS * step:
        raise InputError(
            f"'{name}' has values between {low:.10g} and {high:.10g}: so far from 0, numbers of 32 bits go in steps of "
            f"{step:.3g}, and its grey values are lost. Subtract its smallest value from the original."
        )


def looks_like_labels(array: npt.NDArray) -> bool:
    """Whether a 3D array is a label map: whole numbers, few different ones, and mostly equal neighbours."""
    if array.dtype == np.bool_:
        return True
    sample = _sampled(array)
    if array.dtype.kind == "f" and not np.array_equal(sample, np.rint(sample)):
        return False
    values, counts = np.unique(sample, return_counts=True)
    if values.size > MOST_LABELS:
        return False
    if array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        return False
    if values.size <= 2 and np.isin(array, values).all():
        return True
    inside = array != values[counts.argmax()]
    equal = pairs = 0
    for axis in range(3):
        n = array.shape[axis]
        here, there = (np.take(array, range(start, start + n - 1), axis) for start in (0, 1))
        either = np.take(inside, range(n - 1), axis) | np.take(inside, range(1, n), axis)
        pairs += int(np.count_nonzero(either))
        equal += int(np.count_nonzero((here == there) & either))
    return pairs > 0 and equal / pairs >= EQUAL_NEIGHBOURS


def without_padding(volume: Volume) -> Volume:
    """The volume with padding, one value far below all others, raised to the darkest of these; else unchanged.

    Interpolated, padding of -3024 or -32768 would darken a rim of the body many voxels wide.
    """
    low, high = intensity_range(volume.array)
    if low - float(volume.array.min()) <= PADDING_GAP * (high - low):
        return volume
    return replace(volume, array=np.maximum(volume.array, volume.array.dtype.type(low)))


def intensity_range(array: npt.NDArray) -> tuple[float, float]:
    """The robust darkest and brightest value of an image, ignoring padding and outliers."""
    sample = _sampled(array).astype(np.float64)
    sample = sample[np.isfinite(sample)]
    if sample.size == 0:
        return 0.0, 1.0
    lowest = sample.min()
    rest = sample[sample > lowest]
    if lowest < 0 and rest.size:
        low, high = np.percentile(rest, (LOW_PERCENTILE, HIGH_PERCENTILE))
        if low - lowest > PADDING_GAP * (high - low):
            sample = rest
    low = float(np.percentile(sample, LOW_PERCENTILE))
    # The brightest value is that of the content: of a small object in a large background the percentile would be
    # background.
    content = sample[sample > low]
    high = float(np.percentile(content, HIGH_PERCENTILE)) if content.size else low
    if high <= low:
        low, high = float(lowest), float(sample.max())
    return low, high if high > low else low + 1.0


def normalise(array: npt.NDArray) -> npt.NDArray[np.float32]:
    """(I, J, K) of any real type to float32 in 0..1, robustly: padding and outliers are clipped, NaN becomes 0."""
    low, high = intensity_range(array)
    # float32 would round numbers of more than 24 bits before the darkest is subtracted.
    wide = array.dtype.itemsize > 4 or (array.dtype.kind in "iu" and array.dtype.itemsize == 4)
    shifted = array.astype(np.float64 if wide else np.float32)
    shifted -= shifted.dtype.type(low)
    shifted /= shifted.dtype.type(high - low)
    scaled = shifted.astype(np.float32, copy=False)
    np.clip(scaled, 0, 1, out=scaled)
    return np.nan_to_num(scaled, copy=False, nan=0.0)


def foreground(volume: Volume) -> npt.NDArray[np.bool_]:
    """Which voxels show the body: (I, J, K) bool, without holes.

    With an exact background (skull-stripped brain) everything else; otherwise everything above half of Otsu's
    threshold. In CT,
    where lung is as dark as the air around the patient, also what lies between body walls along the back-to-front axis.
    """
    scaled = normalise(volume.array)
    background = np.count_nonzero(scaled == 0) / scaled.size
    if background >= EXACT_BACKGROUND and _is_exact(volume.array):
        inside = volume.array > volume.array.min()
    else:
        inside = scaled > FOREGROUND_SHARE * _otsu(_sampled(scaled))
    if inside.all() or not inside.any():
        return np.ones(volume.shape, dtype=bool)
    inside = _largest_filled(inside)
    if CT_AIR[0] <= intensity_range(volume.array)[0] <= CT_AIR[1]:
        axis = closest_axes(volume.ijk_to_ras)[0][1]
        inside = _between(inside, axis)
    return inside


def _is_exact(array: npt.NDArray) -> bool:
    """Whether the smallest value itself is the background, rather than noise around it."""
    sample = _sampled(array)
    return bool(np.count_nonzero(sample == sample.min()) >= EXACT_BACKGROUND * sample.size)


def _otsu(values: npt.NDArray[np.float32]) -> float:
    """Otsu's threshold of values in 0..1: the cut with the largest variance between the classes."""
    counts, edges = np.histogram(values, bins=256, range=(0, 1))
    centres = (edges[:-1] + edges[1:]) / 2
    weight = counts.cumsum()
    total = (counts * centres).cumsum()
    with np.errstate(divide="ignore", invalid="ignore"):
        means = total / weight, (total[-1] - total) / (weight[-1] - weight)
        between = weight * (weight[-1] - weight) * (means[0] - means[1]) ** 2.0
    # Between well separated classes every cut is equally good: the middle one keeps clear of both.
    best = np.flatnonzero(np.nan_to_num(between) >= (1 - 1e-3) * np.nanmax(between))
    return float(edges[1 + best].mean())


def _largest_filled(inside: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The connected parts with at least a tenth of the largest one's voxels, and what they surround within a slice
    (i, j).

    Surrounded is a voxel with content on both sides along i and along j: airways and lungs that are open at the ends
    of a scan.
    """
    image = sitk.GetImageFromArray(inside.astype(np.uint8).transpose(2, 1, 0))
    parts = sitk.RelabelComponent(sitk.ConnectedComponent(image), sortByObjectSize=True)
    labels = sitk.GetArrayViewFromImage(parts)
    sizes = np.bincount(labels.ravel())
    kept = int(np.count_nonzero(sizes[1:] >= 0.1 * sizes[1]))
    content = np.ascontiguousarray(((labels > 0) & (labels <= kept)).transpose(2, 1, 0))
    return content | (_between(content, 0) & _between(content, 1))


def _between(inside: npt.NDArray[np.bool_], axis: int) -> npt.NDArray[np.bool_]:
    """Voxels with content on both sides along an axis, and the content itself."""
    before = np.logical_or.accumulate(inside, axis=axis)
    after = np.flip(np.logical_or.accumulate(np.flip(inside, axis), axis=axis), axis)
    filled: npt.NDArray[np.bool_] = before & after
    return filled


def _finite(volume: Volume, warnings: list[str]) -> npt.NDArray:
    finite = np.isfinite(volume.array)
    bad = finite.size - int(np.count_nonzero(finite))
    if not bad:
        return volume.array
    if bad == finite.size:
        raise InputError(f"'{volume.name}' holds no numbers: every voxel is NaN or infinite. Export the image again.")
    low, high = volume.array[finite].min(), volume.array[finite].max()
    warnings.append(
        f"'{volume.name}': {bad} voxels ({100 * bad / finite.size:.2g} %) were NaN or infinite and count as background "
        "(plus infinity as brightest)."
    )
    return np.nan_to_num(volume.array, nan=low, neginf=low, posinf=high)


def _sampled(array: npt.NDArray) -> npt.NDArray:
    """About SAMPLE voxels, 1D: every n-th of all. n is made odd and not a multiple of the axes, so that no slice is
    favoured.
    """
    step = max(1, array.size // SAMPLE)
    while step > 1 and any(n % step == 0 or step % n == 0 for n in array.shape if n > 1):
        step += 1
    return array.reshape(-1)[::step]
