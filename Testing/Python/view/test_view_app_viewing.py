"""The views as a reader of images uses them: own images in sight, values under the mouse, windows, places, 3D."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import wavy
from view_app_bench import SIZE, App, open_phantom, picture, register

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.phantom import PhantomPair
from hyperreg.view.pair import overlap
from hyperreg.view.state import BOTH_VIEWS

# Turns and flips an image, and carries it out of the other one's sight.
FAR = np.array([[-0.8, 0.6, 0, 620], [0.6, 0.8, 0, -435], [0, 0, 1, 310], [0, 0, 0, 1.0]])
NEAR = np.array([[-0.8, 0.6, 0, 20], [0.6, 0.8, 0, -35], [0, 0, 1, 10], [0, 0, 0, 1.0]])


def moved(volume: Volume, by: np.ndarray) -> Volume:
    return Volume(volume.array, by @ volume.ijk_to_ras, volume.name)


def upload(app: App, role: str, path: Path) -> None:
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload(role, path))


def open_own(app: App, folder: Path, fixed: Volume, moving: Volume) -> None:
    """One's own images, one after the other as the page sends them."""
    for role, volume in (("fixed", fixed), ("moving", moving)):
        write_volume(volume, folder / f"{role}.nii.gz")
        upload(app, role, folder / f"{role}.nii.gz")


@pytest.fixture
def back(app: App, pair: PhantomPair) -> Iterator[App]:
    yield app
    app.server.state.panel = "registration"
    app.viewing.set_window("auto")
    open_phantom(app, pair)


def in_sight(app: App) -> None:
    for name in BOTH_VIEWS:
        image = picture(app, name)
        assert image.mean() > 15, f"{name} is black"
        rows, columns = (np.flatnonzero((image > 30).any(axis=axis)) for axis in (1, 0))
        for found in (rows, columns):  # of the slice, in the middle of the view
            assert abs((found[0] + found[-1]) / 2 - SIZE / 2) < SIZE / 5, name


def test_own_images_are_in_sight_after_every_load(back: App, pair: PhantomPair, tmp_path: Path) -> None:
    view = back.views.view("Red")
    back.controller.set_fade(0.0)
    view.set_slice_value(view.get_slice_value() + 40)  # the user was somewhere else, and had zoomed in
    view.zoom(0.5)
    open_own(back, tmp_path, moved(pair.fixed, FAR), moved(pair.moving, FAR))
    back.controller.set_fade(0.0)
    in_sight(back)
    back.controller.set_fade(1.0)
    in_sight(back)
    assert back.server.state.overlap_note == ""
    upload(back, "moving", tmp_path / "fixed.nii.gz")
    back.controller.set_fade(1.0)
    in_sight(back)


def test_another_moving_image_far_away_takes_no_view_with_it(back: App, pair: PhantomPair, tmp_path: Path) -> None:
    """The second row of views, which shows the moving image, once dragged the first one along."""
    back.controller.set_fade(0.0)
    open_own(back, tmp_path, moved(pair.fixed, NEAR), moved(pair.moving, FAR))
    in_sight(back)
    back.server.state.mode = "sideBySide"
    back.controller.set_mode("sideBySide")
    back.views.view("Red2")._update_slice_size()
    in_sight(back)
    back.server.state.mode = "fade"


def test_images_apart_are_said_and_their_centres_aligned(back: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = back.server.state
    fixed, moving = moved(pair.fixed, NEAR), moved(pair.moving, FAR)
    open_own(back, tmp_path, fixed, moving)
    apart = np.linalg.norm(fixed.grid.centre - moving.grid.centre)
    assert f"{apart:.0f} mm apart" in state.overlap_note
    back.controller.set_fade(0.0)
    alone = picture(back)
    back.controller.set_fade(1.0)
    np.testing.assert_array_equal(picture(back), alone)  # nothing of the moving image is in sight
    back.controller.align_centres()
    back.controller.set_fade(1.0)
    assert np.abs(picture(back) - alone).mean() > 3
    assert (state.overlap_note, state.centred) == ("", True)
    in_sight(back)
    register(back)
    given = back.live.prepared_with
    np.testing.assert_allclose(given["moving"].grid.centre, given["fixed"].grid.centre, atol=1e-3)

    # The files that are saved fit the file of the moving image, which lies where it always did.
    asyncio.get_event_loop().run_until_complete(back.controller.save())
    files = {e["name"].split("_")[0]: back.files.find(e["url"].split("/")[1]).path for e in state.downloads}
    saved = sitk.ReadImage(str(files["registered"]), sitk.sitkFloat32)
    source = sitk.ReadImage(str(tmp_path / "moving.nii.gz"), sitk.sitkFloat32)
    again = sitk.Resample(source, saved, sitk.ReadTransform(str(files["transform"])), sitk.sitkLinear, 0.0)
    difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(saved))
    assert np.quantile(difference, 0.999) < 0.5
    assert sitk.GetArrayFromImage(saved).mean() > 15, "else nothing was compared"

    back.controller.undo_centring()
    assert (state.phase, state.centred) == ("idle", False)
    assert "mm apart" in state.overlap_note
    assert back.controller.pair.nodes["moving"].GetParentTransformNode() is None


def test_overlap_is_that_of_boxes_as_they_lie() -> None:
    grid = Grid((20, 30, 40), NEAR @ np.diag([2.0, 3, 1.5, 1]))
    assert overlap(grid, grid) == 1.0
    half = Grid(grid.shape, grid.ijk_to_ras @ np.array([[1, 0, 0, 10], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    assert overlap(grid, half) == pytest.approx(0.5, abs=0.1)
    far = Grid(grid.shape, FAR @ np.diag([2.0, 3, 1.5, 1]))
    assert overlap(grid, far) == 0.0
    inside = Grid((2, 2, 2), NEAR @ np.diag([2.0, 3, 1.5, 1]))
    assert overlap(grid, inside) == 1.0, "a small image inside a large one is in sight"


def mouse(app: App, xy: tuple[int, int], *, shift: bool = False, event: str = "MouseMoveEvent") -> None:
    interactor = app.views.view("Red").interactor()
    interactor.SetEventInformation(*xy, 0, int(shift))
    interactor.InvokeEvent(event)


def test_place_and_values_under_the_mouse(back: App, pair: PhantomPair, tmp_path: Path) -> None:
    fixed, moving = moved(pair.fixed, NEAR), moved(pair.moving, NEAR)
    open_own(back, tmp_path, fixed, moving)
    register(back)
    back.controller.ask_lambda(0.0)
    back.controller.step()
    xy = (SIZE // 2 + 12, SIZE // 2 - 7)
    mouse(back, xy)
    node = back.views.view("Red").get_view_node()
    ras = np.array(node.GetXYToRAS().MultiplyPoint((*map(float, xy), 0.0, 1.0))[:3])
    place, *values = back.server.state.probe.split(" · ")
    for part, letters, value in zip(place.removesuffix(" mm").split("  "), ("RL", "AP", "SI"), ras, strict=True):
        letter, size = part.split()
        assert letter == letters[0 if round(value, 1) >= 0 else 1]
        assert float(size) == pytest.approx(abs(value), abs=0.051)
    leads = Transform((wavy(fixed.grid, 0.0), back.live.linear)).apply(ras[None])[0]
    assert np.linalg.norm(leads - ras) > 1, "else the deformation could be left out unnoticed"
    for title, volume, at in (("Fixed", fixed, ras), ("Moving", moving, leads)):
        index = tuple(np.floor(volume.grid.to_ijk(at) + 0.5).astype(int))
        shown = next(value for value in values if value.startswith(title)).split()[1]
        assert float(shown) == pytest.approx(float(volume.array[index]), rel=1e-3)
    length = np.linalg.norm(Transform((wavy(fixed.grid, 0.0),)).apply(ras[None])[0] - ras)
    assert values[-1] == f"Deformed by {length:.1f} mm" and length > 0.5
    mouse(back, (1, 1), event="LeaveEvent")
    assert back.server.state.probe == ""
    back.controller.reset()
    mouse(back, xy)
    assert "Deformed" not in back.server.state.probe != ""


def test_shift_and_double_click_show_the_place_in_every_view(back: App) -> None:
    red = back.views.view("Red")
    for number, (xy, shift, event) in enumerate(
        (((130, 90), True, "MouseMoveEvent"), ((80, 120), False, "LeftButtonDoubleClickEvent"))
    ):
        mouse(back, xy, shift=shift, event=event)
        ras = red.get_view_node().GetXYToRAS().MultiplyPoint((*map(float, xy), 0.0, 1.0))
        for name, axis in (("Green", 1), ("Yellow", 0)):
            at = back.views.view(name).get_view_node().GetSliceToRAS().GetElement(axis, 3)
            assert at == pytest.approx(ras[axis], abs=0.01), number
    before = back.views.view("Green").get_slice_value()
    mouse(back, (60, 60))
    assert back.views.view("Green").get_slice_value() == before, "only when asked for"
    back.viewing.fit()
    assert back.views.view("Green").get_slice_value() == before
    in_sight(back)


def test_slices_are_counted_and_the_bar_is_as_long_as_it_says(back: App, pair: PhantomPair) -> None:
    open_phantom(back, pair)
    view, state = back.views.view("Red"), back.server.state
    low, high = view.get_slice_range()
    view.set_slice_value(low)
    count = pair.fixed.shape[2]
    assert state.reading_Red["slice"].startswith(f"1 of {count} · ")
    view.set_slice_value(low + 3 * view.get_slice_step())
    assert state.reading_Red["slice"].startswith(f"4 of {count} · ")
    z = view.get_view_node().GetSliceToRAS().GetElement(2, 3)
    assert state.reading_Red["slice"].endswith(f"{'S' if z >= 0 else 'I'} {abs(z):.1f} mm")
    view.set_slice_value(high)
    assert state.reading_Red["slice"].startswith(f"{count} of {count} · ")
    across = view.get_view_node().GetFieldOfView()[0]
    length = float(state.reading_Red["text"].removesuffix(" mm"))
    assert state.reading_Red["percent"] == pytest.approx(100 * length / across, abs=0.01)
    view.zoom(0.9)
    assert float(state.reading_Red["text"].removesuffix(" mm")) < length


def test_windows_of_a_ct_are_offered_for_a_ct_only(back: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = back.server.state
    assert [entry["value"] for entry in state.windows] == ["auto", "full"]
    ct = Volume(pair.fixed.array * 8 - 1000, pair.fixed.ijk_to_ras, "ct")
    open_own(back, tmp_path, ct, pair.moving)
    assert [entry["value"] for entry in state.windows] == ["auto", "full", "brain", "soft", "lung", "bone"]
    fixed, moving = (back.controller.pair.nodes[role].GetDisplayNode() for role in ("fixed", "moving"))
    before = moving.GetWindow(), moving.GetLevel()
    back.viewing.set_window("lung")
    assert (fixed.GetWindow(), fixed.GetLevel()) == (1500, -600)
    assert (moving.GetWindow(), moving.GetLevel()) == before, "no Hounsfield units there"
    back.viewing.set_window("full")
    assert fixed.GetWindow() == pytest.approx(float(np.ptp(ct.array)), rel=1e-4)
    for nonsense in (None, 3, "x", {}):
        back.viewing.set_window(nonsense)
    assert fixed.GetWindow() == pytest.approx(float(np.ptp(ct.array)), rel=1e-4)
    back.viewing.set_window("auto")
    assert fixed.GetAutoWindowLevel()


def test_a_drag_sets_the_window_of_the_image_on_top(back: App) -> None:
    fixed, moving = (back.controller.pair.nodes[role].GetDisplayNode() for role in ("fixed", "moving"))
    for fade, dragged, other in ((0.0, fixed, moving), (1.0, moving, fixed)):
        back.controller.set_fade(fade)
        before, rest = (dragged.GetWindow(), dragged.GetLevel()), (other.GetWindow(), other.GetLevel())
        mouse(back, (100, 100), event="EnterEvent")
        mouse(back, (100, 100))
        mouse(back, (100, 100), event="LeftButtonPressEvent")
        for step in range(1, 11):
            mouse(back, (100 + 4 * step, 100 + 2 * step))
        mouse(back, (140, 120), event="LeftButtonReleaseEvent")
        assert dragged.GetWindow() > 1.05 * before[0]
        assert dragged.GetLevel() != before[1]
        assert (other.GetWindow(), other.GetLevel()) == rest


def test_the_3d_view_comes_when_it_is_wanted(back: App) -> None:
    assert not any(back.views.view(name).is_visible_in_3d() for name in BOTH_VIEWS)
    back.viewing.set_3d(True)
    try:
        assert back.views.layouts.layout_id == "in3d"
        assert all(back.views.view(name).is_visible_in_3d() for name in BOTH_VIEWS)
        back.server.state.mode = "sideBySide"
        back.controller.set_mode("sideBySide")
        assert not any(back.views.view(name).is_visible_in_3d() for name in BOTH_VIEWS)
        back.server.state.mode = "fade"
        back.controller.set_mode("fade")
        assert back.views.layouts.layout_id == "in3d"
    finally:
        back.viewing.set_3d(False)
    assert back.views.layouts.layout_id == "fade"


def test_each_panel_has_its_own_messages(back: App) -> None:
    state = back.server.state
    back.controller.tell("of the registration")
    back.panels.choose("segmentation")
    assert state.error == ""
    back.controller.tell("of the registration, later")
    assert state.error == ""
    back.segmentation.tell("of the segmentation")
    back.segmentation._warn("a note")
    assert (state.error, state.notes) == ("of the segmentation", ["a note"])
    back.panels.choose("registration")
    assert (state.error, state.notes) == ("of the registration, later", [])
    state.error = ""
    back.panels.choose("segmentation")
    assert (state.error, state.notes) == ("of the segmentation", ["a note"])
    back.messages.clear("segmentation")
    back.panels.choose("registration")


def test_landmarks_have_the_colour_of_their_image_and_numbers(back: App) -> None:
    tuning = back.controller.tuning
    points = back.controller.pair.volumes["fixed"].grid.to_ras([[20.0, 25, 24], [30, 30, 20]])
    tuning.landmarks.open("fixed_points", points, ["1", "2"], "f")
    tuning.landmarks.open("moving_points", points + 2, ["1", "2"], "m")
    nodes = [tuning.landmarks.nodes[role] for role in ("fixed_points", "moving_points")]
    colours = [node.GetDisplayNode().GetSelectedColor() for node in nodes]
    assert np.abs(np.subtract(*colours)).max() > 0.3
    assert [nodes[0].GetNthControlPointLabel(index) for index in range(2)] == ["1", "2"]
    assert all(not node.GetLocked() and node.GetDisplayNode().GetPointLabelsVisibility() for node in nodes)
