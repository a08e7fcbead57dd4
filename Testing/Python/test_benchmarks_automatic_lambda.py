"""The measurement of the automatic λ: what each rule picks, and what that loses, on responses made by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.automatic_lambda import PAIRS, RULES, Measured, by_detail, gap, table, write
from hyperreg.registration.response import RESPONSE_LAMBDAS


def rows(best_dice: float, best_detail: float) -> list[dict[str, float]]:
    """Dice falls by one point per 0.1 from its best λ, detail likewise; similarity grows with flexibility."""
    return [
        {
            "lambda": lam,
            "dice_mean": 0.8 - abs(lam - best_dice) / 10,
            "dice_mean_before": 0.5,
            "detail": 0.5 - abs(lam - best_detail) / 10,
            "similarity": 0.9 - lam / 10,
            "roughness": 0.1 * (1 - lam) + 0.01,
        }
        for lam in RESPONSE_LAMBDAS
    ]


def test_the_automatic_lambda_does_not_see_the_labels() -> None:
    assert by_detail(rows(best_dice=0.1, best_detail=0.6)) == 0.6


def test_what_is_lost_counts_in_dice_points() -> None:
    found = rows(best_dice=0.4, best_detail=0.6)
    assert gap(found, 0.4) == 0
    assert gap(found, 0.6) == pytest.approx(2)
    assert RULES["similarity"](found) == 0
    assert RULES["L-curve"](found) == 1


def test_the_table_has_a_line_per_pair_and_the_means(tmp_path: Path) -> None:
    measured = [
        Measured("first", "brain", "0", rows(0.4, 0.6)),
        Measured("second", "brain", "0", rows(0.4, 0.4)),
    ]
    lines = table(measured).splitlines()
    assert len(lines) == 5
    assert lines[2].startswith("| first | 0.4, 0.800 | 0.6: 2.00 |")
    assert lines[3].startswith("| second | 0.4, 0.800 | 0.4: 0.00 |")
    assert "**1.00** (largest 2.00)" in lines[4]
    text = write(measured, tmp_path / "published")
    assert f"on 2 of {len(PAIRS)} pairs of brain_oasis" in text
    assert "it loses 1.00 points on average (goal: at most 0.5), at most 2.00." in text
    assert (tmp_path / "published" / "automatic-lambda.png").stat().st_size > 10_000
    written = (tmp_path / "published" / "rows.csv").read_text(encoding="utf-8").splitlines()
    assert len(written) == 1 + 2 * len(RESPONSE_LAMBDAS)
