"""The segmentation panel in a real browser (Chromium), with a real worker and toy networks whose answer is known."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_bench import CUT_TEXTS, MARKS, PATIENCE_S, Page, Server, end, start
from segmentation_bench import NETWORKS, OBLIQUE, centre_of, eggs, make_model, soft_eggs, truth
from segmentation_worker import MORE

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.registration.model import save_untrained
from hyperreg.segmentation import model

pytestmark = MARKS
WORKER = Path(__file__).parents[2] / "helpers" / "segmentation_worker.py"
TWO = [{"name": "T1", "title": "T1", "patterns": ["t1w"]}, {"name": "FLAIR", "title": "T2 FLAIR", "patterns": ["t2f"]}]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("segmentation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS, **MORE})
        save_untrained(folder / "models", "tiny-untrained")
        make_model(folder / "models", "bands", title="Eggs")
        make_model(folder / "models", "slow", title="Slow eggs", network={"name": "slow"},
                   grid={"axes": "ras", "spacing_mm": [0.5, 0.5, 0.5], "window": [32, 32, 32]})  # fmt: skip
        make_model(folder / "models", "two", title="Two images", inputs=TWO)
        make_model(folder / "more", "extra", title="Extra eggs")
    write_volume(eggs(OBLIQUE), folder / "fixed.nii.gz")
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), folder / "moving.nii.gz")
    images = ("--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz"))
    with zipfile.ZipFile(folder / "extra.zip", "w") as archive:
        for file in (folder / "more" / "extra").iterdir():
            archive.write(file, f"extra/{file.name}")
    running = start(folder / "models", *images, "--worker", str(WORKER))
    yield running
    end(running)


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900}, accept_downloads=True)
    app = Page(context.new_page(), server.address)
    app.page.click(".hyperreg-panel-segmentation")
    app.page.wait_for_selector(".hyperreg-segment")
    yield app
    assert app.errors == []
    context.close()


def choose(page: Page, selector: str, title: str) -> None:
    page.page.click(f"{selector} .v-field")
    page.page.locator(".v-overlay--active .v-list-item", has_text=title).first.click()


def segment(page: Page) -> None:
    page.page.click(".hyperreg-segment")
    page.until(lambda: page.state("segment_licence") != "" or page.state("segment_phase") == "running", "an answer")
    if page.state("segment_licence"):
        assert "Apache-2.0" in page.page.inner_text(".hyperreg-licence-text")
        page.page.click(".hyperreg-accept-licence")


def test_segment_see_it_in_colour_and_fetch_it(page: Page, tmp_path: Path) -> None:
    choose(page, ".hyperreg-segment-model", "Eggs")
    page.until(lambda: page.state("segment_model") == "bands", "the model")
    before = page.picture()
    segment(page)
    page.until(lambda: len(page.state("segment_rows")) == 2, "the result")
    page.until(lambda: np.abs(page.picture() - before).max() > 30, "the segments in the view")
    assert "Core" in page.page.inner_text(".hyperreg-segment-table")
    page.page.click(".hyperreg-next-segment-place")
    page.until(lambda: page.state("segment_place") != "", "the doubtful region")
    page.page.click(".hyperreg-segment-save")
    page.page.wait_for_selector(".hyperreg-segment-downloads a")
    with page.page.expect_download() as download:
        page.page.locator(".hyperreg-segment-downloads a").first.click()
    path = tmp_path / download.value.suggested_filename
    download.value.save_as(path)
    assert path.name == "fixed_Eggs.seg.nrrd"
    found = read_volume(path)
    assert found.grid.matches(OBLIQUE)
    expected = Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras)
    assert np.linalg.norm(centre_of(found, 5) - centre_of(expected, 5)) < 0.5  # mm
    page.page.click(".hyperreg-panel-registration")
    page.page.wait_for_selector(".hyperreg-register")
    page.page.click(".hyperreg-panel-segmentation")
    page.page.wait_for_selector(".hyperreg-segment-table")
    page.page.click(".hyperreg-undo-segment")
    page.until(lambda: page.state("segment_rows") == [], "undo")


def test_the_border_of_a_structure_is_dragged_and_brought_back(page: Page, tmp_path: Path) -> None:
    choose(page, ".hyperreg-segment-model", "Eggs")
    page.until(lambda: page.state("segment_model") == "bands", "the model")
    write_volume(soft_eggs(OBLIQUE), tmp_path / "soft.nii.gz")
    page.page.set_input_files("#upload-input0", str(tmp_path / "soft.nii.gz"))
    page.until(lambda: "soft" in page.state("segment_volumes")[-1]["title"], "an image with unsharp borders")
    segment(page)
    page.until(lambda: len(page.state("segment_rows")) == 2, "the result")
    row = page.page.locator(".hyperreg-segment-table tr", has_text="Outer shell")
    row.locator(".hyperreg-segment-name").click()
    page.until(lambda: not page.state("segment_border_fixed"), "the border")
    assert row.evaluate("row => row.classList.contains('hyperreg-chosen')")
    result, before = float(row.locator("td").nth(1).inner_text()), page.picture()
    thumb = page.page.locator(".hyperreg-border .v-slider-thumb")
    thumb.scroll_into_view_if_needed()
    track = page.page.locator(".hyperreg-border .v-slider-track").bounding_box()
    y = track["y"] + track["height"] / 2
    page.page.mouse.move(track["x"] + track["width"] / 2, y)
    page.page.mouse.down()
    page.page.mouse.move(track["x"] + track["width"] - 1, y, steps=8)
    page.page.mouse.up()
    page.until(lambda: float(row.locator("td").nth(1).inner_text()) > result, "the larger volume")
    assert page.state("segment_border") > 95
    assert page.page.locator(".hyperreg-border .v-slider-track").bounding_box() == track, "it stays below the mouse"
    page.until(lambda: "in the result" in page.page.inner_text(".hyperreg-border-text"), "the words")
    page.until(lambda: np.abs(page.picture() - before).max() > 30, "the larger structure in the view")
    page.page.click(".hyperreg-border-back")
    page.until(lambda: float(row.locator("td").nth(1).inner_text()) == result, "the result")
    page.until(lambda: np.abs(page.picture() - before).max() < 3, "the picture of before")
    assert thumb.get_attribute("aria-valuenow") == "0"
    thumb.press("Home")
    page.until(
        lambda: page.state("segment_border") == -100 and page.state("segment_border_can_go_back"), "the keyboard"
    )
    page.page.set_viewport_size({"width": 1024, "height": 700})
    page.page.click(".hyperreg-undo-segment")
    keep = page.page.locator(".hyperreg-segment-keep")
    keep.wait_for(timeout=1000 * PATIENCE_S)
    assert keep.bounding_box()["y"] < 700, "the question is in sight"
    assert page.page.evaluate(CUT_TEXTS) == []
    keep.click()
    keep.wait_for(state="detached", timeout=1000 * PATIENCE_S)
    page.page.click(".hyperreg-undo-segment")
    page.page.click(".hyperreg-segment-yes")
    page.until(lambda: page.state("segment_rows") == [], "undo")


def test_a_slow_segmentation_is_cancelled(page: Page) -> None:
    choose(page, ".hyperreg-segment-model", "Slow eggs")
    page.until(lambda: page.state("segment_model") == "slow", "the model")
    segment(page)
    page.until(lambda: page.state("segment_progress") > 5, "progress")
    page.page.click(".hyperreg-cancel-segment")
    page.until(lambda: page.state("segment_phase") == "idle", "the end")
    assert page.state("segment_rows") == []
    assert page.state("error") == ""


def test_a_model_of_two_images_gets_an_upload(page: Page, tmp_path: Path) -> None:
    page.page.fill(".hyperreg-segment-words input", "two images")
    page.until(lambda: page.state("segment_model") == "two", "the search")
    assert page.page.locator(".hyperreg-segment").is_disabled()
    write_volume(eggs(OBLIQUE), tmp_path / "p_t1w.nii.gz")
    write_volume(eggs(OBLIQUE, OBLIQUE.centre), tmp_path / "p_t2f.nii.gz")
    page.page.set_input_files("#upload-input0", str(tmp_path / "p_t1w.nii.gz"))
    page.until(lambda: page.state("segment_inputs")[0]["volume"] != "", "the first image")
    page.page.set_input_files("#upload-input1", str(tmp_path / "p_t2f.nii.gz"))
    page.until(lambda: page.state("segment_missing") == "", "the second image")
    segment(page)
    page.until(lambda: len(page.state("segment_rows")) == 2, "the result")
    page.page.fill(".hyperreg-segment-words input", "")


def test_a_model_is_added_and_removed_in_the_page(page: Page, server: Server, tmp_path_factory: Any) -> None:
    (archive,) = tmp_path_factory.getbasetemp().glob("segmentation0/extra.zip")
    page.page.set_input_files("#upload-model", str(archive))
    page.page.click(".hyperreg-accept-new-licence")
    page.until(lambda: page.state("segment_model") == "extra", "the model")
    page.page.locator(".v-expansion-panel-title", has_text="More").click()
    page.page.click(".hyperreg-remove-model")
    page.until(lambda: "extra" not in [entry["value"] for entry in page.state("segment_models")], "its end")
    assert page.state("error") == ""
    assert not list(server.files.rglob("*.zip"))
