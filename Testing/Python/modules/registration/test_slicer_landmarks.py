"""Landmarks from point lists of the scene, in mm: turned and flipped volumes, lists under transforms, moved points."""

from __future__ import annotations

import numpy as np
import pytest
import slicer
from fake_registration import wavy
from mrml_bench import FIXED, LINEAR, Bench, turned
from slicer_module_bench import Module

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform

POINTS_KIND = "vtkMRMLMarkupsFiducialNode"
# Voxels of the fixed volume; its world is turned, flipped and anisotropic.
IJK = np.array([[4, 5, 6], [10, 12, 8], [13, 7, 10], [8, 15, 4]])
WORLD = IJK @ FIXED[:3, :3].T + FIXED[:3, 3]
OFFSET = np.array([3.0, 0, -4])


def place(scene, name: str, points: np.ndarray):
    node = scene.AddNewNodeByClass(POINTS_KIND, name)
    for point in points:
        node.AddControlPoint([float(value) for value in point])
    return node


def truth(bench: Bench, lam: float) -> np.ndarray:
    """Where the field at λ leads, mm."""
    return Transform((wavy(bench.registration.grid, lam), LINEAR)).apply(WORLD)


def test_distances_are_in_mm_whatever_the_lists_are_under(bench: Bench) -> None:
    """The moving points lie 5 mm from where the field leads; both lists are kept in spaces of their own."""
    bench.go_live()
    above = turned(30, (1, 1, 1), (1, 1, 1), (40.0, -10.0, 5.0))
    back = np.linalg.inv(above)
    fixed = place(bench.scene, "fixed points", WORLD @ back[:3, :3].T + back[:3, 3])
    fixed.SetAndObserveTransformNodeID(bench.transform(above).GetID())
    moving = place(bench.scene, "moving points", truth(bench, 0.25) + OFFSET)
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert bench.logic.constraints.landmarks_note == "4 pairs of landmarks"
    assert bench.logic.live.metrics["landmarks_mm"] == pytest.approx(5, abs=1e-4)
    linear = WORLD @ LINEAR[:3, :3].T + LINEAR[:3, 3]
    before = np.linalg.norm(linear - truth(bench, 0.25) - OFFSET, axis=1).mean()
    assert bench.logic.live.metrics["landmarks_mm_before"] == pytest.approx(before, abs=1e-4)
    assert abs(before - 5) > 0.1
    # Following the moving volume, its points are still taken where they are on that volume.
    bench.logic.transform.take_along(moving)
    assert moving.GetTransformNodeID() == bench.logic.transform_node.GetID()
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert bench.logic.live.metrics["landmarks_mm"] == pytest.approx(5, abs=1e-4)


def test_lists_in_another_order_are_paired_by_name(bench: Bench) -> None:
    bench.go_live()
    fixed, moving = (
        place(bench.scene, "fixed points", WORLD),
        place(bench.scene, "moving points", truth(bench, 0.25)[::-1]),
    )
    for number, name in enumerate(("a", "b", "c", "d")):
        fixed.SetNthControlPointLabel(number, name)
        moving.SetNthControlPointLabel(3 - number, name)
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert "paired by name" in bench.logic.constraints.landmarks_note
    assert bench.logic.live.metrics["landmarks_mm"] == pytest.approx(0, abs=1e-4)


def test_lists_that_make_no_pairs_are_explained_and_not_measured(bench: Bench) -> None:
    fixed, moving = place(bench.scene, "fixed points", WORLD), place(bench.scene, "moving points", WORLD[:3])
    bench.logic.constraints.set_landmarks(fixed, None)
    assert bench.logic.constraints.landmarks_note == "Choose the points of the moving volume, too."
    bench.logic.constraints.set_landmarks(fixed, fixed)
    assert "chosen twice" in bench.logic.constraints.landmarks_note
    bench.go_live()
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert "4 on the fixed volume, 3 on the moving one" in bench.logic.constraints.landmarks_note
    assert bench.registration.landmarks is None
    moving.AddControlPoint([1.0, 2.0, 3.0])
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert len(bench.registration.landmarks) == 4
    # A point that was taken back is not counted.
    moving.UnsetNthControlPointPosition(3)
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert bench.registration.landmarks is None
    assert "3 on the moving one" in bench.logic.constraints.landmarks_note


def test_a_list_that_cannot_be_used_and_one_that_is_deleted(bench: Bench) -> None:
    bench.go_live()
    fixed, moving = place(bench.scene, "fixed points", WORLD), place(bench.scene, "moving points", WORLD)
    bench.logic.constraints.set_landmarks(fixed, moving)
    bent = bench.scene.AddNewNodeByClass("vtkMRMLGridTransformNode", "bent")
    grid = slicer.vtkOrientedGridTransform()
    bent.SetAndObserveTransformToParent(grid)
    fixed.SetAndObserveTransformNodeID(bent.GetID())
    with pytest.raises(InputError, match="'fixed points' is under the transform 'bent', which is not linear"):
        bench.logic.constraints.set_landmarks(fixed, moving)
    assert bench.registration.landmarks is None
    fixed.SetAndObserveTransformNodeID(None)
    bench.logic.constraints.set_landmarks(fixed, moving)
    assert bench.registration.landmarks is not None
    bench.scene.RemoveNode(moving)
    assert bench.registration.landmarks is None
    assert bench.logic.constraints.landmarks_note == "Choose the points of the moving volume, too."
    bench.logic.constraints.set_landmarks(fixed, place(bench.scene, "again", WORLD))
    bench.go_live()
    assert len(bench.registration.landmarks) == 4, "the next registration is measured by them, too"


def test_the_panel_follows_points_while_they_are_placed(module: Module) -> None:
    module.go_live()
    grid = module.registration.grid
    points = grid.to_ras([[3.0, 4, 5], [8, 9, 4]])
    leads = Transform((wavy(grid, 0.3), np.eye(4))).apply(points)
    fixed = place(slicer.mrmlScene, "fixed points", points)
    moving = place(slicer.mrmlScene, "moving points", leads[:1] + OFFSET)
    module.ui.fixedLandmarksSelector.setCurrentNode(fixed)
    assert module.ui.landmarksNoteLabel.text == "Choose the points of the moving volume, too."
    module.ui.movingLandmarksSelector.setCurrentNode(moving)
    assert module.parameters.movingLandmarks is moving
    assert "2 on the fixed volume, 1 on the moving one" in module.ui.landmarksNoteLabel.text
    moving.AddControlPoint([float(value) for value in leads[1] + OFFSET])
    module.host.wait_until(lambda: module.ui.landmarksNoteLabel.text.startswith("2 pairs"), 20)
    assert module.ui.landmarksNoteLabel.text.startswith("2 pairs of landmarks\nDistance of landmarks: ")
    assert module.ui.landmarksNoteLabel.text.endswith(" before, 5.00 mm now")
    assert "5.00 mm now" in module.ui.metricsLabel.text
    module.ui.movingLandmarksSelector.setCurrentNode(None)
    assert module.registration.landmarks is None
    assert "Distance" not in module.ui.metricsLabel.text


def test_a_point_that_moves_is_waited_for(module: Module) -> None:
    module.go_live()
    points = module.registration.grid.to_ras([[3.0, 4, 5]])
    fixed, moving = place(slicer.mrmlScene, "f", points), place(slicer.mrmlScene, "m", points)
    module.ui.fixedLandmarksSelector.setCurrentNode(fixed)
    module.ui.movingLandmarksSelector.setCurrentNode(moving)
    rest = module.panel.tuning._landmarks._soon
    assert not rest.isActive()
    moving.SetNthControlPointPosition(0, [1.0, 2.0, 3.0])
    assert rest.isActive()
    np.testing.assert_allclose(module.registration.landmarks.moving, points)


def test_points_pull_but_for_those_that_only_measure(bench: Bench) -> None:
    logic, registration = bench.logic, bench.registration
    bench.go_live()
    fixed, moving = place(bench.scene, "fixed points", WORLD), place(bench.scene, "moving points", truth(bench, 0.25))
    logic.constraints.set_landmarks(fixed, moving)
    assert logic.can_keep, "measuring changes no field"
    rows = logic.constraints.landmark_rows
    assert [row.now for row in rows] == pytest.approx([0.0] * 4, abs=1e-4)
    before = np.linalg.norm(WORLD @ LINEAR[:3, :3].T + LINEAR[:3, 3] - truth(bench, 0.25), axis=1)
    assert [row.before for row in rows] == pytest.approx(before, abs=1e-4)
    logic.constraints.set_landmarks(fixed, moving, 0.5, {rows[2].key})
    assert (registration.landmarks.pull, registration.landmarks.left_out) == (0.5, (2,))
    assert not logic.can_keep, "another field is on its way"
    assert [row.measured for row in logic.constraints.landmark_rows] == [False, False, True, False]
    assert {row.now for row in logic.constraints.landmark_rows} == {None}, "of what is shown, and nothing is yet"
    assert "pull=0.50" in logic.origin.settings
    registration.answer_solved()
    assert logic.constraints.landmark_rows[0].now == pytest.approx(0.0, abs=1e-4)
    assert "pulled_mm" in logic.live.metrics and "landmarks_mm" in logic.live.metrics
    logic.set_lambda(0.9)
    assert logic.constraints.landmark_rows[0].now > 0.5
    bench.scene.RemoveNode(moving)
    assert logic.constraints.landmark_rows == []
    assert "pull" not in logic.origin.settings


def test_points_that_cannot_pull_are_told_and_only_measured(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.go_live()
    fixed, moving = place(bench.scene, "fixed points", WORLD), place(bench.scene, "moving points", WORLD)
    take = bench.registration.set_landmarks

    def refuse(here, there, pull=0.0, left_out=()) -> None:
        if pull:
            raise InputError("Landmarks 1 and 2 change places between the images.")
        take(here, there, pull, left_out)

    monkeypatch.setattr(bench.registration, "set_landmarks", refuse)
    with pytest.raises(InputError, match="change places"):
        bench.logic.constraints.set_landmarks(fixed, moving, 0.5)
    assert (len(bench.registration.landmarks), bench.registration.landmarks.pull) == (4, 0.0)


def test_a_dragged_point_pulls_while_it_is_dragged(module: Module) -> None:
    import qt

    ui, registration = module.ui, module.registration
    module.go_live()
    points = registration.grid.to_ras([[3.0, 4, 5], [8, 9, 4]])
    fixed, moving = place(slicer.mrmlScene, "f", points), place(slicer.mrmlScene, "m", points)
    ui.fixedLandmarksSelector.setCurrentNode(fixed)
    ui.movingLandmarksSelector.setCurrentNode(moving)
    ui.pullSlider.value = 0.6
    assert registration.landmarks.pull == pytest.approx(0.6)
    table = ui.landmarksTable
    assert table.rowCount == 2
    registration.answer_solved()
    assert float(table.item(0, 2).text()) > 0
    moving.SetNthControlPointPosition(0, *map(float, points[0] + OFFSET))
    module.host.wait_until(lambda: np.allclose(registration.landmarks.moving[0], points[0] + OFFSET), 20)
    registration.busy = True
    moving.SetNthControlPointPosition(0, *map(float, points[0] + 2 * OFFSET))
    module.host.process_events(0.5)
    assert np.allclose(registration.landmarks.moving[0], points[0] + OFFSET), "the field of before is waited for"
    registration.answer_solved()
    module.host.wait_until(lambda: np.allclose(registration.landmarks.moving[0], points[0] + 2 * OFFSET), 20)
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert registration.landmarks.left_out == (1,)
    assert module.parameters.measuredOnly
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    assert registration.landmarks.left_out == ()
    module.widget.exit()
    module.widget.enter()
    assert ui.pullSlider.value == pytest.approx(0.6)
    assert registration.landmarks.pull == pytest.approx(0.6)
