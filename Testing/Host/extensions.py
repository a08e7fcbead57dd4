"""What other modules and extensions offer to a module: sample data, the extensions manager, the PyTorch extension."""

from __future__ import annotations

import types
from typing import Any

from PySide6 import QtCore

from .members import invokable
from .record import RECORDS


class qSlicerExtensionsManagerModel(QtCore.QObject):  # noqa: N801 (C++ name)
    """slicer.app.extensionsManagerModel(): nothing is downloaded, requests are recorded."""

    _meta_object_only = True
    installed: set[str]

    def __init__(self) -> None:
        super().__init__()
        self.installed = set()

    @invokable
    def isExtensionInstalled(self, name: str) -> bool:
        """Whether an extension is installed."""
        return name in self.installed

    @invokable
    def installExtensionFromServer(self, name: str, _restart: bool = True, _wait: bool = True) -> bool:
        """Record the request; a queued answer False makes it fail."""
        RECORDS.pip.append(("extension", name))
        return RECORDS.next_answer(True) is not False


def make_sample_data() -> types.ModuleType:
    """Return the module ``SampleData``, which remembers the registered data sets in ``records.sample_data``."""
    module = types.ModuleType("SampleData")

    class SampleDataLogic:
        """Registers sample data sets; downloads none."""

        @staticmethod
        def registerCustomSampleDataSource(category: str = "Custom", **description: Any) -> None:
            """Remember a data set under its name."""
            sizes = {len(v) for v in description.values() if isinstance(v, (list, tuple))}
            if len(sizes) > 1:
                raise ValueError(f"uris, fileNames, nodeNames and checksums differ in length: {description}")
            RECORDS.sample_data[description["sampleName"]] = {"category": category, **description}

    module.__dict__["SampleDataLogic"] = SampleDataLogic
    return module


def make_pytorch_utils() -> types.ModuleType:
    """Return the module ``PyTorchUtils`` of the PyTorch extension; installations are recorded."""
    module = types.ModuleType("PyTorchUtils")

    class PyTorchUtilsLogic:
        """Asks for and "installs" torch."""

        @staticmethod
        def torchInstalled() -> bool:
            """Whether torch is installed: what a test queued, else no."""
            return any(kind == "torch" for kind, _ in RECORDS.pip)

        def installTorch(self, askConfirmation: bool = False, **options: Any) -> Any:
            """Record the request. A queued answer False means that the user said no: None is returned."""
            if askConfirmation and RECORDS.next_answer(True) is False:
                return None
            RECORDS.pip.append(("torch", options))
            return types.ModuleType("torch")

    module.__dict__["PyTorchUtilsLogic"] = PyTorchUtilsLogic
    return module
