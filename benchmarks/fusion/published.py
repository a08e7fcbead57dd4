"""Rows of the published table as results again, so that a few more can be measured without repeating the others."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.fusion.experiments import (
    alone_name,
    fusion_name,
    learning_name,
    network_name,
    result_path,
    slices_name,
    speed_name,
)
from benchmarks.registration.store import save_json

# Columns that are texts; the others are numbers.
TEXTS = (
    "experiment",
    "set",
    "structures",
    "variant",
    "method",
    "target",
    "atlas",
    "quality",
    "task",
    "shape",
    "targets",
    "error",
)
SAMPLE = " sample"


def take_over(published: Path, output: Path) -> int:
    """Make results of the rows of a published table that `output` has none of; how many.

    Rows of errors are left out: they are measured again. Figures have the table's five digits; what the table does not
    hold (the course of a training) is lost.
    """
    with published.open(newline="", encoding="utf-8") as stream:
        rows = [_read(row) for row in csv.DictReader(stream)]
    results: list[dict[str, Any]] = []
    for row in rows:
        experiment = row.pop("experiment")
        if experiment.endswith(SAMPLE):
            results[-1]["samples"].append({key: row[key] for key in ("target", "atlas", "quality", "dice", "value")})
        elif experiment in ("I", "II", "III", "alone"):
            cpu, wall = row.pop("cpu_s"), row.pop("wall_s")
            results.append({**row, "experiment": experiment, "samples": [], "job_cpu_s": cpu, "job_wall_s": wall})
        elif experiment == "IV" and "error" not in row:
            results.append({**row, "experiment": experiment})
        elif experiment == "speed" and "error" not in row:
            row["shape"] = [int(n) for n in row["shape"].split(" x ")]
            results.append({**row, "experiment": experiment})
        elif experiment == "network" and "error" not in row:
            row["seed"] = int(row["seed"])
            results.append({**row, "experiment": experiment, "held_out": {}})
        elif experiment == "network subject":
            results[-1]["held_out"][row["target"]] = row["dice"]
    taken = 0
    for result in results:
        result["job"] = _job(result.pop("experiment"), result)
        path = result_path(output, result["job"])
        if not path.exists():
            save_json(path, result)
            taken += 1
    return taken


def _job(experiment: str, result: Mapping[str, Any]) -> str:
    if experiment == "speed":
        return speed_name(result["task"])
    set_, name = result["set"], result["structures"]
    if experiment == "IV":
        return fusion_name(set_, name, result["target"], result["method"])
    if experiment == "network":
        return network_name(set_, name, result["method"], result["seed"])
    if experiment == "I":
        return slices_name(result["variant"])
    if experiment == "alone":
        return alone_name(set_, name, result["samples"][0]["target"])
    return learning_name(set_, name, result["variant"])


def _read(row: Mapping[str, str]) -> dict[str, Any]:
    return {name: text if name in TEXTS else float(text) for name, text in row.items() if text != ""}
