"""How far the λ suggested from the images alone lands from the best one by the truth, and whether a deformation that
makes things worse is noticed without it.

Per pair the figures over all λ of the search are measured once, with the truth (label maps, landmarks, or the known
deformation); what the images alone say is read from them without it, so every rule is judged on the same fields.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.deformation_warnings import TRUTHS, Row, figure, warnings_table, without_truth
from benchmarks.pairs import DATA
from benchmarks.readme import write_rows
from benchmarks.registration.case import Case, read_points
from benchmarks.registration.cases import all_cases
from benchmarks.registration.store import load_transform
from benchmarks.registration.synthetic import deformed
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.transform import Transform
from hyperreg.registration.catalogue import NO_MODEL, find_model
from hyperreg.registration.response import SEARCHED_LAMBDAS, Response, automatic_lambda
from hyperreg.registration.session import LiveSession

# Pairs of `benchmarks registration`. None of them was looked at while the rule was chosen...
UNTOUCHED = (
    "oasis-1005-1006", "oasis-1008-1009", "oasis-1010-1017", "oasis-1006-1002",
    "cross-patient19_T1-T2", "cross-patient19_T1-FLAIR", "cross-stroke_T1-T2", "cross-stroke_T1-FLAIR",
    "cardiac-SC-HF-NI-03",
)  # fmt: skip
# ... these were, ...
LOOKED_AT = ("lung", "cardiac-SC-HF-I-01", "spine-t1-t2")
# ... and so were other deformations of the images of the cross-contrast pairs: fixed, moving, seed.
DEVELOPMENT_OASIS = ("oasis-1000-1001", "oasis-1002-1004")
DEVELOPMENT_CROSS = (
    ("brain_ms/patient19_T1", "brain_ms/patient19_T2", 21),
    ("brain_ms/patient19_T1", "brain_ms/patient19_FLAIR", 22),
    ("brain_stroke/stroke_T1", "brain_stroke/stroke_T2", 23),
    ("brain_stroke/stroke_T1", "brain_stroke/stroke_FLAIR", 24),
)
# The goal: Dice points that the automatic λ may lose on average.
GOAL_POINTS = 0.5
# At how many points of the foreground a field is compared with the known deformation.
ERROR_POINTS = 5000
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "automatic-lambda"


@dataclass(frozen=True)
class Measured:
    """One pair: a row per λ with `LiveSession.metrics` as numbers, and "error_mm" where the deformation is known."""

    pair: str
    model: str
    sha256: str
    default: float
    looked_at: bool
    rows: list[dict[str, float]]

    @property
    def truth(self) -> str:
        """The name of the figure that is the truth."""
        return next(name for name in TRUTHS if name in self.rows[0])

    def at(self, lam: float) -> dict[str, float]:
        return next(row for row in self.rows if row["lambda"] == lam)

    @property
    def best(self) -> dict[str, float]:
        return max(self.rows, key=lambda row: TRUTHS[self.truth] * row[self.truth])

    def lost(self, lam: float) -> float:
        """How much worse than the best of all λ: Dice points (0 to 100), or mm."""
        return abs(self.best[self.truth] - self.at(lam)[self.truth]) * (100 if self.truth == "dice_mean" else 1)


class WithoutTruth:
    """What a session that is given nothing but the images would have measured."""

    quick_stage = 0

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def metrics(self, lam: float, _stage: int, /) -> dict[str, float]:
        found = without_truth(next(row for row in self.rows if row["lambda"] == lam))
        del found["lambda"]
        return found


def by_detail(rows: Sequence[Row]) -> float:
    """What `hyperreg register --lam auto` does without label maps."""
    return automatic_lambda(WithoutTruth(rows)).lam


def by_similarity(rows: Sequence[Row]) -> float:
    """The largest similarity on the network's own grid."""
    return max(rows, key=lambda row: (row["similarity"], row["lambda"]))["lambda"]


def by_product(rows: Sequence[Row]) -> float:
    """The smallest product of misfit and roughness: the L-curve's corner without parameters (Reginska 1996)."""
    return min(rows, key=lambda row: (1 - row["similarity"]) * row["roughness"])["lambda"]


RULES: dict[str, Callable[[Sequence[Row]], float]] = {
    "automatic": by_detail,
    "similarity": by_similarity,
    "L-curve": by_product,
    "λ = 0.3": lambda _rows: 0.3,
    "λ = 0.5": lambda _rows: 0.5,
}


def development_cases(made: Path) -> Iterator[Case]:
    """What the rule was chosen on, but for the lung and the heart."""
    yield from (case for case in all_cases(made, with_deformed=False) if case.name in DEVELOPMENT_OASIS)
    for here, there, seed in DEVELOPMENT_CROSS:
        image, truth = deformed(DATA / f"{there}.nii.gz", seed, made)
        name = f"cross-{here.split('/')[1]}-{there.split('_')[-1]}-{seed}"
        yield Case(name, "cross", DATA / f"{here}.nii.gz", image, cross=True, truth=truth, development=True)


def measure(case: Case, model: str, folder: Path) -> Measured:
    """The figures of one pair over λ, from `folder` if they are there for this very model."""
    card = find_model(model)
    path = folder / f"{card.name}-{card.sha256[:8]}-{case.name}.json"
    if path.exists():
        return Measured(**json.loads(path.read_text(encoding="utf-8")))
    session = LiveSession(card, "cpu")
    session.prepare(read_volume(case.fixed), read_volume(case.moving), **_truth_given(case))
    error = _error_of(case, session)
    before = error(Transform((session.linear,)))
    response = Response()
    for lam in sorted({*SEARCHED_LAMBDAS, card.default_lambda}):
        figures = {
            name: value
            for name, value in session.metrics(lam, session.quick_stage).items()
            if not isinstance(value, dict)
        }
        if before is not None:
            figures |= {"error_mm": error(session.transform(lam, session.quick_stage)), "error_mm_before": before}
        response.add(lam, figures)
    looked_at = case.development or case.name in LOOKED_AT
    found = Measured(case.name, card.name, card.sha256, card.default_lambda, looked_at, response.rows)
    path.write_text(json.dumps(asdict(found), indent=1) + "\n", encoding="utf-8")
    return found


def _truth_given(case: Case) -> dict[str, Any]:
    """Label maps or landmarks, as `LiveSession.prepare` takes them."""
    if case.fixed_labels is not None and case.moving_labels is not None:
        return {"fixed_labels": read_label_map(case.fixed_labels), "moving_labels": read_label_map(case.moving_labels)}
    if case.fixed_points is not None and case.moving_points is not None:
        points = [read_points(path, case.left_out) for path in (case.fixed_points, case.moving_points)]
        return {"fixed_points": points[0], "moving_points": points[1]}
    return {}


def _error_of(case: Case, session: LiveSession) -> Callable[[Transform], float | None]:
    """Mean distance of a map to the known deformation, mm, at points of the foreground; None if it is not known."""
    if case.truth is None:
        return lambda _transform: None
    inside = np.argwhere(session.foreground.array)
    here = session.foreground.grid.to_ras(inside[:: max(1, len(inside) // ERROR_POINTS)])
    there = load_transform(case.truth).apply(here)
    return lambda transform: float(np.linalg.norm(transform.apply(here) - there, axis=1).mean())


def table(measured: Sequence[Measured]) -> str:
    """Markdown: a line per pair with the oracle's λ and truth, and per rule its λ and what it loses; then means."""
    lines = [f"| fixed, moving | best λ, truth | {' | '.join(RULES)} |", f"|---|---|{'---|' * len(RULES)}"]
    for one in measured:
        found = [(lam := rule(one.rows), one.lost(lam)) for rule in RULES.values()]
        cells = " | ".join(f"{lam:g}: {lost:.2f}" for lam, lost in found)
        star = " *" if one.looked_at else ""
        lines.append(f"| {one.pair}{star} | {one.best['lambda']:g}, {figure(one.truth, one.best)} | {cells} |")
    for title, chosen in (
        ("mean, Dice points, of pairs never looked at", of_kind(measured, dice=True)),
        ("mean, mm, of pairs never looked at", of_kind(measured, dice=False)),
    ):
        if chosen:
            losses = [[one.lost(rule(one.rows)) for one in chosen] for rule in RULES.values()]
            means = " | ".join(f"**{np.mean(values):.2f}** (largest {max(values):.2f})" for values in losses)
            lines.append(f"| {title} ({len(chosen)}) | | {means} |")
    return "\n".join(lines)


def of_kind(measured: Sequence[Measured], *, dice: bool) -> list[Measured]:
    """Those never looked at whose truth is Dice, or those whose truth is a distance."""
    return [one for one in measured if not one.looked_at and (one.truth == "dice_mean") == dice]


def draw(measured: Sequence[Measured], path: Path) -> None:
    """Per pair, truth and detail over λ, each scaled to its own range: do they peak at the same place?"""
    from matplotlib.figure import Figure

    columns = min(4, len(measured))
    picture = Figure(figsize=(4 * columns, 3 * -(-len(measured) // columns)), layout="constrained")
    every = np.ravel(picture.subplots(-(-len(measured) // columns), columns, squeeze=False))
    for axes in every[len(measured) :]:
        axes.set_axis_off()
    for axes, one in zip(every, measured, strict=False):
        lambdas = [row["lambda"] for row in one.rows]
        for name, label in ((one.truth, "truth"), ("detail", "fine detail"), ("similarity", "similarity")):
            values = np.array([row[name] for row in one.rows]) * TRUTHS.get(name, 1)
            axes.plot(lambdas, (values - values.min()) / max(float(np.ptp(values)), 1e-9), "o-", label=label)
        lam = by_detail(one.rows)
        axes.axvline(lam, color="black", linestyle=":", label="automatic λ")
        unit = "Dice points" if one.truth == "dice_mean" else "mm"
        axes.set_title(f"{one.pair}: {one.lost(lam):.2f} {unit} lost", fontsize="small")
        axes.set_xlabel("λ")
        axes.set_yticks([])
    picture.axes[0].legend(fontsize="small")
    picture.savefig(path, dpi=110)


def run(cases: Sequence[Case], output: Path, model: str | None = None) -> list[Measured]:
    """Measure the pairs; one file each, so that an interrupted measurement goes on. model: None: the solver alone."""
    folder = output / "automatic-lambda"
    folder.mkdir(parents=True, exist_ok=True)
    measured = []
    for case in cases:
        measured.append(measure(case, model or NO_MODEL, folder))
        typer.echo(f"{measured[-1].pair}: done", err=True)
    return measured


def write(measured: Sequence[Measured], folder: Path, options: str = "") -> str:
    """Tables, rows and figure into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    models = sorted({f"'{one.model}'" + (f" (weights {one.sha256[:12]})" if one.sha256 else "") for one in measured})
    setting = (
        f"`python -m benchmarks automatic-lambda{options}`: {', '.join(models)}, quick results, on {len(measured)} "
        "pairs of `benchmarks registration`. Truth: mean Dice over manual labels, landmarks, or the error against the "
        "known deformation, mm. Per rule: its λ, and by how many Dice points (or mm) it is worse than the best one of "
        f"λ = {', '.join(f'{lam:g}' for lam in SEARCHED_LAMBDAS)}. *Automatic* is what `--lam auto` does without any "
        "truth. Pairs with a star were looked at while it was made and are not in the means."
    )
    if chosen := of_kind(measured, dice=True):
        lost = [one.lost(by_detail(one.rows)) for one in chosen]
        setting += f" It loses {np.mean(lost):.2f} Dice points on average (goal: at most {GOAL_POINTS:g}), at most "
        setting += f"{max(lost):.2f}, on {len(chosen)} never looked at."
    parts = ["# Automatic λ against the best λ", setting, table(measured)]
    parts += ["![Truth and fine detail over λ](automatic-lambda.png)", warnings_table(measured)]
    text = "\n\n".join(parts)
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    write_rows([{"pair": one.pair, **row} for one in measured for row in one.rows], folder / "rows.csv")
    draw(measured, folder / "automatic-lambda.png")
    return text


def command(
    model: Annotated[str | None, typer.Option(help="Which model; by default the solver alone.")] = None,
    output: Annotated[Path, typer.Option(help="Folder of the measurements; what is there is kept.")] = Path(
        "build/benchmarks"
    ),
    development: Annotated[bool, typer.Option(help="The pairs that the rule was chosen on, instead.")] = False,
    pair: Annotated[list[str] | None, typer.Option(help="Only these pairs, by name: a minute each.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Write tables and figure into docs/.")] = False,
) -> None:
    """What λ chosen from the images alone loses against the best λ; and is it noticed if nothing helps?"""
    made = output / "automatic-lambda" / "made"
    wanted = pair or (*UNTOUCHED, *LOOKED_AT)
    with_deformed = any(name.startswith("cross") for name in wanted)
    cases = development_cases(made) if development else all_cases(made, with_deformed=with_deformed)
    measured = run([case for case in cases if case.name in wanted or development], output, model)
    options = (" --development" if development else "") + "".join(f" --pair {name}" for name in pair or ())
    typer.echo(write(measured, PUBLISHED if publish else output / "automatic-lambda", options))
