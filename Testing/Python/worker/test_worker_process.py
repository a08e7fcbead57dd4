"""The worker as a process: its death, its nonsense, its log, its key, its end; what the client does about them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from worker_bench import LONG_S, STAND_IN, folders, is_running, kill_worker, semaphores_of, wait_until

from hyperreg.errors import WorkerError
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.process import EXIT_NO_MEMORY, LOG_BYTES
from hyperreg.worker.protocol import encode_object


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"signal": int(signal.SIGKILL)}, "most likely because memory ran out"),
        ({"signal": int(signal.SIGSEGV)}, "exit code -11"),
        ({"code": 3}, "exit code 3"),
        ({"code": EXIT_NO_MEMORY}, "could not start, most likely because memory ran out"),
    ],
)
def test_a_worker_that_dies_is_explained_and_replaced(
    client: WorkerClient, parameters: dict[str, int], message: str
) -> None:
    job = client.submit("end", parameters, {"a": np.zeros(10)})
    behind = client.submit("echo")
    assert job.wait(LONG_S)
    assert behind.wait(LONG_S)
    assert (job.state, behind.state) == ("failed", "failed")
    assert message in job.error
    assert "next request" in job.error
    assert not client.alive
    if parameters.get("signal") == signal.SIGSEGV:
        assert "Fatal Python error: Segmentation fault" in job.details
        assert "Segmentation fault" in client.log
    again = client.submit("echo", {"n": 1})
    assert again.wait(LONG_S)
    assert again.result["parameters"] == {"n": 1}


def test_a_worker_that_dies_idle_is_replaced_without_a_word(client: WorkerClient) -> None:
    assert client.submit("echo").wait(LONG_S)
    kill_worker(client)
    job = client.submit("echo")
    assert job.wait(LONG_S)
    assert job.state == "done"
    assert client.generation == 2


def test_a_python_that_is_not_there_makes_the_job_fail() -> None:
    client = WorkerClient("/nowhere/python")
    with pytest.raises(WorkerError, match="could not be started"):
        client.start()
    job = client.submit("devices")
    assert job.state == "queued"
    assert job.wait(5)
    assert "/nowhere/python" in job.error
    assert "hyperreg doctor" in job.error
    client.stop()


def test_a_program_that_is_no_worker_makes_the_job_fail() -> None:
    client = WorkerClient(arguments=["-c", "import sys; sys.exit('no module named hyperreg')"])
    job = client.submit("devices")
    assert job.wait(LONG_S)
    assert "exit code 1" in job.error
    assert "no module named hyperreg" in job.details
    client.stop()


LIAR = """
import json, os, socket, struct, sys, time
from pathlib import Path
from hyperreg.worker.connection import WorkerConnection
greeting = json.loads(os.environ["HYPERREG_WORKER"])
connection = WorkerConnection(greeting["port"], greeting["key"])
connection._socket.sendall({junk})
time.sleep(60)
"""


@pytest.mark.parametrize(
    "junk",
    [
        'struct.pack(">I", 1 << 30)',
        'struct.pack(">I", 4) + b"junk"',
        'struct.pack(">I", 20) + b\'{"kind": "unheard"}  \'',
        'struct.pack(">I", 42) + b\'{"kind": "hello", "version": 99, "pid": 5}\'',
    ],
    ids=["oversized", "no json", "unknown", "version"],
)
def test_a_worker_that_talks_nonsense_is_ended(junk: str) -> None:
    client = WorkerClient(arguments=["-c", LIAR.format(junk=junk)])
    job = client.submit("devices")
    assert job.wait(LONG_S)
    assert job.state == "failed"
    assert "refused" in job.error or "another version" in job.error
    assert not client.alive
    client.stop()


def test_a_malformed_request_is_answered_and_the_worker_goes_on(client: WorkerClient) -> None:
    assert client.submit("echo").wait(LONG_S)
    assert client._link is not None
    assert client._link._channel is not None
    job = client.submit("count", {"steps": 20})
    client._link._channel.send_frame(encode_object({"kind": "request", "id": 99, "operation": "../x"}))
    client._link._channel.send_frame(encode_object({"kind": "hello", "version": 1, "pid": 1}))
    assert job.wait(LONG_S)
    assert job.state == "done"
    assert client.generation == 1


def test_an_oversized_request_ends_the_worker_and_the_next_one_works(client: WorkerClient) -> None:
    assert client.submit("echo").wait(LONG_S)
    assert client._link is not None
    assert client._link._channel is not None
    job = client.submit("count", {"steps": 3000})
    client._link._channel.send_frame(b"\xff" * 8)
    assert job.wait(LONG_S)
    assert job.state == "failed"
    assert "was refused" in client.log
    assert client.submit("echo").wait(LONG_S)


def test_the_log_is_bounded_and_keeps_the_end(client: WorkerClient) -> None:
    for _ in range(3):
        assert client.submit("talk", {"lines": 20_000}).wait(LONG_S)
    assert client.submit("talk", {"lines": 3}).wait(LONG_S)
    assert len(client.log) <= LOG_BYTES
    assert client.log.endswith("line 2 " + "x" * 90 + "\n")
    assert (folders(client)[-1] / "worker.log").stat().st_size < 1 << 20
    client.stop()
    assert "line 2 " in client.log


def test_the_key_is_on_no_command_line_and_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda size: "5ec2e7" * 3 + os.urandom(size).hex()[18:])
    client = WorkerClient(arguments=[str(STAND_IN)], environment={"OMP_NUM_THREADS": "1", "OWN": "value"})
    job = client.submit("environment")
    assert job.wait(LONG_S)
    assert "5ec2e7" * 3 not in job.check()["command"]
    assert not any("5ec2e7" * 3 in value for value in job.result["variables"].values())
    assert job.result["variables"]["OWN"] == "value"
    assert job.result["threads"] == job.result["variables"]["MKL_NUM_THREADS"] == "1", "one thread, whoever is asked"
    assert job.result["folder"] == str(folders(client)[-1])
    assert not job.result["torch"], "torch is loaded by the first operation that needs it"
    client.stop()


CLIENT_THAT_IS_KILLED = """
import sys, time
import numpy as np
from hyperreg.worker.client import WorkerClient
client = WorkerClient(arguments=[sys.argv[1]])
job = client.submit("stubborn", {"pid_file": sys.argv[2]}, {"a": np.zeros(1000)})
while job.state != "running":
    client.poll()
print(client.pid, *client._link.workspace.folders, flush=True)
if sys.argv[3] == "wait":
    time.sleep(60)
"""


@pytest.mark.parametrize("how", ["wait", "exit"])
def test_the_worker_never_outlives_its_application(tmp_path: Path, how: str) -> None:
    arguments = [sys.executable, "-c", CLIENT_THAT_IS_KILLED, str(STAND_IN), str(tmp_path / "pid"), how]
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    application = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, env=environment)
    assert application.stdout is not None
    pid, *places = application.stdout.readline().split()
    if how == "wait":
        assert is_running(int(pid))
        assert any(list(Path(place).glob("?" * 32)) for place in places)
        application.kill()
    application.wait(LONG_S)
    deadline = time.monotonic() + 10
    while (is_running(int(pid)) or any(Path(place).exists() for place in places)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(int(pid))
    assert not any(Path(place).exists() for place in places)
    child = tmp_path / "pid"
    if child.exists() and child.read_text() and is_running(int(child.read_text())):
        os.kill(int(child.read_text()), signal.SIGKILL)  # the test's own sleeper, orphaned by the kill


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
@pytest.mark.parametrize("how", ["stop", "cancel"])
def test_a_worker_that_is_ended_leaves_no_semaphores(client: WorkerClient, how: str) -> None:
    job = client.submit("semaphores")
    wait_until(client, lambda: client.pid is not None and len(semaphores_of(client.pid)) > 4)
    assert client.pid is not None
    held = semaphores_of(client.pid)
    if how == "stop":
        client.stop()
    else:
        job.cancel()
        assert job.wait(LONG_S)
    assert [path for path in held if path.exists()] == []


def test_the_worker_started_by_hand_says_what_it_is() -> None:
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    command = [sys.executable, "-m", "hyperreg.worker"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG_S)
    assert ended.returncode == 1
    assert "hyperreg --help" in ended.stderr


def test_the_client_imports_no_torch() -> None:
    code = (
        "import sys, hyperreg, hyperreg.worker.client, hyperreg.worker.live.registration\n"
        "heavy = {'torch', 'SimpleITK', 'monai', 'scipy', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=LONG_S)
