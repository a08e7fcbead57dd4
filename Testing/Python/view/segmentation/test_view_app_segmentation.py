"""The browser app's segmentation panel without a browser, the worker played by the test."""

from __future__ import annotations

import asyncio
import csv
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from dicom_examples import write_image
from segmentation_bench import OBLIQUE, centre_of, eggs, truth
from view_app_bench import register
from view_segmentation_bench import MODELS, coloured, colours, segment

from hyperreg.errors import HyperRegError
from hyperreg.imaging import itk
from hyperreg.imaging.dicom.series import read_segmentation
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.mrml.segmentation import surfaces
from hyperreg.mrml.segmentation.layer import SURFACE
from hyperreg.view.app import App
from hyperreg.view.state import BOTH_VIEWS


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


def test_surfaces_are_made_one_at_a_time_while_3d_is_shown(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperreg.view.slices import VIEW_3D

    state = app.server.state
    made: list[Any] = []
    make = surfaces._surface

    def noted(segment: Any, image: Any) -> Any:
        made.append(make(segment, image))
        return made[-1]

    monkeypatch.setattr(surfaces, "_surface", noted)

    def shown() -> int:
        segmentation = app.segmentation._node.GetSegmentation()
        segments = [segmentation.GetNthSegment(index) for index in range(segmentation.GetNumberOfSegments())]
        found = [surface for segment in segments if (surface := segment.GetRepresentation(SURFACE)) is not None]
        assert all(any(surface is ours for ours in made) for surface in found), "made by the view itself"
        return len(found)

    segment(app)
    app.controller.step()
    assert (made, shown()) == ([], 0), "nobody looks at them"
    state.in_3d = True
    try:
        app._change_3d()
        counts = [(len(made), shown())]
        for _ in range(2):  # the page is answered between one and the next
            app.controller.step()
            counts.append((len(made), shown()))
        # A view that is given one surface makes all others at once: it gets them together.
        assert counts == [(0, 0), (1, 0), (2, 2)]
        assert coloured(app, VIEW_3D) > 0.02
        app.segmentation.undo()
        segment(app)
        app.controller.step()
        assert len(made) == 3, "those of the next result as well"
        state.in_3d = False
        app.controller.step()
        assert (len(made), shown()) == (3, 0), "what nobody looks at waits"
    finally:
        state.in_3d = False
        app._change_3d()


def test_a_left_and_a_right_structure_are_named_once(app: App) -> None:
    state = app.server.state
    state.segment_model = "brain-anatomy"
    app.segmentation.choose_model()
    assert "finds 30: Cerebral white matter (left, right), Cerebral cortex (left, right), " in state.segment_about
    assert "Left cerebral white matter, Right cerebral white matter" in state.segment_structures, "the tooltip has all"


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


def test_the_segmentation_of_a_series_is_a_dicom_object_too(app: App, tmp_path: Path) -> None:
    state, series = app.server.state, app.controller.series
    write_image(tmp_path / "study", eggs(OBLIQUE), "before")
    run = asyncio.get_event_loop().run_until_complete
    run(series.look(str(tmp_path / "study")))
    run(series.open(1, "fixed"))
    app.panels.choose("registration")
    app.panels.choose("segmentation")
    segment(app)
    for leave_out in (False, True):
        state.series_leave_out = leave_out
        run(app.segmentation.save())
        assert state.error == ""
        *files, path = (app.files.find(entry["url"].split("/")[1]).path for entry in state.segment_downloads)
        assert len(files) == 4
        assert all(("before" in file.name) != leave_out for file in files)
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / str(leave_out))
            known = any(b"PAT4711X" in archive.read(name) for name in archive.namelist())
        assert known != leave_out
        labels = read_segmentation(tmp_path / str(leave_out) / "segmentation.dcm")
        assert labels is not None
        found = next(number for number, structure in labels.table.items() if structure.name == "Core")
        expected = Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras)
        assert np.linalg.norm(centre_of(labels.layers[0], found) - centre_of(expected, 5)) < 0.5  # mm
    state.series_leave_out = False


def test_bad_uploads_are_explained_without_folders(app: App, tmp_path: Path) -> None:
    (tmp_path / "text.nrrd").write_text("no image", encoding="utf-8")
    write_volume(Volume(np.zeros((9, 9, 9), np.float32), np.eye(4)), tmp_path / "empty.nii.gz")
    for name in ("text.nrrd", "empty.nii.gz"):
        with pytest.raises(HyperRegError):
            upload(app, "input0", tmp_path / name)
        assert name in app.server.state.error
        assert str(tmp_path) not in app.server.state.error


def test_a_segmented_image_that_is_closed_takes_its_segmentation_along(app: App, images: Path) -> None:
    segment(app)
    app.panels.choose("registration")
    app.controller.load_files(images / "moving.nii.gz", images / "fixed.nii.gz")
    app.panels.choose("segmentation")
    assert app.server.state.segment_rows == []
    assert app.server.state.segment_missing == ""
    segment(app)
    assert len(app.server.state.segment_rows) == 2


@pytest.mark.parametrize("nonsense", [None, "registration; DROP", 7, ["segmentation"]])
def test_panels_that_there_are_not_are_ignored(app: App, nonsense: Any) -> None:
    app.panels.choose(nonsense)
    assert app.server.state.panel == "segmentation"
