"""`hyperreg register`: λ found automatically, λ of regions, the word when a registration is worse than its start."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli_pair import PairFiles, run, write_pair

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


def test_lambda_is_searched_for_by_the_overlap_of_the_labels(pair: PairFiles, tiny_model: str, capsys) -> None:
    report = pair.results / "r.json"
    code = run(
        "register", *pair.images, *pair.labels, "--lam", "auto", "--init", "none", "--model", tiny_model,
        "--report", str(report),
    )  # fmt: skip
    assert code == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    choice = found["lambda_choice"]
    assert choice["by"] == "dice"
    best = max(choice["response"], key=lambda row: (row["dice_mean"], row["lambda"]))
    assert found["lambda"] == best["lambda"]
    assert found["dice"]["mean_after"] == pytest.approx(best["dice_mean"])
    assert choice["reason"] in capsys.readouterr().out
    # An untrained network makes things worse, and the user is told.
    worse = best["dice_mean"] < best["dice_mean_before"] - 5e-4
    assert any("worse" in text for text in found["warnings"]) == worse


def test_without_label_maps_lambda_is_searched_for_by_the_images(pair: PairFiles, tiny_model: str) -> None:
    report = pair.results / "r.json"
    ask = ("register", *pair.images, "-q", "--lam", "auto", "--report", str(report))
    assert run(*ask, "--model", tiny_model) == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["lambda_choice"]["by"] == "images"
    assert found["lambda"] == 1.0, "an untrained network mends nothing"
    assert run(*ask, "--fast") == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["lambda_choice"]["by"] == "images"
    assert found["lambda"] < 1.0
    assert found["metrics"]["detail"] == pytest.approx(max(row["detail"] for row in found["lambda_choice"]["response"]))


def test_a_registration_that_is_worse_than_its_start_is_said_to_be(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One image twice, but for noise: whatever an untrained network does to it is a change for the worse."""
    image = read_volume(pair.fixed)
    noisy = image.array + np.random.default_rng(0).normal(0, 0.1, image.shape).astype(np.float32)
    write_volume(Volume(noisy, image.ijk_to_ras), pair.moving)
    assert run("register", *pair.images, "-q", "--init", "none", "--lam", "0", "--model", tiny_model) == 0
    said = capsys.readouterr().err
    assert "worse" in said and "linear alignment alone" in said


def test_lambda_must_be_a_number_or_auto(pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register", *pair.images, "-q", "--lam", "soft", "--model", tiny_model) == 2
    assert "auto" in capsys.readouterr().err


def test_regions_keep_a_lambda_of_their_own(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """With all labels at λ = 1 the body is warped as by --lam 1, whatever --lam says."""
    asked = ["register", *pair.images, "--init", "none", "--model", tiny_model, "--report"]
    report, volume = pair.results / "r.json", pair.results / "w.nii.gz"
    stiff = [word for label in (3, 7, 12) for word in ("--region-lambda", f"{label}=1")]
    arrays = {}
    for name, options in {
        "stiff": ["--lam", "1"],
        "soft": ["--lam", "0"],
        "regions": ["--lam", "0", "--regions", str(pair.fixed_labels), *stiff],
    }.items():
        assert run(*asked, str(report), "--out-volume", str(volume), *options) == 0
        arrays[name] = read_volume(volume).array
    found = json.loads(report.read_text(encoding="utf-8"))
    assert found["regions"] == {"file": str(pair.fixed_labels), "lambdas": {"3": 1.0, "7": 1.0, "12": 1.0}}
    assert "λ 1 in region 3" in capsys.readouterr().out
    core = read_volume(pair.fixed_labels).array == 12
    near, far = (np.abs(arrays["regions"] - arrays[name])[core].mean() for name in ("stiff", "soft"))
    assert far > 0.05 and near < 0.2 * far


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--region-lambda", "3=1"], "no label map of the regions"),
        (["--regions", "LABELS"], "no λ for any of them"),
        (["--regions", "LABELS", "--region-lambda", "3"], "'3' is not a λ of a region"),
        (["--regions", "LABELS", "--region-lambda", "3=2"], "Region 3: λ must lie between 0"),
        (["--regions", "LABELS", "--region-lambda", "3=1", "--region-lambda", "3=0"], "two values"),
        (["--regions", "LABELS", "--region-lambda", "99=1"], "no region 99"),
        (["--regions", "FIXED", "--region-lambda", "3=1"], "not a label map"),
    ],
)
def test_regions_that_cannot_be_used_are_one_clear_line(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    names = {"LABELS": str(pair.fixed_labels), "FIXED": str(pair.fixed)}
    arguments = [names.get(word, word) for word in arguments]
    out = ["--out-volume", str(pair.results / "w.nii.gz")]
    assert run("register", *pair.images, "-q", "--init", "none", "--model", tiny_model, *out, *arguments) == 2
    assert said in capsys.readouterr().err
    assert pair.left_behind() == []
