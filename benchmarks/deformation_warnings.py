"""Whether HyperReg's warning, from the images alone, tells the deformations that made things worse."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hyperreg.registration.response import SAME_MM, SAME_SHARE, warning

Row = Mapping[str, float]
# The truth that a pair has, and +1 if more of it is better, -1 if less is.
TRUTHS = {"dice_mean": 1, "landmarks_mm": -1, "error_mm": -1}


class Pair(Protocol):
    """What is needed of a measured pair."""

    pair: str
    default: float
    looked_at: bool
    rows: list[dict[str, float]]

    @property
    def truth(self) -> str: ...
    def at(self, lam: float) -> dict[str, float]: ...


def figure(truth: str, row: Row, suffix: str = "") -> str:
    """The truth of a row in words."""
    value = row[truth + suffix]
    return f"{value:.3f}" if truth == "dice_mean" else f"{value:.2f} mm"


def without_truth(row: Row) -> dict[str, float]:
    """What is known of a field when nothing but the images is given."""
    return {name: value for name, value in row.items() if not name.startswith(("dice", *TRUTHS))}


def is_worse(truth: str, row: Row) -> bool:
    """Whether the deformation made things worse than the linear alignment, by the truth."""
    gain = TRUTHS[truth] * (row[truth] - row[f"{truth}_before"])
    return gain < -(SAME_SHARE if truth == "dice_mean" else SAME_MM)


def verdict(worse: bool, warned: bool) -> str:
    return {
        (True, True): "noticed",
        (True, False): "MISSED",
        (False, True): "FALSE ALARM",
        (False, False): "rightly silent",
    }[worse, warned]


def warnings_table(measured: Sequence[Pair]) -> str:
    """Markdown: a line per pair at its model's default λ, and the count over all λ of all pairs."""
    setting = (
        "Quick results at the default λ, then all λ together. Worse: than after the linear alignment alone. The "
        "warning is what session, command line, module and app say; here it saw nothing but the images."
    )
    lines = ["## Is a deformation that makes things worse noticed without the truth?", "", setting, ""]
    lines += ["| fixed, moving | λ | truth before → after | worse | warned | |", "|---|---|---|---|---|---|"]
    counts: dict[str, int] = {}
    for one in measured:
        for row in one.rows:
            found = verdict(is_worse(one.truth, row), warning(without_truth(row)) is not None)
            counts[found] = counts.get(found, 0) + 1
        row = one.at(one.default)
        worse, warned = is_worse(one.truth, row), warning(without_truth(row)) is not None
        change = f"{figure(one.truth, row, '_before')} → {figure(one.truth, row)}"
        cells = ["yes" if flag else "no" for flag in (worse, warned)]
        star = " *" if one.looked_at else ""
        lines.append(
            f"| {one.pair}{star} | {one.default:g} | {change} | {' | '.join(cells)} | {verdict(worse, warned)} |"
        )
    total = sum(counts.values())
    said = ", ".join(f"{name} {count}" for name, count in sorted(counts.items(), key=lambda item: -item[1]))
    lines += ["", f"Over all {total} fields of all λ: {said}."]
    return "\n".join(lines)
