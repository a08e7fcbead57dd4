"""Slice views: real vtkMRMLSliceLogic, slice and composite nodes, rendered by VTK offscreen into Qt widgets."""

from __future__ import annotations

from typing import Any

import numpy as np
import slicer
import vtk
from PySide6 import QtCore, QtGui, QtWidgets
from PySide6.QtCore import Property
from vtk.util.numpy_support import vtk_to_numpy

from .members import invokable

_MANAGERS = (
    "vtkMRMLCrosshairDisplayableManager",
    "vtkMRMLVolumeGlyphSliceDisplayableManager",
    "vtkMRMLModelSliceDisplayableManager",
    "vtkMRMLOrientationMarkerDisplayableManager",
    "vtkMRMLRulerDisplayableManager",
    "vtkMRMLSegmentationsDisplayableManager2D",
    "vtkMRMLMarkupsDisplayableManager",
    "vtkMRMLTransformsDisplayableManager2D",
)


class qMRMLSliceView(QtWidgets.QWidget):  # noqa: N801 (C++ name)
    """The picture of one slice view. Rendered when it is painted or when forceRender() is called."""

    _meta_object_only = True
    _hidden_signals = ("rendered",)
    rendered = QtCore.Signal()

    def __init__(self, logic: Any, application_logic: Any, parent: Any = None) -> None:
        super().__init__(parent)
        self._logic = logic
        self._dirty, self._image = True, QtGui.QImage()
        self.render_count = 0
        self.setMinimumSize(80, 60)
        self._renderer = vtk.vtkRenderer()
        self._renderer.GetActiveCamera().ParallelProjectionOn()
        self._window = vtk.vtkRenderWindow()
        self._window.SetOffScreenRendering(1)
        self._window.SetShowWindow(False)
        self._window.AddRenderer(self._renderer)
        self._interactor = vtk.vtkGenericRenderWindowInteractor()
        self._interactor.SetRenderWindow(self._window)
        self._mapper = vtk.vtkImageMapper()
        self._mapper.SetColorWindow(255)
        self._mapper.SetColorLevel(127.5)
        self._actor = vtk.vtkActor2D()
        self._actor.SetMapper(self._mapper)
        self._actor.GetProperty().SetDisplayLocationToBackground()
        self._annotation = vtk.vtkCornerAnnotation()
        self._renderer.AddViewProp(self._annotation)
        factory = slicer.vtkMRMLSliceViewDisplayableManagerFactory.GetInstance()
        factory.SetMRMLApplicationLogic(application_logic)
        for name in _MANAGERS:
            if not factory.IsDisplayableManagerRegistered(name):
                factory.RegisterDisplayableManager(name)
        self._group = slicer.vtkMRMLDisplayableManagerGroup()
        self._group.SetRenderer(self._renderer)
        self._group.Initialize(factory, self._renderer)
        self.follow()
        self._tags = [
            (logic, logic.AddObserver(vtk.vtkCommand.ModifiedEvent, self._on_modified)),
            (self._group, self._group.AddObserver(vtk.vtkCommand.UpdateEvent, self._on_modified)),
        ]

    def follow(self) -> None:
        """Show the slice node that the logic has now."""
        self._group.SetMRMLDisplayableNode(self._logic.GetSliceNode())

    def release(self) -> None:
        """Stop observing and free the render window."""
        for observed, tag in self._tags:
            observed.RemoveObserver(tag)
        self._tags = []
        self._group.SetMRMLDisplayableNode(None)
        self._window.Finalize()

    def _on_modified(self, *_: Any) -> None:
        self._dirty = True
        self.update()

    @invokable
    def scheduleRender(self) -> None:
        """Render at the next paint."""
        self._on_modified()

    @invokable
    def forceRender(self) -> None:
        """Render now."""
        width, height = max(self.width(), 1), max(self.height(), 1)
        self._window.SetSize(width, height)
        self._logic.ResizeSliceNode(width, height)
        connection = self._logic.GetImageDataConnection()
        if connection is not None:
            self._mapper.SetInputConnection(connection)
            if not self._renderer.HasViewProp(self._actor):
                self._renderer.AddViewProp(self._actor)
        self._actor.SetVisibility(connection is not None)
        self._window.Render()
        self._image = _grab(self._window)
        self.render_count += 1
        self._dirty = False
        self.rendered.emit()

    @invokable
    def renderWindow(self) -> Any:
        """Return the VTK render window."""
        return self._window

    @invokable
    def interactor(self) -> Any:
        """Return the VTK interactor."""
        return self._interactor

    @invokable
    def cornerAnnotation(self) -> Any:
        """Return the corner annotation."""
        return self._annotation

    @invokable
    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    @invokable
    def displayableManagerByClassName(self, name: str) -> Any:
        """Return a displayable manager."""
        return self._group.GetDisplayableManagerByClassName(name)

    def resizeEvent(self, _event: Any) -> None:
        self._logic.ResizeSliceNode(max(self.width(), 1), max(self.height(), 1))
        self._dirty = True

    def paintEvent(self, _event: Any) -> None:
        if self._dirty:
            self.forceRender()
        painter = QtGui.QPainter(self)
        painter.drawImage(0, 0, self._image)


def _grab(window: Any) -> QtGui.QImage:
    """Return the picture in a render window."""
    grabber = vtk.vtkWindowToImageFilter()
    grabber.SetInput(window)
    grabber.ReadFrontBufferOff()
    grabber.ShouldRerenderOff()
    grabber.Update()
    output = grabber.GetOutput()
    width, height, _ = output.GetDimensions()
    pixels = vtk_to_numpy(output.GetPointData().GetScalars()).reshape(height, width, -1)[::-1, :, :3]
    pixels = np.ascontiguousarray(pixels)
    return QtGui.QImage(pixels.data, width, height, 3 * width, QtGui.QImage.Format.Format_RGB888).copy()


class qMRMLSliceControllerWidget(QtWidgets.QWidget):  # noqa: N801
    """The coloured bar above a slice view with its offset slider."""

    _meta_object_only = True

    def __init__(self, logic: Any, label: str, colour: str, parent: Any = None) -> None:
        super().__init__(parent)
        self._logic = logic
        self._label = QtWidgets.QLabel(label, self)
        self._label.setStyleSheet(f"background: {colour}; color: black; padding: 1px 5px; font-weight: bold;")
        self._slider = QtWidgets.QSlider(QtCore.Qt.Orientation.Horizontal, self)
        self._slider.setRange(0, 1000)
        self._text = QtWidgets.QLabel(self)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 4, 0)
        for part, stretch in ((self._label, 0), (self._slider, 1), (self._text, 0)):
            row.addWidget(part, stretch)
        self._slider.valueChanged.connect(self._moved)

    def _range(self) -> tuple[float, float]:
        bounds, resolution = [0.0, 1.0], vtk.reference(1.0)
        if not self._logic.GetSliceOffsetRangeResolution(bounds, resolution):
            return 0.0, 1.0
        return bounds[0], bounds[1]

    def _moved(self, position: int) -> None:
        low, high = self._range()
        self._logic.SetSliceOffset(low + (high - low) * position / 1000.0)

    def refresh(self) -> None:
        """Show the offset of the slice node."""
        low, high = self._range()
        offset = self._logic.GetSliceOffset()
        self._slider.blockSignals(True)
        self._slider.setValue(round(1000.0 * (offset - low) / ((high - low) or 1.0)))
        self._slider.blockSignals(False)
        self._text.setText(f"{offset:.1f} mm")

    @invokable
    def fitSliceToBackground(self) -> None:
        """Fit the view to its volume."""
        self._logic.FitSliceToBackground()

    @invokable
    def setSliceOffsetValue(self, offset: float) -> None:
        """Move the slice."""
        self._logic.SetSliceOffset(offset)

    @invokable
    def setSliceVisible(self, visible: bool) -> None:
        """Show the slice in 3D."""
        self._logic.GetSliceNode().SetSliceVisible(visible)

    @invokable
    def setSliceLink(self, linked: bool) -> None:
        """Link all slice views."""
        for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            node.SetLinkedControl(linked)

    @invokable
    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()


class qMRMLSliceWidget(QtWidgets.QWidget):  # noqa: N801
    """Controller bar and slice view over one real slice logic."""

    _meta_object_only = True

    def __init__(self, name: str, application_logic: Any, properties: dict[str, str]) -> None:
        super().__init__()
        self._logic = slicer.vtkMRMLSliceLogic()
        self._logic.SetMRMLApplicationLogic(application_logic)
        self._logic.SetMRMLScene(slicer.mrmlScene)
        self._application_logic = application_logic
        self._name, self._orientation = name, properties.get("orientation", "Axial")
        self._find_node()
        self._logic.GetSliceNode().SetLayoutLabel(properties.get("viewlabel", name[:1]))
        application_logic.GetSliceLogics().AddItem(self._logic)
        self.setObjectName("qMRMLSliceWidget" + name)
        label, colour = properties.get("viewlabel", name[:1]), properties.get("viewcolor", "#8C8C8C")
        self._controller = qMRMLSliceControllerWidget(self._logic, label, colour, self)
        self._view = qMRMLSliceView(self._logic, application_logic, self)
        column = QtWidgets.QVBoxLayout(self)
        column.setContentsMargins(0, 0, 0, 0)
        column.setSpacing(0)
        column.addWidget(self._controller)
        column.addWidget(self._view, 1)
        self._tag = self._logic.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: self._controller.refresh())
        self._view.rendered.connect(self._controller.refresh)

    def release(self) -> None:
        """Let go of the scene."""
        self._logic.RemoveObserver(self._tag)
        self._view.release()
        self._application_logic.GetSliceLogics().RemoveItem(self._logic)

    def _find_node(self) -> None:
        """Use the slice node that the layout logic made; make it when there is none."""
        node = slicer.mrmlScene.GetSingletonNode(self._name, "vtkMRMLSliceNode")
        if node is not None:
            self._logic.SetSliceNode(node)
        else:
            self._logic.AddSliceNode(self._name).SetOrientation(self._orientation)

    def restore(self) -> None:
        """Give the view its nodes back when closing the scene took them."""
        if self._logic.GetMRMLScene() is None:
            self._logic.SetMRMLScene(slicer.mrmlScene)
        if self._logic.GetSliceNode() is None or self._logic.GetSliceNode().GetScene() is None:
            self._find_node()
            self._view.follow()

    @invokable
    def sliceLogic(self) -> Any:
        """Return the slice logic."""
        return self._logic

    @invokable
    def mrmlSliceNode(self) -> Any:
        """Return the slice node."""
        return self._logic.GetSliceNode()

    @invokable
    def mrmlSliceCompositeNode(self) -> Any:
        """Return the composite node."""
        return self._logic.GetSliceCompositeNode()

    @invokable
    def sliceView(self) -> Any:
        """Return the picture."""
        return self._view

    @invokable
    def sliceController(self) -> Any:
        """Return the bar above the picture."""
        return self._controller

    @invokable
    def fitSliceToBackground(self) -> None:
        """Fit the view to its volume."""
        self._logic.FitSliceToBackground()

    sliceViewName = Property(str, lambda s: s._name)
