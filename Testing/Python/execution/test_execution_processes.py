"""Tasks in processes of their own: one that dies costs itself, not the others."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, time, types
gpus = types.SimpleNamespace(device_count=lambda: int(os.environ.get("GPUS", "0")))
sys.modules["torch"] = types.SimpleNamespace(
    set_num_threads=lambda _n: None, OutOfMemoryError=MemoryError, cuda=gpus
)
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
    if task.name.startswith("gpu"):
        time.sleep(0.5)  # so that no process does two
        return "sees GPU " + os.environ.get("CUDA_VISIBLE_DEVICES", "-")
    return os.getpid()

def tasks():
    for name in sys.argv[2:]:
        if "last" in names:
            return
        names.append(name)
        yield Task(name)

names = []
if __name__ == "__main__":
    for task, result in processes.results(work, tasks(), int(sys.argv[1]), lambda *_told: None):
        here = "here" if result == os.getpid() else "there"
        told = here if isinstance(result, int) else type(result).__name__
        print(task.name, result if isinstance(result, str) else told, flush=True)
"""


def outcomes(tmp_path: Path, jobs: int, *names: str, **environment: str) -> list[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.run(
        [sys.executable, str(script), str(jobs), *names], capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), **environment},
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    return sorted(process.stdout.splitlines())


def test_one_at_a_time_stays_here_and_an_error_is_a_result(tmp_path: Path) -> None:
    assert outcomes(tmp_path, 1, "a", "wrong", "b") == ["a here", "b here", "wrong InputError"]


@pytest.mark.parametrize("jobs", [2, 3])
def test_a_process_that_dies_fails_its_task_alone(tmp_path: Path, jobs: int) -> None:
    found = outcomes(tmp_path, jobs, "a", "b", "dies", "c", "wrong", "d")
    assert found == ["a there", "b there", "c there", "d there", "dies OutOfMemory", "wrong InputError"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_tasks_are_taken_when_their_turn_comes(tmp_path: Path, jobs: int) -> None:
    """A series that ends by what was done meanwhile; one task of several jobs needs no process."""
    found = outcomes(tmp_path, jobs, "a", "last", "never", "asked")
    assert found == [f"{name} {'here' if jobs == 1 else 'there'}" for name in ("a", "last")]
    assert outcomes(tmp_path, jobs, "last", "never") == ["last here"]


def test_each_process_sees_one_gpu_of_those_that_its_parent_may_use(tmp_path: Path) -> None:
    found = outcomes(tmp_path, 2, "gpu-a", "gpu-b", GPUS="2", CUDA_VISIBLE_DEVICES="3,5")
    assert sorted(line.split()[-1] for line in found) == ["3", "5"]
    found = outcomes(tmp_path, 2, "gpu-a", "gpu-b", GPUS="1", CUDA_VISIBLE_DEVICES="")
    assert found == ["gpu-a sees GPU 0", "gpu-b sees GPU 0"]
