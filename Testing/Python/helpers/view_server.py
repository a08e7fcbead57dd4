"""The app for the browser tests: the real server and scene, usually with the stand-in worker (a known field)."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ["TRAME_ARGS"] = ""
os.environ["WSLINK_READY_MSG"] = ""

from hyperreg.view.app import App, Options
from hyperreg.worker.client import WorkerClient

STAND_IN = Path(__file__).with_name("stand_in_worker.py")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fixed", type=Path)
    parser.add_argument("--moving", type=Path)
    parser.add_argument("--token", default="auto")
    parser.add_argument("--recent", type=Path)
    parser.add_argument("--upload-limit", type=int, default=1 << 24)
    parser.add_argument("--worker", type=Path, default=STAND_IN)
    parser.add_argument("--real-worker", action="store_true")
    arguments = parser.parse_args()
    client = WorkerClient() if arguments.real_worker else WorkerClient(arguments=(str(arguments.worker),))
    options = Options(
        arguments.fixed, arguments.moving, token=arguments.token, open_browser=False, recent=arguments.recent
    )
    app = App(options, client=client)
    app.files.limit = arguments.upload_limit
    app.on_ready = lambda address: print(f"ADDRESS {address}\nFILES {app.files.folder}", flush=True)
    app.run()


if __name__ == "__main__":
    sys.exit(main())
