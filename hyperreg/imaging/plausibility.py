"""Bounds beyond which coordinates in a file are damage, not anatomy. numpy only."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError

# One kilometre: beyond any scanner's coordinates, whatever lies in it; a changed bit in a number leads far beyond.
FARTHEST_MM = 1e6


def check_reach(values: npt.NDArray[np.number], what: str) -> None:
    """Raise InputError if one of the values, mm, is farther from zero than FARTHEST_MM, or not finite.

    what: the beginning of a sentence that goes on with "by up to ... mm".
    """
    farthest = float(np.abs(values).max(initial=0))
    if not farthest <= FARTHEST_MM:
        raise InputError(
            f"{what} by up to {farthest:.2g} mm, which no body needs: the file is damaged, or its numbers are not in "
            "mm. Export it again."
        )
