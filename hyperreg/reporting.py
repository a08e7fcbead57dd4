"""What every computation from files to files shares: progress, stages, and the JSON report."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hyperreg

if TYPE_CHECKING:
    from hyperreg.imaging.volume import Volume

# (fraction 0..1, what is being done), and whether the user wants to stop.
Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]


class Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def versions() -> dict[str, str]:
    """Versions of what took part in a computation."""
    packages = ("torch", "SimpleITK", "numpy", "nibabel", "monai")
    return {
        "hyperreg": hyperreg.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def describe_image(path: Path, volume: Volume) -> dict[str, Any]:
    """What a report says of an image: its file, voxel counts, and voxel size in mm."""
    return {
        "file": str(path),
        "shape": list(volume.shape),
        "spacing_mm": [round(float(value), 4) for value in volume.spacing],
    }


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write a report as JSON; figures that could not be measured (NaN) become null."""
    text = json.dumps(_without_nan(dict(report)), indent=2, ensure_ascii=False, allow_nan=False)
    # Bytes in a file's name that are no text become JSON's own escapes.
    path.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _without_nan(value: Any) -> Any:
    """The same with None for what JSON has no number for: a figure that could not be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
