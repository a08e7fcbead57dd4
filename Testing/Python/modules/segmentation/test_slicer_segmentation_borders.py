"""The slider that moves the border of one structure: what it shows, asks and does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="slicer-core is not installed")
pytest.importorskip("PySide6", reason="PySide6 is not installed")

import slicer
from segmentation_bench import OBLIQUE, soft_eggs

SHELL_ROW, CORE_ROW, VOLUME_COLUMN = 0, 1, 1
VOXEL_ML = float(np.prod(OBLIQUE.spacing)) / 1000


@pytest.fixture
def segmented(module: Any) -> Any:
    """The module with a result, and its core chosen."""
    module.ui.volumeSelector.setCurrentNode(module.add(soft_eggs(OBLIQUE)))
    module.ui.segmentButton.click()
    module.segmenter.answer()
    choose(module, CORE_ROW)
    return module


def choose(module: Any, row: int) -> None:
    module.ui.statisticsTable.setCurrentCell(row, 0)
    module.segmenter.tell_border()


def array_of(module: Any, name: str = "Segment_5") -> np.ndarray:
    found = module.parameters.segmentation
    return slicer.util.arrayFromSegmentBinaryLabelmap(found, name, module.parameters.volume).T == 1


def ml(module: Any) -> float:
    return np.count_nonzero(array_of(module)) * VOXEL_ML


def test_the_slider_is_grey_until_a_structure_is_chosen(module: Any) -> None:
    ui = module.ui
    module.ui.volumeSelector.setCurrentNode(module.add(soft_eggs(OBLIQUE)))
    ui.segmentButton.click()
    module.segmenter.answer()
    assert not ui.borderSlider.enabled
    assert ui.borderLabel.text == "Choose a structure in the table to move its border."
    ui.statisticsTable.setCurrentCell(CORE_ROW, 0)
    assert not ui.borderSlider.enabled
    assert ui.borderLabel.text == "Looking where Core may end..."
    module.segmenter.tell_border()
    assert ui.borderSlider.enabled
    assert ui.borderLabel.text == f"Border of Core: {ml(module):.2f} ml"
    assert not ui.borderBackButton.enabled
    ui.statisticsTable.setCurrentCell(CORE_ROW, VOLUME_COLUMN)  # the same structure: nothing is asked
    assert module.segmenter.borders == []
    module.segmenter.kept = None
    ui.statisticsTable.setCurrentCell(SHELL_ROW, 0)
    assert not ui.borderSlider.enabled
    assert ui.borderLabel.text.startswith("Segment again to move borders")


def test_segment_label_and_table_follow_the_slider(segmented: Any) -> None:
    ui = segmented.ui
    result = array_of(segmented)
    before = ml(segmented)
    volumes = []
    for position in (-100, -30, 30, 100):
        ui.borderSlider.value = position
        volumes.append(ml(segmented))
        assert ui.statisticsTable.item(CORE_ROW, VOLUME_COLUMN).text() == f"{volumes[-1]:.2f}"
        assert ui.borderLabel.text == f"Border of Core: {volumes[-1]:.2f} ml ({before:.2f} ml in the result)"
        assert not (array_of(segmented) & array_of(segmented, "Segment_2")).any()
    assert volumes == sorted(set(volumes))
    ui.borderBackButton.click()
    assert ui.borderSlider.value == 0
    assert np.array_equal(array_of(segmented), result)
    assert ui.borderLabel.text == f"Border of Core: {before:.2f} ml"
    assert ui.statisticsTable.currentRow() == CORE_ROW


def test_each_structure_has_a_position_of_its_own(segmented: Any) -> None:
    ui = segmented.ui
    ui.borderSlider.value = 40
    core = array_of(segmented)
    choose(segmented, SHELL_ROW)
    assert ui.borderSlider.value == 0
    assert np.array_equal(array_of(segmented), core)
    choose(segmented, CORE_ROW)
    assert ui.borderSlider.value == 40
    assert np.array_equal(array_of(segmented), core)


def test_surfaces_follow_when_the_slider_rests(segmented: Any, host: Any) -> None:
    surfaces = segmented.panel.logic.surfaces
    while surfaces.pending:
        segmented.panel._poll()
    segment = segmented.parameters.segmentation.GetSegmentation().GetSegment("Segment_5")
    before = segment.GetRepresentation("Closed surface")
    segmented.ui.borderSlider.value = -80
    host.wait_until(lambda: segment.GetRepresentation("Closed surface") not in (None, before), 20)


def test_back_asks_before_it_drops_what_was_changed_by_hand(segmented: Any, host: Any) -> None:
    ui, found, volume = segmented.ui, segmented.parameters.segmentation, segmented.parameters.volume
    result = array_of(segmented)
    edited = slicer.util.arrayFromSegmentBinaryLabelmap(found, "Segment_5", volume)
    edited[2:5, 2:5, 2:5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(edited, found, "Segment_5", volume)
    ui.borderSlider.value = 50
    assert ui.borderSlider.value == 0
    assert not ui.borderSlider.enabled
    assert ui.borderLabel.text.startswith("Core was changed otherwise.")
    assert np.array_equal(array_of(segmented), edited.T == 1)
    host.records.answer(False, True)
    ui.borderBackButton.click()
    assert host.records.dialogs[-1].text == "Drop everything that was changed by hand in Core?"
    assert np.array_equal(array_of(segmented), edited.T == 1)
    ui.borderBackButton.click()
    assert np.array_equal(array_of(segmented), result)
    assert ui.borderSlider.enabled


def test_undo_of_the_run_takes_moved_borders_away_too(segmented: Any, host: Any) -> None:
    segmented.ui.borderSlider.value = 60
    host.records.answer(True)
    segmented.ui.undoButton.click()
    assert segmented.parameters.segmentation is None
    assert not segmented.ui.resultPanel.visible
    slicer.mrmlScene.Clear(0)
