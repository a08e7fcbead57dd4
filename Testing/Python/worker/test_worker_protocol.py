"""Messages, frames and the handshake: what is meant passes, everything else is refused."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from hyperreg.errors import WorkerError
from hyperreg.worker import protocol
from hyperreg.worker.connection import MAX_HANDSHAKE_BYTES, Channel, Reception, WorkerConnection
from hyperreg.worker.protocol import ArraySpec, FrameReader, ProtocolError, encode, encode_object, parse

SEGMENT = "0123456789abcdef" * 2


def array(**changes: object) -> dict[str, object]:
    return {"segment": SEGMENT, "dtype": "<f4", "shape": [3, 4, 5], **changes}


def request(**changes: object) -> dict[str, object]:
    whole: dict[str, object] = {
        "kind": "request",
        "id": 7,
        "operation": "field",
        "stream": "live-1",
        "parameters": {"lambda": 0.25},
        "inputs": {},
        "outputs": {"forward": array()},
    }
    return {**whole, **changes}


@pytest.mark.parametrize(
    "message",
    [
        protocol.Request(1, "field", None, {"lambda": 0.5}, {"a": ArraySpec(SEGMENT, "|u1", (2, 3))}, {}),
        protocol.Cancel(3),
        protocol.Stop(),
        protocol.Hello(1, 4711),
        protocol.Started(2),
        protocol.Progress(2, 0.5, "Aligning λ"),
        protocol.Result(2, {"grid": [1, 2, 3], "none": None}),
        protocol.Failure(2, "InputError", "'head' is empty.", "Traceback"),
        protocol.Ended(2, "superseded"),
    ],
)
def test_messages_survive_the_way(message: protocol.Message) -> None:
    frames = FrameReader()
    data = encode(message)
    found = [content for byte in data for content in frames.feed(bytes([byte]))]
    assert [parse(content, type(message)) for content in found] == [message]


def test_frames_that_arrive_together_are_taken_apart() -> None:
    data = b"".join(encode(protocol.Started(number)) for number in range(5)) + encode(protocol.Stop())[:3]
    assert [content["id"] for content in FrameReader().feed(data)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "body",
    [
        b"not json",
        b"[1, 2]",
        b'"text"',
        b"\xff\xfe",
        b'{"kind": "started", "id": NaN}',
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins\x94.",
    ],
    ids=["text", "list", "string", "bytes", "nan", "nested", "pickle"],
)
def test_what_is_no_json_object_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        FrameReader().feed(struct.pack(">I", len(body)) + body)


def test_an_oversized_frame_is_refused_before_it_is_there() -> None:
    with pytest.raises(ProtocolError, match="refused"):
        FrameReader().feed(struct.pack(">I", protocol.MAX_MESSAGE_BYTES + 1))
    with pytest.raises(ProtocolError, match="too long"):
        encode(protocol.Result(1, {"text": "x" * protocol.MAX_MESSAGE_BYTES}))


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", float("inf"), float("nan")])
def test_only_plain_data_is_sent(value: object) -> None:
    with pytest.raises(ProtocolError, match="plain data"):
        encode(protocol.Result(1, {"value": value}))


def test_a_proper_request_is_taken() -> None:
    taken = parse(request(), protocol.Request)
    assert taken.outputs["forward"].shape == (3, 4, 5)
    assert taken.outputs["forward"].nbytes == 240


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"kind": "unknown"},
        {"kind": ["request"]},
        {"kind": "hello", "version": 1, "pid": 1},
        request(extra=1),
        {name: value for name, value in request().items() if name != "stream"},
        request(id=True),
        request(id=-1),
        request(id=1.5),
        request(id=1 << 60),
        request(operation="../field"),
        request(operation=""),
        request(operation=5),
        request(stream="a b"),
        request(parameters=[1]),
        request(inputs=[array()]),
        request(inputs={"a b": array()}),
        request(inputs={"a": {"segment": SEGMENT}}),
        request(inputs={"a": array(segment="../../etc/passwd")}),
        request(inputs={"a": array(segment="/etc/passwd")}),
        request(inputs={"a": array(segment=SEGMENT + "\n")}),
        request(inputs={"a": array(dtype="O")}),
        request(inputs={"a": array(dtype="|V8")}),
        request(inputs={"a": array(dtype="<f1")}),
        request(inputs={"a": array(dtype="<c8")}),
        request(inputs={"a": array(dtype=None)}),
        request(inputs={"a": array(shape=[])}),
        request(inputs={"a": array(shape=[0, 2])}),
        request(inputs={"a": array(shape=[-1, 2])}),
        request(inputs={"a": array(shape=[2.0])}),
        request(inputs={"a": array(shape=[1 << 40, 1 << 40])}),
        request(inputs={"a": array(shape=[1] * 9)}),
    ],
)
def test_a_malformed_request_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        parse(content, protocol.Request, protocol.Cancel, protocol.Stop)


@pytest.mark.parametrize(
    "content",
    [
        {"kind": "progress", "id": 1, "fraction": 1.5, "text": ""},
        {"kind": "progress", "id": 1, "fraction": "1", "text": ""},
        {"kind": "progress", "id": 1, "fraction": 0.5, "text": "x" * (protocol.MAX_TEXT + 1)},
        {"kind": "ended", "id": 1, "state": "done"},
        {"kind": "failure", "id": 1, "error": "Input Error", "message": "", "details": ""},
        {"kind": "result", "id": 1, "values": []},
    ],
)
def test_a_malformed_answer_is_refused(content: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        parse(content, protocol.Progress, protocol.Ended, protocol.Failure, protocol.Result)


def connect_in_thread(port: int, key: str) -> tuple[threading.Thread, list[object]]:
    outcome: list[object] = []

    def connect() -> None:
        try:
            outcome.append(WorkerConnection(port, key))
        except WorkerError as error:
            outcome.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    return thread, outcome


def poll_until_ended(reception: Reception, thread: threading.Thread) -> Channel | None:
    channel = None
    deadline = time.monotonic() + 20
    while thread.is_alive() and time.monotonic() < deadline:
        channel = channel or reception.poll()
        time.sleep(0.005)
    thread.join(1)
    return channel or reception.poll()


def test_the_right_key_connects_both_ways() -> None:
    reception = Reception("secret")
    thread, outcome = connect_in_thread(reception.port, "secret")
    channel = poll_until_ended(reception, thread)
    assert channel is not None
    connection = outcome[0]
    assert isinstance(connection, WorkerConnection)
    connection.send(protocol.Hello(1, 4711))
    long = protocol.Request(1, "echo", None, {"text": "x" * (10 * MAX_HANDSHAKE_BYTES)})  # a stranger's limit no more
    channel.send(long)
    assert parse(next(connection.contents()), protocol.Request) == long
    deadline = time.monotonic() + 20
    contents: list[dict] = []
    while not contents and time.monotonic() < deadline:
        contents = channel.receive()
    assert [parse(content, protocol.Hello).pid for content in contents] == [4711]
    channel.close()
    assert list(connection.contents()) == []
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", reception.port), timeout=5)


def test_a_wrong_key_is_refused_and_the_right_one_still_gets_in() -> None:
    reception = Reception("secret")
    thread, outcome = connect_in_thread(reception.port, "guess")
    assert poll_until_ended(reception, thread) is None
    assert isinstance(outcome[0], WorkerError)
    thread, outcome = connect_in_thread(reception.port, "secret")
    channel = poll_until_ended(reception, thread)
    assert channel is not None
    assert isinstance(outcome[0], WorkerConnection)
    channel.close()


def test_an_application_that_does_not_know_the_key_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as impostor:
        thread, outcome = connect_in_thread(impostor.getsockname()[1], "secret")
        connection, _ = impostor.accept()
        with connection:
            connection.sendall(encode_object({"nonce": "00"}))
            assert FrameReader().feed(connection.recv(4096))[0]["proof"]
            connection.sendall(encode_object({"proof": "0" * 64}))
            thread.join(20)
    assert isinstance(outcome[0], WorkerError)
    assert "not the application" in str(outcome[0])


@pytest.mark.parametrize(
    "said",
    [
        encode_object({"proof": "ü" * 32, "nonce": "00"}),
        encode_object({"proof": 5, "nonce": "00"}),
        encode_object({"proof": "0" * 64}),
        encode(protocol.Hello(1, 1)),
        struct.pack(">I", MAX_HANDSHAKE_BYTES + 1) + b"x",
        b"GET / HTTP/1.1\r\n\r\n",
    ],
    ids=["not ascii", "number", "no nonce", "hello", "oversized", "http"],
)
def test_strangers_are_turned_away_without_waiting_for_them(said: bytes) -> None:
    reception = Reception("secret")
    with (
        socket.create_connection(("127.0.0.1", reception.port), timeout=20) as silent,
        socket.create_connection(("127.0.0.1", reception.port), timeout=20) as stranger,
    ):
        stranger.sendall(said)
        received = b""
        deadline = time.monotonic() + 20
        stranger.settimeout(0.01)
        while time.monotonic() < deadline:
            assert reception.poll() is None
            try:
                data = stranger.recv(4096)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
            if not data:
                break
            received += data
        else:
            pytest.fail("the stranger was not turned away")
        assert b"proof" not in received
        thread, outcome = connect_in_thread(reception.port, "secret")
        channel = poll_until_ended(reception, thread)
        assert channel is not None, "a silent stranger must not keep the worker out"
        assert isinstance(outcome[0], WorkerConnection)
        channel.close()
        assert silent.fileno() > 0
