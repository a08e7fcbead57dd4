"""The module's real files and form in the test host, with a stand-in for the worker: what the user sees and does."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from fake_registration import FakeConnection

from hyperreg.imaging.volume import Volume
from Testing.Host.fixtures import host  # noqa: F401

MODULE = Path(__file__).resolve().parents[2] / "HyperRegSlicer" / "HyperRegSlicer.py"
AFFINE = np.diag([2.0, 2.5, 3.0, 1.0])


class Module:
    """The loaded module with everything that tests touch."""

    def __init__(self, running, connection: FakeConnection) -> None:
        self.host = running
        self.connection = connection
        self.registration = connection.registration
        self.widget = running.widget("HyperRegSlicer")
        self.ui = self.widget.ui

    @property
    def panel(self):
        return self.widget.panel

    @property
    def parameters(self):
        return self.panel.parameters

    def volume(self, name: str, kind: str = "vtkMRMLScalarVolumeNode"):
        from HyperRegSlicerLib import Geometry

        array = np.random.default_rng(len(name)).integers(0, 100, (12, 14, 10)).astype(np.int16)
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        Geometry.volume_to_node(Volume(array, AFFINE, name), node)
        node.CreateDefaultDisplayNodes()
        return node

    def choose_pair(self) -> None:
        self.ui.fixedSelector.setCurrentNode(self.volume("head"))
        self.ui.movingSelector.setCurrentNode(self.volume("follow-up"))

    def go_live(self) -> None:
        self.choose_pair()
        self.ui.registerButton.click()
        self.registration.answer_ready()

    def composites(self) -> dict[str, object]:
        nodes = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        return {node.GetLayoutName(): node for node in nodes}


@pytest.fixture
def module(host, tiny_model, monkeypatch):  # noqa: F811
    host.load(MODULE)
    from HyperRegSlicerLib import Worker

    made: list[FakeConnection] = []

    def connect() -> FakeConnection:
        made.append(FakeConnection())
        return made[-1]

    monkeypatch.setattr(Worker, "Connection", connect)
    running = host.widget("HyperRegSlicer")
    assert running.panel.connection is made[-1]
    return Module(host, made[-1])


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
    ui.initialCombo.currentIndex = ui.initialCombo.findText("A linear transform of the scene")
    assert not ui.registerButton.enabled
    assert ui.statusLabel.text == "Choose the transform to begin with, or another initial alignment."
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "shift")
    matrix = np.eye(4)
    matrix[:3, 3] = (5, -6, 7)
    slicer.util.updateTransformMatrixFromArray(shift, matrix)
    ui.initialTransformSelector.setCurrentNode(shift)
    ui.registerButton.click()
    np.testing.assert_allclose(module.registration.prepared_with["initial"], np.linalg.inv(matrix))


def test_the_slider_is_live(module):
    ui = module.ui
    module.go_live()
    assert ui.registerButton.text == "Register again"
    assert ui.resultPanel.visible
    assert ui.statusLabel.text == "The result for λ = 0.30 is complete."
    assert ui.metricsLabel.text.splitlines() == [
        "At λ = 0.30: similarity 0.500 before, 0.900 now",
        "Moves up to 9.3 mm (2.1 mm on average); folding in 0.02 % of the voxels",
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
        assert ui.statusLabel.text == f"Quick preview of λ = {lam:.2f}; the exact result follows."
        assert ui.lambdaWordsLabel.text.startswith(words)
        shown.append(moving.GetParentTransformNode().GetTransformFromParent().TransformPoint(point))
        module.registration.answer_exact()
        assert ui.keepButton.enabled
    assert np.linalg.norm(np.subtract(shown[0], shown[2])) > 2  # mm: the preview alone has moved it
    assert slicer.mrmlScene.GetNumberOfNodes() == nodes


def test_other_volumes_wait_for_register(module):
    module.go_live()
    first, third = module.parameters.moving, module.volume("third")
    module.ui.movingSelector.setCurrentNode(third)
    assert module.ui.statusLabel.text == "Press Register again to use the volumes that are chosen now."
    assert third.GetParentTransformNode() is None
    module.ui.registerButton.click()
    module.registration.answer_ready()
    assert third.GetParentTransformNode() is module.parameters.transform
    assert first.GetParentTransformNode() is None
    assert module.ui.statusLabel.text == "The result for λ = 0.30 is complete."


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


def test_errors_are_told_and_the_next_request_works(module):
    ui = module.ui
    module.choose_pair()
    ui.registerButton.click()
    module.registration.fail("The registration engine was ended by the system.")
    assert ui.messageLabel.visible
    assert ui.messageLabel.text == "The registration engine was ended by the system."
    assert ui.registerButton.text == "Register"
    assert module.parameters.moving.GetParentTransformNode() is None
    ui.registerButton.click()
    assert not ui.messageLabel.visible
    module.registration.answer_ready()
    assert ui.keepButton.enabled
    module.registration.on_warning("The graphics card has not enough memory; HyperReg goes on with the CPU.")
    assert "goes on with the CPU" in ui.messageLabel.text


def test_without_a_model_the_panel_says_so(host, monkeypatch, tmp_path):  # noqa: F811
    from hyperreg.registration import catalogue

    monkeypatch.setattr(catalogue, "model_folders", lambda: [tmp_path])
    host.load(MODULE)
    widget = host.widget("HyperRegSlicer")
    assert widget.ui.messageLabel.text.startswith("No registration model is installed")
    assert widget.ui.modelCombo.count == 0


@pytest.mark.parametrize("live", [False, True])
def test_deleted_volume(module, live):
    module.choose_pair()
    module.ui.registerButton.click()
    if live:
        module.registration.answer_ready()
    slicer.mrmlScene.RemoveNode(module.parameters.moving)
    assert "The moving volume was deleted" in module.ui.messageLabel.text
    assert module.parameters.moving is None
    assert not module.ui.registerButton.enabled
    assert module.ui.registerButton.text == "Register"
    module.ui.movingSelector.setCurrentNode(module.volume("another"))
    module.ui.registerButton.click()
    module.registration.answer_ready()
    assert module.ui.keepButton.enabled


def test_scene_close_starts_afresh(module):
    module.go_live()
    module.ui.lambdaSlider.value = 0.9
    slicer.mrmlScene.Clear(0)
    assert module.registration.calls[-1] == "reset"
    assert not module.ui.resultPanel.visible
    assert module.ui.metricsLabel.text == ""
    assert not module.ui.registerButton.enabled
    module.go_live()
    assert module.ui.keepButton.enabled


def test_reopened_scene_has_selections_lambda_and_transform(module, tmp_path):
    module.go_live()
    module.ui.lambdaSlider.value = 0.65
    module.registration.answer_exact()
    point = np.array([11.0, 16.0, 13.0])
    transform = module.parameters.transform
    shown = transform.GetTransformFromParent().TransformPoint(point)
    path = tmp_path / "scene.mrml"
    for node, suffix in ((module.parameters.fixed, "nrrd"), (module.parameters.moving, "nrrd"), (transform, "h5")):
        assert slicer.util.saveNode(node, str(tmp_path / f"{node.GetName()}.{suffix}"))
    assert slicer.util.saveScene(str(path))
    slicer.mrmlScene.Clear(0)
    assert module.parameters.fixed is None
    slicer.util.loadScene(str(path))
    assert module.parameters.fixed.GetName() == "head"
    assert module.ui.movingSelector.currentNode().GetName() == "follow-up"
    assert module.ui.lambdaSlider.value == pytest.approx(0.65)
    transform = module.parameters.transform
    assert module.parameters.moving.GetParentTransformNode() is transform
    np.testing.assert_allclose(transform.GetTransformFromParent().TransformPoint(point), shown, atol=1e-3)
    assert module.ui.statusLabel.text == (
        "The moving volume is registered. Press Register to move λ again, or Reset to undo."
    )
    module.ui.registerButton.click()
    module.registration.answer_ready()
    assert module.parameters.transform is transform
    module.ui.resetButton.click()
    assert module.parameters.moving.GetParentTransformNode() is None


def test_leaving_and_entering_keeps_the_choices(module):
    module.go_live()
    module.widget.exit()
    assert module.parameters is None
    module.registration.answer_exact()  # goes on while another module is open
    module.widget.enter()
    assert module.ui.keepButton.enabled
    module.ui.lambdaSlider.value = 0.77
    assert module.parameters.lam == pytest.approx(0.77)
    assert module.registration.asked[-1] == pytest.approx(0.77)


def test_reload_ends_the_old_worker_and_makes_a_working_panel(module, monkeypatch):
    module.go_live()
    old = module.connection
    transform = module.parameters.transform
    # Reloading drops the library and with it the stand-in: what the fresh one imports gets another.
    from hyperreg.worker import client, live

    fresh = FakeConnection()
    fresh.stop = fresh.close
    monkeypatch.setattr(client, "WorkerClient", lambda python: fresh)
    monkeypatch.setattr(live, "LiveRegistration", lambda made: made.registration)
    module.widget.onReload()
    assert old.closed
    widget = slicer.util.getModuleWidget("HyperRegSlicer")
    assert widget is not module.widget
    assert widget.panel.connection.registration is fresh.registration
    assert widget.panel.parameters.transform is transform
    assert widget.panel.logic.can_reset
    widget.ui.resetButton.click()
    assert widget.panel.parameters.moving.GetParentTransformNode() is None


def test_sample_pair(module):
    module.ui.sampleButton.click()
    parameters = module.parameters
    assert (parameters.fixed.GetName(), parameters.moving.GetName()) == ("Sample fixed", "Sample moving")
    assert parameters.fixedLabels.GetName() == "Sample fixed labels"
    assert module.ui.registerButton.enabled
    assert module.composites()["Red"].GetBackgroundVolumeID() == parameters.fixed.GetID()


def test_unload_leaves_nothing_behind(module):
    module.go_live()
    module.host.unload("HyperRegSlicer")
    assert module.connection.closed
    assert module.widget.panel is None
    slicer.mrmlScene.Clear(0)


def test_the_module_has_no_threads_and_no_torch():
    folder = MODULE.parent
    for path in [MODULE, *(folder / "HyperRegSlicerLib").glob("*.py")]:
        text = path.read_text(encoding="utf-8")
        assert "import torch" not in text.replace("importing torch", ""), path
        assert "threading" not in text, path
    for name in ("Geometry", "Logic", "Results", "Views", "Sample"):
        text = (folder / "HyperRegSlicerLib" / f"{name}.py").read_text(encoding="utf-8")
        assert "import qt" not in text, name
        assert "slicer.app" not in text, name
        assert "slicer.util" not in text, name


def test_qt_is_not_needed_by_what_the_browser_app_shares():
    import subprocess

    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); "
        "from HyperRegSlicerLib import Geometry, Logic, Results, Sample, Views; "
        "print(sorted({'qt', 'ctk', 'torch', 'PySide6', 'slicer.i18n'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(MODULE.parent)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
