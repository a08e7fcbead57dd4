"""Stand-ins for the ctk widgets with number values: slider, spin box, range.

Only what the C++ class declares as property, slot, invokable or signal is visible to modules (see proxy.find_member).
"""

from __future__ import annotations

from typing import Any

from PySide6 import QtCore, QtWidgets
from PySide6.QtCore import Property, Qt

from .members import invokable
from .uiloader import designer_plugin


def plain(kind: Any, name: str, default: Any, on_change: str = "") -> Property:
    """Return a Qt property that is just stored; ``on_change`` names a method called after it was set."""
    key = "_p_" + name

    def read(self: Any) -> Any:
        return self.__dict__.get(key, default)

    def write(self: Any, value: Any) -> None:
        self.__dict__[key] = value
        if on_change:
            getattr(self, on_change)()

    return Property(kind, read, write)


class _Number(QtWidgets.QWidget):
    """A bounded number, rounded to ``decimals``: what slider, spin box and slider widget have in common."""

    def _start(self) -> None:
        self._number = 0.0
        self.minimum_, self.maximum_ = 0.0, 99.0

    def _rounded(self, value: float) -> float:
        return min(max(round(float(value), int(self.property("decimals") or 0)), self.minimum_), self.maximum_)

    def _get_minimum(self) -> float:
        return self.minimum_

    def _get_maximum(self) -> float:
        return self.maximum_

    def _set_minimum(self, value: float) -> None:
        self.minimum_ = float(value)
        self.maximum_ = max(self.maximum_, self.minimum_)
        self._change(self._number)
        self._refresh()

    def _set_maximum(self, value: float) -> None:
        self.maximum_ = float(value)
        self.minimum_ = min(self.minimum_, self.maximum_)
        self._change(self._number)
        self._refresh()

    def _change(self, value: float) -> None:
        value = self._rounded(value)
        if value != self._number:
            self._number = value
            self._refresh()
            self.valueChanged.emit(value)

    def _get_value(self) -> float:
        return self._number

    def _refresh(self) -> None:
        raise AssertionError("every number widget shows its value in its own way")


@designer_plugin
class ctkDoubleSlider(_Number):  # noqa: N801 (C++ name)
    """Slider with a real value."""

    _meta_object_only = True
    valueChanged = QtCore.Signal(float)
    sliderMoved = QtCore.Signal(float)
    sliderPressed = QtCore.Signal()
    sliderReleased = QtCore.Signal()

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._start()
        self._slider = QtWidgets.QSlider(Qt.Orientation.Horizontal, self)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider)
        self._slider.valueChanged.connect(self._dragged)
        self._slider.sliderMoved.connect(lambda position: self.sliderMoved.emit(self._at(position)))
        self._slider.sliderPressed.connect(self.sliderPressed)
        self._slider.sliderReleased.connect(self.sliderReleased)
        self._refresh()

    def _at(self, position: int) -> float:
        return self.minimum_ + position * self.property("singleStep")

    def _dragged(self, position: int) -> None:
        if self.property("tracking") or not self._slider.isSliderDown():
            self._change(self._at(position))

    def _rounded(self, value: float) -> float:
        return min(max(float(value), self.minimum_), self.maximum_)

    def _refresh(self) -> None:
        step = self.property("singleStep") or 1.0
        self._slider.blockSignals(True)
        self._slider.setRange(0, int(min(round((self.maximum_ - self.minimum_) / step), 2**31 - 1)))
        self._slider.setValue(round((self._number - self.minimum_) / step))
        self._slider.blockSignals(False)

    @invokable
    def setValue(self, value: float) -> None:
        """Set the value, bounded."""
        self._change(value)

    value = Property(float, _Number._get_value, setValue)
    sliderPosition = Property(float, _Number._get_value, setValue)
    minimum = Property(float, _Number._get_minimum, _Number._set_minimum)
    maximum = Property(float, _Number._get_maximum, _Number._set_maximum)
    singleStep = plain(float, "singleStep", 1.0, "_refresh")
    pageStep = plain(float, "pageStep", 10.0)
    tracking = plain(bool, "tracking", True)
    tickInterval = plain(float, "tickInterval", 0.0)


@designer_plugin
class ctkDoubleSpinBox(_Number):  # noqa: N801
    """Spin box with a real value."""

    _meta_object_only = True
    valueChanged = QtCore.Signal(float)
    editingFinished = QtCore.Signal()
    decimalsChanged = QtCore.Signal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._start()
        self.maximum_ = 99.99
        self._box = QtWidgets.QDoubleSpinBox(self)
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._box)
        self._box.valueChanged.connect(self._change)
        self._box.editingFinished.connect(self.editingFinished)
        self._refresh()

    def _refresh(self) -> None:
        self._box.blockSignals(True)
        self._box.setDecimals(self.property("decimals"))
        self._box.setRange(self.minimum_, self.maximum_)
        self._box.setSingleStep(self.property("singleStep"))
        self._box.setPrefix(self.property("prefix"))
        self._box.setSuffix(self.property("suffix"))
        self._box.setReadOnly(self.property("readOnly"))
        self._box.setValue(self._number)
        self._box.blockSignals(False)

    @invokable
    def setValue(self, value: float) -> None:
        """Set the value, bounded and rounded."""
        self._change(value)

    @invokable
    def stepUp(self) -> None:
        """One step up."""
        self._change(self._number + self.property("singleStep"))

    @invokable
    def stepDown(self) -> None:
        """One step down."""
        self._change(self._number - self.property("singleStep"))

    value = Property(float, _Number._get_value, setValue)
    minimum = Property(float, _Number._get_minimum, _Number._set_minimum)
    maximum = Property(float, _Number._get_maximum, _Number._set_maximum)
    decimals = plain(int, "decimals", 2, "_refresh")
    singleStep = plain(float, "singleStep", 1.0, "_refresh")
    prefix = plain(str, "prefix", "", "_refresh")
    suffix = plain(str, "suffix", "", "_refresh")
    readOnly = plain(bool, "readOnly", False, "_refresh")


@designer_plugin
class ctkSliderWidget(_Number):  # noqa: N801
    """Slider beside a spin box. ``setRange``, ``setMinimum`` and the like are no slots, hence not there."""

    _meta_object_only = True
    valueChanged = QtCore.Signal(float)
    valueIsChanging = QtCore.Signal(float)
    decimalsChanged = QtCore.Signal(int)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._start()
        self._slider = ctkDoubleSlider(self)
        self._slider.setObjectName("Slider")
        self._box = ctkDoubleSpinBox(self)
        self._box.setObjectName("SpinBox")
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        row.addWidget(self._slider, 1)
        row.addWidget(self._box)
        self._slider.valueChanged.connect(self._change)
        self._slider.sliderMoved.connect(self._moved)
        self._box.valueChanged.connect(self._change)
        self._refresh()

    def _moved(self, value: float) -> None:
        if not self.property("tracking"):
            self.valueIsChanging.emit(value)

    def _refresh(self) -> None:
        for part in (self._slider, self._box):
            part.blockSignals(True)
            part.minimum, part.maximum = self.minimum_, self.maximum_
            part.singleStep = self.property("singleStep")
        self._slider.tracking = self.property("tracking")
        self._box.decimals = self.property("decimals")
        self._box.prefix, self._box.suffix = self.property("prefix"), self.property("suffix")
        self._box.setVisible(self.property("spinBoxVisible"))
        for part in (self._slider, self._box):
            part._number = self._number
            part._refresh()
            part.blockSignals(False)

    @invokable
    def setValue(self, value: float) -> None:
        """Set the value, bounded and rounded."""
        self._change(value)

    @invokable
    def setSpinBoxVisible(self, visible: bool) -> None:
        """Show or hide the spin box."""
        self.setProperty("spinBoxVisible", visible)

    @invokable
    def setDecimals(self, decimals: int) -> None:
        """Set the number of decimals."""
        self.setProperty("decimals", decimals)
        self.decimalsChanged.emit(decimals)

    @invokable
    def reset(self) -> None:
        """Back to the value in the middle of nothing: zero, bounded."""
        self._change(0.0)

    value = Property(float, _Number._get_value, setValue)
    minimum = Property(float, _Number._get_minimum, _Number._set_minimum)
    maximum = Property(float, _Number._get_maximum, _Number._set_maximum)
    decimals = plain(int, "decimals", 2, "_refresh")
    singleStep = plain(float, "singleStep", 1.0, "_refresh")
    pageStep = plain(float, "pageStep", 10.0)
    prefix = plain(str, "prefix", "", "_refresh")
    suffix = plain(str, "suffix", "", "_refresh")
    tickInterval = plain(float, "tickInterval", 0.0)
    tracking = plain(bool, "tracking", True, "_refresh")
    spinBoxVisible = plain(bool, "spinBoxVisible", True, "_refresh")
    popupSlider = plain(bool, "popupSlider", False)
    invertedAppearance = plain(bool, "invertedAppearance", False)


@designer_plugin
class ctkRangeWidget(QtWidgets.QWidget):  # noqa: N801
    """Two values in bounds."""

    _meta_object_only = True
    valuesChanged = QtCore.Signal(float, float)
    minimumValueChanged = QtCore.Signal(float)
    maximumValueChanged = QtCore.Signal(float)
    rangeChanged = QtCore.Signal(float, float)

    def __init__(self, parent: Any = None) -> None:
        super().__init__(parent)
        self._bounds, self._values = (0.0, 99.0), (0.0, 99.0)
        self._boxes = (QtWidgets.QDoubleSpinBox(self), QtWidgets.QDoubleSpinBox(self))
        row = QtWidgets.QHBoxLayout(self)
        row.setContentsMargins(0, 0, 0, 0)
        for box in self._boxes:
            row.addWidget(box)
            box.valueChanged.connect(lambda _: self.setValues(self._boxes[0].value(), self._boxes[1].value()))
        self.setRange(0.0, 99.0)

    @invokable
    def setRange(self, minimum: float, maximum: float) -> None:
        """Set the bounds of both values."""
        self._bounds = (float(minimum), float(maximum))
        self.setValues(*self._values)

    @invokable
    def setValues(self, low: float, high: float) -> None:
        """Set both values, bounded and ordered."""
        low, high = sorted(min(max(float(v), self._bounds[0]), self._bounds[1]) for v in (low, high))
        changed = (low, high) != self._values
        self._values = (low, high)
        for box, value in zip(self._boxes, self._values, strict=True):
            box.blockSignals(True)
            box.setRange(*self._bounds)
            box.setValue(value)
            box.blockSignals(False)
        if changed:
            self.valuesChanged.emit(low, high)

    minimumValue = Property(float, lambda s: s._values[0], lambda s, v: s.setValues(v, s._values[1]))
    maximumValue = Property(float, lambda s: s._values[1], lambda s, v: s.setValues(s._values[0], v))
    minimum = Property(float, lambda s: s._bounds[0], lambda s, v: s.setRange(v, s._bounds[1]))
    maximum = Property(float, lambda s: s._bounds[1], lambda s, v: s.setRange(s._bounds[0], v))
    decimals = plain(int, "decimals", 2)
    singleStep = plain(float, "singleStep", 1.0)
