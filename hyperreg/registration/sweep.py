"""Metrics of one pair over a grid of lambda values: as a table (CSV) and as a plot (PNG)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperreg.errors import Cancelled, InputError
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.outputs import StagedOutputs
from hyperreg.registration.run import Cancel, Pair, Progress, load_pair, open_session

# Denser near 0, where the response bends most.
DEFAULT_LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
COLUMNS = (
    "similarity",
    "similarity_before",
    "folding_percent",
    "displacement_mean_mm",
    "displacement_max_mm",
    "roughness",
)
# The share of the run that preparing takes on a CPU; only the progress bar depends on it.
PREPARING = 0.4


@dataclass(frozen=True)
class Sweep:
    """rows: per lambda, in rising order, the metrics of COLUMNS and, with label maps, Dice. warnings: for the user."""

    rows: list[dict[str, float]]
    warnings: list[str]

    @property
    def columns(self) -> list[str]:
        """The names of all columns, lambda first."""
        return list(self.rows[0])

    @property
    def has_dice(self) -> bool:
        return "dice_mean" in self.rows[0]

    @property
    def best_lambda(self) -> float | None:
        """The lambda of the highest mean Dice; None without label maps."""
        if not self.has_dice:
            return None
        return max(self.rows, key=lambda row: row["dice_mean"])["lambda"]


def sweep(
    pair: Pair,
    lambdas: Sequence[float] = DEFAULT_LAMBDAS,
    table: Path | None = None,
    plot: Path | None = None,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> Sweep:
    """Measure the pair at every lambda, and write the table and the plot that are wanted.

    Raises InputError, FileError, WeightsError, OutOfMemory or Cancelled; nothing is written then.
    """
    values = sorted({check_lambda(lam) for lam in lambdas})
    if not values:
        raise InputError("No λ was given to measure at.")
    if plot is not None and plot.suffix.lower() not in (".png", ".pdf", ".svg"):
        raise InputError(f"'{plot}' has no known ending for a plot; use .png, .pdf or .svg.")
    tell = progress or (lambda _fraction, _text: None)
    inputs = (pair.fixed, pair.moving, pair.fixed_labels, pair.moving_labels)
    with StagedOutputs({"table": table, "plot": plot}, inputs) as staged:
        tell(0.0, "Reading the images")
        images = load_pair(pair)
        session = open_session(pair, images, lambda f, text: tell(f * PREPARING, text), cancelled)
        rows = []
        for index, lam in enumerate(values):
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled; nothing was written.")
            tell(PREPARING + (1 - PREPARING) * index / len(values), f"λ = {lam:g}")
            rows.append(_row(lam, session.metrics(lam)))
        found = Sweep(rows, list(dict.fromkeys([*images.warnings, *session.warnings])))
        if "table" in staged:
            write_table(found, staged.path("table"))
        if "plot" in staged:
            draw(found, staged.path("plot"))
        tell(1.0, "Done")
    return found


def _row(lam: float, metrics: dict[str, Any]) -> dict[str, float]:
    row = {"lambda": lam, **{name: float(metrics[name]) for name in COLUMNS}}
    if metrics.get("dice"):
        row["dice_mean_before"] = float(metrics["dice_mean_before"])
        row["dice_mean"] = float(metrics["dice_mean"])
        row.update({f"dice_{label}": float(value) for label, value in metrics["dice"].items()})
    return row


def write_table(found: Sweep, path: Path) -> None:
    """CSV, one row per lambda."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=found.columns)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in found.rows)


def draw(found: Sweep, path: Path) -> None:
    """Four small plots over lambda: similarity, Dice (or roughness without label maps), folding, displacement."""
    from matplotlib.figure import Figure

    lambdas = [row["lambda"] for row in found.rows]

    def column(name: str) -> list[float]:
        return [row[name] for row in found.rows]

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    similarity, quality, folding, displacement = figure.subplots(2, 2).ravel()
    similarity.plot(lambdas, column("similarity"), "o-", label="after")
    similarity.axhline(found.rows[0]["similarity_before"], color="grey", linestyle="--", label="linear alignment only")
    similarity.set_title("Similarity of the images")
    if found.has_dice:
        quality.plot(lambdas, column("dice_mean"), "o-", label="after")
        quality.axhline(found.rows[0]["dice_mean_before"], color="grey", linestyle="--", label="linear alignment only")
        quality.set_title(f"Mean Dice of the labels (best at λ = {found.best_lambda:g})")
    else:
        quality.plot(lambdas, column("roughness"), "o-")
        quality.set_title("Roughness of the field (0 = perfectly smooth)")
    folding.plot(lambdas, column("folding_percent"), "o-")
    folding.set_title("Folded voxels, %")
    displacement.plot(lambdas, column("displacement_mean_mm"), "o-", label="mean")
    displacement.plot(lambdas, column("displacement_max_mm"), "o-", label="largest")
    displacement.set_title("Displacement, mm")
    for axes in (similarity, quality, folding, displacement):
        axes.set_xlabel("λ (0 = most flexible, 1 = most rigid)")
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend()
    figure.savefig(path, dpi=130)
