"""Regions that move as one rigid body each: a vertebra, an implant.

In every step of the solver the part of the step that lies in a region is replaced by its best rigid fit, and blended
with its surroundings there: steps are velocities, and a blend of velocities does not tear. What drifts from the rigid
motion over many steps is corrected in the map itself. Rigid is the whole map from the fixed to the moving image, in mm:
a scale of the linear alignment is taken out again. Fits are those of Kabsch (1976).
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.label_checks import as_labels
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Matrix
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.filters import box_mean, largest_within
from hyperreg.registration.forces import at_points, insistence, on_level

# A region of fewer voxels, or whose voxels' SD across its longest axis is less, has no orientation.
FEWEST_VOXELS = 27
LEAST_SPREAD_VOXELS = 0.7
# A region that holds more of the foreground than this is the whole image, for which there is the rigid alignment.
MOST_OF_FOREGROUND = 0.9
# A motion is fitted at about this many of a region's voxels.
FIT_POINTS = 3_000
# How far from a region its motion reaches, voxels of the level: the map's correction, and its steps'. Both are 1 in the
# region and fade outside of it.
CORRECTED, BLENDED = 1, 2
# Room around a region for that, voxels of the image.
ROOM = 40

Box = tuple[slice, slice, slice]


class Body:
    """A region on the finest grid. box: where it and its surroundings lie; mask: (1, 1, I, J, K), 1 inside, in the box.

    points: (P, 3), voxels of the finest grid, spread over the region. multiple: the sides of the box are divisible by.
    """

    def __init__(self, inside: np.ndarray, multiple: int) -> None:
        voxels = np.argwhere(inside)
        low = np.maximum(voxels.min(axis=0) - ROOM, 0) // multiple * multiple
        high = np.minimum(-(-(voxels.max(axis=0) + 1 + ROOM) // multiple) * multiple, inside.shape)
        i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        self.box: Box = (i, j, k)
        self.mask = torch.from_numpy(inside[self.box].astype(np.float32))[None, None]
        self.points = torch.from_numpy(voxels[:: max(1, len(voxels) // FIT_POINTS)]).float()


def bodies_of(labels: Volume, values: tuple[int, ...], foreground: Volume, grid: Grid, multiple: int) -> list[Body]:
    """The regions of a label map in the fixed image's space as bodies on `grid`, the finest.

    foreground: the fixed image's, not 0 inside. Raises InputError for a label map that is none, labels that it does not
    hold, regions that are too small to have an orientation, and one that is the whole image.
    """
    whole = Volume(as_labels(labels), labels.ijk_to_ras, labels.name)
    here = resample(whole, grid, interpolation="nearest").array
    body = resample(foreground, grid, interpolation="nearest").array != 0
    found = []
    for value in values:
        inside = here == value
        voxels = np.argwhere(inside)
        if value == 0 or len(voxels) == 0:
            raise InputError(
                f"'{labels.name}' has no region {value} in the registered part of the fixed image: choose a label map "
                "that was drawn on the fixed image, and labels that it holds."
            )
        spread = np.sqrt(np.linalg.eigvalsh(np.cov(voxels.T, bias=True)).clip(0))
        if len(voxels) < FEWEST_VOXELS or spread[1] < LEAST_SPREAD_VOXELS:
            raise InputError(
                f"Region {value} of '{labels.name}' is too small or too thin to move as a rigid body ({len(voxels)} "
                "voxels): a single voxel or a line has no orientation. Draw it larger, or take it out."
            )
        if inside[body].mean() > MOST_OF_FOREGROUND:
            raise InputError(
                f"Region {value} of '{labels.name}' is the whole of what the fixed image shows: for that, align "
                "rigidly and do not deform."
            )
        found.append(Body(inside, multiple))
    return found


class RigidMotion:
    """Bodies on one level. to_fixed, to_moving: (4, 4), voxels of the finest grid to RAS mm of either image.

    factor, shape: of the level. lam: lambda of every voxel. window: (I, J, K), 0 at the border of the grid.
    """

    def __init__(
        self,
        bodies: list[Body],
        to_fixed: Matrix,
        to_moving: Matrix,
        factor: int,
        lam: Tensor,
        window: Tensor,
    ) -> None:
        level = np.diag([factor, factor, factor, 1.0])
        level[:3, 3] = (factor - 1) / 2
        self._to_fixed, self._to_moving = to_fixed @ level, to_moving @ level
        self._boxes = [_coarser(body.box, factor) for body in bodies]
        self._points = [on_level(body.points, factor).to(window) for body in bodies]
        limit = insistence(lam) * window
        shares = [(F.max_pool3d(body.mask, factor) if factor > 1 else body.mask).to(window) for body in bodies]
        self._corrected = self._weights(shares, CORRECTED, limit)
        self._blended = self._weights(shares, BLENDED, limit)

    def _weights(self, shares: list[Tensor], reach: int, limit: Tensor) -> list[Tensor]:
        """1 in each body, fading over twice `reach` voxels around it; together no more than 1."""
        size = 2 * reach + 1
        weights = [box_mean(largest_within(share, size), size) for share in shares]
        total = torch.zeros_like(limit)
        for box, weight in zip(self._boxes, weights, strict=True):
            _cut(total, box).add_(weight)
        limit = limit / total.clamp_min(1)
        return [weight * _cut(limit, box) for box, weight in zip(self._boxes, weights, strict=True)]

    def stiffen(self, step: Tensor) -> Tensor:
        """The step x + d(x), (1, 3, I, J, K), rigid in the bodies and blended around them."""
        return self._replaced(step, self._to_fixed, self._blended)

    def correct(self, displacement: Tensor) -> Tensor:
        """The map x + u(x), (1, 3, I, J, K), rigid in the bodies."""
        return self._replaced(displacement, self._to_moving, self._corrected)

    def _replaced(self, field: Tensor, outer: Matrix, weights: list[Tensor]) -> Tensor:
        """The field with its rigid fits. outer: from where the field leads, voxels, to mm, where distances are kept."""
        result = field.clone()
        for box, points, weight in zip(self._boxes, self._points, weights, strict=True):
            before = points.double().cpu().numpy()
            after = before + at_points(field, points).double().cpu().numpy()
            motion = kabsch(_mapped(self._to_fixed, before), _mapped(outer, after))
            change = np.linalg.inv(outer) @ motion @ self._to_fixed - np.eye(4)
            part = _cut(result, box)
            part += weight * (_affine(change, box, field) - part)
        return result


def _coarser(box: Box, factor: int) -> Box:
    i, j, k = (slice(part.start // factor, part.stop // factor) for part in box)
    return i, j, k


def _cut(tensor: Tensor, box: Box) -> Tensor:
    return tensor[:, :, box[0], box[1], box[2]]


def _mapped(matrix: Matrix, points: np.ndarray) -> np.ndarray:
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def kabsch(here: np.ndarray, there: np.ndarray) -> Matrix:
    """The rigid map that brings points (P, 3) nearest to others, least squares: (4, 4)."""
    centres = here.mean(axis=0), there.mean(axis=0)
    u, _, vt = np.linalg.svd((here - centres[0]).T @ (there - centres[1]))
    mirror = np.diag([1, 1, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    motion = np.eye(4)
    motion[:3, :3] = vt.T @ mirror @ u.T
    motion[:3, 3] = centres[1] - motion[:3, :3] @ centres[0]
    return motion


def _affine(matrix: Matrix, box: Box, like: Tensor) -> Tensor:
    """The values of an affine map of voxels, in a box: (1, 3, I, J, K)."""
    parts = torch.from_numpy(matrix[:3]).to(like)
    values = parts[:, 3].view(3, 1, 1, 1)
    for axis, part in enumerate(box):
        index = torch.arange(part.start, part.stop, device=like.device, dtype=like.dtype)
        shape = [-1 if a == axis else 1 for a in range(3)]
        values = values + parts[:, axis].view(3, 1, 1, 1) * index.view(1, *shape)
    return values[None]
