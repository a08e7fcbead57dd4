"""`hyperreg register` steered by what the user knows, on oblique, anisotropic, flipped grids, in mm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_pair import PairFiles, run, write_pair

from hyperreg.imaging.transform_files import read_transform

# Points in the fixed ellipsoid, RAS mm, and where the user wants them in the moving one.
HERE = np.array([[10, -20, 30], [25, -20, 30], [0, -40, 38], [18, -8, 20], [4, -10, 44], [14, -30, 14]], dtype=float)
THERE = HERE + np.array((2, 2, -1)) + np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [-3, 0, 0], [0, -3, 0], [2, 2, 0]])


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


def ask(files: PairFiles, *options: str) -> int:
    outputs = ["--out-transform", str(files.results / "t.h5"), "--report", str(files.results / "r.json")]
    return run("register", *files.images, "-q", "--fast", *outputs, *options)


def report_of(files: PairFiles) -> dict[str, Any]:
    return json.loads((files.results / "r.json").read_text(encoding="utf-8"))


def points(files: PairFiles, there: np.ndarray = THERE) -> list[str]:
    """The options that name HERE and `there` as landmarks."""
    named = []
    for option, places in (("--fixed-points", HERE), ("--moving-points", there)):
        path = files.results.parent / f"{option[2:]}.csv"
        np.savetxt(path, places, delimiter=",", header="r,a,s", comments="")
        named += [option, str(path)]
    return named


def apart(files: PairFiles) -> float:
    return float(np.linalg.norm(read_transform(files.results / "t.h5").apply(HERE) - THERE, axis=1).mean())


def test_landmarks_pull_the_written_transform(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--init", "com", "--lam", "0.3", *points(pair)]
    assert ask(pair, *asked) == 0
    measured, unpulled = report_of(pair)["metrics"]["landmarks_mm"], apart(pair)
    assert measured == pytest.approx(unpulled, abs=1e-3)
    assert "pulled_mm" not in report_of(pair)["metrics"]
    assert ask(pair, *asked, "--pull", "1") == 0
    report = report_of(pair)
    assert report["constraints"]["pull"] == 1
    assert report["metrics"]["pulled_mm"] == pytest.approx(apart(pair), abs=1e-3)
    assert report["metrics"]["pulled_mm_before"] > 2.5
    assert apart(pair) < 1.5 < unpulled, "the voxels of this stage are 4 mm long"
    assert report["metrics"]["folding_percent"] == 0
    for options, said in (
        (["--pull", "0.5"], "--pull needs landmarks"),
        ([*points(pair), "--pull", "1.5"], "between 0"),
        ([*points(pair, THERE + np.array((0, 300, 0))), "--pull", "0.5"], "Outside of the moving image"),
    ):
        assert ask(pair, "--init", "com", *options) == 2
        assert said in " ".join(capsys.readouterr().err.split())
