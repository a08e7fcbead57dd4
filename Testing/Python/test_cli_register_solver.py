"""`hyperreg register --refine`: what it writes is the refined field, in mm, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from cli_pair import PairFiles, run, write_pair

from hyperreg.imaging.files import read_volume
from hyperreg.registration import run as run_module

LPS = (-1, -1, 1)
OUTPUTS = {"volume": "w.nii.gz", "transform": "t.h5", "inverse": "i.h5", "labels": "l.nii.gz"}


def ask(files: PairFiles, *options: str) -> int:
    """`hyperreg register` with every output."""
    outputs = [word for name, file in OUTPUTS.items() for word in (f"--out-{name}", str(files.results / file))]
    report = ["--report", str(files.results / "r.json")]
    return run("register", *files.images, "--init", "com", "--model", "tiny-untrained", *outputs, *report, *options)


def report_of(files: PairFiles) -> dict[str, Any]:
    return json.loads((files.results / "r.json").read_text(encoding="utf-8"))


def points_of(transform: Path, ras: np.ndarray) -> np.ndarray:
    """RAS mm points (N, 3) through a saved transform, as ITK applies it."""
    read = sitk.ReadTransform(str(transform))
    return np.array([read.TransformPoint(point) for point in ras * LPS]) * LPS


def surface(number: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Points on the fixed ellipsoid of `cli_pair`, RAS mm, and the moving ellipsoid's radii in its own frame."""
    normals = np.random.default_rng(0).normal(size=(number, 3))
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return np.array((10, -20, 30)) + normals * (34, 40, 34), np.array((37, 38, 32))


def off_surface(moved: np.ndarray) -> float:
    """Mean distance, mm, of points from the moving ellipsoid's surface, along the line to its centre."""
    offset = moved - (12, -18, 29)
    share = np.linalg.norm(offset / surface()[1], axis=1)
    return float(np.abs(np.linalg.norm(offset, axis=1) * (1 - 1 / share)).mean())


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


@pytest.fixture(scope="module")
def refined(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> PairFiles:
    files = write_pair(tmp_path_factory.mktemp("refined"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        assert ask(files, *files.labels, "--lam", "0.2", "--refine") == 0
    return files


def test_the_written_transform_leads_to_the_moving_surface(refined: PairFiles) -> None:
    on_fixed, _ = surface()
    linear = np.array(report_of(refined)["linear_ras"])
    before = off_surface(on_fixed @ linear[:3, :3].T + linear[:3, 3])
    after = off_surface(points_of(refined.results / "t.h5", on_fixed))
    assert before > 1.2
    assert after < 0.5


def test_transform_then_inverse_is_the_identity_in_mm(refined: PairFiles) -> None:
    fixed = read_volume(refined.fixed)
    random = np.random.default_rng(1)
    points = fixed.grid.to_ras(random.uniform(0.2, 0.8, (400, 3)) * (np.array(fixed.shape) - 1))
    moved = points_of(refined.results / "t.h5", points)
    back = points_of(refined.results / "i.h5", moved)
    assert np.linalg.norm(moved - points, axis=1).mean() > 2
    assert np.linalg.norm(back - points, axis=1).mean() < 0.1
    check = report_of(refined)["checks"]["inverse_error_mm"]
    assert check["mean"] == pytest.approx(np.linalg.norm(back - points, axis=1).mean(), abs=0.05)


def test_volume_labels_and_report_are_those_of_the_refined_transform(refined: PairFiles) -> None:
    transform = sitk.ReadTransform(str(refined.results / "t.h5"))
    reference = sitk.ReadImage(str(refined.fixed))
    expected = sitk.Resample(sitk.ReadImage(str(refined.moving)), reference, transform, sitk.sitkLinear, 0.0)
    saved = sitk.GetArrayFromImage(sitk.ReadImage(str(refined.results / "w.nii.gz")))
    assert np.quantile(np.abs(saved - sitk.GetArrayFromImage(expected)), 0.999) < 0.01 * np.ptp(saved)
    fixed_labels = read_volume(refined.fixed_labels).array
    warped = read_volume(refined.results / "l.nii.gz").array
    dice = report_of(refined)["dice"]["labels"]
    for label in (3, 7, 12):
        one, two = fixed_labels == label, warped == label
        assert dice[str(label)]["after"] == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()), abs=2e-3)


def test_the_report_tells_before_and_after(refined: PairFiles) -> None:
    report = report_of(refined)
    before = report["refinement"]
    assert report["refined"] is True
    assert before["message"].startswith("Refined in ")
    assert before["metrics_before"]["similarity"] < report["metrics"]["similarity"] - 0.05
    assert before["dice_before"]["mean_after"] < report["dice"]["mean_after"] - 0.02
    assert before["dice_before"]["mean_before"] == report["dice"]["mean_before"]
    np.testing.assert_allclose(before["spacing_mm"], 2)
    assert report["timing_s"]["refine"] >= report["timing_s"]["stages"]["refinement"] > 0


def test_without_the_option_nothing_is_refined(pair: PairFiles, tiny_model: str) -> None:
    assert ask(pair, *pair.labels, "--lam", "0.2", "-q") == 0
    report = report_of(pair)
    assert (report["refined"], report["refinement"]) == (False, None)
    assert "refine" not in report["timing_s"]


def test_lambda_is_found_first_and_then_refined_at(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(pair, *pair.labels, "--lam", "auto", "--refine") == 0
    report = report_of(pair)
    tried = {row["lambda"]: row["dice_mean"] for row in report["lambda_choice"]["response"]}
    assert tried[report["lambda"]] == max(tried.values())
    assert report["refinement"]["dice_before"]["mean_after"] == pytest.approx(max(tried.values()))
    said = capsys.readouterr()
    assert report["refinement"]["message"] in said.out
    assert f"{max(tried.values()):.4f} by the network" in said.out
    shares = [int(line.split("%")[0]) for line in said.err.splitlines() if "%" in line]
    assert shares == sorted(shares) and shares[-1] == 100
    assert "Refining" in said.err


def test_a_stiff_region_is_not_refined(pair: PairFiles, tiny_model: str) -> None:
    regions = ["--regions", str(pair.fixed_labels), "--region-lambda", "12=1", "--lam", "0.1"]
    arrays = {}
    for name, options in {
        "held": [*regions, "--refine"],
        "network": regions,
        "free": ["--lam", "0.1", "--refine"],
    }.items():
        assert ask(pair, *pair.labels, "-q", *options) == 0
        arrays[name] = read_volume(pair.results / "w.nii.gz").array
    core = read_volume(pair.fixed_labels).array == 12
    held, free = (np.abs(arrays[name] - arrays["network"])[core].mean() for name in ("held", "free"))
    assert free > 0.05 and held < 0.6 * free  # the border of the region blends


def test_ctrl_c_while_refining_leaves_older_results_as_they_were(
    pair: PairFiles, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = pair.results / "w.nii.gz"
    older.write_bytes(b"an older result")
    refine = run_module.LiveSession.refine
    steps = []

    def interrupted(session: Any, lam: float, *, contrast: str, progress: Any, cancelled: Any) -> Any:
        def tell(fraction: float, text: str) -> None:
            progress(fraction, text)
            if text == "Refining":
                steps.append(fraction)
                signal.raise_signal(signal.SIGINT)

        return refine(session, lam, contrast=contrast, progress=tell, cancelled=cancelled)

    monkeypatch.setattr(run_module.LiveSession, "refine", interrupted)
    assert ask(pair, *pair.labels, "--lam", "0.2", "--refine") == 130
    assert len(steps) == 1, "it ends with the step it is in"
    assert "cancelled" in capsys.readouterr().err.lower()
    assert older.read_bytes() == b"an older result"
    assert pair.left_behind() == ["w.nii.gz"]


def test_the_contrast_can_be_told(pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Both images of the pair are alike; told otherwise, the field is kept smoother."""
    roughness = []
    for contrast, said in (("same", "counted as of one contrast"), ("different", "of different contrasts")):
        assert ask(pair, *pair.labels, "--lam", "0.2", "--refine", "--contrast", contrast) == 0
        refinement = report_of(pair)["refinement"]
        assert refinement["contrast"] == contrast
        assert said in refinement["message"]
        roughness.append(report_of(pair)["metrics"]["roughness"])
    assert roughness[1] < 0.8 * roughness[0]
    capsys.readouterr()
    assert ask(pair, *pair.labels, "--refine", "--contrast", "alike") == 2
    assert "'alike' is not one of" in capsys.readouterr().err
