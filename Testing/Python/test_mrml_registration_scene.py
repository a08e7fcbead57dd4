"""The registration logic when the scene changes: reset, deleted nodes, closed and reopened scenes, its own end."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer")

from mrml_bench import AGREE_MM, FIXED, MOVING, TRANSFORM_CLASS, bench, make_bench, points, smooth  # noqa: F401

from hyperreg.imaging.volume import Volume
from hyperreg.mrml import linked
from hyperreg.mrml.lifecycle import IDLE, LIVE


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
    assert linked.is_live_transform(transform)
    again.logic.adopt(transform)
    assert again.logic.can_reset
    assert [node.GetName() for node in again.logic.linked_nodes] == ["skull"]
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
    bench.registration.on_field(bench.registration.shown)
    bench.scene.RemoveNode(bench.moving)
    assert len(bench.states) == said
    assert bench.errors == []
    assert bench.scene.IsNodePresent(node)
