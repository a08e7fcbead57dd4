"""The response over both hyperparameters: Dice and roughness of the network's field over λ and γ, on real pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from benchmarks.pairs import check_data, oasis
from benchmarks.readme import write_rows
from hyperreg.registration.catalogue import find_model
from hyperreg.registration.session import LiveSession

LAMBDAS = (0.0, 0.1, 0.2, 0.4, 0.6, 0.8)
GAMMAS = (0.0, 0.25, 0.5, 0.75, 1.0)
MODEL = "brain"
PAIRS = (("1005", "1006"), ("1008", "1009"), ("1010", "1017"), ("1000", "1005"))
OUTPUT = Path("build/benchmarks/gamma-map")
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "gamma-map"
MEASURES = (("dice", "Dice"), ("roughness", "Roughness"), ("folding_percent", "Folded, %"))


@dataclass(frozen=True)
class Row:
    """One field of one pair."""

    pair: str
    model: str
    lam: float
    gamma: float
    dice: float
    roughness: float
    folding_percent: float


def measure(fixed: str, moving: str, model: str) -> list[Row]:
    """Every λ and γ on one pair, prepared once."""
    pair = oasis(fixed, moving)
    session = LiveSession(model, "cpu")
    session.prepare(pair.fixed, pair.moving, fixed_labels=pair.fixed_labels, moving_labels=pair.moving_labels)
    rows = []
    for gamma in GAMMAS:
        session.choose({"gamma": gamma})
        for lam in LAMBDAS:
            found = session.metrics(lam)
            values = [found[name] for name in ("dice_mean", "roughness", "folding_percent")]
            rows.append(Row(f"{fixed}-{moving}", model, lam, gamma, *values))  # type: ignore[arg-type]
    return rows


def run(output: Path, model: str, pairs: Sequence[tuple[str, str]] = PAIRS) -> list[Row]:
    """These pairs; one file each, so that an interrupted measurement goes on."""
    check_data()
    output.mkdir(parents=True, exist_ok=True)
    version = find_model(model).sha256[:12]
    rows: list[Row] = []
    for fixed, moving in pairs:
        path = output / f"{fixed}-{moving}_{version}.json"
        if not path.exists():
            found = measure(fixed, moving, model)
            path.write_text(json.dumps([asdict(row) for row in found]) + "\n", encoding="utf-8")
            typer.echo(f"{fixed}-{moving}: done", err=True)
        rows += [Row(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return rows


def mean_over_pairs(rows: Sequence[Row], name: str) -> np.ndarray:
    """(γ, λ)."""
    return np.array(
        [
            [np.mean([getattr(r, name) for r in rows if (r.lam, r.gamma) == (lam, gamma)]) for lam in LAMBDAS]
            for gamma in GAMMAS
        ]
    )


def table(rows: Sequence[Row]) -> str:
    """Markdown: Dice over λ (columns) and γ (lines)."""
    lines = ["| γ \\ λ | " + " | ".join(f"{lam:g}" for lam in LAMBDAS) + " |", "|---" * (len(LAMBDAS) + 1) + "|"]
    for gamma, values in zip(GAMMAS, mean_over_pairs(rows, "dice"), strict=True):
        lines.append(f"| {gamma:g} | " + " | ".join(f"{value:.4f}" for value in values) + " |")
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """A map per measure."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(MEASURES)), MEASURES, strict=True):
        values = mean_over_pairs(rows, name)
        shown = axes.imshow(values, origin="lower", aspect="auto")
        figure.colorbar(shown, ax=axes)
        axes.set_xticks(range(len(LAMBDAS)), [f"{lam:g}" for lam in LAMBDAS])
        axes.set_yticks(range(len(GAMMAS)), [f"{gamma:g}" for gamma in GAMMAS])
        axes.set_xlabel("λ")
        axes.set_ylabel("γ")
        axes.set_title(title)
    figure.savefig(path, dpi=110)


def write(rows: Sequence[Row], folder: Path) -> str:
    """Table, rows and figure into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    dice = mean_over_pairs(rows, "dice")
    by_gamma = float(np.ptp(dice, axis=0).max())
    pairs = len({row.pair for row in rows})
    setting = (
        f"`python -m benchmarks gamma-map --pairs {pairs}`. Model '{rows[0].model}', the network alone; mean Dice over "
        f"all manual labels of {pairs} pairs of brain_oasis. "
        f"At one λ, γ changes it by at most {by_gamma:.4f}; at one γ, "
        f"λ by up to {float(np.ptp(dice, axis=1).max()):.4f}."
    )
    picture = "![Dice, roughness and folding over λ and γ](gamma_map.png)"
    text = "\n\n".join(["# The response over λ and γ", setting, table(rows), picture])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    write_rows([asdict(row) for row in rows], folder / "rows.csv")
    draw(rows, folder / "gamma_map.png")
    return text


def command(
    model: Annotated[str | None, typer.Option(help="A model that declares γ; the default one if not given.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the measurements; what is there is kept.")] = OUTPUT,
    pairs: Annotated[int, typer.Option(min=1, help="How many pairs: four minutes each.")] = len(PAIRS),
    publish: Annotated[bool, typer.Option("--publish", help="Write table and figure into docs/.")] = False,
) -> None:
    """Dice, roughness and folding over λ and γ."""
    rows = run(output, model or MODEL, PAIRS[:pairs])
    typer.echo(write(rows, PUBLISHED if publish else output))
