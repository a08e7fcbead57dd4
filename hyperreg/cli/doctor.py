"""`hyperreg doctor`: is everything there, and does it work?"""

from __future__ import annotations

import typer

from hyperreg.cli.console import ExitCode, guarded, output


@guarded
def command() -> None:
    """Say what is installed, which device there is, how much memory is free, and whether the models are intact.

    The text can be copied into a report of a fault. Ends with 7 if something that HyperReg needs is missing or damaged.
    """
    from hyperreg.doctor import diagnose

    diagnosis = diagnose()
    output.print(str(diagnosis), markup=False)
    if diagnosis.faults:
        raise typer.Exit(ExitCode.INSTALLATION)
