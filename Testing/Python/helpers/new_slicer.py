"""A Slicer in which nothing is installed yet of what the modules need besides it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
# Opens the panel of the module whose file is named, and prints what is missing; what a test adds goes on with
# `host`, `module`, `ui` and the rest of the command line.
NOTHING_INSTALLED = """
import sys
from importlib.machinery import PathFinder
from pathlib import Path


class NewSlicer(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        missing = name.partition(".")[0] in ("torch", "safetensors", "monai", "nibabel")
        return None if missing else super().find_spec(name, path, target)


sys.meta_path[:] = [NewSlicer if finder is PathFinder else finder for finder in sys.meta_path]
from Testing.Host.host import start

host = start((5, 12))
module = host.load(Path(sys.argv[1]))
host.start_up()
ui = host.widget(module.name).ui
assert ui.installButton.enabled
assert host.exceptions == [], host.exceptions
print(ui.installLabel.text)
"""


def without_packages(name: str, folder: Path, program: str, *arguments: str) -> str:
    """What a program prints that opens a module where the packages cannot be imported, as in a Slicer that is new."""
    script = folder / "open_panel.py"
    script.write_text(program, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(REPOSITORY / name / f"{name}.py"), *arguments],
        capture_output=True, text=True, timeout=300, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout.strip()
