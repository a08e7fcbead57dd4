"""Does the learned solver earn its place? Quick results beside the plain solver's, at equal CPU time, on real pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, cast

import numpy as np
import torch
import typer

from benchmarks.readme import write_rows
from benchmarks.registration.case import Case
from benchmarks.registration.cases import cases_of
from benchmarks.registration.measure import measure
from benchmarks.registration.method import Watch
from hyperreg.imaging.files import read_volume
from hyperreg.registration.catalogue import ModelCard, find_model, read_card
from hyperreg.registration.learned import UpdateModel
from hyperreg.registration.model import load_model
from hyperreg.registration.session import LiveSession
from hyperreg.registration.solver import Solver

OUTPUT = Path("build/benchmarks/learned-solver")
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "learned-solver"
GROUPS = ("oasis", "cross", "lung", "cardiac")
# The truth of a group: name of the measure, and +1 if more of it is better.
TRUTHS = {"oasis": ("dice", 1), "cross": ("error_mm", -1), "lung": ("tre_mm", -1), "cardiac": ("dice", 1)}
PLAIN, LONGER, LEARNED = "plain", "plain, as long", "learned"


@dataclass(frozen=True)
class Row:
    """One quick result; truth: Dice, or mm."""

    pair: str
    group: str
    method: str
    lam: float
    truth: float
    folding_percent: float
    roughness: float
    cpu_s: float


def run_case(case: Case, card: ModelCard, lam: float) -> list[Row]:
    """The plain solver, the learned one, and the plain one with as many more steps as take the learned one's time."""
    session = LiveSession("none", "cpu")
    session.prepare(read_volume(case.fixed), read_volume(case.moving))
    solver, model = cast(Solver, session._maker), load_model(card)
    if not isinstance(model, UpdateModel):
        raise typer.BadParameter(f"'{card.name}' is no learned solver.")
    levels, rows = solver._levels, []
    for method in (PLAIN, LEARNED, LONGER):
        solver.model = model if method == LEARNED else None
        more = rows[1].cpu_s / rows[0].cpu_s if method == LONGER else 1.0
        solver._levels = [replace(level, steps=math.ceil(level.steps * max(1.0, more))) for level in levels]
        session._forget_fields()
        watch = Watch()
        with watch.running():
            transform = session.transform(lam, session.quick_stage)
        found = measure(case, transform)
        truth = found[TRUTHS[case.group][0]]
        rows.append(
            Row(case.name, case.group, method, lam, truth, found["folding_percent"], found["roughness"], watch.cpu_s)
        )
    return rows


def table(rows: Sequence[Row]) -> str:
    """Markdown: means per group and method, and the gain over the plain solver in the same time."""
    lines = [
        "| pairs | truth | method | mean | folded, % | roughness | CPU-s | gain over the plain one in the same time |"
    ]
    lines.append("|---|---|---|---|---|---|---|---|")
    for group in dict.fromkeys(row.group for row in rows):
        name, sign = TRUTHS[group]
        means = {}
        for method in (PLAIN, LONGER, LEARNED):
            chosen = [row for row in rows if (row.group, row.method) == (group, method)]
            mean = means[method] = float(np.mean([row.truth for row in chosen]))
            gain = ""
            if method == LEARNED:
                difference = sign * (mean - means[LONGER])
                gain = f"{100 * difference:+.2f} points" if sign > 0 else f"{100 * difference / means[LONGER]:+.1f} %"
            others = (
                np.mean([getattr(row, part) for row in chosen]) for part in ("folding_percent", "roughness", "cpu_s")
            )
            folded, rough, cpu = others
            cells = [
                f"{group} ({len(chosen)})",
                name,
                method,
                f"{mean:.4f}",
                f"{folded:.4f}",
                f"{rough:.3f}",
                f"{cpu:.1f}",
            ]
            lines.append("| " + " | ".join([*cells, gain]) + " |")
    return "\n".join(lines)


def write(rows: Sequence[Row], card: ModelCard, folder: Path) -> str:
    """Table and rows into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    recipe = card.card.get("recipe") or {}
    setting = (
        f"`python -m benchmarks learned-solver MODEL`, λ = {rows[0].lam:g}, quick results, one thread. CPU-s: of the "
        'field alone, without the linear alignment. "Plain, as long" has as many more steps on every level as take the '
        f"learned solver's time. The model: {recipe.get('steps_done', '?')} steps of training on synthetic pairs; no "
        "real image, and none of these people, was seen."
    )
    text = "\n\n".join(["# The learned solver against the plain one", setting, table(rows)])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    write_rows([asdict(row) for row in rows], folder / "rows.csv")
    return text


def command(
    model: Annotated[str, typer.Argument(help="Name or folder of a learned solver.")],
    lam: Annotated[float, typer.Option(help="λ of every field.")] = 0.1,
    group: Annotated[list[str] | None, typer.Option(help="Only these groups of pairs.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the measurements; what is there is kept.")] = OUTPUT,
    publish: Annotated[bool, typer.Option("--publish", help="Write the table into docs/.")] = False,
) -> None:
    """The learned solver against the plain one in the same CPU time (needs the real images)."""
    torch.set_num_threads(1)
    card = read_card(Path(model)) if Path(model).is_dir() else find_model(model)
    rows: list[Row] = []
    output.mkdir(parents=True, exist_ok=True)
    for case in cases_of(group or GROUPS, output / "made"):
        kept = output / f"{case.name}.{card.sha256[:12]}.{lam:g}.json"
        if not kept.exists():
            found = [asdict(row) for row in run_case(case, card, lam)]
            kept.write_text(json.dumps(found) + "\n", encoding="utf-8")
        rows += [Row(**row) for row in json.loads(kept.read_text(encoding="utf-8"))]
        typer.echo(f"{case.name}: {', '.join(f'{row.method} {row.truth:.4f}' for row in rows[-3:])}", err=True)
    typer.echo(write(rows, card, PUBLISHED if publish else output))
