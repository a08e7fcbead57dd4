"""The comparison of one hypernetwork with networks of one λ each: a fair budget, resumable, honest arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import hypernetwork
from benchmarks.hypernetwork import HYPERNETWORK, LAMBDAS, ORDINARY, Row


def rows(hyper: float, ordinary: float) -> list[Row]:
    return [
        Row(kind, seed, lam, dice + 0.01 * seed, 0.5, 0.1, 0.0, 10, 1.0)
        for kind, dice in ((HYPERNETWORK, hyper), (ORDINARY, ordinary))
        for seed in (0, 1, 2)
        for lam in LAMBDAS
    ]


def test_the_gap_is_in_points_and_has_a_sign() -> None:
    assert hypernetwork.mean_gap_points(rows(0.70, 0.72)) == pytest.approx(2.0)
    assert hypernetwork.mean_gap_points(rows(0.72, 0.70)) == pytest.approx(-2.0)
    text = hypernetwork.table(rows(0.70, 0.72))
    assert "Mean gap +2.00 points" in text and "| 0.4 | 0.7300 ± 0.0100 | 0.7100 ± 0.0100 | +2.00 |" in text


def test_every_network_gets_the_same_budget_and_a_finished_run_is_not_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hypernetwork, "LAMBDAS", (0.0, 0.6))
    monkeypatch.setattr(hypernetwork, "VALIDATION_PAIRS", 1)
    found = hypernetwork.run(tmp_path, steps=2, seeds=(0,))
    assert [(row.kind, row.lam) for row in found] == [
        (HYPERNETWORK, 0.0), (HYPERNETWORK, 0.6), (ORDINARY, 0.0), (ORDINARY, 0.6),
    ]  # fmt: skip
    assert found[2].parameters < found[0].parameters, "the ordinary network has a hypernetwork"
    (tmp_path / "ordinary_0_0.6_2.json").unlink()

    def count(kind: str, config: object, lambdas: object, *pairs: object) -> list[Row]:
        repeated.append(kind)
        return found[3:]

    repeated: list[str] = []
    monkeypatch.setattr(hypernetwork, "train_and_measure", count)
    assert hypernetwork.run(tmp_path, steps=2, seeds=(0,)) == found
    assert repeated == [ORDINARY]
    text = hypernetwork.write(found, tmp_path / "docs", 2)
    assert "2 steps" in text and (tmp_path / "docs" / "hypernetwork.png").stat().st_size > 1000


def test_designs_are_compared_by_size_and_dice(tmp_path: Path) -> None:
    found = [
        Row(name, seed, lam, 0.6 + 0.01 * number + 0.001 * seed, 0.5, 0.1, 0.0, 10**6 * (number + 1), 5.0)
        for number, name in enumerate(hypernetwork.DESIGNS)
        for seed in (0, 1)
        for lam in LAMBDAS
    ]
    text = hypernetwork.write_designs(found, tmp_path, 100)
    assert "--designs --steps 100 --seeds 2`" in text
    first = next(iter(hypernetwork.DESIGNS))
    assert f"| {first} | 2.00 | 0.6005 | 0.0007 | 50 |" in text
    assert len((tmp_path / "designs.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(found)
