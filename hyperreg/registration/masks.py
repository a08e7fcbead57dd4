"""Masks of a registration: what of an image counts for the similarity, and what is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume

# With less of the image's foreground than this there is nothing to register by.
LEAST_COUNTED = 0.02


def counted_by(
    mask: Volume, image: Grid, grid: Grid | None = None, transform: Transform | None = None
) -> npt.NDArray[np.bool_]:
    """Which voxels of `grid` count by the mask of an image: (I, J, K). The mask may lie on any grid; not 0 counts.

    grid, transform: the grid, and its way to the image, RAS mm; by default the image's own. Outside of the image there
    is nothing to leave out: a mask of 1 everywhere changes nothing.
    """
    ones = Volume((mask.array != 0).astype(np.uint8), mask.ijk_to_ras, mask.name)
    found = resample(ones, image, interpolation="nearest")
    if grid is not None:
        found = resample(found, grid, transform, "nearest", fill=1)
    return found.array != 0


def check_masks(fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
    """Raise InputError for a mask that leaves (nearly) nothing of its image, or lies elsewhere."""
    for what, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        if mask is None:
            continue
        if not mask.array.any():
            raise InputError(f"The mask of the {what} image, '{mask.name}', is 0 everywhere: nothing would count.")
        counted = counted_by(mask, image.grid)[foreground(image)]
        if counted.mean() < LEAST_COUNTED:
            raise InputError(
                f"The mask of the {what} image, '{mask.name}', leaves {100 * counted.mean():.1f} % of what the image "
                "shows: does it lie elsewhere, or is it turned over? 1 is what counts, 0 is left out."
            )


def check_together(masks: Sequence[npt.NDArray[np.bool_]], inside: npt.NDArray[np.bool_]) -> None:
    """Raise InputError for masks that leave (nearly) nothing together: what one lets count, the other leaves out.

    masks: which voxels count by each; inside: the fixed image's foreground, all of them (I, J, K) on one grid.
    """
    left = float(np.logical_and.reduce([inside, *masks]).sum() / inside.sum())
    if left < LEAST_COUNTED:
        raise InputError(
            f"The masks of both images together leave {100 * left:.1f} % of what the fixed image shows: what counts in "
            "one image lies where the other is left out, or outside of it. Take one of them away, or leave out less."
        )
