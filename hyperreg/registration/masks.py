"""Masks of a registration: what of an image counts for the similarity, and what is left out."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Grid, Volume

# With less of the image's foreground than this there is nothing to register by.
LEAST_COUNTED = 0.02


def on_image(mask: Volume, image: Grid) -> Volume:
    """1 on the voxels of an image that count by its mask, which may lie on any grid: there, not 0."""
    ones = Volume((mask.array != 0).astype(np.uint8), mask.ijk_to_ras, mask.name)
    return resample(ones, image, interpolation="nearest")


def check_masks(fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
    """Raise InputError for a mask that leaves (nearly) nothing of its image, or lies elsewhere."""
    for what, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        if mask is None:
            continue
        if not mask.array.any():
            raise InputError(f"The mask of the {what} image, '{mask.name}', is 0 everywhere: nothing would count.")
        counted = on_image(mask, image.grid).array[foreground(image)]
        if counted.mean() < LEAST_COUNTED:
            raise InputError(
                f"The mask of the {what} image, '{mask.name}', leaves {100 * counted.mean():.1f} % of what the image "
                "shows: does it lie elsewhere, or is it turned over? 1 is what counts, 0 is left out."
            )


def check_together(counted: npt.NDArray[np.float32], inside: npt.NDArray[np.bool_]) -> None:
    """Raise InputError for masks that leave (nearly) nothing together: what one lets count, the other leaves out.

    counted: how much each voxel counts by both; inside: the fixed image's foreground, both (I, J, K) on one grid.
    """
    left = float(counted[inside].mean())
    if left < LEAST_COUNTED:
        raise InputError(
            f"The masks of both images together leave {100 * left:.1f} % of what the fixed image shows: what counts in "
            "one image lies where the other is left out, or outside of it. Take one of them away, or leave out less."
        )
