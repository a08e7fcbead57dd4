"""A search whose trials are done by several processes, or by the machines of a Ray cluster: it finds what one finds."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from ray_bench import two_machines
from search_toy import HERE, settings, write_cases
from typer.testing import CliRunner

from hyperreg.automl.ledger import Ledger
from hyperreg.automl.search import JOURNAL, search
from hyperreg.automl.settings import SearchSettings
from hyperreg.cli.app import app
from hyperreg.execution.executors import Place

RAY = find_spec("ray") is not None and sys.platform == "linux"
PLACES = [
    "local", pytest.param("ray", marks=pytest.mark.skipif(not RAY, reason="skipped: needs ray, and Linux"))
]  # fmt: skip


def several(data: Path) -> SearchSettings:
    """Three configurations, of which one goes on; with so much memory every place draws the same."""
    return settings(data, first=3, reduction=3, rounds=0, memory_gb=4.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], float | None]:
    """The scores of a search in one process."""
    out = tmp_path_factory.mktemp("alone")
    search(several(data), out, HERE)
    return scores(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as made:
        yield made


@pytest.fixture
def place(request: pytest.FixtureRequest) -> Place:
    if request.param == "local":
        return Place(jobs=2, device="cpu")
    address = request.getfixturevalue("cluster").address
    return Place("ray", device="cpu", address=address, memory_gb=0.05)


def scores(folder: Path) -> dict[tuple[str, int], float | None]:
    """(trial, steps) -> score of everything that was run; each once."""
    records = Ledger(folder / JOURNAL).records()
    found = {(record.key, record.steps): record.score for record in records}
    assert len(found) == len(records)
    return found


def same(found: dict[tuple[str, int], float | None], wanted: dict[tuple[str, int], float | None]) -> bool:
    """Up to what the order of sums in several threads changes."""
    return found == {key: pytest.approx(score, rel=1e-3) for key, score in wanted.items()}


def test_a_process_that_is_killed_costs_nothing(
    data: Path, tmp_path: Path, alone: dict[tuple[str, int], float | None]
) -> None:
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for child in multiprocessing.active_children()[:1]:
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
                killed.append(child.pid)
            time.sleep(0.05)

    threading.Thread(target=kill, daemon=True).start()
    found = search(several(data), tmp_path / "run", Place(jobs=2, device="cpu"))
    assert killed
    assert same(scores(tmp_path / "run"), alone)
    assert found.card.name == "toy-search"


@pytest.mark.skipif(not RAY, reason="skipped: needs ray, and Linux")
def test_a_machine_that_is_lost_costs_nothing(
    cluster: Any, data: Path, tmp_path: Path, alone: dict[tuple[str, int], float | None]
) -> None:
    third = cluster.add_node(num_cpus=1)
    begun: list[str] = []

    def told(_fraction: float, text: str) -> None:
        if "random" in text:
            begun.append(text)
            if len(begun) == 3:
                # As a power cut, with trials on it.
                cluster.remove_node(third, allow_graceful=False)

    there = Place("ray", device="cpu", address=cluster.address, memory_gb=0.05)
    found = search(several(data), tmp_path / "run", there, progress=told)
    assert len(begun) >= 3
    assert same(scores(tmp_path / "run"), alone)
    assert found.card.name == "toy-search"


DRIVER = """
import sys
from pathlib import Path
from test_automl_machines import several
from hyperreg.automl.search import search
from hyperreg.execution.executors import Place

if __name__ == "__main__":
    data, out, kind, address, resume = sys.argv[1:]
    place = Place(kind, 2, "cpu", address or None, memory_gb=0.05)
    search(several(Path(data)), Path(out), place, bool(resume))
"""


@pytest.mark.parametrize("place", PLACES, indirect=True)
def test_a_driver_that_is_killed_and_started_again_ends_with_the_same_ledger(
    place: Place, data: Path, tmp_path: Path, alone: dict[tuple[str, int], float | None]
) -> None:
    script, out = tmp_path / "driver.py", tmp_path / "run"
    script.write_text(DRIVER, encoding="utf-8")
    paths = [str(Path(__file__).parents[3]), str(Path(__file__).parent), str(Path(__file__).parents[1] / "helpers")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(script), str(data), str(out), place.kind, place.address or ""]
    driver = subprocess.Popen([*command, ""], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    journal = out / JOURNAL
    while not (journal.exists() and "by_class" in journal.read_text(encoding="utf-8")):
        assert driver.poll() is None
        time.sleep(0.05)
    driver.kill()
    driver.wait()
    before = scores(out)
    assert 0 < len(before) < len(alone)
    again = subprocess.run([*command, "resume"], env=environment, capture_output=True, text=True, timeout=300)
    assert again.returncode == 0, again.stderr
    after = scores(out)
    assert {key: after[key] for key in before} == before
    assert same(after, alone)


def test_a_dead_cluster_is_told_before_anything_is_prepared(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="skipped: ray is not installed (pip install 'hyperreg[ray]')")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        arguments = ["search", "--data", str(data), "--name", "toy-search", "--budget", "1h", "--address", address]
        out = tmp_path / "run"
        found = CliRunner().invoke(app, [*arguments, "--out", str(out), "--executor", "ray"])
        assert found.exit_code == 6 and "No Ray cluster answers" in found.output
        found = CliRunner().invoke(app, [*arguments, "--out", str(out)])
        assert found.exit_code == 2 and "add --executor ray" in found.output.replace("\n", " ")
    assert not out.exists()
