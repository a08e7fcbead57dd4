"""A worker with more operations than the real one: tests run it in the place of `python -m hyperreg.worker`.

Its sessions have no network: the field is known in closed form, and the model's name says how they behave.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.worker.operations import standard_operations
from hyperreg.worker.server import Context, main

# Behaviours that the model's name chooses, and what they do.
SLOW_FIELD_S = 0.25
DEADLY_LAMBDA = 0.666


def true_field(grid: Grid, lam: float) -> np.ndarray:
    """(3, I, J, K) float32, mm: a smooth shape, at most 8 mm, that fades as lambda rises and bends with it."""
    waves = np.sin(np.indices(grid.shape, dtype=np.float64) / 5)
    return (8 * (1 - lam) ** 3 * waves).astype(np.float32)


class StandInSession:
    def __init__(self, model: str, device: str) -> None:
        self.behaviour = model
        self.device = "cuda" if device in ("auto", "cuda") and model.startswith("gpu") else "cpu"
        self.warnings: list[str] = []
        self.timing = {"load": 0.001}
        self.fields = 0

    def prepare(self, fixed: Volume, moving: Volume, **options: Any) -> None:
        if self.behaviour == "gpu-full-at-once" and self.device == "cuda":
            self._fill_gpu()
        if self.behaviour == "slow-to-prepare":
            for step in range(200):
                time.sleep(0.05)
                options["progress"](step / 200, "Aligning")
                if options["cancelled"]():
                    from hyperreg.errors import Cancelled

                    raise Cancelled("Cancelled.")
        if np.ptp(fixed.array) == 0:
            raise InputError(f"'{fixed.name}' is empty: every voxel has the same value.")
        options["progress"](0.5, "Aligning")
        self.grid = Grid(tuple(max(1, n // 2) for n in fixed.shape), fixed.ijk_to_ras @ np.diag([2, 2, 2, 1.0]))
        initial = options["initial"]
        self.linear = np.eye(4) if isinstance(initial, str) else np.array(initial)
        if isinstance(initial, str):
            self.linear[:3, 3] = float(moving.array.mean()), 0, os.getpid() % 7 + 1
        self.labels = options["fixed_labels"] is not None and options["moving_labels"] is not None

    def field(self, lam: float) -> Fields:
        self.fields += 1
        if self.behaviour == "slow":
            time.sleep(SLOW_FIELD_S)
        if self.behaviour == "deadly" and abs(lam - DEADLY_LAMBDA) < 1e-9:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "gpu-full-later" and self.device == "cuda":
            self._fill_gpu()
        if self.behaviour == "gpu-broken" and self.device == "cuda":
            import torch

            raise torch.AcceleratorError("an illegal memory access was encountered")
        array = true_field(self.grid, lam)
        return Fields(*(DisplacementField(sign * array, self.grid.ijk_to_ras) for sign in (1, -1)))

    def metrics(self, lam: float) -> dict[str, Any]:
        found: dict[str, Any] = {"similarity": np.float32(1 - lam), "smoothness": float("nan"), "fields": self.fields}
        if self.labels:
            found["dice"] = {1: 0.5, 27: lam}
        return found

    def _fill_gpu(self) -> None:
        import torch

        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def echo(context: Context) -> dict[str, Any]:
    """Doubles the arrays into the outputs of the same names, gives the parameters back."""
    for name, output in context.outputs.items():
        output[...] = 2 * context.inputs[name]
    return {"parameters": dict(context.parameters), "writable": [a.flags.writeable for a in context.inputs.values()]}


def count(context: Context) -> dict[str, Any]:
    """Steps of 20 ms, with progress, that can be cancelled; leaves a line per step in a file if one is named."""
    steps = context.parameters["steps"]
    for step in range(steps):
        context.check()
        context.progress(step / steps, f"Step {step}")
        time.sleep(0.02)
    return {"steps": steps}


def stubborn(context: Context) -> dict[str, Any]:
    """Has a child, and listens to nobody."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"])
    Path(context.parameters["pid_file"]).write_text(str(child.pid))
    time.sleep(120)
    return {}


def end(context: Context) -> dict[str, Any]:
    if "signal" in context.parameters:
        os.kill(os.getpid(), context.parameters["signal"])
    os._exit(context.parameters["code"])


def fail(context: Context) -> dict[str, Any]:
    if context.parameters["how"] == "input":
        raise InputError("'head' is empty: every voxel has the same value.")
    if context.parameters["how"] == "memory":
        raise MemoryError
    if context.parameters["how"] == "not-plain":
        return {"value": object()}
    return {"value": 1 / 0}


def talk(context: Context) -> dict[str, Any]:
    for line in range(context.parameters["lines"]):
        print(f"line {line} " + "x" * 90)
    sys.stdout.flush()
    return {}


def environment(context: Context) -> dict[str, Any]:
    return {
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "command": Path("/proc/self/cmdline").read_bytes().decode(),
        "variables": dict(os.environ),
        "folder": os.getcwd(),
        "torch": "torch" in sys.modules,
    }


EXTRA = {
    "echo": echo,
    "count": count,
    "stubborn": stubborn,
    "end": end,
    "fail": fail,
    "talk": talk,
    "environment": environment,
}

if __name__ == "__main__":
    main({**standard_operations(StandInSession), **EXTRA})
