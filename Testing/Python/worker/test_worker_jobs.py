"""Jobs from client to server and back: arrays, progress, streams, cancelling, failures; with a stand-in worker."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from worker_bench import LONG_S, folders, is_running, segments, wait_until

from hyperreg.errors import Cancelled, InputError, OutOfMemory, WorkerError
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job


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


def test_a_job_that_does_not_listen_is_ended_with_its_children_and_the_others_run(
    client: WorkerClient, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    job = client.submit("stubborn", {"pid_file": str(pid_file)})
    array = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    behind = client.submit("echo", {"n": 0}, {"a": array}, outputs={"a": (array.shape, np.float64)})
    also = client.submit("echo", stream="old")
    wait_until(client, lambda: pid_file.exists() and pid_file.read_text() != "")
    worker, child = client.pid, int(pid_file.read_text())
    assert worker is not None
    assert is_running(child)
    places = folders(client)
    job.cancel()
    after = client.submit("echo", {"n": 1}, stream="new")
    also.cancel()
    assert job.wait(LONG_S)
    assert job.state == "cancelled"
    for asked in (behind, after):
        assert asked.wait(LONG_S), "what was not cancelled runs, asked for before or after"
        assert (asked.state, asked.error, asked.generation) == ("done", "", 2)
    np.testing.assert_array_equal(behind.arrays["a"], 2 * array)
    assert also.state == "cancelled"
    assert (after.result["parameters"], client.generation) == ({"n": 1}, 2)
    wait_until(client, lambda: not is_running(worker) and not is_running(child))
    assert folders(client) == places
    assert segments(client) == []
    client.stop()
    assert not any(place.exists() for place in places)


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


def test_a_request_longer_than_a_message_is_refused_here(client: WorkerClient) -> None:
    with pytest.raises(WorkerError, match="too long"):
        client.submit("echo", {"text": "x" * (2 << 20)}, {"a": np.zeros(10)})
    assert segments(client) == []
