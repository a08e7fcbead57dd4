"""Runs methods on pairs, each in a process of its own, and measures them; goes on where a run was stopped."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.registration.case import Case
from benchmarks.registration.measure import measure
from benchmarks.registration.store import load_json, load_transform, result_path, save_json

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 7200.0
THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)  # fmt: skip

Say = Callable[[str], None]


@dataclass(frozen=True)
class Entry:
    """A method to run: what its process runs, the rows that it yields, and the package without which it cannot.

    address: "module:function". rows: their names, in the order in which they come. cases: which it is for; all if None.
    options: made for each pair from the rows that are there already; None if they are not enough.
    """

    address: str
    rows: tuple[str, ...]
    package: str | None = None
    cases: Callable[[Case], bool] | None = None
    options: Callable[[Case, Path], Mapping[str, str | float] | None] = field(default=lambda _case, _output: {})


def run(
    entries: Sequence[Entry],
    cases: Iterable[Case],
    output: Path,
    *,
    threads: int = 2,
    keep: bool = False,
    again: bool = False,
    say: Say = print,
) -> None:
    """Every method on every pair that has no result yet: one JSON file each under `output`/results.

    keep: leave the transforms in `output`/transforms. again: repeat what ended in an error.
    A method that fails, is missing or takes longer than LIMIT_S becomes a result that says so; the run goes on.
    """
    for case in cases:
        for entry in entries:
            if entry.cases is not None and not entry.cases(case):
                continue
            if all(_is_there(result_path(output, case.name, row), again) for row in entry.rows):
                continue
            started = time.perf_counter()
            _run_one(entry, case, output, threads, keep)
            for row in entry.rows:
                path = result_path(output, case.name, row)
                if path.exists():
                    say(f"{case.name}, {_line(load_json(path))} [{time.perf_counter() - started:.0f} s]")


def _is_there(path: Path, again: bool) -> bool:
    return path.exists() and not (again and "error" in load_json(path))


def _line(result: Mapping[str, Any]) -> str:
    if "error" in result:
        return f"{result['method']}: {result['error']}"
    shown = ("dice", "tre_mm", "error_mm", "similarity", "mutual_information", "folding_percent", "cpu_s", "peak_gb")
    return f"{result['method']}: " + ", ".join(f"{key} {result[key]:.4g}" for key in shown if key in result)


def _run_one(entry: Entry, case: Case, output: Path, threads: int, keep: bool) -> None:
    folder = output / "work" / f"{case.name}--{entry.address.split(':')[1]}--{os.getpid()}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts: dict[str, Any] = {
        "case": case.name,
        "group": case.group,
        "development": case.development,
        "threads": threads,
    }
    if case.automatic_labels:
        facts["automatic_labels"] = True
    try:
        options = entry.options(case, output)
        if options is None:
            return
        request = {"case": case.to_json(), "method": entry.address, "threads": threads, "options": dict(options)}
        save_json(folder / "request.json", request)
        error = _child(folder, threads, entry.package)
        found = 0
        while (folder / f"{found}.json").exists():
            outcome = load_json(folder / f"{found}.json")
            row = outcome.pop("name")
            _save(output, facts | {"method": row} | outcome, case, folder / f"{found}.npz", keep)
            found += 1
        for row in entry.rows:
            if error is not None and not _is_there(result_path(output, case.name, row), again=True):
                save_json(result_path(output, case.name, row), facts | {"method": row, "error": error})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _child(folder: Path, threads: int, package: str | None) -> str | None:
    """Run the request; None, or in one line why it failed."""
    environment = dict(os.environ) | dict.fromkeys(THREAD_VARIABLES, str(threads))
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
    log = folder / "log.txt"
    command = [sys.executable, "-m", "benchmarks.registration.child", str(folder)]
    with log.open("wb") as stream:
        try:
            code = subprocess.run(
                command, cwd=folder, env=environment, stdout=stream, stderr=stream, timeout=LIMIT_S
            ).returncode
        except subprocess.TimeoutExpired:
            return f"took longer than {LIMIT_S / 60:.0f} minutes"
    if code == 0:
        return None
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    last = lines[-1] if lines else "no message"
    if package is not None and last.startswith("ModuleNotFoundError"):
        return f"not installed: {package}"
    return f"failed ({'signal ' + str(-code) if code < 0 else 'exit ' + str(code)}): {last[:200]}"


def _save(output: Path, result: dict[str, Any], case: Case, transform: Path, keep: bool) -> None:
    """Measure and write one result; a transform that cannot be measured is an error like any other."""
    try:
        result |= measure(case, load_transform(transform))
    except Exception as error:  # noqa: BLE001 (whatever a method hands back must not end the run)
        result["error"] = f"its result cannot be measured: {error}"
    path = result_path(output, case.name, result["method"])
    if keep:
        kept = output / "transforms" / f"{path.stem}.npz"
        kept.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(transform, kept)
    save_json(path, result)
