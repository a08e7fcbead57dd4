"""The section "Atlases": targets by a folder of atlases, segmentations of several readers, and what comes of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from fake_fusion import CORE, RIM
from segmentation_bench import OBLIQUE

from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Volume


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return str(tmp_path)


def ready(module, folder: str, *names: str):
    """Volumes that are checked as targets, with a folder chosen."""
    nodes = [module.image(name) for name in names or ("head",)]
    module.ui.atlasFolderEdit.currentPath = folder
    for node in nodes:
        module.ui.atlasTargetsSelector.setCheckState(node, 2)
    module.panel.atlases.update()
    return nodes


def cells(module, column: int) -> list[str]:
    table = module.ui.ratersTable
    return [table.item(row, column).text() for row in range(table.rowCount)]


def test_nothing_can_be_pressed_before_targets_and_folder_are_chosen(module, folder):
    ui = module.ui
    assert not ui.atlasRunButton.enabled
    assert not ui.readersButton.enabled
    assert ui.atlasStatusLabel.text == "Choose a volume."
    ready(module, folder)
    assert ui.atlasRunButton.enabled
    assert ui.atlasStatusLabel.text == ""
    ui.atlasFolderEdit.currentPath = ""
    assert not ui.atlasRunButton.enabled
    assert module.parameters.atlasFolder == ""
    assert ui.atlasStatusLabel.text == "Choose the folder of the atlases."


def test_without_a_check_the_volume_at_the_top_is_segmented(module, folder):
    ui = module.ui
    node = module.image()
    ui.atlasFolderEdit.currentPath = folder
    ui.volumeSelector.setCurrentNode(node)
    assert ui.atlasRunButton.enabled
    ui.atlasRunButton.click()
    ((_folder, target, _options),) = module.connection.fuser.asked
    assert target.name == "head"
    module.connection.fuser.answer()
    assert module.parameters.consensus.GetName() == "head consensus"


def test_one_press_to_a_consensus(module, folder):
    ui, fuser = module.ui, module.connection.fuser
    (node,) = ready(module, folder)
    assert module.parameters.atlasMethod == "local"
    ui.atlasMethodCombo.setCurrentIndex(ui.atlasMethodCombo.findData("staple"))
    ui.atlasLambdaSlider.value = 0.45
    ui.atlasSelectSpinBox.value = 3
    ui.atlasRunButton.click()
    ((asked, target, options),) = fuser.asked
    assert asked == folder
    assert target.grid.matches(OBLIQUE)
    assert options == {
        "method": "staple", "lam": 0.45, "refine": False, "select": 3, "device": "auto",
    }  # fmt: skip
    assert ui.atlasRunButton.text == "Cancel"
    fuser.progress(0.4, "a9: Aligning: affine (1 of 3 atlases done)")
    assert ui.atlasProgressBar.value == 40
    assert ui.atlasStatusLabel.text == "a9: Aligning: affine (1 of 3 atlases done)"
    fused = fuser.answer(("Left out: bad.",))
    assert ui.atlasRunButton.text == "Segment by atlases"
    assert ui.messageLabel.text == "Left out: bad."
    assert "2 structures from 3 of 4 label maps" in ui.atlasSummaryLabel.text
    assert "bad (left out): The registration failed." in ui.atlasSummaryLabel.text
    segmentation = module.parameters.consensus
    found = segmentation.GetSegmentation()
    names = [found.GetNthSegment(n).GetName() for n in range(found.GetNumberOfSegments())]
    assert names == ["Core", "Rim"]
    assert found.GetNthSegment(0).GetColor() == pytest.approx((220 / 255, 60 / 255, 40 / 255))
    core = slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, "Segment_300", node)
    np.testing.assert_array_equal(core.T == 1, fused.labels.array == 300)
    # Slicer gives the centre of a voxel.
    away = np.array(segmentation.GetSegmentCenter("Segment_300")) - OBLIQUE.centre
    assert np.linalg.norm(away) < np.linalg.norm(OBLIQUE.spacing)


def test_the_table_of_label_maps_sorts_by_numbers(module, folder, qt):
    ready(module, folder)
    module.ui.atlasRunButton.click()
    module.connection.fuser.answer()
    table = module.ui.ratersTable
    assert sorted(cells(module, 0)) == ["a10", "a2", "a9", "bad"]
    table.sortItems(2, qt.Qt.DescendingOrder)
    assert cells(module, 0)[:3] == ["a9", "a10", "a2"]
    assert cells(module, 2)[:3] == ["0.95", "0.91", "0.6"]
    table.sortItems(1, qt.Qt.DescendingOrder)
    assert cells(module, 1)[:3] == ["0.5", "0.4", "0.1"]
    row = cells(module, 0).index("bad")
    assert table.item(row, 7).text() == "left out"
    assert table.item(row, 7).toolTip() == "The registration failed."
    assert not module.ui.weightsPlot.pixmap.isNull()


def test_titles_and_figures_of_the_table_are_not_clipped(module, folder, qt):
    ready(module, folder)
    module.ui.atlasRunButton.click()
    module.connection.fuser.answer()
    table = module.ui.ratersTable
    header, style = table.horizontalHeader(), table.style()
    margin, arrow = (2 * style.pixelMetric(qt.QStyle.PM_HeaderMargin), style.pixelMetric(qt.QStyle.PM_HeaderMarkSize))
    titles = [table.horizontalHeaderItem(column).text() for column in range(table.columnCount)]
    assert titles[1] == "Weight"
    for ordered in range(table.columnCount):
        table.sortItems(ordered, qt.Qt.DescendingOrder)
        for column, title in enumerate(titles):
            # Qt cuts a title to what is left beside the margin and, where the table is sorted by it, the arrow.
            room = table.columnWidth(column) - margin - arrow * (column == ordered)
            assert header.fontMetrics().horizontalAdvance(title) <= room, title
            assert table.sizeHintForColumn(column) <= table.columnWidth(column), title
        assert header.length() <= table.viewport().width, "all columns are seen at once"


def test_disagreement_over_the_views_and_from_place_to_place(module, folder):
    ui = module.ui
    ready(module, folder)
    ui.atlasRunButton.click()
    module.connection.fuser.answer()
    ui.nextDisagreementButton.click()
    assert ui.disagreementLabel.text.startswith("Disagreement 1 of 1: ")
    red = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceNodeRed")
    shown = np.array([red.GetSliceToRAS().GetElement(row, 3) for row in range(3)])
    normal = np.array([red.GetSliceToRAS().GetElement(row, 2) for row in range(3)])
    place = OBLIQUE.centre + np.array((9.0, 0.0, 0.0))
    assert abs(normal @ (shown - place)) < 4  # mm: the ball's radius
    composite = slicer.mrmlScene.GetNodeByID("vtkMRMLSliceCompositeNodeRed")
    before = composite.GetForegroundVolumeID()
    ui.showDisagreementCheckBox.checked = True
    overlay = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
    assert overlay.GetName() == "head disagreement"
    assert not module.parameters.consensus.GetDisplayNode().GetVisibility2DFill()  # outlines, or the map is not seen
    ui.showDisagreementCheckBox.checked = False
    assert composite.GetForegroundVolumeID() == before
    assert module.parameters.consensus.GetDisplayNode().GetVisibility2DFill()


def test_undo_takes_everything_out(module, folder):
    ready(module, folder)
    before = module.content()
    module.ui.atlasRunButton.click()
    module.connection.fuser.answer()
    assert len(module.content()) > len(before) + 3
    module.ui.showDisagreementCheckBox.checked = True
    module.ui.atlasUndoButton.click()
    assert module.content() == before
    assert not module.ui.atlasResultPanel.visible
    assert not module.ui.atlasUndoButton.enabled


def test_several_targets_one_after_another_and_a_failure_in_between(module, folder):
    ui, fuser = module.ui, module.connection.fuser
    ready(module, folder, "one", "two", "three")
    ui.atlasRunButton.click()
    fuser.answer()
    fuser.progress(0.5, "a9: Aligning")
    assert ui.atlasStatusLabel.text == "two (2 of 3): a9: Aligning"
    assert ui.atlasProgressBar.value == 50
    fuser.fail("'two' looks like a label map.")
    fuser.answer()
    assert [target.name for _folder, target, _options in fuser.asked] == ["one", "two", "three"]
    assert "two: 'two' looks like a label map." in ui.atlasSummaryLabel.text
    names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
    assert names == {"one consensus", "three consensus"}


def test_cancel_and_errors_leave_the_scene_as_it_was(module, folder):
    ui, fuser = module.ui, module.connection.fuser
    ready(module, folder)
    before = module.content()
    ui.atlasRunButton.click()
    ui.atlasRunButton.click()
    assert ui.atlasRunButton.text == "Segment by atlases"
    assert ui.atlasRunButton.enabled
    ui.atlasRunButton.click()
    fuser.fail("The atlas folder does not exist.")
    assert ui.messageLabel.text == "The atlas folder does not exist."
    assert module.content() == before


def test_a_folder_is_looked_through(module, folder):
    ui, fuser = module.ui, module.connection.fuser
    ready(module, folder)
    ui.atlasCheckButton.click()
    fuser.found()
    assert [ui.atlasList.item(n).text() for n in range(ui.atlasList.count)] == [
        "a10  (a10_T1.nii.gz)",
        "bad: 'bad_labels.nii.gz' is damaged.",
    ]
    assert ui.atlasList.visible
    picture = ui.atlasList.item(0).icon().pixmap(96, 96).toImage()
    assert (picture.width(), picture.height()) == (96, 96)
    assert [picture.pixelColor(*place).name() for place in ((45, 45), (5, 5), (90, 50))] == ["#c8b400"] + 2 * [
        "#000000"
    ]
    assert ui.atlasStatusLabel.text == "1 of 2 atlases can be used."


def reader(module, reference, name: str, order: tuple[str, ...], shift: int):
    """A segmentation with a block per name, drawn on the reference's voxels."""
    from hyperreg.mrml.segmentation import results

    labels = np.zeros(OBLIQUE.shape, np.uint8)
    structures = []
    for number, word in enumerate(order, start=1):
        start = 4 if word.casefold() == "tumour" else 14
        labels[start + shift : start + 6 + shift, 5:12, 5:12] = number
        structures.append(Structure(number, number, word, (40 * number, 100, 100)))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    results.fill_segmentation(node, reference, Volume(labels, OBLIQUE.ijk_to_ras), structures)
    return node, labels


def test_segmentations_of_several_readers_are_matched_by_names(module):
    ui, fuser = module.ui, module.connection.fuser
    node = module.image()
    first, drawn = reader(module, node, "reader 1", ("Tumour", "Oedema"), 0)
    second, _drawn = reader(module, node, "reader 2", ("oedema", "TUMOUR"), 1)
    for segmentation in (first, second):
        ui.readersSelector.setCheckState(segmentation, 2)
    assert ui.readersButton.enabled
    offered = [ui.readersMethodCombo.itemData(n) for n in range(ui.readersMethodCombo.count)]
    assert offered == ["vote", "staple"]  # the others compare images of atlases
    assert module.parameters.readersMethod == "vote"
    ui.readersMethodCombo.setCurrentIndex(1)
    ui.readersButton.click()
    ((kind, maps, options),) = fuser.asked
    assert kind == "maps"
    assert options["method"] == "staple"
    assert [(entry.label, entry.name) for entry in options["structures"]] == [(1, "Tumour"), (2, "Oedema")]
    assert [entry.name for entry in maps] == ["reader 1", "reader 2"]
    assert all(entry.grid.matches(OBLIQUE) for entry in maps)
    np.testing.assert_array_equal(maps[0].array, drawn)
    assert (maps[1].array[5:11, 5:12, 5:12] == 1).all()
    fuser.answer()
    assert module.parameters.consensus.GetName() == "head consensus"


def test_the_consensus_keeps_the_readers_terminology(module):
    from hyperreg.mrml.segmentation.results import terminology_of

    ui, fuser = module.ui, module.connection.fuser
    node = module.image()
    for name, words in (("reader 1", (CORE.name, RIM.name)), ("reader 2", (RIM.name.upper(), CORE.name.upper()))):
        segmentation, _drawn = reader(module, node, name, words, 0)
        segments = segmentation.GetSegmentation()
        core = segments.GetNthSegment([word.casefold() for word in words].index(CORE.name.casefold()))
        core.SetTag(core.GetTerminologyEntryTagName(), f"entry of {name}")
        ui.readersSelector.setCheckState(segmentation, 2)
    ui.readersButton.click()
    fuser.answer()
    segments = module.parameters.consensus.GetSegmentation()
    found = [segments.GetNthSegment(index) for index in range(segments.GetNumberOfSegments())]
    assert {s.GetName(): terminology_of(s) for s in found} == {CORE.name: "entry of reader 1", RIM.name: ""}


def test_unusable_readers_are_named(module):
    ui = module.ui
    node = module.image()
    first, _drawn = reader(module, node, "reader 1", ("Tumour",), 0)
    empty = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "nobody")
    for segmentation in (first, empty):
        ui.readersSelector.setCheckState(segmentation, 2)
    ui.readersButton.click()
    assert "'nobody' holds no segments" in ui.messageLabel.text
    assert module.connection.fuser.asked == []


def test_a_reopened_panel_shows_the_saved_consensus(module, folder):
    ready(module, folder)
    module.ui.atlasRunButton.click()
    module.connection.fuser.answer()
    module.panel.release_parameters()
    module.panel.atlases.show(None)
    assert not module.ui.atlasResultPanel.visible
    module.panel.set_parameters(module.widget.logic.parameters())
    assert sorted(cells(module, 0)) == ["a10", "a2", "a9", "bad"]
    assert module.ui.atlasFolderEdit.currentPath == folder
    assert module.ui.nextDisagreementButton.enabled
