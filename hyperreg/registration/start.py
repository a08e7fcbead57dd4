"""Where a registration starts from: the names of the linear alignments, landmarks, or any transform. No torch."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Matrix, Transform, checked_matrix
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.landmarks import Landmarks

# From the least to the most that is changed; the deformation starts from what they find.
ALIGNMENTS = ("none", "com", "rigid", "similarity", "affine")
# The word for an alignment by landmarks alone.
BY_LANDMARKS = "landmarks"
# From so many landmarks on an affine map is fitted to them: to fewer it would fit the error of placing them.
FEWEST_AFFINE = 6
# Extent of points across a line, and across a plane, as fractions of their longest one: less is none.
LEAST_WIDTH, LEAST_DEPTH = 0.05, 0.1
# A start is looked at, and its linear part fitted, at about this many points.
FIT_POINTS = 20_000
# A start may fold in this fraction of the foreground: deformations of other programs often do in a few voxels.
MOST_FOLDED = 0.001


def landmark_alignment(landmarks: Landmarks) -> Matrix:
    """The linear map of fixed RAS to moving RAS, mm, that brings landmarks together by least squares: (4, 4).

    Affine for FEWEST_AFFINE landmarks or more that do not lie in one plane, else rigid. Raises InputError for less than
    three, three on a line, and landmarks that only a mirror would bring together.
    """
    import SimpleITK as sitk

    from hyperreg.imaging import itk

    widths = [np.linalg.svd(points - points.mean(axis=0), compute_uv=False) for points in _both(landmarks)]
    if len(landmarks) < 3 or any(width[1] <= LEAST_WIDTH * width[0] for width in widths):
        raise InputError(
            "An alignment by landmarks needs at least three that do not lie on one line: add some, far from each other."
        )
    flat = any(width[2] < LEAST_DEPTH * width[0] for width in widths)
    rigid = flat or len(landmarks) < FEWEST_AFFINE
    fitted = sitk.LandmarkBasedTransformInitializer(
        sitk.VersorRigid3DTransform() if rigid else sitk.AffineTransform(3),
        *((points @ itk.RAS_LPS[:3, :3]).ravel().tolist() for points in _both(landmarks)),
    )
    matrix = itk.affine_from_itk(fitted)
    if np.linalg.det(matrix[:3, :3]) <= 0:
        raise InputError(
            "Only a mirror would bring the landmarks together: are left and right mixed up, or the points not in the "
            "same order?"
        )
    return checked_matrix(matrix, "The alignment by landmarks")


def _both(landmarks: Landmarks) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    return landmarks.fixed, landmarks.moving


def split(start: Transform, foreground: Volume) -> tuple[Matrix, Transform]:
    """A start, fixed RAS to moving RAS, as a linear map A, (4, 4), and x -> x + u(x), so that start(x) = A(x + u(x)).

    A is the start's last stage, if that is linear (as in the transforms that HyperReg saves), else the affine map that
    is nearest to the start in the fixed image's foreground (not 0 there).
    """
    last = start.stages[-1]
    if not isinstance(last, DisplacementField):
        return last, Transform(start.stages[:-1])
    inside = np.argwhere(foreground.array != 0)
    points = foreground.grid.to_ras(inside[:: max(1, len(inside) // FIT_POINTS)])
    homogeneous = np.c_[points, np.ones(len(points))]
    linear = np.eye(4)
    linear[:3] = np.linalg.lstsq(homogeneous, start.apply(points), rcond=None)[0].T
    linear = checked_matrix(linear, "The linear part of the start")
    return linear, Transform((*start.stages, np.asarray(np.linalg.inv(linear), dtype=np.float64)))


def check_start(start: Transform, foreground: Volume, moving: Grid) -> None:
    """Raise InputError for a start that leads the fixed image's foreground (not 0) out of the moving image, or folds.

    start: fixed RAS to moving RAS.
    """
    inside = np.argwhere(foreground.array != 0)
    every = max(1, len(inside) // FIT_POINTS)
    points = foreground.grid.to_ras(inside[::every])
    index = moving.to_ijk(start.apply(points))
    if not ((index >= -0.5) & (index <= np.array(moving.shape) - 0.5)).all(axis=1).any():
        raise InputError(
            "With the given start the images do not overlap. Does it map from the fixed to the moving image, and does "
            "it belong to this pair?"
        )
    # A step of a voxel along each axis, there and where it leads.
    axes = foreground.ijk_to_ras[:3, :3].T
    steps = np.stack([start.apply(points + axis) - start.apply(points - axis) for axis in axes], axis=1)
    volumes = np.linalg.det(steps) * np.sign(np.linalg.det(axes))
    folded = float((volumes <= 0).mean())
    if folded > MOST_FOLDED:
        raise InputError(
            f"The given start folds space in {100 * folded:.2g} % of what the fixed image shows: no deformation can "
            "grow from there. Choose another one, or a linear alignment."
        )
