"""Refinement: the gradient it follows, and a known deformation of an oblique, anisotropic, flipped pair, in mm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperreg.errors import Cancelled
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.refinement import LocalCorrelation, Refiner, refined_grid
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


def test_a_shift_is_found_in_mm_and_inverted() -> None:
    grid = oblique()
    shift = np.array([2.0, -1.5, 1.0])
    fixed = Volume(blobs(grid.points(), grid.centre), grid.ijk_to_ras, "fixed")
    moving = Volume(blobs(grid.points() - shift, grid.centre), grid.ijk_to_ras, "moving")
    fine = refined_grid(grid, fixed.array > 0.1)
    nothing = DisplacementField(np.zeros((3, *fine.shape), np.float32), fine.ijk_to_ras)
    refiner = Refiner(fixed, moving, np.eye(4), fine)
    fields, steps = refiner.refine(Fields(nothing, nothing), 0.1, "cpu", lambda _share: None)
    assert sum(steps) > 20
    near = np.linalg.norm(fine.points() - grid.centre, axis=-1) < 10
    found = fields.forward.array[:, near].mean(axis=1)
    assert np.linalg.norm(found - shift) < 0.6 < np.linalg.norm(shift)
    errors = inverse_errors(Transform((fields.forward,)), Transform((fields.inverse,)), fixed.grid)
    assert errors.mean() < 0.3


def test_at_lambda_one_nothing_is_refined_and_it_can_be_cancelled() -> None:
    grid = oblique()
    fixed = Volume(blobs(grid.points(), grid.centre), grid.ijk_to_ras, "fixed")
    moving = Volume(blobs(grid.points() - (2, 0, 0), grid.centre), grid.ijk_to_ras, "moving")
    fine = refined_grid(grid, fixed.array > 0.1)
    nothing = DisplacementField(np.zeros((3, *fine.shape), np.float32), fine.ijk_to_ras)
    refiner = Refiner(fixed, moving, np.eye(4), fine)
    fields, _ = refiner.refine(Fields(nothing, nothing), 1.0, "cpu", lambda _share: None)
    assert np.abs(fields.forward.array).max() < 1e-5

    def stop(_share: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled):
        refiner.refine(Fields(nothing, nothing), 0.1, "cpu", stop)
