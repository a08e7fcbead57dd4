"""slicer.app, the module manager and the main window."""

from __future__ import annotations

import os
from typing import Any

import slicer
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property

from .ctk_widgets import plain
from .extensions import qSlicerExtensionsManagerModel
from .file_io import qSlicerCoreIOManager
from .layouts import qSlicerLayoutManager
from .members import invokable
from .proxy import wrap
from .qmrml_widgets import _SCENE_SIGNAL

_LOGICS = {
    "Volumes": "vtkSlicerVolumesLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
}


class qSlicerCoreModule(QtCore.QObject):  # noqa: N801 (C++ name)
    """A C++ module of which only the logic exists here: slicer.modules.volumes.logic()."""

    _meta_object_only = True

    def __init__(self, name: str, logic: Any) -> None:
        super().__init__()
        self._name, self._logic = name, logic

    @invokable
    def logic(self) -> Any:
        """Return the real logic."""
        return self._logic

    @invokable
    def widgetRepresentation(self) -> None:
        """Return None: there is no panel."""

    name = Property(str, lambda s: s._name)
    title = Property(str, lambda s: s._name)


class qSlicerModuleFactoryManager(QtCore.QObject):  # noqa: N801
    """Knows the names of loaded modules."""

    _meta_object_only = True

    def __init__(self, manager: qSlicerModuleManager) -> None:
        super().__init__(manager)
        self._manager = manager

    @invokable
    def loadedModuleNames(self) -> list[str]:
        """Return the names of loaded modules."""
        return list(self._manager.modules)

    @invokable
    def isLoaded(self, name: str) -> bool:
        """Whether a module is loaded."""
        return name in self._manager.modules


class qSlicerModuleManager(QtCore.QObject):  # noqa: N801
    """Finds modules by name."""

    _meta_object_only = True
    moduleAboutToBeUnloaded = QtCore.Signal(str)
    moduleLoaded = QtCore.Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.modules: dict[str, Any] = {}
        self._factory = qSlicerModuleFactoryManager(self)

    @invokable
    def module(self, name: str) -> Any:
        """Return a module by name, or None."""
        return self.modules.get(name)

    @invokable
    def factoryManager(self) -> Any:
        """Return the factory manager."""
        return self._factory


class qSlicerApplication(QtCore.QObject):  # noqa: N801
    """slicer.app."""

    _meta_object_only = True
    _cpp_signals = _SCENE_SIGNAL
    startupCompleted = QtCore.Signal()
    aboutToQuit = QtCore.Signal()
    lastWindowClosed = QtCore.Signal()
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, version: tuple[int, int], application_logic: Any, folder: str) -> None:
        super().__init__()
        self._logic = application_logic
        self.testing = True
        self._folder = folder
        self._version = version
        self._modules = qSlicerModuleManager()
        self._io = qSlicerCoreIOManager()
        self._extensions = qSlicerExtensionsManagerModel()
        self._settings = QtCore.QSettings(os.path.join(self._folder, "Slicer.ini"), QtCore.QSettings.Format.IniFormat)
        self._layouts: qSlicerLayoutManager | None = None
        self._paused = 0

    def make_views(self) -> None:
        """Make the layout manager and load the C++ logics."""
        for name, class_name in _LOGICS.items():
            logic = getattr(slicer, class_name)()
            logic.SetMRMLApplicationLogic(self._logic)
            logic.SetMRMLScene(slicer.mrmlScene)
            self._logic.SetModuleLogic(name, logic)
            module = qSlicerCoreModule(name, logic)
            module.setParent(self)
            self._modules.modules[name] = module
            setattr(slicer.modules, name.lower(), wrap(module))
        self._layouts = qSlicerLayoutManager(self._logic)

    @invokable
    def testingEnabled(self) -> bool:
        """Whether the application runs tests (message boxes are then not shown)."""
        return self.testing

    @invokable
    def processEvents(self, *_: Any) -> None:
        """Let Qt work, deferred deletions included."""
        QtWidgets.QApplication.processEvents()
        QtWidgets.QApplication.sendPostedEvents(None, QtCore.QEvent.Type.DeferredDelete.value)

    @invokable
    def layoutManager(self) -> Any:
        """Return the layout manager."""
        return self._layouts

    @invokable
    def moduleManager(self) -> Any:
        """Return the module manager."""
        return self._modules

    @invokable
    def applicationLogic(self) -> Any:
        """Return the application logic."""
        return self._logic

    @invokable
    def moduleLogic(self, name: str) -> Any:
        """Return the logic of a C++ module."""
        return self._logic.GetModuleLogic(name)

    @invokable
    def mrmlScene(self) -> Any:
        """Return the scene."""
        return slicer.mrmlScene

    @invokable
    def coreIOManager(self) -> Any:
        """Return the file manager."""
        return self._io

    @invokable
    def ioManager(self) -> Any:
        """Return the file manager."""
        return self._io

    @invokable
    def userSettings(self) -> Any:
        """Return the settings (a file that is thrown away)."""
        return self._settings

    @invokable
    def settings(self) -> Any:
        """Return the settings."""
        return self._settings

    @invokable
    def revisionUserSettings(self) -> Any:
        """Return the settings."""
        return self._settings

    @invokable
    def extensionsManagerModel(self) -> Any:
        """Return the extensions manager."""
        return self._extensions

    @invokable
    def topLevelWidgets(self) -> Any:
        """Return all top-level widgets."""
        return QtWidgets.QApplication.topLevelWidgets()

    @invokable
    def startupEnvironment(self) -> Any:
        """Return the environment the application was started in."""
        return QtCore.QProcessEnvironment.systemEnvironment()

    @invokable
    def pauseRender(self) -> None:
        """Stop painting the views."""
        self.setRenderPaused(True)

    @invokable
    def resumeRender(self) -> None:
        """Paint the views again."""
        self.setRenderPaused(False)

    @invokable
    def setRenderPaused(self, paused: bool) -> None:
        """Pause or resume; calls nest."""
        self._paused = max(0, self._paused + (1 if paused else -1))
        if self._layouts is not None:
            self._layouts._viewport.setUpdatesEnabled(self._paused == 0)

    @invokable
    def pythonConsole(self) -> None:
        """Return None: there is no console."""

    @invokable
    def clipboard(self) -> Any:
        """Return the clipboard."""
        return QtGui.QGuiApplication.clipboard()

    @invokable
    def palette(self) -> Any:
        """Return the palette."""
        return QtWidgets.QApplication.palette()

    @invokable
    def style(self) -> Any:
        """Return the style."""
        return QtWidgets.QApplication.style()

    @invokable
    def setOverrideCursor(self, cursor: Any) -> None:
        """Show another mouse cursor."""
        shape = cursor if isinstance(cursor, (QtGui.QCursor, QtCore.Qt.CursorShape)) else QtCore.Qt.CursorShape(cursor)
        QtWidgets.QApplication.setOverrideCursor(shape)

    @invokable
    def restoreOverrideCursor(self) -> None:
        """Show the mouse cursor of before."""
        QtWidgets.QApplication.restoreOverrideCursor()

    @invokable
    def overrideCursor(self) -> Any:
        """Return the override cursor or None."""
        return QtWidgets.QApplication.overrideCursor()

    @invokable
    def activeWindow(self) -> Any:
        """Return the active window."""
        return QtWidgets.QApplication.activeWindow()

    @invokable
    def keyboardModifiers(self) -> Any:
        """Return the keys held."""
        return QtWidgets.QApplication.keyboardModifiers()

    @invokable
    def moduleDocumentationUrl(self, name: str) -> str:
        """Return where a module is documented."""
        return "https://slicer.readthedocs.io/en/latest/user_guide/modules/" + name.lower() + ".html"

    @invokable
    def translate(self, _context: str, text: str) -> str:
        """Return the English text."""
        return text

    applicationName = plain(str, "applicationName", "Slicer")
    temporaryPath = Property(str, lambda s: s._folder)
    slicerHome = Property(str, lambda s: s._folder)
    applicationVersion = Property(str, lambda s: "{}.{}.0".format(*s._version))
    majorVersion = Property(int, lambda s: s._version[0])
    minorVersion = Property(int, lambda s: s._version[1])
    revision = Property(str, lambda s: "0")
    os = Property(str, lambda s: "linux")
    platform = Property(str, lambda s: "linux-amd64")
    documentationBaseUrl = Property(str, lambda s: "https://slicer.readthedocs.io/en/latest/")


class qSlicerModuleSelectorToolBar(QtWidgets.QToolBar):  # noqa: N801
    """Chooses the module in the panel."""

    _meta_object_only = True
    moduleSelected = QtCore.Signal(str)

    def __init__(self, window: qSlicerMainWindow) -> None:
        super().__init__(window)
        self._window, self._selected = window, ""

    @invokable
    def selectModule(self, name: str) -> None:
        """Leave the current module and enter another one."""
        module = slicer.app.moduleManager().module(name)
        if not module:
            raise RuntimeError(f"Could not find module with name '{name}'")
        self._window.show_module(None if name == "" else module)
        self._selected = name
        self.moduleSelected.emit(name)

    selectedModule = Property(str, lambda s: s._selected)


class qSlicerMainWindow(QtWidgets.QMainWindow):  # noqa: N801
    """Module panel on the left, views on the right, status bar below."""

    _meta_object_only = True

    def __init__(self, views: QtWidgets.QWidget) -> None:
        super().__init__()
        self.setObjectName("qSlicerMainWindow")
        self.setWindowTitle("3D Slicer (test host)")
        self._toolbar = qSlicerModuleSelectorToolBar(self)
        self._title = QtWidgets.QLabel(self)
        self._title.setStyleSheet("font-weight: bold; padding: 4px; background: palette(mid);")
        self._panel = QtWidgets.QScrollArea(self)
        self._panel.setWidgetResizable(True)
        self._panel.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        left = QtWidgets.QWidget()
        column = QtWidgets.QVBoxLayout(left)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._title)
        column.addWidget(self._panel, 1)
        splitter = QtWidgets.QSplitter(self)
        splitter.addWidget(left)
        splitter.addWidget(views)
        splitter.setStretchFactor(0, 0)
        splitter.setStretchFactor(1, 1)
        splitter.setSizes([480, 920])
        self.setCentralWidget(splitter)
        self.resize(1400, 900)
        self.statusBar().showMessage("")
        self._current: Any = None

    def show_module(self, module: Any) -> None:
        """Exit the module in the panel, show and enter another one (None: none)."""
        if self._current is not None:
            self._current.exit()
            taken = self._panel.takeWidget()
            if taken is not None:
                taken.setParent(None)
            self._current = None
        if module is None:
            self._title.setText("")
            return
        panel = module.widgetRepresentation()
        self._title.setText(module.title or module.name)
        if panel:
            self._current = panel._open() if hasattr(panel, "_open") else panel
            self._panel.setWidget(self._current)
            self._current.show()
            self._current.enter()

    @invokable
    def moduleSelector(self) -> Any:
        """Return the module selector."""
        return self._toolbar
