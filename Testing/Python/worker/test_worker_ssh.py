"""The worker on another computer: everything but ssh itself is real, which starts its program here instead."""

from __future__ import annotations

import io
import os
import queue
import re
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from worker_bench import (
    LONG_S,
    Observed,
    assert_fields,
    fill,
    folders,
    is_running,
    prepare,
    segments,
    wait_until,
)

from hyperreg.errors import InputError, WorkerError
from hyperreg.mrml.computer import Computer
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.protocol import ProtocolError
from hyperreg.worker.ssh import wire
from hyperreg.worker.ssh.address import host_of, ssh_command
from hyperreg.worker.ssh.wire import Wire

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="skipped: the stand-in for ssh is a shell script")
FAR = Path(__file__).parents[1] / "helpers" / "far_stand_in.py"


@pytest.fixture(autouse=True)
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "bin" / "ssh"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec setsid "{sys.executable}" "{FAR}" "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")


@pytest.fixture
def to() -> Iterator[Callable[[str], WorkerClient]]:
    """to(address): a client that computes there."""
    made: list[WorkerClient] = []

    def connect(address: str) -> WorkerClient:
        made.append(WorkerClient(address=address))
        return made[-1]

    yield connect
    for client in made:
        client.stop()


def far_pid(client: WorkerClient) -> int:
    (pid,) = re.findall(r"far end (\d+)", client.log)
    return int(pid)


def test_arrays_and_parameters_come_back_from_there(to: Callable[[str], WorkerClient]) -> None:
    client = to("me@there")
    array = np.random.default_rng(0).normal(size=(130, 140, 150)).astype(np.float32)
    flipped = np.arange(24, dtype=np.int16).reshape(2, 3, 4)[::-1].T
    parameters = {"text": "λ", "numbers": [1, 2.5, None, True]}
    outputs = {"large": (array.shape, "<f4"), "small": (flipped.shape, "<f8")}
    job = client.submit("echo", parameters, {"large": array, "small": flipped}, outputs=outputs)
    assert job.wait(LONG_S)
    assert job.check() == {"parameters": parameters, "writable": [False, False]}
    np.testing.assert_array_equal(job.arrays["large"], 2 * array)
    np.testing.assert_array_equal(job.arrays["small"], 2.0 * flipped)
    assert segments(client) == []


def test_what_is_told_on_the_way_comes_with_its_arrays(to: Callable[[str], WorkerClient]) -> None:
    job = to("there").submit("halfway", {}, outputs={"a": ((40, 50, 60), "<i4")})
    seen: list[tuple[int, int, int]] = []
    job.on_event = lambda _event, values: seen.append(
        (values["value"], int(job.arrays["a"].min()), int(job.arrays["a"].max()))
    )
    assert job.wait(LONG_S)
    job.check()
    assert seen == [(1, 1, 1), (2, 2, 2)]


def test_progress_comes_while_it_works(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    job = client.submit("count", {"steps": 30})
    seen: list[float] = []
    job.on_progress = lambda fraction, _text: seen.append(fraction)
    assert job.wait(LONG_S)
    job.check()
    assert seen == sorted(seen)
    assert seen[-1] > 0.3


@pytest.mark.parametrize("address", ["there", "chatty", "me@there:hyperreg"])
def test_lambda_is_dragged_with_fields_from_there(to: Callable[[str], WorkerClient], address: str) -> None:
    client = to(address)
    live = Observed(client)
    live.set_lambda(0.2)
    prepare(client, live)
    for lam in (0.9, 0.4, 0.31):
        live.set_lambda(lam)
    wait_until(client, lambda: live.solved_lam == 0.31, lambda: live.events)
    fill(client, live)
    assert_fields(live, 0.31)
    assert live.errors == []


def test_a_running_operation_there_is_cancelled_by_asking_it(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    job = client.submit("count", {"steps": 10000})
    wait_until(client, lambda: job.progress[0] > 0)
    job.cancel()
    assert job.wait(LONG_S)
    assert job.state == "cancelled"
    assert client.generation == 1, "it was asked, not ended"
    assert client.submit("echo", {}).wait(LONG_S)


def test_images_on_their_way_are_given_up_at_once(to: Callable[[str], WorkerClient]) -> None:
    client = to("deaf")
    first = client.submit("echo", {}, {"a": np.zeros((200, 200, 200))})
    second = client.submit("echo", {}, {"a": np.zeros(5)})
    wait_until(client, lambda: client.pid is not None)
    for job in (first, second):
        job.cancel()
        assert job.wait(LONG_S)
        assert job.state == "cancelled"
    assert client.generation == 1, "no worker was ended for it"


def test_what_does_not_listen_there_is_ended_and_the_next_request_runs(
    to: Callable[[str], WorkerClient], tmp_path: Path
) -> None:
    client = to("there")
    child = tmp_path / "child"
    deaf = client.submit("stubborn", {"pid_file": str(child)})
    wait_until(client, lambda: child.exists() and bool(child.read_text()))
    other = far_pid(client)
    waiting = client.submit("echo", {"n": 1})
    deaf.cancel()
    assert waiting.wait(LONG_S)
    assert waiting.check()["parameters"] == {"n": 1}
    assert deaf.state == "cancelled"
    wait_until(client, lambda: not is_running(other) and not is_running(int(child.read_text())))


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("locked", ["'locked' cannot be reached by ssh", "Permission denied", "ssh locked"]),
        ("there:/opt/none", ["not found on 'there' as '/opt/none'", "there:/folder/bin/hyperreg"]),
        ("older", ["'older' has HyperReg 0.0.1", "same version"]),
        ("mute", ["HyperReg on 'mute' did not answer"]),
    ],
)
def test_why_there_is_no_connection_is_said(to: Callable[[str], WorkerClient], address: str, words: list[str]) -> None:
    client = to(address)
    job = client.submit("echo", {})
    assert job.wait(LONG_S)
    with pytest.raises(WorkerError) as caught:
        job.check()
    for word in words:
        assert word in str(caught.value)


def test_without_ssh_here_that_is_said(to: Callable[[str], WorkerClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    job = to("there").submit("echo", {})
    assert job.wait(LONG_S)
    assert "reached by ssh, which cannot be started here" in job.error


@pytest.mark.parametrize(
    "address", ["-oProxyCommand=evil", "a b", "there:$(evil)", "there:a;b", "there:", "", "@", "the\nre", "user@-x:y z"]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InputError, match="not the address of a computer"):
        ssh_command(address)


def test_an_address_and_its_program() -> None:
    assert host_of(" me@gpu.hospital:~/hyperreg/.venv/bin/hyperreg ") == "me@gpu.hospital"
    assert ssh_command("me@gpu:~/bin/hyperreg")[-3:] == ["--", "me@gpu", "~/bin/hyperreg worker"]
    assert ssh_command("gpu")[-2:] == ["gpu", "hyperreg worker"]


def test_the_connection_is_lost_and_the_next_lambda_connects_again(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    live = Observed(client)
    live.set_lambda(0.2)
    prepare(client, live)
    fill(client, live)
    lost = far_pid(client)
    os.kill(lost, signal.SIGKILL)
    wait_until(client, lambda: not client.alive)
    client.poll()
    live.set_lambda(0.77)
    wait_until(client, lambda: live.solved_lam == 0.77, lambda: (live.events, live.errors))
    assert_fields(live, 0.77)
    assert client.generation == 2
    assert far_pid(client) != lost


def test_a_request_that_is_on_its_way_when_the_connection_is_lost_says_so(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    job = client.submit("count", {"steps": 10000})
    wait_until(client, lambda: job.progress[0] > 0)
    os.kill(far_pid(client), signal.SIGKILL)
    assert job.wait(LONG_S)
    assert "The connection to 'there' was lost" in job.error


def test_a_worker_that_dies_there_is_known_here(to: Callable[[str], WorkerClient]) -> None:
    """Else the application would believe that its pair is still prepared there."""
    client = to("there")
    assert client.submit("echo", {}).wait(LONG_S)
    job = client.submit("end", {"code": 3})
    assert job.wait(LONG_S)
    assert "engine" in job.error
    wait_until(client, lambda: not client.alive)
    client.poll()
    assert client.submit("echo", {}).wait(LONG_S)
    assert client.generation == 2


def test_what_needs_files_of_this_computer_is_not_sent(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    job = client.submit("atlases", {"folder": "/"})
    assert job.wait(LONG_S)
    with pytest.raises(InputError, match="files of this computer, while HyperReg computes on 'there'"):
        job.check()


def test_nothing_is_left_anywhere_when_the_application_is_killed() -> None:
    script = (
        "import sys, time\n"
        "from hyperreg.worker.client import WorkerClient\n"
        "client = WorkerClient(address='there')\n"
        "assert client.submit('echo', {}).wait(60)\n"
        "print(client.pid, *client._link.workspace.folders, sep='\\n')\n"
        "print(client.log, flush=True)\n"
        "time.sleep(600)\n"
    )
    application = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert application.stdout is not None
    lines = [application.stdout.readline().strip()]
    while "far end" not in lines[-1]:
        lines.append(application.stdout.readline().strip())
    near, far = int(lines[0]), int(lines[-1].split()[-1])
    application.kill()
    application.wait()
    deadline = time.monotonic() + LONG_S
    while is_running(near) or is_running(far) or any(Path(line).exists() for line in lines[1:-1] if line):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    application.stdout.close()


def test_the_choice_is_tried_at_once_and_takes_effect_with_the_next_request(to: Callable[[str], WorkerClient]) -> None:
    client = WorkerClient(arguments=[str(FAR.with_name("stand_in_worker.py"))])
    told: list[str] = []
    computer = Computer(client, told.append)
    live = Observed(client)
    live.set_lambda(0.2)
    prepare(client, live)
    fill(client, live)
    computer.choose(" there ")
    wait_until(client, lambda: any(text.startswith("Connected: CPU") for text in told), lambda: told)
    assert computer.address == "there"
    live.set_lambda(0.6)
    wait_until(client, lambda: live.solved_lam == 0.6, lambda: live.events)
    assert_fields(live, 0.6)
    fill(client, live)
    computer.choose("no address")
    assert "not the address" in told[-1]
    assert computer.address == "there"
    job = client.submit("count", {"steps": 10000})
    computer.choose("")
    assert "Something is being computed" in told[-1]
    job.cancel()
    assert job.wait(LONG_S)
    computer.choose("locked")
    wait_until(client, lambda: "Permission denied" in told[-1], lambda: told)
    client.stop()


def test_memory_of_both_computers_is_freed(to: Callable[[str], WorkerClient]) -> None:
    client = to("there")
    assert client.submit("echo", {}, {"a": np.zeros((50, 50, 50))}).wait(LONG_S)
    far, places = far_pid(client), folders(client)
    client.stop()
    wait_until(client, lambda: not is_running(far))
    assert not any(place.exists() for place in places)


# The wire


def frame(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">BI", kind, len(body)) + body


MESSAGE, HEAD, DATA, ABANDONED, ALIVE = range(5)


def received(data: bytes, size: int = 8) -> list[dict[str, object]]:
    """What a wire makes of these bytes, each message with an array of that many bytes."""
    end = Wire(io.BytesIO(data), io.BytesIO(), lambda: None)
    return list(end.receive(lambda _content: [np.zeros(size, np.uint8)]))


def test_short_messages_overtake_arrays() -> None:
    head, short = frame(HEAD, b'{"n":1}'), frame(MESSAGE, b'{"n":2}')
    data = head + frame(DATA, b"1234") + short + frame(ALIVE) + frame(DATA, b"5678")
    assert received(data) == [{"n": 2}, {"n": 1}]
    abandoned = head + frame(DATA, b"1234") + frame(ABANDONED) + frame(HEAD, b'{"n":3}') + frame(DATA, b"x" * 8)
    assert received(abandoned) == [{"n": 3}]
    assert received(head + frame(DATA, b"1234")) == [], "the other end is gone before all was there"


@pytest.mark.parametrize(
    "data",
    [
        frame(DATA, b"1234"),
        frame(HEAD, b"{}") + frame(DATA, b"x" * 9),
        frame(HEAD, b"{}") + frame(HEAD, b"{}"),
        frame(MESSAGE, b"[1]"),
        frame(MESSAGE, b"not json"),
        frame(MESSAGE, b'{"a": NaN}'),
        frame(ALIVE, b"x"),
        frame(9),
        struct.pack(">BI", MESSAGE, 1 << 31),
    ],
    ids=["data-alone", "too-long", "two-heads", "list", "text", "nan", "alive-with-body", "kind", "huge"],
)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        received(data)


def test_an_end_that_is_silent_is_given_up_and_one_that_has_nothing_to_say_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wire, "ALIVE_S", 0.1)
    monkeypatch.setattr(wire, "SILENCE_S", 2.5)
    lost: queue.SimpleQueue[str] = queue.SimpleQueue()
    one_read, other_write = os.pipe()
    other_read, one_write = os.pipe()
    streams = [os.fdopen(one_read, "rb", 0), os.fdopen(one_write, "wb", 0)]
    others = [os.fdopen(other_read, "rb", 0), os.fdopen(other_write, "wb", 0)]
    one = Wire(streams[0], streams[1], lambda: lost.put("one"))
    other = Wire(others[0], others[1], lambda: lost.put("other"))
    one.start()
    threading.Thread(target=lambda: list(one.receive(lambda _: ())), daemon=True).start()
    other.start()  # speaks, and does not read: to itself the first one is silent
    assert lost.get(timeout=LONG_S) == "other"
    with pytest.raises(queue.Empty):
        lost.get(timeout=1.0)
