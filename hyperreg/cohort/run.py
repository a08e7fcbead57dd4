"""A cohort of pairs: resumable, on one machine or many; a pair that fails does not stop the others."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hyperreg.cohort.pair import PairTask, Row, failed_row, register_pair
from hyperreg.cohort.tables import write_tables
from hyperreg.errors import HyperRegError, InputError
from hyperreg.execution.executors import Executor, Whole, mark
from hyperreg.imaging.output import alone_in
from hyperreg.reporting import Cancel, Progress

# How often the tables are written while pairs are done, seconds: so much is lost of them with the driver.
TABLES_EVERY = 60.0


def run_cohort(
    tasks: Sequence[PairTask],
    problems: dict[str, str],
    folder: Path,
    executor: Executor,
    progress: Progress,
    cancelled: Cancel | None = None,
) -> list[Row]:
    """Do all pairs into a folder; the rows of its table, the worst first.

    problems: name -> why, of pairs that cannot be done; they stand in the table, too. What is done already, of the same
    content and settings, is kept. The tables are written now and then, and at the end, however it comes.
    Raises InputError if another run works in the folder, FileError, Cancelled or WorkerError.
    """
    inputs = {path.resolve() for task in tasks for path in task.pair.files if path is not None}
    if any(Path(folder).resolve() in path.parents for path in inputs):
        raise InputError(f"'{folder}' holds images of the cohort. Give a folder for the results alone (--out).")
    rows = [failed_row(name, why) for name, why in problems.items()]
    with alone_in(folder):
        word = mark(folder)
        marked = [replace(task, mark=word) for task in tasks]
        whole = Whole(progress, len(marked), "pairs")
        written = time.monotonic()
        try:
            for task, result in executor.results(register_pair, marked, whole.tell, cancelled):
                row = failed_row(task.name, str(result)) if isinstance(result, HyperRegError) else result
                whole.end(task.name, worked=row["state"] != "done before")
                rows.append(row)
                if time.monotonic() > written + TABLES_EVERY:
                    write_tables(rows, folder)
                    written = time.monotonic()
        finally:
            rows = write_tables(rows, folder)
    return rows
