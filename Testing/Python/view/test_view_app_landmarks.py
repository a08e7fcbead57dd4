"""Landmarks in the browser app, from point lists as 3D Slicer writes them, in mm."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import wavy
from view_app_bench import App, open_phantom, register

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import PhantomPair
from hyperreg.view.private_files import PrivateFiles

# Turns and flips the sample pair; its moving image is tilted and anisotropic already.
TURNED = np.array([[-0.8, 0.6, 0, 20], [0.6, 0.8, 0, -35], [0, 0, 1, 10], [0, 0, 0, 1.0]])
OFFSET = np.array([3.0, 0, -4])


def upload(app: App, role: str, path: Path) -> None:
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload(role, path))


def point_list(path: Path, ras: np.ndarray) -> Path:
    """A point list in LPS, Slicer's default."""
    points = [
        {"id": str(n), "label": f"F-{n}", "position": place.tolist(), "positionStatus": "defined"}
        for n, place in enumerate(ras * (-1, -1, 1), 1)
    ]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "coordinateUnits": "mm", "controlPoints": points}
    path.write_text(json.dumps({"markups": [markup]}), encoding="utf-8")
    return path


def in_place(pair: PhantomPair) -> PhantomPair:
    """The sample pair on other grids: oblique, anisotropic, flipped."""
    return PhantomPair(
        **{
            name: Volume(value.array, TURNED @ value.ijk_to_ras, value.name) if isinstance(value, Volume) else value
            for name, value in vars(pair).items()
        }
    )


def landmarks_row(app: App) -> dict[str, str] | None:
    return next((row for row in app.server.state.rows if row["name"] == "Landmarks"), None)


def test_uploaded_landmarks_are_measured_in_mm(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = app.server.state
    open_phantom(app, in_place(pair))
    register(app)
    grid = app.live.grid
    points = grid.to_ras([[20.0, 25, 24], [30, 30, 20], [24, 36, 30]])
    upload(app, "fixed_points", point_list(tmp_path / "fixed.mrk.json", points))
    assert state.fixed_points_name == "fixed.mrk.json"
    assert state.landmarks_note == "Choose the points of the moving volume, too."
    leads = Transform((wavy(grid, 0.3), app.live.linear)).apply(points)
    upload(app, "moving_points", point_list(tmp_path / "moving.mrk.json", leads + OFFSET))
    assert state.landmarks_note == "3 pairs of landmarks"
    before = np.linalg.norm(points - leads - OFFSET, axis=1).mean()
    assert landmarks_row(app)["now"] == "5.00 mm"
    assert landmarks_row(app)["before"] == f"{before:.2f} mm"
    assert f"{before:.2f}" != "5.00"
    app.controller.tuning.remove_points("moving_points")
    assert landmarks_row(app) is None
    assert (state.moving_points_name, app.live.landmarks) == ("", None)
    open_phantom(app, pair)
    assert state.fixed_points_name == state.landmarks_note == "", "they belonged to the image before"


def test_what_cannot_be_used_is_refused_and_changes_nothing(app: App, tmp_path: Path) -> None:
    state = app.server.state
    broken = tmp_path / "broken.mrk.json"
    broken.write_text('{"markups": [{"controlPoints": 3}]}', encoding="utf-8")
    with pytest.raises(FileError):
        upload(app, "fixed_points", broken)
    assert "'broken.mrk.json' is not a point list" in state.error
    assert str(tmp_path) not in state.error
    assert state.fixed_points_name == ""
    app.controller.pair.remove("fixed")
    with pytest.raises(InputError, match="Load the image first"):
        upload(app, "fixed_points", point_list(tmp_path / "fixed.mrk.json", np.zeros((2, 3))))
    assert app.controller.tuning._points["fixed_points"] is None


def test_landmarks_pull_but_for_those_that_are_not_ticked(app: App, tmp_path: Path) -> None:
    state, tuning = app.server.state, app.controller.tuning
    register(app)
    points = app.live.grid.to_ras([[20.0, 25, 24], [30, 30, 20], [24, 36, 30]])
    upload(app, "fixed_points", point_list(tmp_path / "fixed.mrk.json", points))
    upload(app, "moving_points", point_list(tmp_path / "moving.mrk.json", points + OFFSET))
    assert [row["before"] for row in state.landmark_rows] == ["5.0"] * 3
    assert state.can_save
    for pull in (0.1, 0.2, 0.4):
        tuning.ask_pull(pull)
    app.controller.step()
    assert app.live.landmarks.pull == 0.4
    assert not state.can_save
    assert {row["now"] for row in state.landmark_rows} == {""}
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    leads = Transform((app.live.shown.fields.forward, app.live.linear)).apply(points)
    now = np.linalg.norm(leads - points - OFFSET, axis=1)
    assert [row["now"] for row in state.landmark_rows] == [f"{value:.1f}" for value in now]
    assert next(row["now"] for row in state.rows if row["name"] == "Pulled landmarks") == f"{now.mean():.2f} mm"
    tuning.set_pulling(state.landmark_rows[1]["key"], False)
    assert app.live.landmarks.left_out == (1,)
    assert [row["pulls"] for row in state.landmark_rows] == [True, False, True]
    for nonsense in (-1, "0.3", float("nan"), True):
        state.error = ""
        tuning.ask_pull(nonsense)
        assert "between 0" in state.error
    tuning.set_pulling("none of them", True)
    tuning.ask_pull(0.0)
    app.controller.step()
    assert app.live.landmarks.pull == 0


def test_only_point_lists_and_images_can_be_sent() -> None:
    async def chunks():
        yield b"x"

    files = PrivateFiles()
    try:
        kept = asyncio.run(files.receive("my points.mrk.json", chunks(), 1))
        assert kept.name == "my_points.mrk.json"
        with pytest.raises(HyperRegError, match="can be uploaded"):
            asyncio.run(files.receive("notes.json", chunks(), 1))
    finally:
        files.remove()
