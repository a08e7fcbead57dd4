"""What is registered: a pair of files, and what is known about the truth."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError

# The files of the lung landmarks begin with "point" and their number.
LANDMARK_HEADER = 2


@dataclass(frozen=True)
class Case:
    """One ordered pair.

    name: also the name of its result files. group: the cases that are averaged together.
    cross: the two images differ in contrast, so that methods use their multi-modal metric. body: "brain", "lung",
    "spine" (a small field of view) or "other", which decides a method's settings where it has standard ones.
    fixed_labels, moving_labels: label maps; automatic_labels: made by a program, so that their overlap is agreement
    with that program and no truth. subcortical, cortical: labels of the two groups.
    fixed_points, moving_points: landmark files, LPS mm, of which left_out (0-based) are not used.
    truth: a transform saved by `store.save_transform`, fixed RAS to moving RAS, known by construction.
    development: was looked at while the method was made: shown, never averaged with the others.
    """

    name: str
    group: str
    fixed: Path
    moving: Path
    cross: bool = False
    body: str = "brain"
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    automatic_labels: bool = False
    subcortical: tuple[int, ...] = ()
    cortical: tuple[int, ...] = ()
    fixed_points: Path | None = None
    moving_points: Path | None = None
    left_out: tuple[int, ...] = ()
    truth: Path | None = None
    development: bool = False

    def to_json(self) -> str:
        return json.dumps({key: str(v) if isinstance(v, Path) else v for key, v in asdict(self).items()})

    @classmethod
    def from_json(cls, text: str) -> Case:
        values = json.loads(text)
        for field in fields(cls):
            value = values[field.name]
            if value is not None and "Path" in str(field.type):
                values[field.name] = Path(value)
            elif isinstance(value, list):
                values[field.name] = tuple(value)
        return cls(**values)


def read_points(path: Path, left_out: tuple[int, ...] = ()) -> npt.NDArray[np.float64]:
    """Landmarks of a file in LPS mm, without those at the 0-based `left_out`: (N, 3), RAS mm. Raises FileError."""
    try:
        points = np.loadtxt(path, skiprows=LANDMARK_HEADER)
    except (OSError, ValueError) as error:
        raise FileError(f"The landmarks '{path.name}' cannot be read: {error}.") from error
    return np.delete(points, list(left_out), axis=0) * (-1, -1, 1)
