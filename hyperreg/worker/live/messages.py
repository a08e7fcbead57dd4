"""What a live registration sends to the worker and gets from it, as requests and answers have it. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.worker.jobs import Job

FIELDS = ("forward", "inverse")


def prepare_request(
    session: str,
    model: str | None,
    device: str,
    initial: str | npt.NDArray[np.float64] | Transform,
    contrast: str,
    symmetric: bool,
    volumes: Mapping[str, Volume | None],
) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
    """Parameters and arrays of a "prepare". volumes: by role; None is left out."""
    given: dict[str, Volume | DisplacementField] = {name: v for name, v in volumes.items() if v is not None}
    stages: Any = initial
    if isinstance(initial, Transform) and not initial.is_linear:
        fields = {f"start_{n}": stage for n, stage in enumerate(initial.stages) if isinstance(stage, DisplacementField)}
        given |= fields
        names = {id(stage): name for name, stage in fields.items()}
        stages = {"stages": [names.get(id(stage)) or np.asarray(stage).tolist() for stage in initial.stages]}
    elif not isinstance(initial, str):
        matrix = initial.linear if isinstance(initial, Transform) else initial
        stages = np.asarray(matrix, dtype=np.float64).tolist()
    parameters = {
        "session": session,
        "model": model or "",
        "device": device,
        "initial": stages,
        "contrast": contrast,
        "symmetric": symmetric,
        "volumes": places(given),
    }
    return parameters, {name: volume.array for name, volume in given.items()}


def places(volumes: Mapping[str, Volume | DisplacementField]) -> dict[str, Any]:
    """Where volumes lie, as a request says it."""
    return {
        name: {"name": getattr(volume, "name", name), "ijk_to_ras": volume.ijk_to_ras.tolist()}
        for name, volume in volumes.items()
    }


def outputs_on(grid: Grid) -> dict[str, tuple[tuple[int, ...], type]]:
    """The outputs of an operation that fills fields on this grid."""
    return dict.fromkeys(FIELDS, ((3, *grid.shape), np.float32))


def fields_of(job: Job, grid: Grid) -> Fields:
    """The fields that a job filled, read-only: they may be an anchor, whoever else gets them."""
    for name in FIELDS:
        job.arrays[name].setflags(write=False)
    return Fields(*(DisplacementField(job.arrays[name], grid.ijk_to_ras) for name in FIELDS))


def restored(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as the session gave them, before they were JSON: labels are numbers, null is NaN."""
    return {
        name: {int(label): _number(number) for label, number in value.items()}
        if isinstance(value, dict)
        else _number(value)
        for name, value in metrics.items()
    }


def _number(value: Any) -> Any:
    return float("nan") if value is None else value
