"""Moving images with a known truth: an image of another contrast, moved by a deformation made up here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from benchmarks.registration.store import save_transform
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.registration.field import integrate, to_ras
from hyperreg.training.deformation import rotation, smooth_noise

# Distance of the control points of the velocity and its SD at them, mm: folds and whole lobes move by several mm. The
# noise is smoothed by half that distance: with its kinks at the control points the inverse would be less exact.
SCALES_MM = ((24.0, 6.0), (48.0, 8.0))
STEPS = 8
TURN_RAD, SHIFT_MM, STRETCH = 0.06, 5.0, 0.03


def known_deformation(grid: Grid, seed: int) -> tuple[Transform, Transform]:
    """A smooth diffeomorphism with a small affine part, fixed RAS to moving RAS, and its inverse.

    x -> A(exp(v)(x)) with v random and smooth; the inverse is exp(-v)(A^-1(y)).
    """
    generator = torch.Generator().manual_seed(seed)
    velocity = torch.zeros(1, 3, *grid.shape)
    spacing = float(grid.spacing.mean())
    for control, strength in SCALES_MM:
        noise = smooth_noise(grid.shape, control / spacing, generator)
        velocity += _smoothed(noise, control / spacing / 2) * (strength / spacing)
    affine = torch.from_numpy(np.array(grid.ijk_to_ras)).float()
    fields = (to_ras(integrate(v, STEPS), affine)[0].numpy() for v in (velocity, -velocity))
    forward, back = (DisplacementField(field, grid.ijk_to_ras) for field in fields)
    noise = torch.randn(3, 5, generator=generator)
    matrix = np.eye(4)
    stretch = torch.eye(3) + torch.diag(noise[:, 0]) * STRETCH + noise[:, 1:4] * STRETCH / 3
    matrix[:3, :3] = (rotation(noise[:, 4] * TURN_RAD) @ stretch).numpy()
    centre = grid.centre
    matrix[:3, 3] = centre - matrix[:3, :3] @ centre + torch.randn(3, generator=generator).numpy() * SHIFT_MM
    return Transform((forward, matrix)), Transform((np.asarray(np.linalg.inv(matrix), dtype=np.float64), back))


def _smoothed(field: torch.Tensor, sigma: float) -> torch.Tensor:
    """Each component of (1, 3, I, J, K) after a Gaussian of `sigma` voxels, one banded product per axis; edges held."""
    for axis in range(3):
        size = field.shape[2 + axis]
        index = torch.arange(size, dtype=torch.float32)
        band = torch.exp(-0.5 * ((index[:, None] - index[None]) / sigma).square())
        band = band / band.sum(1, keepdim=True)
        field = torch.movedim(torch.tensordot(band, field, dims=([1], [2 + axis])), 0, 2 + axis)
    return field


def deformed(source: Path, seed: int, folder: Path) -> tuple[Path, Path]:
    """The image of `source` moved by `known_deformation`, and the truth: made once, then found again in `folder`."""
    name = f"{source.name.split('.')[0]}_seed{seed}"
    image, truth = folder / f"{name}.nii.gz", folder / f"{name}.npz"
    if not (image.exists() and truth.exists()):
        folder.mkdir(parents=True, exist_ok=True)
        volume = read_volume(source)
        forward, back = known_deformation(volume.grid, seed)
        # What lies at y in the moved image came from back(y); cubic, so that the one interpolation blurs little.
        write_volume(resample(volume, volume.grid, back, "bspline"), image)
        save_transform(truth, forward)
    return image, truth
