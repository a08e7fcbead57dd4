"""The command `hyperreg`. Nothing heavy is imported until a command needs it, so `hyperreg --help` answers at once."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

DEBUG_OPTION = "--debug"
# As `hyperreg.cli.console.ExitCode` has it, which may not be there yet.
CANCELLED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; ends the process with one of the exit codes of `hyperreg.cli.console.ExitCode`."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    # The option belongs to the whole program, but people add it at the end of the line that failed.
    if DEBUG_OPTION in given:
        given = [DEBUG_OPTION, *(word for word in given if word != DEBUG_OPTION)]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # Windows' code pages have no λ, and names of files may be no text at all: telling a result must not fail.
            stream.reconfigure(errors="replace")
    try:
        from hyperreg.cli.app import app

        app(args=given, prog_name="hyperreg")
    except KeyboardInterrupt:  # while a command is still being loaded
        sys.exit(CANCELLED)
