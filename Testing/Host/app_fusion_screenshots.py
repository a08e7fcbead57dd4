"""Makes the screenshots of the browser app's panel of atlases: python -m Testing.Host.app_fusion_screenshots.

Synthetic heads with their label maps are the atlases of the app's own sample head, in the real worker.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hyperreg.imaging.files import write_volume
from hyperreg.phantom import head_phantom_pair
from Testing.Host.app_screenshots import (
    CHROMIUM_ARGUMENTS,
    HEIGHT,
    PATIENCE_MS,
    REPOSITORY,
    SCREENSHOTS,
    SETTLE_MS,
    WIDTH,
)

SHAPE = (80, 100, 80)
# Seeds of the heads; the pair of the first one is open in the app.
SEEDS = (1, 2, 3)
# Where the atlases lie, from the folder that the app is started in.
ATLASES = "atlases"


def make_atlases(folder: Path) -> tuple[Path, Path]:
    """Writes the pair that the app opens, and atlases into `folder`/atlases; returns the pair."""
    atlases = folder / ATLASES
    atlases.mkdir()
    pair = head_phantom_pair(SHAPE, seed=SEEDS[0])
    files = folder / "patient.nii.gz", folder / "another.nii.gz"
    for volume, path in zip((pair.fixed, pair.moving), files, strict=True):
        write_volume(volume, path)
    for seed in SEEDS:
        other = head_phantom_pair(SHAPE, seed=seed)
        write_volume(other.moving, atlases / f"head{seed}.nii.gz")
        write_volume(other.moving_labels, atlases / f"head{seed}_labels.nii.gz")
    return files


def take(page: Any, folder: Path) -> None:
    """Looks through the folder, fuses, and saves what is seen."""
    page.set_default_timeout(PATIENCE_MS)
    page.click(".hyperreg-panel-fusion")
    page.fill(".hyperreg-fuse-folder input", ATLASES)
    page.click(".hyperreg-fuse-look")
    page.wait_for_function("window.trame.state.get('fuse_found') !== ''")
    _save(page, folder / "app-atlases.png")
    page.click(".hyperreg-fuse")
    page.wait_for_function("window.trame.state.get('fuse_raters').length > 0")
    page.click(".hyperreg-sort-dice")
    _save(page, folder / "app-consensus.png")
    page.click(".hyperreg-fuse-disagreement input")
    page.click(".hyperreg-next-fuse-place")
    page.wait_for_function("window.trame.state.get('fuse_place') !== ''")
    page.locator(".hyperreg-fuse-raters").scroll_into_view_if_needed()
    _save(page, folder / "app-disagreement.png")


def _save(page: Any, path: Path) -> None:
    page.mouse.move(WIDTH - 5, HEIGHT - 5)
    page.wait_for_timeout(SETTLE_MS)
    page.screenshot(path=path)
    print(path, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=SCREENSHOTS)
    arguments = parser.parse_args()
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        sys.exit("Chromium is missing: apt-get install chromium")
    from playwright.sync_api import sync_playwright

    arguments.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        images = make_atlases(Path(scratch))
        command = [sys.executable, "-m", "hyperreg.cli", "view", *map(str, images), "--no-browser"]
        environment = dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)}
        server = subprocess.Popen(command, cwd=scratch, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            assert server.stdout is not None
            address = next((line.split()[-1] for line in server.stdout if " at http" in line), None)
            if address is None:
                sys.exit("The app did not start; its message is above.")
            with sync_playwright() as playwright:
                browser = playwright.chromium.launch(executable_path=chromium, args=CHROMIUM_ARGUMENTS)
                page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
                page.goto(address)
                page.wait_for_selector(".layout-grid-item img")
                take(page, arguments.output)
                browser.close()
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)


if __name__ == "__main__":
    main()
