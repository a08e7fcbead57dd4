"""How much volume a deformation gives or takes at every place. numpy only, so that it runs in Slicer.

The colours of its maps follow the logarithm of the volume, so that halved and doubled are equally strong; unchanged is
white.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.volume import DisplacementField, Volume

# Percentiles between which most of the changes lie, without the few extremes.
LOW_PERCENTILE, HIGH_PERCENTILE = 5, 95
# Volumes from halved to doubled, in %; what lies beyond has the colour of the end. The same at every λ, so that
# pictures can be compared.
LEAST, MOST = -50.0, 100.0
TICKS = ((-50.0, "-50 %"), (-25.0, "-25 %"), (0.0, "0"), (33.3, "+33 %"), (100.0, "+100 %"))
# Strength, from halved (-1) over unchanged to doubled (1), and its red, green, blue. Small changes have colours of
# their own (.07 are 5 %); blue and red are told apart by the colour-blind, too.
STOPS = (
    (-1.0, (0.05, 0.10, 0.50)),
    (-0.4, (0.10, 0.35, 0.95)),
    (-0.07, (0.45, 0.85, 1.0)),
    (0.0, (1.0, 1.0, 1.0)),
    (0.07, (1.0, 0.90, 0.40)),
    (0.4, (1.0, 0.40, 0.05)),
    (1.0, (0.60, 0.0, 0.10)),
)


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


def strength(change: float) -> float:
    """Where a change in % lies on the scale, -1 (halved) to 1 (doubled)."""
    return math.log2(1 + change / 100)


def colour_at(place: float) -> tuple[float, float, float]:
    """Red, green and blue, 0 to 1, at a place of the scale, see `strength`."""
    places, colours = zip(*STOPS, strict=True)
    red, green, blue = (float(np.interp(place, places, part)) for part in zip(*colours, strict=True))
    return red, green, blue
