"""Tasks in processes of their own: one that dies costs itself, not the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, types
sys.modules["torch"] = types.SimpleNamespace(set_num_threads=lambda _n: None, OutOfMemoryError=MemoryError)
from dataclasses import dataclass
from hyperreg.execution import processes
from hyperreg.errors import InputError

@dataclass(frozen=True)
class Task:
    name: str

def work(task, progress, cancelled):
    if task.name == "dies":
        os._exit(9)
    if task.name == "wrong":
        raise InputError("not this one")
    return os.getpid()

if __name__ == "__main__":
    tasks = [Task(name) for name in sys.argv[2:]]
    for task, result in processes.results(work, tasks, int(sys.argv[1]), lambda *_told: None):
        here = "here" if result == os.getpid() else "there"
        print(task.name, here if isinstance(result, int) else type(result).__name__, flush=True)
"""


def outcomes(tmp_path: Path, jobs: int, *names: str) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, str(script), str(jobs), *names], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return sorted(process.stdout.splitlines())


def test_one_at_a_time_stays_here_and_an_error_is_a_result(tmp_path: Path) -> None:
    assert outcomes(tmp_path, 1, "a", "wrong", "b") == ["a here", "b here", "wrong InputError"]


@pytest.mark.parametrize("jobs", [2, 3])
def test_a_process_that_dies_fails_its_task_alone(tmp_path: Path, jobs: int) -> None:
    found = outcomes(tmp_path, jobs, "a", "b", "dies", "c", "wrong", "d")
    assert found == ["a there", "b there", "c there", "d there", "dies OutOfMemory", "wrong InputError"]
