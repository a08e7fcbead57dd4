"""What this machine offers: memory, and the device to compute on. torch is only imported where it is asked about."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from hyperreg.errors import InputError


def choose_device(wanted: str) -> str:
    """ "auto", "cpu" or "cuda" to a device there is. Raises InputError for a GPU that is not there."""
    import torch

    if wanted == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cpu" or (wanted == "cuda" and torch.cuda.is_available()):
        return wanted
    if wanted == "cuda":
        raise InputError("PyTorch finds no NVIDIA GPU here. Choose the device 'auto' or 'cpu'.")
    raise InputError(f"Unknown device '{wanted}'. Choose auto, cpu or cuda.")


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls the GPUs that this process may use; none where torch was not imported."""
    torch = sys.modules.get("torch")
    count = torch.cuda.device_count() if torch is not None else 0
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (names.split(",") if names else [str(number) for number in range(count)])[:count]


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


# What libraries say that have no class for it: torch's allocator, C++, the loader of libraries, Python's threads.
_NO_MEMORY = (
    "DefaultCPUAllocator", "bad_alloc", "annot allocate memory", "failed to map segment", "can't start new thread",
    "Failed to create thread",
)  # fmt: skip
# Says "cannot allocate memory", too, but means a reserve of the C library that is fixed at its start.
_NOT_MEMORY = "static TLS"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error means that the main memory or the graphics memory did not suffice."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    if not isinstance(error, RuntimeError | OSError | ImportError | SystemError):
        return False
    text = str(error)
    if any(words in text for words in _NO_MEMORY) and _NOT_MEMORY not in text:
        return True
    # Packages wrap what kept their libraries from loading.
    return isinstance(error, ImportError) and error.__cause__ is not None and is_out_of_memory(error.__cause__)
