"""One click segments both volumes, and the registration's measures, suggestion and regions have their label maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from imaging_examples import oblique_grid
from segmentation_bench import OBLIQUE, eggs, make_card
from slicer_module_bench import Module

from hyperreg.imaging.volume import Volume
from hyperreg.registration.model import save_untrained
from hyperreg.segmentation.catalogue import find_model

OTHER = oblique_grid((28, 30, 18), (2.0, 1.6, 2.4))
PLACE = np.array([[0, -1, 0, 30], [1, 0, 0, -20], [0, 0, 1, 5], [0, 0, 0, 1.0]])


@pytest.fixture
def both(module: Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """The module with a model for anatomy, a fixed volume, and a moving one below a transform."""
    from hyperreg.mrml import geometry

    save_untrained(tmp_path, module.parameters.model)
    make_card(tmp_path, title="Eggs")
    make_card(tmp_path, name="two", inputs=[{"name": "T1", "title": "T1"}, {"name": "T2", "title": "T2"}])
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path))
    from hyperreg.segmentation import licences

    monkeypatch.setattr(licences, "is_accepted", lambda _card: True)
    module.panel.anatomy.fill()
    # The bundled models are there as well.
    module.ui.anatomyCombo.setCurrentIndex(module.ui.anatomyCombo.findText("Eggs"))
    nodes = []
    for name, grid in (("head", OBLIQUE), ("follow-up", OTHER)):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        geometry.volume_to_node(eggs(grid), node)
        nodes.append(node)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "placed")
    transform.SetMatrixTransformToParent(geometry.to_vtk(PLACE))
    nodes[1].SetAndObserveTransformNodeID(transform.GetID())
    module.parameters.fixed, module.parameters.moving = nodes
    return module


def test_one_click_gives_label_maps_that_the_registration_uses(both: Module) -> None:
    ui, segmenter, parameters = both.ui, both.connection.segmenter, both.parameters
    offered = [ui.anatomyCombo.itemText(n) for n in range(ui.anatomyCombo.count)]
    # Models that need several images are not: a volume is one.
    assert "Eggs" in offered and find_model("two").title not in offered
    ui.segmentBothButton.click()
    assert ui.segmentBothButton.text == "Cancel"
    segmenter.progress(0.5, "Segmenting")
    assert ui.anatomyProgressBar.value == 25
    results = [segmenter.answer(), segmenter.answer()]
    given = [volumes["image"].ijk_to_ras for volumes, _, _ in segmenter.asked]
    np.testing.assert_allclose(given[0], OBLIQUE.ijk_to_ras)
    np.testing.assert_allclose(given[1], PLACE @ OTHER.ijk_to_ras, atol=1e-9)
    assert ui.segmentBothButton.text == "Segment both volumes"
    assert "Press Register" in ui.messageLabel.text
    labels = (parameters.fixedLabels, parameters.movingLabels)
    for node, volume, result in zip(labels, (parameters.fixed, parameters.moving), results, strict=True):
        np.testing.assert_array_equal(slicer.util.arrayFromVolume(node).T, result.labels.array)
        assert node.GetParentTransformNode() is volume.GetParentTransformNode()
    # As the registration reads them: where the structures are, mm.
    ui.registerButton.click()
    sent = both.registration.prepared_with
    for role, grid in (("fixed", OBLIQUE.ijk_to_ras), ("moving", PLACE @ OTHER.ijk_to_ras)):
        found: Volume = sent[f"{role}_labels"]
        np.testing.assert_allclose(found.ijk_to_ras, grid, atol=1e-6)
        assert set(np.unique(found.array)) == {0, 2, 5}


def test_the_structures_are_regions_by_their_names(both: Module) -> None:
    from hyperreg.mrml import regions

    both.ui.segmentBothButton.click()
    both.connection.segmenter.answer()
    both.connection.segmenter.answer()
    assert both.parameters.regions is both.parameters.fixedLabels
    found = {region.label: region for region in regions.regions_of(both.parameters.regions)}
    assert {label: region.name for label, region in found.items()} == {2: "Outer shell", 5: "Core"}
    np.testing.assert_allclose(found[5].colour, np.array((200, 30, 60)) / 255, atol=1e-5)
    table = both.ui.regionsTable
    assert [table.item(row, 0).text() for row in range(table.rowCount)] == ["Outer shell", "Core"]


def test_regions_that_have_a_lambda_already_stay(both: Module) -> None:
    both.ui.segmentBothButton.click()
    both.connection.segmenter.answer()
    both.connection.segmenter.answer()
    chosen = both.parameters.regions
    both.ui.regionsTable.item(0, 0).setCheckState(2)
    both.ui.segmentBothButton.click()
    both.connection.segmenter.answer()
    both.connection.segmenter.answer()
    assert both.parameters.regions is chosen
    assert both.parameters.regionLambdas


def label_maps() -> list[str]:
    return [node.GetID() for node in slicer.util.getNodesByClass("vtkMRMLLabelMapVolumeNode")]


def segment_both(both: Module) -> tuple:
    both.ui.segmentBothButton.click()
    both.connection.segmenter.answer()
    both.connection.segmenter.answer()
    return both.parameters.fixedLabels, both.parameters.movingLabels


def test_once_more_fills_the_label_maps_of_before(both: Module, tmp_path: Path) -> None:
    first = segment_both(both)
    tables = len(slicer.util.getNodesByClass("vtkMRMLColorTableNode"))
    both.ui.registerButton.click()
    both.registration.answer_ready()  # the moving volume and its label map are below the live transform now
    volume = both.parameters.moving
    slicer.util.updateVolumeFromArray(volume, np.flip(slicer.util.arrayFromVolume(volume), 0).copy())
    again = segment_both(both)
    assert again == first
    assert len(label_maps()) == 2
    assert len(slicer.util.getNodesByClass("vtkMRMLColorTableNode")) == tables
    found = slicer.util.arrayFromVolume(again[1])
    inside = slicer.util.arrayFromVolume(volume)
    assert (inside[found == 5] > inside[found == 2].max()).all()
    assert again[1].GetParentTransformNode() is volume.GetParentTransformNode()
    make_card(tmp_path, name="other", title="Other eggs")
    both.panel.anatomy.fill()
    both.ui.anatomyCombo.setCurrentIndex(both.ui.anatomyCombo.findText("Other eggs"))
    assert not set(segment_both(both)) & set(first)
    assert len(label_maps()) == 4


def test_a_label_map_that_was_painted_in_stays(both: Module) -> None:
    first = segment_both(both)
    painted = slicer.util.arrayFromVolume(first[0])
    painted[:2] = 5
    slicer.util.arrayFromVolumeModified(first[0])
    kept = painted.copy()
    again = segment_both(both)
    assert again[0] is not first[0]
    assert again[1] is first[1]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(first[0]), kept)


def test_both_label_maps_are_one_step_of_undo(both: Module) -> None:
    scene = slicer.mrmlScene
    scene.SetUndoOn()
    try:
        before = label_maps()
        segment_both(both)
        assert len(label_maps()) == 2
        scene.Undo()
        assert label_maps() == before
    finally:
        scene.SetUndoOff()


@pytest.mark.parametrize("after", [0, 1])
def test_cancelling_or_failing_leaves_the_scene_as_it_was(both: Module, after: int) -> None:
    ui, segmenter = both.ui, both.connection.segmenter
    count = slicer.mrmlScene.GetNumberOfNodes()
    for give_up in (ui.segmentBothButton.click, lambda: segmenter.fail("'head' looks like a CT.")):
        ui.segmentBothButton.click()
        for _ in range(after):
            segmenter.answer()
        give_up()
        assert slicer.mrmlScene.GetNumberOfNodes() == count
        assert both.parameters.fixedLabels is None
        assert ui.segmentBothButton.text == "Segment both volumes"
    assert ui.messageLabel.text == "'head' looks like a CT."


def test_what_is_missing_is_told(both: Module) -> None:
    both.parameters.moving = None
    both.ui.segmentBothButton.click()
    assert both.ui.messageLabel.text == "Choose a moving volume."
    assert both.connection.segmenter.asked == []
