"""The same measurements for every method: from its transform as one displacement on the fixed image's own grid."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.registration.case import Case, read_points
from benchmarks.registration.store import load_transform
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.intensity import foreground, normalise
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration.losses import local_ncc
from hyperreg.registration.metrics import dice, mean_dice, shared_labels

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
BINS = 48
# For the fit of the linear part, which needs no more.
FIT_POINTS = 20_000


@lru_cache(maxsize=8)
def _volume(path: str) -> Volume:
    return read_volume(path)


@lru_cache(maxsize=8)
def _labels(path: str) -> Volume:
    return read_label_map(path)


@lru_cache(maxsize=4)
def _foreground(path: str) -> Bools:
    return foreground(_volume(path))


def measure(case: Case, transform: Transform) -> dict[str, float]:
    """Everything that the pair allows; what it does not is left out.

    folding_percent, roughness: see `field_measures`. outline_dice: of the two images' foregrounds.
    similarity: mean local NCC in the fixed foreground (one contrast), mutual_information (nats, two contrasts).
    dice, dice_subcortical, dice_cortical: mean over the labels that both maps hold, 0 to 1.
    tre_mm, tre_p95_mm: at the landmarks. error_mm, error_p95_mm: against the known truth inside the foreground.
    """
    fixed, moving = _volume(str(case.fixed)), _volume(str(case.moving))
    inside = _foreground(str(case.fixed))
    field = transform.to_field(fixed.grid)
    dense = Transform((field,))
    figures = field_measures(field, inside)
    warped = resample(moving, fixed.grid, dense)
    if case.cross:
        figures["mutual_information"] = mutual_information(fixed.array[inside], warped.array[inside])
    else:
        figures["similarity"] = similarity(fixed.array, warped.array, inside)
    other = Volume(_foreground(str(case.moving)).astype(np.uint8), moving.ijk_to_ras, "foreground")
    mapped = resample(other, fixed.grid, dense, "nearest").array
    figures["outline_dice"] = dice(inside.astype(np.uint8), mapped, (1,))[1]
    if case.fixed_labels is not None and case.moving_labels is not None:
        figures |= label_measures(case, dense)
    if case.fixed_points is not None and case.moving_points is not None:
        here, there = (read_points(path, case.left_out) for path in (case.fixed_points, case.moving_points))
        distance = np.linalg.norm(dense.apply(here) - there, axis=1)
        figures |= {"tre_mm": float(distance.mean()), "tre_p95_mm": float(np.percentile(distance, 95))}
    if case.truth is not None:
        truth = load_transform(case.truth).to_field(fixed.grid)
        distance = np.linalg.norm(field.array - truth.array, axis=0)[inside]
        figures |= {"error_mm": float(distance.mean()), "error_p95_mm": float(np.percentile(distance, 95))}
    return figures


def label_measures(case: Case, dense: Transform) -> dict[str, float]:
    """Dice with the moving labels pulled back by nearest neighbour through `dense`, fixed RAS to moving RAS."""
    fixed, moving = _labels(str(case.fixed_labels)), _labels(str(case.moving_labels))
    warped = resample(moving, fixed.grid, dense, "nearest")
    labels = shared_labels(fixed.array, moving.array)
    values = dice(fixed.array, warped.array, labels)

    def group(members: Iterable[int]) -> float:
        return mean_dice({label: values[label] for label in members if label in values})

    figures = {"dice": mean_dice(values), "labels": float(len(labels))}
    if case.subcortical:
        figures["dice_subcortical"] = group(case.subcortical)
    if case.cortical:
        figures["dice_cortical"] = group(case.cortical)
    return figures


def field_measures(field: DisplacementField, inside: Bools) -> dict[str, float]:
    """folding_percent: voxels of the foreground whose Jacobian determinant is 0 or less, forward differences.

    roughness: mean squared gradient of the displacement without its linear part, mm^2/mm^2, in the foreground: with the
    map x -> A(x + w(x)), A fitted by least squares in the foreground, it is of w, so that the start does not count.
    """
    grid = field.grid
    linear = fitted_linear(field, inside)
    # Forward differences of the whole map along the grid's axes, mm per mm; the last voxel of an axis has none.
    steps = np.array(grid.ijk_to_ras[:3, :3])
    gradient = np.empty((3, 3, *grid.shape), dtype=np.float32)
    for axis, size in enumerate(grid.spacing):
        last = np.take(field.array, [-1], axis=1 + axis)
        difference = np.diff(field.array, axis=1 + axis, append=last) / size
        gradient[:, axis] = difference + (steps[:, axis] / size).reshape(3, 1, 1, 1)
    a, b, c = gradient[:, 0], gradient[:, 1], gradient[:, 2]
    determinant = (
        a[0] * (b[1] * c[2] - b[2] * c[1]) - b[0] * (a[1] * c[2] - a[2] * c[1]) + c[0] * (a[1] * b[2] - a[2] * b[1])
    )
    determinant *= np.sign(np.linalg.det(steps))
    whole = inside.copy()
    for axis in range(3):
        index: list[slice | int] = [slice(None)] * 3
        index[axis] = -1
        whole[tuple(index)] = False
    chosen = gradient[:, :, whole].reshape(3, 3, -1)
    straight = np.einsum("rc,can->ran", np.linalg.inv(linear), chosen) - (steps / grid.spacing)[:, :, None]
    return {
        "folding_percent": 100 * float((determinant[whole] <= 0).mean()),
        "roughness": float(np.square(straight).sum(axis=(0, 1)).mean()),
    }


def fitted_linear(field: DisplacementField, inside: Bools) -> Floats:
    """The (3, 3) linear part that fits the map x -> x + u(x) best in the foreground."""
    chosen = np.argwhere(inside)
    chosen = chosen[:: max(1, len(chosen) // FIT_POINTS)]
    here = field.grid.to_ras(chosen)
    there = here + field.array[:, chosen[:, 0], chosen[:, 1], chosen[:, 2]].T
    found = np.linalg.lstsq(here - here.mean(0), there - there.mean(0), rcond=None)[0]
    return np.asarray(found.T, dtype=np.float64)


def similarity(fixed: npt.NDArray[Any], warped: npt.NDArray[Any], inside: Bools) -> float:
    """Mean squared local correlation (9 voxels wide) in the foreground, 0 to 1."""
    here, there = (torch.from_numpy(normalise(array))[None, None] for array in (fixed, warped))
    return float(local_ncc(here, there)[0, 0][torch.from_numpy(inside)].mean())


def mutual_information(fixed: npt.NDArray[Any], warped: npt.NDArray[Any]) -> float:
    """Of two lists of values, nats."""
    joint = np.histogram2d(normalise(fixed), normalise(warped), bins=BINS)[0] / fixed.size
    independent = joint.sum(axis=1, keepdims=True) * joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log(joint[seen] / independent[seen])).sum())
