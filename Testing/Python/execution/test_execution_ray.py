"""Tasks by Ray: several machines on this one, one of them lost; a driver killed; dead, silent and other clusters."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_pair import run
from ray_bench import IMPORTED, SMALL, two_machines

from hyperreg.errors import Cancelled, HyperRegError, InputError, WorkerError
from hyperreg.execution.executors import Place
from hyperreg.execution.ray_executor import RayExecutor
from hyperreg.imaging.output import replacing

ray = pytest.importorskip("ray", reason="skipped: ray is not installed (pip install 'hyperreg[ray]')")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="skipped: a cluster on one machine needs Linux")


@dataclass(frozen=True)
class Step:
    """A toy task: writes its result once, into a folder, and keeps a book of what was begun and done."""

    name: str
    folder: Path
    seconds: float = 0.3
    how: str = ""


def do_step(task: Step, progress: Any, cancelled: Any) -> str:
    if task.how == "wrong":
        raise InputError("not this one")
    if task.how == "dies":
        os._exit(7)
    target = task.folder / f"{task.name}.txt"
    if target.exists():
        return "done before"
    note(task, "begun")
    time.sleep(task.seconds)
    with replacing(target) as path:
        path.write_text(task.name, encoding="utf-8")
    note(task, "done")
    return "done"


def note(task: Step, what: str) -> None:
    with (task.folder / "book").open("a", encoding="utf-8") as file:
        file.write(f"{what} {task.name} {os.environ.get('RAY_RAYLET_PID', '0')}\n")


def book(folder: Path, what: str) -> list[str]:
    path = folder / "book"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return sorted(line.split()[1] for line in lines if line.startswith(what))


def check_once(folder: Path, found: dict[str, str]) -> None:
    """Every task has its result, and none was done twice; a kill may come between a result and its line in the book."""
    done = book(folder, "done")
    assert sorted(path.stem for path in folder.glob("*.txt")) == sorted(found)
    assert len(done) == len(set(done))
    assert all(found[name] == "done before" for name in set(found) - set(done))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with two_machines() as made:
        yield made


def place(cluster: Any, **more: Any) -> Place:
    return Place("ray", address=cluster.address, **{**SMALL, **more})


def outcomes(executor: RayExecutor, tasks: list[Step]) -> dict[str, str]:
    told = executor.results(do_step, tasks, lambda *_told: None)
    return {task.name: type(one).__name__ if isinstance(one, HyperRegError) else one for task, one in told}


def test_tasks_are_done_once_by_both_machines_and_known_again(cluster: Any, tmp_path: Path) -> None:
    steps = [Step(f"s{n}", tmp_path) for n in range(8)]
    steps += [Step("wrong", tmp_path, how="wrong")]
    for expected in ("done", "done before"):
        with place(cluster).open() as executor:
            found = outcomes(executor, steps)
        assert found == {**{f"s{n}": expected for n in range(8)}, "wrong": "InputError"}
    assert book(tmp_path, "done") == book(tmp_path, "begun") == [f"s{n}" for n in range(8)]
    raylets = {line.split()[2] for line in (tmp_path / "book").read_text(encoding="utf-8").splitlines()}
    assert len(raylets) == 2


def test_a_machine_that_is_lost_loses_no_task(cluster: Any, tmp_path: Path) -> None:
    third = cluster.add_node(num_cpus=1)
    steps = [Step(f"s{n}", tmp_path, seconds=1.0) for n in range(9)]
    with place(cluster).open() as executor:
        found: dict[str, str] = {}
        for task, result in executor.results(do_step, steps, lambda *_told: None):
            assert isinstance(result, str)
            found[task.name] = result
            if len(found) == 3:
                # As a power cut: neither the machine's manager nor its workers can say anything any more.
                cluster.remove_node(third, allow_graceful=False)
    assert set(found) == {step.name for step in steps}
    check_once(tmp_path, found)
    assert len(book(tmp_path, "begun")) >= len(found)


DRIVER = """
import sys
from pathlib import Path
from ray_bench import SMALL
from test_execution_ray import Step, do_step
from hyperreg.execution.executors import Place

steps = [Step(f"s{n}", Path(sys.argv[2]), seconds=1.0) for n in range(8)]
with Place("ray", address=sys.argv[1], **SMALL).open() as executor:
    for task, result in executor.results(do_step, steps, lambda *told: None):
        print(task.name, result, flush=True)
"""


def test_a_driver_that_is_killed_and_started_again_does_what_is_missing(cluster: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-c", DRIVER, cluster.address, str(tmp_path)]
    driver = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert driver.stdout is not None
    # Ray itself has something to say there on the machine that was lost before.
    told = (line for line in driver.stdout if re.match(r"s\d done", line))
    first = [next(told) for _ in range(2)]
    driver.kill()
    driver.wait()
    driver.stdout.close()
    assert [line.split()[1] for line in first] == ["done", "done"]
    again = subprocess.run(command, capture_output=True, text=True, timeout=120)
    lines = dict(re.findall(r"^(s\d) (done.*)$", again.stdout, flags=re.MULTILINE))
    assert set(lines) == {f"s{n}" for n in range(8)}
    assert list(lines.values()).count("done before") >= 2
    check_once(tmp_path, lines)


def test_a_cancellation_ends_what_runs(cluster: Any, tmp_path: Path) -> None:
    steps = [Step(f"s{n}", tmp_path, seconds=60.0) for n in range(4)]
    with place(cluster).open() as executor, pytest.raises(Cancelled):
        list(executor.results(do_step, steps, lambda *_told: None, lambda: len(book(tmp_path, "begun")) >= 2))
    assert book(tmp_path, "done") == []


def test_a_task_that_kills_its_worker_fails_alone(cluster: Any, tmp_path: Path) -> None:
    with place(cluster).open() as executor:
        found = outcomes(executor, [Step("a", tmp_path), Step("dies", tmp_path, how="dies"), Step("b", tmp_path)])
    assert found == {"a": "done", "b": "done", "dies": "OutOfMemory"}


def test_what_no_machine_can_do_is_refused(cluster: Any) -> None:
    with pytest.raises(InputError, match="needs 3 CPUs, 0 GPUs"), place(cluster, cpus=3.0).open():
        pass
    with pytest.raises(InputError, match=r"0\.5 GPUs"), place(cluster, gpus=0.5).open():
        pass
    assert not ray.is_initialized()


def test_another_hyperreg_on_the_machines_is_told(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyperreg.__version__", "99.0.0")
    with pytest.raises(InputError, match=r"has HyperReg \d.*99\.0\.0"), place(cluster).open() as executor:
        outcomes(executor, [Step("a", tmp_path)])


def test_machines_without_the_code_are_told(cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lonely.py").write_text("def work(task, progress, cancelled):\n    return 1\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from lonely import work  # type: ignore[import-not-found]

    with place(cluster).open() as executor, pytest.raises(WorkerError, match=r"cannot load HyperReg.*lonely"):
        list(executor.results(work, [Step("a", tmp_path)], lambda *_told: None))


@pytest.fixture(scope="module")
def other_version() -> Iterator[str]:
    """The address of a cluster that says to run another version of Ray."""
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setattr("ray.__version__", "2.0.0")
        made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield made.address
        made.shutdown()


def test_a_cluster_of_another_version_is_refused(other_version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"other versions.*2\.0\.0"), Place("ray", address=other_version).open():
        pass


def test_a_dead_address_is_told_at_once() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(WorkerError, match=f"No Ray cluster answers at '{address}'"):
            Place("ray", address=address).open().__enter__()
    for wrong in ("somewhere", "ray://here:10001", "host:port"):
        with pytest.raises(InputError, match="give HOST:PORT"):
            Place("ray", address=wrong).open().__enter__()


def test_something_else_at_the_address_is_told_within_the_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperreg.execution.ray_executor.PATIENCE", 5.0)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with pytest.raises(WorkerError, match="did not answer as Ray does within 5 s"):
            Place("ray", address=f"127.0.0.1:{silent.getsockname()[1]}").open().__enter__()


def test_without_ray_the_command_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pairs.csv").write_text("fixed,moving\na.nii,b.nii\n", encoding="utf-8")
    monkeypatch.setattr("hyperreg.execution.ray_executor.find_spec", lambda _name: None)
    code = run("cohort", str(tmp_path / "pairs.csv"), "--out", str(tmp_path / "out"), "--executor", "ray")
    assert code == 2
    assert "pip install 'hyperreg[ray]'" in capsys.readouterr().err.replace("\n", " ")


def test_a_cluster_is_started_here_for_the_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", IMPORTED)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    before = signal.getsignal(signal.SIGTERM)
    with Place("ray", jobs=2, **SMALL).open() as executor:
        assert outcomes(executor, [Step("a", tmp_path), Step("b", tmp_path)]) == {"a": "done", "b": "done"}
    assert signal.getsignal(signal.SIGTERM) is before
    assert not ray.is_initialized()
