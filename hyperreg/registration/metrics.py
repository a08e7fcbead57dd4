"""What the numbers on screen mean: overlap of label maps, and the size, smoothness and folding of a field."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration.field import from_ras, jacobian_determinant
from hyperreg.registration.volume_change import spread, volume_change


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


def field_figures(field: DisplacementField, inside: Tensor) -> dict[str, float]:
    """Size, smoothness, folding and volume change of a displacement.

    inside: (I, J, K) bool, the foreground of the fixed image: all but the folding are taken there, folding everywhere.
    Returns folding_percent (voxels with a Jacobian determinant <= 0), displacement_max_mm, displacement_mean_mm,
    roughness (mean squared gradient of the displacement, mm^2/mm^2: the smoothness term, 0 is perfectly smooth),
    volume_change_low_percent and volume_change_high_percent (see `volume_change.spread`).
    """
    displacement = torch.from_numpy(field.array)[None]
    ijk_to_ras = torch.from_numpy(field.ijk_to_ras.astype(np.float32))
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
        **spread(volume_change(field).array[chosen.numpy()]),
    }
