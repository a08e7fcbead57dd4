"""DICOM in the browser app: series are listed and opened by two clicks, where the headers say they lie."""

from __future__ import annotations

import asyncio
import json
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

import numpy as np
from dicom_examples import check, values, write_image, write_slices
from view_app_bench import App, register

from hyperreg.errors import HyperRegError
from hyperreg.imaging.dicom import find_series, read_series
from hyperreg.imaging.dicom.registration_objects import read_registration
from hyperreg.imaging.transform_files import read_transform
from hyperreg.phantom import PhantomPair


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Two volumes of one patient, the second with other values, a localiser, and a volume of somebody else."""
    write_slices(tmp_path / "a", series="before")
    write_slices(tmp_path / "b", series="after", array=values() + 7)
    write_slices(tmp_path / "c", series="localiser", places=[0])
    write_slices(tmp_path / "d", series="stranger", PatientID="SOMEBODY", PatientName="Else^Somebody")
    return tmp_path


def zipped(folder: Path) -> Path:
    path = folder / "study.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*.dcm")):
            archive.write(file, file.relative_to(folder))
    return path


def run(what) -> None:
    asyncio.get_event_loop().run_until_complete(what)


def number_of(app: App, title: str) -> int:
    return next(row["number"] for row in app.server.state.series_rows if title in row["title"])


def test_a_folder_is_listed_and_two_series_become_the_pair(app: App, study: Path) -> None:
    state, series = app.server.state, app.controller.series
    run(series.look(str(study)))
    assert (state.error, state.series_busy) == ("", "")
    assert "3 of 4 series can be opened, of 2 patients" in state.series_found
    rows = {row["title"]: row for row in state.series_rows}
    assert rows["CT before"]["about"] == "2026-03-04, 12 images"
    assert "only 1 image" in rows["CT localiser"]["problem"]
    run(series.open(number_of(app, "before"), "fixed"))
    run(series.open(number_of(app, "after"), "moving"))
    assert state.error == ""
    check(app.controller.pair.volumes["fixed"])
    check(app.controller.pair.volumes["moving"], values() + 7)
    assert (state.fixed_name, state.moving_name) == ("CT before 2026-03-04", "CT after 2026-03-04")
    assert not any("patients" in note for note in state.notes)
    run(series.open(number_of(app, "stranger"), "moving"))
    assert any("different patients" in note for note in state.notes)
    shown = [*state.notes, state.series_found, *map(str, state.series_rows), state.fixed_name, state.moving_name]
    assert not any(secret in text for text in shown for secret in ("Doe", "PAT4711X", "SOMEBODY", "Else"))


def test_a_zip_is_uploaded_and_replaces_what_was_listed(app: App, study: Path, tmp_path: Path) -> None:
    series = app.controller.series
    for _ in range(2):
        upload = app.files.new_folder() / "study.zip"
        zipped(study).rename(upload)
        run(app.controller.accept_upload("series", upload))
    kept = list(app.files.folder.rglob("study.zip"))
    assert len(kept) == 1, "the one before is gone"
    run(series.open(number_of(app, "after"), "fixed"))
    check(app.controller.pair.volumes["fixed"], values() + 7)


def test_what_cannot_be_listed_or_opened_changes_nothing(app: App, study: Path, tmp_path: Path) -> None:
    state, series = app.server.state, app.controller.series
    run(series.look(str(study)))
    before = (state.series_rows, state.series_found, app.controller.pair.volumes["fixed"])
    empty = tmp_path / "empty"
    empty.mkdir()
    for place, words in ((str(tmp_path / "nowhere"), "does not exist"), (str(empty), "holds no DICOM")):
        run(series.look(place))
        assert words in state.error
    damaged = app.files.new_folder() / "damaged.zip"
    damaged.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(HyperRegError, match=r"damaged\.zip"):
        run(app.controller.accept_upload("series", damaged))
    for number, role in ((0, "fixed"), (99, "fixed"), ("1", "fixed"), (1, "fixed_labels"), (None, None)):
        run(series.open(number, role))
    run(series.open(number_of(app, "localiser"), "fixed"))
    assert "localiser" in state.error or "slices" in state.error
    (study / "a" / "slice005.dcm").unlink()
    run(series.open(number_of(app, "before"), "fixed"))
    assert "slice005.dcm" in state.error
    assert str(study) not in state.error
    assert (state.series_rows, state.series_found, app.controller.pair.volumes["fixed"]) == before
    assert state.series_busy == ""


def saved(app: App) -> dict[str, Path]:
    """What is offered for download, by the first word of its name."""
    run(app.controller.save())
    return {
        entry["name"].split("_")[0]: next(app.files.folder.rglob(entry["name"])) for entry in app.server.state.downloads
    }


def open_phantoms(app: App, pair: PhantomPair, folder: Path, **moving: str) -> None:
    """Both phantoms as series; moving: attributes of the moving one's header."""
    write_image(folder / "a", pair.fixed, "before")
    write_image(folder / "b", pair.moving, "after", **moving)
    app.server.state.series_leave_out = False
    run(app.controller.series.look(str(folder)))
    run(app.controller.series.open(number_of(app, "before"), "fixed"))
    run(app.controller.series.open(number_of(app, "after"), "moving"))
    assert app.server.state.error == ""


def test_results_of_two_series_are_dicom_too(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = app.server.state
    open_phantoms(app, pair, tmp_path / "study")
    assert state.series_opened
    register(app)
    files = saved(app)
    assert state.error == ""
    with zipfile.ZipFile(files["dicom"]) as archive:
        archive.extractall(tmp_path / "results")
    transform = read_registration(tmp_path / "results" / "registration.dcm")
    grid = app.controller.pair.volumes["fixed"].grid
    points = grid.to_ras(np.random.default_rng(0).uniform(0.1, 0.9, (500, 3)) * (np.array(grid.shape) - 1))
    itk = read_transform(files["transform"])
    assert np.ptp(itk.apply(points) - points, axis=0).max() > 1, "it is no shift"
    assert np.abs(transform.apply(points) - itk.apply(points)).max() < 0.01  # mm
    series, _ = find_series(tmp_path / "results" / "resampled")
    resampled = read_series(series, "resampled")
    assert np.abs(resampled.grid.corners - pair.fixed.grid.corners).max() < 1e-2  # mm
    assert {path.name for path in (tmp_path / "results").glob("report.*")} == {
        "report.json", "report.csv", "report.pdf",
    }  # fmt: skip
    assert "PAT4711X" in (tmp_path / "results" / "report.csv").read_text(encoding="utf-8")

    state.series_leave_out = True
    files = saved(app)
    # Nor do the other files tell what the series is called, which has its date.
    assert not any(secret in path.name for path in files.values() for secret in ("before", "after", "2026"))
    report = json.loads(files["report"].read_text(encoding="utf-8"))
    assert (report["fixed"]["name"], report["moving"]["name"]) == ("DICOM CT", "DICOM CT")
    assert not any(secret in json.dumps(report) for secret in ("CT before", "CT after", "2026-03-04"))
    with zipfile.ZipFile(files["dicom"]) as archive:
        assert any(name.endswith("registration.dcm") for name in archive.namelist())
        for name in archive.namelist():
            content = archive.read(name)
            assert not any(secret in content for secret in (b"PAT4711X", b"Doe", b"2026-03-04", b"20260304")), name


def test_two_patients_are_not_connected_and_all_else_is_written(app: App, pair: PhantomPair, tmp_path: Path) -> None:
    state = app.server.state
    open_phantoms(app, pair, tmp_path, PatientID="SOMEBODY", PatientName="Else^Somebody")
    register(app)
    files = saved(app)
    assert "name different patients" in state.error
    assert "Else" not in state.error
    assert {"registered", "transform", "inverse", "report"} <= set(files)
    assert "dicom" not in files
    state.series_leave_out = True
    assert "dicom" in saved(app)


def test_other_images_have_no_dicom(app: App, pair: PhantomPair, pair_files: list[Path], tmp_path: Path) -> None:
    open_phantoms(app, pair, tmp_path)
    upload = app.files.new_folder() / "moving.nii.gz"
    upload.write_bytes(pair_files[1].read_bytes())
    run(app.controller.accept_upload("moving", upload))
    assert app.server.state.series_opened, "the fixed one is"
    register(app)
    assert "dicom" not in saved(app)
