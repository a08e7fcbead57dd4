"""The test host behaves as PythonQt in Slicer does: attributes, calls and types, a test for every fact.

A module that passes in the host must pass in Slicer, so most of these tests assert that something FAILS. Signals,
loading, parameters and module files: the other files test_host_conformance_*.py.
"""

# ruff: noqa: PLW0108, PT011 (fixtures are imported; calls that must fail are written as calls)

from __future__ import annotations

import gc

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")


# --- attributes and calls -----------------------------------------------------------------------------------------


def test_properties_are_attributes_and_calling_them_raises(qt):
    button, line, combo, spin = qt.QPushButton("Go"), qt.QLineEdit(), qt.QComboBox(), qt.QSpinBox()
    line.text = "abc"
    combo.addItem("first", "data")
    spin.value = 3
    assert (button.text, line.text, combo.count, combo.currentText, combo.currentData, spin.value) == (
        "Go",
        "abc",
        1,
        "first",
        "data",
        3,
    )
    for attempt in (lambda: button.text(), lambda: line.text(), lambda: combo.count(), lambda: combo.currentData()):
        with pytest.raises(TypeError):
            attempt()
    for attempt in (lambda: button.width(), lambda: spin.value(), lambda: button.visible(), lambda: button.toolTip()):
        with pytest.raises(TypeError):
            attempt()
    assert isinstance(button.width, int)


def test_is_and_set_stay_methods(qt):
    box = qt.QCheckBox("x")
    box.setChecked(True)
    box.setEnabled(False)
    assert box.isChecked() is True and box.checked is True
    assert box.isEnabled() is False and box.enabled is False
    assert box.isVisible() is False and box.visible is False
    box.setText("y")
    assert box.text == "y"


def test_methods_that_are_not_properties(qt, scene):
    widget = qt.QWidget()
    layout = qt.QVBoxLayout(widget)
    button = qt.QPushButton("b")
    layout.addWidget(button)
    assert layout.count() == 1
    assert button.parent() == widget and button.parent() is widget
    assert button in widget.children()
    assert widget.layout() == layout
    assert button.className() == "QPushButton"
    items = qt.QListWidget()
    items.addItem("one")
    assert items.item(0).text() == "one"
    import slicer

    combo = slicer.qMRMLNodeComboBox()
    assert combo.currentNode() is None
    with pytest.raises(TypeError):
        combo.currentNodeID()


def test_name_is_object_name(qt):
    button = qt.QPushButton()
    button.name = "apply"
    assert button.objectName == "apply" and button.name == "apply"
    button.setObjectName("other")
    assert button.name == "other"


def test_single_shot_is_set_by_its_setter_only(qt, host):
    timer = qt.QTimer()
    with pytest.raises(AttributeError):
        timer.singleShot = True
    timer.setSingleShot(True)
    assert timer.isSingleShot()
    fired = []
    qt.QTimer.singleShot(0, lambda: fired.append(1))
    host.wait_until(lambda: fired)


def test_no_new_attributes_on_cpp_objects(qt, ctk):
    for thing in (qt.QPushButton(), ctk.ctkSliderWidget(), qt.QTimer(), qt.QSize(1, 2)):
        with pytest.raises(AttributeError):
            thing.myOwnAttribute = 1
    with pytest.raises(AttributeError):
        qt.QPushButton().click = print
    with pytest.raises(AttributeError):
        qt.QPushButton().clicked = print


def test_unknown_attribute_raises_attribute_error(qt):
    assert not hasattr(qt.QPushButton(), "noSuchThing")


def test_named_child_is_attribute_of_its_parent(qt):
    parent = qt.QWidget()
    child = qt.QPushButton(parent)
    child.name = "theChild"
    assert parent.theChild is child


def test_no_keyword_arguments(qt, ctk):
    parent = qt.QWidget()
    for attempt in (
        lambda: qt.QPushButton(text="a"),
        lambda: qt.QLabel("a", parent=parent),
        lambda: ctk.ctkCollapsibleButton(text="a"),
        lambda: qt.QWidget(parent=parent),
    ):
        with pytest.raises(TypeError):
            attempt()


@pytest.mark.parametrize(
    "name", ["setRange", "setMinimum", "setMaximum", "setSingleStep", "setSuffix", "slider", "spinBox"]
)
def test_ctk_wrappers_lack_what_is_not_a_slot(ctk, name):
    assert not hasattr(ctk.ctkSliderWidget(), name)


def test_ctk_wrappers_have_properties_slots_and_signals(ctk, qt):
    slider = ctk.ctkSliderWidget()
    values = []
    slider.valueChanged.connect(values.append)
    slider.minimum, slider.maximum, slider.singleStep, slider.decimals = 0, 1, 0.01, 2
    slider.value = 0.456
    slider.setValue(0.5)
    slider.value = 7
    assert values == [0.46, 0.5, 1.0]
    assert not hasattr(ctk.ctkCollapsibleButton(), "setCollapsed")
    assert not hasattr(ctk.ctkPathLineEdit(), "setFilters")
    assert not hasattr(ctk.ctkDoubleSpinBox(), "setRange")
    slider.setToolTip("from QWidget")
    assert slider.toolTip == "from QWidget"


def test_qmrml_wrappers_lack_what_is_not_invokable(host):
    import slicer

    combo = slicer.qMRMLNodeComboBox()
    for name in ("setNodeTypes", "setNoneEnabled", "setAddEnabled", "setShowHidden", "nodes", "model"):
        assert not hasattr(combo, name)
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    assert combo.nodeTypes == ("vtkMRMLScalarVolumeNode",)


def test_collapsible_button_hides_its_children(ctk, qt):
    button = ctk.ctkCollapsibleButton()
    button.text = "More"
    layout = qt.QFormLayout(button)
    inner = qt.QLabel("x")
    layout.addRow(inner)
    told = []
    button.connect("contentsCollapsed(bool)", told.append)
    button.collapsed = True
    assert inner.isHidden() and told == [True] and button.checked is False
    button.collapsed = False
    assert not inner.isHidden() and told == [True, False]


def test_lists_come_back_as_tuples(qt):
    parent = qt.QWidget()
    qt.QPushButton(parent)
    assert isinstance(parent.children(), tuple)
    assert isinstance(parent.findChildren(qt.QPushButton), tuple)


def test_numpy_scalars_are_accepted(qt, ctk):
    spin, slider, combo = qt.QDoubleSpinBox(), ctk.ctkSliderWidget(), qt.QComboBox()
    combo.addItems(["a", "b"])
    spin.value = np.float32(2.5)
    spin.setValue(np.float64(3.5))
    slider.value = np.float32(2.0)
    combo.currentIndex = np.int64(1)
    combo.setCurrentIndex(np.int32(0))
    assert (spin.value, slider.value, combo.currentIndex) == (3.5, 2.0, 0)


def test_text_none_becomes_the_word_none(qt):
    label = qt.QLabel("a")
    label.text = None
    assert label.text == "None"


def test_property_refuses_the_wrong_type(qt):
    with pytest.raises(AttributeError):
        qt.QSpinBox().value = "three"


def test_deleted_objects_are_false_not_none_and_raise_value_error(qt, host):
    parent = qt.QWidget()
    child = qt.QPushButton("x", parent)
    parent.deleteLater()
    host.process_events()
    assert not child and bool(child) is False and child is not None
    for attempt in (lambda: child.text, lambda: child.setText("a"), lambda: child.isEnabled()):
        with pytest.raises(ValueError):
            attempt()
    with pytest.raises(ValueError):
        child.text = "a"


def test_parentless_temporary_dies_at_once(qt):
    layout = qt.QFormLayout(qt.QWidget())
    with pytest.raises(ValueError):
        layout.addRow("x", qt.QLabel("y"))


def test_same_object_is_same_wrapper_while_held(qt):
    parent = qt.QWidget()
    child = qt.QPushButton(parent)
    assert parent.children()[0] is child
    del child
    gc.collect()
    assert parent.children()[0].className() == "QPushButton"


# --- types --------------------------------------------------------------------------------------------------------


def test_isinstance_is_false_for_every_base_class(qt, ctk, host):
    import slicer

    for thing in (qt.QPushButton(), qt.QLabel(), ctk.ctkSliderWidget(), slicer.qMRMLNodeComboBox()):
        assert not isinstance(thing, qt.QWidget)
        assert not isinstance(thing, qt.QObject)
        assert thing.inherits("QWidget") and thing.isWidgetType()
        assert type(thing).__mro__.count(qt.QWidget) == 0
    assert isinstance(qt.QPushButton(), qt.QPushButton)
    assert not isinstance(ctk.ctkComboBox(), qt.QComboBox)
    assert isinstance(qt.QWidget(), qt.QWidget)


def test_enums_are_ints_in_short_and_long_form(qt):
    assert qt.Qt.AlignCenter == qt.Qt.AlignmentFlag.AlignCenter == 132
    assert isinstance(qt.Qt.AlignCenter, int) and isinstance(qt.QMessageBox.Ok, int)
    assert qt.QMessageBox.Yes == qt.QMessageBox.StandardButton.Yes == 0x4000
    label = qt.QLabel()
    label.setAlignment(qt.Qt.AlignRight | qt.Qt.AlignTop)
    assert label.alignment == 0x2 | 0x20
    label.setAlignment(0x84)
    label.alignment = qt.Qt.AlignLeft
    assert label.alignment == 1 and isinstance(label.alignment, int)
    for buttons in (qt.QDialogButtonBox.Ok | qt.QDialogButtonBox.Cancel, 0x400 | 0x400000):
        assert qt.QDialogButtonBox(buttons).button(qt.QDialogButtonBox.Ok).className() == "QPushButton"
    assert qt.QSizePolicy(qt.QSizePolicy.Expanding, 5).horizontalPolicy() == 7


def test_exec_and_exec_(qt, host):
    for name in ("exec", "exec_"):
        dialog = qt.QDialog()
        host.records.answer(1)
        assert getattr(dialog, name)() == 1


@pytest.mark.parametrize("name", ["QVariant", "QtConcurrent", "QFutureWatcher", "QSvgWidget", "QChart", "QChartView"])
def test_missing_classes(qt, name):
    assert not hasattr(qt, name)


def test_signal_blocker_is_no_context_manager(qt):
    button = qt.QPushButton()
    with pytest.raises((TypeError, AttributeError)), qt.QSignalBlocker(button):
        pass
    assert button.blockSignals(True) is False
    assert button.blockSignals(False) is True


# --- pictures -----------------------------------------------------------------------------------------------------


def test_qimage_has_no_bytes_per_line(qt):
    pixels = bytes([10, 20, 30, 40] * 12)
    assert qt.QImage(pixels, 4, 4, qt.QImage.Format_RGB888).width() == 4
    with pytest.raises(ValueError):
        qt.QImage(pixels, 4, 4, 12, qt.QImage.Format_RGB888)


def test_a_picture_is_read_from_the_bytes_of_a_file(qt):
    pixmap = qt.QPixmap()
    assert pixmap.loadFromData(b"P6 3 2 255\n" + bytes(range(0, 90, 5)))
    image = pixmap.toImage()
    assert (image.width(), image.height()) == (3, 2)
    assert image.pixelColor(1, 1).name() == "#3c4146"
