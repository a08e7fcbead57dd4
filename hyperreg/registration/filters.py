"""Separable filters of images and fields (B, C, I, J, K), as products with a banded matrix per axis.

On a CPU that is many times as fast as torch's average pooling; on a GPU it is what the hardware does best. Of large
images on a CPU the products are made of small pieces, which leaves out most of the matrices' zeros, and of one slab of
the image after the other, which stays in the cache along all three axes: together a third of the time of whole
products. Of smaller ones, whole products cost no more, and their threads wait less for each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

# Planes of the image that are filtered along all axes before the next ones (CPU), and rows of a piece of a matrix.
SLAB = 8
PIECE = 32
# The longest axis of an image that is filtered by whole products.
WHOLE = 112


@lru_cache(maxsize=64)
def _band(size: int, kernel: tuple[float, ...], border: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(size, size): row i holds the kernel around i. border: "zeros", "mean" (rows sum to 1) or "repeat"."""
    radius = len(kernel) // 2
    index = torch.arange(size, device=device)
    band = torch.zeros(size, size, device=device, dtype=dtype)
    for offset, weight in enumerate(kernel, start=-radius):
        column = index + offset
        rows = torch.ones_like(index, dtype=torch.bool) if border == "repeat" else (column >= 0) & (column < size)
        band[index[rows], column.clamp(0, size - 1)[rows]] += weight
    return band / band.sum(1, keepdim=True) if border == "mean" else band


def separable(image: Tensor, kernel: tuple[float, ...], border: str) -> Tensor:
    """`image` filtered with one odd `kernel` along its three axes.

    border: what lies outside counts as 0 ("zeros"), is left out ("mean"; the kernel sums to 1), or is the outermost
    voxel ("repeat").
    """
    if image.device.type == "cpu" and len(kernel) == 3 and 1 < min(image.shape[2:]) <= max(image.shape[2:]) <= WHOLE:
        # Three weighted sums are faster than a product with a matrix. Not so for wider kernels: sums round worse, and
        # the local correlation of flat regions, a difference of means over five voxels, became noise.
        for axis in (2, 3, 4):
            image = _of_three(image, kernel, axis, border)
        return image
    with torch.inference_mode(False):  # the matrices are kept, for training too
        bands = [_band(size, kernel, border, image.device, image.dtype) for size in image.shape[2:]]
    if image.device.type != "cpu" or max(image.shape[2:]) <= WHOLE:
        first = (bands[0] @ image.flatten(3)).view(image.shape)
        return bands[1] @ first @ bands[2].T
    radius = len(kernel) // 2
    planes = image.flatten(3)
    slabs = []
    for rows, near in _pieces(image.shape[2], SLAB, radius):
        slab = (bands[0][rows, near] @ planes[:, :, near]).unflatten(3, image.shape[3:])
        for axis in (3, 4):
            slab = _along(slab, bands[axis - 2], axis, radius)
        slabs.append(slab)
    return torch.cat(slabs, dim=2)


def _of_three(image: Tensor, kernel: tuple[float, ...], axis: int, border: str) -> Tensor:
    """`image` filtered along one axis with a kernel of three; see `separable`."""
    size, (before, own, after) = image.shape[axis], kernel
    found = image * own
    found.narrow(axis, 1, size - 1).add_(image.narrow(axis, 0, size - 1), alpha=before)
    found.narrow(axis, 0, size - 1).add_(image.narrow(axis, 1, size - 1), alpha=after)
    for at, outside in ((0, before), (size - 1, after)):
        if border == "repeat":
            found.narrow(axis, at, 1).add_(image.narrow(axis, at, 1), alpha=outside)
        elif border == "mean":
            found.narrow(axis, at, 1).div_(1 - outside)
    return found


def largest_within(maps: Tensor, width: int) -> Tensor:
    """The largest value in a cube of `width` voxels (odd) around each: (B, C, I, J, K), same shape.

    On a CPU much faster than torch's max_pool3d, which looks at one voxel of the cube after the other.
    """
    for axis in (2, 3, 4):
        found, size = maps.clone(), maps.shape[axis]
        for offset in range(1, min(width // 2, size - 1) + 1):
            low, high = (found.narrow(axis, start, size - offset) for start in (0, offset))
            torch.maximum(low, maps.narrow(axis, offset, size - offset), out=low)
            torch.maximum(high, maps.narrow(axis, 0, size - offset), out=high)
        maps = found
    return maps


def _along(slab: Tensor, band: Tensor, axis: int, radius: int) -> Tensor:
    """`slab` times `band` along axis 3 or 4, in pieces."""
    parts = []
    for rows, near in _pieces(slab.shape[axis], PIECE, radius):
        piece = band[rows, near]
        parts.append(piece @ slab[:, :, :, near] if axis == 3 else slab[..., near] @ piece.T)
    return torch.cat(parts, dim=axis)


def _pieces(size: int, length: int, radius: int) -> Iterator[tuple[slice, slice]]:
    """The parts of an axis, and what a kernel of that radius sees from each."""
    for start in range(0, size, length):
        end = min(start + length, size)
        yield slice(start, end), slice(max(0, start - radius), min(size, end + radius))


def box_kernel(width: int) -> tuple[float, ...]:
    return (1 / width,) * width


@lru_cache(maxsize=64)
def gaussian_kernel(sd: float) -> tuple[float, ...]:
    """Weights of a Gaussian of `sd` voxels, out to three of them."""
    radius = max(1, math.ceil(3 * sd))
    weights = [math.exp(-0.5 * (offset / sd) ** 2) for offset in range(-radius, radius + 1)]
    return tuple(weight / sum(weights) for weight in weights)


def box_mean(image: Tensor, width: int) -> Tensor:
    """Mean over a cube of `width` voxels (odd), of what lies inside the image: (B, C, I, J, K), same shape."""
    return separable(image, box_kernel(width), "mean")


def central_gradient(image: Tensor) -> Tensor:
    """Central differences of (1, 1, I, J, K), one per voxel and axis, zero at the border: (1, 3, I, J, K)."""
    result = torch.zeros(1, 3, *image.shape[2:], device=image.device, dtype=image.dtype)
    for axis in range(3):
        size = image.shape[2 + axis]
        step = (image.narrow(2 + axis, 2, size - 2) - image.narrow(2 + axis, 0, size - 2)) / 2
        result[:, axis : axis + 1].narrow(2 + axis, 1, size - 2).copy_(step)
    return result
