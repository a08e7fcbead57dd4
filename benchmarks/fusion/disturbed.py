"""Experiment I: slices whose manual labels are disturbed on purpose, so that the quality of each is known."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.fusion.registered import SUBJECTS, random_displacement, read_target
from benchmarks.fusion.structures import HIPPOCAMPUS
from hyperreg.fusion.samples import LabelledTarget
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume

SLICES = 8
# A slice's labels are displaced by so many mm on average, smoothly; these take turns. Half of all are good.
LENGTHS_MM = (0.0, 8.0, 1.0, 4.0, 0.0, 12.0, 1.0, 6.0)
CONTROL_MM = 30.0
# Left around the labels, voxels: disturbed ones stay inside.
MARGIN = 24


def disturbed_slices() -> tuple[list[LabelledTarget], list[float]]:
    """Coronal slices through the hippocampi of all subjects, one label map each, and its Dice with the truth."""
    targets, quality = [], []
    for subject_number, subject in enumerate(SUBJECTS):
        target = read_target(subject)
        truth = HIPPOCAMPUS.of(target.truth.array)
        # The axes of these images are L, A, S: a coronal slice is one voxel along the second.
        filled = np.flatnonzero((truth > 0).sum(axis=(0, 2)) > 40)
        for number, j in enumerate(np.linspace(filled[0], filled[-1], SLICES).round().astype(int).tolist()):
            affine = target.image.ijk_to_ras.copy()
            affine[:3, 3] = target.image.grid.to_ras((0, j, 0))
            image = Volume(np.ascontiguousarray(target.image.array[:, j : j + 1]), affine, f"{subject}-{j}")
            labels = Volume(np.ascontiguousarray(truth[:, j : j + 1]), affine, "disturbed")
            length = LENGTHS_MM[(number + subject_number) % len(LENGTHS_MM)]
            moved = _moved(labels, length, seed=1000 * subject_number + number)
            targets.append(LabelledTarget(image.name, image, stack_labels([moved])))
            quality.append(HIPPOCAMPUS.dice(labels.array, moved.array))
    return targets, quality


def _moved(labels: Volume, length_mm: float, seed: int) -> Volume:
    """The label map after a smooth random displacement within the slice and a shift, of so many mm together."""
    if length_mm == 0:
        return labels
    field = random_displacement(labels.grid, length_mm, seed, CONTROL_MM)
    field.array[1] = 0
    shift = np.eye(4)
    angle = 2 * np.pi * float(torch.rand(1, generator=torch.Generator().manual_seed(seed)))
    shift[[0, 2], 3] = length_mm / 2 * np.array([np.cos(angle), np.sin(angle)])
    # Seen through three slices, because a grid of one voxel has no inside to interpolate in.
    thick = Volume(np.repeat(labels.array, 3, axis=1), labels.ijk_to_ras @ _back(1), "labels")
    return resample(thick, labels.grid, Transform((field, shift)), "nearest")


def _back(voxels: int) -> np.ndarray:
    matrix = np.eye(4)
    matrix[1, 3] = -voxels
    return matrix
