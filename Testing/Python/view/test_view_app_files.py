"""Files into the browser app and out of it: what is saved, and uploads good and bad; without a browser."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_registration import METRICS
from view_app_bench import picture, register

from hyperreg.errors import HyperRegError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.structures import Meaning, structures_of
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import PhantomPair, head_phantom_pair
from hyperreg.registration.catalogue import find_model
from hyperreg.view.app import App


def test_saved_files_agree_with_each_other(app, pair):
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert app.server.state.error == ""
    by_ending = {
        entry["name"].split("_")[0]: app.files.find(entry["url"].split("/")[1]).path
        for entry in app.server.state.downloads
    }
    assert set(by_ending) == {"registered", "transform", "inverse", "labels", "page", "report"}
    assert by_ending["page"].read_bytes().startswith(b"%PDF-")

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


def test_the_page_has_the_report_s_figures_also_where_centres_were_aligned(app, pair, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr("hyperreg.registration.page.write_page", lambda *told: (given.append(told), told[2].touch()))
    far = pair.moving.ijk_to_ras.copy()
    far[0, 3] += 400
    write_volume(Volume(pair.moving.array, far), tmp_path / "far.nii.gz")
    upload(app, "moving", tmp_path / "far.nii.gz")
    app.controller.align_centres()
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    ((report, images, path),) = given
    entry = next(entry for entry in app.server.state.downloads if entry["name"].startswith("report"))
    saved = json.loads(app.files.find(entry["url"].split("/")[1]).path.read_text())
    assert path.name.endswith(".pdf")
    assert {key: saved[key] for key in report if key != "outputs"} == {
        k: v for k, v in report.items() if k != "outputs"
    }
    assert images.names == (pair.fixed.name, "far.nii.gz")
    np.testing.assert_allclose(images.moving.ijk_to_ras, far)
    points = pair.fixed.grid.points()[8:-8:9, 8:-8:9, 8:-8:9].reshape(-1, 3)
    moved = Transform((images.forward,)).apply(points)
    np.testing.assert_allclose(images.before.apply(moved), images.after.apply(points), atol=1e-6)
    assert np.abs(images.before.apply(points).mean(axis=0) - points.mean(axis=0))[0] > 300, (
        "it lies where its file says"
    )


def _written(volume: Volume, folder: Path) -> str:
    path = folder / "moving-for-itk.nii.gz"
    write_volume(volume, path)
    return str(path)


def test_names_of_files_say_which_images_and_settings(app, pair, tmp_path):
    write_volume(pair.fixed, tmp_path / "Mueller 2020.nii.gz")
    write_volume(pair.moving, tmp_path / "Mueller_2024.nii.gz")
    upload(app, "fixed", tmp_path / "Mueller 2020.nii.gz")
    upload(app, "moving", tmp_path / "Mueller_2024.nii.gz")
    app.server.state.contrast = "same"
    app.controller.ask_lambda(0.25)
    app.server.state.lam = 0.25
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    case = "Mueller_2024-on-Mueller_2020_lambda-0.250-quick_tiny-untrained_contrast-same"
    assert {entry["name"].removesuffix(".gz") for entry in app.server.state.downloads} == {
        f"registered_{case}.nii", f"transform_{case}.h5", f"inverse_{case}.h5", f"report_{case}.json",
        f"page_{case}.pdf",
    }  # fmt: skip


@pytest.mark.parametrize("what", ["reset", "another image", "registered again"])
def test_files_and_numbers_go_with_their_registration(app, pair, tmp_path, what):
    state = app.server.state
    state.lam = 0.6
    app.controller.ask_lambda(0.6)
    register(app)
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    key = state.downloads[0]["url"].split("/")[1]
    assert app.files.find(key).path.is_file()
    path = app.files.find(key).path
    if what == "reset":
        app.controller.reset()
    elif what == "registered again":
        register(app)
    else:
        write_volume(pair.moving, tmp_path / "other.nii.gz")
        upload(app, "moving", tmp_path / "other.nii.gz")
        assert state.lam == find_model(state.model).default_lambda, "a new pair begins where every pair does"
        assert (state.rows, state.stage_text, state.suggested) == ([], "", "")
    assert (state.downloads, state.downloads_title) == ([], "")
    assert app.files.find(key) is None
    assert not path.exists()


def test_nothing_is_saved_while_only_a_preview_is_shown(app):
    register(app)
    app.controller.ask_lambda(0.9)
    app.controller.step()
    asyncio.get_event_loop().run_until_complete(app.controller.save())
    assert app.server.state.downloads == []


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
    assert np.array_equal(picture(app), before)
    register(app)
    assert app.server.state.phase == "live"


def test_an_image_as_a_label_map_is_refused(app, pair, tmp_path):
    write_volume(pair.moving, tmp_path / "image.nii.gz")
    with pytest.raises(HyperRegError):
        upload(app, "moving_labels", tmp_path / "image.nii.gz")
    assert "is not a label map" in app.server.state.error


def test_uploaded_label_maps_are_compared_by_the_names_of_their_structures(app, pair, tmp_path):
    labels = [int(label) for label in np.unique(pair.fixed_labels.array) if label]
    other = {label: labels[-1 - place] for place, label in enumerate(labels)}
    turned = np.zeros_like(pair.moving_labels.array)
    for label, number in other.items():
        turned[pair.moving_labels.array == label] = number
    names = {label: Meaning(f"Part {label}") for label in labels}
    by_other = {number: names[label] for label, number in other.items()}
    moving = Volume(turned, pair.moving_labels.ijk_to_ras, "moving")
    write_segmentation(pair.fixed_labels, structures_of(labels, names), tmp_path / "fixed.seg.nrrd")
    write_segmentation(moving, structures_of(sorted(by_other), by_other), tmp_path / "moving.seg.nrrd")
    for role in ("fixed_labels", "moving_labels"):
        upload(app, role, tmp_path / f"{role.partition('_')[0]}.seg.nrrd")
    register(app)
    given = app.live.prepared_with
    called = app.controller.logic.label_names
    for label in labels:
        (number,) = [number for number, name in called.items() if name == f"Part {label}"]
        np.testing.assert_array_equal(given["fixed_labels"].array == number, pair.fixed_labels.array == label)
        np.testing.assert_array_equal(given["moving_labels"].array == number, pair.moving_labels.array == label)
    app.controller.use_fixed_labels()
    assert [region["name"] for region in app.server.state.regions] == [f"Part {label}" for label in labels]
