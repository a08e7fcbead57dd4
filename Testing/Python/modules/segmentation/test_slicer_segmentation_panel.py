"""The segmentation module's panel: what can be pressed when, what the user is told, and what the buttons do."""

from __future__ import annotations

import sys

import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from new_slicer import NOTHING_INSTALLED, without_packages
from segmentation_bench import OBLIQUE, eggs

from hyperreg.imaging.volume import Volume
from hyperreg.segmentation import licences
from hyperreg.segmentation.plausibility import ALARM

# What is done with a scene that was saved elsewhere.
REOPENED = """
import slicer

slicer.util.loadScene(sys.argv[2])
host.process_events()
table = ui.statisticsTable
assert ui.resultPanel.visible and not ui.undoButton.enabled
print([[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)])
table.setCurrentCell(1, 0)
assert not ui.borderSlider.enabled
print(ui.borderLabel.text)
ui.nextDoubtButton.click()
print(ui.doubtLabel.text)
assert ui.segmentButton.enabled
ui.segmentButton.click()
host.process_events(1)
print(ui.messageLabel.text)
assert host.widget(module.name).panel.logic.state == "idle"
assert host.exceptions == [], host.exceptions
"""


def rows(table) -> list[list[str]]:
    return [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]


def test_what_is_missing_is_said_before_anything_runs(module):
    ui = module.ui
    assert not ui.segmentButton.enabled
    assert ui.statusLabel.text == "Load a volume to begin."
    node = module.image()
    module.panel.update()
    assert ui.statusLabel.text == "Choose a volume."
    ui.volumeSelector.setCurrentNode(node)
    assert ui.segmentButton.enabled
    assert ui.statusLabel.text == "Ready: press Segment."
    assert not ui.resultPanel.visible
    labels = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "drawn")
    module.parameters.volume = labels
    assert "'drawn' is a label map" in ui.statusLabel.text
    assert not ui.segmentButton.enabled


def test_the_first_volume_is_the_one_that_is_meant(module):
    node = module.image()
    module.host.process_events(0.05)
    assert module.parameters.volume is node
    assert module.ui.segmentButton.enabled
    module.ui.volumeSelector.setCurrentNode(None)
    module.image("other")
    module.host.process_events(0.05)
    assert module.parameters.volume is None, "which of two is meant is for the user to say"
    assert module.ui.statusLabel.text == "Choose a volume."


def test_what_was_said_of_a_model_goes_with_it(module):
    module.panel._show_message("'head' looks like a CT.")
    module.choose("hyper")
    assert not module.ui.messageLabel.visible


def test_one_press_to_a_result(module):
    ui, node = module.ui, module.image()
    ui.volumeSelector.setCurrentNode(node)
    ui.segmentButton.click()
    ((volumes, model, options),) = module.segmenter.asked
    assert model == "bands"
    assert list(volumes) == ["image"]
    assert volumes["image"].grid.matches(OBLIQUE)
    assert options == {"device": "auto", "flips": False, "align": False, "ensemble": False, "hyperparameters": {}}
    assert ui.segmentButton.text == "Cancel"
    assert ui.progressBar.visible
    assert not ui.volumeSelector.enabled
    module.segmenter.progress(0.42, "Segmenting")
    assert ui.progressBar.value == 42
    assert ui.statusLabel.text == "Segmenting"
    segmented = module.segmenter.answer(("Look closely at the rest.",))
    assert ui.segmentButton.text == "Segment"
    assert not ui.progressBar.visible
    assert ui.messageLabel.text == "Look closely at the rest."
    assert ui.summaryLabel.text == "'head', Eggs: 2 of 2 structures found in 5 s."
    quiet = ui.messageLabel.styleSheet
    ui.segmentButton.click()
    module.segmenter.answer((f"{ALARM}: it cannot be what 'bands' is for.",))
    assert "#b3261e" in ui.messageLabel.styleSheet  # red, and plain again with the next message
    ui.segmentButton.click()
    assert ui.messageLabel.styleSheet == quiet
    shown = rows(ui.statisticsTable)
    assert [row[0] for row in shown] == ["Outer shell", "Core"]
    assert [float(row[1]) for row in shown] == [pytest.approx(v.volume_ml, abs=0.006) for v in segmented.volumes]
    low, high = (float(number) for number in shown[1][2].split(" – "))
    assert low <= float(shown[1][1]) <= high
    assert "Test card" in "".join(ui.deviceCombo.itemText(n) for n in range(ui.deviceCombo.count))


def test_cancelling_leaves_everything_as_it_was_at_once(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    before = module.content()
    ui.segmentButton.click()
    ui.segmentButton.click()
    assert ui.segmentButton.text == "Segment"
    assert ui.segmentButton.enabled
    assert module.content() == before
    assert not ui.resultPanel.visible


def test_a_refusal_is_told_and_leaves_everything_as_it_was(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    before = module.content()
    ui.segmentButton.click()
    module.segmenter.fail("'head' looks like a CT, but the model 'bands' is for MR images.")
    assert "looks like a CT" in ui.messageLabel.text
    assert ui.segmentButton.enabled
    assert module.content() == before
    ui.segmentButton.click()
    assert ui.messageLabel.text == ""


MADE = ("bands", "chest", "hyper", "two")


def test_the_search_field_narrows_the_list_and_loses_no_choice(module):
    ui = module.ui

    def listed() -> list[str]:
        shown = [ui.modelCombo.itemData(n) for n in range(ui.modelCombo.count)]
        return [name for name in shown if name in MADE]  # those that come with HyperReg are there, too

    assert listed() == list(MADE)
    ui.searchEdit.text = "flair"
    assert listed() == ["bands", "two"]
    assert module.parameters.model == "bands"
    ui.searchEdit.text = "nothing like this"
    assert listed() == ["bands"]
    assert ui.modelDescriptionLabel.text.startswith("No model fits 'nothing like this'.")
    ui.searchEdit.text = ""
    assert ui.modelDescriptionLabel.text.startswith("For tests.\nFor MRI; finds 2: Outer shell, Core.")
    assert "Test et al." in ui.modelCombo.toolTip
    module.choose("chest")
    assert module.parameters.model == "chest"
    assert "For CT" in ui.modelDescriptionLabel.text


def test_rows_for_more_images_only_where_the_model_wants_them(module):
    ui = module.ui
    assert not ui.inputsPanel.visible
    assert ui.volumeLabel.text == "Volume:"
    first, second = module.image("sub-01_T1w t1"), module.image("sub-01_flair")
    module.choose("two")
    assert ui.inputsPanel.visible
    assert ui.volumeLabel.text == "T1 image:"
    assert list(module.panel.inputs.selectors) == ["FLAIR"]
    # Both were recognised by their names.
    assert module.parameters.volume is first
    assert module.panel.inputs.selectors["FLAIR"].currentNode() is second
    assert ui.segmentButton.enabled
    module.panel.inputs.selectors["FLAIR"].setCurrentNode(None)
    assert "Choose the volume that is the input FLAIR image" in ui.statusLabel.text
    module.panel.inputs.selectors["FLAIR"].setCurrentNode(first)
    assert "is chosen as T1 and as FLAIR" in ui.statusLabel.text
    module.panel.inputs.selectors["FLAIR"].setCurrentNode(second)
    ui.alignCheckBox.checked = True
    ui.segmentButton.click()
    volumes, model, options = module.segmenter.asked[-1]
    assert (list(volumes), model, options["align"]) == (["T1", "FLAIR"], "two", True)
    ui.segmentButton.click()
    module.choose("bands")
    assert not ui.inputsPanel.visible
    assert not ui.alignCheckBox.enabled


def test_which_image_is_which_is_told_by_a_look(module):
    ui = module.ui
    first, second = module.image("scan A"), module.image("scan B")
    module.parameters.volume = first
    ui.segmentButton.click()
    module.segmenter.answer()  # its uncertainty map is a volume, too
    module.choose("two")
    assert module.panel.inputs.selectors["FLAIR"].currentNode() is None
    module.panel.inputs.recogniseButton.click()
    assert ui.messageLabel.text == "Looking which image is which..."
    volumes, model, told = module.segmenter.looked
    assert ([volume.name for volume in volumes], model) == (["scan A", "scan B"], "two")
    told({"T1": 1, "FLAIR": 0}, "By their contrast: scan B is T1. Check it.")
    assert module.parameters.volume is second
    assert module.panel.inputs.selectors["FLAIR"].currentNode() is first
    assert ui.messageLabel.text == "By their contrast: scan B is T1. Check it."
    module.panel.inputs.recogniseButton.click()
    told({}, "")
    assert "cannot be told" in ui.messageLabel.text
    assert module.parameters.volume is second
    slicer.mrmlScene.RemoveNode(first)
    module.panel.inputs.recogniseButton.click()
    assert "needs 2 images of one patient; only 1 are open" in ui.messageLabel.text


def test_flips_count_only_for_models_that_know_them(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    ui.flipsCheckBox.checked = True
    for model, flips in (("chest", False), ("bands", True)):
        module.choose(model)
        assert ui.flipsCheckBox.enabled == flips
        ui.segmentButton.click()
        assert module.segmenter.asked[-1][2]["flips"] == flips
        module.segmenter.fail("no")


def test_a_slider_for_what_the_model_declares(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    assert not ui.slidersPanel.visible
    module.choose("hyper")
    ui.optionsSection.collapsed = False
    assert ui.slidersPanel.visible
    (slider,) = module.panel.sliders.sliders.values()
    assert slider.value == pytest.approx(0.3)
    assert slider.toolTip == "How fine."
    slider.value = 0.65
    ui.segmentButton.click()
    assert module.segmenter.asked[-1][2]["hyperparameters"] == {"detail": 0.65}
    module.segmenter.fail("no")
    module.choose("bands")
    ui.segmentButton.click()
    assert module.segmenter.asked[-1][2]["hyperparameters"] == {}


def test_the_licence_is_shown_before_the_first_use(module, host, monkeypatch, qt):
    accepted = []
    monkeypatch.setattr(licences, "is_accepted", lambda card: card.name in accepted)
    monkeypatch.setattr(licences, "accept", lambda card: accepted.append(card.name))
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    host.records.answer(qt.QMessageBox.No, qt.QMessageBox.Yes)
    ui.segmentButton.click()
    assert module.segmenter.asked == []
    assert "licence was not accepted" in ui.messageLabel.text
    ui.segmentButton.click()
    assert len(module.segmenter.asked) == 1
    module.segmenter.fail("no")
    ui.segmentButton.click()
    assert len(host.records.dialogs) == 2
    assert "Apache-2.0" in str(host.records.dialogs[0])


def test_a_model_is_added_after_its_licence_was_accepted(module, host, qt):
    ui, store = module.ui, module.connection.store
    ui.addModelButton.click()
    assert "Choose the folder or the file" in ui.messageLabel.text
    ui.modelPathEdit.currentPath = "/a/model.zip"
    host.records.answer(qt.QMessageBox.No, qt.QMessageBox.Yes)
    ui.addModelButton.click()
    assert not ui.addModelButton.enabled
    store.answer("You may do this and that.")
    assert "nothing was added" in ui.messageLabel.text
    assert store.asked == [("licence", "/a/model.zip")]
    ui.addModelButton.click()
    store.answer("You may do this and that.")
    assert store.asked[-1] == ("add", "/a/model.zip")
    store.answer("chest")
    assert module.parameters.model == "chest"
    assert ui.addModelButton.enabled
    ui.addModelButton.click()
    store.on_error("'model.zip' is not a zip file, or it is damaged.")
    assert "is damaged" in ui.messageLabel.text
    assert ui.addModelButton.enabled


def test_a_model_s_folder_is_browsed_for(module, host):
    ui = module.ui
    ui.modelPathEdit.currentPath = "/a/model.zip"
    host.records.answer("", "/models/organs")
    ui.modelFolderButton.click()
    assert ui.modelPathEdit.currentPath == "/a/model.zip"  # the dialog was cancelled
    ui.modelFolderButton.click()
    assert ui.modelPathEdit.currentPath == "/models/organs"
    ui.addModelButton.click()
    assert module.connection.store.asked == [("licence", "/models/organs")]


class Editor:
    """Slicer's module Segment Editor, as far as it is used."""

    def __init__(self) -> None:
        self.shown: list[object] = []
        self.editor = self

    def widgetRepresentation(self) -> Editor:
        return self

    def self(self) -> Editor:
        return self

    def setSegmentationNode(self, node: object) -> None:
        self.shown.append(node)

    setSourceVolumeNode = setSegmentationNode


@pytest.fixture
def editor(host, monkeypatch):
    """A Slicer with the module Segment Editor; the host has none."""
    found = Editor()
    monkeypatch.setattr(slicer.modules, "segmenteditor", found, raising=False)
    return found


def test_the_segment_editor_goes_on_with_the_result(editor, module, monkeypatch):
    monkeypatch.setattr(slicer.util, "selectModule", editor.shown.append)
    ui, node = module.ui, module.image()
    ui.volumeSelector.setCurrentNode(node)
    ui.segmentButton.click()
    module.segmenter.answer()
    assert ui.editButton.visible
    ui.editButton.click()
    assert editor.shown == ["SegmentEditor", module.parameters.segmentation, node]


def test_the_segment_editor_is_offered_only_where_it_is(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    ui.segmentButton.click()
    module.segmenter.answer()
    assert ui.resultPanel.visible
    assert not ui.editButton.visible


def test_the_scene_may_close_while_a_case_runs(module):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    ui.segmentButton.click()
    slicer.mrmlScene.Clear(0)
    assert not module.segmenter.running
    module.panel.update()
    assert ui.segmentButton.text == "Segment"
    ui.volumeSelector.setCurrentNode(module.image("another"))
    ui.segmentButton.click()
    module.segmenter.answer()
    assert "'another', Eggs" in ui.summaryLabel.text


def test_a_reopened_scene_shows_its_result_again(module, tmp_path):
    ui = module.ui
    ui.volumeSelector.setCurrentNode(module.image())
    ui.segmentButton.click()
    module.segmenter.answer()
    before = rows(ui.statisticsTable)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(0)
    assert not ui.resultPanel.visible
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert ui.resultPanel.visible
    assert [row[0] for row in rows(ui.statisticsTable)] == [row[0] for row in before]
    ui.nextDoubtButton.click()
    assert ui.doubtLabel.text.startswith("Doubtful region 1 of ")
    assert not ui.undoButton.enabled


def test_a_saved_result_is_seen_and_gone_through_where_nothing_is_installed(module, tmp_path):
    module.ui.volumeSelector.setCurrentNode(module.image())
    module.ui.segmentButton.click()
    module.segmenter.answer()
    scene = tmp_path / "scene.mrb"
    assert slicer.util.saveScene(str(scene))
    said = without_packages(
        "SegmentationModule", tmp_path, NOTHING_INSTALLED + REOPENED, str(scene)
    ).splitlines()  # fmt: skip
    assert said[0].startswith("Not installed: torch")
    assert said[1] == str(rows(module.ui.statisticsTable))
    assert said[2].startswith("Segment again to move borders")
    assert said[3].startswith("Doubtful region 1 of ")
    assert "not installed" in said[4]


def test_leaving_and_entering_the_module_keeps_everything(module):
    module.ui.volumeSelector.setCurrentNode(module.image())
    module.ui.segmentButton.click()
    module.widget.exit()
    module.segmenter.answer()
    module.widget.enter()
    module.panel.update()
    assert module.ui.summaryLabel.visible
    assert module.ui.segmentButton.text == "Segment"


def test_reload_takes_its_own_scene_logic_anew_and_leaves_what_the_other_module_has_a_part_in(
    same_library_afterwards, module
):
    own = {"SegmentationModuleLib.Widget", "hyperreg.mrml.segmentation.logic", "hyperreg.mrml.fusion.logic"}
    shared = {"HyperRegSlicerLib.Panel", "hyperreg.mrml.regions"}
    before = {name: sys.modules[name] for name in own | shared}
    module.widget.onReload()
    assert {name for name, found in before.items() if sys.modules[name] is not found} == own
    widget = slicer.util.getModuleWidget("SegmentationModule")
    assert widget is not module.widget
    assert module.connection.closed
    assert type(widget.panel.logic) is sys.modules["hyperreg.mrml.segmentation.logic"].SegmentationLogic
    assert widget.panel.parameters.model == "bands"


def test_every_widget_that_can_be_used_has_a_tooltip(module):
    for name, widget in vars(module.ui).items():
        if name.endswith(("Button", "Combo", "Selector", "CheckBox", "Edit", "Section", "Table")):
            assert widget.toolTip, name


def test_the_volume_of_a_changed_image_is_not_mixed_up(module):
    """Labels of other voxels would lie at the wrong place."""
    node = module.image()
    module.ui.volumeSelector.setCurrentNode(node)
    module.ui.segmentButton.click()
    from hyperreg.mrml import geometry

    smaller = eggs(OBLIQUE).array[:-2]
    geometry.volume_to_node(Volume(smaller, OBLIQUE.ijk_to_ras), node)
    before = module.content()
    module.segmenter.answer()
    assert "was changed while it was segmented" in module.ui.messageLabel.text
    assert module.content() == before
