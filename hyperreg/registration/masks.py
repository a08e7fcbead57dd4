"""Masks of a registration: what of an image counts for the similarity, and what is left out."""

from __future__ import annotations

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.intensity import foreground
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Volume

# With less of the image's foreground than this there is nothing to register by.
LEAST_COUNTED = 0.02


def check_masks(fixed: Volume, moving: Volume, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
    """Raise InputError for a mask that leaves (nearly) nothing of its image, or lies elsewhere."""
    for what, image, mask in (("fixed", fixed, fixed_mask), ("moving", moving, moving_mask)):
        if mask is None:
            continue
        if not mask.array.any():
            raise InputError(f"The mask of the {what} image, '{mask.name}', is 0 everywhere: nothing would count.")
        ones = Volume((mask.array != 0).astype(np.uint8), mask.ijk_to_ras, mask.name)
        counted = resample(ones, image.grid, interpolation="nearest").array[foreground(image)]
        if counted.mean() < LEAST_COUNTED:
            raise InputError(
                f"The mask of the {what} image, '{mask.name}', leaves {100 * counted.mean():.1f} % of what the image "
                "shows: does it lie elsewhere, or is it turned over? 1 is what counts, 0 is left out."
            )
