"""Refinement: the gradient it follows, and a known deformation of an oblique, anisotropic, flipped pair, in mm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperreg.errors import Cancelled
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.field import from_ras
from hyperreg.registration.filters import gaussian_kernel, separable
from hyperreg.registration.metrics import jacobian_determinant
from hyperreg.registration.refinement import MARGIN_VOXELS, RefinedFields, Refiner, refined_grid
from hyperreg.registration.similarity import LEAST_BALANCE, LocalCorrelation, contrast_balance
from hyperreg.registration.verification import inverse_errors


def oblique() -> Grid:
    """Turned by 25 degrees about S, spacing 1, 1.5 and 2 mm, the first axis to the left."""
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.5, 2.0])
    affine[:3, 3] = (20, -30, 10)
    return Grid((48, 32, 24), affine)


def blobs(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """A smooth body with three bright blobs in it, at RAS mm points (..., 3)."""
    body = 0.5 * (np.linalg.norm(points - centre, axis=-1) < 18)
    for offset in ((6, 0, 0), (-5, 6, 3), (0, -6, -6)):
        body = body + np.exp(-(((points - centre - offset) / 4) ** 2).sum(-1))
    return body.astype(np.float32)


def test_the_gradient_is_that_of_the_correlation() -> None:
    torch.manual_seed(0)
    fixed, warped = torch.rand(1, 1, 9, 8, 7), torch.rand(1, 1, 9, 8, 7)
    correlation = LocalCorrelation(fixed)
    gradient = correlation(warped)[1]
    step = torch.zeros_like(warped)
    step[0, 0, 4, 3, 3] = 1e-3
    change = (correlation(warped + step)[0] - correlation(warped - step)[0]) * warped.numel() / 2e-3
    assert float(gradient[0, 0, 4, 3, 3]) == pytest.approx(float(change), rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda x: x, True),
        (lambda x: 0.2 + 0.5 * x, True),
        (lambda x: x.clamp(0.1, 0.7), True),
        (lambda x: 1 - x, False),
        (lambda x: 4 * x * (1 - x), False),
    ],
    ids=["same", "dimmed", "saturated", "negative", "folded"],
)
def test_a_rising_curve_is_the_same_contrast_and_another_is_not(curve, expected: bool) -> None:
    torch.manual_seed(0)
    tissue = separable(torch.randn(1, 1, 32, 32, 32), gaussian_kernel(2), "repeat")
    tissue = (0.5 + 0.25 * tissue / tissue.std()).clamp(0, 1)
    fixed, moving = ((tissue + 0.02 * torch.randn(tissue.shape)).clamp(0, 1) for _ in range(2))
    inside = torch.ones(tissue.shape, dtype=torch.bool)
    assert (contrast_balance(fixed, curve(moving), inside) > LEAST_BALANCE) is expected


def test_too_little_to_tell_counts_as_the_same_contrast() -> None:
    image = torch.rand(1, 1, 8, 8, 8)
    assert contrast_balance(image, torch.ones_like(image), torch.ones(image.shape, dtype=torch.bool)) == 1
    assert contrast_balance(image, 1 - image, torch.zeros(image.shape, dtype=torch.bool)) == 1


class Pair:
    """A body with blobs and the same moved by `shift`, RAS mm, on the oblique grid."""

    def __init__(self, shift: tuple[float, float, float], contrast: float = 1.0) -> None:
        grid = oblique()
        array = blobs(grid.points() - np.array(shift), grid.centre)
        self.fixed = Volume(blobs(grid.points(), grid.centre), grid.ijk_to_ras, "fixed")
        other = np.where(array > 0.05, 1.7 - array, 0).astype(np.float32)  # dark blobs in a bright body
        self.moving = Volume(array if contrast > 0 else other, grid.ijk_to_ras, "moving")
        inside = self.fixed.array > 0.1
        self.grid = refined_grid(grid, inside)
        nothing = DisplacementField(np.zeros((3, *self.grid.shape), np.float32), self.grid.ijk_to_ras)
        self.start = Fields(nothing, nothing)
        foreground = Volume(inside.astype(np.uint8), grid.ijk_to_ras, "foreground")
        self.refiner = Refiner(self.fixed, self.moving, np.eye(4), self.grid, foreground)

    def refine(self, lam: float, regions: Volume | None = None) -> RefinedFields:
        return self.refiner.refine(self.start, lam, "cpu", lambda _share: None, regions)

    def mean_near_centre(self, found: RefinedFields) -> np.ndarray:
        near = np.linalg.norm(self.grid.points() - oblique().centre, axis=-1) < 10
        return found.fields.forward.array[:, near].mean(axis=1)


@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_a_shift_is_found_in_mm_and_inverted(contrast: float) -> None:
    shift = (2.0, -1.5, 1.0)
    pair = Pair(shift, contrast)
    found = pair.refine(0.1)
    assert found.steps > 20
    assert found.same_contrast is (contrast > 0)
    assert np.linalg.norm(pair.mean_near_centre(found) - shift) < 0.6 < np.linalg.norm(shift)
    forward, inverse = (Transform((field,)) for field in (found.fields.forward, found.fields.inverse))
    errors = inverse_errors(forward, inverse, pair.fixed.grid)
    assert errors.mean() < 0.1


def test_a_stiff_region_stays_where_it_is() -> None:
    pair = Pair((2.0, 0.0, 0.0))
    points = pair.grid.points()
    right = (points[..., 0] > oblique().centre[0]).astype(np.float32)  # lambda 1 there, 0.1 elsewhere
    found = pair.refine(0.1, Volume(0.1 + 0.9 * right, pair.grid.ijk_to_ras, "lambda"))
    field = np.abs(found.fields.forward.array).max(axis=0)
    assert field[(right > 0) & (points[..., 0] > oblique().centre[0] + 6)].max() < 0.4
    assert field[right == 0].max() > 1.2


def test_at_lambda_one_nothing_is_refined_and_it_can_be_cancelled() -> None:
    pair = Pair((2.0, 0.0, 0.0))
    assert np.abs(pair.refine(1.0).fields.forward.array).max() < 1e-5

    def stop(_share: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pair.refiner.refine(pair.start, 0.1, "cpu", stop)


def test_a_large_displacement_at_the_border_fades_without_folding() -> None:
    """As where a neck leaves the picture: 5 voxels at the foreground's end and beyond, towards the grid's border."""
    pair = Pair((0.0, 0.0, 0.0), 1.0)
    steps = pair.grid.ijk_to_ras[:3, :3] @ np.array([0, 0, 5.0])
    constant = np.broadcast_to(steps[:, None, None, None], (3, *pair.grid.shape)).astype(np.float32)
    field = DisplacementField(constant, pair.grid.ijk_to_ras)
    found = pair.refiner.refine(Fields(field, field), 1.0, "cpu", lambda _share: None)
    array = torch.from_numpy(found.fields.forward.array)[None]
    affine = torch.from_numpy(pair.grid.ijk_to_ras.copy())
    assert float(jacobian_determinant(from_ras(array, affine)).min()) > 0
    inner = (slice(None), *(slice(MARGIN_VOXELS, -MARGIN_VOXELS) for _ in range(3)))
    np.testing.assert_allclose(found.fields.forward.array[inner], constant[inner], atol=1e-4)
    np.testing.assert_array_equal(found.fields.forward.array[..., -1], 0)
