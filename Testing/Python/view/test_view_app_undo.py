"""What ends a registration in the browser app without being meant to, such as another image, can be undone."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from dicom_examples import write_slices
from view_app_bench import App, open_phantom, picture, register

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import PhantomPair

POINTS = "x,y,z\n10,20,5\n-12,8,9\n4,-6,14\n"


def upload(app: App, role: str, path: Path) -> None:
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload(role, path))
    app.controller.step()


def mark(app: App, pair: PhantomPair, folder: Path) -> None:
    """Landmarks of both images, areas of both that are left out, and regions with a λ of their own."""
    for role in ("fixed_points", "moving_points"):
        (folder / f"{role}.csv").write_text(POINTS)
        upload(app, role, folder / f"{role}.csv")
    array = np.zeros(pair.fixed.shape, np.uint8)
    array[18:30, 24:36, 16:32] = 1
    write_volume(Volume(array, pair.fixed.ijk_to_ras), folder / "metal.nii.gz")
    write_volume(pair.fixed_labels, folder / "regions.nii.gz")
    for role, name in (("fixed_left_out", "metal"), ("moving_left_out", "metal"), ("regions", "regions")):
        upload(app, role, folder / f"{name}.nii.gz")
    app.controller.tuning.set_region(app.server.state.regions[0]["key"], True, 0.75)
    app.live.answer_solved()


def told(app: App) -> dict[str, Any]:
    """What the page says, and what the worker was told."""
    state, live = app.server.state, app.live
    roles = ("fixed", "moving", "fixed_labels", "moving_labels", "fixed_points", "moving_points", "fixed_left_out",
             "moving_left_out", "regions")  # fmt: skip
    names = {f"{role}_name": getattr(state, f"{role}_name") for role in roles}
    values = ("phase", "sample", "lam", "solved_lam", "regions", "rows", "centred")
    more = {name: getattr(state, name) for name in values}
    marks = [live.landmarks.fixed.tolist(), live.landmarks.moving.tolist(), live.landmarks.pull]
    return {**names, **more, "masks": live.masks, "shown": live.shown, "given": live.regions, "marks": marks}


def nodes(app: App) -> int:
    scene = app.slicer_app.scene
    kinds = ("vtkMRMLVolumeNode", "vtkMRMLTransformNode", "vtkMRMLMarkupsNode", "vtkMRMLColorTableNode")
    return sum(scene.GetNumberOfNodesByClass(kind) for kind in kinds)


def open_other(app: App, pair: PhantomPair, folder: Path, what: str) -> None:
    write_volume(Volume(pair.moving.array[::-1], pair.moving.ijk_to_ras), folder / "wrong.nii.gz")
    write_volume(pair.moving_labels, folder / "labels.nii.gz")
    if what in ("fixed", "moving", "both"):
        for role in ("fixed", "moving") if what == "both" else (what,):
            upload(app, role, folder / "wrong.nii.gz")
    elif what == "label map":
        upload(app, "moving_labels", folder / "labels.nii.gz")
    elif what == "no label map":
        app.controller.remove_labels("fixed")
    elif what == "centres":
        app.controller.align_centres()
    else:
        app.controller.load_sample()


@pytest.mark.parametrize("what", ["fixed", "moving", "both", "label map", "no label map", "centres", "sample"])
@pytest.mark.parametrize("reset", [False, True])
def test_what_was_live_comes_back_with_its_images_and_marks(
    app: App, pair: PhantomPair, tmp_path: Path, what: str, reset: bool
) -> None:
    state = app.server.state
    state.fade = 1.0
    register(app)
    mark(app, pair, tmp_path)
    app.controller.show()
    before, seen = told(app), picture(app, channels=True)
    if reset:
        app.controller.reset()
    open_other(app, pair, tmp_path, what)
    assert (state.phase, state.can_undo_reset, state.undo_title) == ("idle", True, "Undo")
    app.controller.step()
    app.controller.undo_reset()
    app.controller.step()
    assert (state.error, state.can_undo_reset) == ("", False)
    after = told(app)
    assert {name for name in before if before[name] != after[name]} == set()
    assert state.can_save
    difference = np.abs(picture(app, channels=True) - seen)
    assert difference.mean() < 0.2
    app.controller.ask_lambda(0.9)
    app.controller.step()
    assert np.abs(picture(app, channels=True) - seen).mean() > 0.5, "λ moves it"


def test_series_of_dicom_come_back_as_such(app: App, tmp_path: Path) -> None:
    state, series = app.server.state, app.controller.series
    write_slices(tmp_path / "a", series="before")
    write_slices(tmp_path / "b", series="after")
    write_slices(tmp_path / "c", series="wrong")
    run = asyncio.get_event_loop().run_until_complete
    run(series.look(str(tmp_path)))
    numbers = {row["title"].split()[-1]: row["number"] for row in state.series_rows}
    for name, role in (("before", "fixed"), ("after", "moving")):
        run(series.open(numbers[name], role))
    register(app)
    before = series.both()
    run(series.open(numbers["wrong"], "moving"))
    assert [one.series.description for one in series.both()] == ["before", "wrong"]
    app.controller.undo_reset()
    assert series.both() == before, "results can refer to them again"
    assert [one.series.description for one in before] == ["before", "after"]
    assert state.series_opened is True


def test_the_next_registration_frees_what_was_held(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = app.server.state
    open_phantom(app, pair)
    register(app)
    open_phantom(app, pair)
    register(app)
    app.controller.reset()
    register(app)
    usual = nodes(app)
    mark(app, pair, tmp_path)
    open_other(app, pair, tmp_path, "both")
    assert nodes(app) > usual
    app.controller.register()
    app.controller.cancel()
    assert state.can_undo_reset, "nothing has come of it"
    register(app)
    assert (state.can_undo_reset, app.live.aside) == (False, None)
    open_phantom(app, pair)
    register(app)
    assert nodes(app) <= usual
    app.controller.undo_reset()
    assert state.error == "There is no reset to undo."


def test_landmarks_that_are_held_are_not_seen(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    register(app)
    mark(app, pair, tmp_path)
    held = list(app.controller.tuning.landmarks.nodes.values())
    open_other(app, pair, tmp_path, "both")
    assert [node.GetDisplayNode().GetVisibility() for node in held] == [0, 0]
    app.controller.undo_reset()
    app.controller.step()
    assert [node.GetDisplayNode().GetVisibility() for node in held] == [1, 1]
