"""The module's panel up to a result: what the user sees, chooses and is told; with a stand-in for the worker."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from slicer_module_bench import MODULE


def test_first_the_user_sees_two_volumes_one_button_one_slider(module):
    ui = module.ui
    for shown in (ui.fixedSelector, ui.movingSelector, ui.registerButton, ui.lambdaSlider, ui.lambdaWordsLabel):
        assert shown.visible
    for folded in (ui.compareSection, ui.settingsSection, ui.alongSection, ui.overlapSection, ui.setupSection):
        assert folded.collapsed
    for hidden in (ui.messageLabel, ui.progressBar, ui.resultPanel):
        assert not hidden.visible
    assert not ui.registerButton.enabled
    assert ui.statusLabel.text == "Load two volumes to begin, or try the sample pair (last section)."
    assert (ui.lambdaSlider.minimum, ui.lambdaSlider.maximum) == (0, 1)


def test_every_control_has_a_tooltip(module):
    named = [w for w in vars(module.ui).values() if w.isWidgetType() and not w.name.startswith("qt_")]
    controls = ("QPushButton", "QComboBox", "ctkSliderWidget", "qMRMLNodeComboBox", "ctkPathLineEdit")
    without = [w.name for w in named if w.className() in (*controls, "ctkCollapsibleButton") and not w.toolTip]
    assert len([w for w in named if w.className() in controls]) >= 20
    assert without == []


def test_opening_the_module_starts_and_asks_nothing(module):
    assert module.registration.calls == []
    assert module.connection.polls == 0
    assert module.host.records.pip == []
    assert module.host.records.dialogs == []
    assert "torch" not in {name.partition(".")[0] for name in module.widget.__class__.__module__.split()}


def test_register_is_offered_when_the_pair_is_fit(module):
    ui = module.ui
    head = module.volume("head")
    ui.fixedSelector.setCurrentNode(head)
    assert ui.statusLabel.text == "Choose a moving volume."
    ui.movingSelector.setCurrentNode(head)
    assert ui.statusLabel.text == "The fixed and the moving volume are the same. Choose two different volumes."
    assert not ui.registerButton.enabled
    ui.movingSelector.setCurrentNode(module.volume("follow-up"))
    assert ui.registerButton.enabled
    assert ui.statusLabel.text == "Ready: press Register, then move λ."


def test_label_maps_are_not_offered_as_images(module):
    labels = module.volume("parts", "vtkMRMLLabelMapVolumeNode")
    offered = [module.ui.fixedSelector.nodeFromIndex(n) for n in range(module.ui.fixedSelector.nodeCount())]
    assert labels not in offered
    module.parameters.fixed = labels  # a script can
    assert module.ui.statusLabel.text.startswith("'parts' is a label map.")


def test_running_shows_progress_and_can_be_cancelled(module):
    ui = module.ui
    module.choose_pair()
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    ui.registerButton.click()
    assert module.registration.calls == ["prepare"]
    assert ui.registerButton.text == "Cancel"
    assert ui.progressBar.visible
    assert not ui.fixedSelector.enabled
    assert (ui.progressBar.value, ui.statusLabel.text) == (0, "Starting ...")
    module.registration.progress(0.42, "Aligning")
    assert (ui.progressBar.value, ui.statusLabel.text) == (42, "Aligning")
    ui.registerButton.click()
    assert module.registration.calls == ["prepare", "cancel"]
    assert ui.registerButton.text == "Register"
    assert ui.registerButton.enabled
    assert not ui.progressBar.visible
    assert not ui.resultPanel.visible
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_what_is_chosen_reaches_the_worker(module):
    from HyperRegSlicerLib.Parameters import Device, Initial

    ui = module.ui
    module.choose_pair()
    labels = module.volume("parts", "vtkMRMLLabelMapVolumeNode")
    ui.fixedLabelsSelector.setCurrentNode(labels)
    ui.initialCombo.currentIndex = ui.initialCombo.findText("Rigid")
    ui.deviceCombo.currentIndex = ui.deviceCombo.findText("CPU")
    assert (module.parameters.initial, module.parameters.device) == (Initial.RIGID, Device.CPU)
    ui.registerButton.click()
    given = module.registration.prepared_with
    assert (given["initial"], given["device"], given["model"]) == ("rigid", "cpu", module.parameters.model)
    assert given["fixed"].name == "head"
    assert given["moving"].name == "follow-up"
    assert given["fixed_labels"].name == "parts"


def test_a_transform_to_begin_with(module):
    ui = module.ui
    module.choose_pair()
    assert not ui.initialTransformSelector.enabled
    ui.initialCombo.currentIndex = ui.initialCombo.findText("A transform of the scene, of any kind")
    assert not ui.registerButton.enabled
    assert ui.statusLabel.text == "Choose the transform to begin with, or another initial alignment."
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = np.eye(4)
    matrix[:3, 3] = (5, -6, 7)
    slicer.util.updateTransformMatrixFromArray(shift, matrix)
    ui.initialTransformSelector.setCurrentNode(shift)
    ui.registerButton.click()
    np.testing.assert_allclose(module.registration.prepared_with["initial"], np.linalg.inv(matrix))


def test_errors_are_told_and_the_next_request_works(module):
    ui = module.ui
    module.choose_pair()
    ui.registerButton.click()
    module.registration.fail("The HyperReg engine was ended by the system.")
    assert ui.messageLabel.visible
    assert ui.messageLabel.text == "The HyperReg engine was ended by the system."
    assert ui.registerButton.text == "Register"
    assert module.parameters.moving.GetParentTransformNode() is None
    ui.registerButton.click()
    assert not ui.messageLabel.visible
    module.registration.answer_ready()
    assert ui.keepButton.enabled
    module.registration.warn("The graphics card has not enough memory; HyperReg goes on with the CPU.")
    assert "goes on with the CPU" in ui.messageLabel.text


def test_without_a_network_the_solver_is_there(host, monkeypatch, tmp_path):
    from hyperreg import catalogue

    monkeypatch.setattr(catalogue, "model_folders", lambda: [tmp_path])
    host.load(MODULE)
    widget = host.widget("HyperRegSlicer")
    assert not widget.ui.messageLabel.visible
    assert [widget.ui.modelCombo.itemText(n) for n in range(widget.ui.modelCombo.count)] == ["None (solver alone)"]
    assert widget.panel.parameters.model == "none"


def test_a_model_that_is_not_installed_here_is_told(module):
    module.choose_pair()
    module.parameters.model = "left-at-home"  # a scene from elsewhere
    module.ui.registerButton.click()
    assert "left-at-home" in module.ui.messageLabel.text
    assert module.registration.calls == []


def test_sample_pair(module):
    module.ui.sampleButton.click()
    parameters = module.parameters
    assert (parameters.fixed.GetName(), parameters.moving.GetName()) == ("MNI152", "Colin27")
    # Where the anterior commissure is 0 in MNI space: both brains are around it, in mm.
    for node in (parameters.fixed, parameters.moving):
        bounds = [0.0] * 6
        node.GetRASBounds(bounds)
        assert all(low < -60 and high > 80 for low, high in zip(bounds[::2], bounds[1::2], strict=True))
        assert node.GetSpacing() == pytest.approx((2, 2, 2))
    assert module.ui.registerButton.enabled
    assert module.composites()["Red"].GetBackgroundVolumeID() == parameters.fixed.GetID()


def test_one_click_aligns_without_a_deformation(module):
    ui = module.ui
    module.choose_pair()
    for choice, possible in (("None: already aligned", False), ("Rigid", True)):
        ui.initialCombo.currentIndex = ui.initialCombo.findText(choice)
        assert ui.alignButton.enabled is possible
    ui.alignButton.click()
    assert ui.registerButton.text == "Cancel"
    assert module.registration.prepared_with["initial"] == "rigid"
    module.registration.answer_ready()
    moving = module.parameters.moving
    node = moving.GetParentTransformNode()
    assert node.IsA("vtkMRMLLinearTransformNode")
    assert node.GetName() == "follow-up rigid alignment"
    assert node.GetName() in ui.messageLabel.text
    assert "is aligned" in ui.statusLabel.text
    assert {c.GetForegroundVolumeID() for c in module.composites().values()} == {moving.GetID()}, "both are shown"
    ui.resetButton.click()
    assert moving.GetParentTransformNode() is None
    assert slicer.mrmlScene.IsNodePresent(node)


def test_the_sample_pair_is_offered_by_sample_data_too(module):
    import hashlib
    from pathlib import Path
    from urllib.parse import urlparse

    module.host.start_up()
    offered = module.host.records.sample_data["BrainTemplates"]
    assert offered["category"] == "HyperReg"
    assert Path(offered["thumbnailFileName"]).is_file()
    assert offered["nodeNames"] == ["MNI152", "Colin27"]
    for uri, name, checksum in zip(offered["uris"], offered["fileNames"], offered["checksums"], strict=True):
        path = Path(urlparse(uri).path)
        assert path.name == name
        assert checksum == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_nothing_need_be_installed_here_while_another_computer_computes(module, monkeypatch):
    from HyperRegSlicerLib import Install

    monkeypatch.setattr(Install, "REQUIREMENTS", (Install.Requirement("hyperreg_absent", "hyperreg-absent"),))
    module.choose_pair()
    ui = module.ui
    try:
        ui.computerEdit.text = " me@gpu-server "
        ui.computerEdit.editingFinished()
        assert ui.computerNoteLabel.text == "Connected: me@gpu-server"
        assert ui.computerNoteLabel.visible
        ui.registerButton.click()
        assert module.registration.calls[-1] == "prepare"
        # It is the user's choice, not the scene's: whoever opens a panel next computes there, too.
        ui.computerEdit.text = ""
        module.panel.set_parameters(module.panel.parameters)
        assert ui.computerEdit.text == "me@gpu-server"
    finally:
        ui.computerEdit.text = ""
        ui.computerEdit.editingFinished()
    assert not ui.computerNoteLabel.visible
    ui.registerButton.click()  # Cancel
    ui.registerButton.click()
    assert "not installed yet" in ui.messageLabel.text
