"""The panel beyond λ, as the user has it: stages, response, suggested λ, γ, regions, the warning."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import slicer
import vtk
from fake_registration import FULL, METRICS, QUICK, metrics_at, wavy
from slicer_module_bench import AFFINE, Module

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


def test_stages_improve_what_is_shown(module: Module) -> None:
    ui, registration = module.ui, module.registration
    module.go_live()
    point = registration.grid.to_ras((7, 6, 5))
    quick = wavy(registration.grid, 0.3, stage=QUICK).array[:, 7, 6, 5]
    np.testing.assert_allclose(shown_at(module, point), point + quick, atol=1e-4)
    assert ui.statusLabel.text == "λ = 0.30: Quick result (2 mm)"
    registration.work(FULL, 0.4)
    assert (ui.workLabel.text, ui.workBar.value) == ("Computing: Full resolution (1 mm) at λ = 0.30", 40)
    assert visible(module, "workBar")
    assert ui.keepButton.enabled, "what is shown can be kept meanwhile"
    registration.answer_field(FULL)
    assert ui.statusLabel.text == "λ = 0.30: Full resolution (1 mm)"
    full = wavy(registration.grid, 0.3, stage=FULL).array[:, 7, 6, 5]
    assert np.linalg.norm(full - quick) > 0.5
    np.testing.assert_allclose(shown_at(module, point), point + full, atol=1e-4)
    assert ui.metricsLabel.text.splitlines()[0] == "At λ = 0.30: not measured yet"
    assert len(ui.metricsLabel.text.splitlines()) == 4, "what is below does not jump"
    assert ui.overlapLabel.text.splitlines()[0] == "At λ = 0.30: not measured yet"
    registration.answer_metrics({**METRICS, "similarity": 0.95})
    assert "0.950 now" in ui.metricsLabel.text
    assert (ui.workLabel.text, ui.workBar.value) == ("Nothing is being computed.", 0)


def test_work_that_ends_elsewhere_leaves_the_line_of_work(module: Module) -> None:
    module.go_live()
    module.registration.work(FULL, 0.9, lam=1.0)
    assert module.ui.workLabel.text == "Computing: Full resolution (1 mm) at λ = 1.00"
    module.registration.rest()  # it is done; at the λ that is shown nothing has changed
    assert module.ui.workLabel.text == "Nothing is being computed."
    module.ui.resetButton.click()
    assert not visible(module, "workLabel")
    assert not visible(module, "workBar")


def test_full_resolution_is_stopped_and_asked_for(module: Module) -> None:
    ui, registration = module.ui, module.registration
    assert ui.fullBox.checked
    module.go_live()
    point = registration.grid.to_ras((6, 7, 5))
    before = shown_at(module, point)
    assert visible(module, "fullBox")
    assert (ui.fullButton.text, ui.fullButton.enabled) == ("Full resolution now", False)
    registration.work(FULL, 0.2)
    assert (ui.fullButton.text, ui.fullButton.enabled) == ("Stop", True)
    click(module, "fullButton")
    assert registration.calls[-1] == "cancel_full"
    assert not ui.fullBox.checked
    assert not module.parameters.fullAutomatically
    assert (ui.fullButton.text, ui.fullButton.enabled) == ("Full resolution now", True)
    np.testing.assert_array_equal(shown_at(module, point), before)
    assert ui.keepButton.enabled
    click(module, "fullButton")
    assert registration.calls[-1] == "request_full"
    registration.answer_solved(FULL)
    assert not ui.fullButton.enabled
    ui.lambdaSlider.value = 0.6
    registration.answer_solved()
    assert ui.fullButton.enabled
    ui.fullBox.click()
    assert registration.full_automatically
    assert module.parameters.fullAutomatically
    assert not ui.fullButton.enabled


def test_full_resolution_by_itself_is_a_choice_of_before(module: Module) -> None:
    module.parameters.fullAutomatically = False
    assert not module.registration.full_automatically
    module.widget.exit()
    module.widget.enter()
    assert not module.ui.fullBox.checked


def test_a_network_alone_has_no_full_resolution(module: Module) -> None:
    module.registration.stages = module.registration.stages[:1]
    module.go_live()
    assert not visible(module, "fullBox")
    assert not visible(module, "fullButton")


def test_nothing_of_another_lambda_is_shown_as_of_this_one(module: Module) -> None:
    module.go_live()
    nearest = module.registration.shown
    module.registration.previews = False  # no field is known towards this end
    module.ui.lambdaSlider.value = 0.0
    assert module.registration.shown is nearest
    assert module.ui.statusLabel.text == "Shows λ = 0.30 until λ = 0.00 is computed."
    assert module.ui.metricsLabel.text.startswith("At λ = 0.30: similarity"), "the picture is that of 0.30, too"
    assert not module.ui.keepButton.enabled


def test_the_contrast_is_chosen_before_register(module: Module) -> None:
    ui, combo = module.ui, module.ui.contrastCombo
    choices = ["Told from the images", "The same in both images", "Different (T1 and T2, CT and MRI)"]
    assert [combo.itemText(n) for n in range(combo.count)] == choices
    combo.setCurrentIndex(2)
    assert not visible(module, "contrastNoteLabel")
    module.go_live()
    assert module.registration.prepared_with["contrast"] == "different"
    module.registration.note = "The contrasts were taken as different."
    module.registration.answer_solved()
    assert ui.contrastNoteLabel.text == "The contrasts were taken as different."
    assert visible(module, "contrastNoteLabel")
    assert module.panel.logic.origin.settings == "contrast=different"
    combo.setCurrentIndex(0)
    assert ui.statusLabel.text.splitlines() == [
        "λ = 0.30: Quick result (2 mm)",
        "Press Register again to use what is chosen now.",
    ]
    combo.setCurrentIndex(2)
    assert ui.statusLabel.text == "λ = 0.30: Quick result (2 mm)"


def test_the_models_begin_with_none_and_bring_their_lambda(opened: Module, tiny_model: str) -> None:
    from hyperreg.registration import catalogue

    ui, parameters = opened.ui, opened.parameters
    combo = ui.modelCombo
    assert (combo.itemText(0), combo.currentIndex) == ("None (solver alone)", 0)
    assert (parameters.model, parameters.lam) == ("none", pytest.approx(catalogue.NONE.default_lambda))
    combo.setCurrentIndex(combo.findData(tiny_model))
    assert parameters.lam == pytest.approx(catalogue.find_model(tiny_model).default_lambda)
    assert parameters.lam != pytest.approx(catalogue.NONE.default_lambda)
    opened.go_live()
    assert opened.registration.prepared_with["model"] == tiny_model
    ui.lambdaSlider.value = 0.7
    combo.setCurrentIndex(0)
    assert ui.lambdaSlider.value == pytest.approx(0.7), "what is shown was made by the other model"
    assert "Press Register again" in ui.statusLabel.text
    ui.movingSelector.setCurrentNode(opened.volume("third"))
    ui.registerButton.click()
    assert opened.registration.prepared_with["model"] == "none"
    assert ui.lambdaSlider.value == pytest.approx(catalogue.NONE.default_lambda), "a new pair begins anew"


def test_one_step_of_lambda_updates_the_panel_once(module: Module, monkeypatch: pytest.MonkeyPatch) -> None:
    module.go_live()
    shown: list[float] = []
    show = module.panel._show_state
    monkeypatch.setattr(module.panel, "_show_state", lambda: (shown.append(module.panel.logic.lam), show()))
    module.ui.lambdaSlider.value = 0.55
    assert shown == [pytest.approx(0.55)]
    assert module.ui.statusLabel.text == "λ = 0.55: Preview between two computed λ"


def test_the_response_is_drawn_and_a_click_moves_lambda(module: Module, tmp_path: Path) -> None:
    from hyperreg.mrml.registration import response_plot

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
    column = [image.pixelColor(int(response_plot.x_of(0.2, width)), y).name() for y in range(image.height())]
    assert response_plot.SUGGESTED_COLOUR in column, "the suggested λ is marked"
    press(module, response_plot.x_of(0.73, width))
    assert module.ui.lambdaSlider.value == pytest.approx(0.73)
    assert module.registration.asked[-1] == pytest.approx(0.73)
    assert label.pixmap.toImage() != image, "the line of the slider has moved"
    press(module, response_plot.x_of(0.2, width) + 3)
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
    module.registration.answer_metrics({**METRICS, "dice_mean": 0.31})
    module.host.process_events()
    assert visible(module, "warningLabel")
    assert "worse" in module.ui.warningLabel.text
    module.ui.lambdaSlider.value = 0.8
    module.registration.answer_solved()
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
    module.registration.answer_solved()
    assert module.ui.keepButton.enabled
    module.ui.modelCombo.currentIndex = module.ui.modelCombo.findData("tiny-untrained")
    assert not visible(module, "gammaSlider")


def labels(module: Module):
    from hyperreg.mrml import geometry

    array = np.zeros((12, 14, 10), dtype=np.int16)
    array[2:5], array[7:9] = 2, 5
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "organs")
    geometry.volume_to_node(Volume(array, AFFINE, "organs"), node)
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
    assert "not measured yet" in module.ui.metricsLabel.text, "the metrics were those without regions"
    np.testing.assert_allclose(volume.ijk_to_ras, AFFINE)
    table.cellWidget(1, 1).setValue(0.85)
    assert module.registration.regions == (volume, {5: pytest.approx(0.85)})
    module.registration.answer_solved()
    assert "0.900 now" in module.ui.metricsLabel.text
    module.ui.lambdaSlider.value = 0.1
    module.registration.answer_solved()
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


def test_segments_move_as_rigid_bodies(module: Module) -> None:
    import qt

    ui, registration = module.ui, module.registration
    module.go_live()
    ui.regionsSelector.setCurrentNode(labels(module))
    table = ui.regionsTable
    table.item(1, 2).setCheckState(qt.Qt.Checked)
    volume, values = registration.rigid
    assert values == (5,)
    np.testing.assert_allclose(volume.ijk_to_ras, AFFINE)
    assert registration.regions == (None, {}), "a λ of its own is another thing"
    assert not ui.keepButton.enabled
    assert module.panel.logic.origin.settings == "rigid=5"
    table.item(0, 0).setCheckState(qt.Qt.Checked)
    assert registration.regions[0] is registration.rigid[0], "one label map for both"
    module.widget.exit()
    module.widget.enter()
    assert table.item(1, 2).checkState() == qt.Qt.Checked
    assert registration.rigid == (volume, (5,))
    click(module, "clearRegionsButton")
    assert (registration.rigid, registration.regions) == ((None, ()), (None, {}))


def test_neither_volume_is_preferred_when_that_is_ticked(module: Module) -> None:
    module.ui.symmetricBox.click()
    module.go_live()
    assert module.registration.prepared_with["symmetric"] is True
    assert "symmetric" in module.panel.logic.origin.settings
    module.ui.symmetricBox.click()
    assert "Press Register again" in module.ui.statusLabel.text


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


def test_the_price_is_drawn_as_a_range_beside_the_gain(module: Module) -> None:
    from hyperreg.mrml.registration import response_plot

    response = Response()
    for lam in RESPONSE_LAMBDAS:
        response.add(lam, metrics_at(lam))
    shapes = response_plot.draw(response, None, 0.3, 400, "#000000", METRICS)
    colour = response_plot.VOLUME_COLOUR
    high, low = (s for s in shapes if isinstance(s, response_plot.Line) and s.colour == colour)
    assert (
        [x for x, _ in high.points]
        == [x for x, _ in low.points]
        == [response_plot.x_of(lam, 400) for lam in RESPONSE_LAMBDAS]
    )
    gaps = [below - above for (_, above), (_, below) in zip(high.points, low.points, strict=True)]
    assert gaps[-1] == pytest.approx(0)
    assert gaps == sorted(gaps, reverse=True)
    assert gaps[0] > 20, "the price falls towards λ = 1"
    texts = {s.text for s in shapes if isinstance(s, response_plot.Text)}
    assert {"Volume", "+50 %", "-30 %", "-12…+18 %"} <= texts
    unknown = response_plot.draw(response, None, 0.3, 400, "#000000", {"volume_change_high_percent": 18.4})
    assert "…" not in "".join(s.text for s in unknown if isinstance(s, response_plot.Text)).replace("...", "")


def test_what_is_drawn_where(module: Module) -> None:
    from hyperreg.mrml.registration import response_plot

    response = Response()
    assert response_plot.draw(response, None, 0.3, 400, "#000000")[-1].text == "Measuring ..."
    for lam in RESPONSE_LAMBDAS:
        response.add(lam, {"similarity": 0.5 - 0.2 * lam, "folding_percent": 0.0})
    suggestion = Suggestion(0.4, "", "images")
    shapes = response_plot.draw(response, suggestion, 0.3, 400, "#000000")
    curves = [s for s in shapes if isinstance(s, response_plot.Line) and s.colour == response_plot.SIMILARITY_COLOUR]
    assert [point[0] for point in curves[0].points] == [response_plot.x_of(lam, 400) for lam in RESPONSE_LAMBDAS]
    heights = [point[1] for point in curves[0].points]
    assert heights == sorted(heights), "falling similarity goes down"
    folding = next(s for s in shapes if isinstance(s, response_plot.Line) and s.colour == response_plot.FOLDING_COLOUR)
    assert len({point[1] for point in folding.points}) == 1
    texts = [shape.text for shape in shapes if isinstance(shape, response_plot.Text)]
    assert {"Similarity", "Folding", "suggested 0.40", "λ"} <= set(texts)
    assert "0.440" not in texts, "what lies between two measured λ was not measured"
    for metrics in ({"similarity": 0.4567}, {"similarity": float("nan")}):
        known = response_plot.draw(response, suggestion, 0.3, 400, "#000000", metrics)
        numbers = {shape.text for shape in known if isinstance(shape, response_plot.Text)} - set(texts)
        assert numbers == ({"0.457"} if metrics["similarity"] == 0.4567 else set())
    assert "Dice" not in texts
    for lam in (0.0, 0.37, 1.0):
        assert response_plot.lambda_at(response_plot.x_of(lam, 400), 400, Response()) == pytest.approx(lam, abs=0.005)
    assert response_plot.lambda_at(-50, 400, response) == 0.0
    assert response_plot.lambda_at(5000, 400, response) == 1.0
    assert response_plot.lambda_at(response_plot.x_of(0.4, 400) + 4, 400, response, suggestion) == 0.4
