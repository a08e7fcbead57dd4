"""qt.QUiLoader: loads .ui files with the host's stand-ins for the ctk and qMRML designer plugins.

As in Slicer, a class without a designer plugin silently becomes the class that its <extends> names, and the connections
of the file are made with the C++ signatures written in it (a wrong one is only printed).
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

from PySide6 import QtCore, QtUiTools, QtWidgets

from . import signals
from .members import invokable
from .record import record_exception, record_warning

PLUGINS: dict[str, type] = {}


def designer_plugin(raw_class: type) -> type:
    """Register a host widget as one that Slicer has a designer plugin for."""
    PLUGINS[raw_class.__name__] = raw_class
    return raw_class


class QUiLoader(QtUiTools.QUiLoader):
    """QUiLoader of Slicer."""

    _meta_object_only = True

    def __init__(self, parent: QtCore.QObject | None = None) -> None:
        super().__init__(parent)
        self._extends: dict[str, str] = {}
        self._standard = set(self.availableWidgets())

    def createWidget(self, class_name: str, parent: Any = None, name: str = "") -> Any:
        """Make one widget of the form."""
        seen = set()
        while class_name not in PLUGINS and class_name not in self._standard and class_name not in seen:
            seen.add(class_name)
            class_name = self._extends.get(class_name, "QWidget")
        if class_name not in PLUGINS:
            return super().createWidget(class_name, parent, name)
        widget = PLUGINS[class_name](parent)
        widget.setObjectName(name)
        return widget

    @invokable
    def load(self, device: QtCore.QIODevice, parent: QtWidgets.QWidget | None = None) -> Any:
        """Load a form from an open file. Return its top widget, or None when the file is not a form."""
        try:
            root = ET.fromstring(bytes(device.readAll().data()))  # noqa: S314 (our own .ui file)
        except ET.ParseError as error:
            record_warning(f"QUiLoader: {error}")
            return None
        self._extends = {
            item.findtext("class", ""): item.findtext("extends", "QWidget") for item in root.iter("customwidget")
        }
        connections = root.find("connections")
        if connections is not None:
            root.remove(connections)
        buffer = QtCore.QBuffer()
        buffer.setData(QtCore.QByteArray(ET.tostring(root)))
        buffer.open(QtCore.QIODevice.OpenModeFlag.ReadOnly)
        widget = super().load(buffer, parent)
        if widget is not None and connections is not None:
            for connection in connections:
                _connect(widget, {part.tag: part.text or "" for part in connection})
        return widget


def _connect(top: QtWidgets.QWidget, connection: dict[str, str]) -> None:
    """Make one connection of the form, or print what Qt would print when it is not possible."""
    objects = {o.objectName(): o for o in [*top.findChildren(QtCore.QObject), top]}
    sender, receiver = objects.get(connection["sender"]), objects.get(connection["receiver"])
    if sender is None or receiver is None:
        record_warning(f"QUiLoader: no object for the connection {connection}")
        return
    actual = signals.resolve(sender, connection["signal"])
    slot_name, arguments = connection["slot"].rstrip(")").split("(")
    slot = getattr(receiver, slot_name, None)
    exists = getattr(slot, "_invokable", False) or receiver.metaObject().indexOfSlot(connection["slot"]) >= 0
    if actual is None or not exists:
        missing = connection["signal"] if actual is None else connection["slot"]
        record_warning(f"QObject::connect: no such signal or slot in the .ui file: {missing}")
        return
    count = len([a for a in arguments.split(",") if a])

    def deliver(*values: Any) -> None:
        try:
            slot(*values[:count])
        except Exception as error:  # noqa: BLE001 - as in every slot
            record_exception(error)

    QtCore.QObject.connect(sender, QtCore.SIGNAL(actual), deliver)
