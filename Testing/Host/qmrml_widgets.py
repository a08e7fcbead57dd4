"""Stand-ins for the qMRML and qSlicer widgets, over the real MRML scene of slicer-core."""

from __future__ import annotations

from typing import Any, ClassVar

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property

from . import dialogs
from .ctk_controls import ctkCollapsibleButton
from .ctk_widgets import ctkDoubleSpinBox, ctkSliderWidget, plain
from .members import invokable
from .uiloader import designer_plugin

_SCENE_SIGNAL = {"mrmlSceneChanged(vtkMRMLScene*)": "mrmlSceneChanged(PyObject)"}


class _SceneHolder:
    """mrmlScene() and setMRMLScene(), emitting mrmlSceneChanged."""

    _scene: Any = None

    @invokable
    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    @invokable
    def setMRMLScene(self: Any, scene: Any) -> None:
        """Set the scene and announce it."""
        if scene is not self._scene:
            self._scene = scene
            self.mrmlSceneChanged.emit(scene)


@designer_plugin
class qMRMLWidget(QtWidgets.QWidget, _SceneHolder):  # noqa: N801
    """Widget with a scene."""

    _meta_object_only = True
    _cpp_signals = _SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)
    mrmlScene, setMRMLScene = _SceneHolder.mrmlScene, _SceneHolder.setMRMLScene


@designer_plugin
class qSlicerWidget(QtWidgets.QWidget, _SceneHolder):  # noqa: N801
    """Widget with a scene, of the older kind."""

    _meta_object_only = True
    _cpp_signals = _SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)
    mrmlScene, setMRMLScene = _SceneHolder.mrmlScene, _SceneHolder.setMRMLScene


@designer_plugin
class qMRMLCollapsibleButton(ctkCollapsibleButton):  # noqa: N801
    """Collapsible section with a scene."""

    _meta_object_only = True
    _cpp_signals = _SCENE_SIGNAL
    mrmlSceneChanged = QtCore.Signal(object)
    _scene: Any = None
    mrmlScene, setMRMLScene = _SceneHolder.mrmlScene, _SceneHolder.setMRMLScene


@designer_plugin
class qMRMLSliderWidget(ctkSliderWidget):  # noqa: N801
    """Slider widget that may follow units of the scene; units are not imitated."""

    _meta_object_only = True
    _scene: Any = None
    quantity = plain(str, "quantity", "")

    @invokable
    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene."""
        self._scene = scene


@designer_plugin
class qMRMLSpinBox(ctkDoubleSpinBox):  # noqa: N801
    """Spin box that may follow units of the scene; units are not imitated."""

    _meta_object_only = True
    _scene: Any = None
    quantity = plain(str, "quantity", "")

    @invokable
    def setMRMLScene(self, scene: Any) -> None:
        """Set the scene."""
        self._scene = scene


@designer_plugin
class qMRMLNodeComboBox(QtWidgets.QWidget):  # noqa: N801
    """Chooses a node of the scene; follows nodes being added, renamed and removed."""

    _meta_object_only = True
    _hidden_signals = ("currentNodeValidChanged",)
    _cpp_signals: ClassVar[dict[str, str]] = {
        "currentNodeChanged(vtkMRMLNode*)": "currentNodeChanged(PyObject)",
        "currentNodeChanged(bool)": "currentNodeValidChanged(bool)",
        "nodeActivated(vtkMRMLNode*)": "nodeActivated(PyObject)",
        "nodeAdded(vtkMRMLNode*)": "nodeAdded(PyObject)",
        "nodeAddedByUser(vtkMRMLNode*)": "nodeAddedByUser(PyObject)",
        "nodeAboutToBeRemoved(vtkMRMLNode*)": "nodeAboutToBeRemoved(PyObject)",
        **_SCENE_SIGNAL,
    }
    currentNodeChanged = QtCore.Signal(object)
    currentNodeValidChanged = QtCore.Signal(bool)
    currentNodeIDChanged = QtCore.Signal(str)
    nodeActivated = QtCore.Signal(object)
    nodeAdded = QtCore.Signal(object)
    nodeAddedByUser = QtCore.Signal(object)
    nodeAboutToBeRemoved = QtCore.Signal(object)
    mrmlSceneChanged = QtCore.Signal(object)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._scene: Any = None
        self._current: Any = None
        self._nodes: list[Any] = []
        self._tags: list[tuple[Any, int]] = []
        self._attributes: dict[tuple[str, str], Any] = {}
        self._labels: dict[str, str] = {}
        self._combo = QtWidgets.QComboBox(self)
        self._combo.setSizeAdjustPolicy(QtWidgets.QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._combo)
        self._combo.activated.connect(self._activated)
        self.destroyed.connect(self._make_forgetter())
        self._refill()

    def _make_forgetter(self) -> Any:
        tags = self._tags  # no reference to the widget itself: it is being destroyed

        def forget(*_: Any) -> None:
            for observed, tag in tags:
                observed.RemoveObserver(tag)
            tags.clear()

        return forget

    # --- contents ---------------------------------------------------------------------------------------------
    def _accepts(self, node: Any) -> bool:
        types = [t for t in self.property("nodeTypes") if t]
        exact = not self.property("showChildNodeTypes")
        if not any(node.GetClassName() == t if exact else node.IsA(t) for t in types):
            return False
        if any(node.IsA(t) for t in self.property("hideChildNodeTypes") if t and t not in types):
            return False
        if node.GetHideFromEditors() and not self.property("showHidden"):
            return False
        for (kind, attribute), value in self._attributes.items():
            if node.IsA(kind):
                found = node.GetAttribute(attribute)
                if found is None or (value is not None and str(value) != found):
                    return False
        return True

    def _refill(self) -> None:
        count = self._scene.GetNumberOfNodes() if self._scene is not None else 0
        nodes = [self._scene.GetNthNode(i) for i in range(count)]
        self._nodes = [node for node in nodes if self._accepts(node)]
        if self._current is not None and self._current not in self._nodes:
            self._select(None, refresh=False)
        if self._current is None and not self.property("noneEnabled") and self._nodes:
            self._select(self._nodes[0], refresh=False)
        self._show()

    def _show(self) -> None:
        self._combo.blockSignals(True)
        self._combo.clear()
        if self.property("noneEnabled") or not self._nodes:
            kind = (self.property("nodeTypes") or [""])[0].removeprefix("vtkMRML").removesuffix("Node")
            self._combo.addItem(self.property("noneDisplay") or ("None" if self._nodes else f"Select a {kind}"), "")
        for node in self._nodes:
            self._combo.addItem(node.GetName() or node.GetID(), node.GetID())
        index = self._combo.findData(self._current.GetID()) if self._current is not None else 0
        self._combo.setCurrentIndex(max(index, 0))
        self._combo.blockSignals(False)

    def _select(self, node: Any, refresh: bool = True) -> None:
        changed = node is not self._current
        self._current = node
        if refresh:
            self._show()
        if changed:
            self.currentNodeChanged.emit(node)
            self.currentNodeValidChanged.emit(node is not None)
            self.currentNodeIDChanged.emit(node.GetID() if node is not None else "")

    def _activated(self, index: int) -> None:
        node_id = self._combo.itemData(index)
        node = self._scene.GetNodeByID(node_id) if node_id else None
        self._select(node, refresh=False)
        self.nodeActivated.emit(node)

    # --- scene ------------------------------------------------------------------------------------------------
    @invokable
    def mrmlScene(self) -> Any:
        """Return the scene."""
        return self._scene

    @invokable
    def setMRMLScene(self, scene: Any) -> None:
        """Show the nodes of a scene."""
        if scene is self._scene:
            return
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._tags.clear()
        self._scene = scene
        if scene is not None:
            self._observe(scene, slicer.vtkMRMLScene.NodeAddedEvent, self._on_added)
            self._observe(scene, slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, self._on_about_to_remove)
            self._observe(scene, slicer.vtkMRMLScene.NodeRemovedEvent, self._on_removed)
            for event in ("EndBatchProcessEvent", "EndCloseEvent", "EndImportEvent"):
                self._observe(scene, getattr(slicer.vtkMRMLScene, event), lambda *_: self._refill())
            for index in range(scene.GetNumberOfNodes()):
                self._watch_name(scene.GetNthNode(index))
        self._refill()
        self.mrmlSceneChanged.emit(scene)

    def _observe(self, observed: Any, event: Any, callback: Any) -> None:
        self._tags.append((observed, observed.AddObserver(event, callback)))

    def _watch_name(self, node: Any) -> None:
        if any(node.IsA(t) for t in self.property("nodeTypes") if t):
            self._observe(node, vtk.vtkCommand.ModifiedEvent, self._on_node_modified)

    def _on_node_modified(self, node: Any, _event: str) -> None:
        index = self._combo.findData(node.GetID())
        listed = index >= 0
        if listed != self._accepts(node):
            self._refill()
        elif listed and self._combo.itemText(index) != node.GetName():
            self._combo.setItemText(index, node.GetName())

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_added(self, _scene: Any, _event: str, node: Any) -> None:
        if not self._scene.IsBatchProcessing():
            self._watch_name(node)
            if self._accepts(node):
                self._refill()
                self.nodeAdded.emit(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_about_to_remove(self, _scene: Any, _event: str, node: Any) -> None:
        if node in self._nodes:
            self.nodeAboutToBeRemoved.emit(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _on_removed(self, _scene: Any, _event: str, node: Any) -> None:
        if node in self._nodes:
            self._refill()

    # --- what modules use -------------------------------------------------------------------------------------
    @invokable
    def currentNode(self) -> Any:
        """Return the chosen node or None."""
        return self._current

    @invokable
    def setCurrentNode(self, node: Any) -> None:
        """Choose a node (or node ID); one that is not listed means none."""
        if isinstance(node, str):
            node = self._scene.GetNodeByID(node) if self._scene is not None else None
        if node is None and not self.property("noneEnabled") and self._nodes:
            self._select(None)
            return
        self._select(node if node in self._nodes else None)

    @invokable
    def setCurrentNodeID(self, node_id: str) -> None:
        """Choose a node by its ID."""
        self.setCurrentNode(node_id)

    @invokable
    def setCurrentNodeIndex(self, index: int) -> None:
        """Choose the n-th listed node."""
        self._select(self._nodes[index] if 0 <= index < len(self._nodes) else None)

    @invokable
    def nodeCount(self) -> int:
        """Return how many nodes are listed."""
        return len(self._nodes)

    @invokable
    def nodeFromIndex(self, index: int) -> Any:
        """Return the n-th listed node."""
        return self._nodes[index] if 0 <= index < len(self._nodes) else None

    @invokable
    def addNode(self, node_type: str = "") -> Any:
        """Create a node of the first (or given) type, as the "Create new" entry does."""
        node = self._scene.AddNewNodeByClass(node_type or self.property("nodeTypes")[0], self.property("baseName"))
        for (kind, attribute), value in self._attributes.items():
            if node.IsA(kind):
                node.SetAttribute(attribute, "" if value is None else str(value))
        self._refill()
        if self.property("selectNodeUponCreation"):
            self._select(node)
        self.nodeAddedByUser.emit(node)
        return node

    @invokable
    def removeCurrentNode(self) -> None:
        """Remove the chosen node from the scene."""
        if self._current is not None:
            self._scene.RemoveNode(self._current)

    @invokable
    def renameCurrentNode(self) -> None:
        """Ask for a new name; the test answers."""
        name = dialogs.static_dialog("QInputDialog", "getText", ("Rename",))
        if name and self._current is not None:
            self._current.SetName(name)

    @invokable
    def addAttribute(self, node_type: str, name: str, value: Any = None) -> None:
        """List only nodes that have the attribute (with this value if one is given)."""
        self._attributes[(node_type, name)] = value
        self._refill()

    @invokable
    def removeAttribute(self, node_type: str, name: str) -> None:
        """Forget an attribute filter."""
        self._attributes.pop((node_type, name), None)
        self._refill()

    @invokable
    def setNodeTypeLabel(self, label: str, node_type: str) -> None:
        """Set how a node type is called in the list."""
        self._labels[node_type] = label

    @invokable
    def nodeTypeLabel(self, node_type: str) -> str:
        """Return how a node type is called in the list."""
        return self._labels.get(node_type, "")

    def _types_changed(self) -> None:
        scene, self._scene = self._scene, None
        if scene is not None:
            self.setMRMLScene(scene)

    nodeTypes = plain("QStringList", "nodeTypes", [], "_types_changed")
    showHidden = plain(bool, "showHidden", False, "_refill")
    showChildNodeTypes = plain(bool, "showChildNodeTypes", True, "_refill")
    hideChildNodeTypes = plain("QStringList", "hideChildNodeTypes", [], "_refill")
    noneEnabled = plain(bool, "noneEnabled", False, "_refill")
    noneDisplay = plain(str, "noneDisplay", "None", "_refill")
    baseName = plain(str, "baseName", "")
    addEnabled = plain(bool, "addEnabled", True)
    removeEnabled = plain(bool, "removeEnabled", True)
    editEnabled = plain(bool, "editEnabled", False)
    renameEnabled = plain(bool, "renameEnabled", False)
    selectNodeUponCreation = plain(bool, "selectNodeUponCreation", True)
    interactionNodeSingletonTag = plain(str, "interactionNodeSingletonTag", "")
    currentNodeID = Property(str, lambda s: s._current.GetID() if s._current is not None else "", setCurrentNodeID)
