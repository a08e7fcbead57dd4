"""The browser app beyond λ, without a browser: refine, response, suggested λ, γ, regions, the warning, the files."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import METRICS
from view_app_bench import app, module_app, pair, pair_files, picture, register  # noqa: F401

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.phantom import LABEL_NAMES
from hyperreg.view import chart, mrml


def happen(app, event) -> None:
    app.client.news.append(event)
    app.controller.step()


def test_refine_is_shown_undone_and_brought_back(app) -> None:
    state, tuning = app.server.state, app.controller.tuning
    assert not state.can_refine
    register(app)
    assert state.can_refine
    before = picture(app)
    tuning.refine()
    assert (state.refining, state.can_refine) == (True, False)
    happen(app, lambda: app.live.on_refine_progress(0.25, "Level 1 of 3"))
    assert (state.refine_progress, state.refine_text) == (25.0, "Level 1 of 3")
    happen(app, app.live.answer_refined)
    assert (state.refining, state.refined, state.can_save, state.fresh) == (False, True, True, True)
    assert state.refine_note == "Refined in 30 steps."
    assert next(row["now"] for row in state.rows if row["name"] == "Similarity") == "0.950"
    refined = picture(app)
    assert np.abs(refined - before).max() > 10
    tuning.undo_refine()
    np.testing.assert_array_equal(picture(app), before)
    app.controller.ask_lambda(0.8)
    app.controller.step()
    happen(app, app.live.answer_exact)
    assert (state.can_redo, state.refined) == (True, False)
    assert "λ = 0.30 is put aside" in state.refine_note
    tuning.redo_refine()
    app.controller.step()
    assert (state.lam, state.refined, app.live.exact_lam) == (0.3, True, 0.3)
    np.testing.assert_array_equal(picture(app), refined)


def test_figures_of_an_ended_refinement_are_not_those_of_what_is_shown(app, monkeypatch) -> None:
    """Regions end it; the new field is there before its figures, which are dimmed and not kept until then."""
    state, tuning, live = app.server.state, app.controller.tuning, app.live
    register(app)
    tuning.refine()
    happen(app, live.answer_refined)
    app.controller.use_fixed_labels()
    tuning.set_region(state.regions[0]["key"], True, 0.9)
    assert (state.can_save, state.fresh) == (False, False)
    live.exact_lam = 0.3
    happen(app, lambda: live.on_field(live.fields(0.3), 0.3, True))
    assert (state.can_save, state.fresh) == (True, False)
    happen(app, lambda: live.on_metrics(METRICS, 0.3))
    assert state.fresh
    tuning.remove_regions()
    happen(app, live.answer_exact)
    tuning.refine()
    happen(app, live.answer_refined)
    monkeypatch.setattr(live, "answer_exact", lambda: live.on_field(live.fields(0.3), 0.3, True))
    tuning.undo_refine()
    assert (state.can_save, state.fresh) == (True, False), "nothing was measured of the network's field yet"


def test_cancel_leaves_the_picture(app) -> None:
    register(app)
    before = picture(app)
    app.controller.tuning.refine()
    app.controller.tuning.cancel_refine()
    assert not app.server.state.refining
    assert app.server.state.can_save
    np.testing.assert_array_equal(picture(app), before)


def test_the_files_are_those_of_the_refinement(app, pair) -> None:
    register(app)
    app.controller.tuning.refine()
    happen(app, app.live.answer_refined)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert app.server.state.downloads_title == "Result at λ = 0.30, refined"
    names = {entry["title"]: entry for entry in app.server.state.downloads}
    assert all("-refined" in entry["name"] for entry in names.values())
    entry = app.files.find(names["Registered moving image"]["url"].split("/")[1])
    fields = app.live.refined_fields(0.3)
    expected = resample(pair.moving, pair.fixed.grid, Transform((fields.forward, app.live.linear)))
    np.testing.assert_allclose(read_volume(entry.path).array, expected.array, atol=0.5)
    network = resample(pair.moving, pair.fixed.grid, Transform((app.live.fields(0.3).forward, app.live.linear)))
    assert np.abs(network.array - expected.array).max() > 20, "else the two could not be told apart"


def test_the_response_is_drawn_and_clicked(app) -> None:
    state, tuning = app.server.state, app.controller.tuning
    register(app)
    assert "Measuring" in state.response_svg
    happen(app, lambda: app.live.answer_response(complete=False))
    assert "measuring: 3 of 12" in state.response_svg
    assert state.suggested == ""
    happen(app, app.live.answer_response)
    assert (state.suggested, state.suggestion_taken) == ("0.20", False)
    assert "Dice" in state.suggestion_reason
    assert "suggested 0.20" in state.response_svg
    assert "Dice" in state.response_svg
    plot = mrml.slicer_module("ResponsePlot")
    drawn = state.response_svg
    tuning.click_response(plot.x_of(0.66, chart.WIDTH))
    assert state.lam == pytest.approx(0.66)
    app.controller.step()
    assert app.live.asked[-1] == pytest.approx(0.66)
    assert state.response_svg != drawn
    for nonsense in (None, "12", float("nan"), True, {}):
        tuning.click_response(nonsense)
    assert state.lam == pytest.approx(0.66)
    tuning.use_suggested()
    app.controller.step()
    assert (state.lam, state.suggestion_taken) == (0.2, True)
    app.controller.reset()
    assert (state.suggested, state.refine_note) == ("", "")


def test_worse_than_the_linear_alignment_is_said(app) -> None:
    register(app)
    assert app.server.state.worse == ""
    happen(app, lambda: app.live.on_metrics({**METRICS, "dice_mean": 0.1}, 0.3))
    assert "worse" in app.server.state.worse
    happen(app, lambda: app.live.on_metrics(METRICS, 0.3))
    assert app.server.state.worse == ""


def test_gamma_is_sent_to_models_that_have_it(app) -> None:
    state, tuning = app.server.state, app.controller.tuning
    assert not state.has_gamma
    register(app)
    app.live.values = {"gamma": 0.5}
    try:
        for gamma in (0.6, 0.7, 0.8):
            tuning.ask_gamma(gamma)
        app.controller.step()
        assert app.live.values == {"gamma": 0.8}
        assert not state.can_save
        tuning.ask_gamma(1.5)
        assert "γ is a number" in state.error
    finally:
        app.live.values = {}


def test_regions_of_the_fixed_label_map(app, pair) -> None:
    state, tuning = app.server.state, app.controller.tuning
    register(app)
    app.controller.use_fixed_labels()
    assert state.regions_name == pair.fixed_labels.name
    values = [int(value) for value in np.unique(pair.fixed_labels.array) if value]
    assert [row["key"] for row in state.regions] == [str(value) for value in values]
    assert [row["name"] for row in state.regions] == [LABEL_NAMES[value].capitalize() for value in values]
    assert not any(row["own"] for row in state.regions)
    tuning.set_region(str(values[1]), True, None)
    tuning.set_region(str(values[1]), True, 0.9)
    labels, lambdas = app.live.regions
    assert lambdas == {values[1]: 0.9}
    assert np.abs(labels.grid.corners - pair.fixed_labels.grid.corners).max() < 1e-3
    np.testing.assert_array_equal(labels.array, pair.fixed_labels.array)
    assert not state.can_save
    for nonsense in (-1, "0.3", float("nan"), True):
        state.error = ""
        tuning.set_region(str(values[0]), True, nonsense)
        assert "between 0" in state.error or "number" in state.error
    assert app.live.regions == (labels, {values[1]: 0.9})
    tuning.set_region(str(values[1]), False, 0.9)
    assert app.live.regions == (None, {})
    tuning.set_region(str(values[1]), True, 0.9)
    tuning.remove_regions()
    assert (app.live.regions, state.regions) == ((None, {}), [])


def test_a_label_map_for_regions_is_uploaded_without_ending_the_registration(app, pair, tmp_path: Path) -> None:
    register(app)
    path = tmp_path / "organs.nii.gz"
    write_volume(pair.fixed_labels, path)
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload("regions", path))
    assert app.server.state.phase == "live"
    assert app.server.state.regions_name == "organs.nii.gz"
    names = [row["name"] for row in app.server.state.regions]
    assert names == [f"Label {row['key']}" for row in app.server.state.regions], "nobody knows what they are"
    app.controller.load_sample(pair)
    assert app.server.state.regions == [], "another fixed image has other regions"
