"""The test host behaves as PythonQt in Slicer does: one line (or more) for every fact that modules can meet.

A module that passes in the host must pass in Slicer, so most of these tests assert that something FAILS.
"""

from __future__ import annotations

import functools
import gc
import logging
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

from Testing.Host.fixtures import host, scene  # noqa: F401

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def qt(host):  # noqa: F811
    import qt as module

    return module


@pytest.fixture
def ctk(host):  # noqa: F811
    import ctk as module

    return module


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


def test_methods_that_are_not_properties(qt, scene):  # noqa: F811
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


def test_single_shot_is_set_by_its_setter_only(qt, host):  # noqa: F811
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


def test_qmrml_wrappers_lack_what_is_not_invokable(host):  # noqa: F811
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


def test_lists_come_back_as_tuples(qt, host):  # noqa: F811
    parent = qt.QWidget()
    qt.QPushButton(parent)
    assert isinstance(parent.children(), tuple)
    assert isinstance(parent.findChildren(qt.QPushButton), tuple)
    module = host.load(write_module(host, "ListModule"))
    assert module.categories == ("Testing",)


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


def test_deleted_objects_are_false_not_none_and_raise_value_error(qt, host):  # noqa: F811
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


def test_isinstance_is_false_for_every_base_class(qt, ctk, host):  # noqa: F811
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
    assert qt.QSizePolicy(qt.QSizePolicy.Expanding, 5).horizontalPolicy() == 7


def test_exec_and_exec_(qt, host):  # noqa: F811
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


# --- signals ------------------------------------------------------------------------------------------------------


def test_connect_by_string_and_by_attribute(qt):
    button, calls = qt.QPushButton(), []
    assert button.connect("clicked(bool)", lambda checked: calls.append(("string", checked)))
    assert button.clicked.connect(lambda checked: calls.append(("attribute", checked)))
    assert button.connect("clicked()", lambda: calls.append(("none",)))
    button.click()
    assert calls == [("string", False), ("attribute", False), ("none",)]


def test_disconnect(qt):
    button, calls = qt.QPushButton(), []

    def slot():
        calls.append(1)

    button.connect("clicked()", slot)
    button.clicked.connect(slot)
    assert button.disconnect("clicked()", slot)
    button.click()
    assert button.clicked.disconnect(slot)
    button.click()
    assert len(calls) == 1


def test_wrong_signature_returns_false_and_prints(qt, host, capsys):  # noqa: F811
    assert qt.QPushButton().connect("clicked(int)", print) is False
    assert "No such signal QPushButton::clicked(int)" in capsys.readouterr().err
    assert len(host.records.warnings) == 1


def test_no_overload_indexing_pick_by_string(qt):
    combo, texts, numbers = qt.QComboBox(), [], []
    combo.addItems(["a", "b"])
    with pytest.raises(TypeError):
        combo.currentIndexChanged["QString"]
    assert combo.connect("currentIndexChanged(QString)", texts.append)
    assert combo.connect("currentIndexChanged(int)", numbers.append)
    combo.currentIndex = 1
    assert texts == ["b"] and numbers == [1]


def test_surplus_arguments_are_trimmed_for_functions_and_methods_only(qt, host):  # noqa: F811
    button, calls = qt.QPushButton(), []

    class Receiver:
        def slot(self):
            calls.append("method")

    receiver = Receiver()
    button.clicked.connect(receiver.slot)
    button.clicked.connect(lambda: calls.append("function"))
    button.clicked.connect(lambda *arguments: calls.append(arguments))
    button.clicked.connect(functools.partial(lambda *arguments: calls.append(arguments), "partial"))
    button.click()
    assert calls == ["method", "function", (False,), ("partial", False)]
    button.clicked.disconnect()
    button.clicked.connect(functools.partial(lambda name: None, "too many"))
    button.click()
    assert len(host.exceptions) == 1 and isinstance(host.exceptions[0], TypeError)
    host.exceptions.clear()


def test_lambda_default_is_overwritten_by_the_bool(qt):
    button, got = qt.QPushButton(), []
    button.connect("clicked(bool)", lambda item="wanted": got.append(item))
    button.connect("clicked()", lambda item="wanted": got.append(item))
    button.click()
    assert got == [False, "wanted"]


def test_exception_in_a_slot_is_printed_and_never_raised(qt, host, capsys):  # noqa: F811
    button, after = qt.QPushButton(), []
    button.clicked.connect(lambda: 1 / 0)
    button.clicked.connect(lambda: after.append(1))
    button.click()
    assert after == [1]
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert [type(error) for error in host.exceptions] == [ZeroDivisionError]
    qt.QTimer.singleShot(0, lambda: {}["missing"])
    host.wait_until(lambda: len(host.exceptions) == 2)
    host.exceptions.clear()


def test_qt_signal_on_a_python_subclass(qt):
    class Sender(qt.QObject):
        happened = qt.Signal(str, object)

        def __init__(self):
            super().__init__()
            self.own = "attributes are allowed on Python subclasses"

    sender, got = Sender(), []
    sender.happened.connect(lambda text, thing: got.append((text, thing)))
    marker = object()
    sender.happened.emit("a", marker)
    sender.happened("b", None)
    assert got == [("a", marker), ("b", None)]


def test_python_subclass_overrides_virtuals(qt, host):  # noqa: F811
    class Panel(qt.QWidget):
        def __init__(self, parent=None):
            qt.QWidget.__init__(self, parent)
            self.seen = []

        def eventFilter(self, watched, event):
            self.seen.append((watched.className(), event.type() == qt.QEvent.MouseButtonPress))
            return False

        def resizeEvent(self, event):
            raise RuntimeError(f"{event.size().width()} wide")

    panel, button = Panel(), qt.QPushButton()
    button.installEventFilter(panel)
    button.enabled = False
    assert panel.seen[0] == ("QPushButton", False)
    panel.resize(120, 40)
    panel.show()
    host.process_events()
    assert "120 wide" in str(host.exceptions[0])
    host.exceptions.clear()
    assert isinstance(panel, qt.QWidget) and isinstance(panel, Panel)


def test_python_subclass_lives_as_long_as_its_parent(qt):
    class Row(qt.QWidget):
        def __init__(self, parent):
            super().__init__(parent)
            self.mark = 7

    parent = qt.QWidget()
    Row(parent)
    gc.collect()
    assert parent.children()[0].mark == 7


# --- loading ------------------------------------------------------------------------------------------------------

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Form</class><widget class="qMRMLWidget" name="Form"><layout class="QVBoxLayout" name="column">
<item><widget class="ctkCollapsibleButton" name="inputs"><property name="text"><string>Inputs</string></property>
<layout class="QFormLayout" name="form">
<item row="0" column="1"><widget class="qMRMLNodeComboBox" name="fixedSelector">
<property name="nodeTypes"><stringlist><string>vtkMRMLModelNode</string></stringlist></property>
<property name="noneEnabled"><bool>true</bool></property>
<property name="SlicerParameterName" stdset="0"><string>fixed</string></property></widget></item>
<item row="1" column="1"><widget class="ctkSliderWidget" name="lambdaSlider">
<property name="singleStep"><double>0.01</double></property><property name="suffix"><string> x</string></property>
<property name="SlicerParameterName" stdset="0"><string>lam</string></property></widget></item>
<item row="2" column="1"><widget class="QComboBox" name="modeCombo">
<item><property name="text"><string>stale</string></property></item>
<property name="SlicerParameterName" stdset="0"><string>mode</string></property></widget></item>
<item row="3" column="1"><widget class="QCheckBox" name="flagBox">
<property name="SlicerParameterName" stdset="0"><string>flag</string></property></widget></item>
</layout></widget></item>
<item><widget class="qMRMLNodeComboBox" name="orphanSelector"/></item>
<item><widget class="ctkNoPluginButton" name="applyButton"><property name="text"><string>Apply</string></property></widget>
</item></layout></widget>
<customwidgets>
<customwidget><class>ctkNoPluginButton</class><extends>QPushButton</extends></customwidget>
<customwidget><class>qMRMLWidget</class><extends>QWidget</extends></customwidget></customwidgets>
<connections><connection><sender>Form</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>fixedSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def form(host, tmp_path):  # noqa: F811
    import slicer

    path = tmp_path / "Form.ui"
    path.write_text(UI)
    return slicer.util.loadUI(str(path))


def test_find_child_needs_the_type(form, qt):
    assert form.findChild(qt.QPushButton, "applyButton").text == "Apply"
    with pytest.raises(TypeError):
        form.findChild("applyButton")


def test_missing_designer_plugin_becomes_the_extends_class(form, qt):
    assert type(form.findChild(qt.QWidget, "applyButton")) is qt.QPushButton


def test_child_widget_variables_has_every_named_descendant(form, qt, ctk):
    import slicer

    ui = slicer.util.childWidgetVariables(form)
    assert type(ui.lambdaSlider) is ctk.ctkSliderWidget
    assert ui.form.className() == "QFormLayout"
    assert hasattr(ui, "SpinBox")  # an internal of ctkSliderWidget
    assert ui.lambdaSlider.suffix == " x" and ui.lambdaSlider.singleStep == 0.01


def test_scene_reaches_only_connected_widgets(form):
    import slicer

    ui = slicer.util.childWidgetVariables(form)
    assert ui.fixedSelector.mrmlScene() is None
    form.setMRMLScene(slicer.mrmlScene)
    assert ui.fixedSelector.mrmlScene() is slicer.mrmlScene
    assert ui.orphanSelector.mrmlScene() is None


def test_load_ui_of_a_missing_file_raises(host):  # noqa: F811
    import slicer

    with pytest.raises(RuntimeError):
        slicer.util.loadUI("no/such/file.ui")


def test_node_selector_follows_the_scene(host, scene):  # noqa: F811
    import slicer

    combo, nodes, valid = slicer.qMRMLNodeComboBox(), [], []
    combo.nodeTypes, combo.noneEnabled = ["vtkMRMLModelNode"], True
    combo.addAttribute("vtkMRMLModelNode", "mine", "1")
    combo.connect("currentNodeChanged(vtkMRMLNode*)", nodes.append)
    combo.connect("currentNodeChanged(bool)", valid.append)
    combo.setMRMLScene(scene)
    assert combo.nodeCount() == 0
    node = scene.AddNewNodeByClass("vtkMRMLModelNode", "A")
    assert combo.nodeCount() == 0
    node.SetAttribute("mine", "1")
    assert combo.nodeCount() == 1 and combo.currentNode() is None
    combo.setCurrentNode(node)
    assert combo.currentNode() is node and combo.currentNodeID == node.GetID()
    scene.RemoveNode(node)
    assert combo.currentNode() is None
    assert nodes == [node, None] and valid == [True, False]
    combo.noneEnabled = False
    other = combo.addNode()
    assert combo.currentNode() is other and other.GetAttribute("mine") == "1"


# --- parameterNodeWrapper -----------------------------------------------------------------------------------------


def parameter_class():
    from typing import Annotated

    import slicer
    from slicer.parameterNodeWrapper import Choice, WithinRange, parameterNodeWrapper

    class Parameters:
        fixed: slicer.vtkMRMLScalarVolumeNode
        lam: Annotated[float, WithinRange(0, 1)] = 0.25
        mode: Annotated[str, Choice(["none", "affine"])] = "affine"
        flag: bool = True
        names: list[str]

    # annotations are texts in this file (from __future__), and these names are local
    Parameters.__annotations__ = {
        "fixed": slicer.vtkMRMLScalarVolumeNode,
        "lam": Annotated[float, WithinRange(0, 1)],
        "mode": Annotated[str, Choice(["none", "affine"])],
        "flag": bool,
        "names": list[str],
    }
    return parameterNodeWrapper(Parameters)


@pytest.fixture
def parameters(host, scene):  # noqa: F811
    from slicer.ScriptedLoadableModule import ScriptedLoadableModuleLogic

    class ParamTestLogic(ScriptedLoadableModuleLogic):
        pass

    return parameter_class()(ParamTestLogic().getParameterNode())


def test_parameters_have_defaults_types_and_bounds(parameters):
    assert (parameters.lam, parameters.mode, parameters.flag, parameters.fixed, parameters.names) == (
        0.25,
        "affine",
        True,
        None,
        [],
    )
    for name, value in (("lam", 1.5), ("mode", "other")):
        with pytest.raises(ValueError):
            setattr(parameters, name, value)
    with pytest.raises(TypeError):
        parameters.lam = "0.5"
    assert parameters.lam == 0.25


def test_parameters_survive_saving_and_reopening_the_scene(parameters, scene, tmp_path):  # noqa: F811
    import slicer

    volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5), "int16"), name="vol")
    parameters.lam, parameters.fixed, parameters.names = 0.75, volume, ["a", "b"]
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    scene.Clear(0)
    assert parameters.lam == 0.25  # the node is a singleton: it stays, emptied; reading gives the default
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    assert parameters.lam == 0.75 and parameters.names == ["a", "b"]
    assert parameters.fixed.GetName() == "vol"


def test_gui_is_connected_by_dynamic_property(parameters, form, scene):  # noqa: F811
    import slicer

    ui = slicer.util.childWidgetVariables(form)
    form.setMRMLScene(scene)
    ui.lambdaSlider.value = 0.9
    tag = parameters.connectGui(ui)
    assert ui.lambdaSlider.value == 0.25 and (ui.lambdaSlider.minimum, ui.lambdaSlider.maximum) == (0, 1)
    assert [ui.modeCombo.itemText(i) for i in range(ui.modeCombo.count)] == ["none", "affine"]  # refilled
    assert ui.fixedSelector.nodeTypes == ("vtkMRMLScalarVolumeNode",)  # overwritten
    assert ui.flagBox.checked is True
    ui.lambdaSlider.value = 0.5
    ui.modeCombo.currentIndex = 0
    ui.flagBox.click()
    assert (parameters.lam, parameters.mode, parameters.flag) == (0.5, "none", False)
    parameters.lam = 0.1
    assert ui.lambdaSlider.value == 0.1
    volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5), "int16"))
    ui.fixedSelector.setCurrentNode(volume)
    assert parameters.fixed is volume
    parameters.disconnectGui(tag)
    ui.lambdaSlider.value = 0.3
    parameters.flag = True
    assert parameters.lam == 0.1 and ui.flagBox.checked is False


def test_unknown_parameter_name_raises(parameters, qt):
    box = qt.QWidget()
    inner = qt.QCheckBox(box)
    inner.setProperty("SlicerParameterName", "noSuchParameter")
    with pytest.raises(ValueError):
        parameters.connectGui(box)


def test_connectors_match_the_exact_widget_type(parameters, qt, ctk):
    class MyBox(qt.QCheckBox):
        pass

    for widget, name in (
        (MyBox(), "flag"),
        (ctk.ctkPathLineEdit(), "lam"),
        (qt.QSlider(), "lam"),
        (qt.QSpinBox(), "lam"),
    ):
        with pytest.raises(RuntimeError):
            parameters.connectParametersToGui({name: widget})


def test_combo_box_needs_choice_and_slider_needs_bounds(scene, qt, ctk):  # noqa: F811
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    class Loose:
        text: str
        number: float

    Loose.__annotations__ = {"text": str, "number": float}
    loose = parameterNodeWrapper(Loose)(scene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))
    for name, widget in (("text", qt.QComboBox()), ("number", ctk.ctkSliderWidget())):
        with pytest.raises(RuntimeError):
            loose.connectParametersToGui({name: widget})
    loose.connectParametersToGui({"number": qt.QDoubleSpinBox()})


# --- module files -------------------------------------------------------------------------------------------------

MODULE = """
import qt, slicer
from slicer.ScriptedLoadableModule import *
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

VERSION = 1

class {name}(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("A title")
        self.parent.categories = ["Testing"]
        slicer.app.connect("startupCompleted()", lambda: events.append("startup"))

events = []

class {name}Widget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        self.button = qt.QPushButton("version %d" % VERSION)
        self.layout.addWidget(self.button)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onClose)
    def onClose(self, caller, event):
        events.append("close")
    def enter(self):
        events.append("enter")
    def exit(self):
        events.append("exit")
    def cleanup(self):
        events.append("cleanup")
        self.removeObservers()

class {name}Test(ScriptedLoadableModuleTest):
    def test_passes(self):
        self.delayDisplay("testing")
        self.assertEqual(slicer.modules.{lower}.title, "A title")
    def test_second(self):
        events.append("tested")
"""


def write_module(host, name, folder=None):  # noqa: F811
    import slicer

    folder = Path(folder or Path(slicer.app.temporaryPath) / name)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.py"
    path.write_text(MODULE.format(name=name, lower=name.lower()))
    return path


def test_module_life(host, tmp_path):  # noqa: F811
    import slicer

    path = write_module(host, "LifeModule", tmp_path)
    module = host.load(path)
    host.start_up()
    events = sys.modules["LifeModule"].events
    assert slicer.modules.lifemodule is module and slicer.util.modulePath("LifeModule") == str(path)
    widget = host.widget("LifeModule")
    assert widget is slicer.modules.LifeModuleWidget and widget.button.isVisible()
    slicer.mrmlScene.Clear(0)
    slicer.selfTests["LifeModule"]()
    host.unload("LifeModule")
    assert events == ["startup", "enter", "close", "tested", "exit", "cleanup"]
    assert not hasattr(slicer.modules, "lifemodule")


def test_module_reload(host, tmp_path):  # noqa: F811
    import slicer

    path = write_module(host, "ReloadModule", tmp_path)
    host.load(path)
    old = host.widget("ReloadModule")
    path.write_text(path.read_text().replace("VERSION = 1", "VERSION = 23"))
    slicer.util.reloadScriptedModule("ReloadModule")
    host.process_events()
    new = slicer.util.getModuleWidget("ReloadModule")
    assert new is not old and new.button.text == "version 23" and not old.button
    assert new.layout.count() == 2  # the button and a stretch: nothing of the old panel is left


def test_every_top_level_file_needs_its_class(host, tmp_path):  # noqa: F811
    path = write_module(host, "GoodModule", tmp_path)
    (tmp_path / "helpers.py").write_text("x = 1\n")
    host.load(path)
    assert any("helpers.py: class helpers was not found" in text for text in host.records.warnings)
    from Testing.Host.scripted import ModuleError

    with pytest.raises(ModuleError):
        host.load(tmp_path / "helpers.py")


def test_there_is_no_imp_and_no_missing_test_class(host, tmp_path):  # noqa: F811
    import slicer

    path = write_module(host, "NoTestModule", tmp_path)
    path.write_text(path.read_text().replace("class NoTestModuleTest", "class Other"))
    host.load(path)
    with pytest.raises(AssertionError):
        slicer.selfTests["NoTestModule"]()
    with pytest.raises(ImportError):
        import imp  # noqa: F401


def test_module_description_has_only_its_properties(host, tmp_path):  # noqa: F811
    module = host.load(write_module(host, "PropModule", tmp_path))
    with pytest.raises(AttributeError):
        module.keywords = ["a"]
    assert module.name == "PropModule"


def test_packaging_exists_from_5_12_on(host):  # noqa: F811
    import slicer
    from slicer.packaging import pip_ensure

    host.testing = False
    pip_ensure(["numpy>=1"], requester="Test")
    assert host.records.pip == []
    host.records.answer(False)
    with pytest.raises(RuntimeError):
        pip_ensure(["no-such-package-anywhere>=1"], requester="Test")
    pip_ensure(["no-such-package-anywhere>=1"], requester="Test")
    assert host.records.pip == [("install", ["no-such-package-anywhere>=1"])]
    host.set_version((5, 10))
    try:
        with pytest.raises(ImportError):
            from slicer.packaging import pip_install  # noqa: F401
        assert not hasattr(slicer, "packaging") and slicer.app.minorVersion == 10
        slicer.util.pip_install("x")
        assert host.records.pip[-1] == ("install", "x")
    finally:
        host.set_version((5, 12))


# --- messages -----------------------------------------------------------------------------------------------------


def test_error_display_only_logs_in_testing_mode(host, caplog):  # noqa: F811
    import slicer

    assert slicer.app.testingEnabled()
    with caplog.at_level(logging.ERROR):
        slicer.util.errorDisplay("went wrong")
    assert "went wrong" in caplog.text
    assert [(d.kind, d.text) for d in host.records.dialogs] == [("slicer.util.errorDisplay", "went wrong")]


def test_confirmations_are_answered_by_the_test(host):  # noqa: F811
    import slicer

    for testing in (True, False):
        host.testing = testing
        host.records.answer(False, True)
        assert slicer.util.confirmYesNoDisplay("really?") is False
        assert slicer.util.confirmOkCancelDisplay("really?") is True
    assert len(host.records.dialogs) == 4


def test_dialogs_never_block(host, qt):  # noqa: F811
    host.records.answer("/a/file.nii.gz")
    assert qt.QFileDialog.getOpenFileName(None, "Open", "") == "/a/file.nii.gz"
    assert qt.QMessageBox.question(None, "title", "text") == qt.QMessageBox.Yes
    box = qt.QMessageBox()
    box.text, box.standardButtons = "hello", qt.QMessageBox.Ok | qt.QMessageBox.Cancel
    host.records.answer(qt.QMessageBox.Cancel)
    assert box.exec_() == qt.QMessageBox.Cancel
    assert [d.text for d in host.records.dialogs] == ["", "text", "hello"]


# --- processes ----------------------------------------------------------------------------------------------------


def test_timer_polls_a_child_process(host, qt):  # noqa: F811
    process, timer, seen = qt.QProcess(), qt.QTimer(), []
    process.start(sys.executable, ["-c", "print('from the child')"])

    def poll():
        if process.state() == qt.QProcess.NotRunning:
            timer.stop()
            seen.append(str(process.readAllStandardOutput().data(), "utf-8").strip())

    timer.setInterval(10)
    timer.connect("timeout()", poll)
    timer.start()
    host.wait_until(lambda: seen)
    assert seen == ["from the child"]


# --- views and pictures -------------------------------------------------------------------------------------------


def test_slice_views_show_real_slices(host, scene, tmp_path):  # noqa: F811
    import slicer
    from PySide6.QtGui import QImage

    host.main_window.show()
    array = np.zeros((20, 40, 60), "float32")
    array[:, :, 30:] = 100
    volume = slicer.util.addVolumeFromArray(array, name="half")
    volume.CreateDefaultDisplayNodes()
    volume.GetDisplayNode().AutoWindowLevelOff()
    volume.GetDisplayNode().SetWindowLevelMinMax(0, 100)
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    widget = slicer.app.layoutManager().sliceWidget("Red")
    image = QImage(str(host.screenshot(tmp_path / "red.png", widget.sliceView())))
    width, height = widget.sliceView().width, widget.sliceView().height
    assert (image.width(), image.height()) == (width, height)
    middle = [image.pixelColor(x, height // 2).red() for x in (width // 3, 2 * width // 3)]
    assert sorted(middle) == [0, 255]
    logic = widget.sliceLogic()
    assert logic.GetBackgroundLayer().GetVolumeNode() is volume
    assert widget.mrmlSliceNode().GetScene() is scene and widget.mrmlSliceNode().GetOrientation() == "Axial"
    before = widget.sliceView()._raw.render_count
    slicer.util.arrayFromVolume(volume)[:] = 0
    slicer.util.arrayFromVolumeModified(volume)
    host.process_events()
    widget.sliceView().forceRender()
    assert widget.sliceView()._raw.render_count > before
    assert widget.sliceView()._raw._image.pixelColor(width // 3, height // 2).red() == 0


def test_own_layout_makes_its_views(host, scene):  # noqa: F811
    import slicer

    manager = slicer.app.layoutManager()
    description = "".join(
        f'<item><view class="vtkMRMLSliceNode" singletontag="{name}"><property name="orientation" action="default">Coronal'
        "</property></view></item>"
        for name in ("Left", "Right")
    )
    node = manager.layoutLogic().GetLayoutNode()
    node.AddLayoutDescription(8123, f'<layout type="horizontal">{description}</layout>')
    manager.setLayout(8123)
    assert manager.layout == 8123
    assert manager.sliceWidget("Left").mrmlSliceNode().GetOrientation() == "Coronal"
    assert manager.sliceWidget("Right").isHidden() is False
    scene.Clear(0)
    host.process_events()
    assert manager.sliceWidget("Red").mrmlSliceNode().GetScene() is scene
    assert manager.sliceWidget("Red").mrmlSliceCompositeNode().GetBackgroundVolumeID() is None


def test_nodes_are_saved_and_loaded(host, scene, tmp_path):  # noqa: F811
    import slicer

    volume = slicer.util.addVolumeFromArray(np.arange(60, dtype="int16").reshape(3, 4, 5), name="v")
    assert slicer.util.saveNode(volume, str(tmp_path / "v.nrrd"))
    loaded = slicer.util.loadVolume(str(tmp_path / "v.nrrd"))
    assert np.array_equal(slicer.util.arrayFromVolume(loaded), slicer.util.arrayFromVolume(volume))
    with pytest.raises(RuntimeError):
        slicer.util.loadVolume(str(tmp_path / "missing.nrrd"))
    transform = scene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "t")
    matrix = np.diag([1.0, 2.0, 3.0, 1.0])
    matrix[0, 3] = 12.5
    slicer.util.updateTransformMatrixFromArray(transform, matrix)
    assert slicer.util.saveNode(transform, str(tmp_path / "t.h5"))
    again = slicer.util.loadTransform(str(tmp_path / "t.h5"))
    assert np.allclose(slicer.util.arrayFromTransformMatrix(again), matrix)


# --- the runner ---------------------------------------------------------------------------------------------------


def test_runner_takes_pictures(host, tmp_path):  # noqa: F811
    path = write_module(host, "RunModule", tmp_path)
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-m", "Testing.Host", str(path), "--self-test", "--screenshot", str(picture)]
    done = subprocess.run([*command, "--size", "900x600"], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    from PySide6.QtGui import QImage

    image = QImage(str(picture))
    assert (image.width(), image.height()) == (900, 600)


def test_runner_reports_failures(host, tmp_path):  # noqa: F811
    from Testing.Host.run import main

    path = write_module(host, "FailModule", tmp_path)
    path.write_text(path.read_text().replace('title, "A title")', 'title, "Another title")'))
    assert main([str(path)]) == 0
    host.reset()
    assert main([str(path), "--self-test"]) == 1
    host.reset()
    path.write_text(path.read_text().replace('events.append("enter")', "1 / 0"))
    assert main([str(path)]) == 1
    host.exceptions.clear()
