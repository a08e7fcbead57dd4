"""What the files of both modules have in common: a form that is handed to a panel and follows the application."""

from __future__ import annotations

import sys
from typing import Any

import qt
import slicer
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest, ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin


class FormHeight(qt.QObject):
    """Gives the parent of a form the height that the form needs in its width.

    Slicer's module panel leaks a layout item when a module is left: from the second visit on it would give forms with
    word-wrapped labels the height they had before, and lines would be cut.
    """

    def __init__(self, form: Any) -> None:
        qt.QObject.__init__(self)
        self._form = form
        form.installEventFilter(self)

    def eventFilter(self, _watched, event):
        if event.type() in (qt.QEvent.LayoutRequest, qt.QEvent.Resize):
            height, parent = self._form.heightForWidth(self._form.width), self._form.parent()
            if parent is not None and height > 0 and parent.minimumHeight != height:
                parent.minimumHeight = height
        return False

    def close(self) -> None:
        """Ends listening."""
        self._form.removeEventFilter(self)


class ShellWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Loads the form Resources/UI/<Module>.ui; a subclass makes the panel and finds the parameter node.

    RELOADED: the packages that *Reload* takes anew, besides the module's file.
    """

    RELOADED: tuple[str, ...] = ()

    def __init__(self, parent: Any = None) -> None:
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: Any = None
        self.panel: Any = None
        self.formHeight: Any = None
        self.isOpen = False

    def makeLogic(self) -> Any:
        """The module's logic, which gives `parameters()`."""
        raise NotImplementedError

    def makePanel(self) -> Any:
        """The panel over `self.ui`, with a worker of its own."""
        raise NotImplementedError

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(uiWidget)
        self.formHeight = FormHeight(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = self.makeLogic()
        self.panel = self.makePanel()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneReady)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneReady)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodesChanged)
        self.panel.set_parameters(self.logic.parameters())

    def cleanup(self) -> None:
        self.removeObservers()
        if self.formHeight is not None:
            self.formHeight.close()
            self.formHeight = None
        if self.panel is not None:
            self.panel.close()
            self.panel = None

    def enter(self) -> None:
        self.isOpen = True
        if self.panel is not None and self.panel.parameters is None:
            self.panel.set_parameters(self.logic.parameters())

    def exit(self) -> None:
        self.isOpen = False
        if self.panel is not None:
            self.panel.release_parameters()

    def onReload(self) -> None:
        """Reloads the module's library and its scene logic too, not only its file."""
        for name in [name for name in sys.modules if f"{name}.".startswith(self.RELOADED)]:
            del sys.modules[name]
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, _caller: Any, _event: Any) -> None:
        self.panel.scene_closing()

    def onSceneReady(self, _caller: Any, _event: Any) -> None:
        if self.isOpen or self.parent.visible:  # after a reload nobody calls enter()
            self.panel.set_parameters(self.logic.parameters())

    def onNodesChanged(self, _caller: Any, _event: Any) -> None:
        if self.panel is not None:
            self.panel.nodes_changed()


class ShellTest(ScriptedLoadableModuleTest):
    """A self-test that starts every one of its tests with an empty scene. Runs no worker and no network."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear(0)

    def runTest(self) -> None:
        for name in [name for name in dir(self) if name.startswith("test_")]:
            self.setUp()
            getattr(self, name)()
        self.setUp()

    def makeVolume(self, name: str, spacing: tuple[float, float, float] = (2.0, 1.5, 3.0)) -> tuple[Any, Any, Any]:
        """A small volume that is flipped and anisotropic: its node, voxels (I, J, K) and IJK to RAS, mm."""
        import numpy as np

        from hyperreg.imaging.volume import Volume
        from hyperreg.mrml import geometry

        affine = np.diag([-spacing[0], spacing[1], spacing[2], 1.0])
        affine[:3, 3] = (12.0, -7.0, 5.0)
        array = np.arange(6 * 7 * 8, dtype=np.float32).reshape(6, 7, 8)
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
        geometry.volume_to_node(Volume(array, affine, name), node)
        return node, array, affine
