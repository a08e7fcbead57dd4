"""How far the λ suggested from the images alone lands from the one with the best Dice, on pairs never looked at.

Per pair the response over all λ is measured once, with label maps; what the images alone say is read from it without
the labels, so every rule is judged on the same fields.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.pairs import check_data, oasis
from hyperreg.registration.catalogue import default_model, find_model
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, automatic_lambda
from hyperreg.registration.session import LiveSession

# Ordered (fixed, moving) subjects of brain_oasis. None of them was looked at while the rule was chosen.
PAIRS = (
    ("1005", "1006"), ("1008", "1009"), ("1010", "1017"), ("1006", "1008"), ("1009", "1010"), ("1017", "1005"),
)  # fmt: skip
# The goal: Dice points that the automatic λ may lose on average.
GOAL_POINTS = 0.5
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "automatic-lambda"
# These were.
DEVELOPMENT_PAIRS = (("1000", "1001"), ("1002", "1004"))


@dataclass(frozen=True)
class Measured:
    """One pair: the rows of its `Response`, label maps included."""

    pair: str
    model: str
    sha256: str
    rows: list[dict[str, float]]


class WithoutLabels:
    """What a session without label maps would have measured."""

    def __init__(self, rows: Sequence[Mapping[str, float]]) -> None:
        self.rows = rows
        self.asked = 0

    def metrics(self, lam: float, /) -> dict[str, float]:
        self.asked += 1
        row = next(row for row in self.rows if row["lambda"] == lam)
        return {name: value for name, value in row.items() if name != "lambda" and not name.startswith("dice")}


def by_detail(rows: Sequence[Mapping[str, float]]) -> float:
    """What `hyperreg register --lam auto` does without label maps."""
    return automatic_lambda(WithoutLabels(rows)).lam


def by_similarity(rows: Sequence[Mapping[str, float]]) -> float:
    """The largest similarity on the network's own grid."""
    return max(rows, key=lambda row: (row["similarity"], row["lambda"]))["lambda"]


def by_product(rows: Sequence[Mapping[str, float]]) -> float:
    """The smallest product of misfit and roughness: the L-curve's corner without parameters (Reginska 1996)."""
    return min(rows, key=lambda row: (1 - row["similarity"]) * row["roughness"])["lambda"]


RULES: dict[str, Callable[[Sequence[Mapping[str, float]]], float]] = {
    "automatic": by_detail,
    "similarity": by_similarity,
    "L-curve": by_product,
    "λ = 0.3": lambda _rows: 0.3,
    "λ = 0.5": lambda _rows: 0.5,
}


def measure(fixed: str, moving: str, model: str, folder: Path) -> Measured:
    """The response of one pair, from `folder` if it is there for this very model."""
    card = find_model(model)
    path = folder / f"{card.name}-{card.sha256[:8]}-{fixed}-{moving}.json"
    if path.exists():
        return Measured(**json.loads(path.read_text(encoding="utf-8")))
    pair = oasis(fixed, moving)
    session = LiveSession(card)
    session.prepare(pair.fixed, pair.moving, fixed_labels=pair.fixed_labels, moving_labels=pair.moving_labels)
    response = Response()
    for lam in RESPONSE_LAMBDAS:
        response.add(lam, {name: v for name, v in session.metrics(lam).items() if not isinstance(v, dict)})
    found = Measured(pair.name, card.name, card.sha256, response.rows)
    path.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    return found


def gap(rows: Sequence[Mapping[str, float]], lam: float) -> float:
    """Dice points (0 to 100) below the best of all λ."""
    chosen = next(row for row in rows if row["lambda"] == lam)
    return 100 * (max(row["dice_mean"] for row in rows) - chosen["dice_mean"])


def table(measured: Sequence[Measured]) -> str:
    """Markdown: a line per pair with the oracle's λ and Dice, and per rule its λ and what it loses."""
    lines = [
        f"| fixed, moving | best λ, Dice | {' | '.join(RULES)} |",
        f"|---|---|{'---|' * len(RULES)}",
    ]
    gaps: dict[str, list[float]] = {name: [] for name in RULES}
    for one in measured:
        best = max(one.rows, key=lambda row: row["dice_mean"])
        cells = []
        for name, rule in RULES.items():
            lam = rule(one.rows)
            gaps[name].append(gap(one.rows, lam))
            cells.append(f"{lam:g}: {gaps[name][-1]:.2f}")
        lines.append(f"| {one.pair} | {best['lambda']:g}, {best['dice_mean']:.3f} | {' | '.join(cells)} |")
    means = (f"**{np.mean(values):.2f}** (largest {max(values):.2f})" for values in gaps.values())
    lines.append(f"| mean, points below the best | | {' | '.join(means)} |")
    return "\n".join(lines)


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Per pair, Dice and detail over λ, each scaled to its own range: do they peak at the same place?"""
    from matplotlib.figure import Figure

    columns = min(3, len(measured))
    figure = Figure(figsize=(4 * columns, 3 * -(-len(measured) // columns)), layout="constrained")
    for axes, one in zip(
        np.ravel(figure.subplots(-(-len(measured) // columns), columns, squeeze=False)), measured, strict=False
    ):
        lambdas = [row["lambda"] for row in one.rows]
        for name, label in (("dice_mean", "Dice (labels)"), ("detail", "fine detail"), ("similarity", "similarity")):
            values = np.array([row[name] for row in one.rows])
            axes.plot(lambdas, (values - values.min()) / max(float(np.ptp(values)), 1e-9), "o-", label=label)
        axes.axvline(by_detail(one.rows), color="black", linestyle=":", label="automatic λ")
        axes.set_title(f"{one.pair}: {gap(one.rows, by_detail(one.rows)):.2f} points lost")
        axes.set_xlabel("λ")
        axes.set_yticks([])
    figure.axes[0].legend(fontsize="small")
    figure.savefig(path, dpi=130)


def run(model: str, output: Path, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Measured]:
    """Measure the pairs; one file each, so that an interrupted measurement goes on. Raises FileError."""
    check_data()
    folder = output / "automatic-lambda"
    folder.mkdir(parents=True, exist_ok=True)
    measured = []
    for names in pairs:
        measured.append(measure(*names, model, folder))
        typer.echo(f"{measured[-1].pair}: done", err=True)
    return measured


def write(measured: Sequence[Measured], folder: Path) -> str:
    """Table, rows and figure into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    lost = [gap(one.rows, by_detail(one.rows)) for one in measured]
    card = measured[0]
    setting = (
        f"`python -m benchmarks automatic-lambda`: '{card.model}' (weights {card.sha256[:12]}), the network alone, "
        f"on {len(measured)} of {len(PAIRS)} pairs of brain_oasis; mean Dice over all manual labels, points. "
        "Per rule: its λ, and how far its Dice is below the best one of all λ. *Automatic* is what `--lam auto` does "
        f"without label maps: it loses {np.mean(lost):.2f} points on average (goal: at most {GOAL_POINTS:g}), at most "
        f"{max(lost):.2f}."
    )
    picture = "![Dice and fine detail over λ](automatic-lambda.png)"
    text = "\n\n".join(["# Automatic λ against the best λ", setting, table(measured), picture])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    rows = [{"pair": one.pair, **row} for one in measured for row in one.rows]
    with (folder / "rows.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    draw(measured, folder / "automatic-lambda.png")
    return text


def command(
    model: Annotated[str | None, typer.Option(help="Which model; the default one if not given.")] = None,
    output: Annotated[Path, typer.Option(help="Folder for the measurements.")] = Path("build/benchmarks"),
    development: Annotated[bool, typer.Option(help="The pairs that the rule was chosen on, instead.")] = False,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs: two minutes each.")] = len(PAIRS),
    publish: Annotated[bool, typer.Option("--publish", help="Write table and figure into docs/.")] = False,
) -> None:
    """What λ chosen without label maps loses in Dice, against the best λ and fixed ones (needs the real images)."""
    chosen = DEVELOPMENT_PAIRS if development else PAIRS
    measured = run(model or default_model(), output, chosen[:pairs])
    typer.echo(write(measured, PUBLISHED if publish else output / "automatic-lambda"))
