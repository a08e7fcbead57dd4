"""One method on one pair, in a process of its own: `python -m benchmarks.registration.child FOLDER`.

FOLDER/request.json says what to do; every outcome becomes N.npz (the transform) and N.json (time, memory, notes) there.
"""

from __future__ import annotations

import importlib
import sys
from dataclasses import asdict
from pathlib import Path

from benchmarks.registration.case import Case
from benchmarks.registration.method import Method, Task, peak_gb
from benchmarks.registration.store import load_json, save_json, save_transform


def find_method(address: str) -> Method:
    """ "module:function" to the function."""
    module, name = address.split(":")
    method: Method = getattr(importlib.import_module(module), name)
    return method


def main(folder: Path) -> None:
    request = load_json(folder / "request.json")
    files = folder / "files"
    files.mkdir(exist_ok=True)
    task = Task(Case.from_json(request["case"]), request["threads"], files, request["options"])
    for number, outcome in enumerate(find_method(request["method"])(task)):
        memory = peak_gb()
        save_transform(folder / f"{number}.npz", outcome.transform)
        save_json(
            folder / f"{number}.json",
            {"name": outcome.name, **asdict(outcome.watch), "peak_gb": memory, "notes": dict(outcome.notes)},
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
