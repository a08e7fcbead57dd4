"""Pictures of a run: Dice per method, Dice against time, and the curves over lambda."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.registration.results import CURVE, TITLES, Row, mean, of_method

OURS_COLOUR, PEER_COLOUR, START_COLOUR = "tab:blue", "tab:orange", "tab:gray"
REFERENCES = ("affine", "SyN", "greedy")
DPI = 110


def _short(method: str) -> str:
    """The method's name without the parts in brackets, in two lines where it has a comma."""
    return TITLES[method].split(" (")[0].replace(", ", "\n")


def _colour(method: str) -> str:
    if method in ("identity", "affine"):
        return START_COLOUR
    return OURS_COLOUR if TITLES[method].startswith("HyperReg") else PEER_COLOUR


def _shown(rows: Sequence[Row], figure: str) -> list[str]:
    """Methods with that figure; "identity" is left out, whose headers say nothing about native grids."""
    return [m for m in TITLES if m != "identity" and any(figure in row for row in of_method(rows, m))]


def _save(figure: Figure, path: Path) -> str:
    figure.savefig(path, dpi=DPI, bbox_inches="tight")
    return path.name


def box_plots(rows: Sequence[Row], path: Path, title: str) -> str:
    """Dice of every method: all labels, subcortical, cortical; a box over the pairs, a point per pair."""
    parts = [name for name in ("dice", "dice_subcortical", "dice_cortical") if any(name in row for row in rows)]
    figure = Figure(figsize=(4.6 * len(parts) + 1.5, 5.0))
    axes = figure.subplots(1, len(parts), sharey=True, squeeze=False)[0]
    names = {"dice": "all labels", "dice_subcortical": "subcortical", "dice_cortical": "cortical"}
    for axis, part in zip(axes, parts, strict=True):
        methods = _shown(rows, part)[::-1]
        values = [[float(row[part]) for row in of_method(rows, method) if part in row] for method in methods]
        drawn = axis.boxplot(values, orientation="horizontal", patch_artist=True, showfliers=False)
        for at, (box, method, points) in enumerate(zip(drawn["boxes"], methods, values, strict=True), start=1):
            box.set(facecolor=_colour(method), alpha=0.35)
            axis.plot(points, np.full(len(points), at), ".", color=_colour(method), markersize=5)
        axis.set_yticks(range(1, len(methods) + 1), [_short(method) for method in methods], fontsize=8)
        axis.set_xlabel(f"Dice, {names[part]}")
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def time_plot(rows: Sequence[Row], path: Path, title: str) -> str:
    """Mean Dice against mean CPU-seconds, one point per method."""
    figure = Figure(figsize=(7.5, 5.0))
    axis = figure.subplots()
    for method in _shown(rows, "dice"):
        found = of_method(rows, method)
        seconds, value = mean(found, "cpu_s"), mean(found, "dice")
        axis.plot(seconds, value, "o", color=_colour(method))
        axis.annotate(
            _short(method).replace("\n", ", "), (seconds, value), xytext=(5, 4), textcoords="offset points", fontsize=7
        )
    axis.set_xscale("log")
    axis.set_xlabel("CPU-seconds per registration, linear alignment included")
    axis.set_ylabel("mean Dice")
    axis.grid(alpha=0.3)
    axis.margins(0.18)
    axis.set_title(title, fontsize=10)
    return _save(figure, path)


def curves(rows: Sequence[Row], path: Path, title: str) -> str:
    """Dice, folding and roughness of the quick result over lambda: thin lines per pair, a thick one for their mean."""
    figure = Figure(figsize=(13.0, 4.2))
    parts = (("dice", "Dice"), ("folding_percent", "folded voxels, %"), ("roughness", "roughness"))
    for axis, (part, name) in zip(figure.subplots(1, 3), parts, strict=True):
        _curve(axis, [row for row in rows if row["method"] in CURVE and part in row and "error" not in row], part)
        if part == "dice":
            for number, method in enumerate(REFERENCES):
                if found := of_method(rows, method):
                    axis.axhline(mean(found, part), color=f"C{number + 1}", linestyle="--", label=_short(method))
            axis.legend(fontsize=7)
        axis.set_xlabel("λ")
        axis.set_ylabel(name)
        axis.grid(alpha=0.3)
    figure.suptitle(title, fontsize=10)
    figure.tight_layout()
    return _save(figure, path)


def _curve(axis: Axes, rows: Sequence[Row], part: str) -> None:
    for case in dict.fromkeys(row["case"] for row in rows):
        points = sorted((float(row["lambda"]), float(row[part])) for row in rows if row["case"] == case)
        axis.plot(*zip(*points, strict=True), color=OURS_COLOUR, alpha=0.25, linewidth=1)
    lambdas = sorted({float(row["lambda"]) for row in rows})
    means = [mean([row for row in rows if row["lambda"] == lam], part) for lam in lambdas]
    axis.plot(lambdas, means, ".-", color=OURS_COLOUR, label="HyperReg quick result, mean")


def all_figures(rows: Sequence[Row], folder: Path) -> list[str]:
    """What the rows allow, of the brain_oasis pairs (those of development if there are no others); the file names."""
    group = "oasis" if any(row["group"] == "oasis" for row in rows) else "development"
    chosen = [row for row in rows if row["group"] == group]
    pairs = len({row["case"] for row in chosen})
    title = f"brain_oasis, {pairs} pairs" + (" looked at during development" if group == "development" else "")
    found = []
    if _shown(chosen, "dice"):
        found.append(box_plots(chosen, folder / "dice_box_plots.png", title))
        found.append(time_plot(chosen, folder / "dice_against_time.png", title))
    if any(row["method"] in CURVE and "error" not in row for row in chosen):
        found.append(curves(chosen, folder / "lambda_curves.png", title))
    return found
