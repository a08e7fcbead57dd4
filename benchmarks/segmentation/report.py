"""Tables of the segmentation benchmark: Markdown per part, every figure in one CSV, one picture."""

from __future__ import annotations

import csv
import os
import platform
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.segmentation import few_labels
from benchmarks.segmentation.ablation import CASES, SPACING_MM, STEPS
from benchmarks.segmentation.brains import LOOKED_AT
from benchmarks.segmentation.calibration import BINS
from benchmarks.segmentation.structures import MANUAL, SUBCORTICAL

Row = dict[str, Any]


def whole_table(rows: Sequence[Row]) -> str:
    """A line per structure: mean, worst and best Dice, mean HD95, over the subjects that count."""
    counted = [row for row in rows if row["case"] not in LOOKED_AT]
    lines = ["| structure | Dice, mean | Dice, range | HD95, mm |", "|---|---|---|---|"]
    for name in MANUAL:
        found = [row["structures"][name] for row in counted if name in row["structures"]]
        if found:
            dice = [entry["dice"] for entry in found]
            distance = np.nanmean([entry["hd95_mm"] for entry in found]) if found else np.nan
            lines.append(f"| {name} | {np.mean(dice):.3f} | {min(dice):.3f}–{max(dice):.3f} | {distance:.1f} |")
    for title, names in (("mean of all", tuple(MANUAL)), ("mean, subcortical", SUBCORTICAL)):
        values = [mean_dice(row, names) for row in counted]
        lines.append(f"| **{title}** | {np.mean(values):.3f} | {min(values):.3f}–{max(values):.3f} | |")
    if shares := [100 * row["wrong_side"] for row in counted if "wrong_side" in row]:
        lines.append(
            f"| on the wrong side, % of the voxels | {np.mean(shares):.2f} | {min(shares):.2f}–{max(shares):.2f} | |"
        )
    return "\n".join(lines)


def heads_table(rows: Sequence[Row]) -> str:
    """As `whole_table`, and the mask of everything."""
    dice, ratio = ([row[figure] for row in rows if figure in row] for figure in ("mask_dice", "mask_ratio"))
    mask = (
        f"| mask of the brain (`--mask`), {np.mean(ratio):.2f} times as large | {np.mean(dice):.3f} | " if dice else ""
    )
    return whole_table(rows) + (f"\n{mask}{min(dice):.3f}–{max(dice):.3f} | |" if dice else "")


def cost_table(rows: Sequence[Row]) -> str:
    """Time and memory of the whole command, imports and files included."""
    lines = ["| model | images | CPU-s, median | wall s, median | peak GB, most |", "|---|---|---|---|---|"]
    for model in dict.fromkeys(row["model"] for row in rows if "cpu_s" in row):
        mine = [row for row in rows if row["model"] == model and "cpu_s" in row]
        cpu, wall = (np.median([row[key] for row in mine]) for key in ("cpu_s", "wall_s"))
        peak = max(row["peak_gb"] for row in mine)
        lines.append(f"| {model} | {len(mine)} | {cpu:.1f} | {wall:.1f} | {peak:.1f} |")
    return "\n".join(lines)


def thick_table(rows: Sequence[Row]) -> str:
    """A line per thickness, mean Dice of each model over subjects and structures."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    heads = [f"{model}, {which}" for model in models for which in ("all", "subcortical")]
    lines = ["| slices, mm | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for size in sorted({int(row["case"].split("-")[1][:-2]) for row in rows}):
        cells = []
        for model in models:
            mine = [row for row in rows if row["model"] == model and row["case"].endswith(f"-{size}mm")]
            cells += [f"{np.mean([mean_dice(row, n) for row in mine]):.3f}" for n in (tuple(MANUAL), SUBCORTICAL)]
        lines.append(f"| {size} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def inferer_table(rows: Sequence[Row]) -> str:
    """HyperReg's sliding window against MONAI's."""
    head = ("volume", "window", "HyperReg, CPU-s", "MONAI, CPU-s", "ratio", "largest difference of a probability")
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    lines += [
        f"| {row['shape']}, {row['threads']:g} threads, {row['precision']} | {row['window']} | "
        f"{row['ours_cpu_s']:.2f} | {row['monai_cpu_s']:.2f} | {row['ratio']:.2f} | {row['largest_difference']:.3f} |"
        for row in rows
    ]
    return "\n".join(lines)


def contrasts_table(rows: Sequence[Row]) -> str:
    """A line per structure: Dice between every two contrasts, and the volume in each."""
    lines = []
    for row in rows:
        pairs, structures = row["regions"], row["structures"]
        images = [figure.removeprefix("ml_") for figure in next(iter(structures.values()))]
        head = ["structure", *(f"Dice, {pair.replace(', ', ' and ')}" for pair in pairs), *(f"ml, {i}" for i in images)]
        lines += ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
        for name, volumes in structures.items():
            dice = [f"{pair[name]['dice']:.3f}" if name in pair else "" for pair in pairs.values()]
            lines.append(f"| {name} | " + " | ".join([*dice, *(f"{ml:.1f}" for ml in volumes.values())]) + " |")
        means = [f"{np.mean([entry['dice'] for entry in pair.values()]):.3f}" for pair in pairs.values()]
        lines.append("| **mean** | " + " | ".join([*means, *("" for _ in images)]) + " |")
    return "\n".join(lines)


def tumour_table(rows: Sequence[Row]) -> str:
    """Agreement with an algorithm's result, by region and stage."""
    lines = ["| region | stage | Dice | HD95, mm | ml |", "|---|---|---|---|---|"]
    for row in rows:
        for stage, regions in row["regions"].items():
            for name, entry in regions.items():
                lines.append(f"| {name} | {stage} | {entry['dice']:.3f} | {entry['hd95_mm']:.1f} | {entry['ml']:.1f} |")
    return "\n".join(lines)


def head_neck_table(rows: Sequence[Row]) -> str:
    """A line per organ: over the patients as they are, and over finer images of them."""
    lines = ["| organ | Dice, mean | Dice, range | HD95, mm | Dice, finer image |", "|---" * 5 + "|"]
    own = [row for row in rows if not row["case"].endswith("-fine")]
    fine = [row for row in rows if row["case"].endswith("-fine")]
    names = list(dict.fromkeys(name for row in own for name in row["structures"]))
    for name in names:
        found = [row["structures"][name] for row in own if name in row["structures"]]
        dice = [entry["dice"] for entry in found]
        # NaN where an organ was not found at all: its distance is not counted, its Dice of 0 is.
        distance = np.nanmean([entry["hd95_mm"] for entry in found])
        finer = np.mean([row["structures"][name]["dice"] for row in fine]) if fine else np.nan
        lines.append(
            f"| {name} | {np.mean(dice):.3f} | {min(dice):.3f}–{max(dice):.3f} | {distance:.1f} | {finer:.3f} |"
        )
    means = [mean_dice(row, names) for row in own]
    finer = np.mean([mean_dice(row, names) for row in fine]) if fine else np.nan
    lines.append(f"| **mean** | {np.mean(means):.3f} | {min(means):.3f}–{max(means):.3f} | | {finer:.3f} |")
    return "\n".join(lines)


def calibration_table(rows: Sequence[Row]) -> str:
    """A line per model: the calibration error before and after; then how often probabilities are right, after."""
    lines = ["| model | images | temperature | error before | error after |", "|---" * 5 + "|"]
    below = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        before, after = (np.mean([row[f"{when}_ece"] for row in mine]) for when in ("before", "after"))
        lines.append(f"| {model} | {len(mine)} | {mine[0]['temperature']:.2f} | {before:.3f} | {after:.3f} |")
        below += ["", f"How often the structure that {model} takes is right:", ""]
        below += ["| probability | voxels, % | right before, % | right after, % |", "|---" * 4 + "|"]
        count = sum(row.get(f"after_voxels_{part}", 0) for row in mine for part in range(BINS))
        for part in range(BINS):
            shares = [_right(mine, when, part) for when in ("before", "after")]
            if not np.isnan(shares[1]):
                voxels = sum(row.get(f"after_voxels_{part}", 0) for row in mine)
                cells = f"{100 * voxels / count:.1f} | " + " | ".join(f"{100 * share:.0f}" for share in shares)
                below.append(f"| {part / BINS:.1f} to {(part + 1) / BINS:.1f} | {cells} |")
    return "\n".join([*lines, *below])


def _right(rows: Sequence[Row], when: str, part: int) -> float:
    """The share of voxels with such probabilities that is right; NaN without any."""
    voxels = [row.get(f"{when}_voxels_{part}", 0) for row in rows]
    right = [row.get(f"{when}_right_{part}", 0.0) for row in rows]
    return float(np.dot(voxels, right) / sum(voxels)) if sum(voxels) else float("nan")


def plausibility_table(rows: Sequence[Row]) -> str:
    """A line per model and kind of image: how many were refused or warned of, and which went the wrong way."""
    lines = ["| model | images | | refused | warned of in red | a note on what is cut off | nothing said |"]
    lines += ["|---" * 7 + "|"]
    wrong_way = {"right": ("refused", "warned"), "wrong": ("noted", "nothing")}
    odd = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for kind in ("right", "wrong", "either"):
            mine = [row for row in rows if row["model"] == model and row["kind"] == kind]
            counts = [sum(row["told"] == told for row in mine) for told in ("refused", "warned", "noted", "nothing")]
            lines.append(f"| {model} | {kind} | {len(mine)} | " + " | ".join(map(str, counts)) + " |")
            odd += [
                f"- {model}, {kind}: {row['case']} ({row['told']}): {row.get('text', '')}"
                for row in mine
                if row["told"] in wrong_way.get(kind, ()) or kind == "either"
            ]
    return "\n".join([*lines, "", "Told of falsely or not at all, and those that do not count:", "", *odd])


def ablation_table(rows: Sequence[Row]) -> str:
    """Mean Dice on synthetic cases, and that of each seed."""
    lines = ["| network | Dice, mean | Dice, each seed | CPU-s of training |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["case"].rsplit("-", 1)[0] for row in rows):
        mine = [row for row in rows if row["case"].rsplit("-", 1)[0] == name]
        each = ", ".join(f"{row['dice']:.3f}" for row in mine)
        dice, seconds = (np.mean([row[key] for row in mine]) for key in ("dice", "cpu_s"))
        lines.append(f"| {name} | {dice:.3f} | {each} | {seconds:.0f} |")
    return "\n".join(lines)


def few_labels_table(rows: Sequence[Row]) -> str:
    """A line per number of patients: with the branch, without, and what the branch brings; then the second stage."""
    lines = [
        "| patients | networks | seeds | Dice, first | Dice, second | second minus first, points | CPU-s each |",
        "|---|---|---|---|---|---|---|",
    ]
    for one, two, counts in few_labels.COMPARED:
        for count in counts:
            first, second = (
                [row for row in rows if (row["variant"], row["count"]) == (variant, count)] for variant in (one, two)
            )
            seeds = sorted({row["seed"] for row in first} & {row["seed"] for row in second})
            if not seeds:
                continue
            first, second = ([row for seed in seeds for row in r if row["seed"] == seed] for r in (first, second))
            values = [few_labels.dice_of(found) for found in (first, second)]
            change = 100 * (values[1] - values[0])
            low, high = few_labels.interval(change)
            costs = " and ".join(
                f"{np.mean([row['training_cpu_s'] for row in found]):.0f}" for found in (first, second)
            )
            lines.append(
                f"| {count} | {one}; {two} | {len(seeds)} | {values[0].mean():.3f} | {values[1].mean():.3f} | "
                f"{change.mean():+.1f} ({low:+.1f} to {high:+.1f}) | {costs} |"
            )
    return "\n".join(lines)


TITLE = "# Segmentation: how good the bundled models are"
WHOLE = """\
Subjects of brain_oasis (T1, skull-stripped); 1000 and 1001 were looked at while the models were made and do not count.
The manual protocol and the one that the models learned (FreeSurfer's) draw some borders differently, so 1 cannot be
reached; which labels make up which structure stands in `benchmarks/segmentation/structures.py`. Left and right count
together but in the last line. Cerebrospinal fluid is not compared."""
HEADS = """\
T1 of whole heads (brain_ixi, 2 mm), against the labels of another program (DLMUSE): agreement, not accuracy. Its
protocol draws some borders differently, too; cerebrospinal fluid is not compared."""
THICK = """\
Such images with slices averaged along the body; measured on those slices, each voxel labelled with what fills most
of it. At 1 mm nothing is averaged. AH-Net (`brain-anatomy-thick`) is measured where it is installed; it is not bundled
any more, because it was nowhere the better choice."""
TUMOUR = """\
BraTS-GLI-00001, against the output of a challenge-winning algorithm that comes with the case: agreement between two
algorithms on one patient, not accuracy."""
INFERER = """\
The same network, window, overlap and weighting, taking turns, medians; MONAI's inferer as it is by default."""
CONTRASTS = """\
T1, T2 and FLAIR of one patient (brain_ms, multiple sclerosis) on one grid of 1 mm, each segmented by itself. There are
no manual labels of these structures: this is agreement between the segmentations, not accuracy; they may agree and be
wrong."""
HEAD_NECK = """\
Six patients of head_neck_ct that were never trained on or looked at, against the contours of their radiotherapy, on the
contours' own voxels (4 to 5 mm in plane: a shift by half a voxel costs a thin organ a quarter of its Dice). Different
physicians draw oesophagus, larynx and the ends of the cord differently; in pt_260 what is called the cord encloses ten
times as many voxels as in the others, and counts all the same. The finer image is the same patient resampled to voxels
of 1.2 x 1.2 x 2.5 mm, the result brought back."""
PLAUSIBILITY = """\
Every kind of image in the folder of real data. Right: what the model is for. Wrong: another part of the body, another
kind of image, a header that is turned. Either: foetal, badly diseased or cut brains, which do not count. The thresholds
(`hyperreg/segmentation/plausibility.py`) were chosen with these images in sight: a measurement on others is still to be
made. A head that is mirrored left to right cannot be noticed."""
CALIBRATION = """\
On the model's voxels, where the model or the truth has a structure: how far the probability of the structure that it
takes is from how often it is right (expected calibration error, ten parts). The temperature was fitted on the
training's held-out cases (`hyperreg train calibrate`), not on these images; it changes no label. What the protocols
draw differently counts as wrong, so that no model can be right as often as it would be by its own protocol."""
ABLATION = f"""\
Trainings of {STEPS} steps with 8 filters on voxels of {SPACING_MM:g} mm, synthetic images alone: six structures of the
brain, or (tumour) those of the tumour model from four images. Dice over {CASES} synthetic cases, made as those it was
trained on. Differences smaller than those between seeds mean nothing; what holds at this size need not at full size."""

FEW_LABELS = f"""\
Trainings of {few_labels.STEPS} steps with 8 filters on voxels of 5 mm, from so many of the 64 patients of head_neck_ct
(drawn by the seed), from two or three seeds; mean Dice over {len(few_labels.ORGANS)} organs on the six
test patients, against the contours of their radiotherapy. In brackets the 95 % interval of the mean difference, drawing
trainings and patients with replacement. The branch had as many steps, thus more compute; the second stage as much
compute, thus fewer steps. What holds at this size need not at full size."""

# Part -> heading, what has to be known, table.
PARTS: dict[str, tuple[str, str, Callable[[Sequence[Row]], str]]] = {
    "whole": ("Brains of 1 mm with manual labels", WHOLE, whole_table),
    "heads": ("Whole heads, against automatic labels", HEADS, heads_table),
    "thick": ("Thick slices", THICK, thick_table),
    "tumour": ("Experimental tumour model", TUMOUR, tumour_table),
    "inferer": ("Sliding window against MONAI's own inferer", INFERER, inferer_table),
    "contrasts": ("One brain in three contrasts", CONTRASTS, contrasts_table),
    "head-neck": ("Head and neck, against clinical contours", HEAD_NECK, head_neck_table),
    "calibration": ("Whether probabilities can be believed", CALIBRATION, calibration_table),
    "plausibility": ("Knowing when it is wrong", PLAUSIBILITY, plausibility_table),
    "ablation": ("Variational branch, second stage and AH-Net, at toy size", ABLATION, ablation_table),
    "few-labels": ("Variational branch where labels are few, and the second stage", FEW_LABELS, few_labels_table),
}


def mean_dice(row: Row, names: Iterable[str]) -> float:
    """Mean over those of the structures that the subject has."""
    return float(np.mean([row["structures"][name]["dice"] for name in names if name in row["structures"]]))


def tables(rows: Sequence[Row]) -> dict[str, str]:
    """Section to table, of the parts that were measured."""
    found = {part: PARTS[part][2](mine) for part in PARTS if (mine := [row for row in rows if row["part"] == part])}
    if any("cpu_s" in row for row in rows):
        found["cost"] = cost_table([row for row in rows if row["part"] in ("whole", "tumour", "head-neck")])
    return found


def setting(rows: Sequence[Row]) -> str:
    """Where and with what it was measured. No names of machines or paths."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "monai", "numpy"))
    used = ", ".join(sorted({f"{row['model']} (weights {row['version']})" for row in rows if row["model"]}))
    date = datetime.now(timezone.utc).date().isoformat()
    return (
        f"`python -m benchmarks segmentation --publish`. {date}; {os.cpu_count()} cores, {platform.machine()}, no GPU "
        f"used; Python {platform.python_version()}, {versions}; models: {used}. The machine was shared with other "
        "work: CPU-seconds are the figure to compare, wall times are inflated."
    )


def write_report(rows: Sequence[Row], output: Path) -> dict[str, str]:
    """README.md, results.csv and the pictures into `output`; returns the tables by section."""
    found = tables(rows)
    parts = [TITLE, setting(rows)]
    for part, (title, notes, _) in PARTS.items():
        if part in found:
            parts += [f"## {title}", notes, found[part]]
            if part == "whole":
                parts.append("![Dice per structure](dice.png)")
            elif part == "few-labels":
                parts.append("![Dice over the number of patients](few-labels.png)")
    if "cost" in found:
        parts += ["## Time and memory", "Of the whole command, imports and files included.", found["cost"]]
    output.mkdir(parents=True, exist_ok=True)
    (output / "README.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _write_csv(rows, output / "results.csv")
    if "whole" in found:
        _draw([row for row in rows if row["part"] == "whole" and row["case"] not in LOOKED_AT], output / "dice.png")
    if "few-labels" in found:
        _draw_few_labels([row for row in rows if row["part"] == "few-labels"], output / "few-labels.png")
    return found


def _write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(("part", "case", "model", "version", "what", "figure", "value"))
        for row in rows:
            start = (row["part"], row["case"], row["model"] or "", row["version"])
            for what, figure, value in _figures(row):
                writer.writerow((*start, what, figure, value))


def _figures(row: Row) -> Iterable[tuple[str, str, Any]]:
    for name, entry in row.get("structures", {}).items():
        yield from ((name, figure, round(value, 4)) for figure, value in entry.items())
    for stage, regions in row.get("regions", {}).items():
        for name, entry in regions.items():
            yield from ((f"{stage}: {name}", figure, round(value, 4)) for figure, value in entry.items())
    for figure, value in row.items():
        if isinstance(value, (int, float)):
            yield "", figure, round(value, 4)
        elif isinstance(value, str) and figure not in ("part", "case", "model", "version"):
            yield "", figure, value


def _draw(rows: Sequence[Row], path: Path) -> None:
    from matplotlib.figure import Figure

    names = [name for name in MANUAL if any(name in row["structures"] for row in rows)]
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    values = [[row["structures"][name]["dice"] for row in rows if name in row["structures"]] for name in names]
    axes.boxplot(values, orientation="horizontal", widths=0.6)
    axes.set_yticks(range(1, len(names) + 1), names)
    axes.invert_yaxis()
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"Dice against manual labels, {len(rows)} subjects")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def _draw_few_labels(rows: Sequence[Row], path: Path) -> None:
    """Mean Dice of each kind of network over the number of patients, with the 95 % interval of the mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for number, variant in enumerate(few_labels.VARIANTS):
        mine = [[row for row in rows if (row["variant"], row["count"]) == (variant, n)] for n in few_labels.COUNTS]
        counts = [count for count, found in zip(few_labels.COUNTS, mine, strict=True) if found]
        values = [few_labels.dice_of(found) for found in mine if found]
        if not values:
            continue
        means = np.array([value.mean() for value in values])
        spans = np.abs(np.array([few_labels.interval(value) for value in values]).T - means)
        axes.errorbar(np.array(counts) * 1.03**number, means, spans, fmt="o-", capsize=3, label=variant)
    axes.set_xscale("log", base=2)
    axes.set_xticks(few_labels.COUNTS, [str(count) for count in few_labels.COUNTS])
    axes.set_xlabel("patients that it learned from")
    axes.set_ylabel("mean Dice of six other patients")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=80)
