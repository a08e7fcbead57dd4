"""Volumes on other grids, through transforms. SimpleITK does the work, so results are what any ITK tool makes of a
file.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import SimpleITK as sitk

from hyperreg.errors import InputError
from hyperreg.imaging import itk
from hyperreg.imaging.transform import Transform, to_sitk
from hyperreg.imaging.volume import Grid, Volume

Interpolation = Literal["linear", "nearest", "bspline"]

_INTERPOLATORS = {"linear": sitk.sitkLinear, "nearest": sitk.sitkNearestNeighbor, "bspline": sitk.sitkBSpline}
# Full width at half maximum of a Gaussian of unit SD. A low-pass whose width is the new voxel's keeps aliasing below
# 10 %.
FWHM = 2 * np.sqrt(2 * np.log(2))
# ITK's recursive Gaussian needs this many voxels along the axis that it smooths.
FEWEST_VOXELS = 4


def resample(
    volume: Volume,
    grid: Grid,
    transform: Transform | None = None,
    interpolation: Interpolation = "linear",
    fill: float | None = None,
) -> Volume:
    """`volume` on `grid`: the value at x is that of `volume` at transform(x).

    transform: maps RAS points of `grid` to RAS points of `volume`; identity by default.
    interpolation: "nearest" (label maps) keeps the voxel type; the others return float32, or float64 for float64.
    fill: value outside `volume`; by default 0 for "nearest", else the smallest value of `volume` (air, background).
    Raises InputError for an unknown interpolation.
    """
    if interpolation not in _INTERPOLATORS:
        raise InputError(f"Unknown interpolation '{interpolation}'. Use one of {', '.join(_INTERPOLATORS)}.")
    if fill is None:
        fill = 0.0 if interpolation == "nearest" else float(volume.array.min())
    image = itk.volume_to_itk(volume, None if interpolation == "nearest" else _real_type(volume))
    return _resampled(image, volume.name, grid, transform, _INTERPOLATORS[interpolation], fill)


def resample_smoothed(
    volume: Volume, grid: Grid, transform: Transform | None = None, fill: float | None = None
) -> Volume:
    """Like `resample` with linear interpolation, after a low-pass along each axis of `volume` that becomes coarser on
    `grid`.

    The low-pass is a Gaussian that, together with the voxel of `volume`, is as wide as the voxel of `grid` (seen
    through the
    linear part of `transform`). Axes that do not become coarser are left as they are.
    """
    if fill is None:
        fill = float(volume.array.min())
    image = itk.volume_to_itk(volume, _real_type(volume))
    for axis, sigma in enumerate(_low_pass(volume, grid, transform)):
        if sigma > 0 and volume.shape[axis] >= FEWEST_VOXELS:
            image = sitk.RecursiveGaussian(image, sigma, direction=axis)
    return _resampled(image, volume.name, grid, transform, sitk.sitkLinear, fill)


def _real_type(volume: Volume) -> type[np.floating]:
    return np.float64 if volume.array.dtype == np.float64 else np.float32


def _low_pass(volume: Volume, grid: Grid, transform: Transform | None) -> list[float]:
    """SD of the low-pass along each axis of `volume`, mm; 0 where none is needed."""
    linear = np.eye(4) if transform is None else transform.linear
    steps = linear[:3, :3] @ grid.ijk_to_ras[:3, :3]
    own = volume.spacing
    directions = volume.ijk_to_ras[:3, :3] / own
    target = np.abs(directions.T @ steps).max(axis=1)
    sigmas = np.sqrt(np.maximum(target**2 - own**2, 0)) / FWHM
    # Less than a tenth of a voxel of blur is rounding in the headers, not a coarser grid.
    return [float(sigma) if sigma > 0.1 * size else 0.0 for sigma, size in zip(sigmas, own, strict=True)]


def _resampled(
    image: sitk.Image, name: str, grid: Grid, transform: Transform | None, interpolator: int, fill: float
) -> Volume:
    reference = sitk.Image([1, 1, 1], sitk.sitkUInt8)
    itk.set_geometry(reference, grid)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(grid.shape)
    resampler.SetOutputOrigin(reference.GetOrigin())
    resampler.SetOutputSpacing(reference.GetSpacing())
    resampler.SetOutputDirection(reference.GetDirection())
    resampler.SetTransform(to_sitk(transform or Transform()))
    resampler.SetInterpolator(interpolator)
    resampler.SetDefaultPixelValue(fill)
    resampled = itk.volume_from_itk(resampler.Execute(image), name)
    return Volume(resampled.array, grid.ijk_to_ras, name)
