"""Many tasks of one kind with files in one folder: kept results, a row of figures for each, a table of the rows."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hyperreg.errors import HyperRegError, InputError
from hyperreg.execution.executors import Executor, Whole, mark
from hyperreg.execution.processes import T, Work
from hyperreg.imaging.output import alone_in, replacing
from hyperreg.reporting import Cancel, Progress

TABLE = "quality.csv"

Row = dict[str, Any]


def rows_of(
    work: Work[T, Row],
    tasks: Callable[[str], Sequence[T]],
    folder: Path,
    executor: Executor,
    progress: Progress | None,
    cancelled: Cancel | None,
) -> list[Row]:
    """Do all tasks into a folder; their rows, which TABLE in it holds, too. One that fails is a row with its error.

    work: its row says in "state" whether a task was "done" or "done before". tasks: made with the folder's mark, see
    `executors.mark`. Raises InputError if another run works in the folder, or two tasks have one name; FileError,
    Cancelled, WorkerError.
    """
    rows: dict[str, Row] = {}
    with alone_in(folder):
        all_of_them = tasks(mark(folder))
        names = Counter(one.name.casefold() for one in all_of_them)
        if doubled := [one.name for one in all_of_them if names[one.name.casefold()] > 1]:
            raise InputError(
                f"Two images are called '{doubled[0]}': their results would replace each other. Rename one."
            )
        whole = Whole(progress or (lambda _fraction, _text: None), len(all_of_them), "images")
        for task, result in executor.results(work, all_of_them, whole.tell, cancelled):
            failed = {"target": task.name, "state": "failed", "error": str(result)}
            rows[task.name] = failed if isinstance(result, HyperRegError) else result
            whole.end(task.name, worked=rows[task.name]["state"] != "done before")
            ordered = [rows[one.name] for one in all_of_them if one.name in rows]
            columns = list(dict.fromkeys(name for row in ordered for name in row))
            with replacing(folder / TABLE) as target, target.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(ordered)
    return [rows[one.name] for one in all_of_them]


def known_row(report: Path, result: Path, how: Mapping[str, Any], row: Callable[[dict[str, Any]], Row]) -> Row | None:
    """The row of a result that is there and was made in the same way, as "settings" in its report say; else None.

    row: makes it of the report.
    """
    try:
        found = json.loads(report.read_text(encoding="utf-8"))
        same = result.is_file() and found["settings"] == json.loads(json.dumps(how))
        return row(found) if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
