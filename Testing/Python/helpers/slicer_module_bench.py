"""The module's real files and form in the test host, with a stand-in for the worker."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import slicer
from fake_registration import FakeConnection

from hyperreg.imaging.volume import Volume

MODULE = Path(__file__).resolve().parents[3] / "HyperRegSlicer" / "HyperRegSlicer.py"
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
        from hyperreg.mrml import geometry

        array = np.random.default_rng(len(name)).integers(0, 100, (12, 14, 10)).astype(np.int16)
        node = slicer.mrmlScene.AddNewNodeByClass(kind, name)
        geometry.volume_to_node(Volume(array, AFFINE, name), node)
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
def opened(host, tiny_model, monkeypatch):
    """The module as Slicer opens it."""
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


@pytest.fixture
def module(opened: Module, tiny_model: str) -> Module:
    """The module with the tiny model at λ = 0.3: what the installed models begin with is not what is tested."""
    opened.parameters.model, opened.parameters.lam = tiny_model, 0.3
    opened.panel._fill_models()
    return opened
