"""DICOM in a real browser (Chromium): two series are opened, registered and exported, and what was exported is read."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser_bench import MARKS, PATIENCE_S, Page, end, start
from dicom_examples import write_image, write_slices

from hyperreg.imaging.dicom.registration_objects import read_registration
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import head_phantom_pair

pytestmark = MARKS


@contextmanager
def app(browser: Any, models: Path, *arguments: str) -> Iterator[Page]:
    """The page of an app of its own."""
    running = start(models, *arguments)
    try:
        context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
        page = Page(context.new_page(), running.address)
        yield page
        assert page.errors == []
        context.close()
    finally:
        end(running)


def list_series(page: Page, folder: Path) -> None:
    """Types where DICOM files lie, with the keyboard; ends when they are listed."""
    page.page.click(".hyperreg-series .v-expansion-panel-title")
    page.page.click(".hyperreg-series-source input")
    page.page.keyboard.type(str(folder))
    page.page.keyboard.press("Enter")
    page.page.locator(".hyperreg-series-row").nth(1).wait_for(timeout=1000 * PATIENCE_S)


def register_and_export(page: Page, folder: Path) -> Path:
    """Registers the listed series "after" with "before", drags λ, and fetches what DICOM has for that."""
    for role, description in (("fixed", "before"), ("moving", "after")):
        page.page.locator(".hyperreg-series-row", has_text=description).locator(f".hyperreg-series-{role}").click()
        name = page.page.locator(f".hyperreg-{role}-name", has_text=f"CT {description}")
        name.wait_for(timeout=1000 * PATIENCE_S)
    page.register()
    page.drag_to(0.3)
    page.until(lambda: bool(page.state("fresh")), "the figures")
    page.page.click(".hyperreg-save")
    link = page.page.locator(".hyperreg-downloads a", has_text="DICOM")
    link.wait_for(timeout=1000 * PATIENCE_S)
    with page.page.expect_download() as download:
        link.click()
    download.value.save_as(folder / "results.zip")
    with zipfile.ZipFile(folder / "results.zip") as archive:
        archive.extractall(folder / "results")
    report = json.loads((folder / "results" / "report.json").read_text(encoding="utf-8"))
    assert report["values"]["Lambda (0 flexible, 1 rigid)"] == pytest.approx(page.state("lam"))
    return folder / "results" / "registration.dcm"


def test_two_series_of_dicom_are_opened_with_the_keyboard_registered_and_exported(
    browser: Any, tiny_models: Path, tmp_path: Path
) -> None:
    pair = head_phantom_pair((64, 80, 64), seed=2)
    write_image(tmp_path / "a", pair.fixed, "before")
    write_image(tmp_path / "b", pair.moving, "after")
    write_slices(tmp_path / "c", series="scout", places=[0])
    with app(browser, tiny_models) as page:
        list_series(page, tmp_path)
        assert "only 1 image" in page.page.locator(".hyperreg-series-row").nth(2).inner_text(), "no volume comes last"
        assert page.page.locator(".hyperreg-series-moving").count() == 2
        transform = read_registration(register_and_export(page, tmp_path))
    grid = pair.fixed.grid
    points = grid.to_ras(np.random.default_rng(0).uniform(0.2, 0.8, (500, 3)) * (np.array(grid.shape) - 1))
    assert np.ptp(transform.apply(points) - points, axis=0).max() > 1  # mm


def test_two_real_brains_are_registered_by_the_real_worker_and_exported_as_dicom(
    browser: Any, tiny_models: Path, real_data: Path, tmp_path: Path
) -> None:
    files = [real_data / "brain_oasis" / f"{patient}_T1_brain.nii.gz" for patient in (1000, 1001)]
    for path, series in zip(files, ("before", "after"), strict=True):
        if not path.is_file():
            pytest.skip(f"skipped: {path.name} is not there")
        write_image(tmp_path / series, thinned(read_volume(path)), series)
    with app(browser, tiny_models, "--real-worker") as page:
        list_series(page, tmp_path)
        transform = read_registration(register_and_export(page, tmp_path))
    fixed, moving = (read_volume(path.with_name(path.name.replace("T1_brain", "labels"))) for path in files)
    points = fixed.grid.to_ras(np.argwhere(fixed.array > 0)[::50])
    before, after = (agreement(fixed, moving, points, where) for where in (points, transform.apply(points)))
    assert after > 0.5 > before + 0.2, "what the object says brings the structures of the two brains together"


def thinned(volume: Volume) -> Volume:
    """Every third voxel along each axis: an image of the same head that is registered in seconds."""
    return Volume(volume.array[::3, ::3, ::3], volume.ijk_to_ras @ np.diag([3.0, 3.0, 3.0, 1.0]), volume.name)


def agreement(fixed: Volume, moving: Volume, points: np.ndarray, where: np.ndarray) -> float:
    """The share of points whose label in one map is that of their places in the other; (N, 3), RAS mm."""
    return float(np.mean(nearest(fixed, points) == nearest(moving, where)))


def nearest(labels: Volume, points: np.ndarray) -> np.ndarray:
    ijk = np.rint(labels.grid.to_ijk(points)).astype(int)
    inside = ((ijk >= 0) & (ijk < labels.shape)).all(-1)
    found = np.zeros(len(points), int)
    found[inside] = labels.array[tuple(ijk[inside].T)]
    return found
