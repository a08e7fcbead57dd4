"""Client and server together: jobs, streams, cancelling, dying, shared memory; with a stand-in for the worker."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from hyperreg.errors import Cancelled, InputError, OutOfMemory, WorkerError
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.process import LOG_BYTES
from hyperreg.worker.protocol import encode_object

STAND_IN = Path(__file__).with_name("stand_in_worker.py")
LONG_S = 300


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    client = WorkerClient(arguments=[str(STAND_IN)])
    yield client
    client.stop()


def wait_until(client: WorkerClient, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        client.poll()
        assert time.monotonic() < deadline, f"nothing happened; the worker's log: {client.log}"
        time.sleep(0.005)


def folders(client: WorkerClient) -> list[Path]:
    assert client._link is not None
    return list(client._link.workspace.folders)


def segments(client: WorkerClient) -> list[str]:
    """Names of shared memory that still exist (the lock and the log of each client stay)."""
    return [path.name for folder in folders(client) for path in folder.iterdir() if len(path.name) == 32]


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        np.arange(24, dtype=np.int16).reshape(2, 3, 4).T,
        np.arange(48, dtype=np.uint8).reshape(4, 3, 4)[::2, ::-1],
        np.arange(24, dtype=">f8").reshape(2, 3, 4),
        np.array([[True, False]]),
    ],
    ids=["float32", "transposed", "strided", "big-endian", "bool"],
)
def test_arrays_and_parameters_cross_unchanged(client: WorkerClient, array: np.ndarray) -> None:
    parameters = {"text": "λ", "numbers": [1, 2.5, None, True], "nested": {"a": {}}}
    outputs = {"image": (array.shape, np.float64)}
    job = client.submit("echo", parameters, {"image": array}, outputs=outputs)
    assert job.state == "queued"
    assert job.wait(LONG_S)
    assert job.check() == {"parameters": parameters, "writable": [False]}
    np.testing.assert_array_equal(job.arrays["image"], 2.0 * array)
    np.testing.assert_array_equal(job.inputs["image"], array)


def test_arrays_stay_valid_after_their_names_and_the_worker_are_gone(client: WorkerClient) -> None:
    array = np.random.default_rng(0).normal(size=(30, 40, 50)).astype(np.float32)
    job = client.submit("echo", arrays={"a": array}, outputs={"a": (array.shape, "<f4")})
    assert len(segments(client)) == 2
    assert job.wait(LONG_S)
    assert segments(client) == []
    places = folders(client)
    client.stop()
    assert not any(place.exists() for place in places)
    np.testing.assert_array_equal(job.arrays["a"], 2 * array)


@pytest.mark.parametrize(
    "array",
    [np.array(["a"]), np.array([object()]), np.array([1j]), np.zeros((0, 3)), np.float64(3)],
    ids=["text", "object", "complex", "empty", "scalar"],
)
def test_arrays_that_are_no_numbers_are_refused_and_leave_nothing(client: WorkerClient, array: np.ndarray) -> None:
    with pytest.raises(InputError, match="real numbers"):
        client.submit("echo", arrays={"good": np.zeros(5), "bad": array})
    assert segments(client) == []
    with pytest.raises(InputError, match="not plain"):
        client.submit("echo", {"value": float("nan")})
    assert client.submit("echo").wait(LONG_S)


def test_progress_rises_and_callbacks_come_from_poll(client: WorkerClient) -> None:
    told: list[tuple[float, str]] = []
    ended: list[Job] = []
    job = client.submit("count", {"steps": 30})
    job.on_progress = lambda fraction, text: told.append((fraction, text))
    job.on_done = ended.append
    job.on_failed = job.on_cancelled = lambda job: pytest.fail(job.error)
    states: set[str] = set()
    while not job.ended:
        client.poll()
        states.add(job.state)
    assert ended == [job]
    assert states == {"queued", "running", "done"}
    fractions = [fraction for fraction, _ in told]
    assert len(fractions) >= 2
    assert fractions == sorted(set(fractions))
    assert told[0] == (0.0, "Step 0")
    assert job.progress == told[-1]


def test_an_exception_in_a_callback_loses_no_other_answer(client: WorkerClient) -> None:
    first, second = client.submit("echo"), client.submit("echo")

    def burst(job: Job) -> None:
        raise ZeroDivisionError

    first.on_done = burst
    with pytest.raises(ZeroDivisionError):
        second.wait(LONG_S)
    assert second.wait(LONG_S)
    assert (first.state, second.state) == ("done", "done")


def test_newer_requests_of_a_stream_supersede_older_ones(client: WorkerClient) -> None:
    running = client.submit("count", {"steps": 1000}, stream="a")
    wait_until(client, lambda: running.state == "running")
    other = client.submit("echo", {"n": 0}, stream="b")
    free = client.submit("echo", {"n": 1})
    waiting = [client.submit("echo", {"n": n}, stream="a") for n in range(2, 6)]
    dropped: list[Job] = []
    waiting[0].on_cancelled = dropped.append
    assert waiting[-1].wait(LONG_S)
    assert running.state == "superseded"
    assert [job.state for job in waiting] == ["superseded"] * 3 + ["done"]
    assert dropped == waiting[:1]
    assert waiting[-1].result["parameters"] == {"n": 5}
    assert (other.state, free.state) == ("done", "done")
    with pytest.raises(Cancelled):
        waiting[0].check()


def test_a_running_job_is_cancelled_within_a_second_by_asking_it(client: WorkerClient) -> None:
    job = client.submit("count", {"steps": 3000})
    wait_until(client, lambda: job.state == "running")
    pid = client.pid
    started = time.monotonic()
    job.cancel()
    assert job.state == "cancelling"
    assert job.wait(LONG_S)
    assert time.monotonic() - started < 3
    assert job.state == "cancelled"
    assert job.error == ""
    assert client.submit("echo").wait(LONG_S)
    assert (client.pid, client.generation) == (pid, 1), "a job that listens needs no new worker"


def test_a_job_that_does_not_listen_is_ended_with_its_children(client: WorkerClient, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    job = client.submit("stubborn", {"pid_file": str(pid_file)})
    behind = client.submit("echo")
    wait_until(client, lambda: pid_file.exists() and pid_file.read_text() != "")
    worker, child = client.pid, int(pid_file.read_text())
    assert worker is not None
    assert is_running(child)
    places = folders(client)
    started = time.monotonic()
    job.cancel()
    assert job.wait(LONG_S)
    assert time.monotonic() - started < 3
    assert job.state == "cancelled"
    assert behind.wait(LONG_S)
    assert behind.state == "failed"
    assert "ended" in behind.error
    deadline = time.monotonic() + 10
    while (is_running(worker) or is_running(child)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not is_running(worker)
    assert not is_running(child)
    assert not any(place.exists() for place in places)
    again = client.submit("echo", {"n": 1})
    assert again.wait(LONG_S)
    assert again.state == "done"
    assert client.generation == 2


def test_waiting_and_unsent_jobs_are_cancelled_without_the_worker(client: WorkerClient) -> None:
    unsent = client.submit("echo")
    unsent.cancel()
    client.poll()
    assert unsent.state == "cancelled"
    running = client.submit("count", {"steps": 3000})
    waiting = client.submit("echo")
    wait_until(client, lambda: running.state == "running")
    waiting.cancel()
    assert waiting.wait(3)
    assert waiting.state == "cancelled"
    assert running.state == "running"
    waiting.cancel()
    assert waiting.state == "cancelled"
    running.cancel()
    assert running.wait(LONG_S)


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("input", InputError, "'head' is empty: every voxel has the same value."),
        ("memory", OutOfMemory, "Not enough memory"),
        ("unexpected", WorkerError, "ZeroDivisionError"),
        ("not-plain", WorkerError, "not plain data"),
    ],
)
def test_failures_arrive_as_what_they_are(client: WorkerClient, how: str, kind: type[Exception], message: str) -> None:
    job = client.submit("fail", {"how": how})
    failed: list[Job] = []
    job.on_failed = failed.append
    assert job.wait(LONG_S)
    assert job.state == "failed"
    assert failed == [job]
    assert message in job.error
    assert "Traceback" in job.details
    with pytest.raises(kind):
        job.check()
    assert client.submit("echo").wait(LONG_S)
    assert client.generation == 1


def test_an_unknown_operation_is_refused(client: WorkerClient) -> None:
    job = client.submit("erase_disk")
    assert job.wait(LONG_S)
    assert "no operation 'erase_disk'" in job.error


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"signal": int(signal.SIGKILL)}, "most likely because memory ran out"),
        ({"signal": int(signal.SIGSEGV)}, "exit code -11"),
        ({"code": 3}, "exit code 3"),
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
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(client, lambda: not client.alive)
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


def test_a_request_longer_than_a_message_is_refused_here(client: WorkerClient) -> None:
    with pytest.raises(WorkerError, match="too long"):
        client.submit("echo", {"text": "x" * (2 << 20)}, {"a": np.zeros(10)})
    assert segments(client) == []


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
    assert job.result["threads"] == "1"
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


def test_the_worker_started_by_hand_says_what_it_is() -> None:
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    command = [sys.executable, "-m", "hyperreg.worker"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG_S)
    assert ended.returncode == 1
    assert "hyperreg --help" in ended.stderr


def test_the_client_imports_no_torch() -> None:
    code = (
        "import sys, hyperreg, hyperreg.worker.client, hyperreg.worker.live\n"
        "heavy = {'torch', 'SimpleITK', 'monai', 'scipy', 'nibabel', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    environment = {**os.environ, "PYTHONPATH": str(STAND_IN.parents[2])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=LONG_S)
