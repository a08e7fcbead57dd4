"""How well the fine detail of two images agrees under a field: detail that the network did not see.

The network registers images on a coarse grid, and a flexible field can make them agree there by following noise and
differences that have no counterpart. What lies between the voxels of that grid was not fitted to, so its agreement is
a fair judge, as held-out data is in cross-validation: it rises while structures come closer, and falls when they are
torn. `registration.response` chooses lambda by it.

It is judged where the linear alignment left the images apart, because there is the registration's work. Of a beating
heart in a still chest, nine tenths of the picture agree already, and lose a little under any field that is not exactly
zero there: their mean would call for no motion at all. How far apart the images were is seen at the network's
resolution, not at that of the detail: else chance, which made detail disagree by its noise once, would always make it
agree better the second time.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.imaging.intensity import normalise
from hyperreg.imaging.resampling import resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.field import from_ras, sample
from hyperreg.registration.losses import local_ncc

# Voxels of the detail's grid along one of the network's.
REFINEMENT = 2
# In voxels of the detail's grid: hardly wider than two of the network's voxels.
WINDOW = 5
# Where images agree completely, a voxel still counts this much: of two equal images something has to be judged.
LEAST_APART = 1e-3
# Chance is looked at where the moving image is moved by this share of the grid's length along each axis.
ELSEWHERE = 1 / 3
# Chance agrees at least this well; less is a flat image.
LEAST_CHANCE = 1e-4
# A larger grid is made coarser: a figure must not cost more than the field that it judges.
MOST_VOXELS = 4_000_000


def detail_grid(grid: Grid, inside: npt.NDArray[np.bool_]) -> Grid:
    """The finer grid around what is `inside` (I, J, K; not empty) of the network's grid, along the same axes."""
    box = np.argwhere(inside)
    low, high = box.min(0) - 0.5, box.max(0) + 0.5
    step = max(1 / REFINEMENT, float((high - low).prod() / MOST_VOXELS) ** (1 / 3))
    shape = np.maximum(np.round((high - low) / step), WINDOW).astype(int)
    affine = grid.ijk_to_ras.copy()
    affine[:3, :3] *= step
    affine[:3, 3] = grid.to_ras(low + step / 2)
    return Grid((int(shape[0]), int(shape[1]), int(shape[2])), affine)


def field_on(field: DisplacementField, grid: Grid, device: str | torch.device) -> Tensor:
    """The field's displacements at the voxels of another grid: (1, 3, I, J, K), RAS mm; zero outside the field."""
    change = field.grid.ras_to_ijk @ grid.ijk_to_ras
    axes = [
        torch.arange(n, dtype=torch.float32, device=device).view([-1 if a == axis else 1 for a in range(3)])
        for axis, n in enumerate(grid.shape)
    ]
    offsets = []
    for axis in range(3):
        position = sum((float(change[axis, a]) * axes[a] for a in range(3)), torch.tensor(float(change[axis, 3])))
        offsets.append((position - axes[axis]).expand(grid.shape))
    return sample(torch.from_numpy(field.array).to(device)[None], torch.stack(offsets)[None])


@torch.inference_mode()
def apart(fixed: Tensor, moving: Tensor) -> Tensor:
    """How far two images disagree at half their resolution, 0 to 1 (never quite 0): (1, 1, I, J, K), as they are."""
    size = [max(1, n // REFINEMENT) for n in fixed.shape[2:]]
    first, second = (F.interpolate(image, size=size, mode="area") for image in (fixed, moving))
    disagreement = (1 - local_ncc(first, second)).clamp(LEAST_APART, 1)
    return F.interpolate(disagreement, size=fixed.shape[2:], mode="trilinear", align_corners=False)


class Detail:
    """A pair's fine images, both in the fixed image's space, and how well they agree under a field.

    linear: (4, 4), fixed RAS to moving RAS, mm. grid, inside: the network's grid, and the foreground on it.
    """

    def __init__(
        self,
        fixed: Volume,
        moving: Volume,
        linear: npt.NDArray[np.float64],
        grid: Grid,
        inside: npt.NDArray[np.bool_],
    ) -> None:
        if not inside.any():
            inside = np.ones_like(inside)
        self.grid = detail_grid(grid, inside)
        arrays = [
            resample_smoothed(fixed, self.grid).array,
            resample_smoothed(moving, self.grid, Transform((linear,))).array,
        ]
        self._fixed, self._moving = (torch.from_numpy(normalise(array))[None, None] for array in arrays)
        foreground = DisplacementField(np.repeat(inside[None].astype(np.float32), 3, axis=0), grid.ijk_to_ras)
        self._inside = field_on(foreground, self.grid, "cpu")[0, 0] >= 0.5
        self._apart = apart(self._fixed, self._moving)[0, 0][self._inside].double()

    @torch.inference_mode()
    def agreement(self, field: DisplacementField | None = None, device: str = "cpu") -> float:
        """Mean squared local correlation in the foreground, 0 to 1, under a field (RAS mm, on any grid).

        Every voxel counts as far as the linear alignment left the images `apart`. Without a field: of that alone.
        """
        found = self._agreeing(self._moved(field, device))
        return float((found * self._apart).sum() / self._apart.sum())

    @torch.inference_mode()
    def over_chance(self, field: DisplacementField | None = None, device: str = "cpu") -> float:
        """How many times as well detail agrees as that of unrelated places: about 1 where nothing agrees.

        Unrelated is the moving image moved ELSEWHERE along one axis; what leaves the grid comes in at its other end.
        The mean over all of the foreground counts: most of what a linear alignment brings together is not `apart`.
        """
        moving = self._moved(field, device)
        shifts = ((axis, round(moving.shape[axis] * ELSEWHERE)) for axis in (2, 3, 4))
        chance = np.mean([float(self._agreeing(torch.roll(moving, shift, axis)).mean()) for axis, shift in shifts])
        return float(self._agreeing(moving).mean()) / max(float(chance), LEAST_CHANCE)

    def _moved(self, field: DisplacementField | None, device: str) -> Tensor:
        moving = self._moving.to(device)
        if field is None:
            return moving
        displacement = from_ras(field_on(field, self.grid, device), torch.from_numpy(self.grid.ijk_to_ras.copy()))
        return sample(moving, displacement, padding="border")

    def _agreeing(self, moving: Tensor) -> Tensor:
        """Squared local correlation with the fixed image at every voxel of the foreground: (N,), on the CPU."""
        return local_ncc(self._fixed.to(moving.device), moving, WINDOW)[0, 0].cpu()[self._inside]
