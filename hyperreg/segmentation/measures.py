"""How well a segmentation agrees with a reference."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Mask = npt.NDArray[np.bool_]


def hausdorff95(one: Mask, two: Mask, spacing: Sequence[float]) -> float:
    """The 95th percentile of the distances between two surfaces, the larger of both directions, in the unit of spacing.

    one, two: (I, J, K); surfaces are the voxels with a face towards the outside. NaN if one of them is empty.
    """
    if not one.any() or not two.any():
        return math.nan
    surfaces = [_surface(mask) for mask in (one, two)]
    maps = [_distances(surface, spacing) for surface in surfaces]
    return float(max(np.percentile(maps[1][surfaces[0]], 95), np.percentile(maps[0][surfaces[1]], 95)))


def _surface(mask: Mask) -> Mask:
    padded = np.pad(mask, 1)
    inner = mask.copy()
    for axis in range(3):
        for step in (-1, 1):
            inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
    return mask & ~inner


def _distances(surface: Mask, spacing: Sequence[float]) -> npt.NDArray[np.float32]:
    image = sitk.GetImageFromArray(surface.transpose(2, 1, 0).astype(np.uint8))
    image.SetSpacing([float(size) for size in spacing])
    found = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.abs(sitk.GetArrayFromImage(found).transpose(2, 1, 0))
