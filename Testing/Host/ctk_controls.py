"""Stand-ins for the other ctk widgets: collapsible sections, paths, buttons, message box."""

from __future__ import annotations

import enum
import os
from typing import Any

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property

from . import dialogs
from .ctk_widgets import plain
from .members import invokable
from .uiloader import designer_plugin


class _Collapsible:
    """Hides the children of a widget when it is unchecked and shows those again that it hid."""

    def _toggle(self: Any, expanded: bool) -> None:
        if not expanded:
            self._hidden = [c for c in self.findChildren(QtWidgets.QWidget, options=_DIRECT) if not c.isHidden()]
        for child in self._hidden:
            child.setVisible(expanded)
        self.setMaximumHeight(16777215 if expanded else self._header_height())
        self.updateGeometry()


_DIRECT = QtCore.Qt.FindChildOption.FindDirectChildrenOnly


@designer_plugin
class ctkCollapsibleButton(QtWidgets.QAbstractButton, _Collapsible):  # noqa: N801 (C++ name)
    """A header button above contents that it shows and hides."""

    _meta_object_only = True
    contentsCollapsed = QtCore.Signal(bool)

    def __init__(self, *arguments: Any) -> None:
        text = arguments[0] if arguments and isinstance(arguments[0], str) else ""
        parents = [a for a in arguments if isinstance(a, QtWidgets.QWidget)]
        super().__init__(*parents)
        self._hidden: list[QtWidgets.QWidget] = []
        self.setText(text)
        self.setCheckable(True)
        self.setChecked(True)
        self.setSizePolicy(QtWidgets.QSizePolicy.Policy.Minimum, QtWidgets.QSizePolicy.Policy.Preferred)
        self.setContentsMargins(0, self._header_height(), 0, 0)
        self.toggled.connect(self._on_toggled)

    def _on_toggled(self, checked: bool) -> None:
        self._toggle(checked)
        self.contentsCollapsed.emit(not checked)

    def _header_height(self) -> int:
        return int(self.fontMetrics().height()) + 8

    def hitButton(self, position: QtCore.QPoint) -> bool:
        return bool(position.y() < self._header_height())

    def sizeHint(self) -> QtCore.QSize:
        width, height = self.fontMetrics().horizontalAdvance(self.text()) + 40, self._header_height()
        if self.isChecked() and self.layout() is not None:
            hint = self.layout().totalSizeHint()
            width, height = max(width, hint.width()), max(height, hint.height())
        return QtCore.QSize(width, height)

    minimumSizeHint = sizeHint

    def paintEvent(self, _event: Any) -> None:
        painter = QtWidgets.QStylePainter(self)
        option = QtWidgets.QStyleOptionButton()
        option.initFrom(self)
        option.rect = QtCore.QRect(0, 0, self.width(), self._header_height())
        painter.drawControl(QtWidgets.QStyle.ControlElement.CE_PushButtonBevel, option)
        arrow = QtWidgets.QStyleOption()
        arrow.initFrom(self)
        arrow.rect = QtCore.QRect(6, option.rect.height() // 2 - 5, 10, 10)
        kinds = QtWidgets.QStyle.PrimitiveElement
        painter.drawPrimitive(kinds.PE_IndicatorArrowDown if self.isChecked() else kinds.PE_IndicatorArrowRight, arrow)
        alignment = QtCore.Qt.AlignmentFlag.AlignVCenter | QtCore.Qt.AlignmentFlag.AlignLeft
        painter.drawText(option.rect.adjusted(22, 0, 0, 0), int(alignment.value), self.text())

    collapsed = Property(bool, lambda s: not s.isChecked(), lambda s, v: s.setChecked(not v))
    collapsedHeight = plain(int, "collapsedHeight", 10)
    flat = plain(bool, "flat", False)


@designer_plugin
class ctkCollapsibleGroupBox(QtWidgets.QGroupBox, _Collapsible):  # noqa: N801
    """A group box that hides its contents when unchecked."""

    _meta_object_only = True

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._hidden: list[QtWidgets.QWidget] = []
        self.setCheckable(True)
        self.toggled.connect(self._toggle)

    def _header_height(self) -> int:
        return int(self.fontMetrics().height()) + 8

    collapsed = Property(bool, lambda s: not s.isChecked(), lambda s, v: s.setChecked(not v))
    collapsedHeight = plain(int, "collapsedHeight", 14)


class PathFilter(enum.IntFlag):
    """Filters of ctkPathLineEdit (those of QDir)."""

    Dirs = 0x001
    Files = 0x002
    Drives = 0x004
    Readable = 0x010
    Writable = 0x020
    Executable = 0x040
    Hidden = 0x100


@designer_plugin
class ctkPathLineEdit(QtWidgets.QWidget):  # noqa: N801
    """Path entry with a browse button."""

    _meta_object_only = True
    currentPathChanged = QtCore.Signal(str)
    validInputChanged = QtCore.Signal(bool)
    Filter = PathFilter
    Dirs, Files, Drives = PathFilter.Dirs, PathFilter.Files, PathFilter.Drives
    Readable, Writable, Executable = PathFilter.Readable, PathFilter.Writable, PathFilter.Executable

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._path = ""
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setEditable(True)
        self._button = QtWidgets.QToolButton(self)
        self._button.setText("...")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo, 1)
        row.addWidget(self._button)
        self._combo.editTextChanged.connect(self._edited)
        self._button.clicked.connect(lambda _checked: self.browse())

    def _edited(self, text: str) -> None:
        if text != self._path:
            was_valid = os.path.exists(self._path)
            self._path = text
            self.currentPathChanged.emit(text)
            if os.path.exists(text) != was_valid:
                self.validInputChanged.emit(not was_valid)

    @invokable
    def setCurrentPath(self, path: str) -> None:
        """Set the path."""
        self._combo.setEditText(str(path))

    @invokable
    def browse(self) -> None:
        """Ask for a path; the test answers."""
        only_dirs = not self.property("filters") & PathFilter.Files
        kind = "getExistingDirectory" if only_dirs else "getOpenFileName"
        path = dialogs.static_dialog("QFileDialog", kind, (self.property("label"), "Select a path"))
        if path:
            self.setCurrentPath(path)

    @invokable
    def addCurrentPathToHistory(self) -> None:
        """Remember the path in the drop-down list."""
        if self._path and self._combo.findText(self._path) < 0:
            self._combo.blockSignals(True)
            self._combo.addItem(self._path)
            self._combo.blockSignals(False)

    @invokable
    def retrieveHistory(self) -> None:
        """Restore the history: the host keeps none between runs."""

    @invokable
    def comboBox(self) -> QtWidgets.QComboBox:
        """Return the editable combo box."""
        return self._combo

    currentPath = Property(str, lambda s: s._path, setCurrentPath)
    filters = plain(int, "filters", int(PathFilter.Files | PathFilter.Dirs))
    label = plain(str, "label", "")
    settingKey = plain(str, "settingKey", "")
    nameFilters = plain("QStringList", "nameFilters", [])
    showBrowseButton = Property(bool, lambda s: not s._button.isHidden(), lambda s, v: s._button.setVisible(v))
    showHistoryButton = plain(bool, "showHistoryButton", True)


@designer_plugin
class ctkDirectoryButton(QtWidgets.QWidget):  # noqa: N801
    """Button that shows and chooses a folder."""

    _meta_object_only = True
    directoryChanged = QtCore.Signal(str)
    directorySelected = QtCore.Signal(str)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._directory = os.getcwd()
        self._button = QtWidgets.QPushButton(self._directory, self)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._button)
        self._button.clicked.connect(lambda _checked: self.browse())

    def _set(self, directory: str) -> None:
        if directory != self._directory:
            self._directory = directory
            self._button.setText(directory)
            self.directoryChanged.emit(directory)

    @invokable
    def browse(self) -> None:
        """Ask for a folder; the test answers."""
        directory = dialogs.static_dialog("QFileDialog", "getExistingDirectory", (self.property("caption"),))
        if directory:
            self._set(directory)
            self.directorySelected.emit(directory)

    directory = Property(str, lambda s: s._directory, _set)
    caption = plain(str, "caption", "")


@designer_plugin
class ctkComboBox(QtWidgets.QComboBox):  # noqa: N801
    """Combo box with a default text."""

    _meta_object_only = True
    defaultText = plain(str, "defaultText", "")
    defaultIcon = plain(str, "defaultIcon", "")


@designer_plugin
class ctkCheckBox(QtWidgets.QCheckBox):  # noqa: N801
    """Check box."""

    _meta_object_only = True


@designer_plugin
class ctkPushButton(QtWidgets.QPushButton):  # noqa: N801
    """Push button."""

    _meta_object_only = True


@designer_plugin
class ctkCheckablePushButton(QtWidgets.QPushButton):  # noqa: N801
    """Push button with a check box in it."""

    _meta_object_only = True
    checkBoxToggled = QtCore.Signal(bool)
    checkBoxControlsButton = plain(bool, "checkBoxControlsButton", True)
    checkBoxControlsButtonToggleState = plain(bool, "checkBoxControlsButtonToggleState", True)


@designer_plugin
class ctkFittedTextBrowser(QtWidgets.QTextBrowser):  # noqa: N801
    """Text browser."""

    _meta_object_only = True


class ctkMessageBox(QtWidgets.QMessageBox):  # noqa: N801
    """Message box with "do not show again"."""

    _meta_object_only = True
    dontShowAgainVisible = plain(bool, "dontShowAgainVisible", False)
    dontShowAgain = plain(bool, "dontShowAgain", False)
    dontShowAgainSettingsKey = plain(str, "dontShowAgainSettingsKey", "")
