"""The files of one result: resampled volume, transform, inverse, warped labels and a report."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import NO_MODEL, find_model
from hyperreg.registration.stages import Stage
from hyperreg.view.private_files import safe_name

# Letters of an image's name in that of a result.
IMAGE_NAME = 32


@dataclass(frozen=True, eq=False)
class Result:
    """Everything that is needed to write one result, taken at one moment.

    transform: fixed to moving RAS; inverse: moving to fixed RAS. metrics: of what is shown, or empty.
    names: of the labels in the metrics, as far as they are known.
    stage: how far the field was improved; settings: what was set besides λ, in words.
    """

    lam: float
    stage: Stage
    settings: str
    fixed: Volume
    moving: Volume
    moving_labels: Volume | None
    transform: Transform
    inverse: Transform
    metrics: Mapping[str, Any]
    names: Mapping[int, str]
    model: str
    device: str
    initial: str
    warnings: tuple[str, ...]


def write(result: Result, folder: Path) -> list[tuple[str, Path]]:
    """Writes the files into `folder`; returns (title, path) of each. Raises FileError if one cannot be written."""
    at = _case(result)
    grid = result.fixed.grid
    files = [
        ("Registered moving image", folder / f"registered_{at}.nii.gz"),
        ("Transform (fixed to moving, ITK)", folder / f"transform_{at}.h5"),
        ("Inverse transform (ITK)", folder / f"inverse_{at}.h5"),
    ]
    write_volume(resample(result.moving, grid, result.transform), files[0][1])
    write_transform(result.transform, files[1][1], grid)
    write_transform(result.inverse, files[2][1], result.moving.grid)
    if result.moving_labels is not None:
        files.append(("Registered label map", folder / f"labels_{at}.nii.gz"))
        write_volume(resample(result.moving_labels, grid, result.transform, interpolation="nearest"), files[-1][1])
    files.append(("Report", folder / f"report_{at}.json"))
    files[-1][1].write_text(
        json.dumps(_report(result, files), indent=2, ensure_ascii=False, allow_nan=False) + "\n", "utf-8"
    )
    return files


def write_alignment(fixed: Volume, moving: Volume, transform: Transform, folder: Path) -> list[tuple[str, Path]]:
    """Writes a linear alignment into `folder`; returns (title, path) of each file. Raises FileError.

    transform: fixed to moving RAS.
    """
    at = f"{_images(moving, fixed)}_aligned"
    files = [
        ("Aligned moving image", folder / f"aligned_{at}.nii.gz"),
        ("Transform (fixed to moving, ITK)", folder / f"transform_{at}.h5"),
    ]
    write_volume(resample(moving, fixed.grid, transform), files[0][1])
    write_transform(transform, files[1][1], fixed.grid)
    return files


def _images(moving: Volume, fixed: Volume) -> str:
    """For names of files."""
    return "-on-".join(safe_name(volume.name).split(".")[0][:IMAGE_NAME] for volume in (moving, fixed))


def _case(result: Result) -> str:
    """For names of files: which images, and everything that was set."""
    settings = [part.replace("=", "-") for part in result.settings.split("; ") if part and not part.startswith("λ of")]
    if "λ of" in result.settings:
        settings.append("regions")
    if result.model != NO_MODEL:
        settings.insert(0, result.model)
    return "_".join(
        [
            _images(result.moving, result.fixed),
            f"lambda-{result.lam:.3f}-{result.stage.name}",
            *map(safe_name, settings),
        ]
    )


def _report(result: Result, files: list[tuple[str, Path]]) -> dict[str, Any]:
    card = find_model(result.model)
    metrics = result.metrics
    dice = metrics.get("dice") or {}
    before = metrics.get("dice_before") or {}
    return {
        "lambda": result.lam,
        "stage": result.stage.describe(),
        "settings": result.settings,
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "fixed": _describe(result.fixed),
        "moving": _describe(result.moving),
        "initial": result.initial,
        "model": {"name": card.name, "version": card.version, "sha256": card.sha256, "licence": card.licence},
        "device": result.device,
        "metrics": {name: _plain(value) for name, value in metrics.items() if not name.startswith("dice")},
        "dice": {
            "labels": {
                str(label): {
                    "name": result.names.get(int(label), f"Label {label}"),
                    "before": _plain(before.get(label)),
                    "after": _plain(dice[label]),
                }
                for label in dice
            },
            "mean_before": _plain(metrics.get("dice_mean_before")),
            "mean_after": _plain(metrics.get("dice_mean")),
        }
        if dice
        else None,
        "versions": {
            "hyperreg": hyperreg.__version__,
            "python": platform.python_version(),
            **{name: metadata.version(name) for name in ("SimpleITK", "numpy", "slicer-core", "trame-slicer")},
        },
        "warnings": list(result.warnings),
        "outputs": {title: path.name for title, path in files},
    }


def _describe(volume: Volume) -> dict[str, Any]:
    return {"name": volume.name, "shape": list(volume.shape), "ijk_to_ras": volume.ijk_to_ras.tolist()}


def _plain(value: Any) -> float | None:
    """JSON has no NaN."""
    return None if value is None or value != value else float(value)
