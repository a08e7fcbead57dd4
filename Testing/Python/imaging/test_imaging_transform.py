"""Chains of matrices and fields: order, interpolation, inverses, ITK's view of them."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
from imaging_examples import affine, oblique_grid, points_inside, smooth_field

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform, displacement_at, from_sitk, to_sitk
from hyperreg.imaging.volume import DisplacementField, Grid

LINEAR = affine(20, (0, 1, 1), (12.0, -7.0, 30.0), (1.1, 0.9, 1.05))
FLIP = np.array([-1.0, -1.0, 1.0])


def test_stages_apply_first_to_last():
    field = smooth_field(oblique_grid())
    points = points_inside(field.grid)
    expected = (points + displacement_at(field, points)) @ LINEAR[:3, :3].T + LINEAR[:3, 3]
    np.testing.assert_allclose(Transform((field, LINEAR)).apply(points), expected, atol=1e-9)
    other_way = Transform((LINEAR, field)).apply(points)
    assert np.abs(other_way - expected).max() > 1


def test_displacement_is_linear_between_voxels_and_zero_outside():
    grid = oblique_grid()
    slope = np.array([[0.1, 0.02, 0.0], [0.0, -0.05, 0.03], [0.04, 0.0, 0.08]])
    array = np.moveaxis((grid.points() - grid.centre) @ slope.T, -1, 0)
    field = DisplacementField(array.astype(np.float32), grid.ijk_to_ras)
    points = points_inside(grid)
    np.testing.assert_allclose(displacement_at(field, points), (points - grid.centre) @ slope.T, atol=1e-5)
    outside = grid.to_ras([[-0.6, 3, 3], [5, 5, 15.6], [500, 0, 0]])
    np.testing.assert_array_equal(displacement_at(field, outside), 0)
    rim = grid.to_ras([[-0.4, 3, 3], [5, 5, 15.4]])
    np.testing.assert_allclose(displacement_at(field, rim), array[:, [0, 5], [3, 5], [3, 15]].T, atol=1e-5)


@pytest.mark.parametrize("stages", ["linear", "field", "field-linear", "linear-field-linear"])
def test_itk_moves_points_to_the_same_place(stages):
    grid = oblique_grid()
    parts = {"linear": LINEAR, "field": smooth_field(grid)}
    transform = Transform(tuple(parts[name] for name in stages.split("-")))
    points = points_inside(grid)
    converted = to_sitk(transform)
    by_itk = np.array([converted.TransformPoint((p * FLIP).tolist()) for p in points]) * FLIP
    np.testing.assert_allclose(by_itk, transform.apply(points), atol=1e-4)
    np.testing.assert_allclose(from_sitk(converted).apply(points), transform.apply(points), atol=1e-4)


@pytest.mark.parametrize("with_field", [False, True])
def test_to_field_holds_the_whole_chain(with_field):
    grid = oblique_grid()
    linear = (LINEAR, np.linalg.inv(LINEAR), LINEAR)
    stages = (smooth_field(oblique_grid((30, 30, 20))), LINEAR) if with_field else linear
    transform = Transform(stages)
    other = Grid((9, 11, 7), affine(-10, (0, 0, 1), tuple(grid.centre - 8), (2, 2, 2)))
    field = transform.to_field(other)
    expected = transform.apply(other.points().reshape(-1, 3)).reshape(*other.shape, 3) - other.points()
    np.testing.assert_allclose(np.moveaxis(field.array, 0, -1), expected, atol=1e-4)
    assert field.array.dtype == np.float32


def test_inverse_of_a_registration_result_leads_back():
    grid = oblique_grid((30, 30, 24))
    forward = smooth_field(grid, 2.0)
    backward = np.zeros_like(forward.array)  # fixed-point iteration: w(z) = -u(z + w(z))
    for _ in range(12):
        moved = grid.points() + np.moveaxis(backward, 0, -1)
        backward = -displacement_at(forward, moved.reshape(-1, 3)).T.reshape(backward.shape).astype(np.float32)
    there = Transform((forward, LINEAR))
    back = Transform((np.linalg.inv(LINEAR), DisplacementField(backward, grid.ijk_to_ras)))
    points = points_inside(grid)
    assert np.abs(back.apply(there.apply(points)) - points).max() < 0.05


@pytest.mark.parametrize(
    "other",
    [
        sitk.Euler3DTransform((5.0, -3.0, 8.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0)),
        sitk.VersorRigid3DTransform((0.1, 0.2, 0.05, 0.9734), (4.0, 5.0, -6.0), (10.0, 20.0, 30.0)),
        sitk.Similarity3DTransform(1.2, (0.0, 0.1, 0.0, 0.995), (1.0, 2.0, 3.0), (7.0, 8.0, 9.0)),
        sitk.TranslationTransform(3, (1.0, -2.0, 3.0)),
        sitk.Transform(3, sitk.sitkIdentity),
    ],
    ids=lambda t: t.GetName(),
)
def test_linear_transforms_of_other_tools(other):
    points = points_inside(oblique_grid(), 20)
    by_itk = np.array([other.TransformPoint((p * FLIP).tolist()) for p in points]) * FLIP
    np.testing.assert_allclose(from_sitk(other).apply(points), by_itk, atol=1e-9)


def test_b_spline_becomes_a_field():
    spline = sitk.BSplineTransformInitializer(sitk.Image([80, 80, 80], sitk.sitkUInt8), [5, 4, 6])
    generator = np.random.default_rng(0)
    spline.SetParameters(generator.normal(0, 3, len(spline.GetParameters())).tolist())
    points = generator.uniform(5, 74, (200, 3))
    by_itk = np.array([spline.TransformPoint(p.tolist()) for p in points])
    assert np.abs(by_itk - points).max() > 2
    np.testing.assert_allclose(from_sitk(spline).apply(points * FLIP) * FLIP, by_itk, atol=0.05)


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.zeros((4, 4)), "last row"),
        (np.diag([1.0, 1.0, 0.0, 1.0]), "cannot be inverted"),
        (np.full((4, 4), np.nan), "finite"),
        (np.eye(3), "4x4"),
    ],
)
def test_unusable_matrices_are_refused(matrix, words):
    with pytest.raises(InputError, match=words):
        Transform((matrix,))


def test_2d_transform_is_refused():
    with pytest.raises(InputError, match="2D"):
        from_sitk(sitk.AffineTransform(2))


def test_points_of_the_wrong_shape_are_refused():
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        Transform().apply([1.0, 2.0, 3.0])


def test_importing_transform_brings_neither_simpleitk_nor_torch():
    code = "import sys, hyperreg.imaging.transform; print({'SimpleITK', 'torch', 'nibabel'} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"
