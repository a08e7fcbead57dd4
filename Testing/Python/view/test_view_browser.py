"""The app in a real browser (Chromium): load, register, drag λ, see the picture change, download, and stay private."""

from __future__ import annotations

import base64
import http.client
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
import SimpleITK as sitk
from browser_bench import ALL_PIXELS, CUT_TEXTS, MARKS, PATIENCE_S, Page, Server, end, start

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.points import read_points
from hyperreg.phantom import PhantomPair, head_phantom_pair

pytestmark = MARKS
# As when other distances arrive.
ROWS_ANEW = """() => window.trame.state.set(
    "landmark_rows", window.trame.state.get("landmark_rows").map(row => ({...row, now: row.now + " "})))"""


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return head_phantom_pair((64, 80, 64), seed=2)


@pytest.fixture(scope="module")
def folder(pair: PhantomPair, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("view")
    for role in ("fixed", "moving", "fixed_labels", "moving_labels"):
        write_volume(getattr(pair, role), place / f"{role}.nii.gz")
    return place


@pytest.fixture(scope="module")
def server(folder: Path, tiny_models: Path) -> Iterator[Server]:
    images = "--fixed", str(folder / "fixed.nii.gz"), "--moving", str(folder / "moving.nii.gz")
    running = start(tiny_models, *images, "--recent", str(folder / "user" / "recent.json"))
    yield running
    assert running.files.is_dir()
    end(running)
    assert not running.files.exists()  # uploads and results go when the app ends


@pytest.fixture
def page(browser: Any, server: Server) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    app = Page(context.new_page(), server.address)
    yield app
    assert app.errors == []
    context.close()


def test_register_drag_see_it_move_and_fetch_the_result(
    page: Page, server: Server, pair: PhantomPair, folder: Path, tmp_path: Path
):
    assert page.page.title() == "HyperReg"
    assert page.page.inner_text(".hyperreg-fixed-name") == "fixed.nii.gz"
    page.register()
    thumb = page.page.locator(".hyperreg-lambda-slider .v-slider-thumb")
    assert thumb.get_attribute("aria-valuenow") is not None

    page.drag_to(0.97)
    assert page.state("lam") > 0.9
    assert page.page.inner_text(".hyperreg-lambda-value") == f"λ = {page.state('lam'):.2f}"
    rigid = {name: page.picture(name) for name in ("Axial", "Coronal", "Sagittal")}
    page.drag_to(0.03)
    assert page.state("lam") < 0.1
    for name, before in rigid.items():
        # The stand-in's field is 8 mm here and nothing there: the picture moves in every view.
        page.until(lambda name=name, before=before: np.abs(page.picture(name) - before).mean() > 1.5, f"{name} to move")
    page.drag_to(0.97)
    page.until(lambda: np.abs(page.picture() - rigid["Axial"]).mean() < 1.0, "the first picture to come back")
    page.until(lambda: bool(page.state("fresh")), "the figures")

    page.page.click(".hyperreg-save")
    page.page.wait_for_selector(".hyperreg-downloads a")
    fetched = {}
    for link in page.page.locator(".hyperreg-downloads a").all():
        with page.page.expect_download() as download:
            link.click()
        path = tmp_path / download.value.suggested_filename
        download.value.save_as(path)
        fetched[path.name.split("_")[0]] = path
    assert set(fetched) == {"registered", "transform", "inverse", "page", "report"}
    saved = sitk.ReadImage(str(fetched["registered"]), sitk.sitkFloat32)
    moving = sitk.ReadImage(str(folder / "moving.nii.gz"), sitk.sitkFloat32)
    again = sitk.Resample(moving, saved, sitk.ReadTransform(str(fetched["transform"])), sitk.sitkLinear, 0.0)
    difference = np.abs(sitk.GetArrayFromImage(again) - sitk.GetArrayFromImage(saved))
    assert np.quantile(difference, 0.999) < 0.5
    assert saved.GetSize() == pair.fixed.shape
    report = json.loads(fetched["report"].read_text())
    assert report["lambda"] == pytest.approx(page.state("lam"))

    own = urlsplit(server.address).netloc
    assert len(page.requests) > 10
    foreign = [url for url in page.requests if urlsplit(url.removeprefix("blob:")).netloc != own]
    assert foreign == []


def test_the_checkerboard_and_both_volumes_side_by_side(page: Page):
    fade = page.picture()
    page.page.click(".hyperreg-mode-checkerboard")
    page.until(lambda: np.abs(page.picture() - fade).mean() > 1.0, "the checkerboard")
    page.page.click(".hyperreg-mode-sideBySide")
    page.until(lambda: page.page.locator(".layout-grid-item img").count() == 4, "two planes of both volumes")
    page.page.click(".hyperreg-plane-sagittal")
    page.until(lambda: "Sagittal" in page.page.inner_text(".hyperreg-grid"), "another plane")
    assert "Coronal" not in page.page.inner_text(".hyperreg-grid")
    page.page.click(".hyperreg-plane-coronal")
    page.page.click(".hyperreg-mode-fade")
    page.until(lambda: page.page.locator(".layout-grid-item img").count() == 3, "three views")


def test_a_reset_and_another_image_are_undone(page: Page, folder: Path):
    page.register()
    page.drag_to(0.03)
    page.until(lambda: bool(page.state("fresh")), "the figures")
    lam, deformed = page.state("lam"), page.picture()
    page.page.click(".hyperreg-reset")
    page.page.wait_for_selector(".hyperreg-undo-reset")
    page.until(lambda: np.abs(page.picture() - deformed).mean() > 1.5, "the image as it was loaded")
    page.page.click(".hyperreg-undo-reset")
    page.until(lambda: page.state("phase") == "live" and page.state("fresh"), "the registration of before")
    assert (page.state("lam"), page.state("solved_lam")) == (lam, lam)
    page.until(lambda: np.abs(page.picture() - deformed).mean() < 1.0, "the picture of before")
    assert page.page.locator(".hyperreg-undo-reset").count() == 0
    before = page.page.inner_text(".hyperreg-moving-name")
    page.page.set_input_files("#upload-moving", str(folder / "fixed.nii.gz"))
    page.until(lambda: page.page.inner_text(".hyperreg-moving-name") == "fixed.nii.gz", "the wrong image")
    assert page.page.inner_text(".hyperreg-undo-reset") == "Undo"
    page.page.click(".hyperreg-undo-reset")
    page.until(lambda: page.state("phase") == "live" and page.state("fresh"), "the registration of before")
    assert page.page.inner_text(".hyperreg-moving-name") == before
    page.until(lambda: np.abs(page.picture() - deformed).mean() < 1.0, "the picture of before")


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1024, 700)])
def test_what_matters_is_in_sight_whatever_runs(page: Page, width: int, height: int):
    page.page.set_viewport_size({"width": width, "height": height})
    page.register()
    page.until(lambda: bool(page.state("can_save")), "a result")
    for name in (".hyperreg-save", ".hyperreg-reset", ".hyperreg-state", ".hyperreg-lambda-slider", ".hyperreg-stage"):
        box = page.page.locator(name).bounding_box()
        assert box["x"] >= 0, name
        assert box["x"] + box["width"] <= width, name
        assert box["y"] + box["height"] <= height, name
    views = [view.bounding_box() for view in page.page.locator(".layout-grid-item img").all()]
    assert min(min(box["width"], box["height"]) for box in views) > 200
    if width < 1280:
        page.page.click(".hyperreg-reset")
        page.page.wait_for_selector(".hyperreg-undo-reset")
        buttons = [button.bounding_box() for button in page.page.locator(".hyperreg-actions button:visible").all()]
        assert len(buttons) == 3
        assert max(box["x"] + box["width"] for box in buttons) <= 340, "all inside the panel"
    page.page.keyboard.press("?")
    page.page.wait_for_selector(".hyperreg-help-text")
    page.page.keyboard.press("Escape")
    page.until(lambda: not page.state("help"), "the end of the help")
    page.page.keyboard.press("?")
    page.page.click(".hyperreg-close-help")
    page.page.wait_for_selector(".hyperreg-help-text", state="hidden")


def test_the_mouse_reads_values_and_a_file_is_dropped(page: Page, folder: Path):
    picture = page.page.locator(".layout-grid-item img").first
    page.until(lambda: picture.bounding_box() is not None, "a picture")
    view = picture.bounding_box()
    page.page.mouse.move(view["x"] + view["width"] / 2, view["y"] + view["height"] / 2)
    page.until(lambda: "Fixed" in page.state("probe") and "mm" in page.state("probe"), "what lies under the mouse")
    assert page.state("probe") in page.page.inner_text(".hyperreg-probe")
    data = base64.b64encode((folder / "moving.nii.gz").read_bytes()).decode()
    page.page.evaluate(
        """data => {
            const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], "dropped.nii.gz"));
            document.querySelector(".hyperreg-drop-moving").dispatchEvent(
                new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        data,
    )
    page.until(lambda: page.page.inner_text(".hyperreg-moving-name") == "dropped.nii.gz", "the dropped file")


def test_full_resolution_when_asked_for_and_a_click_into_the_response(page: Page):
    page.register()
    page.page.click(".hyperreg-full-automatically input")
    page.until(lambda: not page.state("full_automatically"), "the switch")
    page.drag_to(0.1)
    page.until(lambda: page.state("suggested") != "", "the whole response")
    assert page.page.inner_text(".hyperreg-stage") == "Quick result (2 mm)"
    quick = page.picture()
    page.page.click(".hyperreg-full-now")
    page.until(lambda: page.page.inner_text(".hyperreg-stage") == "Full resolution (1 mm)", "full resolution")
    # The stand-in's full resolution is half of its quick field. The views' pictures come after the state.
    page.until(lambda: np.abs(page.picture() - quick).max() > 40, "the picture of full resolution")
    page.until(lambda: bool(page.state("fresh")), "its metrics")
    plot = page.page.locator(".hyperreg-response svg")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    left, right = 74, box["width"] - 60  # of the axis, see ResponsePlot
    page.page.mouse.click(box["x"] + left + 0.75 * (right - left), box["y"] + 30)
    page.until(lambda: abs(page.state("lam") - 0.75) < 0.011 and bool(page.state("solved")), "λ where the click was")
    assert page.page.inner_text(".hyperreg-lambda-value") == f"λ = {page.state('lam'):.2f}"
    page.page.click(".hyperreg-use-suggested")
    page.until(lambda: f"{page.state('lam'):.2f}" == page.state("suggested"), "the suggested λ")
    page.page.click(".hyperreg-full-automatically input")
    page.until(lambda: page.page.inner_text(".hyperreg-stage") == "Full resolution (1 mm)", "full resolution by itself")


def at(page: Page, view: int, across: float, down: float) -> tuple[float, float]:
    """A place in one of the views, as the mouse counts; across and down: 0 to 1."""
    box = page.page.locator(".layout-grid-item img").nth(view).bounding_box()
    return box["x"] + across * box["width"], box["y"] + down * box["height"]


def hover(page: Page, view: int, across: float, down: float) -> None:
    """Moves the mouse and rests there, as a hand does: only what has been seen below the mouse can be taken hold of."""
    before = [page.state("probe")]
    page.page.mouse.move(*at(page, view, across, down))

    def is_seen() -> bool:
        time.sleep(0.5)
        before.append(page.state("probe"))
        return before[0] != before[-1] == before[-2]

    page.until(is_seen, "the mouse to be seen")


def see_views(page: Page, count: int) -> None:
    views = page.page.locator(".layout-grid-item img")
    page.until(lambda: views.count() == count and all(view.bounding_box() for view in views.all()), f"{count} views")
    page.until(lambda: page.page.evaluate(ALL_PIXELS), "all their pixels")


def at_rest(page: Page, view: int) -> bytes:
    """What one of the views shows, once it does not change any more."""
    shots = [b""]

    def rests() -> bool:
        shots.append(page.page.locator(".layout-grid-item img").nth(view).screenshot())
        return shots[-1] == shots[-2]

    page.until(rests, "a picture that rests")
    return shots[-1]


def place_two_pairs(page: Page) -> None:
    """By the key and clicks, the fixed image on the left, the moving one beside it; ends with one view of both."""
    page.page.keyboard.press("l")
    page.until(lambda: page.state("placing_role") == "fixed", "the first question")
    strip = page.page.locator(".hyperreg-question span").first
    page.until(lambda: strip.inner_text() == page.state("placing_hint"), "the question in the page")
    see_views(page, 4)
    for view, across, down, then in (
        (0, 0.45, 0.45, "moving"),
        (1, 0.47, 0.42, "fixed"),
        (0, 0.55, 0.55, "moving"),
        (1, 0.55, 0.55, "fixed"),
    ):
        page.page.mouse.move(*at(page, view, across, down))
        page.page.mouse.click(*at(page, view, across, down))
        page.until(lambda then=then: page.state("placing_role") == then, f"the {then} image to be asked for")
    page.page.keyboard.press("Escape")
    page.until(lambda: not page.state("placing") and page.state("mode") == "fade", "the end of placing")
    see_views(page, 3)  # else those of before would be taken for the next ones
    page.until(lambda: all(row["now"] for row in page.state("landmark_rows")), "distances")


def test_landmarks_are_placed_dragged_and_pull(page: Page):
    page.register()
    place_two_pairs(page)
    page.page.click(".hyperreg-mode-sideBySide")
    see_views(page, 4)
    rows = page.state("landmark_rows")
    assert [row["name"] for row in rows] == ["1", "2"]
    hover(page, 0, 0.52, 0.55)
    hover(page, 0, 0.55, 0.55)
    page.page.mouse.down()
    hover(page, 0, 0.6, 0.57)
    hover(page, 0, 0.65, 0.6)
    page.page.mouse.up()
    page.until(lambda: page.state("landmark_rows")[1]["now"] not in ("", rows[1]["now"]), "another distance")
    rows = page.state("landmark_rows")
    shown = page.page.locator(".hyperreg-landmark-now")
    page.until(lambda: shown.all_inner_texts() == [row["now"] for row in rows], "the distances in the page")
    picture = at_rest(page, 1)
    slider = page.page.locator(".hyperreg-pull .v-slider-track")
    slider.scroll_into_view_if_needed()
    track = slider.bounding_box()
    page.page.mouse.click(track["x"] + 0.9 * track["width"], track["y"] + track["height"] / 2)
    # The stand-in moves everything by as many mm as the pull is.
    page.until(lambda: page.state("landmark_rows")[1]["now"] not in ("", rows[1]["now"]), "the distance by the pull")
    assert page.state("pull") > 0.8
    page.until(lambda: at_rest(page, 1) != picture, "its picture")
    page.page.evaluate("() => window.trame.state.set('pull', 0)")
    page.page.click(".hyperreg-mode-fade")


def test_landmarks_are_named_saved_and_removed(page: Page, folder: Path, tmp_path: Path):
    for role in ("fixed", "moving"):
        with page.page.expect_response(lambda response: "/upload/" in response.url):
            page.page.set_input_files(f"#upload-{role}", str(folder / f"{role}.nii.gz"))
    page.until(lambda: page.state("landmark_rows") == [], "the landmarks of the images from before to go")
    page.until(lambda: page.state("uploading") == "", "the images")
    page.register()
    place_two_pairs(page)
    name = page.page.locator(".hyperreg-landmark-name").first
    name.fill("Left caudate")
    page.page.evaluate(ROWS_ANEW)
    page.page.wait_for_timeout(200)  # until they are drawn
    assert name.input_value() == "Left caudate", "what is being typed stays when distances come"
    name.press("Enter")
    page.until(lambda: page.state("landmark_rows")[0]["name"] == "Left caudate", "the name")
    name.fill("2")
    name.press("Enter")
    page.until(lambda: name.input_value() == "Left caudate", "the name that it has, as the other pair is named 2")
    page.page.click(".hyperreg-save-landmarks")
    page.page.wait_for_selector(".hyperreg-landmark-downloads a")
    with page.page.expect_download() as download:
        page.page.locator(".hyperreg-landmark-downloads a").first.click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    names: list[str] = []
    assert read_points(tmp_path / "fixed_landmarks.mrk.json", names=names).shape == (2, 3)
    assert names == ["Left caudate", "2"]
    page.page.locator(".hyperreg-remove-landmark").first.click()
    page.until(lambda: [row["name"] for row in page.state("landmark_rows")] == ["2"], "one pair")
    page.page.click(".hyperreg-undo-landmark")
    page.until(lambda: len(page.state("landmark_rows")) == 2, "both")


def test_a_bad_upload_is_explained_in_the_page_and_a_good_one_opens(
    page: Page, server: Server, folder: Path, tmp_path: Path
):
    cut = tmp_path / "cut.nii.gz"
    cut.write_bytes((folder / "moving.nii.gz").read_bytes()[:30000])
    before = page.page.inner_text(".hyperreg-moving-name")
    page.page.set_input_files("#upload-moving", str(cut))
    page.page.wait_for_selector(".hyperreg-error")
    assert "cut.nii.gz" in page.page.inner_text(".hyperreg-error")
    assert page.page.inner_text(".hyperreg-moving-name") == before != "cut.nii.gz"

    large = tmp_path / "large.nrrd"
    large.write_bytes(b"0" * ((1 << 24) + 1))
    page.page.set_input_files("#upload-moving", str(large))
    page.until(lambda: "larger than 16 MB" in page.page.inner_text(".hyperreg-error"), "the limit")

    good = tmp_path / "patient 7.nii.gz"
    good.write_bytes((folder / "moving.nii.gz").read_bytes())
    page.page.set_input_files("#upload-moving", str(good))
    page.until(lambda: page.page.inner_text(".hyperreg-moving-name") == "patient_7.nii.gz", "the upload")
    assert page.page.locator(".hyperreg-error").count() == 0
    assert not [entry for entry in server.files.rglob("*.nii.gz") if "patient" in entry.name]  # read, then deleted
    page.register()


def test_a_worker_killed_during_a_drag_is_told_and_comes_back(page: Page, server: Server):
    page.register()
    (pid,) = server.worker_pids()
    page.page.evaluate("() => window.trame.state.set('error', '')")
    os.kill(pid, signal.SIGKILL)
    page.drag_to(0.8, rest=False)
    page.until(lambda: bool(page.state("error")) or bool(page.state("solved")), "news of the worker")
    page.drag_to(0.2)
    page.until(lambda: bool(page.state("fresh")) and page.state("phase") == "live", "the next λ")
    assert server.worker_pids() != [pid]


def test_what_is_wrong_with_another_computer_is_said_beside_its_address(page: Page):
    page.page.click(".hyperreg-settings .v-expansion-panel-title")
    page.page.fill(".hyperreg-computer input", "no address")
    page.page.keyboard.press("Enter")
    note = page.page.locator(".hyperreg-computer-note", has_text="expected user@host")
    note.wait_for(timeout=1000 * PATIENCE_S)
    page.register()
    assert page.state("phase") == "live", "this computer computes as before"


def test_without_the_right_address_nobody_gets_in(server: Server, browser: Any):
    parts = urlsplit(server.address)
    token = parts.path.split("/")[1]
    assert re.fullmatch(r"[A-Za-z0-9_-]{32}", token)
    wrong = token[:-1] + ("y" if token.endswith("x") else "x")
    for path in ("/", "/index.html", f"/{wrong}/index.html", "/ws", "/upload/fixed", f"/{token}x/upload/fixed"):
        connection = http.client.HTTPConnection(parts.netloc, timeout=PATIENCE_S)
        connection.request("POST" if "upload" in path else "GET", path, body=b"1" if "upload" in path else None)
        assert connection.getresponse().status == 403, path
        connection.close()
    context = browser.new_context()
    stranger = context.new_page()
    assert stranger.goto(f"http://{parts.netloc}/index.html").status == 403
    outcome = stranger.evaluate(
        """address => new Promise(done => {
            const socket = new WebSocket(address);
            socket.onopen = () => done("open");
            socket.onerror = () => done("refused");
        })""",
        f"ws://{parts.netloc}/{wrong}/ws",
    )
    assert outcome == "refused"
    context.close()


def test_another_page_of_the_same_browser_cannot_reach_the_app(server: Server, browser: Any):
    """A page of another origin that knows the token even: no websocket, no upload."""
    context = browser.new_context()
    other = context.new_page()
    site = "http://elsewhere.invalid/"
    other.route(f"{site}**", lambda route: route.fulfill(body="<p>another site</p>", content_type="text/html"))
    other.goto(site)
    parts = urlsplit(server.address)
    prefix = parts.path.rsplit("/", 1)[0]
    outcome = other.evaluate(
        """([socketAddress, uploadAddress]) => Promise.all([
            new Promise(done => {
                const socket = new WebSocket(socketAddress);
                socket.onopen = () => done("open");
                socket.onerror = () => done("refused");
            }),
            fetch(uploadAddress, {method: "POST", body: "x"})
                .then(answer => `answered ${answer.status}`, () => "refused"),
        ])""",
        [f"ws://{parts.netloc}{prefix}/ws", f"http://{parts.netloc}{prefix}/upload/fixed"],
    )
    assert outcome == ["refused", "refused"]
    context.close()


def test_recent_images_are_opened_by_a_click_and_forgotten_by_another(page: Page, folder: Path) -> None:
    kept = folder / "user" / "recent.json"
    page.page.click(".hyperreg-recent .v-expansion-panel-title")
    row = page.page.locator(".hyperreg-recent-row", has_text="moving.nii.gz")
    row.locator(".hyperreg-recent-fixed").click()
    page.until(lambda: page.page.inner_text(".hyperreg-fixed-name") == "moving.nii.gz", "the image")
    row = page.page.locator(".hyperreg-recent-row", has_text="fixed.nii.gz")
    row.locator(".hyperreg-recent-fixed").click()
    page.until(lambda: page.page.inner_text(".hyperreg-fixed-name") == "fixed.nii.gz", "the first image again")
    assert "fixed.nii.gz" in kept.read_text()
    page.page.click(".hyperreg-recent-kept input")
    page.until(lambda: page.page.locator(".hyperreg-recent-row").count() == 0, "the end of the list")
    assert json.loads(kept.read_text()) == {"remember": False, "places": []}
    assert not page.page.locator(".hyperreg-recent-kept input").is_checked()


# The last one: it unfolds every section of the page, and others unfold what they need by a click.
def test_no_words_are_cut_on_a_small_screen(page: Page):
    page.page.set_viewport_size({"width": 1024, "height": 700})
    for panel in ("segmentation", "fusion", "registration"):
        page.page.click(f".hyperreg-panel-{panel}")
        page.until(lambda panel=panel: page.state("panel") == panel, panel)
        page.page.wait_for_selector(f".hyperreg-panel-{panel}.v-tab--selected")
        page.page.evaluate("() => document.querySelectorAll('button.v-expansion-panel-title[aria-expanded=false]')"
                           ".forEach(title => title.click())")  # fmt: skip
        page.page.wait_for_timeout(500)  # they unfold
        assert page.page.evaluate(CUT_TEXTS) == []
    boxes = [part.bounding_box() for part in page.page.locator(".hyperreg-toolbar > *:visible").all()]
    boxes = [box for box in boxes if box is not None and box["width"] > 0]
    assert all(before["x"] + before["width"] <= after["x"] for before, after in pairwise(boxes))
    assert boxes[-1]["x"] + boxes[-1]["width"] <= 1024
