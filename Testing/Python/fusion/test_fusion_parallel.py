"""Registrations in processes of their own: none of them outlives the process that started it, however that ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from worker_bench import is_running, semaphores_of

# Children import this file, too, so that their registrations are these.
SCRIPT = """
import os, signal, sys, time, types
gpus = types.SimpleNamespace(device_count=lambda: 0)
sys.modules["torch"] = types.SimpleNamespace(
    set_num_threads=lambda _n: None, OutOfMemoryError=MemoryError, cuda=gpus
)
from hyperreg.errors import Cancelled
from hyperreg.fusion import parallel
from hyperreg.fusion.registering import Registered, Task

def register(task, progress, cancelled):
    progress(0.5, str(os.getpid()))
    if task.name != "quick":
        time.sleep(120)
    return Registered(None, None, {"similarity": 1.0})

parallel.register_atlas = register

if __name__ == "__main__":
    how = sys.argv[1]
    names = ["quick"] * 3 if how == "done" else ["slow"] * 2
    pids = set()
    def tell(name, fraction, text):
        pids.add(text)
        if len(pids) == 2 and how != "done":
            print("running", *pids, flush=True)
    if how == "done":
        print("running", flush=True)
    tasks = [Task(name + str(n) if name == "slow" else name, None, None, "", 0.5) for n, name in enumerate(names)]
    try:
        for task, result in parallel.registrations(tasks, 2, tell, lambda: how == "cancel" and len(pids) == 2):
            print("done", task.name, flush=True)
    except Cancelled:
        print("cancelled", flush=True)
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


@contextmanager
def running(tmp_path: Path, how: str) -> Iterator[tuple[subprocess.Popen[str], list[int], list[Path]]]:
    """The script, once its children run; their process ids; its semaphores."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(script), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert process.stdout is not None
    try:
        children = [int(word) for word in process.stdout.readline().split()[1:]]
        yield process, children, semaphores_of(process.pid)
    finally:
        for pid in (process.pid, *children):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.communicate()


def wait_until_gone(pids: list[int], files: list[Path]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end and (any(map(is_running, pids)) or any(file.exists() for file in files)):
        time.sleep(0.05)
    assert not any(map(is_running, pids))
    assert [file for file in files if file.exists()] == []


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_children_and_semaphores_of_a_killed_parent_go(tmp_path: Path, number: signal.Signals) -> None:
    with running(tmp_path, "wait") as (process, children, semaphores):
        assert len(children) == 2
        assert all(map(is_running, children))
        assert len(semaphores) > 2
        process.send_signal(number)
        process.wait(60)
        wait_until_gone(children, semaphores)


def test_a_cancellation_does_not_wait_for_children_that_do_not_listen(tmp_path: Path) -> None:
    with running(tmp_path, "cancel") as (process, children, semaphores):
        output, errors = process.communicate(timeout=60)
        assert output.split() == ["cancelled"]
        assert errors == ""
        wait_until_gone(children, semaphores)


def test_an_interrupt_of_the_whole_terminal_reaches_the_parent_alone(tmp_path: Path) -> None:
    """Ctrl+C goes to every process of the group; a child that died of it would print a traceback."""
    with running(tmp_path, "wait") as (process, children, semaphores):
        os.killpg(process.pid, signal.SIGINT)
        output, errors = process.communicate(timeout=60)
        assert "interrupted" in output
        assert errors == ""
        wait_until_gone(children, semaphores)


def test_what_is_done_comes_out(tmp_path: Path) -> None:
    with running(tmp_path, "done") as (process, children, _semaphores):
        output, errors = process.communicate(timeout=60)
        assert children == []
        assert output.count("done quick") == 3
        assert errors == ""
