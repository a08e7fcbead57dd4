"""The browser app's segmentation panel without a browser, the worker played by the test."""

from __future__ import annotations

import asyncio
import csv
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_segmentation import FakeSegmenter, FakeStore
from segmentation_bench import OBLIQUE, centre_of, eggs, make_card, truth
from view_app_bench import SIZE, Client, Registration, register

from hyperreg.errors import HyperRegError
from hyperreg.imaging import itk
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.registration.model import save_untrained
from hyperreg.segmentation import licences
from hyperreg.segmentation.bundles import join_models
from hyperreg.view.app import App, Options
from hyperreg.view.state import BOTH_VIEWS, MOVING_VIEWS

MODELS = ("bands", "belly", "folds", "two")
TWO = [{"name": "T1", "title": "T1", "patterns": ["t1w"]}, {"name": "FLAIR", "title": "T2 FLAIR", "patterns": ["t2f"]}]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    save_untrained(folder, "tiny-untrained")
    make_card(folder, name="bands", title="Bands", description="Finds eggs")
    make_card(folder, name="two", title="Tumour", inputs=TWO, modality="any", licence="CC BY-NC 4.0")
    slider = [{"name": "lambda", "title": "Balance", "default": 0.25, "description": "Between two ends."}]
    network = {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1], "blocks_up": []}, "hidden": [4]}
    folds = [make_card(folder / "parts", name=name, network=network, hyperparameters=slider) for name in ("a", "b")]
    join_models(folds, "folds", folder)
    make_card(folder, name="belly", title="Belly", modality="CT")
    return folder


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_volume(eggs(OBLIQUE), folder / "fixed.nii.gz")
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), folder / "moving.nii.gz")
    return folder


@pytest.fixture(scope="module")
def module_app(models: Path, images: Path) -> Iterator[App]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(models))
        patch.setenv("TRAME_ARGS", "")
        asyncio.set_event_loop(asyncio.new_event_loop())
        pair = (images / "fixed.nii.gz", images / "moving.nii.gz")
        options = Options(*pair, open_browser=False, model="tiny-untrained")
        app = App(options, client=Client(), live=Registration(), segmenter=FakeSegmenter())
        for name in (*BOTH_VIEWS, *MOVING_VIEWS):
            view = app.views.view(name)
            view.render_window().SetSize(SIZE, SIZE)
            view._update_slice_size()
        yield app
        app.close()
        assert app.live.closed if hasattr(app.live, "closed") else True


@pytest.fixture
def app(module_app: App, models: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setenv("HYPERREG_MODELS", str(models))
    (models / licences.RECORD).unlink(missing_ok=True)
    state = module_app.server.state
    module_app.segmentation.undo()
    state.update({"error": "", "notes": [], "segment_words": "", "segment_modality": "any", "device": "auto"})
    state.update({"segment_downloads": [], "segment_map": False, "segment_flips": False, "segment_align": False})
    state.segment_model = "bands"
    module_app.segmentation.filter_models()
    module_app.controller.load_files(images / "fixed.nii.gz", images / "moving.nii.gz")
    module_app.server.state.panel = "segmentation"
    module_app.panels.choose("segmentation")
    module_app.segmenter = module_app.segmentation.logic.remote
    module_app.segmenter.asked.clear()
    yield module_app
    if module_app.segmenter.running:
        module_app.segmentation.cancel()
    module_app.panels.choose("registration")


def segment(app: App, **answer: Any) -> Any:
    app.segmentation.segment()
    if app.server.state.segment_licence:
        app.segmentation.accept_licence()
    assert app.server.state.error == ""
    return app.segmenter.answer(**answer)


def colours(app: App, name: str = "Red") -> np.ndarray:
    """(SIZE, SIZE, 3) colours of a view at rest."""
    import vtk
    from vtk.util.numpy_support import vtk_to_numpy

    app.views.set_draft(False)
    window = app.views.view(name).render_window()
    window.Render()
    grab = vtk.vtkWindowToImageFilter()
    grab.SetInput(window)
    grab.ReadFrontBufferOff()
    grab.Update()
    return vtk_to_numpy(grab.GetOutput().GetPointData().GetScalars()).reshape(SIZE, SIZE, -1)[..., :3].astype(float)


def coloured(app: App) -> float:
    """Share of the pixels that are not grey."""
    picture = colours(app)
    return float((np.ptp(picture, axis=-1) > 40).mean())


def test_the_licence_is_shown_once_and_then_one_button_segments(app: App) -> None:
    state = app.server.state
    assert [entry["title"] for entry in state.segment_inputs] == ["Volume"]
    assert state.segment_missing == ""
    app.segmentation.segment()
    assert state.segment_licence == "Licence: Apache-2.0"
    assert app.segmenter.asked == []
    app.segmentation.decline_licence()
    assert (state.segment_licence, state.segment_phase) == ("", "idle")
    app.segmentation.segment()
    app.segmentation.accept_licence()
    assert (state.segment_licence, state.segment_phase) == ("", "running")
    app.segmenter.progress(0.4, "Segmenting")
    assert (state.segment_progress, state.segment_text) == (40.0, "Segmenting")
    volumes, model, options = app.segmenter.asked[0]
    assert model == "bands"
    assert (options["device"], options["flips"]) == ("auto", False)
    assert np.abs(volumes["image"].grid.corners - OBLIQUE.corners).max() < 1e-3  # mm
    app.segmenter.answer()
    assert state.segment_phase == "idle"
    app.segmentation.segment()
    assert state.segment_licence == ""
    assert app.segmenter.running


def test_the_result_is_seen_in_colour_and_as_a_table(app: App) -> None:
    state = app.server.state
    before = coloured(app)
    segmented = segment(app, warnings=("Look twice.",))
    assert [(row["name"], row["colour"]) for row in state.segment_rows] == [
        ("Outer shell", "#0adc1e"),
        ("Core", "#c81e3c"),
    ]
    volumes = {row["name"]: float(row["volume"]) for row in state.segment_rows}
    for found in segmented.volumes:
        assert volumes[found.structure.name] == pytest.approx(found.volume_ml, rel=0.02)
    assert "2 of 2 structures" in state.segment_summary
    assert state.notes == ["Look twice."]
    assert coloured(app) > before + 0.02
    strong = coloured(app)
    state.segment_opacity = 0.0
    app.segmentation.set_opacity(0.0)
    assert coloured(app) < before + 0.01
    state.segment_opacity = 0.5
    app.segmentation.set_opacity(0.5)
    assert coloured(app) == pytest.approx(strong, abs=0.01)
    app.panels.choose("registration")
    assert coloured(app) < before + 0.01
    app.panels.choose("segmentation")
    assert coloured(app) == pytest.approx(strong, abs=0.01)
    app.segmentation.undo()
    assert state.segment_rows == []
    assert coloured(app) < before + 0.01


def test_doubt_is_shown_and_visited(app: App, tmp_path: Path) -> None:
    state = app.server.state
    sharp = eggs(OBLIQUE)
    soft = itk.volume_from_itk(sitk.SmoothingRecursiveGaussian(itk.volume_to_itk(sharp), 4.0), "soft")
    write_volume(soft, tmp_path / "soft.nii.gz")
    upload(app, "input0", tmp_path / "soft.nii.gz")
    segment(app)
    plain = colours(app)
    state.segment_map = True
    app.segmentation.show()
    assert np.abs(colours(app) - plain).max() > 60
    app.segmentation.next_place()
    assert state.segment_place.startswith("Doubtful region 1 of")
    point = app.segmentation._tour.point()
    for name in BOTH_VIEWS:
        matrix = app.views.view(name).get_view_node().GetSliceToRAS()
        normal = np.array([matrix.GetElement(n, 2) for n in range(3)])
        origin = np.array([matrix.GetElement(n, 3) for n in range(3)])
        assert abs(normal @ (point - origin)) < 1e-3  # mm: every view goes through the point


def test_a_model_of_two_images_gets_them_by_name_choice_and_upload(app: App, images: Path, tmp_path: Path) -> None:
    state = app.server.state
    state.segment_model = "two"
    app.segmentation.choose_model()
    assert [(entry["title"], entry["volume"]) for entry in state.segment_inputs] == [("T1", ""), ("T2 FLAIR", "")]
    assert state.segment_missing == "Open or choose: T1, T2 FLAIR."
    fixed = state.segment_volumes[0]["value"]
    app.segmentation.choose("T1", fixed)
    assert state.segment_missing == "Open or choose: T2 FLAIR."
    app.segmentation.choose("T1", "no node")
    app.segmentation.choose("no input", fixed)
    assert state.segment_inputs[0]["volume"] == fixed
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), tmp_path / "patient.nii.gz")
    upload(app, "input1", tmp_path / "patient.nii.gz")
    assert state.segment_missing == ""
    assert state.segment_inputs[1]["info"].startswith("30 x 26 x 20")
    state.segment_align = True
    segment(app)
    volumes, _, options = app.segmenter.asked[-1]
    assert list(volumes) == ["T1", "FLAIR"]
    assert options["align"] is True
    np.testing.assert_allclose(volumes["FLAIR"].array, eggs(OBLIQUE, OBLIQUE.centre).array, rtol=1e-4, atol=1e-2)
    before = [entry["volume"] for entry in state.segment_inputs]
    app.segmentation.recognise()
    assert state.segment_guess == "Looking which image is which ..."
    looked, model, told = app.segmenter.looked
    places = [entry["value"] for entry in state.segment_volumes]
    assert (len(looked), model) == (len(places), "two")
    told({"T1": places.index(before[1]), "FLAIR": places.index(before[0])}, "By their contrast. Check it.")
    assert [entry["volume"] for entry in state.segment_inputs] == before[::-1]
    assert state.segment_guess == "By their contrast. Check it."
    # A file whose name tells what it is goes where it belongs, once it is open.
    app.segmentation._chosen.clear()
    write_volume(eggs(OBLIQUE), tmp_path / "case_t2f.nii.gz")
    upload(app, "input0", tmp_path / "case_t2f.nii.gz")
    assert state.segment_inputs[0]["volume"] == state.segment_volumes[-1]["value"]


def upload(app: App, role: str, path: Path) -> None:
    asyncio.get_event_loop().run_until_complete(app.segmentation.accept_upload(role, path))


def test_models_are_searched_for(app: App) -> None:
    state = app.server.state

    def found(words: Any, modality: str = "any") -> list[str]:
        state.segment_words, state.segment_modality = words, modality
        app.segmentation.filter_models()
        # Those that come with HyperReg are there, too.
        return [entry["value"] for entry in state.segment_models if entry["value"] in MODELS]

    assert found("") == ["bands", "belly", "folds", "two"]
    assert found("eggs") == ["bands"]
    assert found("flair") == ["two"]
    assert state.segment_model == state.segment_models[0]["value"]  # the one of before is not among them
    assert found(None, "CT") == ["belly", "two"]
    assert found("", "XR") == ["bands", "belly", "folds", "two"]
    assert found("knee") == []
    assert state.segment_missing == "Choose a model."
    app.segmentation.segment()
    assert "no model" in state.error


def test_what_only_some_models_have_is_offered_for_them_alone(app: App) -> None:
    state = app.server.state
    assert (state.segment_can_ensemble, state.segment_sliders) == (False, [])
    state.segment_model = "folds"
    app.segmentation.choose_model()
    assert state.segment_can_ensemble
    assert [(entry["title"], entry["value"]) for entry in state.segment_sliders] == [("Balance", 0.25)]
    state.segment_ensemble = True
    app.segmentation.set_slider("lambda", 0.75)
    for nonsense in (2, None, True, float("nan")):
        app.segmentation.set_slider("lambda", nonsense)
    app.segmentation.set_slider("gamma", 0.1)
    segment(app)
    options = app.segmenter.asked[-1][2]
    assert (options["ensemble"], options["hyperparameters"]) == (True, {"lambda": 0.75})
    state.segment_model = "bands"
    app.segmentation.choose_model()
    assert (state.segment_ensemble, state.segment_sliders) == (False, [])


def test_cancelling_and_failing_leave_everything_as_it_was(app: App) -> None:
    state = app.server.state
    segment(app)
    rows, picture = state.segment_rows, colours(app)
    app.segmentation.segment()
    app.segmentation.cancel()
    assert state.segment_phase == "idle"
    app.segmentation.segment()
    app.segmenter.fail("'fixed' looks like a CT.")
    assert state.error == "'fixed' looks like a CT."
    assert state.segment_rows == rows
    assert np.array_equal(colours(app), picture)


def test_what_is_downloaded_lies_where_the_structures_are(app: App) -> None:
    state = app.server.state
    segmented = segment(app)
    asyncio.get_event_loop().run_until_complete(app.segmentation.save())
    assert state.error == ""
    paths = [app.files.find(entry["url"].split("/")[1]).path for entry in state.segment_downloads]
    assert [path.name for path in paths] == [
        f"fixed_Bands{ending}" for ending in (".seg.nrrd", ".nii.gz", "-uncertainty.nii.gz", "-volumes.csv")
    ]
    expected = Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras)
    for path in paths[:2]:
        found = read_volume(path)
        assert found.grid.matches(OBLIQUE)
        assert np.array_equal(found.array, segmented.labels.array)
        assert np.linalg.norm(centre_of(found, 5) - centre_of(expected, 5)) < 0.5  # mm
    assert sitk.ReadImage(str(paths[0])).GetMetaData("Segment1_Name") == "Core"
    with paths[3].open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["Outer shell", "Core"]
    # The registration's downloads are others: neither ends the other.
    app.controller.load_files(*(path for path in (app.options.fixed, app.options.moving)))
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert all(path.is_file() for path in paths)


def test_bad_uploads_are_explained_without_folders(app: App, tmp_path: Path) -> None:
    (tmp_path / "text.nrrd").write_text("no image", encoding="utf-8")
    write_volume(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), tmp_path / "empty.nii.gz")
    for name in ("text.nrrd", "empty.nii.gz"):
        with pytest.raises(HyperRegError):
            upload(app, "input0", tmp_path / name)
        assert name in app.server.state.error
        assert str(tmp_path) not in app.server.state.error
    assert app.server.state.uploading == ""


def test_a_segmented_image_that_is_closed_takes_its_segmentation_along(app: App, images: Path) -> None:
    segment(app)
    app.panels.choose("registration")
    app.controller.load_files(images / "moving.nii.gz", images / "fixed.nii.gz")
    app.panels.choose("segmentation")
    assert app.server.state.segment_rows == []
    assert app.server.state.segment_missing == ""
    segment(app)
    assert len(app.server.state.segment_rows) == 2


def test_a_model_is_added_once_its_licence_is_accepted_and_removed_again(
    app: App, models: Path, tmp_path: Path
) -> None:
    state, controls = app.server.state, app.models
    store = controls._store = FakeStore(controls.failed)

    def send() -> Path:
        (tmp_path / "organs.zip").write_bytes(b"zip")
        asyncio.get_event_loop().run_until_complete(controls.accept_upload("model", tmp_path / "organs.zip"))
        return Path(store.asked[-1][1])

    kept = send()
    assert kept.is_relative_to(app.files.folder)
    assert state.segment_adding == "organs.zip"
    with pytest.raises(HyperRegError, match="being added"):
        send()
    store.answer("Some licence")
    assert state.segment_new_licence == "Some licence"
    controls.decline()
    assert (state.segment_adding, state.segment_new_licence, kept.exists()) == ("", "", False)
    kept = send()
    store.on_error(f"'{kept}' is no model.")
    assert (state.error, state.segment_adding) == ("'organs.zip' is no model.", "")
    store.callbacks.clear()
    send()
    store.answer("Some licence")
    controls.accept()
    assert store.asked[-1][0] == "add"
    make_card(models, name="organs")
    store.answer("organs")
    assert (state.segment_model, state.segment_can_remove, state.segment_adding) == ("organs", True, "")
    controls.remove()
    assert store.asked[-1] == ("remove", "organs")
    shutil.rmtree(models / "organs")
    store.answer()
    assert "organs" not in [entry["value"] for entry in state.segment_models]
    assert state.segment_model != "organs"


def test_a_model_s_folder_is_named_and_stays_where_it_is(app: App, models: Path, tmp_path: Path) -> None:
    state, controls = app.server.state, app.models
    store = controls._store = FakeStore(controls.failed)
    for nothing in ("", "  ", None, 7):
        state.segment_source = nothing
        controls.add_from_disk()
    assert store.asked == []
    state.segment_source = str(tmp_path)
    controls.add_from_disk()
    assert (store.asked, state.segment_adding) == ([("licence", str(tmp_path))], tmp_path.name)
    controls.add_from_disk()
    assert "being added" in state.error
    store.answer("Some licence")
    controls.decline()
    assert tmp_path.is_dir()
    controls.add_from_disk()
    store.answer("Some licence")
    controls.accept()
    assert store.asked[-1] == ("add", str(tmp_path))
    make_card(models, name="organs")
    store.answer("organs")
    assert (state.segment_model, state.segment_source, state.segment_adding) == ("organs", "", "")
    shutil.rmtree(models / "organs")
    controls._changed("")


@pytest.mark.parametrize("nonsense", [None, "registration; DROP", 7, ["segmentation"]])
def test_panels_that_there_are_not_are_ignored(app: App, nonsense: Any) -> None:
    app.panels.choose(nonsense)
    assert app.server.state.panel == "segmentation"
