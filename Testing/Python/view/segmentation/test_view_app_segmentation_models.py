"""The browser app's segmentation panel: models that are added and removed; the worker played by the test."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

pytest.importorskip("slicer", reason="skipped: slicer-core is not installed")
pytest.importorskip("trame", reason="skipped: trame is not installed")

from fake_segmentation import FakeStore
from segmentation_bench import make_card

from hyperreg.errors import HyperRegError
from hyperreg.view.app import App


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
        controls.add_from_disk(nothing)
    assert store.asked == []
    controls.add_from_disk(str(tmp_path))
    assert (store.asked, state.segment_adding) == ([("licence", str(tmp_path))], tmp_path.name)
    controls.add_from_disk(str(tmp_path))
    assert "being added" in state.error
    store.answer("Some licence")
    controls.decline()
    assert tmp_path.is_dir()
    controls.add_from_disk(str(tmp_path))
    store.answer("Some licence")
    controls.accept()
    assert store.asked[-1] == ("add", str(tmp_path))
    make_card(models, name="organs")
    store.answer("organs")
    assert (state.segment_model, state.segment_source, state.segment_adding) == ("organs", "", "")
    shutil.rmtree(models / "organs")
    controls._changed("")
