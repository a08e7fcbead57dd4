"""`python -m benchmarks registration`: run, report, publish."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.registration.cases import GROUPS, cases_of
from benchmarks.registration.figures import all_figures
from benchmarks.registration.methods import FULL, METHODS, SHORT, with_model
from benchmarks.registration.ours import GRID
from benchmarks.registration.report import curve_table, group_table, write_report
from benchmarks.registration.results import CURVE, Row, collect, of_method, take_over
from benchmarks.registration.runner import run

OUTPUT = Path("build/benchmarks/registration")
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "registration"


def registration(
    *,
    short: bool,
    groups: list[str],
    methods: list[str],
    threads: int,
    model: str | None,
    output: Path,
    again: bool,
    keep: bool,
    only_report: bool,
    resume_published: bool,
    publish: bool,
) -> list[Row]:
    """What the command does; the rows of all results under `output`."""
    unknown = [f"'{name}'" for name in (*groups, *methods) if name not in (*GROUPS, *METHODS)]
    if unknown:
        raise typer.BadParameter(
            f"Unknown: {', '.join(unknown)}. Groups: {', '.join(GROUPS)}. Methods: {', '.join(METHODS)}."
        )
    output = output.resolve() / ("short" if short else "full")
    output.mkdir(parents=True, exist_ok=True)
    if resume_published:
        typer.echo(f"{take_over(PUBLISHED / 'results.csv', output)} published rows are taken over.", err=True)
    if not only_report:
        wanted = groups or (["development"] if short else [name for name in GROUPS if name != "development"])
        chosen = [with_model(METHODS[name], model) for name in (methods or (SHORT if short else FULL))]
        cases = list(cases_of(wanted, output / "made"))
        # Method by method: the cheap ones are complete first.
        for entry in chosen:
            run([entry], cases, output, threads=threads, keep=keep, again=again, say=typer.echo)
    rows = write_report(output, GRID, all_figures(collect(output), output))
    if publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        for path in (*output.glob("results.*"), *output.glob("*.png")):
            shutil.copyfile(path, PUBLISHED / path.name)
    return rows


def tables(rows: list[Row]) -> str:
    """What is printed: the table of every group that was measured."""
    return "\n\n".join(f"{name}\n{group_table(rows, name)}" for name in GROUPS if any(r["group"] == name for r in rows))


def readme_tables(rows: list[Row]) -> dict[str, str]:
    """Section name to table, for the documents; a section that was not measured is left as it is."""
    measured = {row["group"] for row in rows}
    sections = {"registration": "oasis", "cross": "cross", "lung": "lung"}
    found = {section: group_table(rows, group) for section, group in sections.items() if group in measured}
    if any(of_method(rows, method) for method in CURVE):
        found["quality"] = curve_table(rows)
    return found


Groups = Annotated[list[str] | None, typer.Option("--group", help=f"Pairs: {', '.join(GROUPS)}. Repeat for several.")]
Methods = Annotated[list[str] | None, typer.Option("--method", help=f"{', '.join(METHODS)}. Repeat for several.")]
