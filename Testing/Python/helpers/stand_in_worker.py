"""A worker with more operations than the real one: tests run it in the place of `python -m hyperreg.worker`.

Its sessions have no network: the field is known in closed form, and the model's name says how they behave.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.errors import Cancelled, InputError, WeightsError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.constraints import MAPS, Constraints
from hyperreg.registration.stages import Stage
from hyperreg.worker.operations import standard_operations
from hyperreg.worker.server import Context, main

# Behaviours that the model's name chooses, and what they do.
SLOW_FIELD_S = 0.25
DEADLY_LAMBDA = 0.666
FULL_STEPS = 20
# A model that is there as long as the file is whose path follows.
FILE = "file:"
FULL_STEP_S = 0.01
SLOW_STEPS = 4
REFUSED_LABEL = 99
# What the draft and full resolution make of the quick field.
DRAFT_BY, FULL_BY = 0.8, 0.5
STAGES = (
    Stage("draft", "First draft", 4.0),
    Stage("quick", "Quick result", 2.0),
    Stage("full", "Full resolution", 1.0),
)
DEFAULT_GAMMA = 0.25


def true_field(grid: Grid, lam: float) -> np.ndarray:
    """(3, I, J, K) float32, mm: a smooth shape, at most 8 mm, that fades as lambda rises and bends with it."""
    waves = np.sin(np.indices(grid.shape, dtype=np.float64) / 5)
    return (8 * (1 - lam) ** 3 * waves).astype(np.float32)


def set_field(grid: Grid, lam: float, gamma: float = 0.0, labels: Volume | None = None, lambdas: Any = None):
    """`true_field` with the other settings: γ makes it larger; regions have a λ of their own (a sharp edge here)."""
    field = true_field(grid, lam) * (1 + gamma)
    if labels is not None:
        ijk = np.rint(labels.grid.to_ijk(grid.points())).astype(int)
        inside = ((ijk >= 0) & (ijk < labels.shape)).all(-1)
        values = np.zeros(grid.shape, dtype=int)
        values[inside] = labels.array[tuple(ijk[inside].T)]
        for label, own in lambdas.items():
            field[:, values == label] = true_field(grid, own)[:, values == label] * (1 + gamma)
    return field.astype(np.float32)


class StandInSession:
    def __init__(self, model: str, device: str) -> None:
        if model.startswith(FILE) and not Path(model.removeprefix(FILE)).exists():
            raise WeightsError(f"There is no model '{model}'.")
        self.values: dict[str, float] = {"gamma": DEFAULT_GAMMA} if model.startswith("gamma") else {}
        self.constraints = Constraints()
        self.maps_sent = 0
        self.behaviour = model
        self.device = "cuda" if device in ("auto", "cuda") and model.startswith("gpu") else "cpu"
        self.warnings: list[str] = []
        self.timing = {"load": 0.001}
        self.fields = 0
        self.contrast_note = ""
        self.stages = STAGES

    def prepare(self, fixed: Volume, moving: Volume, **options: Any) -> None:
        if self.behaviour == "gpu-full-at-once" and self.device == "cuda":
            self._fill_gpu()
        if self.behaviour == "deaf-to-prepare":
            time.sleep(60)
        if self.behaviour == "slow-to-prepare":
            for step in range(200):
                time.sleep(0.05)
                options["progress"](step / 200, "Aligning")
                if options["cancelled"]():
                    raise Cancelled("Cancelled.")
        if np.ptp(fixed.array) == 0:
            raise InputError(f"'{fixed.name}' is empty: every voxel has the same value.")
        self._dawdle(options["cancelled"])
        options["progress"](0.5, "Aligning")
        self.grid = Grid(tuple(max(1, n // 2) for n in fixed.shape), fixed.ijk_to_ras @ np.diag([2, 2, 2, 1.0]))
        self.contrast_note = f"Told: {options['contrast']}." if options["contrast"] != "auto" else ""
        if options["symmetric"]:
            self.contrast_note = "Symmetric."
        initial = options["initial"]
        if isinstance(initial, Transform):  # says where it leads the origin to
            self.contrast_note = f"Start: {np.round(initial.apply([[0.0, 0.0, 0.0]])[0], 3).tolist()}."
            initial = initial.linear
        self.linear = np.eye(4) if isinstance(initial, str) else np.array(initial)
        if isinstance(initial, str):
            self.linear[:3, 3] = float(moving.array.mean()), 0, os.getpid() % 7 + 1
        self.labels = options["fixed_labels"] is not None and options["moving_labels"] is not None

    def field(self, lam: float, stage: int, *, beside: Any = (), progress: Any = None, cancelled: Any = None) -> Fields:
        self._dawdle(cancelled)
        if stage == len(STAGES) - 1:
            return self._full(lam, progress, cancelled)
        self.fields += stage
        if self.behaviour == "slow" and stage > 0:
            time.sleep(SLOW_FIELD_S)
        if self.behaviour == "deadly" and abs(lam - DEADLY_LAMBDA) < 1e-9:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "gpu-full-later" and self.device == "cuda":
            self._fill_gpu()
        if self.behaviour == "gpu-broken" and self.device == "cuda":
            import torch

            raise torch.AcceleratorError("an illegal memory access was encountered")
        return self._made(lam, DRAFT_BY if stage == 0 else 1.0)

    def _dawdle(self, cancelled: Any) -> None:
        """Long enough to be met in whatever it does."""
        for _ in range(SLOW_STEPS if self.behaviour == "slow-everywhere" else 0):
            time.sleep(FULL_STEP_S)
            if cancelled():
                raise Cancelled("Cancelled.")

    def _made(self, lam: float, by: float) -> Fields:
        given = self.constraints
        array = by * set_field(self.grid, lam, self.values.get("gamma", 0.0), given.regions, given.region_lambdas)
        if given.fixed_mask is not None:  # a mask changes the field in proportion to what counts
            array = array * float((given.fixed_mask.array != 0).mean())
        if given.landmarks is not None:
            array = array + given.landmarks.pull
        if given.rigid is not None:
            array = array - sum(given.rigid_values)
        return Fields(*(DisplacementField(sign * array, self.grid.ijk_to_ras) for sign in (1, -1)))

    def _full(self, lam: float, progress: Any, cancelled: Any) -> Fields:
        if self.behaviour == "dies-at-full":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behaviour == "short-of-memory-at-full":
            raise MemoryError
        if self.behaviour == "fails-at-full":
            raise InputError("There is nothing to see at full resolution.")
        steps = 60_000 if self.behaviour in ("slow-at-full", "deaf") else FULL_STEPS
        for step in range(steps):
            time.sleep(FULL_STEP_S)
            progress(min(1.0, step / FULL_STEPS), STAGES[-1].text)
            if cancelled() and self.behaviour != "deaf":
                raise Cancelled("Cancelled.")
        return self._made(lam, FULL_BY)

    def choose(self, values: Mapping[str, float]) -> None:
        for name in values:
            if name not in self.values:
                raise InputError(f"The model has no hyperparameter '{name}'.")
        if values.get("gamma") == DEADLY_LAMBDA:
            raise InputError("This γ is refused.")
        self.values = {**self.values, **values}

    def constrain(self, constraints: Constraints) -> None:
        if constraints.fixed_mask is not None and not constraints.fixed_mask.array.any():
            raise InputError("The mask of the fixed image is 0 everywhere.")
        if constraints.landmarks is not None and constraints.landmarks.pull == DEADLY_LAMBDA:
            raise InputError("This pull is refused.")
        if REFUSED_LABEL in constraints.rigid_values:
            raise InputError(f"Region {REFUSED_LABEL} is too small.")
        if self.behaviour == "dies-of-rigid" and constraints.rigid is not None:
            os.kill(os.getpid(), signal.SIGKILL)
        self._dawdle(lambda: False)
        self.maps_sent += sum(
            getattr(constraints, name) is not None and getattr(constraints, name) is not getattr(self.constraints, name)
            for name in MAPS
        )
        self.constraints = constraints

    def metrics(self, lam: float, stage: int) -> dict[str, Any]:
        self._dawdle(lambda: False)
        found: dict[str, Any] = {
            "similarity": np.float32(1 - lam),
            "similarity_before": 0.2,
            "folding_percent": 0.5 * (1 - lam) ** 4,
            "displacement_max_mm": 8 * (1 - lam) ** 3,
            "displacement_mean_mm": 4 * (1 - lam) ** 3,
            "roughness": 0.1 * (1 - lam),
            "volume_change_low_percent": -20 * (1 - lam),
            "volume_change_high_percent": 30 * (1 - lam),
            "smoothness": float("nan"),
            "fields": self.fields,
            "stage": stage,
            "maps_sent": self.maps_sent,
        }
        if self.labels:
            found |= {"dice": {1: 0.5, 27: lam}, "dice_before": {1: 0.4, 27: 0.1}}
            found |= {"dice_mean": 0.25 + lam / 2, "dice_mean_before": 0.25}
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


def semaphores(_context: Context) -> dict[str, Any]:
    """Has some that children could share, as parallel registrations have, and listens to nobody."""
    spawning = multiprocessing.get_context("spawn")
    held = [spawning.Lock(), spawning.Event(), spawning.Queue()]
    time.sleep(120)
    return {"held": len(held)}


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


def halfway(context: Context) -> dict[str, Any]:
    """Fills the outputs with 1, says so, and with 2 a moment later."""
    for value in (1, 2):
        for output in context.outputs.values():
            output[...] = value
        context.event("filled", {"value": value})
        time.sleep(0.5)
    return {}


EXTRA = {
    "halfway": halfway,
    "echo": echo,
    "count": count,
    "stubborn": stubborn,
    "semaphores": semaphores,
    "end": end,
    "fail": fail,
    "talk": talk,
    "environment": environment,
}

if __name__ == "__main__":
    main({**standard_operations(StandInSession), **EXTRA})
