"""Stand-in for the node selector with check marks."""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore

from .members import invokable
from .qmrml_widgets import qMRMLNodeComboBox
from .uiloader import designer_plugin


@designer_plugin
class qMRMLCheckableNodeComboBox(qMRMLNodeComboBox):  # noqa: N801 (C++ name)
    """Chooses several nodes of the scene."""

    _meta_object_only = True
    checkedNodesChanged = QtCore.Signal()

    def __init__(self, parent: Any = None) -> None:
        self._checked: list[Any] = []
        super().__init__(parent)

    def _refill(self) -> None:
        super()._refill()
        kept = [node for node in self._checked if node in self._nodes]
        if kept != self._checked:
            self._checked = kept
            self.checkedNodesChanged.emit()

    @invokable
    def checkedNodes(self) -> list[Any]:
        """Return the checked nodes in the order of the list."""
        return [node for node in self._nodes if node in self._checked]

    @invokable
    def uncheckedNodes(self) -> list[Any]:
        """Return the other nodes."""
        return [node for node in self._nodes if node not in self._checked]

    @invokable
    def setCheckState(self, node: Any, state: int) -> None:
        """Check or uncheck a node (qt.Qt.Checked or Unchecked)."""
        state = getattr(state, "value", state)
        if (node in self._checked) != bool(state) and node in self._nodes:
            self._checked = [*self._checked, node] if state else [n for n in self._checked if n is not node]
            self.checkedNodesChanged.emit()

    @invokable
    def checkState(self, node: Any) -> QtCore.Qt.CheckState:
        """Return whether a node is checked."""
        return QtCore.Qt.CheckState.Checked if node in self._checked else QtCore.Qt.CheckState.Unchecked

    @invokable
    def noneChecked(self) -> bool:
        """Whether no node is checked."""
        return not self._checked
