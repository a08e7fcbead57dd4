"""Volumes, transforms and fields between MRML and HyperReg, in millimetres, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402
from fake_registration import wavy  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

from hyperreg.errors import InputError  # noqa: E402
from hyperreg.imaging.transform import Transform  # noqa: E402
from hyperreg.imaging.volume import Grid, Volume  # noqa: E402
from hyperreg.mrml import geometry  # noqa: E402

AGREE_MM = 1e-4  # float32 fields, double arithmetic


def oblique(shape: tuple[int, int, int] = (9, 12, 10), spacing: tuple[float, ...] = (2.0, 1.5, 3.0)) -> Grid:
    """A grid that is rotated about two axes, anisotropic, and left-handed."""
    a, b = np.deg2rad(25), np.deg2rad(-40)
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.diag([1, -1, 1]) * spacing
    affine[:3, 3] = (-20.0, 31.0, 7.5)
    return Grid(shape, affine)


def linear_map() -> np.ndarray:
    matrix = np.eye(4)
    matrix[:3] = [[1.02, 0.05, 0.0, 3.0], [-0.04, 0.97, 0.1, -2.0], [0.0, -0.08, 1.01, 5.0]]
    return matrix


@pytest.fixture
def scene() -> slicer.vtkMRMLScene:
    return slicer.vtkMRMLScene()


@pytest.fixture
def points() -> np.ndarray:
    """Points inside the oblique grid, on its rim and far outside, RAS mm."""
    grid = oblique()
    random = np.random.default_rng(4)
    inside = grid.to_ras(random.uniform(0, np.array(grid.shape) - 1, (40, 3)))
    return np.vstack([inside, grid.to_ras([(-0.3, 4, 4), (8.6, 5, 5)]), grid.to_ras([(-30, 4, 4), (4, 50, -9)])])


def apply(transform: vtk.vtkAbstractTransform, points: np.ndarray) -> np.ndarray:
    return np.array([transform.TransformPoint(point) for point in points])


def volume_node(scene: slicer.vtkMRMLScene, volume: Volume, kind: str = "vtkMRMLScalarVolumeNode"):
    node = scene.AddNewNodeByClass(kind, volume.name)
    geometry.volume_to_node(volume, node)
    return node


def transform_node(scene: slicer.vtkMRMLScene, to_parent: np.ndarray):
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "placed")
    node.SetMatrixTransformToParent(geometry.to_vtk(to_parent))
    return node


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_volume_survives_the_way_through_a_node(scene, dtype):
    grid = oblique()
    array = np.random.default_rng(1).integers(0, 200, grid.shape).astype(dtype)
    node = volume_node(scene, Volume(array, grid.ijk_to_ras, "head"))
    # Slicer's own idea of where voxel (3, 7, 2) is and what it holds.
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(matrix.MultiplyPoint((3, 7, 2, 1))[:3], grid.to_ras((3, 7, 2)), atol=1e-9)
    assert node.GetImageData().GetScalarComponentAsDouble(3, 7, 2, 0) == array[3, 7, 2]
    back = geometry.volume_from_node(node, None)
    np.testing.assert_array_equal(back.array, array)
    assert back.array.dtype == dtype
    assert back.grid.matches(grid)
    assert back.name == "head"


def test_linear_parent_places_the_volume_in_the_world(scene):
    grid = oblique()
    node = volume_node(scene, Volume(np.ones(grid.shape, np.float32), grid.ijk_to_ras))
    turn = np.eye(4)
    turn[:3] = [[0, -1, 0, 12.0], [1, 0, 0, -3.0], [0, 0, 1, 40.0]]
    above = transform_node(scene, turn)
    parent = transform_node(scene, turn)
    parent.SetAndObserveTransformNodeID(above.GetID())
    placed = geometry.volume_from_node(node, parent)
    np.testing.assert_allclose(
        placed.grid.to_ras((1, 2, 3)), (turn @ turn @ [*grid.to_ras((1, 2, 3)), 1])[:3], atol=1e-9
    )


def test_shearing_parent_is_refused_by_name(scene):
    node = volume_node(scene, Volume(np.ones((4, 5, 6), np.float32), np.eye(4), "tilted"))
    shear = np.eye(4)
    shear[0, 1] = 0.3
    with pytest.raises(InputError, match=r"'tilted'.*sheared"):
        geometry.volume_from_node(node, transform_node(scene, shear))


def test_nonlinear_parent_is_refused_by_name(scene):
    node = volume_node(scene, Volume(np.ones((4, 5, 6), np.float32), np.eye(4), "bent"))
    parent = scene.AddNewNodeByClass("vtkMRMLTransformNode", "warp")
    parent.SetAndObserveTransformFromParent(geometry.vtk_transform([wavy(oblique(), 0.0)]))
    with pytest.raises(InputError, match="'bent' is under the transform 'warp', which is not linear"):
        geometry.volume_from_node(node, parent)


def test_refusals_name_the_volume_and_the_way_out(scene):
    good = volume_node(scene, Volume(np.ones((4, 5, 6), np.float32), np.eye(4), "good"))
    assert geometry.refusal(good, "fixed") == ""
    assert geometry.refusal(None, "moving") == "Choose a moving volume."
    labels = volume_node(scene, Volume(np.ones((4, 5, 6), np.uint8), np.eye(4), "parts"), "vtkMRMLLabelMapVolumeNode")
    assert "'parts' is a label map" in geometry.refusal(labels, "fixed")
    empty = scene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "hollow")
    assert "'hollow' holds no image" in geometry.refusal(empty, "fixed")
    slice_ = volume_node(scene, Volume(np.ones((4, 5, 1), np.float32), np.eye(4), "flat"))
    assert "'flat' has only one slice" in geometry.refusal(slice_, "fixed")
    colours = vtk.vtkImageData()
    colours.SetDimensions(4, 5, 6)
    colours.AllocateScalars(vtk.VTK_UNSIGNED_CHAR, 3)
    for kind in ("vtkMRMLVectorVolumeNode", "vtkMRMLScalarVolumeNode", "vtkMRMLDiffusionWeightedVolumeNode"):
        node = scene.AddNewNodeByClass(kind, "colours")
        node.SetAndObserveImageData(colours)
        assert "'colours'" in geometry.refusal(node, "moving")
        assert "one 3D volume" in geometry.refusal(node, "moving") or "scalar volume" in geometry.refusal(
            node, "moving"
        )


def test_live_transform_is_the_pull_back_map(points):
    field = wavy(oblique(), 0.2)
    live = geometry.LiveTransform(field.grid, linear_map())
    live.fill(field)
    expected = Transform((geometry.padded(field), linear_map())).apply(points)
    np.testing.assert_allclose(apply(live.transform, points), expected, atol=AGREE_MM)
    # Inside the grid the rim changes nothing: u is interpolated, then A applied, as written in the design.
    np.testing.assert_allclose(
        apply(live.transform, points[:40]), Transform((field, linear_map())).apply(points[:40]), atol=AGREE_MM
    )
    # Far outside only the linear part is left.
    np.testing.assert_allclose(apply(live.transform, points[-2:]), Transform((linear_map(),)).apply(points[-2:]))
    moved = np.linalg.norm(expected - Transform((linear_map(),)).apply(points), axis=1)
    assert moved[:40].max() > 2  # mm: the field matters here


def test_saved_transform_is_the_same_for_vtk_hyperreg_and_itk(points):
    field = wavy(oblique(), 0.0)
    stages = (linear_map(), geometry.padded(field), linear_map(), linear_map())
    ours = Transform(stages).apply(points)
    np.testing.assert_allclose(apply(geometry.vtk_transform(stages), points), ours, atol=AGREE_MM)


def test_fill_changes_the_field_in_place_with_one_event(scene):
    grid = oblique()
    live = geometry.LiveTransform(grid, linear_map())
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
    node.SetAndObserveTransformFromParent(live.transform)
    events = []
    node.AddObserver(slicer.vtkMRMLTransformableNode.TransformModifiedEvent, lambda *_: events.append(1))
    image = live._grid.transform.GetDisplacementGrid()
    memory = vtk_to_numpy(image.GetPointData().GetScalars()).__array_interface__["data"][0]
    point = grid.to_ras((4, 5, 6))
    seen = []
    for lam in (0.0, 0.5, 1.0):
        events.clear()
        live.fill(wavy(grid, lam))
        assert events == [1]
        assert node.GetTransformFromParent() is live.transform
        assert live._grid.transform.GetDisplacementGrid() is image
        assert vtk_to_numpy(image.GetPointData().GetScalars()).__array_interface__["data"][0] == memory
        fresh = vtk.vtkGeneralTransform()
        node.GetTransformFromWorld(fresh)
        seen.append(apply(fresh, point[None])[0])
        expected = Transform((wavy(grid, lam), linear_map())).apply(point[None])[0]
        np.testing.assert_allclose(seen[-1], expected, atol=AGREE_MM)
    assert np.linalg.norm(seen[0] - seen[2]) > 2  # mm


def test_points_move_by_the_inverse_to_a_thousandth_of_a_millimetre(scene):
    field = wavy(oblique((30, 34, 28)), 0.0)
    live = geometry.LiveTransform(field.grid, linear_map())
    live.fill(field)
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "live")
    node.SetAndObserveTransformFromParent(live.transform)
    to_world = vtk.vtkGeneralTransform()
    node.GetTransformToWorld(to_world)
    fixed_points = field.grid.to_ras(np.random.default_rng(2).uniform(3, 24, (200, 3)))
    moving_points = Transform((field, linear_map())).apply(fixed_points)
    error = np.linalg.norm(apply(to_world, moving_points) - fixed_points, axis=1)
    assert error.max() < 2e-3


def test_slicers_transform_file_is_read_the_same_by_itk(scene, tmp_path, points):
    field = wavy(oblique(), 0.1)
    stages = (geometry.padded(field), linear_map())
    node = scene.AddNewNodeByClass("vtkMRMLTransformNode", "saved")
    node.SetAndObserveTransformFromParent(geometry.vtk_transform(stages))
    storage = scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(tmp_path / "saved.h5"))
    assert storage.WriteData(node)
    itk = sitk.ReadTransform(str(tmp_path / "saved.h5"))
    flip = np.array([-1, -1, 1])
    read = np.array([itk.TransformPoint(tuple(point * flip)) for point in points]) * flip
    np.testing.assert_allclose(read, Transform(stages).apply(points), atol=AGREE_MM)
