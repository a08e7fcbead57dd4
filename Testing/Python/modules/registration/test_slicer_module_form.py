"""The panels as a real Slicer's window treats them: widths, heights, errors in slots, other modules, views."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from slicer_module_bench import Module

FORMS = ("HyperRegSlicer", "SegmentationModule")


@pytest.mark.parametrize("name", FORMS)
def test_wrapped_lines_do_not_widen_the_panel(repository: Path, name: str) -> None:
    form = ET.parse(repository / name / "Resources" / "UI" / f"{name}.ui")  # noqa: S314  our own file
    labels = [widget for widget in form.iter("widget") if widget.get("class") == "QLabel"]
    wrapped = [label for label in labels if label.find("property[@name='wordWrap']/bool") is not None]
    assert len(wrapped) > 10
    policies = {
        label.get("name"): label.find("property[@name='sizePolicy']/sizepolicy").get("hsizetype") for label in wrapped
    }
    assert set(policies.values()) == {"Ignored"}, policies


def test_long_messages_make_the_panel_higher_not_wider(module: Module) -> None:
    form = module.ui.registerButton.parent()
    module.host.process_events(0.05)
    width = form.minimumSizeHint.width()
    height = form.parent().minimumHeight
    module.panel._show_message("This goes on and on. " * 60)
    module.host.process_events(0.1)
    assert form.minimumSizeHint.width() == width
    assert form.parent().minimumHeight == form.heightForWidth(form.width)
    assert form.parent().minimumHeight > height + 50
    module.panel._show_message("")
    module.host.process_events(0.1)
    assert form.parent().minimumHeight == form.heightForWidth(form.width) == height


@pytest.mark.parametrize("where", ["slot", "poll", "parameter", "signal"])
def test_what_nobody_expected_is_told(module: Module, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    def broken(*_anything: object) -> None:
        raise RuntimeError("no such thing")

    module.go_live()
    if where == "slot":
        monkeypatch.setattr(module.panel.logic, "keep", broken)
        module.ui.keepButton.click()
    elif where == "poll":
        monkeypatch.setattr(module.connection, "poll", broken)
        module.host.process_events(0.1)
        module.panel._timer.stop()
    elif where == "parameter":
        monkeypatch.setattr(module.panel.logic, "set_lambda", broken)
        module.ui.lambdaSlider.value = 0.9
    else:
        monkeypatch.setattr(module.panel.tuning, "show_hyperparameters", broken)
        module.ui.modelCombo.setCurrentIndex(0)
    assert module.ui.messageLabel.visible
    assert "RuntimeError: no such thing" in module.ui.messageLabel.text
    assert module.host.exceptions, "it is printed, too"
    module.host.exceptions.clear()


def test_what_was_said_of_a_model_goes_with_it(module: Module) -> None:
    module.panel._show_message("This model knows brains only.")
    module.ui.modelCombo.setCurrentIndex(0)
    assert not module.ui.messageLabel.visible


def test_volumes_that_are_loaded_meanwhile_are_noticed(module: Module) -> None:
    assert module.ui.statusLabel.text.startswith("Load two volumes")
    module.volume("head")
    module.host.process_events(0.05)
    assert module.ui.statusLabel.text == "Choose a fixed volume."


def test_what_ends_while_another_module_is_open_is_there_afterwards(module: Module) -> None:
    before = module.volume("seen before")
    slicer.util.setSliceViewerLayers(background=before, foreground=None)
    module.choose_pair()
    fixed, moving = module.parameters.fixed, module.parameters.moving
    module.ui.registerButton.click()
    module.widget.exit()
    module.registration.answer_ready()
    transform = moving.GetParentTransformNode()
    assert transform is not None
    assert {c.GetBackgroundVolumeID() for c in module.composites().values()} == {before.GetID()}
    module.widget.enter()
    assert module.parameters.transform is transform
    assert module.ui.resetButton.enabled
    shown = {(c.GetBackgroundVolumeID(), c.GetForegroundVolumeID()) for c in module.composites().values()}
    assert shown == {(fixed.GetID(), moving.GetID())}
    module.ui.resetButton.click()
    assert moving.GetParentTransformNode() is None
    assert {c.GetBackgroundVolumeID() for c in module.composites().values()} == {before.GetID()}


def test_what_ends_while_another_module_is_open_is_saved(module: Module, tmp_path: Path) -> None:
    module.choose_pair()
    fixed, moving = module.parameters.fixed, module.parameters.moving
    module.ui.registerButton.click()
    module.widget.exit()
    module.registration.answer_ready()
    transform = moving.GetParentTransformNode()
    for node, suffix in ((fixed, "nrrd"), (moving, "nrrd"), (transform, "h5")):
        assert slicer.util.saveNode(node, str(tmp_path / f"{node.GetName()}.{suffix}"))
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Clear(0)
    module.widget.enter()
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    moving = module.parameters.moving
    assert module.parameters.transform is moving.GetParentTransformNode() is not None
    module.ui.resetButton.click()
    assert moving.GetParentTransformNode() is None


def test_label_maps_make_room_for_the_comparison_and_come_back(module: Module) -> None:
    labels = module.volume("parts", "vtkMRMLLabelMapVolumeNode")
    composites = module.composites()
    for composite in composites.values():
        composite.SetLabelVolumeID(labels.GetID())
        composite.SetLabelOpacity(1.0)
    module.go_live()
    assert {c.GetLabelVolumeID() for c in composites.values()} == {None}
    composites["Red"].SetLabelVolumeID(labels.GetID())  # the user wants it there
    module.ui.comparisonCombo.currentIndex = module.ui.comparisonCombo.findText("Checkerboard")
    assert composites["Red"].GetLabelVolumeID() == labels.GetID()
    module.ui.resetButton.click()
    assert {c.GetLabelVolumeID() for c in composites.values()} == {labels.GetID()}


def test_side_by_side_shows_all_of_both(module: Module) -> None:
    module.go_live()
    module.host.process_events(0.1)
    module.ui.comparisonCombo.currentIndex = module.ui.comparisonCombo.findText("Side by side")
    module.host.process_events(0.3)
    bounds = [0.0] * 6
    module.parameters.fixed.GetRASBounds(bounds)
    red, yellow = (slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode") for name in ("Red", "Yellow"))
    for node in (red, yellow):
        field, pixels = node.GetFieldOfView(), node.GetDimensions()
        assert field[0] >= bounds[1] - bounds[0]
        assert field[1] >= bounds[3] - bounds[2]
        assert field[0] / pixels[0] == pytest.approx(field[1] / pixels[1], rel=0.02), "nothing is stretched"
    assert red.GetFieldOfView()[0] / red.GetDimensions()[0] == pytest.approx(
        yellow.GetFieldOfView()[0] / yellow.GetDimensions()[0], rel=0.02
    ), "both in the same size"


def test_overlap_is_told_by_the_names_of_the_structures(module: Module) -> None:
    labels = module.volume("parts", "vtkMRMLLabelMapVolumeNode")
    slicer.util.arrayFromVolume(labels)[:] = np.arange(10)[:, None, None] % 3
    slicer.util.arrayFromVolumeModified(labels)
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLColorTableNode", "names")
    table.SetTypeToUser()
    table.SetNumberOfColors(3)
    table.SetColor(1, "Thalamus", 1.0, 0.5, 0.25, 1.0)
    labels.GetDisplayNode().SetAndObserveColorNodeID(table.GetID())
    module.ui.fixedLabelsSelector.setCurrentNode(labels)
    module.go_live()
    assert module.ui.overlapLabel.text.splitlines()[0] == "Thalamus: 0.800"
