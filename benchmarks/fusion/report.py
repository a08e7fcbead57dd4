"""Rows, tables and figures of what was measured."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.fusion.experiments import DEFAULTS, PLAIN, VARIANTS, spearman
from benchmarks.fusion.methods import METHODS
from benchmarks.fusion.networks import MANUAL, SEEDS, STEPS
from benchmarks.registration.store import load_json

Row = dict[str, Any]

COLUMNS = (
    "experiment", "set", "structures", "variant", "method", "seed", "target", "atlas", "quality", "task", "shape",
    "dice", "value", "targets", "labels_dice", "spearman", "spearman_within", "cpu_s", "wall_s", "peak_gb",
    "bare_whole_cpu_s", "bare_cropped_cpu_s", "error",
)  # fmt: skip
SETS = {
    "mixed": "nine atlases, each registered in another quality",
    "uniform": "nine atlases, all registered by the network at λ = 0.3",
    "single": "one atlas, registered in eight qualities",
    "slices": "slices with disturbed manual labels",
}
STRUCTURES = {"hippocampus": "hippocampi as one label", "subcortical": "16 subcortical labels", "all": "all labels"}
# The methods in README's table, in its order.
OVERVIEW = (
    "random", "similar", "vote", "staple", "dp-defaults", "local", "itk-staple", "simple-package", "simple", "jlf",
)  # fmt: skip
COLOURS = {"oracle-atlas": "0.6", "oracle-weights": "0.6", "dp": "#1f77b4", "local": "#2ca02c"}

NOTES = """\
Subjects: brain_oasis, ten skull-stripped T1 with manual labels, native grids. Targets {targets}; the other nine are
each target's atlases. Settings of data parameters were chosen on the target 1000 alone, which is not among them. Of the
registration model, 1005 to 1010 were part of its published benchmark, not of its training. CPU-seconds (user and
system) were taken on a busy machine, with one thread except for the speed of fusion. {versions}.

The mixed set: each atlas of a target has one quality, and they go round from target to target: refined (λ 0.3), the
network at λ 0.1, 0.3, 0.6 and 1, affine only, and the network at 0.3 after a smooth random displacement of 3, 6 or
10 mm mean length. Data parameters were learned from all targets at once, unless it is said, on grids of 20 000 voxels
in 160 steps ("defaults": HyperReg's own 64 000 voxels and 250 steps); consensuses use the former unless they say so.
The oracles know the truth. JLF is shown the background as a label of its own, else it labels all of its mask.
"""

NETWORKS = """\
The same U-Net (12, 24, 48 channels), both hippocampi as one label: {steps} steps of two targets each, at 2 mm, with
labels of each kind for the targets ({targets}) and nothing else; measured on the subjects that are no targets, against
their manual labels on the native grid. (They are atlases of the targets, but no network has seen their images.) Labels
come from the mixed set without the refined atlas; data parameters are those of the mixed set. Images are cut to the box
around the manual labels, so a network draws the structures and need not find them: a small scale."""

SPEED = """\
Ratio: HyperReg to the bare filter. HyperReg's time contains what the filter in the box is given for nothing: bringing
ten whole maps onto one grid and finding the box around their labels. For that reason one label takes longer than the
filter in the box, but less than the filter on whole maps, which is what a user has. Several labels: HyperReg solves the
filter's equations once per combination of votes.
"""


def collect(output: Path) -> list[Row]:
    """All results under `output`."""
    return [load_json(path) for path in sorted((output / "results").glob("*.json"))]


def learned(results: Sequence[Row]) -> list[Row]:
    """Those of data parameters, with the correlation within each target (mean) beside that over all samples."""
    found = []
    for row in results:
        if "samples" not in row:
            continue
        groups: dict[str, list[Row]] = {}
        for sample in row["samples"]:
            groups.setdefault(sample["target"], []).append(sample)
        within = [
            spearman([s["value"] for s in group], [s["dice"] for s in group])
            for group in groups.values()
            if len(group) > 2
        ]
        found.append({**row, "spearman_within": float(np.nanmean(within)) if within else float("nan")})
    return found


def rows_of(results: Sequence[Row]) -> list[Row]:
    """Flat rows for the CSV: one per sample, per training and per consensus."""
    rows: list[Row] = []
    for row in learned(results):
        experiment = row["job"].split("--")[0].replace("dp", "II" if row["set"] == "single" else "III")
        rows.append({**row, "experiment": experiment, "cpu_s": row["job_cpu_s"], "wall_s": row["job_wall_s"]})
        shared = {key: row[key] for key in ("set", "structures", "variant")}
        rows += [{**shared, **sample, "experiment": f"{experiment} sample"} for sample in row["samples"]]
    for row in results:
        if "samples" not in row:
            experiment = {"fuse": "IV"}.get(row["job"].split("--")[0], row["job"].split("--")[0])
            sizes = {"shape": size_of(row["shape"])} if "shape" in row else {}
            rows.append({**row, **sizes, "experiment": experiment})
            shared = {key: row[key] for key in ("set", "structures", "method", "seed") if key in row}
            rows += [
                {**shared, "experiment": f"{experiment} subject", "target": subject, "dice": dice}
                for subject, dice in row.get("held_out", {}).items()
            ]
    return rows


def size_of(shape: Sequence[int]) -> str:
    return " x ".join(str(n) for n in shape)


def write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: f"{value:.5g}" if isinstance(value, float) else value for key, value in row.items()})


def learning_table(results: Sequence[Row]) -> str:
    """Experiments I to III: a line per training."""
    lines = [
        "| set | structures | variant | samples | Spearman, all samples | mean within a target | CPU-s |",
        "|---|---|---|---|---|---|---|",
    ]
    order = {name: number for number, name in enumerate((*VARIANTS, DEFAULTS))}
    trained = [row for row in learned(results) if not row["job"].startswith("alone")]
    for row in sorted(trained, key=lambda r: (list(SETS).index(r["set"]), r["structures"], order[r["variant"]])):
        within = row["spearman_within"]
        lines.append(
            f"| {SETS[row['set']]} | {STRUCTURES[row['structures']]} | {row['variant']} | {len(row['samples'])} | "
            f"{row['spearman']:.2f} | {within:.2f} | {row['job_cpu_s']:.0f} |".replace(" nan ", " – ")
        )
    alone = [row for row in learned(results) if row["job"].startswith("alone")]
    if alone:
        mean, cpu = (float(np.mean([row[key] for row in alone])) for key in ("spearman", "job_cpu_s"))
        lines.append(
            f"| {SETS['mixed']} | {STRUCTURES['hippocampus']} | one target at a time, {len(alone)} targets | "
            f"{len(alone[0]['samples'])} each | – | {mean:.2f} | {cpu:.0f} each |"
        )
    return "\n".join(lines)


def groups_of(results: Sequence[Row]) -> list[tuple[str, str]]:
    """(set, structures) for which consensuses were measured."""
    return list(dict.fromkeys((row["set"], row["structures"]) for row in _fused(results)))


def _fused(results: Sequence[Row]) -> list[Row]:
    return [row for row in results if row["job"].startswith("fuse--") and "dice" in row]


def consensus_table(results: Sequence[Row], set_: str, structures: str) -> str:
    """Experiment IV: a line per method; only methods that were measured on all targets that any was measured on."""
    found = [row for row in _fused(results) if (row["set"], row["structures"]) == (set_, structures)]
    targets = sorted({row["target"] for row in found})
    lines = [
        f"| method | mean Dice | {' | '.join(targets)} | CPU-s |",
        "|---|---|" + "---|" * (len(targets) + 1),
    ]
    means = {}
    for method in METHODS:
        rows = {row["target"]: row for row in found if row["method"] == method}
        if set(rows) == set(targets):
            means[method] = float(np.mean([rows[target]["dice"] for target in targets]))
            each = " | ".join(f"{rows[target]['dice']:.3f}" for target in targets)
            cpu = float(np.mean([rows[target]["cpu_s"] for target in targets]))
            lines.append(f"| {METHODS[method].title} | {means[method]:.3f} | {each} | {cpu:.1f} |")
    missing = [
        METHODS[name].title
        for name in METHODS
        if name not in means and (structures != "all" or METHODS[name].all_labels)
    ]
    if missing:
        lines.append(f"\nNot measured on all of these targets: {', '.join(missing)}.")
    return "\n".join(lines)


def overview(results: Sequence[Row]) -> str:
    """For README: mean Dice of each method on the mixed sets, where it was measured on all targets that any was."""
    measured = [row for row in _fused(results) if row["set"] == "mixed"]
    names = [name for name in STRUCTURES if any(row["structures"] == name for row in measured)]
    lines = [
        f"| mean Dice | {' | '.join(STRUCTURES[name] for name in names)} | median CPU-s each |",
        "|---|" + "---|" * (len(names) + 1),
    ]
    targets = {name: {row["target"] for row in measured if row["structures"] == name} for name in names}
    for method in OVERVIEW:
        cells, seconds = [], []
        for name in names:
            rows = [row for row in measured if (row["structures"], row["method"]) == (name, method)]
            complete = {row["target"] for row in rows} == targets[name]
            cells.append(f"{np.mean([row['dice'] for row in rows]):.3f}" if complete else "–")
            seconds.append(f"{np.median([row['cpu_s'] for row in rows]):.1f}" if complete else "–")
        if set(cells) != {"–"}:
            lines.append(f"| {METHODS[method].title} | {' | '.join(cells)} | {', '.join(seconds)} |")
    return "\n".join(lines)


def network_table(results: Sequence[Row]) -> str:
    """Networks trained on each kind of consensus: a line per kind, in the order of their Dice."""
    trained = [row for row in results if row["job"].startswith("network--") and "held_out" in row]
    subjects = sorted({subject for row in trained for subject in row["held_out"]})
    lines = [
        f"| trained on | its Dice | network's Dice | each of {len(SEEDS)} seeds | {' | '.join(subjects)} | CPU-s |",
        "|---|---|---|---|---|" + "---|" * len(subjects),
    ]
    found: list[tuple[float, str]] = []
    for kind in dict.fromkeys(row["method"] for row in trained):
        rows = [row for row in trained if row["method"] == kind]
        means = [row["dice"] for row in rows]
        each = " | ".join(f"{np.mean([row['held_out'][subject] for row in rows]):.3f}" for subject in subjects)
        title = "manual labels" if kind == MANUAL else METHODS[kind].title
        seeds, cpu = ", ".join(f"{mean:.3f}" for mean in means), np.mean([row["cpu_s"] for row in rows])
        line = f"| {title} | {rows[0]['labels_dice']:.3f} | {np.mean(means):.3f} | {seeds} | {each} | {cpu:.0f} |"
        found.append((float(np.mean(means)), line))
    return "\n".join([*lines, *(line for _mean, line in sorted(found))])


def speed_table(results: Sequence[Row]) -> str:
    lines = [
        "| task | CPU-s | wall s | peak, GB | bare filter, whole maps, CPU-s | ratio | in the box, CPU-s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in results:
        if "task" in row:
            bare = " | ".join(
                f"{row[key]:.2f} | {row['cpu_s'] / row[key]:.2f}" if key in row else "– | –"
                for key in ("bare_whole_cpu_s", "bare_cropped_cpu_s")
            )
            lines.append(
                f"| ten label maps of {size_of(row['shape'])} voxels: {row['task']} | "
                f"{row['cpu_s']:.2f} | {row['wall_s']:.2f} | {row['peak_gb']:.2f} | {bare} |"
            )
    return "\n".join(lines)


def scatter(results: Sequence[Row], path: Path) -> None:
    """Data parameters against the true Dice, a panel per training."""
    chosen = [
        row for row in learned(results) if row["variant"] in (PLAIN, DEFAULTS, "in line") and row["job"][:5] != "alone"
    ]
    columns = min(4, len(chosen))
    figure = Figure(figsize=(4.2 * columns, 3.9 * -(-len(chosen) // columns)))
    for number, row in enumerate(chosen, start=1):
        axis = figure.add_subplot(-(-len(chosen) // columns), columns, number)
        for colour, target in enumerate(dict.fromkeys(s["target"] for s in row["samples"])):
            own = [s for s in row["samples"] if s["target"] == target]
            style = f"C{colour % 10}" if len(own) > 1 else "C0"
            axis.plot([s["dice"] for s in own], [s["value"] for s in own], "o", color=style, markersize=4, alpha=0.8)
        axis.set_title(f"{row['set']}, {row['structures']}, {row['variant']}: ρ = {row['spearman']:.2f}", fontsize=9)
        axis.set_xlabel("true Dice of the label map")
        axis.set_ylabel("data parameter")
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def bars(results: Sequence[Row], path: Path) -> None:
    """Dice of every consensus: a panel per set and structures, a point per target."""
    groups = groups_of(results)
    figure = Figure(figsize=(5.2 * len(groups), 4.6))
    for number, (set_, structures) in enumerate(groups, start=1):
        axis = figure.add_subplot(1, len(groups), number)
        rows = [row for row in _fused(results) if (row["set"], row["structures"]) == (set_, structures)]
        present = [method for method in METHODS if any(row["method"] == method for row in rows)]
        for place, method in enumerate(present):
            values = [row["dice"] for row in rows if row["method"] == method]
            axis.barh(place, np.mean(values), color=COLOURS.get(method, "#c7c7c7"), height=0.7)
            axis.plot(values, [place] * len(values), "k.", markersize=4)
        lowest = min(row["dice"] for row in rows)
        axis.set_xlim(max(0, lowest - 0.05), min(1, max(row["dice"] for row in rows) + 0.03))
        axis.set_yticks(range(len(present)), [METHODS[m].title.split(" (")[0] for m in present], fontsize=8)
        axis.invert_yaxis()
        axis.set_xlabel("Dice with the manual labels")
        axis.set_title(f"{set_} set, {STRUCTURES[structures]}", fontsize=10)
        axis.grid(alpha=0.3, axis="x")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def write_report(output: Path, targets: Sequence[str]) -> list[Row]:
    """results.csv, results.md and the figures, in `output`; the results."""
    results = collect(output)
    write_csv(rows_of(results), output / "results.csv")
    parts = ["# Label fusion\n", NOTES.format(targets=", ".join(targets), versions=_versions())]
    if learned(results):
        scatter(results, output / "data_parameters.png")
        parts.append(f"## Data parameters against the true Dice\n\n{learning_table(results)}\n")
        parts.append("![Data parameters against the true Dice](data_parameters.png)\n")
    if groups := groups_of(results):
        bars(results, output / "consensus.png")
        parts += [f"## Consensus: {SETS[s]}; {STRUCTURES[n]}\n\n{consensus_table(results, s, n)}\n" for s, n in groups]
        parts.append("![Dice of every consensus](consensus.png)\n")
    if any("held_out" in row for row in results):
        about = NETWORKS.format(steps=STEPS, targets=next(row["targets"] for row in results if "held_out" in row))
        parts.append(f"## Networks trained on each consensus\n\n{about}\n{network_table(results)}\n")
    if any("task" in row for row in results):
        parts.append(f"## Speed\n\n{SPEED}\n{speed_table(results)}\n")
    errors = [f"- {row['job']}: {row['error']}" for row in results if "error" in row]
    if errors:
        parts.append("## What did not run\n\n" + "\n".join(errors) + "\n")
    (output / "results.md").write_text("\n".join(parts), encoding="utf-8")
    return results


def _versions() -> str:
    names = ("torch", "SimpleITK", "antspyx", "LabelFusion")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            found.append(f"{name} not installed")
    return f"{', '.join(found)}; {os.cpu_count()} cores"
