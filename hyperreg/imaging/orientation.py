"""Which way the axes of a grid point."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt


def closest_axes(ijk_to_ras: npt.NDArray[np.float64]) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Which array axis points closest along R, A and S, and whether with (+1) or against it (-1).

    Returns (axes, signs): array axis axes[0] runs along signs[0] * R, and so on.
    """
    directions = ijk_to_ras[:3, :3] / np.linalg.norm(ijk_to_ras[:3, :3], axis=0)
    axes = max(itertools.permutations(range(3)), key=lambda order: sum(abs(directions[r, order[r]]) for r in range(3)))
    i, j, k = (1 if directions[r, axes[r]] > 0 else -1 for r in range(3))
    return (axes[0], axes[1], axes[2]), (i, j, k)


def closest_directions(ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The grid's own axes as unit vectors (columns), reordered and flipped to point closest to R, A, S: (3, 3)."""
    axes, signs = closest_axes(ijk_to_ras)
    columns = ijk_to_ras[:3, list(axes)]
    directed: npt.NDArray[np.float64] = columns / np.linalg.norm(columns, axis=0) * np.array(signs)
    return directed


def to_closest_ras(array: npt.NDArray, ijk_to_ras: npt.NDArray[np.float64]) -> npt.NDArray:
    """The array (I, J, K) with axes permuted and flipped to run closest along R, A, S."""
    axes, signs = closest_axes(ijk_to_ras)
    return array.transpose(axes)[tuple(slice(None, None, sign) for sign in signs)]
