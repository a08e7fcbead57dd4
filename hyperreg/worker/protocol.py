"""The messages between an application and its worker: small JSON objects in frames, each checked before it is used.

A frame is a length (4 bytes, big-endian) and that many bytes of UTF-8 JSON. Arrays never travel in a message: it only
names the shared memory they lie in (`ArraySpec`). Nothing but plain data crosses; anything unexpected is refused.

application -> worker: Request, Cancel, Finish, Stop
worker -> application: Hello, Started, Progress, Event, Result, Failure, Ended, Lost
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np

from hyperreg.errors import WorkerError

VERSION = 2
# Where a new worker finds, as JSON, the port to connect to, the key to prove, the folders of the shared memory.
GREETING_VARIABLE = "HYPERREG_WORKER"
# Messages are control messages: the longest that is meant (a failure with its details) is far below this.
MAX_MESSAGE_BYTES = 1 << 20
MAX_TEXT = 4_000
MAX_DETAILS = 32_000
# More than any volume or field that HyperReg could hold in memory; keeps sizes within what mmap takes.
MAX_ARRAY_BYTES = 1 << 40
MAX_ID = 1 << 53

_HEADER = struct.Struct(">I")
_SEGMENT_NAME = re.compile(r"[0-9a-f]{32}")
_DTYPE = re.compile(r"[<>|][biuf][1248]")
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,80}")


class ProtocolError(WorkerError):
    """The other side sent something that is not a message of this protocol."""


@dataclass(frozen=True)
class ArraySpec:
    """An array in shared memory.

    segment: name of the shared memory, 32 hexadecimal digits.
    dtype: numpy's type string with its byte order, real numbers or bool only.
    shape: at least one axis, no axis empty.
    """

    segment: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = np.dtype(self.dtype).itemsize
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class Request:
    """Run `operation`. A newer request of the same `stream` supersedes this one."""

    id: int
    operation: str
    stream: str | None = None
    parameters: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, ArraySpec] = field(default_factory=dict)
    outputs: dict[str, ArraySpec] = field(default_factory=dict)


@dataclass(frozen=True)
class Cancel:
    id: int


@dataclass(frozen=True)
class Finish:
    """Improve no further: come to an end with what is known. Operations that cannot do this go on as they were."""

    id: int


@dataclass(frozen=True)
class Stop:
    """Finish at once; nothing is answered."""


@dataclass(frozen=True)
class Hello:
    """The worker is ready for requests. pid: of the Python that works, which a launcher may stand in front of."""

    version: int
    pid: int


@dataclass(frozen=True)
class Started:
    id: int


@dataclass(frozen=True)
class Progress:
    """fraction: 0 to 1."""

    id: int
    fraction: float
    text: str


@dataclass(frozen=True)
class Event:
    """Something that an operation tells on its way beside its progress; none is left out. event: which, by name."""

    id: int
    event: str
    values: dict[str, Any]


@dataclass(frozen=True)
class Result:
    """The operation succeeded; its output arrays are filled."""

    id: int
    values: dict[str, Any]


@dataclass(frozen=True)
class Failure:
    """The operation failed. error: a class of `hyperreg.errors`; message: for the user; details: for a bug report."""

    id: int
    error: str
    message: str
    details: str


@dataclass(frozen=True)
class Ended:
    """The operation was given up. state: "cancelled" or "superseded"."""

    id: int
    state: str


@dataclass(frozen=True)
class Lost:
    """There is nobody any more who could compute (see `ssh`). message: for the user."""

    message: str


Message = Request | Cancel | Finish | Stop | Hello | Started | Progress | Event | Result | Failure | Ended | Lost

_KINDS: dict[str, type] = {
    kind.__name__.lower(): kind
    for kind in (Request, Cancel, Finish, Stop, Hello, Started, Progress, Event, Result, Failure, Ended, Lost)
}


def encode(message: Message) -> bytes:
    """The message as a frame. Raises ProtocolError if it holds something that is not plain JSON, or too much of it."""
    return encode_object(content_of(message))


def content_of(message: Message) -> dict[str, Any]:
    """The message as a JSON object, which `parse` reads."""
    return {"kind": type(message).__name__.lower(), **asdict(message)}


def encode_object(content: dict[str, Any]) -> bytes:
    """A JSON object as a frame (the handshake uses it directly)."""
    body = encode_body(content)
    return _HEADER.pack(len(body)) + body


def encode_body(content: dict[str, Any]) -> bytes:
    """A JSON object as bytes. Raises ProtocolError if it holds something that is not plain JSON, or too much of it."""
    try:
        body = json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise ProtocolError(f"A message of the worker holds something that is not plain data: {error}") from error
    if len(body) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"A message to or from the worker is too long ({len(body)} bytes).")
    return body


class FrameReader:
    """Cuts a stream of bytes into JSON objects. limit: longest frame accepted, bytes."""

    def __init__(self, limit: int = MAX_MESSAGE_BYTES) -> None:
        self.limit = limit
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Takes what has arrived, returns the objects that are complete now. Raises ProtocolError for other content."""
        self._buffer += data
        found = []
        while len(self._buffer) >= _HEADER.size:
            (length,) = _HEADER.unpack_from(self._buffer)
            if length > self.limit:
                raise ProtocolError(f"A message of {length} bytes was refused (at most {self.limit}).")
            end = _HEADER.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[_HEADER.size : end])
            del self._buffer[:end]
            found.append(decode_body(body))
        return found


def decode_body(body: bytes) -> dict[str, Any]:
    """The JSON object of `encode_body`. Raises ProtocolError for other content."""

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number")

    try:
        content = json.loads(body.decode(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"A message that is not JSON was refused: {error}") from error
    if not isinstance(content, dict):
        raise ProtocolError("A message that is not a JSON object was refused.")
    return content


def parse(content: dict[str, Any], *expected: type) -> Any:
    """The message that a JSON object stands for, every value checked. expected: the classes this side may receive.

    Raises ProtocolError for anything else.
    """
    kind = _KINDS.get(content["kind"]) if isinstance(content.get("kind"), str) else None
    if kind is None or kind not in expected:
        raise ProtocolError(f"A message of an unexpected kind was refused: {str(content.get('kind'))[:80]!r}.")
    names = {name for name in content if name != "kind"}
    if names != {part.name for part in fields(kind)}:
        raise ProtocolError(f"A message with missing or unknown parts was refused: {sorted(map(str, names))!r:.200}.")
    return kind(**{name: _CHECKS[name](name, content[name]) for name in names})


def _integer(low: int, high: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ProtocolError(f"'{name}' has to be an integer from {low} to {high}.")
        return value

    return check


def _text(limit: int) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or len(value) > limit:
            raise ProtocolError(f"'{name}' has to be a text of at most {limit} characters.")
        return value

    return check


def _name(name: str, value: Any) -> str:
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise ProtocolError(f"'{name}' has to be a plain name.")
    return value


def _stream(name: str, value: Any) -> str | None:
    return None if value is None else _name(name, value)


def _fraction(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not 0 <= value <= 1:
        raise ProtocolError(f"'{name}' has to be a number from 0 to 1.")
    return float(value)


def _object(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ProtocolError(f"'{name}' has to be an object.")
    return value


def _end_state(name: str, value: Any) -> str:
    if value not in ("cancelled", "superseded"):
        raise ProtocolError(f"'{name}' has to be 'cancelled' or 'superseded'.")
    return str(value)


def _array_specs(name: str, value: Any) -> dict[str, ArraySpec]:
    return {_name(name, key): _array_spec(key, spec) for key, spec in _object(name, value).items()}


def _array_spec(name: str, value: Any) -> ArraySpec:
    if not isinstance(value, dict) or set(value) != {"segment", "dtype", "shape"}:
        raise ProtocolError(f"The array '{name}' is not described by segment, dtype and shape.")
    segment, dtype, shape = value["segment"], value["dtype"], value["shape"]
    if not isinstance(segment, str) or not _SEGMENT_NAME.fullmatch(segment):
        raise ProtocolError(f"The array '{name}' names no shared memory of HyperReg.")
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype) or not _is_dtype(dtype):
        raise ProtocolError(f"The array '{name}' is not made of plain numbers.")
    if not isinstance(shape, list) or not 1 <= len(shape) <= 8 or not all(type(n) is int and n > 0 for n in shape):
        raise ProtocolError(f"The array '{name}' has no usable shape.")
    spec = ArraySpec(segment, dtype, tuple(shape))
    if spec.nbytes > MAX_ARRAY_BYTES:
        raise ProtocolError(f"The array '{name}' is too large.")
    return spec


def _is_dtype(text: str) -> bool:
    try:
        np.dtype(text)
    except TypeError:
        return False
    return True


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "id": _integer(0, MAX_ID),
    "version": _integer(0, MAX_ID),
    "pid": _integer(1, MAX_ID),
    "operation": _name,
    "event": _name,
    "stream": _stream,
    "parameters": _object,
    "inputs": _array_specs,
    "outputs": _array_specs,
    "fraction": _fraction,
    "text": _text(MAX_TEXT),
    "values": _object,
    "error": _name,
    "message": _text(MAX_TEXT),
    "details": _text(MAX_DETAILS),
    "state": _end_state,
}
