"""Means of the maps between a template and its subjects, by which the template prefers none of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.transform import Matrix, Transform
from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.registration.linear import square_root

# The logarithm of a matrix is that of its 2^ROOTS-th root, by a series of SERIES terms: the root of a rotation by
# 180 degrees is one by 3, for which the first term that is left out is 1e-13.
ROOTS, SERIES = 6, 4
# Steps towards the mean of linear maps: the error is squared and shrunk by each, a few suffice.
MEAN_STEPS = 10
# Of the inverse of a field: iterations, and the largest error, voxels, at which it is good enough. ITK would stop at a
# small mean error, too, which says nothing where most of the field is 0.
INVERSE_STEPS, LARGEST_ERROR, MEAN_ERROR = 100, 0.01, 0.0


def logarithm(matrix: Matrix) -> Matrix:
    """The principal logarithm of a (4, 4) map without mirroring; see `exponential`."""
    for _ in range(ROOTS):
        matrix = square_root(matrix)
    # log X = 2 artanh((X - 1) / (X + 1))
    ratio = (matrix - np.eye(4)) @ np.linalg.inv(matrix + np.eye(4))
    total, power = np.zeros((4, 4)), ratio
    for term in range(SERIES):
        total += power / (2 * term + 1)
        power = power @ ratio @ ratio
    return 2 ** (ROOTS + 1) * total


def exponential(matrix: Matrix) -> Matrix:
    """The (4, 4) map whose logarithm a matrix is."""
    import torch

    return np.asarray(torch.linalg.matrix_exp(torch.from_numpy(np.array(matrix))).numpy(), dtype=np.float64)


def centred(maps: Sequence[Matrix]) -> list[Matrix]:
    """Linear maps from one place to each subject, led through the place of which their mean is no movement at all.

    The mean is the one of the logarithms (Arsigny et al. 2006), so that it does not depend on where the maps start:
    two subjects turned by 10 degrees to either side have their template straight between them, of their size.
    """
    maps = [np.asarray(one, dtype=np.float64) for one in maps]
    for _ in range(MEAN_STEPS):
        back = exponential(-np.mean([logarithm(one) for one in maps], axis=0))
        maps = [one @ back for one in maps]
    return maps


def on_one_grid(fields: Sequence[DisplacementField]) -> list[DisplacementField]:
    """The same fields, all on the first one's grid."""
    grid = fields[0].grid
    return [one if one.grid.matches(grid) else Transform((one,)).to_field(grid) for one in fields]


def mean_field(fields: Sequence[DisplacementField]) -> DisplacementField:
    """The mean displacement of fields on one grid, RAS mm."""
    total = np.zeros(fields[0].array.shape)
    for one in fields:
        total += one.array
    return DisplacementField((total / len(fields)).astype(np.float32), fields[0].ijk_to_ras)


def inverse(field: DisplacementField) -> DisplacementField:
    """The field w with w(y) + u(y + w(y)) = 0, RAS mm, on the same grid; 0 at its border."""
    found = sitk.InvertDisplacementField(
        itk.field_to_itk(field),
        maximumNumberOfIterations=INVERSE_STEPS,
        maxErrorToleranceThreshold=LARGEST_ERROR,
        meanErrorToleranceThreshold=MEAN_ERROR,
        enforceBoundaryCondition=True,
    )
    return itk.field_from_itk(found)


def common_grid(
    boxes: Sequence[npt.NDArray[np.float64]], maps: Sequence[Matrix], spacing: float, margin: float
) -> Grid:
    """A grid along R, A and S that holds what all subjects show.

    boxes: corners of each subject's content, (8, 3) RAS mm. maps: (4, 4), from the grid's place to the subjects.
    spacing: of its voxels, mm. margin: around the content, mm.
    """
    corners = [
        Transform((np.asarray(np.linalg.inv(one), dtype=np.float64),)).apply(box)
        for box, one in zip(boxes, maps, strict=True)
    ]
    # The median of the boxes' sides: one subject that is cut or tilted does not make all of it larger.
    low = np.median([box.min(axis=0) for box in corners], axis=0) - margin
    high = np.median([box.max(axis=0) for box in corners], axis=0) + margin
    i, j, k = (int(n) for n in np.ceil((high - low) / spacing) + 1)
    affine = np.diag([spacing, spacing, spacing, 1.0])
    affine[:3, 3] = (low + high) / 2 - spacing * (np.array([i, j, k]) - 1) / 2
    return Grid((i, j, k), affine)
