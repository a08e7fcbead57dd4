"""Alignment only in the browser app: seen, written, undone, and no hindrance for a registration."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from mrml_bench import LINEAR
from view_app_bench import App, picture, register

from hyperreg.imaging.files import read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.phantom import PhantomPair


def test_alignment_only_is_seen_written_and_undone(
    app: App, pair: PhantomPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, controls = app.server.state, app.controller.alignment
    monkeypatch.setattr(app.live, "linear", LINEAR)
    app.server.state.fade = 1.0
    app.controller.show()
    before = picture(app)
    controls.start()
    assert (state.error, state.phase) == ("", "running")
    app.client.news.append(app.live.answer_ready)
    app.controller.step()
    assert (state.phase, state.aligned) == ("idle", "Affine")
    assert np.abs(picture(app) - before).mean() > 1
    asyncio.get_event_loop().run_until_complete(controls.save())
    files = {entry["title"]: app.files.find(entry["url"].split("/")[1]).path for entry in state.downloads}
    truth = resample(pair.moving, pair.fixed.grid, Transform((LINEAR,)))
    np.testing.assert_allclose(read_volume(files["Aligned moving image"]).array, truth.array, atol=0.5)
    points = pair.fixed.grid.to_ras([[10.0, 20, 30], [30, 25, 12]])
    written = read_transform(files["Transform (fixed to moving, ITK)"])
    np.testing.assert_allclose(written.apply(points), Transform((LINEAR,)).apply(points), atol=1e-4)
    register(app)
    np.testing.assert_allclose(app.live.prepared_with["moving"].ijk_to_ras, pair.moving.ijk_to_ras, atol=1e-9)
    app.controller.reset()
    assert state.aligned == "Affine", "back to before the registration"
    controls.undo()
    assert state.aligned == ""
    app.controller.show()
    np.testing.assert_array_equal(picture(app), before)


def test_what_cannot_be_aligned_is_told(app: App) -> None:
    app.server.state.alignment = "bspline"
    app.controller.alignment.start()
    assert "Choose an initial alignment" in app.server.state.error
    assert app.server.state.phase == "idle"
