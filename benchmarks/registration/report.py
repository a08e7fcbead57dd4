"""Tables of a run: Markdown per group of pairs, everything in one CSV, and where it was measured."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np

from benchmarks.registration.results import (
    CURVE,
    ORACLE,
    TITLES,
    TRUTHS,
    Row,
    collect,
    mean,
    of_method,
    truth_of,
    write_csv,
)
from hyperreg.registration.catalogue import list_models

PACKAGES = ("torch", "SimpleITK", "numpy", "antspyx", "itk-elastix", "picsl_greedy")
GROUPS = {
    "oasis": "Brains of one contrast: brain_oasis, skull-stripped T1, native grids, manual labels",
    "cross": "Brains across contrasts: T1 from T2 or FLAIR of the same patient, moved by a known deformation",
    "lung": "Lung CT: baseline from follow-up, 50 landmark pairs",
    "cardiac": "Heart: end-diastole from end-systole, expert endocardium, nominal spacing",
    "spine": "Cervical cord: T1 from T2 in small fields of view, manual cord masks",
    "ixi": "Whole heads: brain_ixi, 2 mm; Dice here is agreement with automatic labels, not accuracy",
    "template": "CT brain atlas to MNI152: no truth; the overlap of the two brain outlines is all that can be said",
    "development": "Pairs that were looked at while the method was made; they never count as evidence",
}
# Figure, heading, format.
FIGURES = (
    ("dice", "Dice", "{:.3f}"),
    ("dice_subcortical", "Dice, subcortical", "{:.3f}"),
    ("dice_cortical", "Dice, cortical", "{:.3f}"),
    ("tre_mm", "landmarks, mm", "{:.2f}"),
    ("error_mm", "error, mm", "{:.2f}"),
    ("error_p95_mm", "error, 95 %, mm", "{:.2f}"),
    ("similarity", "local NCC", "{:.3f}"),
    ("mutual_information", "mutual information", "{:.3f}"),
    ("outline_dice", "outline Dice", "{:.3f}"),
    ("folding_percent", "folded, %", "{:.4f}"),
    ("roughness", "roughness", "{:.3f}"),
    ("cpu_s", "CPU-s", "{:.1f}"),
    ("wall_s", "wall s", "{:.0f}"),
    ("peak_gb", "peak GB", "{:.1f}"),
)
# Rows that need a truth, or are asked for by name: their absence is no gap.
OPTIONAL = ("identity", "SyN CC", "quick oracle", "full oracle")
# Where a truth is known, the outline says nothing more.
ONLY_IN = {"outline_dice": ("template",)}

NOTES = """\
Every method got the same two files and {threads} thread(s), in a process of its own. CPU-seconds (user and system, of
the process and its children) are the figure to compare: they count the registration with its linear alignment, not
imports, the loading of a model, reading, or the conversion of the result. The machine was shared with other work while
this was measured, so wall times are inflated and say little; a busy machine also costs some CPU-seconds through its
caches, for all alike. Peak memory is that of the whole process. Every result was turned into one displacement on the
fixed image's grid and measured by the same code. Dice: mean over all labels that both maps hold. Folded: share of the
fixed image's foreground with a Jacobian determinant of 0 or less. Roughness: mean squared gradient of the displacement
without its linear part. "Worse than affine" counts the pairs on which a method's truth (Dice, landmarks or error) is
worse than after HyperReg's linear alignment. The oracle λ is chosen by the truth itself, from λ = {grid}:
it is what a perfect choice would give, and no method that can be used. Means are over the pairs that a method was run
on ("pairs").
"""


def machine(rows: Sequence[Row]) -> str:
    """Where and with what: date, cores, versions, models. No names of machines or paths."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            versions.append(f"{package} not installed")
    used = dict.fromkeys((row["model"], row["model_sha256"]) for row in rows if "model" in row)
    cards = {card.name: card for card in list_models()}
    models = [
        f"{name} (version {cards[name].version if name in cards else 'unknown'}, weights {digest})"
        for name, digest in used
    ]
    date = datetime.now(timezone.utc).date().isoformat()
    return (
        f"Report of {date}, rows may come from earlier runs; {os.cpu_count()} cores, "
        f"{platform.machine()}, no GPU used; Python {platform.python_version()}, "
        f"{', '.join(versions)}; models: {', '.join(models) or 'none'}."
    )


def threads_of(rows: Sequence[Row]) -> str:
    return ", ".join(str(n) for n in sorted({row["threads"] for row in rows})) or "no"


def worse_than_affine(rows: Sequence[Row], method: str) -> str:
    """ "n of N" pairs; "" where there is nothing to judge by."""
    starts = {row["case"]: row for row in of_method(rows, "affine")}
    judged = worse = 0
    for row in of_method(rows, method):
        name = truth_of(row)
        if name is not None and row["case"] in starts:
            judged += 1
            gain = float(row[name]) - float(starts[row["case"]][name])
            worse += gain < 0 if TRUTHS[name] else gain > 0
    return f"{worse} of {judged}" if judged else ""


def group_table(rows: Sequence[Row], group: str) -> str:
    """Markdown: a line per method, means over the pairs of the group that succeeded."""
    ours = [row for row in rows if row["group"] == group]
    figures = [
        (name, title, form)
        for name, title, form in FIGURES
        if any(name in row for row in ours) and (name not in ONLY_IN or group in ONLY_IN[name])
    ]
    judged = any(truth_of(row) is not None for row in ours)
    heads = ["method", "pairs", *(title for _, title, _ in figures), *(["worse than affine"] if judged else [])]
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    for method, title in TITLES.items():
        good = of_method(ours, method)
        if not good:
            continue
        cells = [title, str(len(good))]
        for name, _, form in figures:
            value = mean(good, name)
            cells.append("–" if np.isnan(value) else form.format(value))
        if judged:
            cells.append("" if method in ("identity", "affine") else worse_than_affine(ours, method))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def front_table(rows: Sequence[Row]) -> str:
    """Markdown: what a newcomer asks first, a line per method that most people know and ours."""
    methods = ("affine", "SyN", "elastix", "greedy", "network", "quick", "full", "full auto")
    columns = (
        ("oasis", "dice", "brains: Dice", "{:.3f}"),
        ("oasis", "folding_percent", "folded, %", "{:.4f}"),
        ("oasis", "cpu_s", "CPU-s", "{:.0f}"),
        ("cross", "error_mm", "across contrasts: error, mm", "{:.2f}"),
        ("lung", "tre_mm", "lung: landmarks, mm", "{:.2f}"),
    )
    lines = ["| | " + " | ".join(title for _, _, title, _ in columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for method in methods:
        cells = []
        for group, name, _, form in columns:
            value = mean(of_method([row for row in rows if row["group"] == group], method), name)
            cells.append("–" if np.isnan(value) else form.format(value))
        if any(cell != "–" for cell in cells):
            lines.append(f"| {TITLES[method]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def differences(rows: Sequence[Row], method: str, others: Sequence[str], figure: str = "dice") -> str:
    """Markdown: paired differences of `method` to others, mean and range, over the pairs that both have."""
    mine = {row["case"]: float(row[figure]) for row in of_method(rows, method) if figure in row}
    lines = []
    for other in others:
        gaps = [mine[row["case"]] - float(row[figure]) for row in of_method(rows, other) if row["case"] in mine]
        if gaps:
            wins = sum(gap > 0 for gap in gaps)
            lines.append(
                f"- {TITLES[method]} minus {TITLES[other]}: {np.mean(gaps):+.3f} (from {min(gaps):+.3f} to "
                f"{max(gaps):+.3f}), higher on {wins} of {len(gaps)} pairs"
            )
    return "\n".join(lines)


def curve_table(rows: Sequence[Row]) -> str:
    """Markdown: the quick result over lambda, means over the brain_oasis pairs, and the lung's landmarks."""
    brains = [row for row in rows if row["group"] == "oasis"]
    lungs = [row for row in rows if row["group"] == "lung"]
    measured = {row["case"] for method in CURVE for row in of_method(brains, method)}
    brains = [row for row in brains if row["case"] in measured]
    lines = [
        f"| λ | Dice, {len(measured)} brain pairs | folded voxels, % | roughness | local NCC | lung landmarks, mm |",
        "|---|---|---|---|---|---|",
    ]
    for method in ("affine", *CURVE):
        good, lung = of_method(brains, method), of_method(lungs, method)
        if good or lung:
            name = "linear alignment only" if method == "affine" else method.split("=")[1]
            figures = [mean(good, key) for key in ("dice", "folding_percent", "roughness", "similarity")]
            cells = [form.format(n) for form, n in zip(("{:.3f}", "{:.4f}", "{:.4f}", "{:.3f}"), figures, strict=True)]
            lines.append(f"| {name} | {' | '.join(cells)} | {mean(lung, 'tre_mm'):.2f} |")
    return "\n".join(lines)


def automatic_table(rows: Sequence[Row]) -> str:
    """Markdown: per pair with an oracle, its lambda and truth, those of the automatic lambda, and what that loses."""
    automatic = {row["case"]: row for row in of_method(rows, "quick auto")}
    lines = ["| pair | oracle: λ, truth | automatic: λ, truth | lost |", "|---|---|---|---|"]
    for oracle in of_method(rows, ORACLE):
        name, found = truth_of(oracle), automatic.get(oracle["case"])
        if name is None or found is None:
            continue
        dice = TRUTHS[name]
        lost = abs(float(oracle[name]) - float(found[name])) * (100 if dice else 1)
        cells = [f"{row['lambda']:g}, {row[name]:.3f}{'' if dice else ' mm'}" for row in (oracle, found)]
        lines.append(f"| {oracle['case']} | {' | '.join(cells)} | {lost:.2f} {'Dice points' if dice else 'mm'} |")
    return "\n".join(lines) if len(lines) > 2 else ""


def failures(rows: Sequence[Row]) -> str:
    """Markdown: what did not work, and why; the same for several pairs in one line."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if "error" in row:
            method = str(row["method"])
            reasons.setdefault((TITLES.get(method, method), str(row["error"])), []).append(row["case"])
    return "\n".join(f"- {method} on {', '.join(cases)}: {error}" for (method, error), cases in reasons.items())


def not_run(rows: Sequence[Row]) -> str:
    """Markdown: methods with neither a result nor an error on some pairs of a group: the run was stopped."""
    lines = []
    for group in GROUPS:
        ours = [row for row in rows if row["group"] == group]
        cases = len({row["case"] for row in ours})
        for method, title in TITLES.items():
            there = len({row["case"] for row in ours if row["method"] == method})
            if there < cases and method not in OPTIONAL:
                lines.append(f"- {group}: {title} on {cases - there} of {cases} pairs")
    return "\n".join(lines)


def markdown(rows: Sequence[Row], grid: Sequence[float], pictures: Sequence[str] = ()) -> str:
    """The whole report."""
    parts = ["# Registration methods side by side", machine(rows)]
    parts.append(NOTES.format(threads=threads_of(rows), grid=", ".join(f"{lam:g}" for lam in grid)))
    for group, title in GROUPS.items():
        if any(row["group"] == group for row in rows):
            parts += [f"## {title}", group_table(rows, group)]
            if group == "oasis":
                parts.append(differences([r for r in rows if r["group"] == group], "full auto", ("greedy", "SyN")))
    if any(row["method"] in CURVE and "error" not in row for row in rows):
        parts += ["## The quick result over λ", curve_table(rows)]
    if found := automatic_table(rows):
        parts += ["## The automatic λ against the oracle's, quick results", found]
    parts += [f"![{name.split('.')[0].replace('_', ' ')}]({name})" for name in pictures]
    if found := failures(rows):
        parts += ["## What did not work", found]
    if found := not_run(rows):
        parts += ["## What was not run", found]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_report(output: Path, grid: Sequence[float], pictures: Sequence[str] = ()) -> list[Row]:
    """results.csv and results.md into `output`, from the results that are there."""
    rows = collect(output)
    write_csv(rows, output / "results.csv")
    (output / "results.md").write_text(markdown(rows, grid, pictures), encoding="utf-8")
    return rows
