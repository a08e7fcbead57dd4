"""Registrations in processes of their own: none of them outlives the process that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

from hyperreg.fusion import parallel


def _child(stop: Any, told: Any) -> None:
    parallel._parent.update(stop=stop)
    told.put(parallel._over())
    while not parallel._over():
        time.sleep(0.01)


def _parent(stop: Any, told: Any) -> None:
    context = multiprocessing.get_context("spawn")
    child = context.Process(target=_child, args=(stop, told))
    child.start()
    told.put(child.pid)
    child.join()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Killed and not waited for by anybody is not running.
    return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()[0] != "Z"


def test_a_child_whose_parent_was_killed_ends() -> None:
    context = multiprocessing.get_context("spawn")
    stop, told = context.Event(), context.Queue()
    parent = context.Process(target=_parent, args=(stop, told))
    parent.start()
    pid = told.get(timeout=60)
    assert told.get(timeout=60) is False
    assert _is_running(pid)
    os.kill(parent.pid, signal.SIGKILL)
    parent.join()
    end = time.monotonic() + 60
    while _is_running(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _is_running(pid)
    told.close()
