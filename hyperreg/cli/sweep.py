"""`hyperreg sweep`: the metrics of a pair over lambda."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from hyperreg.cli import options
from hyperreg.cli.console import cancel_on_interrupt, guarded, output, progress_bar, warn
from hyperreg.errors import InputError

EXAMPLES = """Example:

hyperreg sweep fixed.nii.gz moving.nii.gz --fixed-labels fl.nii.gz --moving-labels ml.nii.gz --out sweep.csv
--plot sweep.png"""


@guarded
def command(
    fixed: options.Fixed,
    moving: options.Moving,
    lambdas: Annotated[
        str | None,
        typer.Option(
            "--lambdas",
            metavar="0,0.1,...",
            help="The λ values, separated by commas.",
            show_default="twelve values, denser near 0",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Table (.csv), a row per λ.")] = None,
    plot: Annotated[Path | None, typer.Option("--plot", "-p", help="Plot over λ (.png, .pdf, .svg).")] = None,
    moving_labels: options.MovingLabels = None,
    fixed_labels: options.FixedLabels = None,
    fixed_points: options.FixedPoints = None,
    moving_points: options.MovingPoints = None,
    initial: options.Initial = "affine",
    model: options.Model = None,
    gamma: options.Gamma = None,
    device: options.DeviceChoice = options.Device.auto,
    quiet: options.Quiet = False,
) -> None:
    """Measure similarity, folding, displacement, Dice and landmarks over λ, to choose λ for a kind of images."""
    values = _numbers(lambdas) if lambdas is not None else None
    from hyperreg.registration.pairs import Pair
    from hyperreg.registration.response import RESPONSE_LAMBDAS
    from hyperreg.registration.sweep import sweep

    pair = Pair(
        fixed, moving, fixed_labels, moving_labels, initial, model, device.value, options.chosen(gamma),
        fixed_points=fixed_points, moving_points=moving_points,
    )  # fmt: skip
    with cancel_on_interrupt() as cancelled, progress_bar(quiet) as progress:
        found = sweep(pair, RESPONSE_LAMBDAS if values is None else values, out, plot, progress, cancelled)
    warn(found.warnings)
    if quiet:
        return
    response = found.response
    shown = [name for name in response.columns if not name.startswith("dice_") or name.startswith("dice_mean")]
    table = Table(*(name.replace("_", " ") for name in shown))
    for row in response.rows:
        table.add_row(*(f"{row[name]:.4g}" for name in shown))
    output.print(table)
    output.print(f"Suggested: λ = {found.suggestion.lam:g}. {found.suggestion.reason}", markup=False)


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise InputError(f"'{text}' is not a list of numbers; write for example --lambdas 0,0.1,0.5,1") from error
