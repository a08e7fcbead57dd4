"""What the benchmark of cohorts makes of its measurements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks.cohort import overlap, tables


def test_overlap_is_the_mean_dice_of_structures_over_all_pairs() -> None:
    first, second, third = (np.zeros((4, 4, 1), dtype=np.int16) for _ in range(3))
    first[:2], second[:1], third[:2] = 1, 1, 1
    first[3], second[3] = 9, 9
    # First and second: 2/3 and 1. First and third: 1, and a structure that only one has. Second and third: 2/3.
    assert overlap([first, second, third]) == pytest.approx(((2 / 3 + 1) / 2 + 1 + 2 / 3) / 3)


def test_ratios_and_what_large_cohorts_cost() -> None:
    def row(place: str, wall: float) -> dict[str, Any]:
        return {
            "place": place,
            "pairs": 4,
            "wall_s": wall,
            "cpu_s": 18.0,
            "read_mb": 10.0,
            "written_mb": 20.0,
            "load": 1.0,
        }

    found = {
        "throughput": [row("one", 40.0), row("two", 25.0), {"place": "ray", "note": "not installed"}],
        "template": [
            {"method": "ours", "dice": 0.5, "cpu_s": 60.0, "wall_s": 90.0},
            {"method": "ants", "note": "none"},
        ],
    }
    lines = tables(found).splitlines()
    assert lines[3] == "| two | 4 | 25 | 1.60 | 18.0 | 1.0 |"
    assert lines[4].startswith("| ray | not installed |")
    # 100,000 pairs of 18 CPU-s are 500 CPU-h; 10 MB read and 20 MB written each.
    assert lines[9] == "| 100,000 | 500 | 250.0 | 7.8 | 0.5 | 1000 | 2000 |"
    assert lines[13:] == ["| ours | 0.500 | 60 | 90 |", "| ants | none | | |"]
