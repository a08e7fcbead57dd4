"""Does one hypernetwork do as well as networks trained for one λ each? (HyperMorph's claim, at small scale.)

For every seed one hypernetwork and, for every λ of a grid, one ordinary network (the same backbone, features and
initial weights, λ fixed, no hypernetwork) are trained with the same number of steps on the same synthetic pairs, and
measured on the same held-out pairs. So the ordinary networks together get as many times the budget as there are λ.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer

from benchmarks.readme import write_rows
from hyperreg.training.config import TrainingConfig
from hyperreg.training.engine import SEED_OFFSET
from hyperreg.training.registration import Trainer, make_maps
from hyperreg.training.synthesis import PairSynthesiser, SyntheticPair
from hyperreg.training.validation import validate, validation_pairs

LAMBDAS = (0.0, 0.2, 0.4, 0.6, 0.8)
SEEDS = (0, 1, 2)
HYPERNETWORK = "hypernetwork"
ORDINARY = "ordinary network"
# The goal: Dice points that the hypernetwork may lose on average.
GOAL_POINTS = 0.5
# Pairs are made once and shown again in every run, so that runs differ in nothing else.
TRAINING_PAIRS = 120
VALIDATION_PAIRS = 16
OUTPUT = Path("build/benchmarks/hypernetwork")
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "hypernetwork"
# Name -> the "network" entries that differ from `small_network`.
DESIGNS: dict[str, dict[str, Any]] = {
    "hidden 32, 32, 4; no rank": {},
    "hidden 32, 32, 4; rank 2": {"rank": 2},
    "hidden 32, 32, 4; rank 4": {"rank": 4},
    "hidden 16; no rank": {"hidden": [16]},
    "hidden 64, 64, 64; no rank": {"hidden": [64, 64, 64]},
    "hidden 64, 64, 64; rank 4": {"hidden": [64, 64, 64], "rank": 4},
}


@dataclass(frozen=True)
class Row:
    """One network at one λ, means over the held-out pairs; dice: soft, of all structures; parameters: trained."""

    kind: str
    seed: int
    lam: float
    dice: float
    dice_before: float
    smoothness: float
    folding_percent: float
    parameters: int
    seconds: float


def small_network(**changes: Any) -> dict[str, Any]:
    options = {"channels": [8, 8, 16, 16, 16, 16], "unet_out_channels": 8, "final_channels": [8]}
    return {
        "features": "correlation", "backbone": "voxelmorph_unet", "options": options, "hidden": [32, 32, 4],
        "passes": 1, **changes,
    }  # fmt: skip


def small_problem(steps: int, seed: int, size: int = 24, **changes: Any) -> TrainingConfig:
    """Random shapes of one contrast on a small grid."""
    return TrainingConfig.model_validate(
        {
            "name": "small",
            "title": "",
            "description": "",
            "output": "unused",
            "network": small_network(),
            "grid": {},
            "synthesis": {
                "shape_maps": 6,
                "shape_size": 48,
                "shape_scales": [[4, 8], [8, 16]],
                "stages": [{"until": 1, "shape": [size] * 3, "spacing_mm": [2.5, 3.0]}],
                "same_contrast": 1.0,
                "strength": [1.0, 2.5],
            },
            "steps": steps,
            "learning_rate": 2e-3,
            "warm_up": min(30, steps // 4),
            "later_pass": 0.0,
            "truth_weight": 0.0,
            "averaging": 0.98,
            "workers": 0,
            "seed": seed,
            **changes,
        }
    )


def make_pairs(steps: int) -> tuple[list[SyntheticPair], list[SyntheticPair]]:
    """What all runs are trained on, and what all are measured on; other shapes."""
    config = small_problem(steps, 0)
    source: PairSynthesiser = Trainer(config).pairs
    maps = make_maps(config.synthesis, 4, SEED_OFFSET)
    return [source[n] for n in range(min(steps, TRAINING_PAIRS))], validation_pairs(source, maps, VALIDATION_PAIRS)


def train_and_measure(
    kind: str,
    config: TrainingConfig,
    lambdas: Sequence[float],
    training: Sequence[SyntheticPair],
    held_out: Sequence[SyntheticPair],
) -> list[Row]:
    """One run; a row per λ."""
    trainer = Trainer(config)
    order = torch.Generator().manual_seed(config.seed)
    for _ in range(config.steps):
        trainer.train_step(training[int(torch.randint(len(training), (1,), generator=order))])
    measured = validate(trainer.average.module, held_out, lambdas)  # type: ignore[arg-type]
    parameters = sum(p.numel() for p in trainer.trained)
    names = ("dice", "dice_before", "smoothness", "folding_percent")
    return [
        Row(kind, config.seed, row["lambda"], *(row[name] for name in names), parameters, trainer.seconds)
        for row in measured
    ]


def run(output: Path, steps: int, seeds: Sequence[int] = SEEDS, designs: bool = False) -> list[Row]:
    """All runs that are not in `output` yet; a file each, so that an interrupted measurement goes on.

    designs: DESIGNS of the hypernetwork, instead of one against ordinary networks.
    """
    output.mkdir(parents=True, exist_ok=True)
    plan: list[tuple[str, str, TrainingConfig, Sequence[float]]] = []
    for seed in () if designs else seeds:
        plan.append((f"hyper_{seed}", HYPERNETWORK, small_problem(steps, seed), LAMBDAS))
        for lam in LAMBDAS:
            fixed = small_problem(steps, seed, fixed_lambda=lam)
            plan.append((f"ordinary_{seed}_{lam:g}", ORDINARY, fixed, (lam,)))
    if designs:
        for index, (name, changes) in enumerate(DESIGNS.items()):
            for seed in seeds:
                config = small_problem(steps, seed, network=small_network(**changes))
                plan.append((f"design_{index}_{seed}", name, config, LAMBDAS))
    pairs: tuple[list[SyntheticPair], list[SyntheticPair]] | None = None
    rows: list[Row] = []
    for number, (file, kind, config, lambdas) in enumerate(plan, start=1):
        path = output / f"{file}_{steps}.json"
        if not path.exists():
            pairs = pairs or make_pairs(steps)
            found = train_and_measure(kind, config, lambdas, *pairs)
            path.write_text(json.dumps([asdict(row) for row in found]) + "\n", encoding="utf-8")
            typer.echo(f"{number} of {len(plan)}: {file}, {found[0].seconds:.0f} s", err=True)
        rows += [Row(**entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    return rows


def over_seeds(rows: Sequence[Row], kind: str, name: str) -> Iterator[tuple[float, float, float]]:
    """(λ, mean, standard deviation) over the seeds."""
    for lam in LAMBDAS:
        values = [getattr(row, name) for row in rows if row.kind == kind and row.lam == lam]
        yield lam, float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")


def mean_gap_points(rows: Sequence[Row]) -> float:
    """Dice points that the hypernetwork loses against the ordinary networks, mean over λ; negative: it wins."""
    hyper, ordinary = ([mean for _, mean, _ in over_seeds(rows, kind, "dice")] for kind in (HYPERNETWORK, ORDINARY))
    return 100 * float(np.mean(np.array(ordinary) - np.array(hyper)))


def _cell(value: tuple[float, float, float]) -> str:
    """Mean ± SD; the mean alone of a single run."""
    _, mean, spread = value
    return f"{mean:.4f}" if np.isnan(spread) else f"{mean:.4f} ± {spread:.4f}"


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per λ, mean ± SD over the seeds; then the gap."""
    lines = [
        "| λ | Dice, ordinary | Dice, hypernetwork | gap, points | roughness, ordinary | roughness, hypernetwork |",
        "|---|---|---|---|---|---|",
    ]
    columns = [
        list(over_seeds(rows, kind, name)) for name in ("dice", "smoothness") for kind in (ORDINARY, HYPERNETWORK)
    ]
    for plain, hyper, rough_plain, rough_hyper in zip(*columns, strict=True):
        cells = [f"{plain[0]:g}", _cell(plain), _cell(hyper), f"{100 * (plain[1] - hyper[1]):+.2f}"]
        lines.append("| " + " | ".join([*cells, _cell(rough_plain), _cell(rough_hyper)]) + " |")
    spreads = [np.mean([sd for _, _, sd in over_seeds(rows, kind, "dice")]) for kind in (ORDINARY, HYPERNETWORK)]
    before = np.mean([row.dice_before for row in rows])
    summary = f"Dice before: {before:.4f}. Mean gap {mean_gap_points(rows):+.2f} points (goal: {GOAL_POINTS:g})."
    if not np.isnan(spreads).any():
        spread = f"ordinary {spreads[0]:.4f}, hypernetwork {spreads[1]:.4f}"
        summary += f" Spread over initialisations (SD of Dice, mean over λ): {spread}."
    return "\n".join([*lines, "", summary])


def design_table(rows: Sequence[Row], steps: int) -> str:
    """Markdown: a line per design, means over λ and seeds; size as saved, two bytes per parameter."""
    lines = ["| design | size, MB | Dice | SD over seeds | ms per step, median |", "|---|---|---|---|---|"]
    for name in DESIGNS:
        found = [row for row in rows if row.kind == name]
        if found:
            spread = np.mean([sd for _, _, sd in over_seeds(rows, name, "dice")])
            lines.append(
                f"| {name} | {2e-6 * found[0].parameters:.2f} | {np.mean([row.dice for row in found]):.4f} "
                f"| {spread:.4f} | {1000 * np.median([row.seconds for row in found]) / steps:.0f} |"
            )
    return "\n".join(lines)


def draw(rows: Sequence[Row], path: Path) -> None:
    """Dice and roughness over λ, with the seeds' spread."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), layout="constrained")
    for axes, name, title in zip(
        figure.subplots(1, 2), ("dice", "smoothness"), ("Dice of held-out pairs", "Roughness of the field"), strict=True
    ):
        for kind, style in ((ORDINARY, "o--"), (HYPERNETWORK, "s-")):
            lams, means, spreads = zip(*over_seeds(rows, kind, name), strict=True)
            label = f"{kind}{'s, one per λ' if kind == ORDINARY else ', one for all λ'}"
            axes.errorbar(lams, means, spreads, fmt=style, capsize=3, label=label)
        axes.set_xlabel("λ")
        axes.set_title(title)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=130)


def write(rows: Sequence[Row], folder: Path, steps: int) -> str:
    """Table, rows and figure into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = (
        f"`python -m benchmarks hypernetwork --steps {steps}`. Synthetic pairs of random shapes, 24×24×24 voxels, "
        f"{TRAINING_PAIRS} to train on, {VALIDATION_PAIRS} of other shapes to measure. Every network gets {steps} "
        f"steps, so the {len(LAMBDAS)} ordinary networks together {len(LAMBDAS)} times what the hypernetwork gets. "
        f"Negative gaps: the hypernetwork is better. Initialisations: {len({row.seed for row in rows})} (mean ± SD if "
        f"more than one); torch {torch.__version__.split('+')[0]}."
    )
    parts = [
        "# One hypernetwork against one network per λ",
        setting,
        table(rows),
        "![Dice and roughness over λ](hypernetwork.png)",
    ]
    text = "\n\n".join(parts) + "\n"
    (folder / "README.md").write_text(text, encoding="utf-8")
    write_rows([asdict(row) for row in rows], folder / "rows.csv")
    draw(rows, folder / "hypernetwork.png")
    return text


def write_designs(rows: Sequence[Row], folder: Path, steps: int) -> str:
    """Table and rows of the designs into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = len({row.seed for row in rows})
    setting = (
        f"`python -m benchmarks hypernetwork --designs --steps {steps} --seeds {seeds}`. The pairs and the backbone of "
        f"[the comparison](README.md); every design gets {steps} steps. Dice: mean over λ = "
        f"{', '.join(f'{lam:g}' for lam in LAMBDAS)} and the seeds; before the deformation: "
        f"{np.mean([row.dice_before for row in rows]):.4f}."
    )
    text = "\n\n".join(["# Designs of the hypernetwork", setting, design_table(rows, steps)]) + "\n"
    (folder / "designs.md").write_text(text, encoding="utf-8")
    write_rows([asdict(row) for row in rows], folder / "designs.csv")
    return text


def command(
    steps: Annotated[int, typer.Option(help="Of every network.")] = 250,
    seeds: Annotated[int, typer.Option(help="Initialisations of every network.")] = len(SEEDS),
    output: Annotated[Path, typer.Option(help="Folder of the runs; what is there is kept.")] = OUTPUT,
    designs: Annotated[bool, typer.Option("--designs", help="Compare widths, depths and ranks instead.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Write table and figure into docs/.")] = False,
) -> None:
    """One hypernetwork against ordinary networks of one λ each, at small scale."""
    rows = run(output, steps, range(seeds), designs)
    typer.echo((write_designs if designs else write)(rows, PUBLISHED if publish else output, steps))
