"""Images opened last in the browser app: paths alone, for this user alone, forgotten when that is wanted."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from dicom_examples import write_slices
from view_app_bench import App, register

from hyperreg import catalogue
from hyperreg.errors import FileError
from hyperreg.imaging.files import write_volume
from hyperreg.phantom import PhantomPair
from hyperreg.view.recent import IMAGE, MOST, SERIES, Place, Recent


def run(what) -> None:
    asyncio.get_event_loop().run_until_complete(what)


def names(app: App) -> list[str]:
    return [row["name"] for row in app.server.state.recent_rows]


def number_of(app: App, name: str) -> int:
    return next(row["number"] for row in app.server.state.recent_rows if row["name"] == name)


@pytest.fixture
def kept(app: App) -> Path:
    """The file of the list, which is switched on and holds the pair that the app was started with."""
    app.controller.recent.set_remembered(False)
    app.controller.recent.set_remembered(True)
    app.controller.load_files(app.options.fixed, app.options.moving)
    return app.options.recent


def test_what_was_opened_is_opened_again(app: App, pair: PhantomPair, kept: Path, tmp_path: Path) -> None:
    state = app.server.state
    assert names(app) == ["fixed.nii.gz", "moving.nii.gz"]
    assert state.recent_kept is True
    run(app.controller.recent.open(number_of(app, "moving.nii.gz"), "fixed"))
    assert (state.error, state.uploading, state.fixed_name) == ("", "", "moving.nii.gz")
    np.testing.assert_array_equal(app.controller.pair.volumes["fixed"].array, pair.moving.array)
    assert names(app) == ["moving.nii.gz", "fixed.nii.gz"], "the newest comes first, and once"
    register(app)
    run(app.controller.recent.open(number_of(app, "fixed.nii.gz"), "moving"))
    assert (state.phase, state.moving_name) == ("idle", "fixed.nii.gz")
    write_volume(pair.fixed, tmp_path / "upload.nii.gz")
    run(app.controller.accept_upload("fixed", tmp_path / "upload.nii.gz"))
    assert state.fixed_name == "upload.nii.gz"
    assert "upload" not in kept.read_text(), "nothing is remembered of uploads"


def test_a_folder_of_dicom_is_listed_again_and_no_patient_is_written(app: App, kept: Path, tmp_path: Path) -> None:
    state = app.server.state
    folder = tmp_path / "study"
    write_slices(folder / "a", series="before")
    run(app.controller.series.look(str(folder)))
    run(app.controller.series.open(1, "moving"))
    assert names(app)[0] == "study"
    assert state.recent_rows[0]["series"] is True
    app.controller.series._series = ()
    state.series_rows, state.image_sections = [], []
    run(app.controller.recent.open(1, ""))
    assert [row["title"] for row in state.series_rows] == ["CT before"]
    assert (state.image_sections, state.series_source) == (["series"], str(folder))
    text = kept.read_text()
    assert not any(secret in text for secret in ("Doe", "PAT4711X", "before"))
    assert json.loads(text)["places"][0] == {"path": str(folder), "kind": "series"}


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_only_the_user_can_read_it(kept: Path, tmp_path: Path) -> None:
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    kept.chmod(0o644)
    Recent(kept).add(tmp_path / "x.nii.gz", IMAGE)
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert [path.name for path in kept.parent.iterdir()] == [kept.name], "nothing is left beside it"


def test_switched_off_all_are_forgotten_and_stay_so(app: App, kept: Path) -> None:
    state = app.server.state
    app.controller.recent.set_remembered(False)
    assert (state.recent_rows, state.recent_kept) == ([], False)
    assert json.loads(kept.read_text()) == {"remember": False, "places": []}
    app.controller.load_files(app.options.fixed, app.options.moving)
    assert Recent(kept).read() == (False, [])
    app.controller.recent.set_remembered("yes")
    assert state.recent_kept is False
    app.controller.recent.set_remembered(True)
    app.controller.load_files(app.options.fixed, app.options.moving)
    assert names(app) == ["fixed.nii.gz", "moving.nii.gz"]


def test_what_is_gone_or_was_never_offered_is_not_opened(
    app: App, pair: PhantomPair, kept: Path, tmp_path: Path
) -> None:
    state = app.server.state
    path = tmp_path / "gone.nii.gz"
    write_volume(pair.fixed, path)
    app.controller.recent.opened(path, IMAGE)
    path.unlink()
    before = dict(app.controller.pair.volumes)
    run(app.controller.recent.open(1, "fixed"))
    assert "gone.nii.gz" in state.error
    assert "does not exist" in state.error
    state.error = ""
    for number, role in ((0, "fixed"), (99, "fixed"), ("1", "fixed"), (1, "fixed_labels"), (None, None), (True, "x")):
        run(app.controller.recent.open(number, role))
    assert (state.error, state.uploading) == ("", "")
    assert app.controller.pair.volumes == before


def test_the_list_is_short_and_shared_by_two_apps(tmp_path: Path) -> None:
    one, two = (Recent(tmp_path / "recent.json") for _ in range(2))
    for number in range(20):
        (one, two)[number % 2].add(tmp_path / f"{number}.nii.gz", IMAGE)
    remember, places = one.read()
    assert remember
    assert [Path(place.path).name for place in places] == [f"{n}.nii.gz" for n in range(19, 19 - MOST, -1)]
    two.add(tmp_path / "12.nii.gz", SERIES)
    assert one.read()[1][0] == Place(str(tmp_path / "12.nii.gz"), SERIES)
    assert len(one.read()[1]) == MOST


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"remember": true, "places": 7}', '{"remember": true}', "\x00"])
def test_a_damaged_list_remembers_nothing_until_it_is_switched_on(tmp_path: Path, content: str) -> None:
    path = tmp_path / "recent.json"
    path.write_text(content)
    recent = Recent(path)
    recent.add(tmp_path / "a.nii.gz", IMAGE)
    assert (recent.read(), path.read_text()) == ((False, []), content)
    recent.set_remembered(True)
    recent.add(tmp_path / "a.nii.gz", IMAGE)
    assert recent.read() == (True, [Place(str(tmp_path / "a.nii.gz"), IMAGE)])


def test_names_that_are_no_text_and_places_that_cannot_be_written(app: App, kept: Path, tmp_path: Path) -> None:
    odd = Path(os.fsdecode(b"/data/m\xfcller $x$.nii.gz"))
    app.controller.recent.opened(odd, IMAGE)
    assert app.server.state.recent_rows[0]["name"] == "m?ller $x$.nii.gz"
    assert Recent(kept).read()[1][0].path == str(odd), "it is found again all the same"
    assert Recent(None).read() == (False, [])
    Recent(None).set_remembered(True)
    (tmp_path / "file").write_text("in the way")
    blocked = Recent(tmp_path / "file" / "recent.json")
    with pytest.raises(FileError, match="list of recent images was not changed"):
        blocked.add(tmp_path / "a.nii.gz", IMAGE)


def test_where_it_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv(catalogue.MODELS_VARIABLE, raising=False)
    assert catalogue.user_folder() == tmp_path / "hyperreg"
    assert catalogue.own_models() == tmp_path / "hyperreg" / "models"
