"""Runs the program on an image as a user does, and compares what it wrote with a reference."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.segmentation.measures import hausdorff95

ROOT = Path(__file__).resolve().parents[2]
THREAD_VARIABLES = ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS")

Labels = npt.NDArray[np.integer]


@dataclass(frozen=True)
class Cost:
    """Of a whole process, imports and files included: user and system time, wall time, largest memory."""

    cpu_s: float
    wall_s: float
    peak_gb: float


def segment(images: Sequence[str], model: str, out: Path, threads: int) -> Cost:
    """`hyperreg segment` in a process of its own. Raises RuntimeError with its last words if it fails."""
    environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "hyperreg.cli", "segment", *images, "-m", model, "-o", str(out), "--quiet"]
    log = out.with_suffix(".log")
    started = time.perf_counter()
    with log.open("wb") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        _, status, used = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"hyperreg segment failed: {log.read_text(encoding='utf-8', errors='replace')[-500:]}")
    return Cost(used.ru_utime + used.ru_stime, wall, _gigabytes(used))


def agreement(
    found: Labels, truth: Labels, structures: Iterable[tuple[int, str]], spacing: Sequence[float]
) -> dict[str, dict[str, float]]:
    """Dice and HD95 (mm) per structure; one that neither map has is left out."""
    rows = {}
    for label, name in structures:
        one, two = found == label, truth == label
        both = int(one.sum()) + int(two.sum())
        if both:
            dice = 2 * int((one & two).sum()) / both
            # Distances are needed at the surfaces alone: a box around both is enough.
            corners = np.argwhere(one | two)
            box = tuple(slice(low, high + 1) for low, high in zip(corners.min(0), corners.max(0), strict=True))
            rows[name] = {"dice": dice, "hd95_mm": hausdorff95(one[box], two[box], spacing)}
    return rows


def _gigabytes(used: resource.struct_rusage) -> float:
    # Kilobytes on Linux, bytes on a Mac.
    return float(used.ru_maxrss) / (1e9 if sys.platform == "darwin" else 1e9 / 1024)
