"""Random deformations whose inverse is known, so that the field between two images of one label map is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.registration.field import integrate, sample

# Distance of the control points of the random velocity, and the largest SD of the velocity at them; both in mm.
SCALES_MM = ((16.0, 1.2), (32.0, 2.4), (64.0, 2.4))
STEPS = 5


@dataclass(frozen=True)
class Deformation:
    """Grid point x (mm from the grid's middle) -> matrix @ (x + exp(velocity)(x) - x) + shift, mm in the label map.

    velocity: (1, 3, I, J, K), voxels of `spacing` mm; matrix (3, 3); shift (3, 1).
    """

    velocity: Tensor
    matrix: Tensor
    shift: Tensor
    spacing: float

    def points(self, supersampling: int) -> Tensor:
        """Where the points of a grid `supersampling` times finer lie in the label map: (3, I' J' K'), mm."""
        fine = [n * supersampling for n in self.velocity.shape[2:]]
        displacement = integrate(self.velocity, STEPS) * self.spacing
        displacement = F.interpolate(displacement, size=fine, mode="trilinear", align_corners=False)
        grid = positions(fine, self.spacing / supersampling, displacement.device)
        return self.matrix @ (grid + displacement[0]).flatten(1) + self.shift

    def back(self, points: Tensor) -> Tensor:
        """The inverse: (3, N) mm in the label map to (3, N) mm from the grid's middle."""
        shape = self.velocity.shape[2:]
        straight = torch.linalg.solve(self.matrix, points - self.shift)
        centre = torch.tensor([(n - 1) / 2 for n in shape], device=points.device).view(3, 1)
        voxels = (straight / self.spacing + centre).view(1, 3, 1, 1, -1)
        origin = torch.zeros_like(voxels)
        origin[0, 2, 0, 0] = torch.arange(points.shape[1], device=points.device)
        inverse = sample(integrate(-self.velocity, STEPS), voxels - origin, padding="border")
        return straight + inverse.view(3, -1) * self.spacing


def positions(shape: Sequence[int], spacing: float, device: torch.device | str = "cpu") -> Tensor:
    """(3, I, J, K) mm of every voxel from the middle of a grid."""
    axes = [(torch.arange(n, device=device) - (n - 1) / 2) * spacing for n in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def displacement_between(fixed: Deformation, moving: Deformation) -> Tensor:
    """The true pull-back displacement between two images of one label map: (1, 3, I, J, K), voxels of the grid."""
    shape = fixed.velocity.shape[2:]
    matched = moving.back(fixed.points(1)).view(3, *shape)
    return (matched - positions(shape, fixed.spacing, matched.device))[None] / fixed.spacing


def smooth_noise(shape: Sequence[int], control: float, generator: torch.Generator, channels: int = 3) -> Tensor:
    """Random (1, channels, *shape): normal noise of SD 1 at points `control` voxels apart, linear between them."""
    low = [max(2, math.ceil(n / control) + 1) for n in shape]
    noise = torch.randn(1, channels, *low, generator=generator, device=generator.device)
    return F.interpolate(noise, size=tuple(shape), mode="trilinear", align_corners=True)


def rotation(turn: Tensor) -> Tensor:
    """(3, 3) rotation by the vector `turn` (3,), rad."""
    x, y, z = turn
    zero = torch.zeros_like(x)
    return torch.linalg.matrix_exp(torch.stack((zero, -z, y, z, zero, -x, -y, x, zero)).view(3, 3))


def random_deformation(
    shape: Sequence[int],
    spacing: float,
    turn: Tensor,
    mirrored: bool,
    generator: torch.Generator,
    strength: float = 1.0,
    middle: Tensor | None = None,
) -> Deformation:
    """A deformation as between two heads after linear alignment, under a common `turn` (3,), rad, and mirroring.

    strength: multiple of the usual size. middle: (3, 1) mm in the label map where the grid's middle lies.
    Made on the generator's device, where tensors given must be as well.
    """
    device = generator.device
    velocity = torch.zeros(1, 3, *shape, device=device)
    for control, largest in SCALES_MM:
        size = torch.rand(1, generator=generator, device=device) * (strength * largest / spacing)
        velocity += smooth_noise(shape, control / spacing, generator) * size
    noise = torch.randn(3, 6, generator=generator, device=device)
    stretch = torch.eye(3, device=device) + torch.diag(noise[:, 1] * 0.015) + noise[:, 2:5] * 0.005
    matrix = rotation(turn + noise[:, 0] * 0.015) @ stretch
    if mirrored:
        matrix[0] = -matrix[0]
    shift = noise[:, 5:] * 0.7
    return Deformation(velocity, matrix, shift if middle is None else shift + middle, spacing)
