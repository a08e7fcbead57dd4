"""The panel beyond λ, as the user has it: refine, response, suggested λ, γ, regions, the warning."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from fake_registration import METRICS, finer, wavy
from slicer_module_bench import AFFINE, Module, host, module, opened  # noqa: F401

from hyperreg.imaging.volume import Volume
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion


def click(module: Module, name: str) -> None:
    getattr(module.ui, name).click()
    module.host.process_events()


def shown_at(module: Module, point: np.ndarray) -> np.ndarray:
    general = vtk.vtkGeneralTransform()
    module.ui.movingSelector.currentNode().GetParentTransformNode().GetTransformFromWorld(general)
    return np.array(general.TransformPoint(point))


def visible(module: Module, name: str) -> bool:
    """Whether a widget would be seen if its section were open."""
    return not getattr(module.ui, name).isHidden()


def test_refine_replaces_the_preview_and_is_undone(module: Module) -> None:
    assert not module.ui.refineButton.enabled
    module.go_live()
    grid = module.registration.grid
    voxel = np.array([7.0, 6.0, 5.0])  # of the fine grid: between voxels of the coarse one
    point = finer(grid).to_ras(voxel)
    before = shown_at(module, point)
    assert module.ui.refineButton.enabled
    assert not module.ui.undoRefineButton.enabled
    assert "minute" in module.ui.refineButton.toolTip
    assert "cancel" in module.ui.refineButton.toolTip
    click(module, "refineButton")
    assert module.registration.calls[-1] == "refine"
    assert module.ui.refineButton.text == "Cancel refinement"
    assert visible(module, "refineBar")
    module.registration.on_refine_progress(0.4, "Refining, level 2 of 3")
    assert (module.ui.refineBar.value, module.ui.statusLabel.text) == (40, "Refining, level 2 of 3")
    module.registration.answer_refined()
    assert module.ui.statusLabel.text == "Refined in 30 steps."
    assert "0.950 now" in module.ui.metricsLabel.text
    assert not visible(module, "refineBar")
    refined = wavy(finer(grid), 0.3).array[:, 7, 6, 5] / 2
    np.testing.assert_allclose(shown_at(module, point), point + refined, atol=1e-4)
    assert (module.ui.undoRefineButton.text, module.ui.refineButton.enabled) == ("Undo refinement", False)
    click(module, "undoRefineButton")
    np.testing.assert_allclose(shown_at(module, point), before, atol=1e-6)
    assert module.ui.undoRefineButton.text == "Show refinement"
    click(module, "undoRefineButton")
    np.testing.assert_allclose(shown_at(module, point), point + refined, atol=1e-4)


def test_cancelling_leaves_the_preview(module: Module) -> None:
    module.go_live()
    point = module.registration.grid.to_ras((6, 7, 5))
    before = shown_at(module, point)
    click(module, "refineButton")
    click(module, "refineButton")
    assert module.registration.calls[-1] == "cancel_refine"
    assert module.ui.refineButton.text == "Refine"
    assert module.ui.statusLabel.text == "The result for λ = 0.30 is complete."
    np.testing.assert_array_equal(shown_at(module, point), before)
    assert module.ui.keepButton.enabled


def test_moving_lambda_puts_the_refinement_aside(module: Module) -> None:
    module.go_live()
    click(module, "refineButton")
    module.registration.answer_refined()
    module.ui.lambdaSlider.value = 0.6
    module.registration.answer_exact()
    assert "The refinement of λ = 0.30 is put aside" in module.ui.statusLabel.text
    assert module.ui.undoRefineButton.text == "Show refinement"
    click(module, "undoRefineButton")
    assert module.ui.lambdaSlider.value == pytest.approx(0.3)
    assert module.parameters.lam == pytest.approx(0.3)
    assert module.ui.statusLabel.text == "Refined in 30 steps."
    click(module, "keepButton")
    kept = slicer.util.getFirstNodeByName("follow-up registered λ=0.30 refined")
    assert kept is not None


def test_the_response_is_drawn_and_a_click_moves_lambda(module: Module, tmp_path: Path) -> None:
    from HyperRegSlicerLib import ResponsePlot

    assert not visible(module, "responseSection")
    module.go_live()
    assert visible(module, "responseSection")
    assert not module.ui.useSuggestedButton.enabled
    label = module.ui.responseLabel
    module.host.screenshot(tmp_path / "shown.png")  # lays the panel out
    module.registration.answer_response(complete=False)
    early = label.pixmap.toImage()
    response = module.registration.answer_response()
    assert module.ui.useSuggestedButton.text == "Use suggested λ = 0.20"
    assert "overlap best" in module.ui.suggestionLabel.text
    image = label.pixmap.toImage()
    assert image != early
    width = label.width
    column = [image.pixelColor(round(ResponsePlot.x_of(0.2, width)), y).name() for y in range(image.height())]
    assert ResponsePlot.SUGGESTED_COLOUR in column, "the suggested λ is marked"
    press(module, ResponsePlot.x_of(0.73, width))
    assert module.ui.lambdaSlider.value == pytest.approx(0.73)
    assert module.registration.asked[-1] == pytest.approx(0.73)
    assert label.pixmap.toImage() != image, "the line of the slider has moved"
    press(module, ResponsePlot.x_of(0.2, width) + 3)
    assert module.ui.lambdaSlider.value == pytest.approx(0.2), "near the suggested λ it is meant"
    module.ui.lambdaSlider.value = 0.5
    click(module, "useSuggestedButton")
    assert module.ui.lambdaSlider.value == pytest.approx(0.2)
    assert not module.ui.useSuggestedButton.enabled
    assert response.knows("dice_mean")


def press(module: Module, x: float) -> None:
    """A click of the mouse into the response, at this many pixels from its left edge."""
    from PySide6 import QtCore, QtTest

    from Testing.Host.convert import from_python

    place = QtCore.QPoint(round(x), 20)
    QtTest.QTest.mouseClick(from_python(module.ui.responseLabel), QtCore.Qt.MouseButton.LeftButton, pos=place)
    module.host.process_events()


def test_worse_than_the_linear_alignment_is_said_plainly(module: Module) -> None:
    module.go_live()
    assert not visible(module, "warningLabel")
    module.registration.on_metrics({**METRICS, "dice_mean": 0.31}, 0.3)
    module.host.process_events()
    assert visible(module, "warningLabel")
    assert "worse" in module.ui.warningLabel.text
    module.ui.lambdaSlider.value = 0.8
    module.registration.answer_exact()
    assert not visible(module, "warningLabel")


def test_gamma_is_offered_by_models_that_declare_it(module: Module, tmp_path: Path, monkeypatch) -> None:
    assert not visible(module, "gammaSlider")
    source = Path(__import__("os").environ["HYPERREG_MODELS"]) / "tiny-untrained"
    for name in ("tiny-untrained", "two-sliders"):
        folder = tmp_path / name
        folder.mkdir()
        card = json.loads((source / "card.json").read_text(encoding="utf-8"))
        card["name"] = card["title"] = name
        if name == "two-sliders":
            card["hyperparameters"].append({"name": "gamma", "title": "γ: structures", "default": 0.25})
        (folder / "card.json").write_text(json.dumps(card))
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path))
    module.panel._fill_models()
    module.ui.modelCombo.currentIndex = module.ui.modelCombo.findData("two-sliders")
    assert visible(module, "gammaSlider")
    assert visible(module, "gammaLabel")
    assert module.ui.gammaSlider.value == 0.25
    module.registration.values = {"gamma": 0.25}
    module.go_live()
    module.ui.gammaSlider.value = 0.8
    assert module.registration.values == {"gamma": 0.8}
    assert not module.ui.keepButton.enabled
    module.registration.answer_exact()
    assert module.ui.keepButton.enabled
    module.ui.modelCombo.currentIndex = module.ui.modelCombo.findData("tiny-untrained")
    assert not visible(module, "gammaSlider")


def labels(module: Module):
    from HyperRegSlicerLib import Geometry

    array = np.zeros((12, 14, 10), dtype=np.int16)
    array[2:5], array[7:9] = 2, 5
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "organs")
    Geometry.volume_to_node(Volume(array, AFFINE, "organs"), node)
    return node


def test_segments_get_their_own_lambda(module: Module) -> None:
    module.go_live()
    table = module.ui.regionsTable
    assert not visible(module, "regionsTable")
    module.ui.regionsSelector.setCurrentNode(labels(module))
    assert table.rowCount == 2
    assert [table.item(row, 0).text() for row in range(2)] == ["Label 2", "Label 5"]
    assert not table.cellWidget(0, 1).isEnabled()
    assert module.registration.regions == (None, {})
    import qt

    table.item(1, 0).setCheckState(qt.Qt.Checked)
    volume, lambdas = module.registration.regions
    assert lambdas == {5: pytest.approx(0.3)}, "it begins where the slider is"
    assert not module.ui.metricsLabel.enabled, "the figures are not those of these regions"
    np.testing.assert_allclose(volume.ijk_to_ras, AFFINE)
    table.cellWidget(1, 1).setValue(0.85)
    assert module.registration.regions == (volume, {5: pytest.approx(0.85)})
    module.registration.answer_exact()
    assert module.ui.metricsLabel.enabled
    module.ui.lambdaSlider.value = 0.1
    module.registration.answer_exact()
    assert len(module.registration.regions_set) == 2, "moving λ sends no regions again"
    assert json.loads(module.parameters.regionLambdas) == {"5": 0.85}
    assert module.parameters.regions.GetName() == "organs"
    table.item(1, 0).setCheckState(qt.Qt.Unchecked)
    assert module.registration.regions == (None, {})
    table.item(1, 0).setCheckState(qt.Qt.Checked)
    assert module.registration.regions[1] == {5: pytest.approx(0.85)}, "the value comes back"
    click(module, "clearRegionsButton")
    assert module.registration.regions == (None, {})
    assert table.item(1, 0).checkState() == qt.Qt.Unchecked
    assert not module.ui.clearRegionsButton.enabled


def test_regions_follow_the_scene(module: Module) -> None:
    import qt
    from vtk.util.numpy_support import vtk_to_numpy

    module.go_live()
    node = labels(module)
    module.ui.regionsSelector.setCurrentNode(node)
    module.ui.regionsTable.item(0, 0).setCheckState(qt.Qt.Checked)
    array = vtk_to_numpy(node.GetImageData().GetPointData().GetScalars())
    array[array == 5] = 7
    node.GetImageData().Modified()
    node.Modified()
    node.InvokeEvent(slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent)
    module.host.wait_until(lambda: module.ui.regionsTable.item(1, 0).text() == "Label 7", seconds=20)
    assert module.registration.regions[1] == {2: pytest.approx(0.3)}
    assert 7 in module.registration.regions[0].array
    slicer.mrmlScene.RemoveNode(node)
    assert module.registration.regions == (None, {})
    assert "follow the slider again" in module.ui.messageLabel.text
    assert not visible(module, "regionsTable")


def test_an_unusable_region_node_is_explained(module: Module) -> None:
    module.go_live()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nothing drawn")
    module.ui.regionsSelector.setCurrentNode(node)
    assert "'nothing drawn' holds no segments" in module.ui.messageLabel.text
    assert module.registration.regions == (None, {})


def test_what_is_drawn_where(module: Module) -> None:
    from HyperRegSlicerLib import ResponsePlot

    response = Response()
    assert ResponsePlot.draw(response, None, 0.3, 400, "#000000")[-1].text == "Measuring ..."
    for lam in RESPONSE_LAMBDAS:
        response.add(lam, {"similarity": 0.5 - 0.2 * lam, "folding_percent": 0.0})
    suggestion = Suggestion(0.4, "", "images")
    shapes = ResponsePlot.draw(response, suggestion, 0.3, 400, "#000000")
    curves = [s for s in shapes if isinstance(s, ResponsePlot.Line) and s.colour == ResponsePlot.SIMILARITY_COLOUR]
    assert [point[0] for point in curves[0].points] == [ResponsePlot.x_of(lam, 400) for lam in RESPONSE_LAMBDAS]
    heights = [point[1] for point in curves[0].points]
    assert heights == sorted(heights), "falling similarity goes down"
    folding = next(s for s in shapes if isinstance(s, ResponsePlot.Line) and s.colour == ResponsePlot.FOLDING_COLOUR)
    assert len({point[1] for point in folding.points}) == 1
    texts = [shape.text for shape in shapes if isinstance(shape, ResponsePlot.Text)]
    assert {"Similarity", "Folding", "0.440", "suggested 0.40", "λ"} <= set(texts)
    assert "Dice" not in texts
    for lam in (0.0, 0.37, 1.0):
        assert ResponsePlot.lambda_at(ResponsePlot.x_of(lam, 400), 400, Response()) == pytest.approx(lam, abs=0.005)
    assert ResponsePlot.lambda_at(-50, 400, response) == 0.0
    assert ResponsePlot.lambda_at(5000, 400, response) == 1.0
    assert ResponsePlot.lambda_at(ResponsePlot.x_of(0.4, 400) + 4, 400, response, suggestion) == 0.4
