"""The mask of everything that was found: one part, no holes, in its place on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cli_pair import run
from imaging_examples import oblique_grid
from segmentation_bench import NETWORKS, eggs, make_model, truth

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.segmentation import model
from hyperreg.segmentation.mask import whole_mask

GRID = oblique_grid((60, 50, 24), (1.0, 1.2, 3.0))


def ball(centre: tuple[float, float, float], radius: float) -> np.ndarray:
    return np.linalg.norm(GRID.points() - GRID.centre - np.array(centre), axis=-1) < radius


def test_rounded_voxel_sizes_make_no_other_mask() -> None:
    array = (np.random.default_rng(3).random((30, 30, 30)) > 0.6).astype(np.uint8)
    sizes = [whole_mask(Volume(array, np.diag((2 + by, 2 + by, 2 + by, 1)))).array.sum() for by in (-1e-6, 0, 1e-6)]
    assert sizes[0] == sizes[1] == sizes[2] > 0


def test_gaps_and_holes_are_filled_and_other_parts_left_out() -> None:
    labels = np.zeros(GRID.shape, np.uint8)
    labels[ball((0, 0, 0), 18)] = 3
    labels[ball((0, 0, 0), 8)] = 0  # a hole, as of fluid that no structure is
    points = GRID.points() - GRID.centre
    labels[(abs(points[..., 0]) < 2) & ball((0, 0, 0), 30)] = 0  # a gap of 4 mm through it, from front to back
    labels[ball((0, 26, 0), 3)] = 7
    mask = whole_mask(Volume(labels, GRID.ijk_to_ras))
    assert mask.grid.matches(GRID)
    assert mask.array.dtype == np.uint8
    inside = ball((0, 0, 0), 14)
    assert mask.array[inside].all()
    assert not mask.array[ball((0, 26, 0), 3)].any()
    assert mask.array.sum() == pytest.approx(ball((0, 0, 0), 18).sum(), rel=0.06)


def test_a_mask_that_reaches_the_border_stays_there_and_an_empty_one_empty() -> None:
    full = np.ones((12, 10, 8), np.uint8)
    assert whole_mask(Volume(full, np.eye(4))).array.all()
    assert not whole_mask(Volume(0 * full, np.eye(4))).array.any()


def test_the_command_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path))
    make_model(tmp_path)
    write_volume(eggs(GRID), tmp_path / "image.nii.gz")
    assert (
        run(
            "segment",
            str(tmp_path / "image.nii.gz"),
            "-m",
            "bands",
            "--accept-licence",
            "--mask",
            str(tmp_path / "mask.nii.gz"),
        )
        == 0
    )
    mask = read_volume(tmp_path / "mask.nii.gz")
    assert mask.grid.matches(GRID)
    expected = truth(GRID) > 0
    assert 2 * (expected & (mask.array > 0)).sum() / (expected.sum() + mask.array.sum()) > 0.9
