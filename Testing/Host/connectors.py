"""Connects parameters and widgets by EXACT widget type, as slicer.parameterNodeWrapper does."""

from __future__ import annotations

import enum
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import ctk
import qt
import slicer

from .parameter_values import (
    Choice,
    Decimals,
    Maximum,
    Minimum,
    SingleStep,
    WithinRange,
    first_annotation,
    is_node_type,
    node_types,
    split_annotations,
)


class GuiConnector:
    """One widget showing one parameter."""

    signal = ""

    def __init__(self, widget: Any, datatype: Any) -> None:
        self._widget = widget
        self._kind, self._annotations = split_annotations(datatype)
        self._callback: Callable[[], None] | None = None
        self.prepare()

    def prepare(self) -> None:
        """Set the widget up for the type."""

    def widget(self) -> Any:
        """Return the widget."""
        return self._widget

    def changed(self) -> None:
        """The user changed the widget."""
        if self._callback is not None:
            self._callback()

    def onChanged(self, callback: Callable[[], None] | None) -> None:
        """Call ``callback`` on changes; None disconnects."""
        self._callback = callback
        if not self.signal:
            return
        signal = getattr(self._widget, self.signal)
        if callback is None:
            signal.disconnect(self.changed)
        else:
            signal.connect(self.changed)

    def read(self) -> Any:
        """Return the value shown."""
        raise AssertionError("every connector reads in its own way")

    def write(self, value: Any) -> None:
        """Show a value."""
        raise AssertionError("every connector writes in its own way")


class _Checked(GuiConnector):
    signal = "toggled"

    def prepare(self) -> None:
        if not self._widget.checkable:
            logging.getLogger(__name__).warning("Making push button checkable for conversion to bool: %s", self._widget)
            self._widget.checkable = True

    def read(self) -> bool:
        return bool(self._widget.checked)

    def write(self, value: bool) -> None:
        self._widget.checked = value


class _Number(GuiConnector):
    signal = "valueChanged"

    def prepare(self) -> None:
        integer = self._kind is int
        if type(self._widget) not in (qt.QSlider, qt.QSpinBox, ctk.ctkDoubleSlider):
            decimals = first_annotation(self._annotations, Decimals)
            if integer:
                self._widget.decimals = 0
            elif decimals is not None:
                self._widget.decimals = decimals.value
        step = first_annotation(self._annotations, SingleStep)
        if step is not None:
            self._widget.singleStep = step.value
        within = first_annotation(self._annotations, WithinRange)
        low, high = (
            within or first_annotation(self._annotations, Minimum),
            within or first_annotation(self._annotations, Maximum),
        )
        sliders = (qt.QSlider, ctk.ctkSliderWidget, slicer.qMRMLSliderWidget)
        if type(self._widget) in sliders and (low is None or high is None):
            raise RuntimeError(
                f"Cannot have a connection to {type(self._widget).__name__} where the type is unbounded."
            )
        bound = 2**31 - 1 if integer else 1e300
        self._widget.minimum = low.minimum if low is not None else -bound
        self._widget.maximum = high.maximum if high is not None else bound

    def read(self) -> float:
        return self._kind(self._widget.value)  # type: ignore[no-any-return]

    def write(self, value: float) -> None:
        self._widget.value = self._kind(value)


class _Choices(GuiConnector):
    signal = "currentIndexChanged"

    def prepare(self) -> None:
        if isinstance(self._kind, type) and issubclass(self._kind, enum.Enum):
            label = getattr(self._kind, "label", lambda member: member.name)
            self._choices = [(label(member), member) for member in self._kind]
        else:
            choice = first_annotation(self._annotations, Choice)
            if choice is None:
                raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
            self._choices = [(str(value), value) for value in choice.choices]
        self._widget.clear()
        for text, _ in self._choices:
            self._widget.addItem(text)

    def read(self) -> Any:
        return self._choices[self._widget.currentIndex][1]

    def write(self, value: Any) -> None:
        for index, (_, choice) in enumerate(self._choices):
            if choice == value:
                self._widget.currentIndex = index
                return
        raise ValueError(f"Unable to find value {value} in choices {self._choices}")


class _LineEdit(GuiConnector):
    signal = "textChanged"

    def read(self) -> str:
        return str(self._widget.text)

    def write(self, value: str) -> None:
        if value != self._widget.text:
            self._widget.text = value


class _Label(_LineEdit):
    signal = ""


class _TextEdit(GuiConnector):
    signal = "textChanged"

    def read(self) -> str:
        return str(self._widget.toPlainText())

    def write(self, value: str) -> None:
        self._widget.setPlainText(value)


class _Path(GuiConnector):
    signal = "currentPathChanged"

    def read(self) -> pathlib.PurePath:
        return self._kind(self._widget.currentPath)  # type: ignore[no-any-return]

    def write(self, value: pathlib.PurePath) -> None:
        self._widget.currentPath = str(value)


class _Directory(GuiConnector):
    signal = "directoryChanged"

    def read(self) -> pathlib.PurePath:
        return self._kind(self._widget.directory)  # type: ignore[no-any-return]

    def write(self, value: pathlib.PurePath) -> None:
        self._widget.directory = str(value)


class _NodeChoice(GuiConnector):
    signal = "currentNodeChanged"

    def prepare(self) -> None:
        self._widget.nodeTypes = node_types(self._kind)

    def read(self) -> Any:
        return self._widget.currentNode()

    def write(self, value: Any) -> None:
        self._widget.setCurrentNode(value)


def createGuiConnector(widget: Any, datatype: Any) -> GuiConnector:
    """Return the connector for a widget of exactly this type and a datatype.

    Raises:
        RuntimeError: no connector matches.
    """
    kind, _ = split_annotations(datatype)
    real_type = type(widget)
    choices = kind in (int, float, str, bool) or (isinstance(kind, type) and issubclass(kind, enum.Enum))
    is_path = isinstance(kind, type) and issubclass(kind, pathlib.PurePath)
    numbers = (
        qt.QDoubleSpinBox,
        ctk.ctkSliderWidget,
        ctk.ctkDoubleSlider,
        ctk.ctkDoubleSpinBox,
        slicer.qMRMLSliderWidget,
        slicer.qMRMLSpinBox,
    )
    table: list[tuple[bool, tuple[Any, ...], type[GuiConnector]]] = [
        (kind is bool, (qt.QCheckBox, ctk.ctkCheckBox, qt.QPushButton, ctk.ctkCheckablePushButton), _Checked),
        (kind is int, (qt.QSlider, qt.QSpinBox), _Number),
        (kind in (int, float), numbers, _Number),
        (choices, (qt.QComboBox, ctk.ctkComboBox), _Choices),
        (kind is str, (qt.QLineEdit,), _LineEdit),
        (kind is str, (qt.QLabel,), _Label),
        (kind is str, (qt.QTextEdit,), _TextEdit),
        (is_path, (ctk.ctkPathLineEdit,), _Path),
        (is_path, (ctk.ctkDirectoryButton,), _Directory),
        (is_node_type(kind), (slicer.qMRMLNodeComboBox,), _NodeChoice),
    ]
    for fits, widget_types, connector in table:
        if fits and real_type in widget_types:
            return connector(widget, datatype)
    raise RuntimeError(f"Unable to create GUI connector from datatype '{datatype}' to widget type '{real_type}'.")
