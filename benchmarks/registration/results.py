"""All results of a run as rows, the oracle's among them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.registration.ours import GRID, curve_row
from benchmarks.registration.store import load_json, result_path, save_json

Row = dict[str, Any]

CURVE = tuple(curve_row(lam) for lam in GRID)
ORACLE = "quick oracle"
# Order and names in tables and figures. Rows of the curve are figures of their own.
TITLES = {
    "identity": "none (as the headers say)",
    "affine": "affine (HyperReg's)",
    "SyN": "ANTs SyN, defaults (antspyx)",
    "SyN CC": "ANTs SyN, local correlation (antspyx)",
    "elastix": "elastix (itk-elastix)",
    "greedy": "greedy (picsl_greedy)",
    "network": "HyperReg network alone, default λ",
    "quick": "HyperReg quick result, default λ",
    "quick auto": "HyperReg quick result, automatic λ",
    ORACLE: "HyperReg quick result, oracle λ (knows the truth)",
    "full": "HyperReg full resolution, default λ",
    "full auto": "HyperReg full resolution, automatic λ",
    "full oracle": "HyperReg full resolution, oracle λ (knows the truth)",
}
PEERS = ("SyN", "SyN CC", "elastix", "greedy")
# The truth that a pair has, the most telling first, and whether more of it is better. Agreement with automatic labels
# is none, so such pairs have no oracle.
TRUTHS = {"dice": True, "tre_mm": False, "error_mm": False}
TEXTS = ("group", "case", "method", "model", "model_sha256", "metric", "message", "error")
COUNTS = ("threads", "labels")
COLUMNS = (
    "group", "case", "method", "development", "threads", "dice", "dice_subcortical", "dice_cortical", "labels",
    "automatic_labels", "tre_mm", "tre_p95_mm", "error_mm", "error_p95_mm", "similarity", "mutual_information",
    "outline_dice", "folding_percent", "roughness", "cpu_s", "wall_s", "peak_gb", "lambda", "model", "model_sha256",
    "metric", "message", "error",
)  # fmt: skip


def truth_of(row: Row) -> str | None:
    """The name of the figure by which a row can be judged; None if nothing is known about its pair."""
    if row.get("automatic_labels"):
        return None
    return next((name for name in TRUTHS if name in row), None)


def best(rows: Sequence[Row]) -> Row | None:
    """The row that is best by the truth; None if there is none to judge by."""
    judged = [row for row in rows if truth_of(row) is not None]
    if not judged:
        return None
    name = truth_of(judged[0]) or ""
    return (max if TRUTHS[name] else min)(judged, key=lambda row: float(row[name]))


def of_method(rows: Iterable[Row], method: str) -> list[Row]:
    """Those of one method that succeeded."""
    return [row for row in rows if row["method"] == method and "error" not in row]


def collect(output: Path) -> list[Row]:
    """Every result under `output`, notes as columns, and "network oracle" where the whole curve was measured.

    A curve that was stopped half-way is left out: means over lambda would be of other pairs at each lambda. The
    oracle's time is one registration's: it would have to know its lambda.
    """
    rows = []
    for path in sorted((output / "results").glob("*.json")):
        values = load_json(path)
        rows.append({**values, **values.pop("notes", {})})
    for case in dict.fromkeys(row["case"] for row in rows):
        found = [row for row in rows if row["case"] == case and row["method"] in CURVE and "error" not in row]
        if len(found) < len(CURVE):
            rows = [row for row in rows if row not in found]
        elif (chosen := best(found)) is not None:
            rows.append({**chosen, "method": ORACLE})
    order = list(TITLES) + list(CURVE)
    return sorted(rows, key=lambda row: (row["group"], row["case"], _place(order, row["method"])))


def _place(order: list[str], method: str) -> int:
    return order.index(method) if method in order else len(order)


def oracle_lambda(output: Path, case: str) -> float | None:
    """The lambda of the case's "network oracle"; None if it is not known."""
    found = [row for row in collect(output) if row["case"] == case and row["method"] == ORACLE]
    return float(found[0]["lambda"]) if found else None


def mean(rows: Iterable[Row], name: str) -> float:
    """Mean of a figure over the rows that have it; NaN if none has."""
    values = [float(row[name]) for row in rows if name in row]
    return float(np.mean(values)) if values else float("nan")


def write_csv(rows: Sequence[Row], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _shown(value) for key, value in row.items()} for row in rows)


def take_over(published: Path, output: Path) -> int:
    """Make results of the rows of a published table that `output` has none of; how many. The oracle's are made anew,
    and rows of methods that are no more are left.

    So that a few more rows can be measured without repeating the others. Figures have the table's six digits.
    """
    taken = 0
    with published.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            path = result_path(output, row["case"], row["method"])
            known = row["method"] in (*TITLES, *CURVE) and row["method"] != ORACLE
            if known and not path.exists():
                save_json(path, {name: _read(name, text) for name, text in row.items() if text != ""})
                taken += 1
    return taken


def _read(name: str, text: str) -> Any:
    if name in TEXTS:
        return text
    return text == "True" if text in ("True", "False") else float(text) if name not in COUNTS else int(text)


def _shown(value: Any) -> Any:
    return f"{value:.6g}" if isinstance(value, float) else value
