"""`hyperreg worker`: what ssh starts on a computer that computes for another one."""

from __future__ import annotations

import sys

from hyperreg.cli.console import guarded
from hyperreg.errors import InputError


@guarded
def command() -> None:
    """Compute for HyperReg on another computer. Not for use by hand: it is started there, through ssh.

    In the module or the app, give this computer's address under "Compute on"; or: hyperreg view --compute-on USER@HOST
    """
    if sys.stdin.isatty():
        raise InputError("This is started by HyperReg on another computer, through ssh; see the user guide.")
    from hyperreg.worker.ssh.far import main

    main()
