"""Devices of this machine, asked in the worker (torch is only imported here, and only when asked)."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from hyperreg.errors import WorkerError
from hyperreg.machine import is_out_of_memory, main_memory

FELL_BACK = "The graphics card has not enough memory for these images; HyperReg goes on with the CPU, which is slower."
_T = TypeVar("_T")


class DeviceError(WorkerError):
    """The graphics card failed in a way after which only a new process can use it."""


def list_devices() -> list[dict[str, Any]]:
    """What registration can run on, the CPU last.

    Each: name ("cuda": the first graphics card, or "cpu"), title (for the user), free_bytes, total_bytes (None where
    unknown).
    Raises WorkerError if PyTorch is missing.
    """
    try:
        import torch
    except ImportError as error:
        raise WorkerError(
            f"PyTorch cannot be loaded in this Python ({error}). Install it (in Slicer: the installation panel)."
        ) from error
    found: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        # A card that is taken by somebody else, or whose driver does not answer, is not usable: it is left out.
        with contextlib.suppress(RuntimeError):
            free, total = torch.cuda.mem_get_info()
            title = torch.cuda.get_device_name()
            found.append({"name": "cuda", "title": title, "free_bytes": free, "total_bytes": total})
    free_memory, total_memory = main_memory()
    title = f"CPU, {physical_cores()} cores"
    found.append({"name": "cpu", "title": title, "free_bytes": free_memory, "total_bytes": total_memory})
    return found


def physical_cores() -> int:
    """Physical cores that this process may use: hyper-threads do not help, and a container may have fewer."""
    if sys.platform != "linux":
        try:
            import psutil
        except ImportError:
            return os.cpu_count() or 1
        return psutil.cpu_count(logical=False) or os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        try:
            cores.add(siblings.read_text())
        except OSError:
            cores.add(str(cpu))
    return max(1, min(len(cores), _container_limit()))


def _container_limit() -> int:
    """CPUs that the container's quota allows (cgroup 2), rounded up; a large number without one."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return -(-int(quota) // int(period))
    except (OSError, ValueError):
        return 1 << 20


def attempt(compute: Callable[[], _T], *, on_cpu: bool) -> _T | None:
    """The result, or None if a graphics card's memory did not suffice (what it held is freed then).

    Raises DeviceError if the card failed in a way that this process does not survive, and what `compute` raises.
    """
    try:
        return compute()
    except Exception as error:
        if is_device_failure(error):
            raise DeviceError(
                f"The graphics card failed ({error}). The next request starts the HyperReg engine again; "
                "if this repeats, choose the CPU."
            ) from error
        if on_cpu or not is_out_of_memory(error):
            raise
    # Only here, after the error with its frames is gone, nothing holds the card's memory any more.
    free_memory()
    return None


def free_memory() -> None:
    """Gives back what nothing holds any more, the graphics card's too."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_device_failure(error: BaseException) -> bool:
    """Whether the error left the graphics card unusable for this process (an illegal access, a lost device...)."""
    accelerator_error = getattr(sys.modules.get("torch"), "AcceleratorError", None)  # since torch 2.8
    return accelerator_error is not None and isinstance(error, accelerator_error) and not is_out_of_memory(error)
