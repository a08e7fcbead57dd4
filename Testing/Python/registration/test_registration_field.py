"""Velocity fields: sampling by hand, integration against closed forms, inverse, folding."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.registration.field import compose, from_ras, integrate, jacobian_determinant, sample, to_ras
from hyperreg.registration.volume_change import percent, spread, volume_change

SHAPE = (20, 24, 28)


def bump(amplitude: float) -> torch.Tensor:
    """A smooth velocity that vanishes at the borders: (1, 3, I, J, K), voxels."""
    axes = [torch.linspace(0, math.pi, n) for n in SHAPE]
    window = torch.sin(axes[0])[:, None, None] * torch.sin(axes[1])[None, :, None] * torch.sin(axes[2])[None, None, :]
    return torch.stack((window**2, -0.5 * window**2, 0.3 * window**2))[None] * amplitude


def test_sampling_shifts_by_whole_and_half_voxels() -> None:
    image = torch.arange(4.0).view(1, 1, 4, 1, 1).expand(1, 1, 4, 3, 3).contiguous()
    shift = torch.zeros(1, 3, 4, 3, 3)
    shift[:, 0] = 1.5
    assert torch.allclose(sample(image, shift)[0, 0, :2, 1, 1], torch.tensor([1.5, 2.5]), atol=1e-5)


def test_sampling_moves_along_the_axis_it_says() -> None:
    image = torch.randn(1, 1, 5, 6, 7)
    for axis in range(3):
        shift = torch.zeros(1, 3, 5, 6, 7)
        shift[:, axis] = 1
        moved = sample(image, shift)
        size = image.shape[2 + axis] - 1
        assert torch.allclose(moved.narrow(2 + axis, 0, size), image.narrow(2 + axis, 1, size), atol=1e-5)


@pytest.mark.parametrize("images", [1, 2])
def test_however_many_threads_share_the_work_samples_are_the_same(images: int) -> None:
    generator = torch.Generator().manual_seed(5)
    image = torch.rand(images, 2, 9, 8, 7, generator=generator)
    displacement = torch.randn(images, 3, 6, 5, 4, generator=generator)
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2, 4):
            torch.set_num_threads(count)
            found.append(sample(image, displacement))
    finally:
        torch.set_num_threads(threads)
    assert found[0].shape == (images, 2, 6, 5, 4)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_a_constant_velocity_integrates_to_itself_inside() -> None:
    velocity = torch.ones(1, 3, *SHAPE) * 1.7
    assert torch.allclose(integrate(velocity), velocity, atol=1e-4)


def test_a_linear_velocity_integrates_to_the_matrix_exponential() -> None:
    rate = 0.1
    index = torch.arange(SHAPE[0], dtype=torch.float32) - (SHAPE[0] - 1) / 2
    velocity = torch.zeros(1, 3, *SHAPE)
    velocity[:, 0] = rate * index[:, None, None]
    expected = (math.exp(rate) - 1) * index
    inner = slice(4, -4)
    assert torch.allclose(integrate(velocity)[0, 0, inner, 12, 14], expected[inner], atol=0.01)


def test_the_negative_velocity_gives_the_inverse() -> None:
    velocity = bump(3.0)
    residual = compose(integrate(velocity), integrate(-velocity))
    assert float(integrate(velocity).abs().max()) > 2.0
    assert float(residual.abs().max()) < 0.1


def test_more_squarings_change_next_to_nothing_and_fewer_do() -> None:
    coarse = torch.randn(1, 3, 5, 5, 5, generator=torch.Generator().manual_seed(0)) * 3
    velocity = torch.nn.functional.interpolate(coarse, size=(32, 32, 32), mode="trilinear", align_corners=True)
    exact = integrate(velocity, 9)
    usual, few = ((found - exact).norm(dim=1).mean() for found in (integrate(velocity), integrate(velocity, 1)))
    assert exact.norm(dim=1).mean() > 2
    assert usual < 0.05
    assert few > 5 * usual


def test_a_velocity_does_not_fold_but_a_large_displacement_does() -> None:
    assert float(jacobian_determinant(integrate(bump(6.0))).min()) > 0
    assert float(jacobian_determinant(bump(20.0)).min()) <= 0


def test_the_jacobian_of_a_stretch_is_its_volume_change() -> None:
    index = torch.arange(SHAPE[1], dtype=torch.float32)
    displacement = torch.zeros(1, 3, *SHAPE)
    displacement[:, 1] = 0.25 * index[None, :, None]
    assert torch.allclose(jacobian_determinant(displacement), torch.tensor(1.25), atol=1e-5)


def test_voxels_to_ras_mm_on_an_oblique_flipped_anisotropic_grid_and_back() -> None:
    angle = math.radians(30)
    rotation = torch.tensor(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, -1.0]]
    )
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, :3] = rotation.double() @ torch.diag(torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64))
    one_voxel_along_j = torch.zeros(1, 3, 2, 2, 2)
    one_voxel_along_j[:, 1] = 1
    ras = to_ras(one_voxel_along_j, affine)
    assert ras[0, :, 0, 0, 0].tolist() == pytest.approx([-1.0, math.sqrt(3), 0.0], abs=1e-6)
    assert torch.allclose(from_ras(ras, affine), one_voxel_along_j, atol=1e-6)


def test_the_change_of_volume_is_that_of_the_map_in_mm_on_an_oblique_grid() -> None:
    """u = (S - I) x in RAS mm, on an oblique, anisotropic, flipped grid: det S everywhere, whatever the axes are."""
    angle = np.deg2rad(30)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.5, 3.0])
    affine[:3, 3] = (10, -20, 5)
    grid = Grid((7, 6, 5), affine)
    stretch = np.array([[1.2, 0.1, 0.0], [0.0, 0.9, 0.05], [0.1, 0.0, 1.1]])
    array = np.moveaxis(grid.points() @ (stretch - np.eye(3)).T, -1, 0).astype(np.float32)
    change = volume_change(DisplacementField(array, affine))
    assert change.grid.matches(grid)
    np.testing.assert_allclose(change.array, np.linalg.det(stretch), atol=1e-4)
    np.testing.assert_allclose(percent(change.array), 100 * (np.linalg.det(stretch) - 1), atol=1e-2)


def test_the_spread_of_the_change_is_that_of_most_voxels() -> None:
    change = np.linspace(0.5, 2.0, 1501, dtype=np.float32)
    assert spread(change) == {
        "volume_change_low_percent": pytest.approx(-42.5, abs=0.1),
        "volume_change_high_percent": pytest.approx(92.5, abs=0.1),
    }
