"""`python -m benchmarks automl`: trials, what the predictor is worth, curves of equal compute, the network found."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from benchmarks.automl.campaign import Campaign, Scale, prepare
from benchmarks.automl.longer import measure_long
from benchmarks.automl.report import write
from benchmarks.automl.subjects import SUBJECTS
from hyperreg.errors import HyperRegError

OUTPUT = Path("build/benchmarks/automl")
PUBLISHED = Path(__file__).resolve().parents[2] / "docs" / "benchmarks" / "automl"


def command(
    task: Annotated[Literal["brains", "head-neck"], typer.Option(help="What is to be segmented.")] = "brains",
    output: Annotated[Path, typer.Option(help="Folder of the trials; what is there is kept.")] = OUTPUT,
    minutes: Annotated[float, typer.Option(help="Time for trials; a later call goes on.", min=0)] = 240,
    random: Annotated[int, typer.Option(help="Random configurations.", min=12)] = Scale.random,
    steps: Annotated[int, typer.Option(help="Training steps of every trial.", min=2)] = Scale.steps,
    long_steps: Annotated[int, typer.Option(help="Steps of the longer training at the end.", min=2)] = Scale.long_steps,
    low_priority: Annotated[bool, typer.Option("--low-priority", help="Leave the CPU to everything else.")] = False,
    only_report: Annotated[bool, typer.Option("--only-report", help="Run nothing; tables and plots anew.")] = False,
    publish: Annotated[bool, typer.Option("--publish", help="Write tables and plots into docs/.")] = False,
) -> None:
    """T-AutoML's search against random search, TPE + ASHA and the default SegResNet, on real images."""
    if low_priority:
        os.nice(10)
    torch.set_num_threads(1)
    # The data list that is written there names its files by their whole paths.
    output, subjects = output.resolve() / task, SUBJECTS[task]
    scale = Scale(steps=steps, early_steps=max(1, steps // 3), random=random, long_steps=long_steps)
    try:
        if not only_report:
            data = prepare(output, subjects, scale.trial)
            deadline = time.monotonic() + 60 * minutes
            campaign = Campaign(output, scale, data, deadline, lambda text: typer.echo(text, err=True))
            complete = campaign.random_and_repeats() and campaign.guided() and campaign.default()
            if complete:
                measure_long(campaign, output)
                campaign.tpe()
        typer.echo(write(output, PUBLISHED / task if publish else output, scale, subjects))
    except HyperRegError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(1) from error
