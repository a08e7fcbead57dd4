"""The loopback connection between application and worker: frames, and a handshake in which both prove a random key.

The application's side never blocks and needs no thread: Slicer's main thread hardly lets other Python threads run, so
that everything happens in calls of a timer. The worker's side blocks, in a thread of its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from hyperreg.errors import WorkerError
from hyperreg.worker.protocol import FrameReader, Message, ProtocolError, encode, encode_object

_HOST = "127.0.0.1"
_CHUNK = 1 << 16
# Before the key is proven a peer is a stranger: it may say little, and not for long.
MAX_HANDSHAKE_BYTES = 1 << 10
HANDSHAKE_TIMEOUT_S = 10.0
_MAX_STRANGERS = 8


def _proof(key: str, role: str, nonce: str) -> str:
    return hmac.new(key.encode(), f"{role}:{nonce}".encode(), hashlib.sha256).hexdigest()


def _is_proof(value: Any, key: str, role: str, nonce: str) -> bool:
    # Compared as bytes: compare_digest refuses text outside ASCII, which a stranger may send.
    return isinstance(value, str) and hmac.compare_digest(value.encode(), _proof(key, role, nonce).encode())


class Channel:
    """A non-blocking stream of messages over a connected socket (the application's side)."""

    def __init__(self, connection: socket.socket, *, limit: int | None = None) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._frames = FrameReader() if limit is None else FrameReader(limit)
        self._outgoing = bytearray()
        self.closed = False

    def allow_long_messages(self) -> None:
        """Lifts the limit of the handshake."""
        self._frames.limit = FrameReader().limit

    def send(self, message: Message) -> None:
        """Queues the message and sends what goes through at once; `receive` sends the rest."""
        self.send_frame(encode(message))

    def send_frame(self, frame: bytes) -> None:
        self._outgoing += frame
        self._flush()

    def receive(self) -> list[dict[str, Any]]:
        """What has arrived until now. Sets `closed` at the end of the stream. Raises ProtocolError."""
        self._flush()
        found: list[dict[str, Any]] = []
        while not self.closed:
            try:
                data = self._socket.recv(_CHUNK)
            except (BlockingIOError, InterruptedError):
                break
            except OSError:
                data = b""
            if data:
                found += self._frames.feed(data)
            else:
                self.closed = True
        return found

    def close(self) -> None:
        self.closed = True
        self._socket.close()

    def _flush(self) -> None:
        while self._outgoing and not self.closed:
            try:
                sent = self._socket.send(self._outgoing)
            except (BlockingIOError, InterruptedError):
                return
            except OSError:
                return  # the end of the stream shows in `receive`, after what the worker still had to say
            del self._outgoing[:sent]


class Reception:
    """Waits, without blocking, for the one worker that knows the key. port: on the loopback interface only."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._listener = socket.create_server((_HOST, 0), backlog=_MAX_STRANGERS)
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._strangers: list[_Stranger] = []

    def poll(self) -> Channel | None:
        """The authenticated connection once it is there; then the reception is closed."""
        with contextlib.suppress(OSError):
            while len(self._strangers) < _MAX_STRANGERS:
                self._strangers.append(_Stranger(self._listener.accept()[0], self._key))
        for stranger in list(self._strangers):
            if stranger.accepted():
                self._strangers.remove(stranger)
                self.close()
                return stranger.channel
            if stranger.channel.closed:
                self._strangers.remove(stranger)
        return None

    def close(self) -> None:
        self._listener.close()
        for stranger in self._strangers:
            stranger.channel.close()
        self._strangers.clear()


class _Stranger:
    """A connection that has not proven the key yet."""

    def __init__(self, connection: socket.socket, key: str) -> None:
        self._key = key
        self._nonce = secrets.token_hex(32)
        self._deadline = time.monotonic() + HANDSHAKE_TIMEOUT_S
        self.channel = Channel(connection, limit=MAX_HANDSHAKE_BYTES)
        self.channel.send_frame(encode_object({"nonce": self._nonce}))

    def accepted(self) -> bool:
        """Whether it has proven the key; it is told so. Whoever answers wrongly or too late is turned away."""
        try:
            answers = self.channel.receive()
        except ProtocolError:
            self.channel.close()
            return False
        if not answers:
            if time.monotonic() > self._deadline:
                self.channel.close()
            return False
        nonce = answers[0].get("nonce")
        if (
            len(answers) == 1
            and isinstance(nonce, str)
            and _is_proof(answers[0].get("proof"), self._key, "worker", self._nonce)
        ):
            self.channel.send_frame(encode_object({"proof": _proof(self._key, "application", nonce)}))
            self.channel.allow_long_messages()
            return True
        self.channel.close()
        return False


class WorkerConnection:
    """The worker's side: connects, proves the key, has the application prove it; blocking; `send` from any thread.

    The application says nothing more until the worker has sent its first message.
    Raises WorkerError if nobody answers on the port or the other side does not know the key.
    """

    def __init__(self, port: int, key: str) -> None:
        self._lock = threading.Lock()
        self._frames = FrameReader(MAX_HANDSHAKE_BYTES)
        try:
            self._socket = socket.create_connection((_HOST, port), timeout=HANDSHAKE_TIMEOUT_S)
            self._shake_hands(key)
            self._socket.settimeout(None)
        except OSError as error:
            raise WorkerError(f"The application does not answer: {error}") from error
        self._frames.limit = FrameReader().limit

    def send(self, message: Message) -> None:
        """Sends the message whole. Raises OSError if the application is gone."""
        frame = encode(message)
        with self._lock:
            self._socket.sendall(frame)

    def contents(self) -> Iterator[dict[str, Any]]:
        """The JSON objects that arrive, until the application goes away. Raises ProtocolError."""
        while True:
            try:
                data = self._socket.recv(_CHUNK)
            except OSError:
                return
            if not data:
                return
            yield from self._frames.feed(data)

    def _shake_hands(self, key: str) -> None:
        nonce = self._one_object().get("nonce")
        if not isinstance(nonce, str):
            raise WorkerError("The application's greeting was not understood.")
        own_nonce = secrets.token_hex(32)
        self._socket.sendall(encode_object({"proof": _proof(key, "worker", nonce), "nonce": own_nonce}))
        if not _is_proof(self._one_object().get("proof"), key, "application", own_nonce):
            raise WorkerError("The process on the application's port is not the application.")

    def _one_object(self) -> dict[str, Any]:
        while True:
            data = self._socket.recv(_CHUNK)
            if not data:
                raise WorkerError("The application refused the connection.")
            found = self._frames.feed(data)
            if found:
                return found[0]
