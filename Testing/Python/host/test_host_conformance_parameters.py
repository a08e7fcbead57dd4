"""Forms, node selectors and slicer.parameterNodeWrapper in the test host, as in Slicer."""

# ruff: noqa: PT011 (fixtures are imported; calls that must fail are written as calls)

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")


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
<item><widget class="ctkNoPluginButton" name="applyButton"><property name="text"><string>Apply</string></property>
</widget>
</item></layout></widget>
<customwidgets>
<customwidget><class>ctkNoPluginButton</class><extends>QPushButton</extends></customwidget>
<customwidget><class>qMRMLWidget</class><extends>QWidget</extends></customwidget></customwidgets>
<connections><connection><sender>Form</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
<receiver>fixedSelector</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>"""


@pytest.fixture
def form(host, tmp_path):
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


def test_load_ui_of_a_missing_file_raises(host):
    import slicer

    with pytest.raises(RuntimeError):
        slicer.util.loadUI("no/such/file.ui")


def test_node_selector_follows_the_scene(host, scene):
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
def parameters(host, scene):
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


def test_parameters_survive_saving_and_reopening_the_scene(parameters, scene, tmp_path):
    import slicer

    volume = slicer.util.addVolumeFromArray(np.ones((3, 4, 5), "int16"), name="vol")
    parameters.lam, parameters.fixed, parameters.names = 0.75, volume, ["a", "b"]
    assert slicer.util.saveScene(str(tmp_path / "scene.mrml"))
    scene.Clear(0)
    assert parameters.lam == 0.25  # the node is a singleton: it stays, emptied; reading gives the default
    slicer.util.loadScene(str(tmp_path / "scene.mrml"))
    assert parameters.lam == 0.75 and parameters.names == ["a", "b"]
    assert parameters.fixed.GetName() == "vol"


def test_gui_is_connected_by_dynamic_property(parameters, form, scene):
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


def test_checkable_selector(host, scene, qt):
    import slicer

    combo, told = slicer.qMRMLCheckableNodeComboBox(), []
    combo.nodeTypes = ["vtkMRMLModelNode"]
    combo.setMRMLScene(scene)
    combo.connect("checkedNodesChanged()", lambda: told.append(1))
    first, second = (scene.AddNewNodeByClass("vtkMRMLModelNode", name) for name in "AB")
    combo.setCheckState(second, qt.Qt.Checked)
    assert combo.checkedNodes() == (second,) and combo.uncheckedNodes() == (first,)
    scene.RemoveNode(second)
    assert combo.noneChecked() and len(told) == 2


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


def test_combo_box_needs_choice_and_slider_needs_bounds(scene, qt, ctk):
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
