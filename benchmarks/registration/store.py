"""Transforms and results on disk, so that an interrupted run goes on where it was and can be measured again."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.errors import FileError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField


def save_transform(path: Path, transform: Transform) -> None:
    """All stages of a transform in one .npz; a half-written file never has the final name."""
    arrays: dict[str, Any] = {"stages": np.array(len(transform.stages))}
    for number, stage in enumerate(transform.stages):
        if isinstance(stage, DisplacementField):
            arrays[f"field{number}"] = stage.array
            arrays[f"affine{number}"] = stage.ijk_to_ras
        else:
            arrays[f"matrix{number}"] = stage
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}")
    with half.open("wb") as stream:
        np.savez(stream, **arrays)
    half.replace(path)


def load_transform(path: Path) -> Transform:
    """What `save_transform` wrote. Raises FileError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return Transform(
                tuple(
                    arrays[f"matrix{n}"]
                    if f"matrix{n}" in arrays
                    else DisplacementField(arrays[f"field{n}"], arrays[f"affine{n}"])
                    for n in range(int(arrays["stages"]))
                )
            )
    except (OSError, ValueError, KeyError) as error:
        raise FileError(f"The transform '{path.name}' cannot be read: {error}.") from error


def result_path(output: Path, case: str, row: str) -> Path:
    """Where the result of one method on one pair lies."""
    return output / "results" / f"{case}--{row.replace(' ', '_').replace('/', '_')}.json"


def save_json(path: Path, values: Mapping[str, Any]) -> None:
    """Written beside and renamed, so that a result is there whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(f"{path.name}.{os.getpid()}")
    half.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    half.replace(path)


def load_json(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return values
