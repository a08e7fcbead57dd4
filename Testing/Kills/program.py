"""HyperReg with registrations that take a second and need no torch: what is killed is all the rest, which is real.

As a script: `hyperreg` with the arguments that follow; or, after the word "worker", the worker process; or, after
"application", an application that has a worker fuse (TARGET, ATLASES, CACHE). Children import this file, too.
"""

from __future__ import annotations

import os
import sys
import time
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[2]
REAL = "HYPERREG_KILLS_REAL"

if TYPE_CHECKING:
    from hyperreg.fusion.registering import Registered, Task


def register(task: Task, progress: Any = None, cancelled: Any = None) -> Registered:
    """The identity, after a second of steps."""
    import numpy as np

    from hyperreg.errors import Cancelled
    from hyperreg.fusion.registering import FIGURES, Registered

    for step in range(20):
        if cancelled is not None and cancelled():
            raise Cancelled("Registration cancelled.")
        if progress is not None:
            progress(step / 20, "Aligning")
        time.sleep(0.05)
    figures = dict.fromkeys(FIGURES, 0.0) | {"similarity": 0.8, "similarity_before": 0.8}
    return Registered(np.eye(4), None, figures)


def replace_registration() -> None:
    """In this process. torch is not needed then by the children, whose only use of it is to set threads."""
    if os.environ.get(REAL):
        return
    from hyperreg.fusion import parallel

    parallel.register_atlas = register
    if __name__ == "__mp_main__":
        sys.modules["torch"] = types.SimpleNamespace(set_num_threads=lambda _n: None)  # type: ignore[assignment]


def application(target: str, atlases: str, cache: str) -> int:
    """What a module or the browser app does: a client, polled; 1 if the worker failed."""
    from hyperreg.imaging.files import read_volume
    from hyperreg.worker.client import WorkerClient
    from hyperreg.worker.fusion import RemoteFuser

    client = WorkerClient(arguments=[__file__, "worker"])
    fuser = RemoteFuser(client)
    ended: list[Any] = []
    fuser.on_done = ended.append
    fuser.on_error = ended.append
    fuser.fuse_atlases(read_volume(target), atlases, model="tiny-untrained", cache=cache)
    try:
        while not ended:
            client.poll()
            time.sleep(0.01)
    except KeyboardInterrupt:
        return 130
    finally:
        client.stop()
    if isinstance(ended[0], str):
        print(ended[0], file=sys.stderr)
    return int(isinstance(ended[0], str))


def main() -> int:
    """The exit code."""
    replace_registration()
    if sys.argv[1:2] == ["worker"]:
        from hyperreg.worker import server
        from hyperreg.worker.operations import standard_operations

        server.main(standard_operations())
    elif sys.argv[1:2] == ["application"]:
        return application(*sys.argv[2:])
    else:
        from hyperreg import cli

        cli.main(sys.argv[1:])
    return 0


if __name__ == "__mp_main__":
    replace_registration()
if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
