"""README's way to a first result, clicked in a fresh clone: python -m Testing.Host.five_clicks [--venv FOLDER].

Clones what is committed, runs `make run` there, registers the sample pair in Chromium, drags λ, keeps the result,
fetches the transform and looks whether it deforms. --venv: an environment that is ready; without it one is set up,
which takes minutes and fetches PyTorch.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.imaging.transform_files import read_transform
from Testing.Host.app_page import REPOSITORY, page_at, serving
from Testing.Host.app_screenshots import SETTLED, drag


def clicks(page: Any, folder: Path) -> float:
    """Register, λ, keep, download; how far the transform that was fetched is from an affine map, mm, on average."""
    page.click(".hyperreg-register")
    page.wait_for_function("window.trame.state.get('phase') === 'live' && window.trame.state.get('fresh')")
    drag(page, ".hyperreg-lambda-slider", 0.4)
    page.wait_for_function(SETTLED)
    page.click(".hyperreg-save")
    link = page.locator(".hyperreg-downloads a", has_text="Transform").first
    with page.expect_download() as download:
        link.click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    points = np.random.default_rng(0).uniform(-40, 40, (500, 3))  # mm, inside of both brains
    moved = read_transform(path).apply(points)
    known = np.c_[points, np.ones(len(points))]
    return float(np.linalg.norm(moved - known @ np.linalg.lstsq(known, moved, rcond=None)[0], axis=1).mean())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--venv", type=Path)
    venv = parser.parse_args().venv
    with tempfile.TemporaryDirectory() as made:
        clone = Path(made) / "clone"
        subprocess.run(["git", "clone", "--quiet", str(REPOSITORY), str(clone)], check=True)
        command = ["make", "--silent", "-C", str(clone), "run", "VIEW_OPTIONS=--no-browser"]
        if venv is not None:
            (clone / ".venv").symlink_to(venv.resolve())
            command.append("--old-file=.venv/.ready-run")
        environment = dict(os.environ) | {"PYTHONPATH": str(clone)}
        with serving(command, clone, environment) as address, page_at(address) as page:
            bent = clicks(page, Path(made))
    print(f"The transform that was fetched bends by {bent:.2f} mm on average.")
    return 0 if bent > 0.5 else 1


if __name__ == "__main__":
    sys.exit(main())
