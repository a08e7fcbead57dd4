"""Devices of this machine, asked in the worker (torch is only imported here, and only when asked)."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from hyperreg.errors import WorkerError


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


def main_memory() -> tuple[int | None, int | None]:
    """(free, total) main memory in bytes; free is what programs can still take. (None, None) where unknown."""
    try:
        import psutil
    except ImportError:
        return _linux_memory()
    memory = psutil.virtual_memory()
    return int(memory.available), int(memory.total)


def _linux_memory() -> tuple[int | None, int | None]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None, None
    kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines if len(line.split()) > 1}
    return kilobytes["MemAvailable"] * 1024, kilobytes["MemTotal"] * 1024


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the main memory or the graphics memory did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    # torch has no class for this one.
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def is_device_failure(error: BaseException) -> bool:
    """Whether the error left the graphics card unusable for this process (an illegal access, a lost device...)."""
    accelerator_error = getattr(sys.modules.get("torch"), "AcceleratorError", None)  # since torch 2.8
    return accelerator_error is not None and isinstance(error, accelerator_error) and not is_out_of_memory(error)
