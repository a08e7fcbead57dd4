"""The registration logic on real MRML nodes, with a stand-in for the worker."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

slicer = pytest.importorskip("slicer")
import SimpleITK as sitk  # noqa: E402
import vtk  # noqa: E402
from fake_registration import METRICS, FakeRegistration, wavy  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "HyperRegSlicer"))
from HyperRegSlicerLib import Geometry, Results  # noqa: E402
from HyperRegSlicerLib.Logic import IDLE, LIVE, RUNNING, RegistrationLogic  # noqa: E402

import hyperreg  # noqa: E402
from hyperreg.errors import InputError  # noqa: E402
from hyperreg.imaging import itk  # noqa: E402
from hyperreg.imaging.transform import Transform  # noqa: E402
from hyperreg.imaging.volume import Volume  # noqa: E402

AGREE_MM = 1e-4
TRANSFORM_CLASS = "vtkMRMLTransformNode"


def turned(degrees: float, spacing: tuple[float, ...], flip: tuple[int, ...], origin: tuple[float, ...]) -> np.ndarray:
    a = np.deg2rad(degrees)
    rotation = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = rotation @ np.diag(flip) * spacing
    affine[:3, 3] = origin
    return affine


FIXED = turned(20, (1.5, 2.0, 2.5), (1, -1, 1), (-14.0, 20.0, -12.0))
MOVING = turned(-35, (2.0, 1.2, 1.8), (-1, 1, 1), (16.0, -18.0, -9.0))
LINEAR = np.array([[1.03, 0.04, 0, 2], [-0.05, 0.98, 0.02, -1], [0, 0.03, 1.01, 1.5], [0, 0, 0, 1.0]])


def smooth(shape: tuple[int, int, int], seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    image = sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(noise), 1.5)
    return (sitk.GetArrayFromImage(image) * 1000).astype(np.float32)


class Bench:
    """A scene with a fixed and a moving volume, a logic, and what it said."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.scene = slicer.vtkMRMLScene()
        self.fixed = self.volume("head", smooth((18, 20, 16), 1), FIXED)
        self.moving = self.volume("follow-up", smooth((17, 26, 19), 2), MOVING)
        self.registration = FakeRegistration(linear=LINEAR)
        self.logic = RegistrationLogic(self.scene, self.registration)
        self.errors: list[str] = []
        self.states: list[str] = []
        self.fields: list[tuple[float, bool]] = []
        self.metrics: list[float] = []
        self.logic.on_error = self.errors.append
        self.logic.on_change = lambda: self.states.append(self.logic.state)
        self.logic.on_field = lambda lam, exact: self.fields.append((lam, exact))
        self.logic.on_metrics = lambda metrics, lam: self.metrics.append(lam)

    def volume(self, name: str, array: np.ndarray, affine: np.ndarray, kind: str = "vtkMRMLScalarVolumeNode"):
        node = self.scene.AddNewNodeByClass(kind, name)
        Geometry.volume_to_node(Volume(array, affine, name), node)
        return node

    def transform(self, to_parent: np.ndarray):
        node = self.scene.AddNewNodeByClass(TRANSFORM_CLASS, "placed")
        node.SetMatrixTransformToParent(Geometry.to_vtk(to_parent))
        return node

    def register(self, **options) -> None:
        self.logic.register(self.fixed, self.moving, **{"lam": 0.25, "model": self.model, **options})

    def go_live(self, **options) -> None:
        self.register(**options)
        self.registration.answer_ready()

    def content(self) -> dict[str, str | None]:
        """Every node and what it is under: what undo has to bring back."""
        nodes = [self.scene.GetNthNode(n) for n in range(self.scene.GetNumberOfNodes())]
        return {
            node.GetID(): node.GetTransformNodeID() if node.IsA("vtkMRMLTransformableNode") else None for node in nodes
        }

    def shown_at(self, points: np.ndarray) -> np.ndarray:
        """Where Slicer's views look up the moving volume's voxels (its inner RAS) for points of the world."""
        transform = vtk.vtkGeneralTransform()
        self.moving.GetParentTransformNode().GetTransformFromWorld(transform)
        return np.array([transform.TransformPoint(point) for point in points])


@pytest.fixture
def make_bench(tiny_model: str) -> Iterator[Callable[[], Bench]]:
    """Benches that are taken down in order: a scene with observers must not be left to the garbage collector."""
    benches: list[Bench] = []

    def make() -> Bench:
        benches.append(Bench(tiny_model))
        return benches[-1]

    yield make
    for bench in benches:
        bench.logic.close()
        bench.scene.Clear(1)


@pytest.fixture
def bench(make_bench: Callable[[], Bench]) -> Bench:
    return make_bench()


@pytest.fixture
def points() -> np.ndarray:
    inside = np.random.default_rng(3).uniform(1, 14, (50, 3))
    return inside @ FIXED[:3, :3].T + FIXED[:3, 3]


def test_register_touches_the_scene_only_when_the_worker_is_ready(bench):
    before = bench.content()
    bench.register()
    assert bench.logic.state == RUNNING
    assert bench.content() == before
    given = bench.registration.prepared_with
    np.testing.assert_allclose(given["fixed"].ijk_to_ras, FIXED)
    np.testing.assert_allclose(given["moving"].ijk_to_ras, MOVING)
    assert given["initial"] == "affine"
    bench.registration.answer_ready()
    assert bench.logic.state == LIVE
    node = bench.moving.GetParentTransformNode()
    assert node is bench.logic.transform_node
    assert Results.ends(node) == (bench.fixed, bench.moving)
    assert bench.content().keys() - before.keys() == {node.GetID()}
    assert bench.metrics == [0.25]
    assert bench.logic.metrics is METRICS


def test_moving_point_lands_where_the_transform_says(bench, points):
    bench.go_live()
    truth = Transform((Geometry.padded(wavy(bench.registration.grid, 0.25)), LINEAR))
    np.testing.assert_allclose(bench.shown_at(points), truth.apply(points), atol=AGREE_MM)
    # A landmark of the moving image, put under the same transform, appears at the fixed point it belongs to.
    to_world = vtk.vtkGeneralTransform()
    bench.logic.transform_node.GetTransformToWorld(to_world)
    back = np.array([to_world.TransformPoint(point) for point in truth.apply(points)])
    np.testing.assert_allclose(back, points, atol=2e-3)


def test_lambda_moves_the_same_node_and_the_same_vtk_transform(bench, points):
    bench.go_live()
    node, general = bench.logic.transform_node, bench.logic.transform_node.GetTransformFromParent()
    before = bench.content()
    for lam in (0.0, 0.6, 1.0):
        bench.logic.set_lambda(lam)
        assert not bench.logic.can_keep  # the preview is not kept
        assert bench.fields[-1] == (lam, False)
        bench.registration.answer_exact()
        assert bench.fields[-1] == (lam, True)
        assert bench.logic.can_keep
        assert bench.logic.transform_node is node
        assert node.GetTransformFromParent() is general
        truth = Transform((Geometry.padded(wavy(bench.registration.grid, lam)), LINEAR))
        np.testing.assert_allclose(bench.shown_at(points), truth.apply(points), atol=AGREE_MM)
        assert float(node.GetAttribute(Results.LAMBDA_ATTRIBUTE)) == lam
    assert bench.content() == before  # nothing resampled, nothing added


@pytest.mark.parametrize("lam", [-0.01, 1.5, float("nan")])
def test_lambda_outside_its_range_is_refused_and_nothing_changes(bench, lam):
    with pytest.raises(InputError, match="between 0"):
        bench.register(lam=lam)
    assert bench.logic.state == IDLE
    bench.go_live()
    with pytest.raises(InputError, match="between 0"):
        bench.logic.set_lambda(lam)
    assert bench.logic.lam == 0.25
    assert bench.logic.can_keep


def test_moving_under_a_linear_parent_looks_the_same_and_goes_back(bench, points):
    parent = bench.transform(turned(50, (1, 1, 1), (1, 1, 1), (30.0, -5.0, 8.0)))
    bench.moving.SetAndObserveTransformNodeID(parent.GetID())
    before = bench.content()
    bench.go_live()
    to_world = Geometry.to_numpy(parent.GetMatrixTransformToParent())
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, to_world @ MOVING)
    # The worker's map ends in the world; the views need the volume's inner space.
    truth = Transform((Geometry.padded(wavy(bench.registration.grid, 0.25)), np.linalg.inv(to_world) @ LINEAR))
    np.testing.assert_allclose(bench.shown_at(points), truth.apply(points), atol=AGREE_MM)
    # Registering again starts from the volume's own place, not from the live transform.
    bench.register(lam=0.5)
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, to_world @ MOVING)
    bench.registration.answer_ready()
    bench.logic.reset()
    assert bench.content() == before


def test_fixed_under_a_linear_parent_is_registered_where_it_is_shown(bench):
    to_world = turned(10, (1, 1, 1), (1, 1, 1), (4.0, 5.0, 6.0))
    bench.fixed.SetAndObserveTransformNodeID(bench.transform(to_world).GetID())
    bench.go_live()
    np.testing.assert_allclose(bench.registration.prepared_with["fixed"].ijk_to_ras, to_world @ FIXED)
    kept = bench.logic.keep()
    matrix = vtk.vtkMatrix4x4()
    kept.volume.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(Geometry.to_numpy(matrix), to_world @ FIXED, atol=1e-6)


def test_initial_transform_node_is_used_once(bench):
    to_parent = turned(12, (1, 1, 1), (1, 1, 1), (3.0, -4.0, 5.0))
    node = bench.transform(to_parent)
    bench.register(initial=node)
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], np.linalg.inv(to_parent), atol=1e-12)
    bench.logic.cancel()
    bench.moving.SetAndObserveTransformNodeID(node.GetID())
    bench.register(initial=node)
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], np.eye(4))
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, to_parent @ MOVING)


def test_nonlinear_initial_and_nonlinear_parent_are_refused(bench):
    warp = bench.scene.AddNewNodeByClass(TRANSFORM_CLASS, "warp")
    warp.SetAndObserveTransformFromParent(Geometry.vtk_transform([wavy(Volume(np.zeros((5, 5, 5)), FIXED).grid, 0)]))
    with pytest.raises(InputError, match="'warp', which is not linear"):
        bench.register(initial=warp)
    bench.moving.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="'follow-up' is under the transform 'warp'"):
        bench.register()
    assert bench.logic.state == IDLE
    assert bench.registration.calls == []


def test_same_volume_twice_is_refused(bench):
    with pytest.raises(InputError, match="are the same"):
        bench.logic.register(bench.fixed, bench.fixed, lam=0.5, model=bench.model)


def test_kept_volume_is_what_itk_makes_of_the_saved_transform(bench, tmp_path):
    parent = bench.transform(turned(15, (1, 1, 1), (1, 1, 1), (2.0, 3.0, -4.0)))
    bench.moving.SetAndObserveTransformNodeID(parent.GetID())
    bench.go_live()
    kept = bench.logic.keep()
    storage = bench.scene.AddNewNodeByClass("vtkMRMLTransformStorageNode")
    storage.SetFileName(str(tmp_path / "kept.h5"))
    assert storage.WriteData(kept.forward)
    reference = itk.volume_to_itk(Geometry.volume_from_node(bench.fixed, None))
    image = itk.volume_to_itk(Geometry.volume_from_node(bench.moving, None))
    transform = sitk.ReadTransform(str(tmp_path / "kept.h5"))
    fill = float(sitk.GetArrayViewFromImage(image).min())
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, transform, sitk.sitkLinear, fill)).T
    result = Geometry.volume_from_node(kept.volume, None)
    assert np.ptp(expected) > 100
    np.testing.assert_allclose(result.array, expected, atol=1e-2)
    assert result.grid.matches(Geometry.volume_from_node(bench.fixed, None).grid)
    # Without the deformation it would look different: the test can fail.
    assert np.abs(expected - sitk.GetArrayFromImage(sitk.Resample(image, reference, sitk.Transform())).T).max() > 50


def test_kept_nodes_say_where_they_come_from_and_stay(bench, points):
    bench.go_live()
    kept = bench.logic.keep()
    for node in (kept.volume, kept.forward, kept.inverse):
        assert node.GetAttribute(Results.LAMBDA_ATTRIBUTE) == "0.2500"
        assert node.GetAttribute(Results.MODEL_ATTRIBUTE) == bench.model
        assert node.GetAttribute(Results.VERSION_ATTRIBUTE) == hyperreg.__version__
    assert Results.ends(kept.forward) == (bench.fixed, bench.moving)
    assert Results.ends(kept.inverse) == (bench.moving, bench.fixed)
    forward, inverse = (node.GetTransformFromParent() for node in (kept.forward, kept.inverse))
    there = np.array([forward.TransformPoint(point) for point in points])
    moved = Transform((Geometry.padded(wavy(bench.registration.grid, 0.25)), LINEAR)).apply(points)
    np.testing.assert_allclose(there, moved, atol=AGREE_MM)
    back = Transform((np.linalg.inv(LINEAR), Geometry.padded(wavy(bench.registration.grid, 0.25, sign=-1.0)))).apply(
        there
    )
    np.testing.assert_allclose([inverse.TransformPoint(point) for point in there], back, atol=AGREE_MM)
    bench.logic.set_lambda(1.0)
    bench.logic.reset()
    np.testing.assert_allclose([forward.TransformPoint(point) for point in points], there, atol=1e-12)
    assert not Results.is_live_transform(kept.forward)


def test_keep_refuses_a_preview(bench):
    with pytest.raises(InputError, match="no exact result"):
        bench.logic.keep()
    bench.go_live()
    bench.logic.set_lambda(0.8)
    count = bench.scene.GetNumberOfNodes()
    with pytest.raises(InputError, match="no exact result"):
        bench.logic.keep()
    assert bench.scene.GetNumberOfNodes() == count


def test_markups_models_and_segmentations_follow_and_come_back(bench):
    nodes = [
        bench.scene.AddNewNodeByClass(kind, kind)
        for kind in ("vtkMRMLMarkupsFiducialNode", "vtkMRMLModelNode", "vtkMRMLSegmentationNode")
    ]
    with pytest.raises(InputError, match="Register first"):
        bench.logic.take_along(nodes[0])
    before = bench.content()
    bench.go_live(lam=0.0)
    for node in nodes:
        bench.logic.take_along(node)
        bench.logic.take_along(node)  # twice is once
    assert bench.logic.companions == nodes
    fixed_point = (np.array([[8, 9, 7]]) @ FIXED[:3, :3].T + FIXED[:3, 3])[0]
    markups = nodes[0]
    truth = Transform((wavy(bench.registration.grid, 0.0), LINEAR))
    markups.AddControlPoint(*truth.apply(fixed_point[None])[0])
    shown = np.zeros(3)
    markups.GetNthControlPointPositionWorld(0, shown)
    # Adding takes local coordinates: the landmark of the moving image appears on the fixed point.
    np.testing.assert_allclose(shown, fixed_point, atol=2e-3)
    bench.logic.set_lambda(1.0)
    markups.GetNthControlPointPositionWorld(0, shown)
    assert np.linalg.norm(shown - fixed_point) > 2  # mm: it follows the slider
    bench.logic.leave_behind(nodes[1])
    assert nodes[1].GetParentTransformNode() is None
    assert bench.logic.companions == [nodes[0], nodes[2]]
    bench.logic.reset()
    assert bench.content() == before


def test_companion_in_another_space_is_refused(bench):
    bench.go_live()
    model = bench.scene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    model.SetAndObserveTransformNodeID(bench.transform(np.eye(4)).GetID())
    with pytest.raises(InputError, match="'skull' is under another transform"):
        bench.logic.take_along(model)
    with pytest.raises(InputError, match="already part"):
        bench.logic.take_along(bench.moving)
    assert bench.logic.companions == []


def test_cancel_leaves_the_scene_and_the_live_registration_before(bench):
    before = bench.content()
    bench.register()
    bench.logic.cancel()
    assert bench.logic.state == IDLE
    assert bench.content() == before
    assert bench.registration.calls == ["prepare", "cancel"]
    bench.go_live()
    live = bench.content()
    bench.register(lam=0.9)
    assert bench.logic.state == RUNNING
    bench.logic.cancel()
    assert bench.logic.state == LIVE
    assert bench.content() == live
    bench.logic.set_lambda(0.4)
    assert bench.fields[-1] == (0.4, False)


def test_failure_is_told_and_the_next_request_works(bench):
    before = bench.content()
    bench.register()
    bench.registration.fail("The registration engine was ended by the system.")
    assert bench.errors == ["The registration engine was ended by the system."]
    assert bench.logic.state == IDLE
    assert bench.content() == before
    bench.go_live()
    # The worker dies during a drag: what is shown stays, and the slider goes on.
    bench.registration.fail("The registration engine stopped answering.")
    assert bench.logic.state == LIVE
    bench.logic.set_lambda(0.7)
    bench.registration.answer_exact()
    assert bench.logic.can_keep


def test_reset_puts_everything_back(bench):
    before = bench.content()
    bench.go_live()
    assert bench.logic.can_reset
    bench.logic.reset()
    assert bench.content() == before
    assert bench.logic.state == IDLE
    assert not bench.logic.can_reset
    assert bench.logic.transform_node is None


@pytest.mark.parametrize("role", ["fixed", "moving"])
@pytest.mark.parametrize("live", [False, True])
def test_deleting_a_volume_ends_the_registration(bench, role, live):
    bench.register()
    if live:
        bench.registration.answer_ready()
    bench.scene.RemoveNode(getattr(bench, role))
    assert bench.logic.state == IDLE
    assert bench.registration.calls[-1] == "reset"
    assert bench.errors == [
        f"The {role} volume was deleted; the {'live registration has ended' if live else 'registration was cancelled'}."
    ]
    assert bench.logic.can_reset is live
    bench.logic.reset()
    survivor = bench.moving if role == "fixed" else bench.fixed
    assert survivor.GetParentTransformNode() is None
    assert bench.scene.GetNumberOfNodesByClass(TRANSFORM_CLASS) == 0


def test_deleting_the_live_transform_puts_the_moving_volume_back(bench):
    parent = bench.transform(np.eye(4))
    model = bench.scene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    for node in (bench.moving, model):
        node.SetAndObserveTransformNodeID(parent.GetID())
    bench.go_live()
    bench.logic.take_along(model)
    bench.scene.RemoveNode(bench.logic.transform_node)
    assert bench.moving.GetParentTransformNode() is parent
    assert model.GetParentTransformNode() is parent
    assert bench.logic.state == IDLE
    assert bench.errors == ["The live transform was deleted; the moving volume is where it was before."]
    bench.go_live()
    assert bench.logic.state == LIVE


def test_another_moving_volume_takes_over(bench):
    bench.go_live()
    first = bench.moving
    bench.moving = bench.volume("third", smooth((17, 26, 19), 5), MOVING)
    bench.go_live()
    assert first.GetParentTransformNode() is None
    assert bench.moving.GetParentTransformNode() is bench.logic.transform_node
    assert bench.scene.GetNumberOfNodesByClass(TRANSFORM_CLASS) == 1


def test_closing_the_scene_forgets_it(bench):
    bench.go_live()
    bench.scene.Clear(0)
    assert bench.logic.state == IDLE
    assert bench.logic.transform_node is None
    assert bench.errors == []
    bench.fixed = bench.volume("head", smooth((18, 20, 16), 1), FIXED)
    bench.moving = bench.volume("follow-up", smooth((17, 26, 19), 2), MOVING)
    bench.go_live()
    assert bench.logic.state == LIVE


def test_reopened_scene_goes_on(bench, make_bench, tmp_path, points):
    bench.go_live()
    shown = bench.shown_at(points)
    parts = bench.scene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    bench.logic.take_along(parts)
    for node in (bench.fixed, bench.moving, bench.logic.transform_node):
        node.AddDefaultStorageNode(str(tmp_path / f"{node.GetName()}.{'h5' if node.IsA(TRANSFORM_CLASS) else 'nrrd'}"))
        assert node.GetStorageNode().WriteData(node)
    bench.scene.SetRootDirectory(str(tmp_path))
    bench.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert bench.scene.Commit(bench.scene.GetURL())

    again = make_bench()
    again.scene.Clear(0)
    again.scene.SetURL(str(tmp_path / "scene.mrml"))
    assert again.scene.Import()
    again.fixed, again.moving = (again.scene.GetFirstNodeByName(name) for name in ("head", "follow-up"))
    transform = again.moving.GetParentTransformNode()
    assert Results.is_live_transform(transform)
    again.logic.adopt(transform)
    assert again.logic.can_reset
    assert [node.GetName() for node in again.logic.companions] == ["skull"]
    np.testing.assert_allclose(again.shown_at(points), shown, atol=AGREE_MM)
    again.go_live(lam=0.6)
    assert again.logic.transform_node is transform
    # The same box in the world, not moved by the live transform; Slicer's reader turns left-handed volumes over.
    corners = again.registration.prepared_with["moving"].grid.corners
    expected = Volume(np.zeros((17, 26, 19)), MOVING).grid.corners
    np.testing.assert_allclose(np.sort(corners, axis=0), np.sort(expected, axis=0), atol=1e-4)
    again.logic.reset()
    assert again.moving.GetParentTransformNode() is None
    assert again.scene.GetNumberOfNodesByClass(TRANSFORM_CLASS) == 0


def test_closed_logic_listens_no_more(bench):
    bench.go_live()
    node = bench.logic.transform_node
    bench.logic.close()
    said = len(bench.states)
    bench.registration.on_field(bench.registration.fields(0.9), 0.9, True)
    bench.scene.RemoveNode(bench.moving)
    assert len(bench.states) == said
    assert bench.errors == []
    assert bench.scene.IsNodePresent(node)


def test_labels_are_handed_over_with_their_place(bench):
    affine = turned(20, (3.0, 4.0, 5.0), (1, -1, 1), (-14.0, 20.0, -12.0))
    labels = bench.volume("parts", np.ones((5, 6, 7), np.uint8), affine, "vtkMRMLLabelMapVolumeNode")
    bench.register(fixed_labels=labels)
    given = bench.registration.prepared_with
    np.testing.assert_allclose(given["fixed_labels"].ijk_to_ras, affine)
    assert given["fixed_labels"].array.dtype == np.uint8
    assert given["moving_labels"] is None
