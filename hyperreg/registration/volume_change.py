"""How much volume a deformation gives or takes at every place. numpy only, so that it runs in Slicer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.volume import DisplacementField, Volume

# Percentiles between which most of the changes lie, without the few extremes.
LOW_PERCENTILE, HIGH_PERCENTILE = 5, 95


def volume_change(field: DisplacementField) -> Volume:
    """Local volume at x after x -> x + u(x), as a multiple of that before: det(I + du/dx) by central differences.

    On the field's grid, float32: 1 is unchanged, 2 is doubled, at or below 0 space is folded. Derivatives are taken in
    RAS mm, with the directions of the grid's axes. The linear alignment's own change of volume is not in it.
    """
    # With A the grid's axes, det(I + du/dx) = det(A + du/dijk) / det(A): no derivative has to be turned.
    axes = field.ijk_to_ras[:3, :3]
    a, b, c = (
        [np.gradient(part, axis=axis) + np.float32(axes[row, axis]) for axis in range(3)]
        for row, part in enumerate(field.array)
    )
    determinant = a[0] * (b[1] * c[2] - b[2] * c[1])
    determinant -= a[1] * (b[0] * c[2] - b[2] * c[0])
    determinant += a[2] * (b[0] * c[1] - b[1] * c[0])
    determinant /= np.float32(np.linalg.det(axes))
    return Volume(determinant.astype(np.float32, copy=False), field.ijk_to_ras, "volume change")


def percent(change: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Multiples of the volume before as its change in %: 0 is unchanged, 100 is doubled, -50 is halved."""
    return np.float32(100) * (change - np.float32(1))


def spread(change: npt.NDArray[np.float32]) -> dict[str, float]:
    """Between which changes most of the voxels lie, %, by the names that metrics have: the 5th and 95th percentile.

    change: multiples of the volume before, of the voxels that count, in any shape; not empty.
    """
    low, high = np.percentile(percent(change), (LOW_PERCENTILE, HIGH_PERCENTILE))
    return {"volume_change_low_percent": float(low), "volume_change_high_percent": float(high)}
