"""The browser app's slider that moves the border of one structure, with the real scene logic; the worker is played."""

from __future__ import annotations

import asyncio
import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from segmentation_bench import OBLIQUE, soft_eggs
from view_segmentation_bench import colours, segment

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.mrml.segmentation.layer import SURFACE, segment_id
from hyperreg.view import borders
from hyperreg.view.app import App

SHELL, CORE = "Segment_2", "Segment_5"
VOXEL_ML = float(np.prod(OBLIQUE.spacing)) / 1000


@pytest.fixture
def segmented(app: App, tmp_path: Path) -> App:
    """The app with a result whose borders are unsharp, and its core chosen."""
    write_volume(soft_eggs(OBLIQUE), tmp_path / "soft.nii.gz")
    run(app.segmentation.accept_upload("input0", tmp_path / "soft.nii.gz"))
    segment(app)
    choose(app, CORE)
    return app


def run(task: Any) -> Any:
    return asyncio.get_event_loop().run_until_complete(task)


def choose(app: App, key: str) -> None:
    app.segmentation.go_to_segment(key)
    if app.segmenter.borders:
        app.segmenter.tell_border()


def move(app: App, position: Any) -> None:
    """As the browser does it."""
    app.server.state.segment_border = position
    app.segmentation.border.ask(position)
    app.controller.step()


def volume(app: App, key: str) -> float:
    return float(next(row["volume"] for row in app.server.state.segment_rows if row["key"] == key))


def test_the_slider_says_why_it_cannot_be_moved(app: App) -> None:
    state = app.server.state
    segment(app)
    assert (state.segment_border_fixed, state.segment_border_key) == (True, "")
    assert state.segment_border_text == "Choose a structure in the table to move its border."
    move(app, 40)
    assert state.segment_border == 0, "it goes back"
    app.segmentation.go_to_segment(CORE)
    assert (state.segment_border_fixed, state.segment_border_key) == (True, CORE)
    assert state.segment_border_text == "Looking where Core may end..."
    app.segmenter.tell_border()
    assert not state.segment_border_fixed
    assert state.segment_border_text == f"Border of Core: {volume(app, CORE):.2f} ml"
    assert not state.segment_border_can_go_back
    app.segmenter.kept = None  # the worker was started anew, say
    app.segmentation.go_to_segment(SHELL)
    assert (state.segment_border_fixed, state.segment_border_key) == (True, SHELL)
    assert state.segment_border_text.startswith("Segment again to move borders")


def test_picture_volume_and_words_follow_the_slider(segmented: App) -> None:
    state = segmented.server.state
    result, shell = volume(segmented, CORE), volume(segmented, SHELL)
    before, volumes = colours(segmented), []
    for position in (-100, -30, 30, 100):
        move(segmented, position)
        volumes.append(volume(segmented, CORE))
        assert state.segment_border_text == f"Border of Core: {volumes[-1]:.2f} ml ({result:.2f} ml in the result)"
    assert volumes == sorted(set(volumes))
    assert volumes[0] < result < volumes[-1]
    assert volume(segmented, SHELL) < shell, "it lends what the core takes"
    assert np.abs(colours(segmented) - before).max() > 60
    segmented.segmentation.border.back()
    assert (state.segment_border, state.segment_border_can_go_back) == (0, False)
    assert (volume(segmented, CORE), volume(segmented, SHELL)) == (result, shell)
    assert np.abs(colours(segmented) - before).max() < 2


def test_each_structure_has_a_position_of_its_own(segmented: App) -> None:
    state = segmented.server.state
    move(segmented, 40)
    core = volume(segmented, CORE)
    choose(segmented, SHELL)
    assert (state.segment_border, state.segment_border_key) == (0, SHELL)
    choose(segmented, CORE)
    assert (state.segment_border, volume(segmented, CORE)) == (40, core)


def test_the_newest_position_wins_and_the_browser_s_slider_is_left_alone(segmented: App) -> None:
    state, drawn = segmented.server.state, []
    draw = segmented.segmentation.logic.borders.move
    segmented.segmentation.logic.borders.move = lambda position: (drawn.append(position), draw(position))
    for position in (10, 20, 30):
        segmented.segmentation.border.ask(position)
    state.segment_border = 35  # where it is by now
    segmented.controller.step()
    assert (drawn, state.segment_border) == ([30], 35)
    segmented.controller.step()
    assert drawn == [30]


@pytest.mark.parametrize("nonsense", [None, True, "40", 101, -100.5, float("nan"), [1]])
def test_what_is_no_position_moves_nothing(segmented: App, nonsense: Any) -> None:
    move(segmented, 40)
    before = volume(segmented, CORE)
    move(segmented, nonsense)
    assert (segmented.server.state.segment_border, volume(segmented, CORE)) == (40, before)


def test_surfaces_follow_once_the_slider_rests(segmented: App, monkeypatch: pytest.MonkeyPatch) -> None:
    app, state = segmented, segmented.server.state
    state.in_3d = True
    try:
        app._change_3d()
        while app.segmentation.logic.surfaces.pending:
            app.controller.step()
        segment_ = app.segmentation._segment(CORE)
        before = segment_.GetRepresentation(SURFACE).GetBounds()
        move(app, -80)
        app.controller.step()
        assert not app.segmentation.logic.surfaces.pending, "it may go on"
        monkeypatch.setattr(borders, "REST_SECONDS", 0.0)
        app.controller.step()
        while app.segmentation.logic.surfaces.pending:
            app.controller.step()
        after = segment_.GetRepresentation(SURFACE).GetBounds()
        assert after[1] - after[0] < before[1] - before[0] - 0.5  # mm
    finally:
        state.in_3d = False
        app._change_3d()


def test_what_is_downloaded_is_what_is_seen(segmented: App) -> None:
    app, state = segmented, segmented.server.state
    run(app.segmentation.save())
    assert state.segment_downloads != []
    move(app, 60)
    assert state.segment_downloads == [], "they are of the border of before"
    run(app.segmentation.save())
    assert state.error == ""
    paths = [app.files.find(entry["url"].split("/")[1]).path for entry in state.segment_downloads]
    for path in paths[:2]:
        labels = read_volume(path).array
        for key in (SHELL, CORE):
            count = np.count_nonzero(labels == int(key.partition("_")[2]))
            assert count * VOXEL_ML == pytest.approx(volume(app, key), abs=0.006), path
    with paths[3].open(encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert float(rows["Core"]["volume_ml"]) == pytest.approx(volume(app, CORE), abs=0.006)
    assert rows["Core"]["mean_probability"] == "nan", "not known of other voxels than the result's"
    told = app.segmentation.logic.borders.segmented
    assert told.warnings[-1] == "By hand, not by the model: the borders of Outer shell, Core."
    assert {segment_id(label) for label in told.by_hand} == {SHELL, CORE}
    app.segmentation.border.back()
    assert app.segmentation.logic.borders.segmented is app.segmentation._result


def test_undo_asks_before_moved_borders_go(segmented: App) -> None:
    app, state = segmented, segmented.server.state
    move(app, 60)
    app.segmentation.undo()
    assert state.segment_question.startswith("The segmentation was edited since. Remove")
    app.segmentation.answer(False)
    assert (state.segment_question, len(state.segment_rows)) == ("", 2)
    app.segmentation.segment()
    assert (state.segment_yes, state.segment_phase) == ("Segment again", "idle")
    app.segmentation.answer(False)
    app.segmentation.undo()
    app.segmentation.answer(True)
    assert (state.segment_question, state.segment_rows, state.segment_border_key) == ("", [], "")
    assert (state.segment_border, state.segment_border_fixed) == (0, True)
    segment(app)
    app.segmentation.undo()
    assert state.segment_rows == [], "where nothing was moved nobody is asked"
