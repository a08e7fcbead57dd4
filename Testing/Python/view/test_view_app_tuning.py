"""The browser app beyond λ, without a browser: stages, response, suggested λ, γ, regions, the warning, the files."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import FULL, METRICS, QUICK
from view_app_bench import open_phantom, picture, register

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.mrml.registration import response_plot as plot
from hyperreg.phantom import LABEL_NAMES
from hyperreg.view import chart
from hyperreg.worker.live.state import Shown


def happen(app, event) -> None:
    app.client.news.append(event)
    app.controller.step()


def test_every_stage_is_shown_and_named(app) -> None:
    """A draft, the quick result and full resolution of one λ; the picture is the newest one's."""
    state, live = app.server.state, app.live
    assert (state.stage_text, state.work_text, state.can_request_full) == ("", "", False)
    register(app)
    assert (state.stage_text, state.solved, state.can_save, state.fresh) == ("Quick result (2 mm)", True, True, True)
    quick = picture(app)
    happen(app, lambda: live.work(FULL, 0.25))
    assert state.work_text == "Full resolution (1 mm) at λ = 0.30"
    assert (state.work_progress, state.full_running) == (25.0, True)
    happen(app, live.rest)
    happen(app, lambda: live.show(_full_of(live)))
    assert (state.work_text, state.full_running) == ("", False)
    assert (state.stage_text, state.can_save) == ("Full resolution (1 mm)", True)
    assert not state.fresh, "the numbers of the quick result are not those of this one"
    assert {row["now"] for row in state.rows} == {""}
    assert np.abs(picture(app) - quick).max() > 10
    happen(app, lambda: live.answer_metrics({**METRICS, "similarity": 0.95}))
    assert state.fresh
    assert next(row["now"] for row in state.rows if row["name"] == "Similarity") == "0.950"
    app.controller.ask_lambda(0.8)
    app.controller.step()
    assert (state.stage_text, state.can_save) == ("Preview between two computed λ", False)


def _full_of(live) -> Shown:
    """Full resolution at the λ of now: half of the quick field, so that the two can be told apart."""
    quick = live.fields(live.lam)
    forward, inverse = (
        DisplacementField(0.5 * field.array, field.ijk_to_ras) for field in (quick.forward, quick.inverse)
    )
    return Shown(live.lam, forward, inverse, FULL, live.stages[FULL].text, True)


def test_where_nothing_is_known_yet_the_text_says_what_is_shown(app) -> None:
    register(app)
    app.live.lam = 0.02
    fields = app.live.fields(0.3)
    draft = Shown(0.3, fields.forward, fields.inverse, 0, "First draft (4 mm)")
    happen(app, lambda: app.live.show(draft))
    assert app.server.state.stage_text == "Shows λ = 0.30 until λ = 0.02 is computed"
    assert (app.server.state.solved, app.server.state.can_save, app.server.state.solved_lam) == (False, False, -1.0)


def test_full_resolution_by_itself_or_when_asked_for(app) -> None:
    state, tuning, live = app.server.state, app.controller.tuning, app.live
    register(app)
    assert (state.full_automatically, state.can_request_full) == (True, False)
    tuning.set_full_automatically(False)
    assert (live.full_automatically, state.can_request_full) == (False, True)
    tuning.request_full()
    assert "request_full" in live.calls
    happen(app, lambda: live.work(FULL, 0.4))
    assert (state.full_running, state.can_request_full) == (True, False)
    before = picture(app)
    tuning.set_full_automatically(True)
    tuning.stop_full()
    happen(app, live.rest)
    assert (state.full_running, state.full_automatically, state.can_request_full) == (False, False, True)
    assert state.can_save, "what is shown stays"
    np.testing.assert_array_equal(picture(app), before)
    live.calls.clear()
    for nonsense in (None, "yes", 1):
        tuning.set_full_automatically(nonsense)
    assert live.calls == []


def test_metrics_from_before_a_change_are_not_those_of_what_is_shown(app) -> None:
    """Regions make a new field, which is there before its metrics: these are blank, and not kept, until then."""
    state, tuning, live = app.server.state, app.controller.tuning, app.live
    register(app)
    app.controller.use_fixed_labels()
    tuning.set_region(state.regions[0]["key"], True, 0.9)
    assert (state.can_save, state.fresh) == (False, False)
    assert {row["now"] for row in state.rows} == {""}
    fields = live.fields(0.3)
    shown = Shown(0.3, fields.forward, fields.inverse, QUICK, live.stages[QUICK].text)
    happen(app, lambda: live.show(shown))
    assert (state.can_save, state.fresh) == (True, False)
    happen(app, lambda: live.answer_metrics(METRICS))
    assert state.fresh


def test_the_files_are_those_of_the_stage_that_is_shown(app, pair) -> None:
    register(app)
    quick = resample(pair.moving, pair.fixed.grid, Transform((app.live.fields(0.3).forward, app.live.linear)))
    full = _full_of(app.live)
    happen(app, lambda: app.live.show(full))
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    images = f"{pair.moving.name} on {pair.fixed.name}"
    assert app.server.state.downloads_title == f"{images}, λ = 0.30, Full resolution (1 mm)"
    names = {entry["title"]: entry for entry in app.server.state.downloads}
    assert all("lambda-0.300-full" in entry["name"] for entry in names.values())
    report = json.loads(app.files.find(names["Report"]["url"].split("/")[1]).path.read_text())
    assert report["stage"] == {"name": "full", "title": "Full resolution", "spacing_mm": 1.0}
    assert report["metrics"] == {}, "nothing was measured of it yet"
    entry = app.files.find(names["Registered moving image"]["url"].split("/")[1])
    expected = resample(pair.moving, pair.fixed.grid, Transform((full.forward, app.live.linear)))
    np.testing.assert_allclose(read_volume(entry.path).array, expected.array, atol=0.5)
    assert np.abs(quick.array - expected.array).max() > 20, "else the two could not be told apart"


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
    assert (state.suggested, state.stage_text) == ("", "")


def test_worse_than_the_linear_alignment_is_said(app) -> None:
    register(app)
    assert app.server.state.worse == ""
    happen(app, lambda: app.live.answer_metrics({**METRICS, "dice_mean": 0.1}))
    assert "worse" in app.server.state.worse
    happen(app, lambda: app.live.answer_metrics(METRICS))
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
    assert len({row["colour"] for row in state.regions}) == len(values)
    bare = coloured(app)
    assert bare.sum() == 0, "no region has a λ of its own yet"
    tuning.set_region(str(values[1]), True, None)
    outline = coloured(app)
    assert outline.sum() > 30, "its outline is drawn"
    node = app.views.view("Red").get_view_node()
    node.SetUseLabelOutline(False)
    filled = coloured(app)
    node.SetUseLabelOutline(True)
    assert outline.sum() < filled.sum(), "and nothing but the outline"
    for mode in ("checkerboard", "fade"):
        app.controller.set_mode(mode)
        state.mode = mode
        app.controller.show()
    assert (coloured(app) == outline).all(), "however the images are compared"
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
    assert coloured(app).sum() == 0


def test_regions_move_as_rigid_bodies(app) -> None:
    state, tuning = app.server.state, app.controller.tuning
    state.symmetric = True
    register(app)
    assert app.live.prepared_with["symmetric"] is True
    state.symmetric = False
    app.controller.use_fixed_labels()
    key = state.regions[1]["key"]
    tuning.set_rigid(key, True)
    assert app.live.rigid[1] == (int(key),)
    assert app.live.regions == (None, {})
    assert coloured(app).sum() > 30, "its outline is drawn"
    tuning.set_rigid(key, "yes")
    tuning.set_rigid(key, False)
    assert app.live.rigid == (None, ())


def coloured(app) -> np.ndarray:
    """(SIZE, SIZE): where the axial view is not grey."""
    channels = picture(app, channels=True)
    return np.ptp(channels[20:-20, 20:-20], axis=-1) > 60


def test_a_label_map_for_regions_is_uploaded_without_ending_the_registration(app, pair, tmp_path: Path) -> None:
    register(app)
    path = tmp_path / "organs.nii.gz"
    write_volume(pair.fixed_labels, path)
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload("regions", path))
    assert app.server.state.phase == "live"
    assert app.server.state.regions_name == "organs.nii.gz"
    names = [row["name"] for row in app.server.state.regions]
    assert names == [f"Label {row['key']}" for row in app.server.state.regions], "nobody knows what they are"
    open_phantom(app, pair)
    assert app.server.state.regions == [], "another fixed image has other regions"
