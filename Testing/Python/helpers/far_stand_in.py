"""Stands in for the program `ssh` (see `test_worker_ssh`): what ssh would start on the other computer, with the worker
of `stand_in_worker.py`. The host's name says how the other computer behaves.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import hyperreg
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.ssh import far

STAND_IN = Path(__file__).with_name("stand_in_worker.py")


def main(arguments: list[str]) -> None:
    options, (host, program) = arguments[: arguments.index("--")], arguments[arguments.index("--") + 1 :]
    assert "BatchMode=yes" in options, "else it asks for a password, which nobody would see"
    if host == "locked":
        print("me@locked: Permission denied (publickey).", file=sys.stderr)
        sys.exit(255)
    if not program.startswith("hyperreg "):
        print(f"bash: line 1: {program.split()[0]}: No such file or directory", file=sys.stderr)
        sys.exit(127)
    if host == "older":
        vars(hyperreg)["__version__"] = "0.0.1"
    if host == "chatty":
        print("Welcome to this computer!\nYou have 3 new messages.", flush=True)
    if host == "mute":
        sys.exit(0)
    if host == "deaf":
        print(f"HyperReg worker {hyperreg.__version__}", flush=True)
        time.sleep(600)
    print(f"far end {os.getpid()}", file=sys.stderr, flush=True)
    far.main(WorkerClient(arguments=[str(STAND_IN)]))


if __name__ == "__main__":
    main(sys.argv[1:])
