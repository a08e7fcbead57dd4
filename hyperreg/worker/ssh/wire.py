"""Messages and arrays over a pair of pipes.

Arrays can take seconds, so that short messages (a cancellation, progress) overtake them: what is sent is a sequence of
frames, each a kind (1 byte), a length (4 bytes, big-endian) and that many bytes.

MESSAGE: a JSON object that is complete by itself. HEAD: one whose arrays follow as DATA, in pieces. ABANDONED: those
arrays will not come any more. ALIVE: nothing to say.
"""

from __future__ import annotations

import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hyperreg.worker.protocol import MAX_MESSAGE_BYTES, ProtocolError, decode_body, encode_body

# Before the version, in the line with which the far end begins; only then comes the first frame.
GREETING = b"HyperReg worker "
# Who says nothing for longer than the silence is gone; sent in between so that a slow operation is not taken for that.
ALIVE_S = 5.0
SILENCE_S = 30.0
# Small enough that a cancellation passes soon on a slow line.
_PIECE_BYTES = 1 << 16
_FRAME = struct.Struct(">BI")
_MESSAGE, _HEAD, _DATA, _ABANDONED, _ALIVE = range(5)


class Reader(Protocol):
    """What is used of an unbuffered, blocking stream to read from."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Writer(Protocol):
    """What is used of an unbuffered, blocking stream to write to."""

    def write(self, data: memoryview, /) -> int | None: ...


@dataclass(eq=False)
class _Transfer:
    """A message on its way, and the pieces of its arrays that are still to be sent.

    number: of the request that it belongs to. begun: whether the message itself was sent.
    """

    number: int
    content: dict[str, Any]
    pieces: deque[memoryview]
    begun: bool = False
    abandoned: bool = False


class Wire:
    """One end. `send` and `send_now` from any thread, return at once; `receive` in one thread.

    on_lost: called, from some thread, when nothing can be sent any more or the other end is silent.
    """

    def __init__(self, reader: Reader, writer: Writer, on_lost: Callable[[], None]) -> None:
        self._reader, self._writer, self._on_lost = reader, writer, on_lost
        self._urgent: deque[dict[str, Any]] = deque()
        self._transfers: deque[_Transfer] = deque()
        self._changed = threading.Condition()
        self._heard = time.monotonic()

    def start(self) -> None:
        """Starts to send, and to mind the silence of the other end."""
        self._heard = time.monotonic()
        for work in (self._write, self._watch):
            threading.Thread(target=work, name=work.__name__, daemon=True).start()

    def send_now(self, content: dict[str, Any]) -> None:
        """Sends a message before all arrays that wait."""
        with self._changed:
            self._urgent.append(content)
            self._changed.notify()

    def send(self, number: int, content: dict[str, Any], arrays: Sequence[npt.NDArray] = ()) -> None:
        """Sends a message with arrays (contiguous), after all that were sent this way before."""
        with self._changed:
            self._transfers.append(_Transfer(number, content, deque(_pieces(arrays))))
            self._changed.notify()

    def withdraw(self, number: int) -> bool:
        """Takes back what was sent for a request; False if the other end has it whole."""
        with self._changed:
            found = [transfer for transfer in self._transfers if transfer.number == number]
            for transfer in found:
                if transfer.begun:
                    transfer.abandoned = True  # the writing thread tells the other end
                else:
                    self._transfers.remove(transfer)
            return bool(found)

    def receive(self, arrays_of: Callable[[dict[str, Any]], Sequence[npt.NDArray]]) -> Iterator[dict[str, Any]]:
        """The messages of the other end, each once its arrays are there; ends when the other end is gone.

        arrays_of(content): where the arrays of such a message are to be written, all bytes of them.
        Raises ProtocolError for anything that is no such sequence.
        """
        head: dict[str, Any] | None = None
        places: deque[memoryview] = deque()
        while True:
            header = self._read(_FRAME.size)
            if header is None:
                return
            kind, length = _FRAME.unpack(header)
            if kind == _DATA:
                if head is None or not self._fill(places, length):
                    raise ProtocolError("An array arrived that is longer than was said.")
            elif kind in (_MESSAGE, _HEAD):
                if length > MAX_MESSAGE_BYTES or (kind == _HEAD and head is not None):
                    raise ProtocolError("A message arrived that is too long, or before the one before it was complete.")
                body = self._read(length)
                if body is None:
                    return
                content = decode_body(bytes(body))
                if kind == _MESSAGE:
                    yield content
                    continue
                head = content
                places = deque(_bytes_of(array) for array in arrays_of(content))
            elif kind == _ABANDONED and length == 0:
                head = None
                continue
            elif kind == _ALIVE and length == 0:
                continue
            else:
                raise ProtocolError("Something arrived that is no message.")
            if head is not None and not places:
                complete, head = head, None
                yield complete

    def _fill(self, places: deque[memoryview], length: int) -> bool:
        """Reads a piece into the first place that is not full; False if it does not fit. Its end shows as silence."""
        if not places or length > len(places[0]):
            return False
        self._read_into(places[0][:length])
        places[0] = places[0][length:]
        if not places[0]:
            places.popleft()
        return True

    def _read(self, count: int) -> bytearray | None:
        data = bytearray(count)
        return data if self._read_into(memoryview(data)) else None

    def _read_into(self, place: memoryview) -> bool:
        """Whether the place could be filled; not if the stream has ended."""
        while place:
            try:
                count = self._reader.readinto(place)
            except (OSError, ValueError):
                return False
            if not count:
                return False
            self._heard = time.monotonic()
            place = place[count:]
        return True

    def _write(self) -> None:
        try:
            while True:
                with self._changed:
                    if not self._urgent and not self._transfers:
                        self._changed.wait(ALIVE_S)
                    frame = self._next_frame()
                rest = memoryview(frame)
                while rest:
                    rest = rest[self._writer.write(rest) or 0 :]
        except (OSError, ValueError):
            self._on_lost()

    def _next_frame(self) -> bytes:
        """What is to be written next. Called with the lock held."""
        if self._urgent:
            return _frame(_MESSAGE, encode_body(self._urgent.popleft()))
        if not self._transfers:
            return _frame(_ALIVE)
        transfer = self._transfers[0]
        if transfer.abandoned:
            self._transfers.popleft()
            return _frame(_ABANDONED)
        if transfer.begun:
            frame = _frame(_DATA, transfer.pieces.popleft())
        else:
            transfer.begun = True
            frame = _frame(_HEAD, encode_body(transfer.content))
        if not transfer.pieces:
            self._transfers.popleft()
        return frame

    def _watch(self) -> None:
        while time.monotonic() - self._heard < SILENCE_S:
            time.sleep(1.0)
        self._on_lost()


def _frame(kind: int, body: bytes | memoryview = b"") -> bytes:
    return _FRAME.pack(kind, len(body)) + body


def _bytes_of(array: npt.NDArray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _pieces(arrays: Sequence[npt.NDArray]) -> Iterator[memoryview]:
    for array in arrays:
        content = _bytes_of(array)
        for start in range(0, len(content), _PIECE_BYTES):
            yield content[start : start + _PIECE_BYTES]
