"""The segmentation module with a real worker and toy networks: from button to scene, and back after failures."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from segmentation_bench import NETWORKS, OBLIQUE, centre_of, eggs, make_model, truth
from segmentation_module_bench import MODULE, Module
from segmentation_worker import MORE

from hyperreg.imaging.volume import Volume
from hyperreg.segmentation import licences, model
from hyperreg.worker.client import WorkerClient

SCRIPT = Path(__file__).parents[2] / "helpers" / "segmentation_worker.py"
PATIENCE_S = 120.0
MANY_WINDOWS = {"axes": "ras", "spacing_mm": [2.0, 2.0, 2.0], "window": [8, 8, 8], "flips": []}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS, **MORE})
        make_model(folder, title="Eggs")
        make_model(folder, "slow", network={"name": "slow"}, grid=MANY_WINDOWS)
        make_model(folder, "deadly", network={"name": "deadly"})
    return folder


@pytest.fixture
def module(host: Any, models: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HYPERREG_MODELS", str(models))
    monkeypatch.setattr(licences, "is_accepted", lambda _card: True)
    host.load(MODULE)
    importlib.import_module("SegmentationModule").makeEngineImportable()
    from HyperRegSlicerLib import Worker

    monkeypatch.setattr(
        Worker, "WorkerClient", lambda python: WorkerClient(python=sys.executable, arguments=[str(SCRIPT)])
    )
    widget = host.widget("SegmentationModule")
    opened = Module(host, widget.panel.connection)
    opened.ui.volumeSelector.setCurrentNode(opened.add(eggs(OBLIQUE)))
    yield opened
    widget.cleanup()


def test_from_the_button_to_the_scene_and_back_after_failures(host: Any, module: Module) -> None:
    ui = module.ui
    before = module.content()
    module.choose("slow")
    ui.segmentButton.click()
    host.wait_until(lambda: ui.statusLabel.text == "Segmenting", PATIENCE_S)
    ui.segmentButton.click()
    assert ui.segmentButton.text == "Segment"
    assert module.content() == before

    if sys.platform != "win32":  # the process is killed by signal
        module.choose("deadly")
        ui.segmentButton.click()
        host.wait_until(lambda: bool(ui.messageLabel.text), PATIENCE_S)
        assert "HyperReg engine was ended by the system" in ui.messageLabel.text
        assert ui.segmentButton.text == "Segment"
        assert module.content() == before

    module.choose("bands")
    ui.segmentButton.click()
    host.wait_until(lambda: bool(ui.messageLabel.text) or ui.summaryLabel.visible, PATIENCE_S)
    assert ui.messageLabel.text == ""
    node, found = module.parameters.volume, module.parameters.segmentation
    labels = np.zeros(OBLIQUE.shape, np.uint8)
    for label in (2, 5):
        array = slicer.util.arrayFromSegmentBinaryLabelmap(found, f"Segment_{label}", node)
        labels[array.T == 1] = label
    for label in (2, 5):
        there = centre_of(Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras), label)
        assert np.linalg.norm(centre_of(Volume(labels, OBLIQUE.ijk_to_ras), label) - there) < 0.7

    ui.statisticsTable.setCurrentCell(1, 0)
    host.wait_until(lambda: ui.borderSlider.enabled, PATIENCE_S)
    result = np.count_nonzero(labels == 5)
    for position, fits in ((-100, np.less), (100, np.greater), (0, np.equal)):
        ui.borderSlider.value = position
        array = slicer.util.arrayFromSegmentBinaryLabelmap(found, "Segment_5", node)
        assert fits(np.count_nonzero(array), result)


def test_a_model_is_added_and_removed(host: Any, module: Module, models: Path, tmp_path: Path, qt: Any) -> None:
    from segmentation_bench import make_card

    make_card(tmp_path, name="mine", title="My own")
    ui = module.ui
    ui.modelPathEdit.currentPath = str(tmp_path / "mine")
    host.records.answer(qt.QMessageBox.Yes)
    ui.addModelButton.click()
    host.wait_until(lambda: "was added" in ui.messageLabel.text or ui.addModelButton.enabled, PATIENCE_S)
    assert ui.messageLabel.text == "The model 'mine' was added and chosen."
    assert (models / "mine" / "card.json").is_file()
    assert ui.removeModelButton.enabled
    host.records.answer(True)
    ui.removeModelButton.click()
    host.wait_until(lambda: "was removed" in ui.messageLabel.text, PATIENCE_S)
    assert not (models / "mine").exists()
    assert module.parameters.model == ""
    assert not ui.segmentButton.enabled
