"""Metrics of one pair over a grid of lambda values, of the quick stage: as a table (CSV) and as a plot (PNG)."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging.output import StagedOutputs
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.pairs import Pair, load_pair, open_session
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion, chance_warning, suggest
from hyperreg.reporting import Cancel, Progress

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The share of the run that preparing takes on a CPU; only the progress bar depends on it.
PREPARING = 0.4


@dataclass(frozen=True)
class Sweep:
    """What was measured, the lambda that it speaks for, and warnings for the user."""

    response: Response
    suggestion: Suggestion
    warnings: list[str]


def sweep(
    pair: Pair,
    lambdas: Sequence[float] = RESPONSE_LAMBDAS,
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
    with StagedOutputs({"table": table, "plot": plot}, pair.files) as staged:
        tell(0.0, "Reading the images")
        images = load_pair(pair)
        session = open_session(pair, images, lambda f, text: tell(f * PREPARING, text), cancelled)
        response = Response()
        for index, lam in enumerate(values):
            if cancelled is not None and cancelled():
                raise Cancelled("Cancelled; nothing was written.")
            tell(PREPARING + (1 - PREPARING) * index / len(values), f"λ = {lam:g}")
            response.add(lam, session.metrics(lam, session.quick_stage))
        chance = chance_warning(response.rows[0])
        warnings = [*images.warnings, *session.warnings, *([chance] if chance else [])]
        found = Sweep(response, suggest(response), list(dict.fromkeys(warnings)))
        if "table" in staged:
            write_table(found.response, staged.path("table"))
        if "plot" in staged:
            draw(found, staged.path("plot"))
        tell(1.0, "Done")
    return found


def write_table(response: Response, path: Path) -> None:
    """CSV, one row per lambda."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=response.columns)
        writer.writeheader()
        writer.writerows({name: f"{value:.6g}" for name, value in row.items()} for row in response.rows)


def draw(found: Sweep, path: Path) -> None:
    """Four small plots over lambda: similarity, Dice (else landmarks, else detail), folding, displacement.

    The suggested lambda is a dotted line in each.
    """
    from matplotlib.figure import Figure

    response, suggested = found.response, found.suggestion
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    similarity, quality, folding, displacement = figure.subplots(2, 2).ravel()

    def plot(axes: Axes, title: str, *names: tuple[str, str]) -> None:
        axes.set_title(title)
        for name, label in names:
            (line,) = axes.plot(response.lambdas, response.column(name), "o-", label=label)
            if response.knows(f"{name}_before"):
                axes.axhline(
                    response.rows[0][f"{name}_before"],
                    color=line.get_color(),
                    alpha=0.6,
                    linestyle="--",
                    label="linear alignment only",
                )

    plot(similarity, "Similarity of the images", ("similarity", "on the grid of the fields"))
    if response.knows("dice_mean"):
        plot(quality, "Mean Dice of the labels", ("dice_mean", "after"))
    elif response.knows("landmarks_mm"):
        plot(quality, "Mean distance of the landmarks, mm", ("landmarks_mm", "after"))
    else:
        plot(quality, "Agreement of the images' fine detail", ("detail", "after"))
    plot(folding, "Folded voxels, %", ("folding_percent", ""))
    plot(displacement, "Displacement, mm", ("displacement_mean_mm", "mean"), ("displacement_max_mm", "largest"))
    for axes in (similarity, quality, folding, displacement):
        axes.axvline(suggested.lam, color="black", linestyle=":", label=f"suggested: λ = {suggested.lam:g}")
        axes.set_xlabel("λ (0 = most flexible, 1 = most rigid)")
        axes.grid(alpha=0.3)
        axes.legend()
    figure.savefig(path, dpi=130)
