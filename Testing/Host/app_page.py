"""The browser app, served by the real program and opened in Chromium, for those who make pictures of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
SCREENSHOTS = REPOSITORY / "Resources" / "Screenshots"
WIDTH, HEIGHT = 1440, 900
PATIENCE_MS = 1_800_000
# Pictures of the views arrive a moment after the last change.
SETTLE_MS = 2500
CHROMIUM_ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]


@contextmanager
def app_page(*arguments: str | Path, folder: Path = REPOSITORY) -> Iterator[Any]:
    """The page of `hyperreg view ARGUMENTS`, started in `folder`."""
    command = [sys.executable, "-m", "hyperreg.cli", "view", *map(str, arguments), "--no-browser"]
    environment = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)}
    with serving(command, folder, environment) as address, page_at(address) as page:
        yield page


@contextmanager
def serving(command: list[str], folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """The address that a command serves the app at, until the block ends; then it and what it started are ended."""
    server = subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert server.stdout is not None
        address = next((line.split()[-1] for line in server.stdout if " at http" in line), None)
        if address is None:
            sys.exit("The app did not start; its message is above.")
        yield address
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)


@contextmanager
def page_at(address: str) -> Iterator[Any]:
    """The app's page in Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
        page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        page.set_default_timeout(PATIENCE_MS)
        page.goto(address)
        page.wait_for_selector(".layout-grid-item img")
        yield page
        browser.close()


def save(page: Any, path: Path) -> None:
    """Saves what is seen once the views are up to date."""
    page.mouse.move(WIDTH - 5, HEIGHT - 5)
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path)
    print(path, flush=True)
