"""A segmentation model that learns from consensuses: what a cohort of `hyperreg fuse` left becomes a training run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.structures import Meaning, Table, structures_of
from hyperreg.training.segmentation import train
from hyperreg.training.segmentation_config import read_segmentation_config

REPORTS = "*_report.json"
# Written beside the model, so that the run can be repeated and changed.
CONFIG, CASES = "consensus.yaml", "consensus.json"


@dataclass(frozen=True)
class ConsensusTraining:
    """How the model is made. spacing_mm, window: of what the network sees; window a multiple of 8.

    filters: width of the SegResNet. steps: of training, a patch each. device: "cpu" or "cuda".
    """

    name: str
    spacing_mm: float = 1.0
    window: int = 96
    filters: int = 8
    steps: int = 2000
    device: str = "cpu"
    modality: str = "MR"


def train_on_consensus(results: Path, output: Path, settings: ConsensusTraining, resume: bool = False) -> Path:
    """Train on every consensus in a folder of results; returns the folder of the model, which is `output`.

    The folder can be added to the models (`hyperreg models --add`). Such a model repeats what the consensuses have
    wrong. Raises FileError or InputError for results that cannot be used.
    """
    return train(write_config(results, output, settings), resume)


def write_config(results: Path, output: Path, settings: ConsensusTraining) -> Path:
    """The configuration and the data list of the run, in `output`; the configuration is checked."""
    reports = [_report(path) for path in sorted(Path(results).glob(REPORTS))]
    if not reports:
        raise InputError(
            f"'{results}' holds no result of a cohort (NAME_report.json). Make some: hyperreg fuse --targets IMAGES "
            f"--atlases ATLASES --out {results}"
        )
    cases = [
        {"image": str(_existing(report["target"]["file"])), "label": str(_existing(report["outputs"]["segmentation"]))}
        for report in reports
    ]
    table: Table = {
        int(row["label"]): Meaning(str(row["name"]))
        for report in reports
        for row in report["structures"]
        if row["volume_ml"] > 0
    }
    labels = sorted(table)
    if not labels or labels[0] < 0:
        raise InputError("The consensuses have no structure, or negative labels; a model needs labels above 0.")
    Path(output).mkdir(parents=True, exist_ok=True)
    _write(Path(output) / CASES, json.dumps({"training": cases}, indent=1))
    path = Path(output) / CONFIG
    _write(path, yaml.safe_dump(_config(labels, table, len(cases), settings), sort_keys=False, allow_unicode=True))
    read_segmentation_config(path)
    return path


def _config(labels: Sequence[int], table: Table, count: int, settings: ConsensusTraining) -> dict[str, Any]:
    structures = [
        {"label": one.label, "name": one.name, "colour": list(one.colour), "numbers": [one.label]}
        for one in structures_of(list(labels), table)
    ]
    window = [settings.window] * 3
    return {
        "name": settings.name,
        "title": settings.name,
        "description": f"Learned from the fused labels of {count} images; it repeats what these have wrong.",
        "output": ".",
        "data": f"{count} images of the user's with consensus labels",
        "modality": settings.modality,
        "structures": structures,
        "network": {
            "name": "segresnet",
            "options": {"filters": settings.filters, "blocks_down": [1, 2, 2, 4], "blocks_up": [1, 1, 1]},
        },
        "grid": {"axes": "ras", "spacing_mm": [settings.spacing_mm] * 3, "window": window, "flips": []},
        "cases": {"source": CASES, "shape": window},
        "validation": {"cases": 0},
        "steps": settings.steps,
        "warm_up": min(100, settings.steps // 10),
        "device": settings.device,
    }


def _report(path: Path) -> dict[str, Any]:
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        target, found, rows = report["target"]["file"], report["outputs"]["segmentation"], report["structures"]
        good = isinstance(target, str) and isinstance(found, str) and all({"label", "name"} <= set(r) for r in rows)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"'{path}' is not a report of hyperreg fuse: {error}.") from error
    if not good:
        raise FileError(f"'{path}' is not a report of hyperreg fuse.")
    return dict(report)


def _existing(name: str) -> Path:
    path = Path(name).resolve()
    if not path.is_file():
        raise FileError(f"'{name}' is not there any more; the report of its fusion names it. Fuse again.")
    return path


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise FileError(f"'{path}' cannot be written: {error.strerror}.") from error
