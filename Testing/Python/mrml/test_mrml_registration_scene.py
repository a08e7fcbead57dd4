"""The registration logic when the scene changes: reset, deleted nodes, closed and reopened scenes, its own end."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from fake_registration import FakeRegistration
from mrml_bench import AGREE_MM, FIXED, MOVING, TRANSFORM_CLASS, smooth

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.mrml import linked
from hyperreg.mrml.lifecycle import IDLE, LIVE
from hyperreg.mrml.registration.logic import RegistrationLogic


def test_reset_puts_everything_back(bench):
    before = bench.content()
    bench.go_live()
    assert bench.logic.can_reset
    bench.logic.reset()
    assert bench.content() == before
    assert bench.logic.state == IDLE
    assert not bench.logic.can_reset
    assert bench.logic.transform_node is None


def test_a_reset_is_undone(bench, points):
    parent = bench.transform(np.diag([1, 1, 1, 1.0]))
    skull = bench.scene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    for node in (bench.moving, skull):
        node.SetAndObserveTransformNodeID(parent.GetID())
    bench.go_live(symmetric=True)
    bench.logic.transform.take_along(skull)
    logic, shown = bench.logic, bench.logic.live.shown
    seen, origin = bench.shown_at(points), logic.origin
    attributes = {name: logic.transform_node.GetAttribute(name) for name in logic.transform_node.GetAttributeNames()}
    logic.reset()
    assert logic.can_undo_reset
    assert bench.moving.GetParentTransformNode() is skull.GetParentTransformNode() is parent
    logic.set_lambda(0.9)
    logic.undo_reset()
    node = logic.transform_node
    assert bench.moving.GetParentTransformNode() is skull.GetParentTransformNode() is node
    np.testing.assert_allclose(bench.shown_at(points), seen, atol=1e-9)
    assert (logic.state, logic.live.shown, logic.lam, logic.origin) == (LIVE, shown, 0.25, origin)
    assert logic.live.metrics["similarity"] == 0.9
    assert {name: node.GetAttribute(name) for name in node.GetAttributeNames()} == attributes
    assert linked.ends(node) == (bench.fixed, bench.moving)
    assert not logic.can_undo_reset
    logic.set_lambda(0.6)
    assert bench.fields[-1] == (0.6, False)
    assert np.abs(bench.shown_at(points) - seen).max() > 0.5, "λ moves it again"
    logic.reset()
    assert bench.moving.GetParentTransformNode() is skull.GetParentTransformNode() is parent


def test_a_reset_of_a_reopened_transform_and_of_an_alignment_is_undone(bench, make_bench, points):
    bench.go_live()
    seen = bench.shown_at(points)
    bench.logic.close()
    again = RegistrationLogic(bench.scene, FakeRegistration())
    again.adopt(bench.moving.GetParentTransformNode())
    again.reset()
    again.undo_reset()
    assert (again.state, again.can_reset) == (IDLE, True)
    np.testing.assert_allclose(bench.shown_at(points), seen, atol=1e-9)
    again.close()

    other = make_bench()
    other.logic.align(other.fixed, other.moving, method="rigid")
    other.registration.answer_ready()
    node = other.logic.alignment_node
    other.logic.reset()
    assert (other.moving.GetParentTransformNode(), other.logic.alignment_node) == (None, None)
    other.logic.undo_reset()
    assert other.moving.GetParentTransformNode() is other.logic.alignment_node is node


@pytest.mark.parametrize("why", ["registered", "aligned", "deleted", "closed", "forgotten"])
def test_what_can_no_longer_be_undone_is_freed(bench, why):
    bench.go_live()
    bench.logic.reset()
    if why == "registered":
        bench.register()
        assert not bench.logic.can_undo_reset, "not while another one is prepared"
        bench.logic.cancel()
        assert bench.logic.can_undo_reset
        bench.go_live()
    elif why == "aligned":
        bench.logic.align(bench.fixed, bench.moving, method="rigid")
        bench.registration.answer_ready()
    elif why == "deleted":
        bench.scene.RemoveNode(bench.fixed)
    elif why == "closed":
        bench.scene.Clear(0)
    else:
        bench.logic.forget_reset()
    assert bench.registration.aside is None
    assert bench.errors == []
    if why != "registered":
        assert not bench.logic.can_undo_reset
        with pytest.raises(InputError, match="There is no reset to undo"):
            bench.logic.undo_reset()


@pytest.mark.parametrize("what", ["moving", "fixed", "voxels"])
def test_volumes_that_were_moved_are_not_deformed_by_an_undo(bench, what):
    bench.go_live()
    bench.logic.reset()
    if what == "voxels":
        bench.moving.SetSpacing(2.0, 1.2, 1.9)
    else:
        shift = np.eye(4)
        shift[2, 3] = 3.0
        getattr(bench, what).SetAndObserveTransformNodeID(bench.transform(shift).GetID())
    before = bench.content()
    with pytest.raises(InputError, match="A volume was moved since the reset"):
        bench.logic.undo_reset()
    assert (bench.content(), bench.logic.state, bench.logic.can_undo_reset) == (before, IDLE, False)
    assert bench.registration.aside is None


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
    bench.logic.transform.take_along(model)
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
    bench.logic.transform.take_along(parts)
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
    assert linked.is_live_transform(transform)
    again.logic.adopt(transform)
    assert again.logic.can_reset
    assert [node.GetName() for node in again.logic.transform.linked_nodes] == ["skull"]
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
    bench.registration.answer_solved()
    bench.scene.RemoveNode(bench.moving)
    assert len(bench.states) == said
    assert bench.errors == []
    assert bench.scene.IsNodePresent(node)
