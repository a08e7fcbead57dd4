"""The app's server and page for tests in a real browser (Chromium)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

playwright_api = pytest.importorskip("playwright.sync_api", reason="skipped: playwright is not installed")

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="skipped: no chromium (apt-get install chromium)"),
]
# No sandbox: containers forbid it. No GPU, and no service of the browser's own that would call its maker.
CHROMIUM_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Generous: machines that build have other things to do.
PATIENCE_S = 120
# While λ moves the pictures are coarser than their place in the page.
ALL_PIXELS = """() => [...document.querySelectorAll(".layout-grid-item img")]
    .every(image => image.naturalWidth >= 0.95 * image.clientWidth)"""
# Buttons, tabs, titles and labels that do not fit into their place; what the user has named may be cut.
CUT_TEXTS = """() => [...document.querySelectorAll(".v-btn__content, .v-tab, .v-expansion-panel-title, .v-label," +
        ".v-select__selection-text, .hyperreg-toolbar span")]
    .filter(text => text.offsetParent && text.innerText && text.scrollWidth > text.clientWidth + 1)
    .map(text => text.innerText).filter(text => !text.includes(".nii"))"""
SERVER = Path(__file__).with_name("view_server.py")


@dataclass
class Server:
    process: subprocess.Popen[str]
    address: str
    files: Path
    output: list[str] = field(default_factory=list)

    def worker_pids(self) -> list[int]:
        import psutil

        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child.pid for child in children if any("stand_in_worker" in part for part in child.cmdline())]


def start(models: Path, *arguments: str) -> Server:
    environment = {**os.environ, "HYPERREG_MODELS": str(models), "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, str(SERVER), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    assert process.stdout is not None
    found: dict[str, str] = {}
    lines = []
    for line in process.stdout:
        lines.append(line)
        key, _, value = line.strip().partition(" ")
        found[key] = value
        if "FILES" in found:
            return Server(process, found["ADDRESS"], Path(found["FILES"]), lines)
    raise AssertionError("The server did not start:\n" + "".join(lines))


def end(server: Server) -> None:
    server.process.send_signal(signal.SIGTERM)
    try:
        server.process.wait(60)
    finally:
        server.process.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield chromium
        chromium.close()


class Page:
    """The app's page, in words of the app."""

    def __init__(self, page: Any, address: str) -> None:
        self.page = page
        self.requests: list[str] = []
        self.errors: list[str] = []
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("websocket", lambda socket: self.requests.append(socket.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.set_default_timeout(PATIENCE_S * 1000)
        page.goto(address)
        page.wait_for_selector(".hyperreg-panel-registration")
        self.until(lambda: page.locator(".layout-grid-item img").count() >= 3, "three views")

    def state(self, name: str) -> Any:
        return self.page.evaluate("name => window.trame.state.get(name)", name)

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}; error shown: {self.state('error')!r}"
            time.sleep(0.1)

    def picture(self, name: str = "Axial") -> np.ndarray:
        """(rows, columns) grey values of a view, without its slider, once it has come to rest."""
        view = self.page.locator(".layout-grid-item", has=self.page.get_by_text(name, exact=True)).first
        self.until(lambda: self.page.evaluate(ALL_PIXELS), "pictures with all their pixels")
        box = view.bounding_box()
        clip = {"x": box["x"] + 4, "y": box["y"] + 40, "width": box["width"] - 8, "height": box["height"] - 100}
        last = None
        for _ in range(60):
            time.sleep(0.4)
            shot = self.page.screenshot(clip=clip)
            if shot == last:
                break
            last = shot
        return _grey(shot)

    def register(self) -> None:
        if self.state("phase") == "live":
            # Else what another test has left would be taken for the new registration.
            self.page.click(".hyperreg-reset")
            self.until(lambda: self.state("phase") == "idle", "reset")
        self.page.click(".hyperreg-register")
        self.until(lambda: self.state("phase") == "live" and self.state("fresh"), "the registration")

    def drag_to(self, lam: float, rest: bool = True) -> None:
        """Drags the λ slider with the mouse, in steps as a hand does."""
        thumb = self.page.locator(".hyperreg-lambda-slider .v-slider-thumb").bounding_box()
        track = self.page.locator(".hyperreg-lambda-slider .v-slider-track").bounding_box()
        y = thumb["y"] + thumb["height"] / 2
        self.page.mouse.move(thumb["x"] + thumb["width"] / 2, y)
        self.page.mouse.down()
        self.page.mouse.move(track["x"] + lam * track["width"], y, steps=12)
        self.page.mouse.up()
        if rest:
            self.until(lambda: abs(self.state("solved_lam") - self.state("lam")) < 1e-6, "the field of this λ")


def _grey(png: bytes) -> np.ndarray:
    import io

    import matplotlib.image

    return 255 * matplotlib.image.imread(io.BytesIO(png))[..., :3].mean(axis=-1)
