"""Installation from the module: asks first, continues sanely after a no, works without internet, on 5.12 and 5.10."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from new_slicer import NOTHING_INSTALLED, without_packages

from hyperreg.errors import InputError

MODULE = Path(__file__).resolve().parents[4] / "HyperRegSlicer" / "HyperRegSlicer.py"
# What is done with a scene that was saved elsewhere.
REOPENED = """
import slicer

slicer.util.loadScene(sys.argv[2])
host.process_events()
print(ui.statusLabel.text)
assert ui.movingSelector.currentNode().GetParentTransformNode() is not None
ui.resetButton.click()
assert ui.movingSelector.currentNode().GetParentTransformNode() is None
ui.registerButton.click()
host.process_events(1)
print(ui.messageLabel.text)
assert host.widget(module.name).panel.logic.state == "idle"
assert host.exceptions == [], host.exceptions
"""


@pytest.fixture
def install(host, monkeypatch):
    """The installation part, with one package missing that nobody has."""
    host.load(MODULE)
    host.widget("HyperRegSlicer", show=False)
    from HyperRegSlicerLib import Install

    absent = Install.Requirement("hyperreg_absent", "hyperreg-absent", ">=1.2")
    monkeypatch.setattr(Install, "REQUIREMENTS", (Install.REQUIREMENTS[0], absent))
    host.testing = False  # pip_ensure does nothing in testing mode
    yield Install
    host.set_version((5, 12))


@pytest.fixture
def arrives(install, monkeypatch):
    """Makes the missing package appear when pip is asked for it."""
    pip = slicer.util.pip_install

    def pip_install(requirements, **options):
        pip(requirements, **options)
        monkeypatch.setattr(install, "REQUIREMENTS", install.REQUIREMENTS[:1])

    monkeypatch.setattr(slicer.util, "pip_install", pip_install)


def test_missing_and_too_old_is_found_without_importing(install):
    assert [str(requirement) for requirement in install.missing()] == ["hyperreg-absent>=1.2"]
    assert install.missing()[0] == install.Requirement("hyperreg_absent", "hyperreg-absent", ">=1.2")
    new = install.Requirement("numpy", "numpy", ">=999")
    assert not install._is_installed(new)
    assert install._is_installed(install.Requirement("numpy", "numpy", ">=1.20"))
    assert install._is_installed(install.Requirement("json", "no-such-distribution", ">=1"))


def test_with_slicers_own_dialog_since_5_12(install, host):
    host.records.answer(True)
    install.install_from_internet()
    assert host.records.pip == [("install", ["hyperreg-absent>=1.2"])]
    assert len(host.records.dialogs) == 1


@pytest.mark.parametrize("version", [(5, 12), (5, 10)])
def test_no_means_no_and_is_no_error(install, host, version):
    host.set_version(version)
    host.records.answer(False)
    assert install.install_from_internet() is False
    assert host.records.pip == []
    assert len(host.records.dialogs) == 1


def test_with_our_own_question_on_5_10(install, host):
    host.set_version((5, 10))
    host.records.answer(True, True)
    install.install_from_internet()
    assert host.records.pip == [("install", ["hyperreg-absent>=1.2"])]
    assert "hyperreg-absent" in host.records.dialogs[0].text


def test_failure_is_told_in_words(install, host):
    host.set_version((5, 10))
    host.records.answer(True, False)
    with pytest.raises(install.InstallError, match=r"failed .* Check the internet connection"):
        install.install_from_internet()


def test_torch_comes_through_the_pytorch_extension(install, host, monkeypatch):
    torch = install.Requirement("torch_absent", "torch", ">=2.4")
    monkeypatch.setattr(install, "TORCH", "torch_absent")
    monkeypatch.setattr(install, "REQUIREMENTS", (torch,))
    assert importlib.util.find_spec("PyTorchUtils") is None
    with pytest.raises(install.InstallError, match="The extension 'PyTorch' is needed"):
        install.install_from_internet()
    asked = []

    class PyTorchUtilsLogic:
        def installTorch(self, askConfirmation=False, forceComputationBackend=None, torchVersionRequirement=None):
            asked.append((askConfirmation, torchVersionRequirement))
            monkeypatch.setattr(install, "REQUIREMENTS", ())

    extension = types.ModuleType("PyTorchUtils")
    extension.PyTorchUtilsLogic = PyTorchUtilsLogic
    monkeypatch.setitem(sys.modules, "PyTorchUtils", extension)
    assert install.install_from_internet() is True
    assert asked == [(True, ">=2.4")]
    assert host.records.pip == []


def test_wheel_folder_contacts_nobody(install, arrives, host, tmp_path):
    with pytest.raises(InputError, match="There are no wheels"):
        install.install_from_folder(str(tmp_path))
    (tmp_path / "hyperreg_absent-1.3-py3-none-any.whl").touch()
    host.records.answer(False)
    assert install.install_from_folder(str(tmp_path)) is False
    assert host.records.pip == []
    host.records.answer(True, True)
    assert install.install_from_folder(str(tmp_path)) is True
    arguments = ["--no-index", "--find-links", str(tmp_path), "hyperreg-absent>=1.2"]
    assert host.records.pip == [("install", arguments)]


def test_wheel_folder_without_the_right_wheel(install, host, tmp_path):
    (tmp_path / "something_else-1.0-py3-none-any.whl").touch()
    host.records.answer(True, False)
    with pytest.raises(install.InstallError, match="could not be installed from"):
        install.install_from_folder(str(tmp_path))


def test_the_panel_leads_to_the_installation(install, arrives, host, tmp_path):
    ui = slicer.util.getModuleWidget("HyperRegSlicer").ui
    panel = slicer.util.getModuleWidget("HyperRegSlicer").panel
    host.widget("HyperRegSlicer")
    panel.installation.update()
    assert ui.installLabel.text == "Not installed: hyperreg-absent."
    assert "pip download" in ui.offlineLabel.text
    panel._guarded(panel._register_or_cancel)()
    assert "not installed yet" in ui.messageLabel.text
    assert not ui.setupSection.collapsed
    assert host.records.pip == []
    (tmp_path / "hyperreg_absent-1.3-py3-none-any.whl").touch()
    ui.wheelFolderEdit.currentPath = str(tmp_path)
    host.records.answer(True, True)
    ui.installFolderButton.click()
    assert ui.messageLabel.text == "Everything that is needed is installed."
    assert ui.installLabel.text == "Everything that is needed is installed."
    assert not ui.installButton.enabled


def test_the_worker_runs_in_pythonslicer(install, monkeypatch, tmp_path):
    program = tmp_path / "PythonSlicer"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.worker_python() == str(program)
    monkeypatch.setenv("PATH", "")
    assert install.worker_python() in (sys.executable, str(Path(slicer.app.slicerHome) / "bin" / "PythonSlicer"))


@pytest.mark.parametrize("name", ["HyperRegSlicer", "SegmentationModule"])
def test_the_panels_open_and_offer_the_installation_where_nothing_is_installed_yet(name, tmp_path):
    done = without_packages(name, tmp_path, NOTHING_INSTALLED)
    assert done.endswith("Not installed: torch, safetensors, monai, nibabel.")


def test_a_scene_saved_while_something_runs_is_reopened_where_nothing_is_installed(module, tmp_path):
    module.go_live()
    transform = module.parameters.transform
    module.ui.registerButton.click()
    assert module.panel.logic.state == "running"
    for node, suffix in ((module.parameters.fixed, "nrrd"), (module.parameters.moving, "nrrd"), (transform, "h5")):
        assert slicer.util.saveNode(node, str(tmp_path / f"{node.GetName()}.{suffix}"))
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    said = without_packages(
        "HyperRegSlicer", tmp_path, NOTHING_INSTALLED + REOPENED, str(tmp_path / "scene.mrml")
    ).splitlines()
    assert said[1].startswith("The moving volume is registered."), said
    assert "not installed" in said[2], said
