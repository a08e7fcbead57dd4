"""Starts the host once per process and is what tests and the runner talk to."""

from __future__ import annotations

import ast
import atexit
import ctypes
import logging
import os
import shutil
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

import slicer
import vtk
from PySide6 import QtCore, QtWidgets

from .proxy import wrap, wrapper_class
from .record import RECORDS, Records, record_unhandled, record_warning

_host: Host | None = None


def _make_constants_immortal() -> None:
    """Keep None, True and False alive in Python before 3.12.

    PySide6 6.12 returns them without taking a reference, which is right from Python 3.12 on, where they are immortal;
    in older versions their counts sink with every call until the interpreter aborts.
    """
    if sys.version_info < (3, 12):
        for constant in (None, True, False, NotImplemented):
            ctypes.c_ssize_t.from_address(id(constant)).value += 1 << 40


class Host:
    """A running stand-in for Slicer. Get it with :func:`start`."""

    def __init__(self, version: tuple[int, int] = (5, 12)) -> None:
        _make_constants_immortal()
        self.records: Records = RECORDS
        self.version = version
        self._qt_application = QtWidgets.QApplication.instance() or QtWidgets.QApplication(["Slicer"])
        self._qt_application.setStyle("Fusion")
        QtCore.QCoreApplication.setApplicationName("Slicer")
        self._install_qt()
        self._make_scene()
        self._install_slicer()
        from .application import qSlicerApplication, qSlicerMainWindow

        self._application = qSlicerApplication(version, self._logic, self._folder)
        slicer.app = wrap(self._application)
        QtCore.QSettings.setDefaultFormat(QtCore.QSettings.Format.IniFormat)
        QtCore.QSettings.setPath(
            QtCore.QSettings.Format.IniFormat,
            QtCore.QSettings.Scope.UserScope,
            self._application.property("temporaryPath"),
        )
        self.set_version(version)
        self._application.make_views()
        self._window = qSlicerMainWindow(self._application._layouts._viewport)
        self._keep = [wrap(self._window)]

    # --- start ------------------------------------------------------------------------------------------------
    def _install_qt(self) -> None:
        from . import ctk_controls, qmrml_lists  # they register their widgets
        from .qtmodule import make_qt
        from .uiloader import PLUGINS

        sys.modules["qt"] = make_qt()
        sys.modules["imp"] = None  # type: ignore[assignment]  # gone in the Python that Slicer has
        ctk = types.ModuleType("ctk", "ctk as PythonQt shows it (test host)")
        ctk.__dict__["ctkMessageBox"] = wrapper_class(ctk_controls.ctkMessageBox)
        for name, raw_class in PLUGINS.items():
            setattr(ctk if name.startswith("ctk") else slicer, name, wrapper_class(raw_class))
        sys.modules["ctk"] = ctk
        assert qmrml_lists.qMRMLCheckableNodeComboBox.__name__ in PLUGINS

    def _make_scene(self) -> None:
        slicer.mrmlScene = scene = slicer.vtkMRMLScene()
        crosshair = slicer.vtkMRMLCrosshairNode()
        crosshair.SetCrosshairName("default")
        scene.AddNode(crosshair)
        self._folder = tempfile.mkdtemp(prefix="slicer-host-")
        atexit.register(shutil.rmtree, self._folder, ignore_errors=True)
        cache, files = slicer.vtkCacheManager(), slicer.vtkDataIOManager()
        cache.SetRemoteCacheDirectory(self._folder)
        files.SetCacheManager(cache)
        scene.SetCacheManager(cache)
        scene.SetDataIOManager(files)
        self._logic = slicer.vtkSlicerApplicationLogic()
        self._logic.SetMRMLScene(scene)
        self._logic.GetColorLogic().SetMRMLScene(scene)
        self._logic.GetColorLogic().AddDefaultColorNodes()
        self._logic.SetSliceLogics(vtk.vtkCollection())
        self._logic.SetViewLogics(vtk.vtkCollection())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene, True)

    def _install_slicer(self) -> None:
        from . import application, extensions, layouts, packages, parameter_nodes, scripted, views

        slicer.modules = types.SimpleNamespace()
        slicer.selfTests = {}
        for source, names in (
            (scripted, ("qSlicerScriptedLoadableModule", "qSlicerScriptedLoadableModuleWidget")),
            (views, ("qMRMLSliceWidget", "qMRMLSliceView", "qMRMLSliceControllerWidget")),
            (layouts, ("qSlicerLayoutManager",)),
            (application, ("qSlicerApplication", "qSlicerMainWindow", "qSlicerModuleManager", "qSlicerCoreModule")),
        ):
            for name in names:
                setattr(slicer, name, wrapper_class(getattr(source, name)))
        for name, module in (
            ("ScriptedLoadableModule", scripted.make_module()),
            ("parameterNodeWrapper", parameter_nodes.make_module()),
            ("i18n", packages.make_i18n()),
        ):
            sys.modules["slicer." + name] = module
            setattr(slicer, name, module)
        sys.modules["SampleData"] = extensions.make_sample_data()
        sys.excepthook = record_unhandled
        import slicer_core

        for name in ("vtkITK", "vtkSegmentationCore", "vtkTeem"):
            sys.modules.setdefault(name, getattr(slicer_core, name))
        self._original_message_display = slicer.util._messageDisplay
        slicer.util._messageDisplay = self._message_display

    def set_version(self, version: tuple[int, int]) -> None:
        """Behave as this Slicer version: before 5.12 there is no slicer.packaging."""
        from . import packages

        self.version = self._application._version = version
        sys.modules.pop("slicer.packaging", None)
        slicer.__dict__.pop("packaging", None)
        if version >= (5, 12):
            sys.modules["slicer.packaging"] = slicer.packaging = packages.make_packaging()
        else:
            sys.modules["slicer.packaging"] = None  # type: ignore[assignment]  # makes the import fail
        slicer.util.pip_install = packages.pip_install
        slicer.util.pip_uninstall = packages.pip_uninstall

    def _message_display(self, level: int, text: str, testing_value: Any, *arguments: Any, **keywords: Any) -> Any:
        """slicer.util.errorDisplay and its relatives: recorded; a queued answer True or False decides confirmations."""
        from .record import DialogRecord

        title = keywords.get("windowTitle") or ""
        kind = "slicer.util." + (
            "confirm" if testing_value is not None else logging.getLevelName(level).lower() + "Display"
        )
        record = DialogRecord(kind, text, title, level=logging.getLevelName(level))
        RECORDS.dialogs.append(record)
        if self.testing or RECORDS.answers:
            logging.getLogger("slicer").log(level, text)
            record.answer = RECORDS.next_answer(testing_value) if testing_value is not None else None
            buttons = keywords.get("standardButtons")
            if testing_value is None or buttons is None:
                return record.answer
            return _button(int(buttons), bool(record.answer)) if record.answer in (True, False) else record.answer
        return self._original_message_display(level, text, testing_value, *arguments, **keywords)

    # --- for tests --------------------------------------------------------------------------------------------
    @property
    def testing(self) -> bool:
        """What slicer.app.testingEnabled() returns (True at first)."""
        return self._application.testing

    @testing.setter
    def testing(self, value: bool) -> None:
        self._application.testing = value

    @property
    def main_window(self) -> Any:
        """The main window, as modules see it."""
        return wrap(self._window)

    @property
    def exceptions(self) -> list[BaseException]:
        """Exceptions raised in slots, virtual methods and timers since the last reset."""
        return self.records.exceptions

    def load(self, path: str | Path) -> Any:
        """Load a module file. Return the module (slicer.modules.<name>)."""
        from .scripted import load_module_file

        path = Path(path).resolve()
        for problem in check_folder(path.parent):
            record_warning(problem)
        module = load_module_file(path)
        self._application._modules.modules[path.stem] = module
        self._application._modules.moduleLoaded.emit(path.stem)
        return module

    def install_pytorch_extension(self, present: bool = True) -> None:
        """Make ``import PyTorchUtils`` work as with the PyTorch extension, or fail as without (at first it fails)."""
        from .extensions import make_pytorch_utils

        sys.modules.pop("PyTorchUtils", None)
        self._application._extensions.installed.discard("PyTorch")
        if present:
            self._application._extensions.installed.add("PyTorch")
            sys.modules["PyTorchUtils"] = make_pytorch_utils()

    def start_up(self) -> None:
        """Emit startupCompleted, after all modules are loaded."""
        self._application.startupCompleted.emit()
        self.process_events()

    def widget(self, name: str, show: bool = True) -> Any:
        """Return the Python widget of a loaded module (``<Module>Widget``); opens its panel in the main window."""
        if show:
            self._window.show()
            slicer.util.selectModule(name)
            self.process_events()
        return slicer.util.getModuleWidget(name)

    def unload(self, name: str) -> None:
        """Close the panel, call cleanup and forget the module."""
        manager = self._application._modules
        module = manager.modules.pop(name, None)
        if module is None:
            return
        if self._window._current is not None and self._window._toolbar.property("selectedModule") == name:
            self._window.show_module(None)
        manager.moduleAboutToBeUnloaded.emit(name)
        raw = module._open()
        if raw._representation is not None:
            raw._representation.deleteLater()
            raw._representation = None
        for attribute in (name.lower(), name + "Widget", name + "Instance"):
            slicer.modules.__dict__.pop(attribute, None)
        slicer.selfTests.pop(name, None)
        sys.modules.pop(name, None)
        self.process_events()

    def process_events(self, seconds: float = 0.0) -> None:
        """Let Qt work; with ``seconds``, for at least that long."""
        end = time.monotonic() + seconds
        slicer.app.processEvents()
        while time.monotonic() < end:
            time.sleep(0.002)
            slicer.app.processEvents()

    def wait_until(self, condition: Callable[[], Any], seconds: float = 10.0) -> Any:
        """Process events until ``condition()`` is true; return its value.

        Raises:
            TimeoutError: it did not become true in time.
        """
        end = time.monotonic() + seconds
        while True:
            slicer.app.processEvents()
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                raise TimeoutError(f"not within {seconds} s; exceptions in slots: {self.exceptions}")
            time.sleep(0.002)

    def screenshot(self, path: str | Path, widget: Any = None, size: tuple[int, int] | None = None) -> Path:
        """Save a picture of a widget, by default of the whole main window. ``size``: of a window, in pixels."""
        raw = self._window if widget is None else widget._open()
        if size is not None:
            if not raw.isWindow():
                raise ValueError("only the size of a window can be chosen")
            raw.resize(*size)
        raw.show()
        for _ in range(3):  # layouts settle in steps
            self.process_events()
        slicer.util.forceRenderAllViews()
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not raw.grab().save(str(path)):
            raise OSError(f"could not write {path}")
        return path

    def reset(self) -> None:
        """Unload all scripted modules, close the scene, forget all records: for the next test."""
        from .scripted import qSlicerScriptedLoadableModule

        for name, module in list(self._application._modules.modules.items()):
            if isinstance(getattr(module, "_raw", None), qSlicerScriptedLoadableModule):
                self.unload(name)
        self._window.hide()
        slicer.mrmlScene.Clear(0)
        slicer.app.layoutManager().setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self.process_events()
        self.install_pytorch_extension(False)
        self.records.clear()
        self.testing = True


def _button(buttons: int, agreed: bool) -> int:
    """Return the agreeing or refusing button of a set of standard buttons."""
    kinds = QtWidgets.QMessageBox.StandardButton
    agreeing, refusing = (kinds.Ok, kinds.Yes, kinds.Retry), (kinds.Cancel, kinds.No, kinds.Close)
    return next((k.value for k in (agreeing if agreed else refusing) if buttons & k.value), 0)


def check_folder(folder: Path) -> list[str]:
    """Return a complaint for every top-level .py file of a module folder that Slicer would fail to load as a module."""
    problems = []
    for path in sorted(Path(folder).glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        classes = {node.name for node in tree.body if isinstance(node, ast.ClassDef)}
        if path.stem not in classes:
            problems.append(
                f"{path.name}: class {path.stem} was not found in the file; helpers belong in a sub-package"
            )
    return problems


def start(version: tuple[int, int] = (5, 12)) -> Host:
    """Return the host of this process; start it at the first call."""
    global _host
    if _host is None:
        _host = Host(version)
    elif _host.version != version:
        _host.set_version(version)
    return _host
