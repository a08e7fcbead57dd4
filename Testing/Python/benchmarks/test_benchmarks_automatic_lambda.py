"""The measurement of the automatic λ: what each rule picks, what that loses, and what is noticed; on figures made by
hand, and once on a pair with a known deformation.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cli_pair import grid

from benchmarks.automatic_lambda import RULES, Measured, by_detail, measure, table, write
from benchmarks.deformation_warnings import warnings_table
from benchmarks.registration.case import Case
from benchmarks.registration.store import save_transform
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.response import SEARCHED_LAMBDAS


def rows(best_dice: float, best_detail: float) -> list[dict[str, float]]:
    """Dice falls by one point per 0.1 from its best λ, detail likewise; similarity grows with flexibility."""
    return [
        {
            "lambda": lam,
            "dice_mean": 0.8 - abs(lam - best_dice) / 10,
            "dice_mean_before": 0.5,
            "detail": 0.5 - abs(lam - best_detail) / 10,
            "detail_before": 0.3,
            "similarity": 0.9 - lam / 10,
            "roughness": 0.1 * (1 - lam) + 0.01,
        }
        for lam in SEARCHED_LAMBDAS
    ]


def measured(pair: str, best_dice: float, best_detail: float) -> Measured:
    return Measured(pair, "brain", "0", 0.2, False, rows(best_dice, best_detail))


def landmarks(pair: str) -> Measured:
    """Best at λ = 0.3 by landmarks and by detail."""
    distances = [
        {**row, "landmarks_mm": 2 + abs(row["lambda"] - 0.3), "landmarks_mm_before": 6.0} for row in rows(0.3, 0.3)
    ]
    for row in distances:
        del row["dice_mean"], row["dice_mean_before"]
    return Measured(pair, "any", "0", 0.4, False, distances)


def test_the_automatic_lambda_does_not_see_the_labels() -> None:
    assert by_detail(rows(best_dice=0.1, best_detail=0.6)) == 0.6


def test_what_is_lost_counts_in_dice_points_or_mm() -> None:
    found = measured("pair", best_dice=0.4, best_detail=0.6)
    assert found.lost(0.4) == 0
    assert found.lost(0.6) == pytest.approx(2)
    assert RULES["similarity"](found.rows) == 0
    assert RULES["L-curve"](found.rows) == 1
    assert landmarks("lung").lost(0.5) == pytest.approx(0.2)


def test_means_are_of_pairs_never_looked_at_and_mm_stand_apart(tmp_path: Path) -> None:
    seen = replace(measured("seen", 0.4, 0.0), looked_at=True)
    pairs = [measured("first", 0.4, 0.6), measured("second", 0.4, 0.4), landmarks("lung"), seen]
    lines = table(pairs).splitlines()
    assert len(lines) == 8
    assert lines[2].startswith("| first | 0.4, 0.800 | 0.6: 2.00 |")
    assert lines[4].startswith("| lung | 0.3, 2.00 mm | 0.3: 0.00 |")
    assert lines[5].startswith("| seen * | 0.4, 0.800 | 0: 4.00 |")
    assert "(2) | | **1.00** (largest 2.00)" in lines[6]
    assert "mm, of pairs never looked at (1) | | **0.00** (largest 0.00)" in lines[7]
    text = write(pairs, tmp_path / "published")
    assert "It loses 1.00 Dice points on average (goal: at most 0.5), at most 2.00, on 2 never looked at." in text
    assert (tmp_path / "published" / "automatic-lambda.png").stat().st_size > 10_000
    written = (tmp_path / "published" / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert len(written) == 1 + 4 * len(SEARCHED_LAMBDAS)


def test_warnings_are_compared_with_the_truth() -> None:
    noticed, missed, alarm = (measured(name, 0.2, 0.2) for name in ("noticed", "missed", "alarm"))
    for one, dice_before, detail_before in ((noticed, 0.9, 0.6), (missed, 0.9, 0.3), (alarm, 0.5, 0.6)):
        for row in one.rows:
            row["dice_mean_before"], row["detail_before"] = dice_before, detail_before
    lines = warnings_table([noticed, missed, alarm, measured("fine", 0.2, 0.2)]).splitlines()
    assert "| noticed | 0.2 | 0.900 → 0.800 | yes | yes | noticed |" in lines
    assert "| missed | 0.2 | 0.900 → 0.800 | yes | no | MISSED |" in lines
    assert "| alarm | 0.2 | 0.500 → 0.800 | no | yes | FALSE ALARM |" in lines
    assert "| fine | 0.2 | 0.500 → 0.800 | no | no | rightly silent |" in lines
    each = len(SEARCHED_LAMBDAS)
    assert lines[-1].startswith(f"Over all {4 * each} fields of all λ:")
    assert all(f"{name} {each}" in lines[-1] for name in ("noticed", "MISSED", "FALSE ALARM", "rightly silent"))


def test_the_error_is_that_against_the_known_deformation(tmp_path: Path, tiny_model: str) -> None:
    """The untrained network hardly moves anything, so what it is off by is what the linear alignment leaves."""
    place = grid((30, 28, 26), (2.0, 2.2, 2.4), (10, -20, 30))
    values = np.random.default_rng(0).normal(size=place.shape).cumsum(0).cumsum(1).cumsum(2)
    fixed = Volume(values.astype(np.float32), place.ijk_to_ras, "fixed")
    moving_affine = place.ijk_to_ras.copy()
    moving_affine[:3, 3] += (4.0, -3.0, 0.0)
    write_volume(fixed, tmp_path / "fixed.nii.gz")
    write_volume(Volume(fixed.array, moving_affine, "moving"), tmp_path / "moving.nii.gz")
    truth = np.eye(4)
    truth[:3, 3] = (4.0, -3.0, 0.0)
    save_transform(tmp_path / "truth.npz", Transform((truth,)))
    case = Case(
        "known", "cross", tmp_path / "fixed.nii.gz", tmp_path / "moving.nii.gz", truth=tmp_path / "truth.npz"
    )  # fmt: skip
    found = measure(case, tiny_model, tmp_path)
    assert found.truth == "error_mm" and not found.looked_at
    assert [row["lambda"] for row in found.rows] == list(SEARCHED_LAMBDAS)
    assert all(row["error_mm_before"] < 0.5 for row in found.rows)
    assert all(abs(row["error_mm"] - row["error_mm_before"]) < 1 for row in found.rows)
    assert measure(case, tiny_model, tmp_path) == found
