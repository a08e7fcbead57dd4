"""`hyperreg register` without a model writes the solved field: in mm, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from cli_pair import PairFiles, run, write_pair

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration import run as run_module

LPS = (-1, -1, 1)
OUTPUTS = {"volume": "w.nii.gz", "transform": "t.h5", "inverse": "i.h5", "labels": "l.nii.gz"}


def ask(files: PairFiles, *options: str) -> int:
    """`hyperreg register` with every output."""
    outputs = [word for name, file in OUTPUTS.items() for word in (f"--out-{name}", str(files.results / file))]
    report = ["--report", str(files.results / "r.json")]
    return run("register", *files.images, "--init", "com", *outputs, *report, *options)


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
def solved(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    files = write_pair(tmp_path_factory.mktemp("solved"))
    assert ask(files, *files.labels, "--lam", "0.2") == 0
    return files


def test_the_written_transform_leads_to_the_moving_surface(solved: PairFiles) -> None:
    on_fixed, _ = surface()
    linear = np.array(report_of(solved)["linear_ras"])
    before = off_surface(on_fixed @ linear[:3, :3].T + linear[:3, 3])
    after = off_surface(points_of(solved.results / "t.h5", on_fixed))
    assert before > 1.2
    assert after < 0.5


def test_transform_then_inverse_is_the_identity_in_mm(solved: PairFiles) -> None:
    fixed = read_volume(solved.fixed)
    random = np.random.default_rng(1)
    points = fixed.grid.to_ras(random.uniform(0.2, 0.8, (400, 3)) * (np.array(fixed.shape) - 1))
    moved = points_of(solved.results / "t.h5", points)
    back = points_of(solved.results / "i.h5", moved)
    assert np.linalg.norm(moved - points, axis=1).mean() > 2
    assert np.linalg.norm(back - points, axis=1).mean() < 0.1
    check = report_of(solved)["checks"]["inverse_error_mm"]
    assert check["mean"] == pytest.approx(np.linalg.norm(back - points, axis=1).mean(), abs=0.05)


def test_volume_labels_and_report_are_those_of_the_written_transform(solved: PairFiles) -> None:
    transform = sitk.ReadTransform(str(solved.results / "t.h5"))
    reference = sitk.ReadImage(str(solved.fixed))
    expected = sitk.Resample(sitk.ReadImage(str(solved.moving)), reference, transform, sitk.sitkLinear, 0.0)
    saved = sitk.GetArrayFromImage(sitk.ReadImage(str(solved.results / "w.nii.gz")))
    assert np.quantile(np.abs(saved - sitk.GetArrayFromImage(expected)), 0.999) < 0.01 * np.ptp(saved)
    fixed_labels = read_volume(solved.fixed_labels).array
    warped = read_volume(solved.results / "l.nii.gz").array
    dice = report_of(solved)["dice"]["labels"]
    for label in (3, 7, 12):
        one, two = fixed_labels == label, warped == label
        assert dice[str(label)]["after"] == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()), abs=2e-3)


def test_the_report_tells_the_stage_and_before_and_after(solved: PairFiles) -> None:
    report = report_of(solved)
    assert report["stage"]["name"] == "full"
    assert report["stage"]["spacing_mm"] == pytest.approx(2)
    assert report["model"]["name"] == "none"
    assert report["metrics"]["similarity_before"] < report["metrics"]["similarity"] - 0.03
    assert report["dice"]["mean_before"] < report["dice"]["mean_after"] - 0.02
    assert report["timing_s"]["field"] > 0


def test_fast_stops_at_the_quick_result(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(pair, *pair.labels, "--lam", "0.2", "--fast") == 0
    assert report_of(pair)["stage"]["name"] == "quick"
    assert "Quick result (4 mm)" in capsys.readouterr().out


def test_refine_is_accepted_with_a_note(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(pair, "--moving-labels", str(pair.moving_labels), "--lam", "0.2", "--refine", "--fast") == 0
    assert "--refine is no longer needed" in " ".join(capsys.readouterr().err.split())


def test_lambda_is_found_on_quick_results_first(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(pair, *pair.labels, "--lam", "auto") == 0
    report = report_of(pair)
    tried = {row["lambda"]: row["dice_mean"] for row in report["lambda_choice"]["response"]}
    assert tried[report["lambda"]] == max(tried.values())
    said = capsys.readouterr()
    assert f"{max(tried.values()):.3f}" in said.out
    shares = [int(line.split("%")[0]) for line in said.err.splitlines() if "%" in line]
    assert shares == sorted(shares) and shares[-1] == 100
    assert "Full resolution" in said.err


def test_a_stiff_region_keeps_the_linear_alignment(pair: PairFiles) -> None:
    regions = ["--regions", str(pair.fixed_labels), "--region-lambda", "12=1"]
    arrays = {}
    for name, options in {
        "held": [*regions, "--lam", "0.1"],
        "linear": ["--lam", "1"],
        "free": ["--lam", "0.1"],
    }.items():
        assert ask(pair, *pair.labels, "-q", *options) == 0
        arrays[name] = read_volume(pair.results / "w.nii.gz").array
    core = read_volume(pair.fixed_labels).array == 12
    held, free = (np.abs(arrays[name] - arrays["linear"])[core].mean() for name in ("held", "free"))
    assert free > 0.05 and held < 0.6 * free  # the border of the region blends


def test_ctrl_c_while_solving_leaves_older_results_as_they_were(
    pair: PairFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = pair.results / "w.nii.gz"
    older.write_bytes(b"an older result")
    solve = run_module.LiveSession.finest_fields
    steps = []

    def interrupted(session: Any, lam: float, *, progress: Any, cancelled: Any) -> Any:
        def tell(fraction: float, text: str) -> None:
            progress(fraction, text)
            steps.append(fraction)
            signal.raise_signal(signal.SIGINT)

        return solve(session, lam, progress=tell, cancelled=cancelled)

    monkeypatch.setattr(run_module.LiveSession, "finest_fields", interrupted)
    assert ask(pair, *pair.labels, "--lam", "0.2") == 130
    assert len(steps) == 1, "it ends with the step it is in"
    assert "cancelled" in capsys.readouterr().err.lower()
    assert older.read_bytes() == b"an older result"
    assert pair.left_behind() == ["w.nii.gz"]


def test_the_contrast_can_be_told(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    """Both images of the pair are alike; told otherwise, the field is kept smoother."""
    roughness = []
    for contrast, said in (("same", "counted as of one contrast"), ("different", "of different contrasts")):
        assert ask(pair, *pair.labels, "--lam", "0.2", "--contrast", contrast) == 0
        assert report_of(pair)["contrast"]["chosen"] == contrast
        assert said in report_of(pair)["contrast"]["note"]
        assert said in " ".join(capsys.readouterr().out.split())
        roughness.append(report_of(pair)["metrics"]["roughness"])
    assert roughness[1] < 0.8 * roughness[0]
    assert ask(pair, *pair.labels, "--contrast", "alike") == 2
    assert "'alike' is not one of" in capsys.readouterr().err


def test_only_the_linear_alignment_is_a_linear_transform(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    alone = (*pair.labels, "--init", "affine", "--only", "rigid")  # the default start, in place of `ask`'s
    assert ask(pair, *alone) == 0
    report = report_of(pair)
    assert (report["lambda"], report["initial"]) == (1.0, "rigid")
    points = surface(20)[0]
    linear = np.array(report["linear_ras"])
    np.testing.assert_allclose(
        points_of(pair.results / "t.h5", points), points @ linear[:3, :3].T + linear[:3, 3], atol=1e-4
    )
    np.testing.assert_allclose(linear[:3, :3] @ linear[:3, :3].T, np.eye(3), atol=1e-6)
    assert read_transform(pair.results / "t.h5").is_linear
    assert ask(pair, *alone, "--lam", "0.3") == 2
    assert "no λ" in capsys.readouterr().err


def test_the_change_of_volume_is_written_on_the_fixed_grid(pair: PairFiles) -> None:
    """The moving ellipsoid is larger along one axis, smaller along others: inside, volumes change by their ratio."""
    jacobian = pair.results / "j.nii.gz"
    assert ask(pair, *pair.labels, "--lam", "0.1", "--out-jacobian", str(jacobian)) == 0
    change, fixed = read_volume(jacobian), read_volume(pair.fixed)
    assert change.grid.matches(fixed.grid)
    inside = read_volume(pair.fixed_labels).array > 0
    assert change.array[inside].min() > 0
    assert 0.7 < change.array[inside].mean() < 1.2
    assert np.ptp(change.array[inside]) > 0.05


def test_masks_are_read_and_refused_where_they_lie_elsewhere(
    pair: PairFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(pair, *pair.labels, "--lam", "0.2", "--fast", "--fixed-mask", str(pair.fixed_labels)) == 0
    masked = read_volume(pair.results / "w.nii.gz").array
    assert ask(pair, *pair.labels, "--lam", "0.2", "--fast") == 0
    assert np.abs(masked - read_volume(pair.results / "w.nii.gz").array).max() > 1e-3
    empty = pair.results / "empty.nii.gz"
    volume = read_volume(pair.fixed_labels)
    write_volume(Volume(np.zeros_like(volume.array), volume.ijk_to_ras, "empty"), empty)
    assert ask(pair, *pair.labels, "--fixed-mask", str(empty)) != 0
    assert "0 everywhere" in capsys.readouterr().err
