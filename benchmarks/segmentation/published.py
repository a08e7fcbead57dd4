"""Rows of the published results.csv, so that a part can be measured anew without repeating the others."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

Row = dict[str, Any]


def read_rows(path: Path) -> list[Row]:
    """What `report.write_report` wrote: the rows, figures rounded to four decimals; [] if the file is not there."""
    if not path.is_file():
        return []
    rows: dict[tuple[str, ...], Row] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for line in csv.DictReader(stream):
            key = tuple(line[name] for name in ("part", "case", "model", "version"))
            row = rows.setdefault(
                key, {"part": key[0], "case": key[1], "model": key[2] or None, "version": key[3]}
            )  # fmt: skip
            place, _, name = line["what"].rpartition(": ")
            target = row
            if line["what"]:
                target = (
                    row.setdefault("regions", {}).setdefault(place, {}) if place else row.setdefault("structures", {})
                )
                target = target.setdefault(name, {})
            target[line["figure"]] = _value(line["value"])
    return list(rows.values())


def with_published(rows: list[Row], path: Path) -> list[Row]:
    """The rows, and those published ones whose part was not measured this time with their model."""
    measured = {(row["part"], row["model"]) for row in rows}
    return [*(row for row in read_rows(path) if (row["part"], row["model"]) not in measured), *rows]


def _value(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text
