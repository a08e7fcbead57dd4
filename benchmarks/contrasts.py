"""Does the solver tell images of one contrast from images of two? The balance that it decides by, on real pairs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, cast

import typer

from benchmarks.readme import write_rows
from benchmarks.registration.case import Case
from benchmarks.registration.cases import all_cases
from hyperreg.imaging.files import read_volume
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.session import LiveSession
from hyperreg.registration.similarity import LEAST_BALANCE
from hyperreg.registration.solver import CONTRAST_LAMBDA, Solver

# All pairs of `benchmarks registration` but for more brains of one data set.
LEFT_OUT = (
    "oasis-1000-1005", "oasis-1006-1002", "oasis-1009-1001", "oasis-1017-1004", "oasis-1001-1008", "oasis-1004-1010",
    "oasis-1002-1000", "oasis-1000-1001", "oasis-1002-1004",
)  # fmt: skip
OUTPUT = Path("build/benchmarks/contrasts")
PUBLISHED = Path(__file__).resolve().parents[1] / "docs" / "benchmarks" / "contrasts"


@dataclass(frozen=True)
class Row:
    """One pair; different: whether its contrasts are."""

    pair: str
    different: bool
    balance: float

    @property
    def taken_for_different(self) -> bool:
        return self.balance <= LEAST_BALANCE


def measure(case: Case, output: Path) -> Row:
    """The balance under a draft; from `output` if it is there."""
    path = output / f"{case.name}.json"
    if not path.exists():
        session = LiveSession(NO_MODEL, "cpu")
        session.prepare(read_volume(case.fixed), read_volume(case.moving))
        row = Row(case.name, case.cross, cast(Solver, session._maker).balance("cpu", lambda _fraction: None))
        output.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(row)) + "\n", encoding="utf-8")
    return Row(**json.loads(path.read_text(encoding="utf-8")))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per pair, the smallest balance last."""
    lines = ["| pair | contrasts | balance | taken for | |", "|---|---|---|---|---|"]
    words = {True: "different", False: "the same"}
    for row in sorted(rows, key=lambda row: -row.balance):
        right = "" if row.different == row.taken_for_different else "WRONG"
        cells = [row.pair, words[row.different], f"{row.balance:.3f}", words[row.taken_for_different], right]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(rows: Sequence[Row], folder: Path) -> str:
    """Table and rows into `folder`; returns the text."""
    folder.mkdir(parents=True, exist_ok=True)
    setting = (
        "`python -m benchmarks contrasts`. The balance of the squared local correlation with its sign "
        "(`hyperreg.registration.similarity.contrast_balance`), -1 to 1, in the foreground under the solver's draft "
        f"at λ = {CONTRAST_LAMBDA:g}. Above {LEAST_BALANCE:g} the images are taken for one "
        "contrast. The threshold was chosen on these images, so that it tells them apart is no independent test; the "
        "user can always say it (*Contrasts*, `--contrast`)."
    )
    text = "\n\n".join(["# Telling contrasts apart", setting, table(rows)])
    (folder / "README.md").write_text(text + "\n", encoding="utf-8")
    write_rows([asdict(row) for row in rows], folder / "rows.csv")
    return text


def command(
    output: Annotated[Path, typer.Option(help="Folder of the measurements; what is there is kept.")] = OUTPUT,
    pair: Annotated[list[str] | None, typer.Option(help="Only these pairs of `benchmarks registration`.")] = None,
    publish: Annotated[bool, typer.Option("--publish", help="Write the table into docs/.")] = False,
) -> None:
    """By what the solver takes two images for one contrast or for two (needs the real images)."""
    rows = []
    for case in all_cases(output / "made", with_deformed=not pair or any(name.startswith("cross") for name in pair)):
        if case.name in pair if pair else case.name not in LEFT_OUT:
            rows.append(measure(case, output))
            typer.echo(f"{case.name}: {rows[-1].balance:.3f}", err=True)
    typer.echo(write(rows, PUBLISHED if publish else output))
