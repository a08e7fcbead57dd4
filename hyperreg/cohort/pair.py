"""One pair of a cohort: a task that any machine can do, again if need be, and that is known again once it is done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

import hyperreg
from hyperreg.errors import FileError, HyperRegError, OutOfMemory
from hyperreg.execution.executors import check_mark
from hyperreg.fusion.cache import content_hash, key_of
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.output import make_folder, replacing
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.machine import is_out_of_memory
from hyperreg.registration.catalogue import default_model, find_model
from hyperreg.registration.pairs import Pair
from hyperreg.registration.run import Outputs, register
from hyperreg.registration.start import ALIGNMENTS
from hyperreg.reporting import Cancel, Progress
from hyperreg.sheet import middle_slices

REPORT, PICTURE = "report.json", "picture.png"
# What can be kept of a pair, and the files' names.
RESULTS = {
    "volume": "resampled.nii.gz",
    "transform": "transform.h5",
    "inverse": "inverse.h5",
    "labels": "labels.nii.gz",
    "jacobian": "jacobian.nii.gz",
}
# Bytes per voxel of the fixed image that results take at most, uncompressed: a field of three floats, or one number.
BYTES = {"transform": 12, "inverse": 12, "volume": 4, "labels": 4, "jacobian": 4}
# Sides of the pictures in the table, pixels, at most.
PICTURE_SIDE = 96

Row = dict[str, Any]


@dataclass(frozen=True)
class PairTask:
    """A pair with its name, and what is wanted of it.

    lam: a number, "auto", or None for the model's default. fast: the quick stage is enough. keep: names out of RESULTS.
    folder: of the cohort; the pair's results go to its folder `name`. mark: see `executors.mark`.
    """

    name: str
    pair: Pair
    folder: Path
    lam: float | Literal["auto"] | None = None
    fast: bool = False
    keep: tuple[str, ...] = ("volume", "transform", "labels")
    mark: str = ""

    @property
    def place(self) -> Path:
        return self.folder / self.name

    @property
    def outputs(self) -> Outputs:
        def path(name: str) -> Path | None:
            return self.place / RESULTS[name] if name in self.keep else None

        labels = None if self.pair.moving_labels is None else path("labels")
        return Outputs(
            path("volume"), path("transform"), path("inverse"), labels, self.place / REPORT, path("jacobian")
        )


def register_pair(task: PairTask, progress: Progress, cancelled: Cancel | None = None) -> Row:
    """Do a pair, unless its results are there and were made of the same content in the same way: its row of the table.

    Raises HyperRegError, whatever was wrong, so that one pair does not stop the others.
    """
    try:
        check_mark(task.folder, task.mark)
        key = _key(task)
        report = known(task, key)
        state = "done before"
        if report is None:
            state = "done"
            make_folder(task.place)
            _check_room(task)
            # What is there from other settings, wanted now or not, would be taken for this registration's.
            for name in (REPORT, PICTURE, *RESULTS.values()):
                (task.place / name).unlink(missing_ok=True)
            report = register(
                task.pair, task.lam, task.outputs, progress, cancelled, fast=task.fast, about={"cohort": key}
            ).report
        if not (task.place / PICTURE).is_file() or state == "done":
            _write_picture(task)
        return row_of(task.name, report, state)
    except (HyperRegError, MemoryError):
        raise
    except OSError as error:
        raise FileError(f"The results could not be written: {error.strerror or error}.") from error
    except Exception as error:  # (whatever it is, the other pairs go on)
        if is_out_of_memory(error):
            raise OutOfMemory("There was not enough memory for this registration.") from error
        raise HyperRegError(
            f"Unexpected error ({type(error).__name__}: {error}). This is a fault of HyperReg: run `hyperreg register` "
            "on this pair with --debug, and report what it prints."
        ) from error


def known(task: PairTask, key: str) -> dict[str, Any] | None:
    """The report of results that are all there and have this key; None if there is none."""
    outputs = task.outputs
    if not all(path.is_file() for path in outputs.by_name().values() if path is not None):
        return None
    try:
        report = json.loads((task.place / REPORT).read_text(encoding="utf-8"))
        row_of(task.name, report, "")
        return dict(report) if report["cohort"] == key else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _key(task: PairTask) -> str:
    """What the results depend on; see `fusion.cache`. Raises FileError or InputError for images that cannot be read."""
    pair = task.pair
    labels = [None if path is None else _labels_hash(*_stamp(path)) for path in (pair.fixed_labels, pair.moving_labels)]
    return key_of(
        version=hyperreg.__version__,
        model=find_model(pair.model or default_model()).sha256,
        images=[_image_hash(*_stamp(path)) for path in (pair.fixed, pair.moving)],
        labels=labels,
        how=[_initial(pair.initial), dict(pair.values), pair.contrast, pair.symmetric],
        lam=task.lam,
        fast=task.fast,
    )


def _initial(initial: str) -> str:
    """The name of a start, or what its file holds."""
    return initial if initial in ALIGNMENTS else _transform_hash(*_stamp(Path(initial)))


def _stamp(path: Path) -> tuple[Path, int]:
    """By this a process knows a file that it has read before."""
    return path, path.stat().st_mtime_ns if path.exists() else 0


@lru_cache(maxsize=256)
def _image_hash(path: Path, _time: int) -> str:
    return content_hash(read_volume(path))


@lru_cache(maxsize=256)
def _labels_hash(path: Path, _time: int) -> str:
    found = read_structures(path)
    table = [[label, meaning.name, meaning.colour] for label, meaning in sorted(found.table.items())]
    return key_of(layers=[content_hash(layer) for layer in found.layers], table=table)


@lru_cache(maxsize=16)
def _transform_hash(path: Path, _time: int) -> str:
    stages: list[list[Any]] = []
    for stage in read_transform(path).stages:
        if isinstance(stage, DisplacementField):
            stages.append([sha256(np.ascontiguousarray(stage.array).data).hexdigest(), stage.ijk_to_ras.tolist()])
        else:
            stages.append(stage.tolist())
    return key_of(stages=stages)


def _check_room(task: PairTask) -> None:
    """Raise FileError if the disk is too full for the results, before minutes are spent on them."""
    voxels = read_volume(task.pair.fixed).array.size
    needed = voxels * sum(BYTES[name] for name in task.keep)
    free = shutil.disk_usage(task.place).free
    if free < needed:
        raise FileError(
            f"The disk of '{task.folder}' is full: {free / 1e6:.0f} MB are free, and this pair may take "
            f"{needed / 1e6:.0f} MB. Free some space, or keep less (--keep), and run the same command again."
        )


def row_of(name: str, report: Mapping[str, Any], state: str) -> Row:
    """The row of a pair in the table. state: "done", or "done before"."""
    metrics, dice = report["metrics"], report["dice"]
    return {
        "name": name,
        "state": state,
        "lambda": report["lambda"],
        "similarity_before": metrics["similarity_before"],
        "similarity": metrics["similarity"],
        "gain": metrics["similarity"] - metrics["similarity_before"],
        "dice_before": None if dice is None else dice["mean_before"],
        "dice": None if dice is None else dice["mean_after"],
        "folding_percent": metrics["folding_percent"],
        "displacement_mean_mm": metrics["displacement_mean_mm"],
        "displacement_max_mm": metrics["displacement_max_mm"],
        "volume_change_low_percent": metrics["volume_change_low_percent"],
        "volume_change_high_percent": metrics["volume_change_high_percent"],
        "seconds": sum(value for value in report["timing_s"].values() if isinstance(value, int | float)),
        "warnings": " ".join(report["warnings"]),
        "error": "",
        "structures": {} if dice is None else dice["labels"],
    }


def _write_picture(task: PairTask) -> None:
    """The fixed image, and below it the resampled one, in three views."""
    volume = task.outputs.volume
    if volume is None:
        return
    from matplotlib.image import imsave

    rows = [
        np.concatenate([_tile(one.values, one.aspect) for one in middle_slices(read_volume(path), "")], axis=1)
        for path in (task.pair.fixed, volume)
    ]
    with replacing(task.place / PICTURE) as target:
        imsave(target, np.concatenate(rows), cmap="gray", vmin=0, vmax=1)


def _tile(values: np.ndarray, aspect: float) -> np.ndarray:
    """A slice as a square of PICTURE_SIDE pixels, 0..1. aspect: height of a pixel over its width."""
    height, width = values.shape[0] * aspect, float(values.shape[1])
    step = max(height, width) / PICTURE_SIDE
    tile = np.zeros((PICTURE_SIDE, PICTURE_SIDE), np.float32)
    rows, columns = (max(1, round(side / step)) for side in (height, width))
    down = np.linspace(0, values.shape[0] - 1, rows).round().astype(int)
    across = np.linspace(0, values.shape[1] - 1, columns).round().astype(int)
    finite = np.nan_to_num(values[np.ix_(down, across)].astype(np.float64))
    low, high = np.percentile(finite, (1, 99))
    top, left = (PICTURE_SIDE - rows) // 2, (PICTURE_SIDE - columns) // 2
    tile[top : top + rows, left : left + columns] = np.clip((finite - low) / max(high - low, 1e-9), 0, 1)
    return tile


def failed_row(name: str, why: str) -> Row:
    """The row of a pair that could not be done."""
    return {"name": name, "state": "failed", "error": why, "structures": {}}
