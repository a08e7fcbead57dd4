"""The module through the life of the scene and its own: deleted volumes, reopened scenes, leaving, reload, unload."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from fake_registration import FakeConnection
from slicer_module_bench import MODULE


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
    module.registration.answer_solved()
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


def test_what_the_user_knows_of_the_pair_is_saved_with_the_scene(module, tmp_path):
    """Written to files, read into an empty scene: the next registration is steered as the last one was."""
    import qt

    module.go_live()
    ui, registration = module.ui, module.registration
    marks = module.volume("marks", "vtkMRMLLabelMapVolumeNode")
    image = slicer.util.arrayFromVolume(marks)
    image[:] = 0
    image[2:5, 3:6, 4:8], image[6:8, 3:6, 4:8] = 2, 5
    slicer.util.arrayFromVolumeModified(marks)
    here = registration.grid.to_ras([[3.0, 4, 5], [8, 9, 4], [5, 5, 5]])
    for name, selector in (("here", ui.fixedLandmarksSelector), ("there", ui.movingLandmarksSelector)):
        points = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
        for point in here + (name == "there"):
            points.AddControlPoint([float(value) for value in point])
        selector.setCurrentNode(points)
    ui.pullSlider.value = 0.6
    ui.landmarksTable.item(1, 0).setCheckState(qt.Qt.Unchecked)
    ui.regionsSelector.setCurrentNode(marks)
    ui.regionsTable.item(0, 0).setCheckState(qt.Qt.Checked)
    ui.regionsTable.item(1, 2).setCheckState(qt.Qt.Checked)
    ui.movingLeaveOutSelector.setCurrentNode(marks)
    ui.movingLeaveOutCombo.setCurrentIndex(2)
    ui.symmetricBox.click()

    def told(of):
        pulling = of.landmarks.pulling
        return (
            (of.regions[1], of.rigid[1], of.landmarks.pull, of.landmarks.left_out),
            (of.regions[0].array, of.masks[1].array, pulling.fixed, pulling.moving),
        )

    settings, arrays = told(registration)
    assert settings == ({2: pytest.approx(0.3)}, (5,), pytest.approx(0.6), (1,))
    for kind, suffix in (
        ("vtkMRMLScalarVolumeNode", "nrrd"), ("vtkMRMLMarkupsFiducialNode", "mrk.json"), ("vtkMRMLTransformNode", "h5")
    ):  # fmt: skip
        for node in slicer.util.getNodesByClass(kind):
            assert slicer.util.saveNode(node, str(tmp_path / f"{node.GetName()}.{suffix}"))
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    slicer.mrmlScene.Clear(0)
    module.go_live()
    assert (registration.landmarks, registration.masks, registration.rigid[1]) == (None, (None, None), ())
    slicer.mrmlScene.Clear(0)
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    ui.registerButton.click()
    registration.answer_ready()
    again, same = told(registration)
    assert again == settings
    for found, expected in zip(same, arrays, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
    assert registration.prepared_with["symmetric"] is True


def test_leaving_and_entering_keeps_the_choices(module):
    module.go_live()
    module.widget.exit()
    assert module.parameters is None
    module.registration.answer_solved()  # goes on while another module is open
    module.widget.enter()
    assert module.ui.keepButton.enabled
    module.ui.lambdaSlider.value = 0.77
    assert module.parameters.lam == pytest.approx(0.77)
    assert module.registration.asked[-1] == pytest.approx(0.77)


SCENE_LOGIC = MODULE.parents[1] / "hyperreg" / "mrml"


def test_reload_ends_the_old_worker_and_makes_a_working_panel(same_library_afterwards, module, monkeypatch):
    module.go_live()
    old = module.connection
    transform = module.parameters.transform
    # Reloading drops the library and with it the stand-in: what the fresh one imports gets another.
    from hyperreg.worker import client
    from hyperreg.worker.live import registration

    fresh = FakeConnection()
    fresh.stop, fresh.address = fresh.close, ""
    monkeypatch.setattr(client, "WorkerClient", lambda python: fresh)
    monkeypatch.setattr(registration, "LiveRegistration", lambda made: made.registration)
    module.widget.onReload()
    assert old.closed
    widget = slicer.util.getModuleWidget("HyperRegSlicer")
    assert widget is not module.widget
    assert widget.panel.connection.registration is fresh.registration
    assert widget.panel.parameters.transform is transform
    assert widget.panel.logic.can_reset
    widget.ui.resetButton.click()
    assert widget.panel.parameters.moving.GetParentTransformNode() is None


def test_unload_leaves_nothing_behind(module):
    module.go_live()
    module.host.unload("HyperRegSlicer")
    assert module.connection.closed
    assert module.widget.panel is None
    slicer.mrmlScene.Clear(0)


def test_the_module_has_no_threads_and_no_torch():
    folder = MODULE.parent
    scene_logic = list(SCENE_LOGIC.rglob("*.py"))
    assert len(scene_logic) > 20
    for path in [MODULE, *(folder / "HyperRegSlicerLib").glob("*.py"), *scene_logic]:
        text = path.read_text(encoding="utf-8")
        assert "import torch" not in text.replace("importing torch", ""), path
        assert "threading" not in text, path
    for path in scene_logic:
        text = path.read_text(encoding="utf-8")
        for word in ("import qt", "slicer.app", "slicer.util", "slicer.mrmlScene"):
            assert word not in text, path


def test_the_scene_logic_needs_neither_qt_nor_what_is_installed_later():
    """The panel opens, and offers the installation, in a Slicer that has none of `Install.REQUIREMENTS` yet."""
    parts = [path.relative_to(SCENE_LOGIC.parents[1]).with_suffix("") for path in SCENE_LOGIC.rglob("*.py")]
    names = [".".join(part.parts) for part in parts if part.name != "__init__"]
    missing = {"qt", "ctk", "PySide6", "torch", "monai", "nibabel", "safetensors"}
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({missing})); import {', '.join(names)}; "
        "print('slicer.i18n' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "False"), done.stderr
