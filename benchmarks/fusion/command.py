"""`python -m benchmarks fusion`: register, learn, fuse, measure, report; goes on where it was stopped."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import torch
import typer

from benchmarks.fusion.experiments import all_jobs, needed, open_jobs, run_jobs
from benchmarks.fusion.published import take_over
from benchmarks.fusion.registered import SUBJECTS, TARGETS, register_all
from benchmarks.fusion.report import consensus_table, groups_of, learning_table, overview, speed_table, write_report
from benchmarks.readme import BENCHMARKS, replace_section
from hyperreg.errors import HyperRegError

OUTPUT = Path("build/benchmarks/fusion")
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "fusion"
STEPS = 160


def command(
    target: Annotated[
        list[str] | None, typer.Option("--target", help=f"Of {', '.join(SUBJECTS)}; by default {', '.join(TARGETS)}.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Of the trainings of volumes.")] = STEPS,
    threads: int = 2,
    output: Annotated[Path, typer.Option(help="Folder of registrations and results; what is there is kept.")] = OUTPUT,
    again: Annotated[bool, typer.Option("--again", help="Repeat what ended in an error.")] = False,
    only_report: Annotated[bool, typer.Option("--only-report", help="Run nothing; tables and figures anew.")] = False,
    resume_published: Annotated[
        bool,
        typer.Option("--resume-published", help="Take over the rows that are in docs/, but errors and speed, first."),
    ] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Also copy the results into docs/.")] = False,
    readme: Annotated[bool, typer.Option(help="Also replace the tables in docs/benchmarks.")] = False,
) -> None:
    """Label fusion by HyperReg and others on registrations of mixed quality (images: beside the repository)."""
    torch.set_num_threads(threads)
    targets = tuple(target) if target else TARGETS
    output = output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    try:
        if resume_published:
            typer.echo(f"{take_over(PUBLISHED / 'results.csv', output)} published results are taken over.", err=True)
        if not only_report:
            jobs = open_jobs(all_jobs(output, targets, steps), output, again)
            register_all(needed(jobs), output / "registered", typer.echo)
            run_jobs(jobs, output, typer.echo)
        results = write_report(output, targets)
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
    typer.echo(learning_table(results))
    for set_, name in groups_of(results):
        typer.echo(f"\n{set_}, {name}\n{consensus_table(results, set_, name)}")
    typer.echo(f"\n{speed_table(results)}")
    if readme:
        replace_section(BENCHMARKS, "fusion", overview(results))
    if publish:
        PUBLISHED.mkdir(parents=True, exist_ok=True)
        for path in (*output.glob("results.*"), *output.glob("*.png")):
            shutil.copyfile(path, PUBLISHED / path.name)
