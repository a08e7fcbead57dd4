"""slicer.app.layoutManager(): makes the views that the layout node of the scene describes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from typing import Any

import slicer
import vtk
from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property

from .members import invokable
from .views import qMRMLSliceWidget

_STANDARD = {
    "Red": {"orientation": "Axial", "viewlabel": "R", "viewcolor": "#F34A33"},
    "Green": {"orientation": "Coronal", "viewlabel": "G", "viewcolor": "#6EB04B"},
    "Yellow": {"orientation": "Sagittal", "viewlabel": "Y", "viewcolor": "#EDD54C"},
}


class qSlicerLayoutManager(QtCore.QObject):  # noqa: N801 (C++ name)
    """Slice views of the current layout. 3D, table and plot views are only placeholders."""

    _meta_object_only = True
    layoutChanged = QtCore.Signal(int)

    def __init__(self, application_logic: Any) -> None:
        super().__init__()
        self._application_logic = application_logic
        self._slices: dict[str, qMRMLSliceWidget] = {}
        self._viewport = QtWidgets.QWidget()
        self._viewport.setObjectName("CentralWidgetLayoutFrame")
        QtWidgets.QVBoxLayout(self._viewport).setContentsMargins(0, 0, 0, 0)
        self._paused = 0
        self._logic = slicer.vtkMRMLLayoutLogic()
        self._logic.SetMRMLScene(slicer.mrmlScene)
        for name, properties in _STANDARD.items():
            self._slice(name, properties)
        self._node = self._logic.GetLayoutNode()
        self._shown = ""
        self._node.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_layout_node)
        slicer.mrmlScene.AddObserver(slicer.vtkMRMLScene.EndCloseEvent, self._on_scene_closed)
        self._node.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView)
        self._arrange()

    def _slice(self, name: str, properties: dict[str, str]) -> qMRMLSliceWidget:
        if name not in self._slices:
            self._slices[name] = qMRMLSliceWidget(name, self._application_logic, properties)
        return self._slices[name]

    def _on_layout_node(self, *_: Any) -> None:
        self._arrange()

    def _on_scene_closed(self, *_: Any) -> None:
        for widget in self._slices.values():
            widget.restore()
            composite = widget.mrmlSliceCompositeNode()
            for setter in (
                composite.SetBackgroundVolumeID,
                composite.SetForegroundVolumeID,
                composite.SetLabelVolumeID,
            ):
                setter(None)

    def _arrange(self) -> None:
        description = self._node.GetCurrentLayoutDescription()
        if not description or description == self._shown:
            return
        self._shown = description
        frame = self._viewport.layout()
        for widget in self._slices.values():
            widget.setParent(None)
        while frame.count():
            old = frame.takeAt(0).widget()
            if old is not None:
                old.deleteLater()
        frame.addWidget(self._build(ET.fromstring(description)))  # noqa: S314 (made by the module under test)
        self.layoutChanged.emit(self._node.GetViewArrangement())

    def _build(self, element: ET.Element) -> QtWidgets.QWidget:
        if element.tag == "view":
            properties = {p.get("name", ""): p.text or "" for p in element.findall("property")}
            if element.get("class") == "vtkMRMLSliceNode":
                widget: QtWidgets.QWidget = self._slice(element.get("singletontag", ""), properties)
                widget.show()
                return widget
            placeholder = QtWidgets.QFrame()
            placeholder.setStyleSheet("background: #9c9cd0;")
            placeholder.setMinimumSize(60, 60)
            return placeholder
        kind = element.get("type", "vertical")
        children = [self._build(part) for item in element.findall("item") for part in item]
        if kind == "tab":
            tabs = QtWidgets.QTabWidget()
            for child in children:
                tabs.addTab(child, child.objectName())
            return tabs
        box = QtWidgets.QWidget()
        across = kind == "horizontal"
        layout = QtWidgets.QHBoxLayout(box) if across else QtWidgets.QVBoxLayout(box)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(2)
        for child in children:
            layout.addWidget(child, 1)
        return box

    @invokable
    def setLayout(self, layout: int) -> None:
        """Switch to a layout, built in or described in the layout node."""
        self._node.SetViewArrangement(int(layout))
        self._arrange()

    @invokable
    def layoutLogic(self) -> Any:
        """Return the layout logic."""
        return self._logic

    @invokable
    def sliceWidget(self, name: str) -> Any:
        """Return a slice widget by the name of its view, or None."""
        return self._slices.get(name)

    @invokable
    def sliceViewNames(self) -> list[str]:
        """Return the names of all slice views made so far."""
        return list(self._slices)

    @invokable
    def mrmlSliceLogics(self) -> Any:
        """Return the slice logics."""
        return self._application_logic.GetSliceLogics()

    @invokable
    def mrmlViewLogics(self) -> Any:
        """Return the logics of the 3D views: none."""
        return self._application_logic.GetViewLogics()

    @invokable
    def resetSliceViews(self) -> None:
        """Fit all slice views to their volumes."""
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    @invokable
    def resetThreeDViews(self) -> None:
        """Nothing to reset: there are no 3D views."""

    @invokable
    def threeDWidget(self, index: int) -> None:
        """Return None: there are no 3D views."""

    @invokable
    def viewport(self) -> Any:
        """Return the widget that holds the views."""
        return self._viewport

    layout = Property(int, lambda s: s._node.GetViewArrangement(), lambda s, v: s.setLayout(v))
    threeDViewCount = Property(int, lambda s: 0)
    tableViewCount = Property(int, lambda s: 0)
    plotViewCount = Property(int, lambda s: 0)
