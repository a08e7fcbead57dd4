"""Time and memory of fusing ten registered atlases of a whole head at 1 mm: `python -m benchmarks.fusion.speed STORE
TASK` prints them as JSON. A process of its own, so that the memory is that of the task.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from benchmarks.fusion.registered import TARGETS, load, mixed, read_target, uniform
from benchmarks.fusion.structures import Structures, box_of, structures
from benchmarks.registration.method import cpu_seconds, peak_gb
from benchmarks.registration.runner import ROOT, THREAD_VARIABLES
from hyperreg.fusion.stack import stack_labels
from hyperreg.fusion.staple import MARGIN, staple
from hyperreg.fusion.voting import vote
from hyperreg.imaging.volume import Volume

RATERS = 10
THREADS = 2
REPEATS = 3
# Name: structures, and which of HyperReg's methods.
TASKS = {
    "vote, 138 labels": ("all", "vote"),
    "STAPLE, one label": ("hippocampus", "staple"),
    "STAPLE, 16 labels": ("subcortical", "staple"),
}


def measure(output: Path, task: str) -> dict[str, Any]:
    """Run a task in a process of its own with THREADS threads; or what it said last, as an error."""
    environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(THREADS))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "benchmarks.fusion.speed", str(output / "registered"), task]
    process = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    if process.returncode:
        raise RuntimeError((process.stderr.strip().splitlines() or ["no message"])[-1])
    result: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
    return result


def maps_of(store: Path, wanted: Structures) -> list[Volume]:
    """Ten label maps on the whole grid of one target: nine atlases, and one of them registered in another way."""
    target = read_target(TARGETS[0])
    pairs = [*uniform(target.name), *mixed(target.name)][:RATERS]
    return [
        Volume(wanted.of(one.labels.array), target.image.ijk_to_ras, f"{one.atlas} {number}")
        for number, one in enumerate(load(store, target, pairs))
    ]


def timed(run: Callable[[], object], repeats: int = REPEATS) -> dict[str, float]:
    """Median, seconds."""
    cpus, walls = [], []
    for _ in range(repeats):
        cpu, wall = cpu_seconds(), time.perf_counter()
        run()
        cpus.append(cpu_seconds() - cpu)
        walls.append(time.perf_counter() - wall)
    return {"cpu_s": float(np.median(cpus)), "wall_s": float(np.median(walls))}


def bare_staple(maps: list[Volume], binary: bool, cropped: bool) -> Callable[[], object]:
    """SimpleITK's filter alone, on the whole maps or cut to the box that HyperReg's STAPLE works in."""
    arrays = [volume.array for volume in maps]
    if cropped:
        box = box_of(arrays, MARGIN)
        arrays = [np.ascontiguousarray(array[box]) for array in arrays]
    images = [sitk.GetImageFromArray(array.transpose(2, 1, 0)) for array in arrays]
    if binary:
        return lambda: sitk.STAPLE(images, 1.0)
    method = sitk.MultiLabelSTAPLEImageFilter()
    return lambda: method.Execute(images)


def main(store: Path, task: str) -> None:
    name, method = TASKS[task]
    maps = maps_of(store, structures(name))
    before = peak_gb()

    def ours() -> object:
        stack = stack_labels(maps)
        return (vote(stack) if method == "vote" else staple(stack)).labels

    result: dict[str, Any] = {"task": task, "threads": THREADS, "labels": len(stack_labels(maps).labels) - 1}
    result |= {"shape": list(maps[0].shape), **timed(ours), "peak_gb": peak_gb(), "peak_before_gb": before}
    if method == "staple":
        binary = name == "hippocampus"
        # With several labels the bare filter takes minutes: once, and in the box alone.
        for where, cropped in (("whole", False), ("cropped", True)) if binary else (("cropped", True),):
            bare = timed(bare_staple(maps, binary, cropped), REPEATS if binary else 1)
            result |= {f"bare_{where}_cpu_s": bare["cpu_s"], f"bare_{where}_wall_s": bare["wall_s"]}
    print(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
