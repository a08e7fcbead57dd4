"""The browser app without a browser: its logic on a real scene and real slice views, the worker played by the test."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

import vtk
from fake_registration import METRICS, FakeRegistration
from vtk.util.numpy_support import vtk_to_numpy

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import PhantomPair, head_phantom_pair
from hyperreg.view.app import App, Options, serve
from hyperreg.view.controller import REST_SECONDS
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS, metric_rows, word

SIZE = 200


class Registration(FakeRegistration):
    """The worker's side, with a grid of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.on_anchor = None
        self.anchor_count = 2


class Client:
    def __init__(self) -> None:
        self.news = []
        self.stopped = False

    def poll(self) -> None:
        for event in self.news:
            event()
        self.news = []

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return head_phantom_pair((48, 60, 48), seed=1)


@pytest.fixture(scope="module")
def pair_files(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    paths = folder / "fixed.nii.gz", folder / "moving.nii.gz"
    for volume, path in zip((pair.fixed, pair.moving), paths, strict=True):
        write_volume(volume, path)
    return paths


@pytest.fixture(scope="module")
def module_app(pair_files: tuple[Path, Path], tiny_models: Path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        patch.setenv("TRAME_ARGS", "")
        asyncio.set_event_loop(asyncio.new_event_loop())
        app = App(Options(*pair_files, open_browser=False), client=Client(), live=Registration())
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            view = app.views.view(name)
            view.render_window().SetSize(SIZE, SIZE)
            view._update_slice_size()
        yield app
        app.controller.close()
        assert not app.files.folder.exists()
        assert app.client.stopped


@pytest.fixture
def app(module_app: App, pair: PhantomPair):
    module_app.server.state.update(
        {"lam": 0.3, "mode": "fade", "fade": 0.5, "error": "", "notes": [], "alignment": "affine"}
    )
    module_app.server.state.update({"device": "auto", "sample": False, "downloads": []})
    module_app.live.calls.clear()
    module_app.controller.load_sample(pair)
    module_app.views.set_draft(False)
    module_app.controller.step()
    return module_app


def register(app: App) -> None:
    app.controller.register()
    assert app.server.state.error == ""
    app.client.news.append(app.live.answer_ready)
    app.controller.step()


def picture(app: App, name: str = "Red") -> np.ndarray:
    """(SIZE, SIZE) grey values of a view, as at rest."""
    app.views.set_draft(False)
    window = app.views.view(name).render_window()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    scalars = vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(SIZE, SIZE, -1)
    return scalars[..., 0].astype(float)


def test_the_pair_is_open_and_in_sight_at_the_start(app, pair):
    state = app.server.state
    assert state.phase == "idle"
    assert state.fixed_name == pair.fixed.name
    assert state.fixed_info == "48 x 60 x 48, 4 x 4 x 4 mm"
    assert state.moving_labels_name == pair.moving_labels.name
    for name in BOTH_VIEWS:
        image = picture(app, name)
        assert image.mean() > 15  # a head, not a black square
        assert image.std() > 25
        assert image[:, :3].mean() < 12  # all of it in sight: air at the edge


def test_the_letters_at_the_edges_are_the_patients_sides(app):
    from hyperreg.view.slices import SIDES  # trame-slicer can be imported once an app was made

    letters = {"L": (-1, 0, 0), "R": (1, 0, 0), "P": (0, -1, 0), "A": (0, 1, 0), "S": (0, 0, 1)}
    for name, orientation in BOTH_VIEWS.items():
        to_ras = app.views.view(name).get_view_node().GetSliceToRAS()
        across = [to_ras.GetElement(row, 0) for row in range(3)]  # towards the right edge of the screen
        up = [to_ras.GetElement(row, 1) for row in range(3)]
        left, right, top = (np.array(letters[letter]) for letter in SIDES[orientation])
        assert np.dot(left, across) < -0.9, name
        assert np.dot(right, across) > 0.9, name
        assert np.dot(top, up) > 0.9, name


def test_register_gives_the_worker_the_pair_as_it_lies_in_space(app, pair):
    app.controller.register()
    assert app.server.state.phase == "running"
    given = app.live.prepared_with
    for role in ("fixed", "moving", "fixed_labels", "moving_labels"):
        expected: Volume = getattr(pair, role)
        assert (
            np.abs(given[role].grid.corners - expected.grid.corners).max() < 1e-3
        )  # mm; oblique, flipped, anisotropic
        assert np.array_equal(given[role].array, expected.array)
    assert (given["initial"], given["device"], given["model"]) == ("affine", "auto", "tiny-untrained")
    app.client.news.append(lambda: app.live.progress(0.25, "Aligning"))
    app.controller.step()
    assert (app.server.state.progress, app.server.state.progress_text) == (25.0, "Aligning")
    app.controller.cancel()
    assert app.server.state.phase == "idle"
    assert "cancel" in app.live.calls


def test_the_slider_deforms_the_picture_and_only_the_moving_volume(app):
    register(app)
    app.controller.set_mode("fade")
    app.controller.set_fade(1.0)
    app.controller.ask_lambda(1.0)
    app.controller.step()
    rigid = {name: picture(app, name) for name in BOTH_VIEWS}
    app.controller.ask_lambda(0.0)
    app.controller.step()
    for name in BOTH_VIEWS:
        assert np.abs(picture(app, name) - rigid[name]).mean() > 1.0, name
    app.controller.ask_lambda(1.0)
    app.controller.step()
    assert np.abs(picture(app) - rigid["Red"]).mean() < 0.2
    app.controller.set_fade(0.0)
    fixed = picture(app)
    app.controller.ask_lambda(0.0)
    app.controller.step()
    assert np.array_equal(picture(app), fixed)


def test_only_the_newest_lambda_is_taken(app):
    register(app)
    app.live.asked.clear()
    for lam in (0.4, 0.5, 0.6, 0.7):
        app.controller.ask_lambda(lam)
    app.controller.step()
    assert app.live.asked == [0.7]
    assert app.server.state.lam_word == "stiff"
    assert not app.server.state.exact
    assert not app.server.state.can_save
    assert not app.server.state.fresh
    app.client.news.append(app.live.answer_exact)
    app.controller.step()
    assert app.server.state.exact
    assert app.server.state.can_save
    assert app.server.state.fresh


@pytest.mark.parametrize("nonsense", [-0.1, 1.01, "0.5", None, float("nan"), True, {"lam": 1}])
def test_nonsense_from_the_browser_is_refused_in_words(app, nonsense):
    register(app)
    app.live.asked.clear()
    app.controller.ask_lambda(nonsense)
    app.controller.step()
    assert app.live.asked == []
    assert "between 0" in app.server.state.error
    assert app.server.state.lam == 0.3


def test_choices_from_outside_the_lists_are_refused(app):
    app.server.state.device = "/dev/mem"
    app.controller.register()
    assert "from the lists" in app.server.state.error
    assert app.server.state.phase == "idle"
    app.server.state.mode = "sideways"
    app.controller.set_mode("sideways")
    assert app.server.state.mode == "fade"


def test_while_lambda_moves_the_views_are_coarser_but_show_the_same(app):
    for name in BOTH_VIEWS:
        app.views._factory.get_factory_view(name).view_adapter.update_size("test", {"w": SIZE, "h": SIZE})
    node = app.views.view("Red").get_view_node()
    register(app)
    node.SetFieldOfView(*(0.5 * f for f in node.GetFieldOfView()[:2]), node.GetFieldOfView()[2])  # the user zoomed in
    app.live.asked.clear()
    zoomed = node.GetFieldOfView()
    app.controller.ask_lambda(0.8)
    app.controller.step()
    assert node.GetDimensions()[:2] == (SIZE // 2, SIZE // 2)
    assert node.GetFieldOfView() == pytest.approx(zoomed)
    time.sleep(REST_SECONDS + 0.05)
    app.controller.step()
    assert node.GetDimensions()[:2] == (SIZE, SIZE)
    assert node.GetFieldOfView() == pytest.approx(zoomed)


def test_figures_are_shown_with_what_they_were_before(app):
    register(app)
    rows = {row["name"]: (row["before"], row["now"]) for row in app.server.state.rows}
    assert rows["Similarity"] == ("0.500", "0.900")
    assert rows["Overlap (Dice)"] == ("0.400", "0.700")
    assert rows["Folding"] == ("", "0.020 %")
    assert rows["Largest shift"] == ("", "9.3 mm")
    assert metric_rows({"similarity": float("nan")}) == []
    assert [word(lam) for lam in (0, 0.2, 0.5, 0.8, 1)] == [
        "most flexible",
        "flexible",
        "balanced",
        "stiff",
        "most rigid",
    ]


def test_checkerboard_and_side_by_side_show_both_volumes(app):
    app.controller.set_fade(0.0)
    fixed = picture(app)
    app.controller.set_fade(1.0)
    moving = picture(app)
    app.server.state.mode = "checkerboard"
    app.controller.set_mode("checkerboard")
    board = picture(app)
    from_fixed, from_moving = np.isclose(board, fixed, atol=1), np.isclose(board, moving, atol=1)
    assert (from_fixed | from_moving).mean() > 0.98
    assert np.abs(board - fixed).mean() > 1.0
    assert np.abs(board - moving).mean() > 1.0
    app.server.state.mode = "sideBySide"
    app.controller.set_mode("sideBySide")
    assert np.abs(picture(app, "Red") - fixed).mean() < 0.5
    assert np.abs(picture(app, "Red2") - moving).mean() < 0.5
    red, second = app.views.view("Red"), app.views.view("Red2")
    red.set_slice_value(red.get_slice_value() + 12.0)
    assert second.get_slice_value() == pytest.approx(red.get_slice_value())


def test_saved_files_agree_with_each_other(app, pair):
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert app.server.state.error == ""
    by_ending = {
        entry["name"].split("_")[0]: app.files.find(entry["url"].split("/")[1]).path
        for entry in app.server.state.downloads
    }
    assert set(by_ending) == {"registered", "transform", "inverse", "labels", "report"}

    # SimpleITK alone, from the files alone: the moving image through the saved transform is the saved image.
    saved = sitk.ReadImage(str(by_ending["registered"]), sitk.sitkFloat32)
    transform = sitk.ReadTransform(str(by_ending["transform"]))
    moving = sitk.ReadImage(_written(pair.moving, by_ending["report"].parent), sitk.sitkFloat32)
    again = sitk.Resample(moving, saved, transform, sitk.sitkLinear, 0.0)
    difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(saved))
    assert np.quantile(difference, 0.999) < 0.5  # of 250 grey values
    assert saved.GetSize() == pair.fixed.shape

    expected = app.live.transform()
    points = pair.fixed.grid.points()[8:-8:6, 8:-8:6, 8:-8:6].reshape(-1, 3)
    assert np.abs(read_transform(by_ending["transform"]).apply(points) - expected.apply(points)).max() < 1e-3  # mm
    warped = expected.apply(points)
    back = app.live.inverse_transform().apply(warped)
    assert np.abs(read_transform(by_ending["inverse"]).apply(warped) - back).max() < 1e-3

    report = json.loads(by_ending["report"].read_text())
    assert report["lambda"] == 0.3
    assert report["metrics"]["similarity"] == METRICS["similarity"]
    assert report["dice"]["mean_after"] == METRICS["dice_mean"]
    assert report["model"]["name"] == "tiny-untrained"
    assert len(report["model"]["sha256"]) == 64


def _written(volume: Volume, folder: Path) -> str:
    path = folder / "moving-for-itk.nii.gz"
    write_volume(volume, path)
    return str(path)


def test_nothing_is_saved_while_only_a_preview_is_shown(app):
    register(app)
    app.controller.ask_lambda(0.9)
    app.controller.step()
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert app.server.state.downloads == []


def test_an_error_of_the_worker_is_told_and_the_next_registration_works(app):
    app.controller.register()
    app.client.news.append(lambda: app.live.fail("The worker has ended (out of memory)."))
    app.controller.step()
    assert app.server.state.error == "The worker has ended (out of memory)."
    assert app.server.state.phase == "idle"
    register(app)
    assert app.server.state.phase == "live"
    assert app.server.state.error == ""


def test_whatever_goes_wrong_the_clock_goes_on(app):
    def surprise() -> None:
        raise ZeroDivisionError

    app.client.news.append(surprise)
    app.controller.step()
    assert "unexpected" in app.server.state.error
    app.client.news = []
    register(app)
    assert app.server.state.phase == "live"


def test_reset_puts_the_moving_volume_back(app):
    app.controller.set_fade(1.0)
    before = picture(app)
    register(app)
    app.controller.ask_lambda(0.0)
    app.controller.step()
    assert np.abs(picture(app) - before).mean() > 1.0
    app.controller.reset()
    assert app.server.state.phase == "idle"
    assert app.server.state.rows == []
    assert np.abs(picture(app) - before).mean() < 0.2


def upload(app: App, role: str, path: Path) -> None:
    asyncio.get_event_loop().run_until_complete(app.controller.accept_upload(role, path))


def test_an_uploaded_image_takes_the_place_of_the_old_one(app, tmp_path):
    other = head_phantom_pair((40, 50, 40), seed=5)
    write_volume(other.moving, tmp_path / "patient.nii.gz")
    register(app)
    upload(app, "moving", tmp_path / "patient.nii.gz")
    state = app.server.state
    assert state.phase == "idle"
    assert state.moving_name == "patient.nii.gz"
    assert state.fixed_labels_name == ""  # the sample's label maps do not belong to a patient
    assert state.moving_labels_name == ""
    register(app)
    assert np.abs(app.live.prepared_with["moving"].grid.corners - other.moving.grid.corners).max() < 1e-2
    assert app.live.prepared_with["fixed_labels"] is None
    write_volume(other.moving_labels, tmp_path / "structures.nii.gz")
    upload(app, "moving_labels", tmp_path / "structures.nii.gz")
    assert state.moving_labels_name == "structures.nii.gz"
    app.controller.remove_labels("moving")
    assert state.moving_labels_name == ""


def _bad_files(folder: Path, pair: PhantomPair) -> dict[str, str]:
    """File name -> words that the message must hold."""
    write_volume(pair.moving, folder / "whole.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "whole.nii.gz").read_bytes()[:20000])
    write_volume(pair.moving_labels, folder / "labels.nii.gz")
    write_volume(Volume(np.zeros((20, 20, 20), np.float32), np.eye(4)), folder / "empty.nii.gz")
    (folder / "text.nrrd").write_text("no image at all")
    sitk.WriteImage(sitk.Image([8, 8, 8, 3], sitk.sitkFloat32), str(folder / "series.nii.gz"))
    sitk.WriteImage(sitk.Image([8, 8, 8], sitk.sitkVectorUInt8, 3), str(folder / "colour.mha"))
    return {
        "cut.nii.gz": "",
        "labels.nii.gz": "label map",
        "empty.nii.gz": "empty",
        "text.nrrd": "",
        "series.nii.gz": "",
        "colour.mha": "",
    }


def test_bad_uploads_are_explained_and_nothing_is_lost(app, pair, tmp_path):
    before = picture(app)
    for name, words in _bad_files(tmp_path, pair).items():
        app.server.state.error = ""
        with pytest.raises(HyperRegError):
            upload(app, "moving", tmp_path / name)
        assert name in app.server.state.error, name
        assert words in app.server.state.error
        assert str(tmp_path) not in app.server.state.error  # no folders of the server's machine
        assert app.server.state.moving_name == pair.moving.name
        assert app.server.state.uploading == ""
    assert np.array_equal(picture(app), before)
    register(app)
    assert app.server.state.phase == "live"


def test_an_image_as_a_label_map_is_refused(app, pair, tmp_path):
    write_volume(pair.moving, tmp_path / "image.nii.gz")
    with pytest.raises(HyperRegError):
        upload(app, "moving_labels", tmp_path / "image.nii.gz")
    assert "is not a label map" in app.server.state.error


def test_starting_with_one_image_or_an_unknown_device_is_refused(pair_files):
    with pytest.raises(InputError, match="Unknown device"):
        serve(device="tpu")
    with pytest.raises(InputError, match="Keep the token"):
        serve(host="0.0.0.0", token="none")  # noqa: S104
    with pytest.raises(InputError, match="both images"):
        serve(pair_files[0], token="none")


def test_the_server_process_never_loads_torch(tmp_path, tiny_models):
    code = (
        "import sys; from hyperreg.view.app import App, Options; App(Options(token='none'));"
        "print('torch' in sys.modules, 'monai' in sys.modules)"
    )
    environment = {**os.environ, "HYPERREG_MODELS": str(tiny_models), "TRAME_ARGS": ""}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_the_linear_part_moves_the_picture_to_the_right_side(app):
    """A map that samples the moving volume 12 mm further right shows its content 12 mm further left."""
    register(app)
    app.controller.set_fade(1.0)
    app.controller.ask_lambda(1.0)  # the stand-in's field is zero here
    app.controller.step()
    before = picture(app)
    app.live.linear = np.eye(4)
    app.live.linear[0, 3] = 12.0
    try:
        register(app)
        app.controller.ask_lambda(1.0)
        app.controller.step()
        after = picture(app)
    finally:
        app.live.linear = np.eye(4)
    node = app.views.view("Red").get_view_node()
    pixels = round(12.0 / (node.GetFieldOfView()[0] / SIZE))
    # The patient's right is on the left of the screen, so the patient's left is to the right: the picture moves there.
    moved = [np.abs(np.roll(before, shift, axis=1) - after)[:, 60:-60].mean() for shift in (-pixels, 0, pixels)]
    assert moved[2] < 0.5 * min(moved[0], moved[1])
