"""Module files, their life, messages and the runner of the test host, as in Slicer."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")


ROOT = Path(__file__).resolve().parents[3]

# --- module files -------------------------------------------------------------------------------------------------

MODULE = """
import qt, slicer
from slicer.ScriptedLoadableModule import *
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

VERSION = 1

class {name}(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("A title")
        self.parent.categories = ["Testing"]
        slicer.app.connect("startupCompleted()", lambda: events.append("startup"))

events = []

class {name}Widget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.button = qt.QPushButton("version %d" % VERSION)
        self.layout.addWidget(self.button)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onClose)
    def onClose(self, caller, event):
        events.append("close")
    def enter(self):
        events.append("enter")
    def exit(self):
        events.append("exit")
    def cleanup(self):
        events.append("cleanup")
        self.removeObservers()

class {name}Test(ScriptedLoadableModuleTest):
    def test_passes(self):
        self.delayDisplay("testing")
        self.assertEqual(slicer.modules.{lower}.title, "A title")
    def test_second(self):
        events.append("tested")
"""


def write_module(host, name, folder=None):
    import slicer

    folder = Path(folder or Path(slicer.app.temporaryPath) / name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(MODULE.format(name=name, lower=name.lower()))
    return path


def test_sample_data_and_extensions_are_recorded(host):
    import SampleData
    import slicer

    register = SampleData.SampleDataLogic.registerCustomSampleDataSource
    register(category="Testing", sampleName="Pair", uris=["a", "b"], fileNames=["a", "b"], nodeNames=["a", "b"])
    assert host.records.sample_data["Pair"]["uris"] == ["a", "b"]
    with pytest.raises(ValueError, match="differ in length"):
        register(sampleName="Bad", uris=["a", "b"], fileNames=["a"])
    with pytest.raises(ImportError):
        import PyTorchUtils
    manager = slicer.app.extensionsManagerModel()
    assert not manager.isExtensionInstalled("PyTorch")
    host.install_pytorch_extension()
    import PyTorchUtils

    assert manager.isExtensionInstalled("PyTorch")
    host.records.answer(False)
    assert PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True) is None
    assert PyTorchUtils.PyTorchUtilsLogic().installTorch(askConfirmation=True) is not None
    assert host.records.pip == [("torch", {})]


def test_module_life(host, tmp_path):
    import slicer

    path = write_module(host, "LifeModule", tmp_path)
    module = host.load(path)
    host.start_up()
    events = sys.modules["LifeModule"].events
    assert slicer.modules.lifemodule is module and slicer.util.modulePath("LifeModule") == str(path)
    widget = host.widget("LifeModule")
    assert widget is slicer.modules.LifeModuleWidget and widget.button.isVisible()
    slicer.mrmlScene.Clear(0)
    slicer.selfTests["LifeModule"]()
    host.unload("LifeModule")
    assert events == ["startup", "enter", "close", "tested", "exit", "cleanup"]
    assert not hasattr(slicer.modules, "lifemodule")


def test_module_reload(host, tmp_path):
    import slicer

    path = write_module(host, "ReloadModule", tmp_path)
    host.load(path)
    old = host.widget("ReloadModule")
    path.write_text(path.read_text().replace("VERSION = 1", "VERSION = 23"))
    slicer.util.reloadScriptedModule("ReloadModule")
    host.process_events()
    new = slicer.util.getModuleWidget("ReloadModule")
    assert new is not old and new.button.text == "version 23" and not old.button
    assert new.layout.count() == 2  # the button and a stretch: nothing of the old panel is left


def test_every_top_level_file_needs_its_class(host, tmp_path):
    path = write_module(host, "GoodModule", tmp_path)
    (tmp_path / "helpers.py").write_text("x = 1\n")
    host.load(path)
    assert any("helpers.py: class helpers was not found" in text for text in host.records.warnings)
    from Testing.Host.scripted import ModuleError

    with pytest.raises(ModuleError):
        host.load(tmp_path / "helpers.py")


def test_there_is_no_imp_and_no_missing_test_class(host, tmp_path):
    import slicer

    path = write_module(host, "NoTestModule", tmp_path)
    path.write_text(path.read_text().replace("class NoTestModuleTest", "class Other"))
    host.load(path)
    with pytest.raises(AssertionError):
        slicer.selfTests["NoTestModule"]()
    with pytest.raises(ImportError):
        import imp  # noqa: F401


def test_module_description_has_only_its_properties(host, tmp_path):
    module = host.load(write_module(host, "PropModule", tmp_path))
    with pytest.raises(AttributeError):
        module.keywords = ["a"]
    assert module.name == "PropModule" and module.categories == ("Testing",)


def test_packaging_exists_from_5_12_on(host):
    import slicer
    from slicer.packaging import pip_ensure

    host.testing = False
    pip_ensure(["numpy>=1"], requester="Test")
    assert host.records.pip == []
    host.records.answer(False)
    with pytest.raises(RuntimeError):
        pip_ensure(["no-such-package-anywhere>=1"], requester="Test")
    pip_ensure(["no-such-package-anywhere>=1"], requester="Test")
    assert host.records.pip == [("install", ["no-such-package-anywhere>=1"])]
    host.set_version((5, 10))
    try:
        with pytest.raises(ImportError):
            from slicer.packaging import pip_install  # noqa: F401
        assert not hasattr(slicer, "packaging") and slicer.app.minorVersion == 10
        slicer.util.pip_install("x")
        assert host.records.pip[-1] == ("install", "x")
    finally:
        host.set_version((5, 12))


# --- messages -----------------------------------------------------------------------------------------------------


def test_error_display_only_logs_in_testing_mode(host, caplog):
    import slicer

    assert slicer.app.testingEnabled()
    with caplog.at_level(logging.ERROR):
        slicer.util.errorDisplay("went wrong")
    assert "went wrong" in caplog.text
    assert [(d.kind, d.text) for d in host.records.dialogs] == [("slicer.util.errorDisplay", "went wrong")]


def test_confirmations_are_answered_by_the_test(host):
    import slicer

    for testing in (True, False):
        host.testing = testing
        host.records.answer(False, True)
        assert slicer.util.confirmYesNoDisplay("really?") is False
        assert slicer.util.confirmOkCancelDisplay("really?") is True
    assert len(host.records.dialogs) == 4


def test_busy_cursor_and_try_with_error_display(host, qt):
    import slicer

    with pytest.raises(ZeroDivisionError), slicer.util.tryWithErrorDisplay("It failed", waitCursor=True):
        assert slicer.app.overrideCursor().shape() == qt.Qt.WaitCursor
        _ = 1 / 0
    assert slicer.app.overrideCursor() is None  # in testing mode the exception itself is raised, without a message


def test_dialogs_never_block(host, qt):
    host.records.answer("/a/file.nii.gz")
    assert qt.QFileDialog.getOpenFileName(None, "Open", "") == "/a/file.nii.gz"
    assert qt.QMessageBox.question(None, "title", "text") == qt.QMessageBox.Yes
    box = qt.QMessageBox()
    box.text, box.standardButtons = "hello", qt.QMessageBox.Ok | qt.QMessageBox.Cancel
    host.records.answer(qt.QMessageBox.Cancel)
    assert box.exec_() == qt.QMessageBox.Cancel
    assert [d.text for d in host.records.dialogs] == ["", "text", "hello"]


# --- the runner ---------------------------------------------------------------------------------------------------


def test_runner_takes_pictures(host, tmp_path):
    path = write_module(host, "RunModule", tmp_path)
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "Testing.Host", str(path), "--self-test", "--screenshot", str(picture)]
    done = subprocess.run([*command, "--size", "900x600"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    from PySide6.QtGui import QImage

    image = QImage(str(picture))
    assert (image.width(), image.height()) == (900, 600)


def test_runner_reports_failures(host, tmp_path):
    from Testing.Host.run import main

    path = write_module(host, "FailModule", tmp_path)
    path.write_text(path.read_text().replace('title, "A title")', 'title, "Another title")'))
    assert main([str(path)]) == 0
    host.reset()
    assert main([str(path), "--self-test"]) == 1
    host.reset()
    path.write_text(path.read_text().replace('events.append("enter")', "1 / 0"))
    assert main([str(path)]) == 1
    host.exceptions.clear()
