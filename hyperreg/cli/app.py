"""The program `hyperreg`: its commands and the options that belong to all of them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

import hyperreg
from hyperreg.cli import (
    cohort,
    dicom,
    doctor,
    fuse,
    models,
    register,
    search,
    segment,
    sweep,
    template,
    train,
    view,
    worker,
)
from hyperreg.cli.console import DEBUG_VARIABLE, EXIT_CODES, output

app = typer.Typer(
    name="hyperreg",
    help="Deformable registration of medical images, with λ chosen after training: 0 = most flexible, 1 = most rigid; "
    "and segmentation. For research; not for diagnosis.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.print(f"hyperreg {hyperreg.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors. May stand anywhere.")] = False,
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    if debug:
        os.environ[DEBUG_VARIABLE] = "1"


app.command("register", epilog=register.EXAMPLES)(register.command)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.command)
app.command("segment", epilog=segment.EXAMPLES)(segment.command)
app.command("fuse", epilog=fuse.EXAMPLES, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(
    fuse.command
)
app.command("cohort", epilog=cohort.EXAMPLES)(cohort.command)
app.command("template", epilog=template.EXAMPLES)(template.command)
app.command("models", epilog=models.EXAMPLES)(models.command)
app.command("dicom", epilog=dicom.EXAMPLES)(dicom.command)
app.command("doctor")(doctor.command)
app.command("view", epilog=view.EXAMPLES)(view.command)
app.command("worker")(worker.command)
app.add_typer(train.app, name="train")
app.command("search", epilog=search.EXAMPLES)(search.command)
