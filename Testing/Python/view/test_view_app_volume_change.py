"""The map of local volume change in the browser app: what is seen, and what is read under the mouse."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from view_app_bench import SIZE, App, picture, register

from hyperreg.mrml.registration import volume_change as change_map
from hyperreg.registration.volume_change import percent, volume_change
from hyperreg.view.reading import place_at


@pytest.fixture(autouse=True)
def _at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change_map, "REST_S", 0.0)


def coloured(app: App) -> int:
    """How many pixels of the axial view are not grey."""
    return int((np.ptp(picture(app, channels=True)[40:-20, 20:-20], axis=-1) > 25).sum())


def test_the_map_is_seen_and_read(app: App) -> None:
    register(app)
    bare, without = coloured(app), picture(app)
    app.controller.tuning.set_volume_change(True)
    app.controller.step()
    assert coloured(app) > bare + 500
    air = np.zeros_like(without, dtype=bool)
    air[20:30, 20:30] = air[-30:-20, -30:-20] = True
    np.testing.assert_array_equal(picture(app)[air], without[air], "the air is left as it was")
    assert not place_at(app.views.view("Red"), (25, 25), {}).values[-1].startswith("Volume")
    change = percent(volume_change(app.live.shown.forward).array)
    xy = (SIZE // 2 + 20, SIZE // 2 - 15)
    place = place_at(app.views.view("Red"), xy, {})
    ijk = np.round(app.live.grid.to_ijk(place.ras)).astype(int)
    assert place.values[-1] == f"Volume {change[tuple(ijk)]:+.0f} %"
    app.controller.ask_lambda(0.7)
    app.controller.step()
    assert coloured(app) == bare, "a preview has no map"
    assert app.server.state.volume_change_note == "The map comes once λ = 0.70 is computed."
    assert not place_at(app.views.view("Red"), xy, {}).values[-1].startswith("Volume")
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    app.controller.step()
    assert coloured(app) > bare + 100 and app.server.state.volume_change_note == ""
    app.controller.reset()
    app.controller.step()
    assert coloured(app) == bare
    app.controller.tuning.set_volume_change(False)


def test_outlines_and_other_panels_are_not_disturbed(app: App) -> None:
    state, tuning = app.server.state, app.controller.tuning
    register(app)
    app.controller.use_fixed_labels()
    tuning.set_region(state.regions[1]["key"], True, None)
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    outlines = picture(app, channels=True)
    tuning.set_volume_change(True)
    app.controller.step()
    assert np.abs(picture(app, channels=True) - outlines).max() > 30
    state.panel = "segmentation"
    app.controller.step()
    np.testing.assert_array_equal(picture(app, channels=True), outlines)
    state.panel = "registration"
    app.controller.step()
    tuning.set_volume_change(False)
    app.controller.step()
    np.testing.assert_array_equal(picture(app, channels=True), outlines)
