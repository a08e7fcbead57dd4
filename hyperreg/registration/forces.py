"""The user's forces on one level of the solver: landmarks that pull. Tensors, in voxels of the level."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.registration.filters import gaussian_kernel, separable

# Of what a landmark is off, this fraction is made up for in a step: more would overshoot where space is stretched.
PULL_RATE = 0.5
# Where a fixed point lies between two images that are both moved is found in so many steps, from where it was last.
MIDDLE_STEPS = 2
# No landmark is pulled farther than that in a step, voxels of the level: as the similarity's steps.
MOST_PULL_VOXELS = 0.6
# From this fraction of the Gaussian's height on, a landmark has the whole say.
FULL_SHARE = 0.7
# Forces of the user hold for every lambda but 1, where nothing moves: they fade on the last stretch, with this power of
# lambda.
FADING_POWER = 16


def insistence(lam: Tensor) -> Tensor:
    """How much a force of the user counts at lambda, 1 to 0: the same shape."""
    return 1 - lam**FADING_POWER


def on_level(points: Tensor, factor: int) -> Tensor:
    """Points in voxels of the image, in voxels that are `factor` times as long."""
    return (points + 0.5) / factor - 0.5


def at_points(maps: Tensor, points: Tensor) -> Tensor:
    """The values of (1, C, I, J, K) at points (P, 3), voxels, linear between voxels: (P, C)."""
    sizes = torch.tensor(maps.shape[2:], device=maps.device)
    places = points.to(maps) * (2 / (sizes - 1).clamp_min(1)) - 1
    found = F.grid_sample(maps, places.flip(1)[None, None, None], padding_mode="border", align_corners=True)
    return found[0, :, 0, 0].T


def spread(values: Tensor, points: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Values (P, C) at points (P, 3), voxels, each shared by the eight voxels around its point: (1, C, I, J, K)."""
    sizes = torch.tensor(shape, device=points.device)
    low = points.floor()
    strides = torch.tensor((shape[1] * shape[2], shape[2], 1), device=points.device)
    result = torch.zeros(values.shape[1], shape[0] * shape[1] * shape[2], device=values.device)
    for corner in range(8):
        bits = torch.tensor([corner >> axis & 1 for axis in range(3)], device=points.device)
        index = low.long() + bits
        share = (1 - (points - index).abs()).prod(dim=1)
        inside = ((index >= 0) & (index < sizes)).all(dim=1)
        result.index_add_(1, (index * strides).sum(dim=1)[inside], (values * share[:, None])[inside].T)
    return result.view(1, -1, *shape)


class Pull:
    """Landmarks that pull on one level.

    here, there: (P, 3), voxels of the level: the fixed points, and where the map should lead them. weight: 0 to 1.
    smoothing_sd: of the Gaussian with which a pull spreads, voxels. lam: lambda of every voxel.
    """

    def __init__(self, here: Tensor, there: Tensor, weight: float, smoothing_sd: float, lam: Tensor) -> None:
        self._here, self._there, self._middle = here, there, here
        self._smoothing = gaussian_kernel(smoothing_sd)
        # Around a landmark, wherever between the voxels it lies, its share is 1; several add up to no more.
        self._peak = FULL_SHARE * max(self._smoothing) ** 3
        self._insistence = weight * insistence(lam)

    def step(self, displacement: Tensor) -> tuple[Tensor, Tensor]:
        """How much the landmarks have the say instead of the images, 0 to 1, (1, 1, I, J, K), and their step towards
        each other, (1, 3, I, J, K), times that.

        displacement: of the moving image, (1, 3, I, J, K); or of the moving and the fixed one, (2, 3, I, J, K).
        """
        if len(displacement) > 1:
            for _ in range(MIDDLE_STEPS):
                self._middle = self._here - at_points(displacement[1:], self._middle)
        missing = PULL_RATE * (self._there - self._middle - at_points(displacement[:1], self._middle))
        length = missing.norm(dim=1, keepdim=True)
        missing = missing * (MOST_PULL_VOXELS / length.clamp_min(MOST_PULL_VOXELS))
        values = torch.cat((torch.ones_like(length), missing), dim=1)
        i, j, k = displacement.shape[2:]
        shared = separable(spread(values, self._middle, (i, j, k)), self._smoothing, "zeros")
        density = shared[:, :1].clamp_min(self._peak)
        return shared[:, :1] / density * self._insistence, shared[:, 1:] / density * self._insistence
