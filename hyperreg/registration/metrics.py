"""What the numbers on screen mean: overlap of label maps, and the size, smoothness and folding of a field."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration.field import from_ras, jacobian_determinant


def shared_labels(first: npt.NDArray, second: npt.NDArray) -> list[int]:
    """The non-zero labels that both integer arrays contain, sorted: what can be compared at all."""
    return [int(label) for label in np.intersect1d(first, second) if label != 0]


def dice(first: npt.NDArray, second: npt.NDArray, labels: Iterable[int]) -> dict[int, float]:
    """Dice overlap of each of `labels`; the maps are integer arrays of one shape. One without voxels counts as 0."""
    # Without the background, which is most of the voxels and would only be counted.
    parts = (part[part != 0] for part in (first, second, first[first == second]))
    sizes = [dict(zip(*(a.tolist() for a in np.unique(part, return_counts=True)), strict=True)) for part in parts]
    return {
        label: 2 * sizes[2].get(label, 0) / max(1, sizes[0].get(label, 0) + sizes[1].get(label, 0)) for label in labels
    }


def mean_dice(values: dict[int, float]) -> float:
    """Mean over labels; NaN if there is none."""
    return float(np.mean(list(values.values()))) if values else float("nan")


def volume_change(field: DisplacementField) -> Volume:
    """Local volume at x after x -> x + u(x), as a multiple of that before: det(I + du/dx) by central differences.

    On the field's grid, float32: 1 is unchanged, 2 is doubled, at or below 0 space is folded. Derivatives are taken in
    RAS mm, with the directions of the grid's axes. The linear alignment's own change of volume is not in it.
    """
    by_axis = np.stack([np.gradient(field.array, axis=axis) for axis in (1, 2, 3)], axis=-1)  # (3, I, J, K, axis)
    by_mm = by_axis @ np.linalg.inv(field.ijk_to_ras[:3, :3]).astype(np.float32)
    jacobian = np.moveaxis(by_mm, 0, -2) + np.eye(3, dtype=np.float32)  # (I, J, K, component, direction)
    a, b, c = (jacobian[..., row, :] for row in range(3))
    return Volume((a * np.cross(b, c)).sum(-1).astype(np.float32), field.ijk_to_ras, "volume change")


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
