"""The table of the learned solver: its gain is over the plain solver of the same time, in the truth's own unit."""

from __future__ import annotations

from benchmarks.learned_solver import LEARNED, LONGER, PLAIN, Row, table


def test_gains_are_points_of_dice_or_a_share_of_the_error() -> None:
    truths = {("oasis", PLAIN): 0.59, ("oasis", LONGER): 0.60, ("oasis", LEARNED): 0.62}
    truths |= {("lung", PLAIN): 1.6, ("lung", LONGER): 1.5, ("lung", LEARNED): 1.2}
    rows = [Row("pair", group, method, 0.1, truth, 0.0, 0.3, 2.0) for (group, method), truth in truths.items()]
    gains = [line.split("|")[-2].strip() for line in table(rows).splitlines() if f"| {LEARNED} |" in line]
    assert gains == ["+2.00 points", "+20.0 %"]
