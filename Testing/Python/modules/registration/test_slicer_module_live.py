"""The module's panel while a registration is live: slider, figures, views, keeping; with a stand-in for the worker."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from fake_registration import METRICS
from slicer_module_bench import AFFINE


def test_the_slider_is_live(module):
    ui = module.ui
    module.go_live()
    assert ui.registerButton.text == "Register again"
    assert ui.resultPanel.visible
    assert ui.statusLabel.text == "λ = 0.30: Quick result (2 mm)"
    assert ui.metricsLabel.text.splitlines() == [
        "At λ = 0.30: similarity 0.500 before, 0.900 now",
        "Moves up to 9.3 mm (2.1 mm on average); folding in 0.02 % of the voxels",
        "Local volume changes by -12 % to +18 % in 9 of 10 places",
        "Overlap of label maps (Dice): 0.400 before, 0.700 now",
    ]
    assert ui.overlapLabel.text == "Label 1: 0.800\nLabel 2: 0.600"
    point = np.array([11.0, 16.0, 13.0])
    moving = module.parameters.moving
    nodes = slicer.mrmlScene.GetNumberOfNodes()
    shown = []
    for lam, words in ((0.0, "Most flexible"), (0.5, "Balanced"), (1.0, "Most rigid")):
        ui.lambdaSlider.value = lam
        assert module.registration.asked[-1] == lam
        assert not ui.keepButton.enabled
        assert ui.statusLabel.text == f"λ = {lam:.2f}: Preview between two computed λ"
        assert ui.lambdaWordsLabel.text.startswith(words)
        shown.append(moving.GetParentTransformNode().GetTransformFromParent().TransformPoint(point))
        module.registration.answer_solved()
        assert ui.keepButton.enabled
    assert np.linalg.norm(np.subtract(shown[0], shown[2])) > 2  # mm: the preview alone has moved it
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_other_volumes_wait_for_register(module):
    module.go_live()
    first, third = module.parameters.moving, module.volume("third")
    module.ui.movingSelector.setCurrentNode(third)
    assert module.ui.statusLabel.text.splitlines() == [
        "λ = 0.30: Quick result (2 mm)",
        "Press Register again to use what is chosen now.",
    ]
    assert third.GetParentTransformNode() is None
    module.ui.registerButton.click()
    module.registration.answer_ready()
    assert third.GetParentTransformNode() is module.parameters.transform
    assert first.GetParentTransformNode() is None
    assert module.ui.statusLabel.text == "λ = 0.30: Quick result (2 mm)"


def test_devices_are_named_with_their_memory(module):
    module.go_live()
    combo = module.ui.deviceCombo
    assert [combo.itemText(n) for n in range(combo.count)] == [
        "Automatic",
        "CPU, 8 cores, 12.0 GB free",
        "GPU: Test card, 20.0 of 24.0 GB free",
    ]


def test_keep_and_reset(module):
    ui = module.ui
    module.go_live()
    ui.keepButton.click()
    assert "'follow-up registered λ=0.30'" in ui.messageLabel.text
    kept = slicer.util.getNode("follow-up registered λ=0.30")
    assert kept.GetImageData().GetDimensions() == (12, 14, 10)
    moving = module.parameters.moving
    assert moving.GetParentTransformNode() is module.parameters.transform
    ui.resetButton.click()
    assert moving.GetParentTransformNode() is None
    assert module.parameters.transform is None
    assert not ui.resultPanel.visible
    assert ui.metricsLabel.text == ""
    assert slicer.util.getNode("follow-up registered λ=0.30") is kept
    ui.registerButton.click()
    module.registration.answer_ready()
    assert ui.keepButton.enabled


def test_the_report_on_one_page(module, tmp_path, monkeypatch):
    from hyperreg.registration import page

    given = []
    original = page.write_page
    monkeypatch.setattr(page, "write_page", lambda *told: (given.append(told), original(*told)))
    ui, asked = module.ui, module.host.records
    module.go_live()
    module.registration.set_lambda(module.registration.lam)
    assert not ui.reportButton.enabled, "a preview has no measures"
    module.registration.answer_solved()
    asked.answer("")
    ui.reportButton.click()
    assert given == []
    asked.answer(str(tmp_path / "no folder" / "page"))
    ui.reportButton.click()
    assert "does not exist" in ui.messageLabel.text
    given.clear()
    asked.answer(str(tmp_path / "page"))
    ui.reportButton.click()
    assert ui.messageLabel.text == f"Saved: {tmp_path / 'page.pdf'}"
    assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF-")
    ((report, images, _path),) = given
    assert report["lambda"] == 0.3
    assert report["metrics"]["similarity"] == METRICS["similarity"]
    assert report["dice"]["mean_after"] == METRICS["dice_mean"]
    assert report["initial"] == "affine"
    assert images.names == ("head", "follow-up")
    for volume in (images.fixed, images.moving):
        np.testing.assert_allclose(volume.ijk_to_ras, AFFINE)  # without the transform that λ moves
    asked.answer(str(tmp_path / "page"))
    ui.reportButton.click()
    assert "exists already" in ui.messageLabel.text
    asked.answer(str(tmp_path / "no" / "page.pdf"))
    ui.reportButton.click()
    assert "does not exist" in ui.messageLabel.text


def test_a_reset_is_undone(module):
    ui, registration = module.ui, module.registration
    module.go_live()
    assert not ui.undoResetButton.visible
    ui.lambdaSlider.value = 0.7
    registration.answer_solved()
    fixed, moving, metrics = module.parameters.fixed, module.parameters.moving, ui.metricsLabel.text
    ui.resetButton.click()
    assert ui.undoResetButton.visible
    assert "Undo reset brings the last registration back" in ui.statusLabel.text
    ui.lambdaSlider.value = 0.1
    ui.movingSelector.setCurrentNode(module.volume("another one"))
    ui.undoResetButton.click()
    assert (ui.undoResetButton.visible, ui.resultPanel.visible, ui.keepButton.enabled) == (False, True, True)
    assert (ui.lambdaSlider.value, module.parameters.lam) == (0.7, 0.7)
    assert (module.parameters.fixed, module.parameters.moving) == (fixed, moving)
    assert moving.GetParentTransformNode() is module.parameters.transform is not None
    assert ui.metricsLabel.text == metrics
    assert ui.statusLabel.text == "λ = 0.70: Quick result (2 mm)"
    assert {one.GetForegroundVolumeID() for one in module.composites().values()} == {moving.GetID()}
    ui.resetButton.click()
    moving.SetSpacing(3, 3, 3)
    ui.undoResetButton.click()
    assert "A volume was moved since the reset" in ui.messageLabel.text
    assert (ui.undoResetButton.visible, module.parameters.transform) == (False, None)


def test_views_compare_and_come_back(module):
    before = module.volume("seen before")
    slicer.util.setSliceViewerLayers(background=before, foreground=None)
    module.go_live()
    ui, composites = module.ui, module.composites()
    fixed, moving = module.parameters.fixed, module.parameters.moving
    for composite in composites.values():
        assert (composite.GetBackgroundVolumeID(), composite.GetForegroundVolumeID()) == (fixed.GetID(), moving.GetID())
        assert composite.GetForegroundOpacity() == 0.5
        assert composite.GetLinkedControl()
    ui.fadeSlider.value = 0.8
    assert {composite.GetForegroundOpacity() for composite in composites.values()} == {0.8}
    layout = slicer.app.layoutManager()
    standard = layout.layout
    zoom = slicer.mrmlScene.GetSingletonNode("Yellow", "vtkMRMLSliceNode").GetFieldOfView()
    ui.comparisonCombo.currentIndex = ui.comparisonCombo.findText("Side by side")
    assert layout.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView
    assert composites["Red"].GetBackgroundVolumeID() == fixed.GetID()
    assert composites["Yellow"].GetBackgroundVolumeID() == moving.GetID()
    assert composites["Yellow"].GetForegroundVolumeID() is None
    red, yellow = (slicer.mrmlScene.GetSingletonNode(name, "vtkMRMLSliceNode") for name in ("Red", "Yellow"))
    assert yellow.GetOrientation() == red.GetOrientation() == "Axial"
    ui.comparisonCombo.currentIndex = ui.comparisonCombo.findText("Checkerboard")
    assert layout.layout == standard
    assert yellow.GetOrientation() == "Sagittal"
    assert yellow.GetFieldOfView() == pytest.approx(zoom)
    ui.resetButton.click()
    for composite in composites.values():
        assert composite.GetBackgroundVolumeID() == before.GetID()
        assert composite.GetForegroundVolumeID() is None
    blends = [layout.sliceWidget(name).sliceLogic().GetBlend() for name in ("Red", "Green", "Yellow")]
    assert [blend.GetNumberOfInputConnections(1) for blend in blends] == [0, 0, 0]


def test_checkerboard_alternates_between_the_volumes(module):
    from vtk.util.numpy_support import vtk_to_numpy

    module.go_live()
    for node, value in ((module.parameters.fixed, 40), (module.parameters.moving, 90)):
        slicer.util.arrayFromVolume(node)[:] = value
        slicer.util.arrayFromVolumeModified(node)
        node.GetDisplayNode().AutoWindowLevelOff()
        node.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    module.ui.lambdaSlider.value = 1.0
    ui = module.ui

    def seen() -> set[int]:
        logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
        producer = logic.GetImageDataConnection().GetProducer()
        producer.Update()
        image = producer.GetOutput()
        pixels = vtk_to_numpy(image.GetPointData().GetScalars()).reshape(*image.GetDimensions()[1::-1], -1)[..., 0]
        middle = pixels[pixels.shape[0] // 3 : -pixels.shape[0] // 3, pixels.shape[1] // 3 : -pixels.shape[1] // 3]
        return {int(value) for value in np.unique(middle)}

    ui.fadeSlider.value = 1.0
    (moving_grey,) = seen()
    ui.fadeSlider.value = 0.0
    (fixed_grey,) = seen()
    assert moving_grey > fixed_grey + 50
    ui.comparisonCombo.currentIndex = ui.comparisonCombo.findText("Checkerboard")
    assert seen() == {fixed_grey, moving_grey}
    ui.comparisonCombo.currentIndex = ui.comparisonCombo.findText("Fade one into the other")
    assert seen() == {fixed_grey}


def test_objects_follow_the_moving_volume(module):
    ui = module.ui
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "skull")
    ui.alongSelector.setCurrentNode(model)
    assert not ui.takeAlongButton.enabled
    module.go_live()
    assert ui.takeAlongButton.enabled
    ui.takeAlongButton.click()
    assert model.GetParentTransformNode() is module.parameters.transform
    assert ui.alongListLabel.text == "Following: skull"
    assert not ui.takeAlongButton.enabled
    ui.leaveBehindButton.click()
    assert model.GetParentTransformNode() is None
    assert ui.alongListLabel.text == ""
