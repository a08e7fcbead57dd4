"""Where a segmentation is most doubtful, as places to look at one after another. SimpleITK only, no torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.volume import Volume

# Along every border lies a sheet of doubt, about a voxel thick: blurred by this much it fades, bulky doubt does not.
BLUR_MM = 2.0
# High is what exceeds the first of these shares of the largest blurred value at which every region is small enough to
# be looked at as one place; below the floor nothing is doubtful.
SHARES, FLOOR = (0.5, 0.6, 0.7, 0.8, 0.9), 0.05
SMALLEST_ML, LARGEST_ML = 0.03, 30.0


@dataclass(frozen=True)
class DoubtfulRegion:
    """point: its most doubtful place, RAS mm. volume_ml: its size. mean: of the uncertainty in it, 0 to 1."""

    point: npt.NDArray[np.float64]
    volume_ml: float
    mean: float


def doubtful_regions(uncertainty: Volume) -> list[DoubtfulRegion]:
    """Connected regions of high uncertainty, the largest first; [] where nothing is doubtful.

    uncertainty: (I, J, K), 0 to 1, as `Segmentation.uncertainty`.
    """
    array = uncertainty.array
    inside = array >= FLOOR
    if not inside.any():
        return []
    cropped, corner = _cropped(array, inside, uncertainty.spacing)
    affine = uncertainty.ijk_to_ras.copy()
    affine[:3, 3] = uncertainty.grid.to_ras(corner)
    part = Volume(cropped, affine)
    image = itk.volume_to_itk(part)
    blurred = sitk.SmoothingRecursiveGaussian(image, BLUR_MM)
    peak = float(sitk.GetArrayViewFromImage(blurred).max())
    if peak < FLOOR:
        return []
    found: list[DoubtfulRegion] = []
    for share in SHARES:
        found = _above(image, blurred, max(FLOOR, share * peak), part)
        if not found or found[0].volume_ml <= LARGEST_ML:
            break
    return found


def _above(image: sitk.Image, blurred: sitk.Image, level: float, part: Volume) -> list[DoubtfulRegion]:
    """The connected regions where the blurred image is above a level, the largest first, without specks."""
    regions = sitk.ConnectedComponent(blurred >= level)
    sizes = sitk.LabelIntensityStatisticsImageFilter()
    sizes.Execute(regions, blurred)
    # The figure that is shown is of the map itself: blurred, it would be too small by half in small regions.
    values = sitk.LabelIntensityStatisticsImageFilter()
    values.Execute(regions, image)
    found = [
        DoubtfulRegion(
            point=part.grid.to_ras(np.array(sizes.GetMaximumIndex(label), dtype=float)),
            volume_ml=sizes.GetPhysicalSize(label) / 1000,
            mean=values.GetMean(label),
        )
        for label in sizes.GetLabels()
        if sizes.GetPhysicalSize(label) >= 1000 * SMALLEST_ML
    ]
    return sorted(found, key=lambda region: -region.volume_ml)


def _cropped(
    array: npt.NDArray, inside: npt.NDArray[np.bool_], spacing: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.float32], list[int]]:
    """What is inside, with a margin for the blur, and the index of its first voxel."""
    sides, corner = [], []
    for axis, size in enumerate(array.shape):
        where = np.flatnonzero(inside.any(axis=tuple(n for n in range(3) if n != axis)))
        margin = int(np.ceil(3 * BLUR_MM / spacing[axis]))
        low, high = max(0, int(where[0]) - margin), min(size, int(where[-1]) + 1 + margin)
        # The recursive filter wants at least four voxels.
        low, high = (low, high) if high - low >= 4 else (max(0, high - 4), min(size, max(0, high - 4) + 4))
        sides.append(slice(low, high))
        corner.append(low)
    return np.ascontiguousarray(array[tuple(sides)], dtype=np.float32), corner
