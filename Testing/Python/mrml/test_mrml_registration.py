"""The registration logic on real MRML nodes: what the worker is given and what the scene shows."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

import vtk
from fake_registration import METRICS, wavy
from mrml_bench import AGREE_MM, FIXED, LINEAR, MOVING, TRANSFORM_CLASS, turned

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import geometry, linked, regions
from hyperreg.mrml.lifecycle import IDLE, LIVE, RUNNING
from hyperreg.mrml.registration import inputs, results


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
    assert linked.ends(node) == (bench.fixed, bench.moving)
    assert bench.content().keys() - before.keys() == {node.GetID()}
    assert bench.metrics == [0.25]
    assert bench.logic.live.metrics is METRICS


def test_moving_point_lands_where_the_transform_says(bench, points):
    bench.go_live()
    truth = Transform((geometry.padded(wavy(bench.registration.grid, 0.25)), LINEAR))
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
        bench.registration.answer_solved()
        assert bench.fields[-1] == (lam, True)
        assert bench.logic.can_keep
        assert bench.logic.transform_node is node
        assert node.GetTransformFromParent() is general
        truth = Transform((geometry.padded(wavy(bench.registration.grid, lam)), LINEAR))
        np.testing.assert_allclose(bench.shown_at(points), truth.apply(points), atol=AGREE_MM)
        assert float(node.GetAttribute(results.LAMBDA_ATTRIBUTE)) == lam
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
    to_world = geometry.to_numpy(parent.GetMatrixTransformToParent())
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, to_world @ MOVING)
    # The worker's map ends in the world; the views need the volume's inner space.
    truth = Transform((geometry.padded(wavy(bench.registration.grid, 0.25)), np.linalg.inv(to_world) @ LINEAR))
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
    np.testing.assert_allclose(geometry.to_numpy(matrix), to_world @ FIXED, atol=1e-6)


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


def warp_node(bench):
    """A smooth warp of the world, up to 6 mm, with a linear part."""
    field = wavy(Volume(np.zeros((18, 20, 16)), FIXED).grid, 0)
    warp = bench.scene.AddNewNodeByClass(TRANSFORM_CLASS, "warp")
    warp.SetAndObserveTransformFromParent(geometry.vtk_transform([field, LINEAR]))
    return warp, Transform((field, LINEAR))


def test_any_transform_is_a_start(bench):
    warp, truth = warp_node(bench)
    bench.register(initial=warp)
    given = bench.registration.prepared_with["initial"]
    places = bench.registration.prepared_with["fixed"].grid.points().reshape(-1, 3)
    np.testing.assert_allclose(given.apply(places), truth.apply(places), atol=1e-3)
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, MOVING)


def test_a_large_image_has_the_start_sampled_less_often(bench, monkeypatch):
    monkeypatch.setattr(inputs, "SAMPLES", 400)
    warp, truth = warp_node(bench)
    bench.register(initial=warp)
    given = bench.registration.prepared_with["initial"]
    assert np.prod(given.stages[0].grid.shape) < 1000
    places = bench.registration.prepared_with["fixed"].grid.points()[2:-2, 2:-2, 2:-2].reshape(-1, 3)
    assert np.linalg.norm(given.apply(places) - truth.apply(places), axis=1).mean() < 0.3


def test_a_start_that_the_moving_volume_is_under_is_used_once_and_comes_back(bench):
    warp, _truth = warp_node(bench)
    above = bench.transform(turned(12, (1, 1, 1), (1, 1, 1), (3.0, -4.0, 5.0)))
    warp.SetAndObserveTransformNodeID(above.GetID())
    bench.moving.SetAndObserveTransformNodeID(warp.GetID())
    places = bench.fixed_points()
    shown = bench.shown_at(places)
    bench.go_live(initial=warp, lam=1.0)  # the stand-in's field is zero there
    given = bench.registration.prepared_with
    leads = given["initial"].apply(places)
    back = np.linalg.inv(given["moving"].ijk_to_ras) @ np.c_[leads, np.ones(len(leads))].T
    inner = (MOVING @ back).T[:, :3]
    np.testing.assert_allclose(inner, shown, atol=1e-2)
    bench.logic.reset()
    assert bench.moving.GetParentTransformNode() is warp


def test_a_nonlinear_parent_that_is_no_start_is_refused(bench):
    warp, _truth = warp_node(bench)
    bench.moving.SetAndObserveTransformNodeID(warp.GetID())
    with pytest.raises(InputError, match="'follow-up' is under the transform 'warp'"):
        bench.register()
    assert bench.logic.state == IDLE
    assert bench.registration.calls == []


@pytest.mark.parametrize("method", ["com", "rigid", "similarity", "affine"])
def test_alignment_only_is_a_linear_transform_that_stays(bench, method):
    made = []
    bench.logic.on_result = lambda: made.append(bench.logic.alignment_node)
    to_world = turned(10, (1, 1, 1), (1, 1, 1), (4.0, 5.0, 6.0))
    before = bench.transform(to_world)
    bench.moving.SetAndObserveTransformNodeID(before.GetID())
    bench.logic.align(bench.fixed, bench.moving, method=method)
    assert bench.logic.state == RUNNING
    assert bench.registration.prepared_with["initial"] == method
    bench.registration.answer_ready()
    assert bench.logic.state == IDLE
    assert bench.registration.calls[-1] == "reset", "no deformation is computed"
    [node] = made
    assert bench.moving.GetParentTransformNode() is node
    assert node.IsTransformToWorldLinear()
    places = bench.fixed_points()
    expected = np.c_[places, np.ones(len(places))] @ (np.linalg.inv(to_world) @ LINEAR).T
    np.testing.assert_allclose(bench.shown_at(places), expected[:, :3], atol=1e-6)
    assert node.GetAttribute("HyperReg.alignment") == method
    assert bench.logic.can_reset
    bench.logic.reset()
    assert bench.moving.GetParentTransformNode() is before
    assert bench.scene.IsNodePresent(node), "it stays"
    assert not bench.logic.can_reset


def point_list(bench, points, parent=None):
    node = bench.scene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "points")
    for point in points:
        node.AddControlPoint(point.tolist())
    node.SetAndObserveTransformNodeID(parent and parent.GetID())
    return node


def test_landmarks_alone_align_and_start_a_registration(bench):
    """The moving volume and its points are under a transform."""
    to_world = turned(10, (1, 1, 1), (1, 1, 1), (4.0, 5.0, 6.0))
    before = bench.transform(to_world)
    bench.moving.SetAndObserveTransformNodeID(before.GetID())
    places = bench.fixed_points()[::2]
    there = (np.c_[places, np.ones(len(places))] @ (np.linalg.inv(to_world) @ LINEAR).T)[:, :3]
    with pytest.raises(InputError, match="needs landmarks of both images"):
        bench.logic.align(bench.fixed, bench.moving, method="landmarks")
    with pytest.raises(InputError, match="needs landmarks of both images"):
        bench.register(initial="landmarks")
    assert bench.registration.calls == []
    bench.logic.constraints.set_landmarks(point_list(bench, places), point_list(bench, there, before))
    bench.logic.align(bench.fixed, bench.moving, method="landmarks")
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], LINEAR, atol=1e-4)
    bench.registration.answer_ready()
    bench.logic.reset()
    bench.go_live(initial="landmarks")
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], LINEAR, atol=1e-4)
    bench.go_live(initial="landmarks")
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], LINEAR, atol=1e-4)


def test_a_registration_goes_on_from_an_alignment_and_resets_to_it(bench):
    bench.logic.align(bench.fixed, bench.moving, method="rigid")
    bench.registration.answer_ready()
    aligned = bench.moving.GetParentTransformNode()
    bench.go_live()
    np.testing.assert_allclose(bench.registration.prepared_with["moving"].ijk_to_ras, MOVING, atol=1e-9)
    assert bench.registration.prepared_with["initial"] == "affine", "aligned anew, as if it had not been"
    bench.logic.reset()
    bench.go_live(initial=aligned)
    np.testing.assert_allclose(bench.registration.prepared_with["initial"], LINEAR, atol=1e-9)
    bench.logic.reset()
    assert bench.moving.GetParentTransformNode() is aligned
    bench.go_live()
    bench.logic.align(bench.fixed, bench.moving, method="affine")
    bench.registration.answer_ready()
    again = bench.moving.GetParentTransformNode()
    assert again is not aligned
    assert bench.logic.transform_node is None, "the live one is gone"
    bench.logic.reset()
    assert bench.moving.GetParentTransformNode() is aligned
    bench.logic.reset()
    assert bench.moving.GetParentTransformNode() is None


def test_an_alignment_that_is_cancelled_or_impossible_changes_nothing(bench):
    with pytest.raises(InputError, match="Unknown initial alignment 'bspline'"):
        bench.logic.align(bench.fixed, bench.moving, method="bspline")
    before = bench.content()
    bench.logic.align(bench.fixed, bench.moving, method="affine")
    bench.logic.cancel()
    bench.logic.align(bench.fixed, bench.moving, method="affine")
    bench.registration.fail("The images do not overlap.")
    assert bench.logic.state == IDLE
    assert bench.content() == before


def test_same_volume_twice_is_refused(bench):
    with pytest.raises(InputError, match="are the same"):
        bench.logic.register(bench.fixed, bench.fixed, lam=0.5, model=bench.model)


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
    bench.registration.fail("The HyperReg engine was ended by the system.")
    assert bench.errors == ["The HyperReg engine was ended by the system."]
    assert bench.logic.state == IDLE
    assert bench.content() == before
    bench.go_live()
    # Another registration fails: the one before is live, as it was.
    node, live = bench.logic.transform_node, bench.content()
    bench.register(lam=0.9)
    bench.registration.fail("The images do not overlap.")
    assert (bench.logic.state, bench.logic.transform_node, bench.content()) == (LIVE, node, live)
    # The worker dies during a drag: what is shown stays, and the slider goes on.
    bench.registration.fail("The HyperReg engine stopped answering.")
    assert bench.logic.state == LIVE
    bench.logic.set_lambda(0.7)
    bench.registration.answer_solved()
    assert bench.logic.can_keep


def test_labels_are_handed_over_with_their_place(bench):
    affine = turned(20, (3.0, 4.0, 5.0), (1, -1, 1), (-14.0, 20.0, -12.0))
    labels = bench.volume("parts", np.ones((5, 6, 7), np.uint8), affine, "vtkMRMLLabelMapVolumeNode")
    bench.register(fixed_labels=labels)
    given = bench.registration.prepared_with
    np.testing.assert_allclose(given["fixed_labels"].ijk_to_ras, affine)
    assert given["fixed_labels"].array.dtype == np.uint8
    assert given["moving_labels"] is None


def test_label_maps_are_compared_by_the_names_of_their_structures(bench):
    """Two programs number the same structures differently: the worker compares numbers, so it is given the same."""
    told = []
    bench.logic.on_warning = told.append
    drawn = np.zeros((5, 6, 7), np.uint8)
    nodes = []
    for name, affine, (first, second) in (("one", FIXED, (1, 2)), ("two", MOVING, (2, 1))):
        array = drawn.copy()
        array[1], array[3] = first, second
        node = bench.volume(name, array, affine, "vtkMRMLLabelMapVolumeNode")
        node.CreateDefaultDisplayNodes()
        regions.name_labels(node, {first: "Liver", second: "Left Kidney"}, f"{name} names")
        nodes.append(node)
    bench.register(fixed_labels=nodes[0], moving_labels=nodes[1])
    given = bench.registration.prepared_with
    np.testing.assert_array_equal(given["fixed_labels"].array, given["moving_labels"].array)
    np.testing.assert_allclose(given["moving_labels"].ijk_to_ras, MOVING)
    liver, kidney = given["fixed_labels"].array[1, 0, 0], given["fixed_labels"].array[3, 0, 0]
    assert any("matched by name" in text for text in told)
    bench.registration.answer_ready()
    assert bench.logic.label_names == {liver: "Liver", kidney: "Left Kidney"}


def test_label_maps_without_a_common_structure_are_refused(bench):
    nodes = []
    for name, affine, label in (("one", FIXED, "Liver"), ("two", MOVING, "Spleen")):
        nodes.append(bench.volume(name, np.ones((5, 6, 7), np.uint8), affine, "vtkMRMLLabelMapVolumeNode"))
        nodes[-1].CreateDefaultDisplayNodes()
        regions.name_labels(nodes[-1], {1: label}, f"{name} names")
    with pytest.raises(InputError, match="no structure in common: 'one' holds Liver; 'two' holds Spleen"):
        bench.register(fixed_labels=nodes[0], moving_labels=nodes[1])
    assert bench.logic.state == IDLE
