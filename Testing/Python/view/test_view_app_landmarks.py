"""Landmarks in the browser app, from point lists as 3D Slicer writes them, or placed by clicks; in mm."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import vtk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import wavy
from view_app_bench import App, open_phantom, register

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.points import read_points
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.mrml.registration import landmarks
from hyperreg.phantom import PhantomPair
from hyperreg.view import landmarks as view_landmarks
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import PANEL, SIDE_BY_SIDE

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
    app.controller.tuning.landmarks.remove_list("moving_points")
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
    assert app.controller.tuning.landmarks.nodes["fixed_points"] is None


def test_landmarks_pull_but_for_those_that_are_not_ticked(app: App, tmp_path: Path) -> None:
    state, tuning = app.server.state, app.controller.tuning.landmarks
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
    leads = Transform((app.live.shown.forward, app.live.linear)).apply(points)
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


# Placed and dragged in the views


def send(app: App, name: str, event: str, xy: tuple[int, int]) -> None:
    interactor = app.views.view(name).interactor()
    interactor.SetEventInformation(*xy, 0, 0)
    interactor.InvokeEvent(event)


def click(app: App, name: str, xy: tuple[int, int]) -> np.ndarray:
    """A click into a view, pixels from the lower left; the place that it showed, RAS mm."""
    ras = app.views.view(name).get_view_node().GetXYToRAS().MultiplyPoint((*map(float, xy), 0.0, 1.0))[:3]
    for event in ("EnterEvent", "MouseMoveEvent", "LeftButtonPressEvent", "LeftButtonReleaseEvent", "MouseMoveEvent"):
        send(app, name, event, xy)
    app.controller.step()
    return np.array(ras)


def hold(app: App, name: str, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Drags with the left button, which stays down."""
    app.views.view(name).render_window().Render()
    for event, xy in (("MouseMoveEvent", start), ("LeftButtonPressEvent", start)):
        send(app, name, event, xy)
    for part in np.linspace(0, 1, 6)[1:]:
        send(app, name, "MouseMoveEvent", tuple(np.rint(np.add(start, part * np.subtract(end, start))).astype(int)))
    app.controller.step()


def release(app: App, name: str, xy: tuple[int, int]) -> None:
    send(app, name, "LeftButtonReleaseEvent", xy)
    app.controller.step()


def begin(app: App) -> None:
    app.controller.tuning.landmarks.set_placing(True)
    app.controller.set_mode(app.server.state.mode)
    app.controller.step()


def pixel(app: App, name: str, role: str, row: int) -> tuple[int, int]:
    """Where a view draws a landmark."""
    place = [0.0, 0.0, 0.0]
    app.controller.tuning.landmarks.nodes[role].GetNthControlPointPositionWorld(row, place)
    matrix = vtk.vtkMatrix4x4()
    vtk.vtkMatrix4x4.Invert(app.views.view(name).get_view_node().GetXYToRAS(), matrix)
    x, y = matrix.MultiplyPoint((*place, 1.0))[:2]
    return round(x), round(y)


def place_pair(app: App, here: tuple[int, int], there: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    return click(app, "Red", here), click(app, "Red2", there)


def positions(app: App, role: str) -> np.ndarray:
    """(P, 3), mm, on the landmarks' own image."""
    return landmarks.points_of(app.controller.tuning.landmarks.nodes[role])


@pytest.fixture
def placing(app: App, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    """The generated heads, registered, λ 0.3, and clicks place landmarks; what is dragged is told at every step."""
    monkeypatch.setattr(view_landmarks, "EVERY_S", 0.0)
    register(app)
    app.client.news.append(app.live.answer_solved)
    begin(app)
    yield app
    app.controller.tuning.landmarks.set_placing(False)
    app.controller.tuning.landmarks.ask_pull(0.0)
    app.controller.step()


def test_clicks_place_pairs_where_they_were(placing: App) -> None:
    app, state = placing, placing.server.state
    assert (state.mode, state.placing_role) == (SIDE_BY_SIDE, "fixed")
    assert state.placing_hint == "Landmark 1: click a place in the fixed image (left)."
    click(app, "Red2", (90, 110))
    assert len(positions(app, "fixed_points")) == len(positions(app, "moving_points")) == 0, (
        "not in a view of the other"
    )
    here = click(app, "Red", (90, 110))
    assert state.placing_hint == "Landmark 1: click the same place in the moving image (right)."
    assert state.landmarks_note == "Waiting for the place in the moving volume: 1"
    there = click(app, "Red2", (104, 96))
    assert state.landmarks_note == "1 pair of landmarks"
    assert state.placing_hint.startswith("Landmark 2: click a place in the fixed")
    np.testing.assert_allclose(positions(app, "fixed_points")[0], here, atol=1e-3)
    # The picture of the moving image is bent: its own place is where the deformation leads.
    leads = Transform((app.live.shown.forward, app.live.linear)).apply(there[None])[0]
    assert np.linalg.norm(leads - there) > 1
    np.testing.assert_allclose(positions(app, "moving_points")[0], leads, atol=0.1)
    click(app, "Red", (120, 80))
    assert state.landmarks_note == "1 pair of landmarks; waiting for the place in the moving volume: 2"
    assert len(app.live.landmarks) == 1, "the first pair counts, whatever is half done"
    click(app, "Red2", (118, 84))
    assert [row["name"] for row in state.landmark_rows] == ["1", "2"]
    assert float(state.landmark_rows[0]["now"]) == pytest.approx(np.linalg.norm(here - there), abs=1.5)
    assert (state.fixed_points_name, state.moving_points_name) == ("placed here", "placed here")


def test_landmarks_are_drawn_in_the_views_of_their_image(placing: App) -> None:
    app = placing
    place_pair(app, (90, 110), (104, 96))
    shown = {role: node.GetDisplayNode() for role, node in app.controller.tuning.landmarks.nodes.items()}

    def views(role: str) -> list[str]:
        found = ("Red", "Green", "Red2", "Green2")
        return [n for n in found if shown[role].IsDisplayableInView(app.views.view(n).get_view_node().GetID())]

    assert views("fixed_points") == ["Red", "Green"]
    assert views("moving_points") == ["Red2", "Green2"]
    app.server.state.mode = "fade"
    app.controller.set_mode("fade")
    app.controller.step()
    assert not app.server.state.placing, "the views are not side by side any more"
    assert len(views("fixed_points")) == len(views("moving_points")) == 4
    app.server.state.panel = "segmentation"
    app.controller.step()
    assert not any(display.GetVisibility() for display in shown.values())
    app.server.state.panel = PANEL


def test_a_dragged_landmark_is_measured_at_once_and_an_undo_puts_it_back(placing: App) -> None:
    app, state, controls = placing, placing.server.state, placing.controller.tuning.landmarks
    place_pair(app, (90, 110), (90, 110))
    controls.set_placing(False)
    controls.ask_pull(0.5)
    app.controller.step()
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    before, now = positions(app, "fixed_points")[0], state.landmark_rows[0]["now"]
    start = pixel(app, "Red", "fixed_points", 0)
    window = app.controller.pair.nodes["fixed"].GetDisplayNode().GetWindow()
    hold(app, "Red", start, (start[0] + 24, start[1]))
    dragged = positions(app, "fixed_points")[0]
    assert np.linalg.norm(dragged - before) > 5
    np.testing.assert_array_equal(app.live.landmarks.fixed[0], dragged)
    release(app, "Red", (start[0] + 24, start[1]))
    assert app.controller.pair.nodes["fixed"].GetDisplayNode().GetWindow() == window
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    assert state.landmark_rows[0]["now"] != now
    controls.undo()
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    np.testing.assert_allclose(positions(app, "fixed_points")[0], before, atol=1e-6)
    np.testing.assert_allclose(app.live.landmarks.fixed[0], before, atol=1e-6)
    assert state.landmark_rows[0]["now"] == now


def test_who_aims_at_the_bent_image_is_not_moved_away_from_below(placing: App) -> None:
    app, controls = placing, placing.controller.tuning.landmarks
    place_pair(app, (90, 110), (90, 110))
    controls.ask_pull(0.5)
    app.controller.step()
    app.client.news.append(app.live.answer_solved)
    app.controller.step()
    controls.set_placing(False)
    app.server.state.mode = SIDE_BY_SIDE
    sent = app.live.landmarks.moving[0]
    start = pixel(app, "Red2", "moving_points", 0)
    end = (start[0] + 20, start[1] + 6)
    hold(app, "Red2", start, end)
    assert np.linalg.norm(positions(app, "moving_points")[0] - sent) > 3
    np.testing.assert_array_equal(app.live.landmarks.moving[0], sent)
    release(app, "Red2", end)
    np.testing.assert_array_equal(app.live.landmarks.moving[0], positions(app, "moving_points")[0])


def test_no_landmark_can_be_outside_of_its_image(placing: App) -> None:
    app, state = placing, placing.server.state
    click(app, "Red", (2, 2))
    assert "outside of the fixed image" in state.error
    assert len(positions(app, "fixed_points")) == 0
    assert state.placing_hint.startswith("Landmark 1: click a place in the fixed")
    place_pair(app, (90, 110), (90, 110))
    assert (state.error, len(state.landmark_rows)) == ("", 1)
    app.controller.tuning.landmarks.set_placing(False)
    app.server.state.mode = SIDE_BY_SIDE
    before, start = positions(app, "fixed_points"), pixel(app, "Red", "fixed_points", 0)
    hold(app, "Red", start, (2, 2))
    np.testing.assert_array_equal(app.live.landmarks.fixed, before)
    release(app, "Red", (2, 2))
    assert "outside of the fixed image" in state.error
    np.testing.assert_allclose(positions(app, "fixed_points"), before, atol=1e-6)


def test_landmarks_are_named_removed_and_brought_back(placing: App) -> None:
    app, state, controls = placing, placing.server.state, placing.controller.tuning.landmarks
    for at in ((90, 110), (110, 90), (80, 80)):
        place_pair(app, at, at)
    first, second, _third = (row["key"] for row in state.landmark_rows)
    controls.rename(first, "  Left   hippocampus ")
    assert [row["name"] for row in state.landmark_rows] == ["Left hippocampus", "2", "3"]
    assert landmarks.names_of(controls.nodes["moving_points"])[0] == "Left hippocampus"
    controls.rename(second, "3")
    assert state.error == "There is a landmark '3' already."
    controls.rename(second, " ")
    assert state.error == "A landmark needs a name."
    controls.set_pulling(second, False)
    controls.remove(first)
    assert [(row["name"], row["pulls"]) for row in state.landmark_rows] == [("2", False), ("3", True)]
    assert len(positions(app, "moving_points")) == 2
    place_pair(app, (120, 120), (120, 120))
    assert [row["name"] for row in state.landmark_rows] == ["2", "3", "4"]
    for _ in range(3):
        controls.undo()
    rows = [(row["name"], row["pulls"]) for row in state.landmark_rows]
    assert rows == [("Left hippocampus", True), ("2", False), ("3", True)]
    for nonsense in (None, "none of them", 3, ["x"]):
        controls.rename(nonsense, "x")
        controls.remove(nonsense)
        controls.go_to(nonsense)
        controls.set_placing(nonsense)
    assert len(state.landmark_rows) == 3
    while state.landmarks_undoable:
        controls.undo()
    assert state.landmark_rows == [] and state.landmarks_note == ""
    assert state.placing_hint.startswith("Landmark 1: click a place in the fixed")


def test_saved_landmarks_are_those_of_the_files_images(app: App) -> None:
    state, controls = app.server.state, app.controller.tuning.landmarks
    app.controller.align_centres()
    begin(app)
    here, there = place_pair(app, (90, 110), (104, 96))
    click(app, "Red", (100, 100))
    shift = app.controller.pair._shift[:3, 3]
    assert np.linalg.norm(shift) > 0.5
    controls.save()
    titles = [file["title"] for file in state.landmark_downloads]
    assert titles == ["Landmarks of the fixed image", "Landmarks of the moving image"]
    found = [app.files.find(file["url"].split("/")[1]).path for file in state.landmark_downloads]
    names: list[str] = []
    np.testing.assert_allclose(read_points(found[0], [], names)[0], here, atol=1e-3)
    assert names == ["1", "2"]
    np.testing.assert_allclose(read_points(found[1]), [there - shift], atol=1e-3)
    click(app, "Red2", (100, 100))
    assert state.landmark_downloads == [], "they are of points that were fewer"


def test_another_image_takes_its_landmarks_with_it(
    placing: App, pair: PhantomPair, pair_files: tuple[Path, Path]
) -> None:
    app, state = placing, placing.server.state
    place_pair(app, (90, 110), (104, 96))
    upload(app, "moving", pair_files[1])
    assert not state.placing
    assert (state.moving_points_name, state.landmark_rows) == ("", [])
    assert state.fixed_points_name == "placed here", "the fixed image is the same"
    open_phantom(app, pair)
    assert (state.fixed_points_name, state.landmarks_note, state.landmarks_undoable) == ("", "", False)


def test_a_list_of_one_image_is_completed_and_lists_that_do_not_fit_are_not(app: App, tmp_path: Path) -> None:
    state, controls = app.server.state, app.controller.tuning.landmarks
    points = app.controller.pair.volumes["fixed"].grid.to_ras([[20.0, 25, 24], [30, 30, 20], [24, 36, 30]])
    upload(app, "fixed_points", point_list(tmp_path / "fixed.mrk.json", points))
    begin(app)
    assert state.placing_hint == "Landmark F-1: click the same place in the moving image (right)."
    click(app, "Red2", (100, 100))
    assert state.placing_hint.startswith("Landmark F-2: click the same place")
    assert state.landmarks_note.startswith("1 pair of landmarks; waiting for the place in the moving volume: F-2, F-3")
    controls.set_placing(False)
    upload(app, "moving_points", point_list(tmp_path / "moving.mrk.json", points[:2]))
    controls.set_placing(True)
    assert not state.placing
    assert "3 landmarks of the fixed image and 2 of the moving one" in state.error
    assert state.landmark_rows == []


def test_lists_paired_by_their_order_stay_so_whatever_is_renamed(app: App) -> None:
    controls = app.controller.tuning.landmarks
    points = app.controller.pair.volumes["fixed"].grid.to_ras([[20.0, 25, 24], [30, 30, 20], [24, 36, 30]])
    controls.open("fixed_points", points, ["a", "b", "c"], "f")
    controls.open("moving_points", points, ["b", "a", "z"], "m")
    controls.rename(app.server.state.landmark_rows[2]["key"], "k")
    assert landmarks.names_of(controls.nodes["moving_points"]) == ["a", "b", "k"]


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
