"""What is left out of the match in the browser app: opened as a label map, seen, live, and given up again."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from view_app_bench import App, open_phantom, picture, register

from hyperreg.errors import InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import PhantomPair
from hyperreg.view.routes import ROLE

BLOCK = (slice(18, 30), slice(24, 36), slice(16, 32))


def upload(app: App, role: str, image: Volume, path: Path, block: tuple[slice, ...] = BLOCK) -> None:
    array = np.zeros(image.shape, np.uint8)
    array[block] = 3
    write_volume(Volume(array, image.ijk_to_ras, "drawn"), path)
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload(role, path))
    app.controller.step()


def coloured(app: App) -> int:
    return int((np.ptp(picture(app, channels=True)[40:-20, 20:-20], axis=-1) > 25).sum())


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_what_is_marked_does_not_count_while_it_is_open(app: App, pair: PhantomPair, tmp_path: Path, role: str) -> None:
    state = app.server.state
    register(app)
    bare = coloured(app)
    upload(app, f"{role}_left_out", getattr(pair, role), tmp_path / "metal.nii.gz")
    assert state.phase == "live", "the registration goes on"
    assert getattr(state, f"{role}_left_out_name") == "metal.nii.gz"
    mask = app.live.masks[("fixed", "moving").index(role)]
    assert app.live.masks.count(None) == 1
    assert mask.grid.matches(getattr(pair, role).grid)
    expected = np.ones(mask.shape, np.uint8)
    expected[BLOCK] = 0
    np.testing.assert_array_equal(mask.array, expected)
    assert not state.can_save
    assert coloured(app) > bare + 200, "it is seen"
    app.controller.tuning.remove_left_out(f"{role}_left_out")
    app.controller.step()
    assert app.live.masks == (None, None)
    assert coloured(app) == bare
    upload(app, f"{role}_left_out", getattr(pair, role), tmp_path / "metal.nii.gz")
    app.controller.reset()
    assert (app.live.masks, getattr(state, f"{role}_left_out_name")) == ((None, None), "") or state.phase == "idle"
    register(app)
    assert app.live.masks == (None, None)


@pytest.mark.parametrize("role", ["fixed", "moving"])
def test_it_comes_back_with_the_registration(app: App, pair: PhantomPair, tmp_path: Path, role: str) -> None:
    state = app.server.state
    register(app)
    upload(app, f"{role}_left_out", getattr(pair, role), tmp_path / "metal.nii.gz")
    app.live.answer_solved()
    masks, seen, shown = app.live.masks, coloured(app), app.live.shown
    app.controller.reset()
    app.controller.step()
    assert getattr(state, f"{role}_left_out_name") == ""
    app.controller.undo_reset()
    app.controller.step()
    assert getattr(state, f"{role}_left_out_name") == "metal.nii.gz"
    assert (app.live.masks, app.live.shown) == (masks, shown), "the very same: nothing has to be computed again"
    assert state.can_save
    assert coloured(app) == seen
    app.controller.reset()
    maps = app.slicer_app.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode")
    register(app)
    assert app.slicer_app.scene.GetNumberOfNodesByClass("vtkMRMLLabelMapVolumeNode") == maps - 1, "it is not kept"


def test_it_is_the_images_own_and_the_next_registrations(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    upload(app, "moving_left_out", pair.moving, tmp_path / "metal.nii.gz")
    register(app)
    assert app.live.masks[1] is not None
    moving = app.controller.pair.nodes["moving"]
    node = app.controller.tuning._left_out["moving_left_out"]
    assert node.GetParentTransformNode() is moving.GetParentTransformNode(), "it lies on the deformed image"
    open_phantom(app, pair)
    assert app.server.state.moving_left_out_name == "", "another image has other areas"


def test_what_marks_nothing_is_told(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    register(app)
    far = Volume(pair.fixed.array, pair.fixed.ijk_to_ras + np.array([[0, 0, 0, 900.0]] * 3 + [[0] * 4]), "far")
    with pytest.raises(InputError):
        upload(app, "fixed_left_out", far, tmp_path / "far.nii.gz")
    upload(app, "fixed_left_out", pair.fixed, tmp_path / "all.nii.gz", (slice(None),) * 3)
    assert "marks all of the fixed volume" in app.server.state.error
    assert app.live.masks == (None, None)


def test_roles_of_files() -> None:
    good = ("fixed", "moving_labels", "fixed_points", "moving_left_out", "regions", "input3", "model")
    assert all(ROLE.fullmatch(role) for role in good)
    assert not any(ROLE.fullmatch(role) for role in ("fixed_", "left_out", "input", "moving_regions", "xfixed"))
