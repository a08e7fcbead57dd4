"""DICOM in the browser app: series are listed and opened by two clicks, where the headers say they lie."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import asyncio
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from dicom_examples import check, values, write_slices
from view_app_bench import App, app, module_app, pair, pair_files  # noqa: F401

from hyperreg.errors import HyperRegError


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
    state, series = app.server.state, app.controller.series
    for _ in range(2):
        upload = app.files.new_folder() / "study.zip"
        zipped(study).rename(upload)
        run(app.controller.accept_upload("series", upload))
        assert state.uploading == ""
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
