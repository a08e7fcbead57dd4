"""slicer.ScriptedLoadableModule: the base classes of scripted modules, and what Slicer makes around them."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import types
import unittest
from pathlib import Path
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property

from .ctk_widgets import plain
from .members import invokable
from .proxy import wrap
from .qmrml_widgets import _SCENE_SIGNAL
from .record import record_exception

_LOG = logging.getLogger(__name__)


class ModuleError(RuntimeError):
    """A module file that Slicer would refuse to load."""


class qSlicerScriptedLoadableModule(QtCore.QObject):  # noqa: N801 (C++ name)
    """What a module class gets as ``parent``: title, categories, help text and so on."""

    _meta_object_only = True
    title = plain(str, "title", "")
    categories = plain("QStringList", "categories", [])
    dependencies = plain("QStringList", "dependencies", [])
    contributors = plain("QStringList", "contributors", [])
    associatedNodeTypes = plain("QStringList", "associatedNodeTypes", [])
    helpText = plain(str, "helpText", "")
    acknowledgementText = plain(str, "acknowledgementText", "")
    hidden = plain(bool, "hidden", False)
    index = plain(int, "index", -1)
    widgetRepresentationCreationEnabled = plain(bool, "widgetRepresentationCreationEnabled", True)

    def __init__(self, name: str, path: str) -> None:
        super().__init__()
        self._name, self._path = name, path
        self._icon = QtGui.QIcon()
        self._instance: Any = None
        self._representation: Any = None
        self._logic: Any = None

    def _set_icon(self, icon: QtGui.QIcon) -> None:
        self._icon = icon

    name = Property(str, lambda s: s._name)
    path = Property(str, lambda s: s._path)
    icon = Property(QtGui.QIcon, lambda s: s._icon, _set_icon)

    def _class(self, suffix: str = "") -> type:
        return getattr(sys.modules[self._name], self._name + suffix)  # type: ignore[no-any-return]

    @invokable
    def widgetRepresentation(self) -> Any:
        """Return the module's panel; it is made, and its setup() called, the first time."""
        if self._representation is None:
            self._representation = self._make_representation()
        return self._representation

    @invokable
    def createNewWidgetRepresentation(self) -> Any:
        """Make another panel."""
        return self._make_representation()

    def _make_representation(self) -> Any:
        representation = qSlicerScriptedLoadableModuleWidget(self)
        representation.create()
        return representation

    @invokable
    def logic(self) -> Any:
        """Return the C++ logic object, which for a scripted module holds nothing."""
        if self._logic is None:
            self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        return self._logic

    @invokable
    def self(self) -> Any:
        """Return the Python instance of the module class."""
        return self._instance


class qSlicerScriptedLoadableModuleWidget(QtWidgets.QWidget):  # noqa: N801
    """The panel of a scripted module: gets the layout, calls setup, enter, exit and cleanup of the Python widget."""

    _meta_object_only = True
    _cpp_signals = _SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, module: qSlicerScriptedLoadableModule) -> None:
        super().__init__()
        self._module = module
        self._python: Any = None
        self._scene = slicer.mrmlScene
        self.setObjectName(module.property("name") + "ModuleWidget")
        layout = QtWidgets.QVBoxLayout(self)
        layout.setContentsMargins(6, 6, 6, 6)

    def create(self) -> None:
        """Make the Python widget and let it set itself up. An exception is raised: there is no panel then."""
        name = self._module.property("name")
        self._python = self._module._class("Widget")(wrap(self))
        setattr(slicer.modules, name + "Widget", self._python)
        self._python.setup()
        layout = self.layout()
        if layout is not None and layout.count() and layout.itemAt(layout.count() - 1).spacerItem() is None:
            layout.addStretch(1)

    def _call(self, name: str) -> None:
        method = getattr(self._python, name, None)
        if method is None:
            return
        try:
            method()
        except Exception as error:  # noqa: BLE001 - the application only prints
            record_exception(error)

    @invokable
    def enter(self) -> None:
        """The user opens the module."""
        self._call("enter")

    @invokable
    def exit(self) -> None:
        """The user leaves the module."""
        self._call("exit")

    @invokable
    def setup(self) -> None:
        """Set the Python widget up again."""
        self._call("setup")

    @invokable
    def reload(self) -> None:
        """Make the Python widget anew from the reloaded module (slicer.util.reloadScriptedModule)."""
        for child in self.findChildren(QtWidgets.QWidget, options=QtCore.Qt.FindChildOption.FindDirectChildrenOnly):
            child.setParent(None)
            child.deleteLater()
        self.create()

    @invokable
    def self(self) -> Any:
        """Return the Python widget."""
        return self._python

    @invokable
    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    @invokable
    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene."""
        self._scene = scene
        self.mrmlSceneChanged.emit(scene)

    moduleName = Property(str, lambda s: s._module.property("name"))


def load_module_file(path: Path) -> Any:
    """Load one module file as Slicer does at start-up. Return the wrapped qSlicerScriptedLoadableModule.

    Raises:
        ModuleError: no class named like the file.
    """
    path = Path(path).resolve()
    name = path.stem
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ModuleError(f"{path} can not be loaded as Python module")
    source = importlib.util.module_from_spec(spec)
    sys.modules[name] = source
    try:
        spec.loader.exec_module(source)
    except BaseException:
        del sys.modules[name]
        raise
    if not isinstance(getattr(source, name, None), type):
        raise ModuleError(f"{path.name}: class {name} was not found in the file; helpers belong in a sub-package")
    module = qSlicerScriptedLoadableModule(name, str(path))
    wrapper = wrap(module)
    module._instance = source.__dict__[name](wrapper)
    module.setParent(QtWidgets.QApplication.instance())
    setattr(slicer.modules, name.lower(), wrapper)
    setattr(slicer.modules, name + "Instance", module._instance)
    return wrapper


# --- the classes modules derive from ------------------------------------------------------------------------------


class ScriptedLoadableModule:
    """Base of the module class: describes the module."""

    def __init__(self, parent: Any) -> None:
        super().__init__()
        self.parent = parent
        self.moduleName = type(self).__name__
        parent.categories = []
        parent.dependencies = []
        parent.contributors = ["(no contributors given)"]
        parent.helpText = parent.acknowledgementText = ""
        folder = Path(parent.path).parent / "Resources" / "Icons"
        for suffix in (".svg", ".png"):
            if (folder / (self.moduleName + suffix)).is_file():
                import qt

                parent.icon = qt.QIcon(str(folder / (self.moduleName + suffix)))
                break
        if not hasattr(slicer, "selfTests"):
            slicer.selfTests = {}
        slicer.selfTests[self.moduleName] = self.runTest

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in the module's Resources folder."""
        return os.path.join(os.path.dirname(self.parent.path), "Resources", filename)

    def getDefaultModuleDocumentationLink(self, docPage: str | None = None) -> str:
        """Return the help text's link to the documentation."""
        return f'<p>For more information, see the <a href="{docPage or self.moduleName}">online documentation</a>.</p>'

    def runTest(self, msec: int = 100, **keywords: Any) -> None:
        """Run the <Module>Test class of the module file."""
        test_class = getattr(importlib.import_module(type(self).__module__), self.moduleName + "Test", None)
        if test_class is None:
            raise AssertionError(f"Test case class not found: {type(self).__module__}.{self.moduleName}Test")
        case = test_class()
        case.messageDelay = msec
        case.runTest(**keywords)


class ScriptedLoadableModuleWidget:
    """Base of the widget class: fills the module's panel."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        import qt

        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = False
        if not parent:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(qt.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        else:
            self.parent = parent
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename: str) -> str:
        """Return the path of a file in the module's Resources folder."""
        return os.path.join(os.path.dirname(slicer.util.modulePath(self.moduleName)), "Resources", filename)

    def setup(self) -> None:
        """Make the contents of the panel."""

    def cleanup(self) -> None:
        """Called before the module is unloaded or reloaded."""

    def _onModuleAboutToBeUnloaded(self, moduleName: str) -> None:
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self) -> None:
        """Reload the module from its file."""
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    """Base of the logic class: finds or makes the module's parameter node."""

    def __init__(self, parent: Any = None) -> None:
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getAllParameterNodes(self) -> list[Any]:
        """Return all parameter nodes of this module."""
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def getParameterNode(self) -> Any:
        """Return the parameter node of this module; make one if there is none."""
        if self.isSingletonParameterNode:
            node = slicer.mrmlScene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node is not None:
                if node.GetAttribute("ModuleName") != self.moduleName:
                    node.SetAttribute("ModuleName", self.moduleName)
                return node
        else:
            nodes = self.getAllParameterNodes()
            if nodes:
                return nodes[0]
        return slicer.mrmlScene.AddNode(self.createParameterNode())

    def createParameterNode(self) -> Any:
        """Make a parameter node that is not yet in the scene."""
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    """Base of the test class of a module file."""

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.messageDelay = 100
        self.enableScreenshots = False
        self.moduleTestNames = [n for n in dir(self) if "test" in n and callable(getattr(self, n))]

    def delayDisplay(self, message: str, requestedDelay: int | None = None, msec: int | None = None) -> None:
        """Log a message and let the application catch up."""
        _LOG.info(message)
        slicer.app.processEvents()

    def runTest(self) -> None:
        """Run every method with "test" in its name."""
        if not self.moduleTestNames:
            _LOG.warning("No test is defined in %s", type(self).__name__)
            return
        self.setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            _LOG.info("Running %s", name)
            getattr(self, name)()
            self.tearDown()
        self.tearDownClass()


def make_module() -> types.ModuleType:
    """Return the module ``slicer.ScriptedLoadableModule``."""
    module = types.ModuleType("slicer.ScriptedLoadableModule")
    names = ["ScriptedLoadableModule", "ScriptedLoadableModuleWidget", "ScriptedLoadableModuleLogic"]
    names.append("ScriptedLoadableModuleTest")
    for name in names:
        setattr(module, name, globals()[name])
    module.__dict__["__all__"] = names
    return module
