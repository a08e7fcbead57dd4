"""Velocity and displacement fields on the network's grid.

Everything here is a pure function of torch tensors in VOXELS of the grid: (B, 3, I, J, K), component c along array axis
c, pull-back (the value at voxel x says where to sample: x + u(x)). `to_ras`/`from_ras` change to RAS mm.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A thirty-second of a few voxels is a small enough step: more change next to nothing and take longer (see its test).
INTEGRATION_STEPS = 5


def sample(image: Tensor, displacement: Tensor, mode: str = "bilinear", padding: str = "zeros") -> Tensor:
    """Sample images at x + u(x).

    image: (B, C, I, J, K); displacement: (B, 3, I', J', K'), whose voxels x count in the image's voxels.
    Outside the image: zero, or the value at its border (padding="border").
    """
    shape = image.shape[2:]
    positions = []
    for axis, size in enumerate(displacement.shape[2:]):
        index = torch.arange(size, device=displacement.device, dtype=displacement.dtype)
        index = index.view([-1 if a == axis else 1 for a in range(3)])
        # grid_sample counts from -1 to 1 between the centres of the outer voxels (align_corners=True).
        positions.append((displacement[:, axis] + index) * (2 / max(shape[axis] - 1, 1)) - 1)
    # Axis after axis in memory, which is faster to write than voxel after voxel.
    grid = torch.stack(positions[::-1], dim=1).permute(0, 2, 3, 4, 1)
    # On a CPU, torch shares the images of a batch among its threads, but not the voxels of one image: slabs of the
    # grid, as a batch, are a way to that.
    count, planes = len(image), grid.shape[1]
    slabs = 1
    if count == 1 and image.device.type == "cpu":
        slabs = max(n for n in range(1, torch.get_num_threads() + 1) if planes % n == 0)
    if slabs > 1:
        image, grid = image.expand(slabs, -1, -1, -1, -1), grid[0].unflatten(0, (slabs, -1))
    found = F.grid_sample(image, grid, mode=mode, padding_mode=padding, align_corners=True)
    return found if slabs == 1 else found.transpose(0, 1).reshape(count, -1, planes, *found.shape[3:])


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """The displacement of x -> (id + outer)((id + inner)(x)): inner + outer(x + inner(x))."""
    return inner + sample(outer, inner, padding="border")


def integrate(velocity: Tensor, steps: int = INTEGRATION_STEPS) -> Tensor:
    """exp(v) - id by scaling and squaring (Arsigny et al. 2006): velocity and result (B, 3, I, J, K), voxels.

    integrate(-v) is the inverse of integrate(v) up to interpolation.
    """
    displacement = velocity * (1 / 2**steps)
    for _ in range(steps):
        displacement = compose(displacement, displacement)
    return displacement


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det(d(x + u)/dx) by forward differences: (B, I-1, J-1, K-1). At or below zero: space is folded there."""
    rows = []
    for axis in range(3):
        step = torch.diff(displacement, dim=2 + axis)
        for other in range(3):
            if other != axis:
                step = step.narrow(2 + other, 0, step.shape[2 + other] - 1)
        rows.append(step)
    a, b, c = rows
    a = torch.stack((a[:, 0] + 1, a[:, 1], a[:, 2]))
    b = torch.stack((b[:, 0], b[:, 1] + 1, b[:, 2]))
    c = torch.stack((c[:, 0], c[:, 1], c[:, 2] + 1))
    return a[0] * (b[1] * c[2] - b[2] * c[1]) - a[1] * (b[0] * c[2] - b[2] * c[0]) + a[2] * (b[0] * c[1] - b[1] * c[0])


def to_ras(displacement: Tensor, ijk_to_ras: Tensor) -> Tensor:
    """Voxels along the grid's axes to RAS mm: the linear part of `ijk_to_ras` applied to every vector."""
    return torch.einsum("rc,bcijk->brijk", ijk_to_ras[:3, :3].to(displacement), displacement)


def from_ras(displacement: Tensor, ijk_to_ras: Tensor) -> Tensor:
    """RAS mm to voxels along the grid's axes."""
    inverse = torch.linalg.inv(ijk_to_ras[:3, :3].double())
    return torch.einsum("rc,bcijk->brijk", inverse.to(displacement), displacement)
