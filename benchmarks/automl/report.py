"""Tables and plots of the experiment, from what its trials left behind."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.automl.campaign import Scale, of, tpe_study
from benchmarks.automl.subjects import Subjects
from benchmarks.readme import write_rows
from hyperreg.automl.encoding import encode
from hyperreg.automl.ledger import Ledger, Record
from hyperreg.automl.predictor import BradleyTerry, Majority, PairTransformer, Predictor, Ridge, rate_features
from hyperreg.automl.proposing import noise_of
from hyperreg.automl.ranking import bootstrap
from hyperreg.automl.report import network_figure
from hyperreg.automl.space import AUGMENTATIONS, LEARNING_RATES, LOSSES, TYPES, Configuration
from hyperreg.errors import FileError

FOLDS = 4
PREDICTORS: dict[str, Callable[[], Predictor]] = {
    "pair transformer": PairTransformer,
    "Bradley-Terry transformer": BradleyTerry,
    "ridge": Ridge,
    "learning rate alone (ridge)": lambda: Ridge(features=rate_features),
    "majority": Majority,
}


@dataclass(frozen=True)
class Judged:
    """Held-out pair accuracy and tau of a predictor: (value, low, high), 95 % over configurations."""

    name: str
    accuracy: tuple[float, float, float]
    tau: tuple[float, float, float]


def judge(records: Sequence[Record], noise: float) -> list[Judged]:
    """Every predictor on the same folds: each learns from three quarters and orders the last quarter."""
    order = np.random.default_rng(0).permutation(len(records))
    folds = [order[n::FOLDS] for n in range(FOLDS)]
    scores = [record.score or 0.0 for record in records]
    configurations = [record.configuration for record in records]
    found = []
    for name, make in PREDICTORS.items():
        judged = []
        for fold in folds:
            learned = [int(n) for n in order if n not in set(fold)]
            predictor = make()
            predictor.fit([configurations[n] for n in learned], [scores[n] for n in learned], noise)
            asked = [configurations[int(n)] for n in fold]
            judged.append((predictor.probability(asked, asked), [scores[int(n)] for n in fold]))
        figures = bootstrap(judged, noise)
        found.append(Judged(name, figures["accuracy"], figures["tau"]))
    return found


def curves(output: Path, records: Sequence[Record], scale: Scale) -> dict[str, list[tuple[float, float]]]:
    """By strategy: (CPU-s spent, best score so far of trials with all steps), trial by trial."""
    random = list(of(records, "random"))
    arms: dict[str, list[tuple[float, float]]] = {
        "random search": [(r.cpu_s, r.score or 0.0) for r in random],
        "search with predictor": [
            (r.cpu_s, r.score or 0.0)
            for r in [*(r for r in random if r.configuration in scale.first), *of(records, "predictor")]
        ],
    }
    path = output / "tpe.journal"
    if path.exists():
        trials = [t for t in tpe_study(path, scale).trials if t.state.is_finished() and "cpu_s" in t.user_attrs]
        arms["TPE + ASHA"] = [(t.user_attrs["cpu_s"], t.value if t.state.name == "COMPLETE" else 0.0) for t in trials]
    found = {}
    for name, runs in arms.items():
        if runs:
            spent, scores = np.cumsum([cost for cost, _ in runs]), np.maximum.accumulate([score for _, score in runs])
            found[name] = [(float(a), float(b)) for a, b in zip(spent, scores, strict=True)]
    return found


def settings_table(records: Sequence[Record]) -> str:
    """Mean score of the trials with each setting, and how many there are."""
    groups: list[tuple[str, Callable[[Configuration], bool]]] = [
        *((f"learning rate {r:g}", lambda c, r=r: c.learning_rate == r) for r in LEARNING_RATES),
        *((f"loss {name}", lambda c, name=name: c.loss == name) for name in LOSSES),
        *((f"augmentation {name}", lambda c, name=name: name in c.augmentations) for name in AUGMENTATIONS),
        *((f"a block {kind}", lambda c, kind=kind: any(b.type == kind for b in c.blocks)) for kind in TYPES),
    ]  # type: ignore[misc]
    lines = ["| setting | trials with | mean score with | mean score without |", "|---|---|---|---|"]
    for name, has in groups:
        parts: list[list[float]] = [[], []]
        for record in records:
            parts[not has(record.configuration)].append(record.score or 0.0)
        shown = [f"{np.mean(part):.4f}" if part else "-" for part in parts]
        lines.append(f"| {name} | {len(parts[0])} | {shown[0]} | {shown[1]} |")
    return "\n".join(lines)


def write(output: Path, folder: Path, scale: Scale, subjects: Subjects) -> str:
    """README.md, trials.csv, subjects.csv and a plot into `folder`; returns the text.

    Raises FileError without trials.
    """
    if not (output / "trials.journal").exists():
        raise FileError(f"There are no trials in '{output}': run without --only-report first.")
    records = [r for r in Ledger(output / "trials.journal").records() if r.steps == scale.steps and r.score is not None]
    random = list(of(records, "random"))
    if not random:
        raise FileError(f"No trial of {scale.steps} steps has ended in '{output}' yet.")
    noise = noise_of(records)
    folder.mkdir(parents=True, exist_ok=True)
    write_rows([_row(record) for record in records], folder / "trials.csv")
    judged = judge(random, noise) if len(random) >= 4 * FOLDS else []
    found = curves(output, records, scale)
    default = _json(output / "default.json", [])
    _plot(folder / "automl.png", random, found, default)
    text = _text(
        records, random, noise, judged, found, default, _json(output / "test.json", {}), folder, scale, subjects
    )
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    return text


def _text(
    records: Sequence[Record], random: Sequence[Record], noise: float, judged: Sequence[Judged],
    found: Mapping[str, Sequence[tuple[float, float]]], default: Sequence[Mapping[str, float]],
    long: Mapping[str, Any], folder: Path, scale: Scale, subjects: Subjects,
) -> str:  # fmt: skip
    scores = [record.score or 0.0 for record in random]
    patch = " x ".join(map(str, scale.trial.patch))
    spacing = " x ".join(f"{value:g}" for value in subjects.spacing_mm)
    command = f"--task {folder.name} --steps {scale.steps} --random {scale.random} --long-steps {scale.long_steps}"
    setting = (
        f"`python -m benchmarks automl {command}`. {subjects.title}. "
        f"Every trial: {scale.steps} steps of one {patch} patch of {spacing} mm voxels, {scale.trial.width} channels "
        "at the finest level, one CPU thread. This is a proxy: what ranks first here need not after a real training. "
        "Score: Dice of probabilities, mean over structures, in the boxes of held-out subjects."
    )
    repeats = len(list(of(records, "repeat")))
    spread = (
        f"{len(random)} random configurations ended: score {min(scores):.4f} to {max(scores):.4f}, median "
        f"{np.median(scores):.4f}; labels' Dice of the best {max(r.dice or 0 for r in random):.4f}. "
        f"{repeats} runs were repeats with other seeds: SD of the difference of two runs that differ in the seed alone "
        f"{noise:.4f}."
    )
    parts = ["# Search for a network", setting, spread]
    if judged:
        size = len(random) // FOLDS
        how = (
            f"{FOLDS} folds of about {size} held-out random configurations; pairs within the seed noise are left out; "
            "in brackets 95 % intervals from drawing configurations, not pairs, with replacement."
        )
        parts += ["## What the predictor is worth", how, _judged_table(judged), _verdict(judged)]
    parts += ["## Equal compute", _curve_table(found, default, scale), "![Scores and curves](automl.png)"]
    parts += [
        "## Which settings mattered",
        "Means over random configurations, one setting at a time.",
        settings_table(random),
    ]
    if long:
        rows = [{"network": name, **row} for name, entry in long.items() for row in entry["subjects"]]
        write_rows(rows, folder / "subjects.csv")
        parts += ["## On subjects that no trial saw", _long_table(long)]
        best = max(of(records, "random", "predictor"), key=lambda record: record.score or 0.0)
        network_figure([best.configuration]).savefig(folder / "network.png", dpi=80)
        parts += ["The network found:", "![The network found](network.png)"]
    missing = [
        *(["TPE + ASHA"] if "TPE + ASHA" not in found else []),
        *(["the longer training and the subjects that no trial saw"] if not long else []),
    ]
    if missing:
        parts.append(f"Not run here: {'; '.join(missing)}. The same command without --only-report goes on.")
    return "\n\n".join(parts)


def _verdict(judged: Sequence[Judged]) -> str:
    """What the intervals allow to say of the predictor."""
    by_name = {one.name: one.accuracy for one in judged}
    pair, rate = by_name["pair transformer"], by_name["learning rate alone (ridge)"]
    chance = "better than chance" if pair[1] > 0.5 else "not shown to be better than chance (its interval holds .5)"
    over = "and better than" if pair[1] > rate[2] else "and not shown to be better than"
    return f"The pair transformer is {chance}, {over} the learning rate alone ({pair[0]:.3f} against {rate[0]:.3f})."


def _judged_table(judged: Sequence[Judged]) -> str:
    lines = ["| predictor | pair accuracy | Kendall's tau |", "|---|---|---|"]
    for one in judged:
        cells = (
            f"{v:.3f} ({low:.3f} to {high:.3f})" if np.isfinite(v) else "-" for v, low, high in (one.accuracy, one.tau)
        )
        lines.append(f"| {one.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _curve_table(
    found: Mapping[str, Sequence[tuple[float, float]]], default: Sequence[Mapping[str, float]], scale: Scale
) -> str:
    # What all of them have spent.
    shared = min(points[-1][0] for points in found.values())
    lines = [
        f"Best score after {shared:.0f} CPU-s (what every strategy has spent), and at the end of each:", "",
        "| strategy | trials | CPU-s | best score then | best score at the end |", "|---|---|---|---|---|",
    ]  # fmt: skip
    for name, points in found.items():
        then = max((score for spent, score in points if spent <= shared + 1e-6), default=0.0)
        lines.append(f"| {name} | {len(points)} | {points[-1][0]:.0f} | {then:.4f} | {points[-1][1]:.4f} |")
    if default:
        seeds = ", ".join(f"{entry['score']:.4f}" for entry in default)
        cost = np.mean([entry["cpu_s"] for entry in default])
        lines += ["", f"The default SegResNet with {scale.steps} steps ({cost:.0f} CPU-s): {seeds} (one a seed)."]
    lines += ["", "The best of a strategy is one trial with one seed: a search for a maximum also finds luck."]
    return "\n".join(lines)


def _long_table(long: Mapping[str, Any]) -> str:
    lines = [
        "| network | steps | training CPU-s | mean Dice | mean HD95, mm | structures missed | inference CPU-s |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, entry in long.items():
        rows = entry["subjects"]
        distances = [row["hd95_mm"] for row in rows if row["hd95_mm"] == row["hd95_mm"]]
        cells = (
            entry["steps"], f"{entry['training_cpu_s']:.0f}", f"{np.mean([row['dice'] for row in rows]):.3f}",
            f"{np.mean(distances):.1f}" if distances else "-", len(rows) - len(distances),
            f"{np.mean([row['cpu_s'] for row in rows]):.1f}",
        )  # fmt: skip
        lines.append(f"| {name} | {' | '.join(map(str, cells))} |")
    lines += ["", "Whole images on their own grids; HD95 is the mean over structures that both maps have."]
    return "\n".join(lines)


def _plot(
    path: Path, random: Sequence[Record], found: Mapping[str, Sequence[tuple[float, float]]],
    default: Sequence[Mapping[str, float]],
) -> None:  # fmt: skip
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for rate in LEARNING_RATES:
        scores = sorted(record.score or 0.0 for record in random if record.configuration.learning_rate == rate)
        left.plot([rate] * len(scores), scores, "o", ms=3, color="tab:blue")
    left.set(xscale="log", xlabel="Learning rate", ylabel="Score", title="Random configurations")
    for name, points in found.items():
        right.step(*zip(*points, strict=True), where="post", label=name)
    if default:
        right.axhline(float(np.mean([entry["score"] for entry in default])), color="black", ls=":", label="SegResNet")
    right.set(xlabel="CPU-s", ylabel="Best score so far", title="Equal compute")
    right.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=90)


def _row(record: Record) -> dict[str, Any]:
    configuration = record.configuration
    return {
        "source": record.source, "seed": record.seed, "steps": record.steps, "score": f"{record.score or 0:.5f}",
        "dice": f"{record.dice or 0:.5f}", "cpu_s": f"{record.cpu_s:.1f}", "blocks": len(configuration.blocks),
        "learning_rate": configuration.learning_rate, "loss": configuration.loss,
        "augmentations": " ".join(configuration.augmentations),
        "encoding": " ".join(map(str, encode(configuration).values)),
    }  # fmt: skip


def _json(path: Path, otherwise: Any) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else otherwise
