"""Weights per voxel from the images: an atlas counts where its image resembles the target.

The weights of joint label fusion (Wang et al. 2013, doi:10.1109/TPAMI.2012.143), without its search for a better patch
nearby: with e_i = |target - image_i| in the window around a voxel, M_ij = (mean of e_i e_j)^beta is the expected joint
error of two atlases, and the weights with the least expected error are M^-1 1, scaled to sum 1. So two atlases that are
wrong in the same way do not count twice. Negative weights are set to zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.errors import Cancelled, InputError
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.stack import LabelStack
from hyperreg.fusion.voting import vote
from hyperreg.imaging.intensity import intensity_range
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Progress

Array = npt.NDArray[np.float32]

# Half the side of the window, voxels, as in the paper; the exponent there; and what is added to the diagonal, as a
# share of its mean, so that M can be inverted.
RADIUS = 2
BETA = 2.0
RIDGE = 0.1
# Slices (along the first axis) per step, and voxels whose equations are solved at once: bound the memory.
SLAB = 16
BLOCK = 1 << 16


def local(
    stack: LabelStack,
    target: Volume,
    images: Sequence[Volume],
    radius: int = RADIUS,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Consensus:
    """Voting with the weights of `joint_weights`."""
    return vote(stack, joint_weights(stack, target, images, radius, progress, cancelled), "local")


def joint_weights(
    stack: LabelStack,
    target: Volume,
    images: Sequence[Volume],
    radius: int = RADIUS,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Array:
    """Weights at the stack's disputed voxels: (A, D), each column sums to 1.

    target, images: the target's image and those of the raters' atlases, all resampled to the stack's grid.
    radius: half the side of the window, voxels (side 2 radius + 1). Raises InputError for images on another grid.
    """
    if len(images) != len(stack.names):
        raise InputError(f"There are {len(stack.names)} label maps, but {len(images)} images of atlases.")
    for image in (target, *images):
        if not image.grid.matches(stack.grid):
            raise InputError(f"'{image.name}' is not on the grid of the labels; resample it first.")
    raters = len(images)
    weights = np.full((raters, stack.disputed.size), 1 / raters, dtype=np.float32)
    if raters == 1 or not stack.disputed.size:
        return weights
    scaled = [_scaled(image) for image in (target, *images)]
    depth, plane = stack.grid.shape[0], stack.grid.shape[1] * stack.grid.shape[2]
    for start in range(0, depth, SLAB):
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled.")
        if progress is not None:
            progress(start / depth, "Comparing the images")
        stop = min(start + SLAB, depth)
        first, last = np.searchsorted(stack.disputed, (start * plane, stop * plane))
        if first == last:
            continue
        low, high = max(start - radius, 0), min(stop + radius, depth)
        errors = [np.abs(scaled[0](low, high) - image(low, high)) for image in scaled[1:]]
        where = stack.disputed[first:last] - low * plane
        joint = _joint_errors(errors, where, radius)
        for block in range(0, last - first, BLOCK):
            part = slice(block, min(block + BLOCK, last - first))
            weights[:, first + part.start : first + part.stop] = _solve(joint[:, :, part])
    return weights


def _scaled(image: Volume) -> Callable[[int, int], Array]:
    """Slices low..high of an image in 0..1: made when wanted, because all at once would be 4 bytes per voxel."""
    dark, bright = intensity_range(image.array)

    def slices(low: int, high: int) -> Array:
        part = (image.array[low:high].astype(np.float32) - np.float32(dark)) / np.float32(bright - dark)
        return np.nan_to_num(np.clip(part, 0, 1, out=part), copy=False)

    return slices


def _joint_errors(errors: Sequence[Array], where: npt.NDArray[np.intp], radius: int) -> Array:
    """The mean of e_i e_j in the window around each of D voxels: (A, A, D)."""
    count = len(errors)
    joint = np.empty((count, count, where.size), dtype=np.float32)
    for one in range(count):
        for other in range(one + 1):
            product = sitk.GetImageFromArray(errors[one] * errors[other])
            mean = sitk.GetArrayViewFromImage(blurred := sitk.BoxMean(product, [radius] * 3))
            joint[one, other] = joint[other, one] = mean.reshape(-1)[where]
            del mean, blurred
    return joint


def _solve(joint: Array) -> Array:
    """Weights (A, n) of the joint errors (A, A, n)."""
    matrices = np.moveaxis(joint, 2, 0).astype(np.float64) ** BETA
    count = matrices.shape[1]
    diagonal = np.einsum("nii->ni", matrices).mean(axis=1)
    matrices += (RIDGE * diagonal + np.finfo(np.float32).tiny)[:, None, None] * np.eye(count)
    found = np.linalg.solve(matrices, np.ones((len(matrices), count, 1)))[..., 0]
    found = np.clip(found, 0, None)
    return (found / found.sum(axis=1, keepdims=True)).T
