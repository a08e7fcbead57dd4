"""Learning from one's own images in the module: started, followed, cancelled; Slicer may be closed meanwhile."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("PySide6", reason="PySide6 is not installed")

import stand_in_training
from slicer_module_bench import Module

from hyperreg.overnight import CANCELLED, Overnight

PATIENCE_S = 120


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_it_is_started_followed_and_cancelled(module: Module, tmp_path: Path) -> None:
    panel, ui = module.panel.learning, module.panel.ui
    program = (str(Path(stand_in_training.__file__)),)
    panel._overnight = Overnight(tmp_path / "state", sys.executable, program)
    for name in ("heads", "quick"):
        (tmp_path / name).mkdir()
    ui.learnFolderEdit.currentPath = str(tmp_path / "nowhere")
    ui.learnButton.click()
    assert "is no folder" in ui.messageLabel.text
    panel._timer.timeout.emit()
    assert "is no folder" in ui.messageLabel.text, "who looks how far it is takes no message away"
    ui.learnFolderEdit.currentPath = str(tmp_path / "heads")
    ui.learnButton.click()
    assert (ui.learnButton.text, ui.learnFolderEdit.enabled) == ("Cancel", False)
    until(lambda: panel._overnight.look().text.startswith("Step"))
    panel.update()
    assert ui.learnNoteLabel.text.endswith(f"of {ui.learnModelCombo.currentData}, 480.0 minutes")
    ui.learnButton.click()
    until(lambda: not panel._overnight.running)
    panel.update()
    assert (ui.learnNoteLabel.text, ui.learnButton.text) == (CANCELLED, "Learn over night")
    filled = []
    panel._on_models = lambda: filled.append(True)
    ui.learnFolderEdit.currentPath = str(tmp_path / "quick")
    ui.learnButton.click()
    until(lambda: not panel._overnight.running)
    panel.update()
    assert (ui.learnNoteLabel.text, filled) == ("Nothing was gained.", [True])
