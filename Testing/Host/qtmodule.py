"""The ``qt`` module: PySide6's core, gui and widgets classes behind PythonQt's rules."""

from __future__ import annotations

import types
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui, QtNetwork, QtPrintSupport, QtSvg, QtWidgets, QtXml

from .proxy import EnumType, wrapper_class
from .signals import Signal
from .uiloader import QUiLoader

_MODULES = (QtCore, QtGui, QtWidgets, QtNetwork, QtPrintSupport, QtSvg, QtXml)
# In PySide6, not in PythonQt.
_MISSING = {
    "QVariant",
    "QtConcurrent",
    "QFutureWatcher",
    "QFuture",
    "QThreadPool",
    "Property",
    "Slot",
    "QEnum",
    "QFlag",
}


class QtModule(types.ModuleType):
    """Looks names up in PySide6 and wraps what it finds."""

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("_") and name not in _MISSING:
            for module in _MODULES:
                found = getattr(module, name, None)
                if found is not None:
                    value = self._convert(found)
                    setattr(self, name, value)
                    return value
        raise AttributeError(f"module 'qt' has no attribute '{name}'")

    @staticmethod
    def _convert(found: Any) -> Any:
        if isinstance(found, type) and issubclass(found, shiboken6.Object):
            return wrapper_class(found)
        if isinstance(found, type(QtCore.Qt.AlignmentFlag)):
            return EnumType(found)
        return found


def make_qt() -> types.ModuleType:
    """Return a new ``qt`` module."""
    module = QtModule("qt", "Qt as PythonQt shows it (test host)")
    module.__dict__.update(
        Signal=Signal,
        SIGNAL=lambda signature: "2" + signature,
        SLOT=lambda signature: "1" + signature,
        QUiLoader=wrapper_class(QUiLoader),
    )
    return module
