"""The segmentation module's real files and form in the test host, with toy models and a stand-in for the worker."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import slicer
from fake_registration import FakeConnection
from segmentation_bench import CORE, OBLIQUE, SHELL, eggs, make_card, scene_centre

from hyperreg.imaging.volume import Grid, Volume

MODULE = Path(__file__).resolve().parents[3] / "SegmentationModule" / "SegmentationModule.py"
# Centre from that of the eggs, mm, and radius.
DOUBTFUL = (((-8.0, 2.0, 0.0), 5.0), ((0.0, -8.0, 0.0), 3.5))
PATTERNS = [
    {"name": "T1", "title": "T1 image", "patterns": ["t1n", "t1"]},
    {"name": "FLAIR", "title": "FLAIR image", "patterns": ["flair", "t2f"]},
]


def doubtful_eggs(grid: Grid) -> Volume:
    """Eggs with two balls in the shell, of 5 and 3.5 mm, that are neither shell nor core: see `DOUBTFUL`."""
    image = eggs(grid)
    points = grid.points() - scene_centre(grid)
    for centre, radius in DOUBTFUL:
        image.array[np.linalg.norm(points - centre, axis=-1) < radius] = 0.75 * image.array.max()
    return image


class Module:
    """The loaded module with everything that tests touch."""

    def __init__(self, running: Any, connection: FakeConnection) -> None:
        self.host = running
        self.connection = connection
        self.segmenter = connection.segmenter
        self.widget = running.widget("SegmentationModule")
        self.ui = self.widget.ui

    @property
    def panel(self) -> Any:
        return self.widget.panel

    @property
    def parameters(self) -> Any:
        return self.panel.parameters

    def add(self, volume: Volume, name: str = "head") -> Any:
        from hyperreg.mrml import geometry

        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        geometry.volume_to_node(volume, node)
        node.CreateDefaultDisplayNodes()
        return node

    def image(self, name: str = "head", grid: Grid = OBLIQUE) -> Any:
        return self.add(doubtful_eggs(grid), name)

    def choose(self, model: str) -> None:
        self.ui.modelCombo.setCurrentIndex(self.ui.modelCombo.findData(model))

    def content(self) -> set[str]:
        """Ids of everything in the scene but what the module itself keeps."""
        nodes = [slicer.mrmlScene.GetNthNode(n) for n in range(slicer.mrmlScene.GetNumberOfNodes())]
        return {node.GetID() for node in nodes if not node.IsA("vtkMRMLScriptedModuleNode")}


@pytest.fixture(scope="session")
def segmentation_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models whose network does not matter: one image, two images, a hyperparameter, and one for CT."""
    folder = tmp_path_factory.mktemp("models")
    make_card(folder, title="Eggs", description="For tests.", citation="Test et al.")
    make_card(folder, name="two", title="Two images", inputs=PATTERNS)
    detail = {"name": "detail", "title": "Detail", "default": 0.3, "description": "How fine."}
    network = {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1], "blocks_up": []}, "hidden": [4]}
    make_card(folder, name="hyper", title="Hyper", hyperparameters=[detail], network=network)
    flips = {"axes": "ras", "spacing_mm": [2.0, 2.0, 2.0], "window": [32, 32, 32], "flips": []}
    make_card(folder, name="chest", title="Chest", modality="CT", structures=[CORE, SHELL], grid=flips)
    return folder


@pytest.fixture
def module(host: Any, segmentation_models: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """The module as Slicer opens it, with the licences of the toy models accepted."""
    from hyperreg.segmentation import licences

    monkeypatch.setenv("HYPERREG_MODELS", str(segmentation_models))
    monkeypatch.setattr(licences, "is_accepted", lambda _card: True)
    host.load(MODULE)
    importlib.import_module("SegmentationModule").makeEngineImportable()
    from HyperRegSlicerLib import Worker

    made: list[FakeConnection] = []

    def connect() -> FakeConnection:
        made.append(FakeConnection())
        return made[-1]

    monkeypatch.setattr(Worker, "Connection", connect)
    host.widget("SegmentationModule")
    opened = Module(host, made[-1])
    opened.choose("bands")
    return opened
