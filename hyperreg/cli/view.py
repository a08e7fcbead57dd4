"""`hyperreg view`: the live slider in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hyperreg.cli import options
from hyperreg.cli.console import guarded, held_back

EXAMPLES = """Examples:

hyperreg view

hyperreg view fixed.nii.gz moving.nii.gz --port 8080 --no-browser

hyperreg view --compute-on me@gpu-server

Only this computer can open the page, and only with the address that is printed (it holds a random token)."""


@guarded
def command(
    fixed: Annotated[
        Path | None, typer.Argument(metavar="[FIXED]", help="The image that stays; without images, a sample pair.")
    ] = None,
    moving: Annotated[
        Path | None, typer.Argument(metavar="[MOVING]", help="The image that is deformed onto it.")
    ] = None,
    port: Annotated[int, typer.Option("--port", "-p", min=0, max=65535, help="0 takes a free one.")] = 0,
    host: Annotated[str, typer.Option("--host", help="Address to listen at.")] = "127.0.0.1",
    token: Annotated[
        str,
        typer.Option("--token", help="Secret part of the address: auto (random), none (loopback only), or your own."),
    ] = "auto",
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    model: options.Model = None,
    device: options.DeviceChoice = options.Device.auto,
    compute_on: Annotated[
        str,
        typer.Option(
            "--compute-on",
            metavar="USER@HOST[:PROGRAM]",
            help="Compute on another computer, reached by ssh without a password; PROGRAM: hyperreg there.",
        ),
    ] = "",
) -> None:
    """Open the browser application: drag λ and watch the moving image deform. Ctrl+C ends it."""
    from hyperreg.view import import_libraries, serve

    with held_back():
        import_libraries()
    serve(
        fixed,
        moving,
        host=host,
        port=port,
        token=token,
        open_browser=browser,
        device=device.value,
        model=model,
        compute_on=compute_on,
    )
