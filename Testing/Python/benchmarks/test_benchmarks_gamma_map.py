"""The (λ, γ) map: what is written of known rows, and that an interrupted measurement goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import gamma_map
from benchmarks.gamma_map import GAMMAS, LAMBDAS, PAIRS, Row, table, write


def known_rows(fixed: str, moving: str, model: str) -> list[Row]:
    """Dice falls by 0.1 with λ and by 0.02 with γ."""
    return [
        Row(f"{fixed}-{moving}", model, lam, gamma, 0.6 - 0.1 * lam - 0.02 * gamma, 1 - lam, 0.0)
        for gamma in GAMMAS
        for lam in LAMBDAS
    ]


def test_the_table_and_the_text_say_what_was_measured(tmp_path: Path) -> None:
    rows = [row for pair in PAIRS for row in known_rows(*pair, "brain")]
    lines = table(rows).splitlines()
    assert lines[2].startswith("| 0 | 0.6000 |")
    assert lines[-1].startswith("| 1 | 0.5800 |") and lines[-1].endswith("| 0.5000 |")
    text = write(rows, tmp_path)
    assert "changes it by at most 0.0200" in text and "by up to 0.0800" in text
    assert (tmp_path / "gamma_map.png").stat().st_size > 5000
    assert len((tmp_path / "rows.csv").read_text(encoding="utf-8").splitlines()) == 1 + len(rows)


def test_a_pair_is_measured_once(tmp_path: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(fixed: str, moving: str, model: str) -> list[Row]:
        asked.append(fixed)
        if len(asked) == 2:
            raise KeyboardInterrupt
        return known_rows(fixed, moving, model)

    monkeypatch.setattr(gamma_map, "measure", measure)
    monkeypatch.setattr(gamma_map, "check_data", lambda: None)
    with pytest.raises(KeyboardInterrupt):
        gamma_map.run(tmp_path, tiny_model)
    rows = gamma_map.run(tmp_path, tiny_model)
    assert asked == [PAIRS[0][0], PAIRS[1][0], *(fixed for fixed, _moving in PAIRS[1:])]
    assert len(rows) == len(PAIRS) * len(LAMBDAS) * len(GAMMAS)
