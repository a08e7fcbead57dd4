"""`hyperreg register` with the bundled model on two real heads: does it register, and does the report say so?"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_pair import run

pytestmark = pytest.mark.slow

# How much the mean Dice over all labels of the manual segmentations has to rise above that of the affine alignment.
CLEARLY = 0.03


def test_dice_of_a_real_pair_rises_clearly_above_the_affine_one(
    real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HYPERREG_MODELS", raising=False)
    oasis = real_data / "brain_oasis"
    fixed, moving = "1000", "1001"
    report = tmp_path / "report.json"
    code = run(
        "register", str(oasis / f"{fixed}_T1_brain.nii.gz"), str(oasis / f"{moving}_T1_brain.nii.gz"),
        "--fixed-labels", str(oasis / f"{fixed}_labels.nii.gz"),
        "--moving-labels", str(oasis / f"{moving}_labels.nii.gz"),
        "--out-volume", str(tmp_path / "w.nii.gz"), "--out-transform", str(tmp_path / "t.h5"), "--report", str(report),
    )  # fmt: skip
    assert code == 0
    found = json.loads(report.read_text(encoding="utf-8"))
    assert len(found["dice"]["labels"]) > 100
    assert found["dice"]["mean_after"] > found["dice"]["mean_before"] + CLEARLY
    assert found["metrics"]["similarity"] > found["metrics"]["similarity_before"]
    assert found["metrics"]["folding_percent"] < 1
    assert found["timing_s"]["prepare"] > 0
    assert found["checks"]["volume_and_transform_difference"] < 1e-3
