"""Brains with manual labels: as they are, and with slices made thick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import DATA
from benchmarks.segmentation.measure import agreement, segment
from benchmarks.segmentation.structures import (
    AUTOMATIC,
    MANUAL,
    NUMBERS,
    found_structures,
    manual_structures,
    wrong_side,
)
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.orientation import closest_axes
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import find_model
from hyperreg.segmentation.mask import whole_mask

# The first two were looked at while the models were made; they are no evidence and stand apart.
LOOKED_AT = ("1000", "1001")
HEADS = ("IXI013-HH-1212", "IXI014-HH-1236", "IXI033-HH-1259", "IXI034-HH-1260")
SUBJECTS = ("1002", "1004", "1005", "1006", "1008", "1009", "1010", "1017")


def whole(subject: str, model: str, output: Path, threads: int) -> dict[str, Any]:
    """A subject at 1 mm: Dice and HD95 per structure, time and memory of the command."""
    folder = DATA / "brain_oasis"
    image, labels = folder / f"{subject}_T1_brain.nii.gz", folder / f"{subject}_labels.nii.gz"
    out = output / "segmentations" / f"{subject}-{model}.nii.gz"
    measured = _measured(image, labels, MANUAL, model, out, threads)
    share = wrong_side(read_label_map(out).array, read_label_map(labels).array, find_model(model))
    return measured if share is None else {**measured, "wrong_side": share}


def head(subject: str, model: str, output: Path, threads: int) -> dict[str, Any]:
    """A whole head, the same against another program's labels, and the mask of everything against all of them."""
    folder = DATA / "brain_ixi"
    image, labels = folder / f"{subject}_T1.nii.gz", folder / f"{subject}_T1_DLMUSE.nii.gz"
    out = output / "segmentations" / f"{subject}-{model}.nii.gz"
    measured = _measured(image, labels, AUTOMATIC, model, out, threads)
    mask, brain = whole_mask(read_label_map(out)).array > 0, read_label_map(labels).array > 0
    both = int(mask.sum()) + int(brain.sum())
    return {**measured, "mask_dice": 2 * int((mask & brain).sum()) / both, "mask_ratio": mask.sum() / brain.sum()}


def thick(subject: str, model: str, millimetres: int, output: Path, threads: int) -> dict[str, Any]:
    """The same with slices of so many mm, measured on those slices: what a perfect observer of them could draw."""
    folder = DATA / "brain_oasis"
    image, labels = thickened(
        read_volume(folder / f"{subject}_T1_brain.nii.gz"),
        read_label_map(folder / f"{subject}_labels.nii.gz"),
        millimetres,
    )
    made = output / "made" / f"{subject}-{millimetres}mm.nii.gz"
    made.parent.mkdir(parents=True, exist_ok=True)
    write_volume(image, made)
    out = output / "segmentations" / f"{subject}-{millimetres}mm-{model}.nii.gz"
    out.parent.mkdir(parents=True, exist_ok=True)
    cost = segment([str(made)], model, out, threads)
    return {**_compare(out, labels.grid, labels.array, model), **cost.__dict__}


def thickened(image: Volume, labels: Volume, factor: int) -> tuple[Volume, Volume]:
    """Means of `factor` slices along the body, and for each voxel the structure (of NUMBERS) that fills most of it."""
    axes, _ = closest_axes(image.ijk_to_ras)
    axis = axes[2]
    mapped = manual_structures(labels.array)
    count = image.array.shape[axis] // factor
    affine = image.ijk_to_ras.copy()
    affine[:3, 3] += affine[:3, axis] * (factor - 1) / 2
    affine[:3, axis] *= factor

    def grouped(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        moved = np.moveaxis(array, axis, 2)[:, :, : count * factor]
        return moved.reshape(*moved.shape[:2], count, factor)

    means = grouped(image.array.astype(np.float32)).mean(3)
    groups = grouped(mapped)
    best = np.zeros(groups.shape[:3], np.uint8)
    most = (groups == 0).sum(3)
    for label in np.unique(mapped)[1:]:
        filled = (groups == label).sum(3)
        best[filled > most] = label
        most = np.maximum(most, filled)
    return (
        Volume(np.ascontiguousarray(np.moveaxis(means, 2, axis)), affine, image.name),
        Volume(np.ascontiguousarray(np.moveaxis(best, 2, axis)), affine, labels.name),
    )


def _measured(
    image: Path, labels: Path, numbers: Mapping[str, tuple[int, ...]], model: str, out: Path, threads: int
) -> dict[str, Any]:
    """numbers: of the labels that make up each structure."""
    out.parent.mkdir(parents=True, exist_ok=True)
    cost = segment([str(image)], model, out, threads)
    truth = read_label_map(labels)
    return {**_compare(out, truth.grid, manual_structures(truth.array, numbers), model), **cost.__dict__}


def _compare(found: Path, grid: Grid, wanted: npt.NDArray[Any], model: str) -> dict[str, Any]:
    """wanted: of NUMBERS, on `grid`. Both sides of a structure count together."""
    written = read_label_map(found)
    if not written.grid.matches(grid):
        raise RuntimeError(f"'{found.name}' is on another grid than the labels that it is compared with.")
    parts = found_structures(written.array, find_model(model))
    named = [(number, name) for name, number in NUMBERS.items()]
    return {"structures": agreement(parts, wanted, named, grid.spacing)}
