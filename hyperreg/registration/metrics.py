"""What the numbers on screen mean: overlap of label maps, and the size, smoothness and folding of a field."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.registration.field import from_ras, jacobian_determinant


def dice(first: npt.NDArray, second: npt.NDArray) -> dict[int, float]:
    """Dice overlap of every non-zero label that both maps contain; the maps are integer arrays of one shape."""
    labels, counts_first = np.unique(first[first != 0], return_counts=True)
    others, counts_second = np.unique(second[second != 0], return_counts=True)
    shared, counts_shared = np.unique(first[(first == second) & (first != 0)], return_counts=True)
    size_first = dict(zip(labels.tolist(), counts_first.tolist(), strict=True))
    size_second = dict(zip(others.tolist(), counts_second.tolist(), strict=True))
    overlap = dict(zip(shared.tolist(), counts_shared.tolist(), strict=True))
    return {
        int(label): 2 * overlap.get(label, 0) / (size_first[label] + size_second[label])
        for label in size_first
        if label in size_second
    }


def mean_dice(values: dict[int, float]) -> float:
    """Mean over labels; NaN if there is none."""
    return float(np.mean(list(values.values()))) if values else float("nan")


def field_figures(displacement: Tensor, ijk_to_ras: Tensor, inside: Tensor) -> dict[str, float]:
    """Size, smoothness and folding of a displacement.

    displacement: (1, 3, I, J, K), RAS mm, on the grid of `ijk_to_ras` (4, 4).
    inside: (I, J, K) bool, the foreground of the fixed image: sizes and smoothness are taken there, folding everywhere.
    Returns folding_percent (voxels with a Jacobian determinant <= 0), displacement_max_mm, displacement_mean_mm,
    roughness (mean squared gradient of the displacement, mm^2/mm^2: the smoothness term, 0 is perfectly smooth).
    """
    voxels = from_ras(displacement, ijk_to_ras)
    length = displacement[0].norm(dim=0)
    spacing = ijk_to_ras[:3, :3].norm(dim=0)
    squared = torch.zeros_like(length)
    for axis in range(3):
        step = torch.diff(displacement[0], dim=1 + axis, append=displacement[0].narrow(1 + axis, -1, 1)) / spacing[axis]
        squared += step.square().sum(0)
    chosen = inside if bool(inside.any()) else torch.ones_like(inside)
    return {
        "folding_percent": 100 * float((jacobian_determinant(voxels) <= 0).float().mean()),
        "displacement_max_mm": float(length[chosen].max()),
        "displacement_mean_mm": float(length[chosen].mean()),
        "roughness": float(squared[chosen].mean()),
    }
