"""Reading in a process that may die: a damaged file can crash or hang the C++ readers of ITK and HDF5.

`call` runs a function of hyperreg in a child process, which is started when it is first needed, serves one call after
the other, and ends with this process. If it crashes or takes too long, only the file that was asked for is lost: the
caller gets a FileError, and the next call starts another child. The child loads what the function's module loads, so
such modules must not import torch.

A function that can be called lies at the top level of a module of hyperreg, takes text, numbers, None and lists
of them, and returns a dictionary of the same together with a list of arrays:

    def read_something(path: str, wanted: int) -> tuple[dict[str, Any], list[npt.NDArray]]: ...

    facts, arrays = guarded.call("hyperreg.imaging.some_module:read_something", path, wanted)
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from hyperreg import errors
from hyperreg.errors import FileError, HyperRegError, OutOfMemory
from hyperreg.machine import main_memory

Answer = tuple[dict[str, Any], list[npt.NDArray]]

# Starting Python with numpy and SimpleITK, on a machine that is busy with other things.
START_SECONDS = 120.0
# Reading: this long, and as much more as a slow disk or network needs for the file.
READ_SECONDS = 15.0
SLOWEST_BYTES_PER_SECOND = 2e6
# A child that has got this much is ended after the call; the allocator would keep the memory.
LARGE_ANSWER = 1 << 28
# What the child's interpreter and libraries reserve of address space besides what a file needs.
ADDRESS_SPACE = 8 << 30


def call(function: str, path: str | os.PathLike[str], *arguments: Any, seconds: float | None = None) -> Answer:
    """Run `function` ("package.module:name") of hyperreg on a file, in the child process; see the module's text.

    path: the function's first argument, as text; messages name it. seconds: how long it may take; by default what the
    size of the file justifies.
    Raises FileError if the child crashes or takes too long; what the function raises: HyperRegErrors as they are,
    MemoryError as OutOfMemory, everything else as RuntimeError with its text.
    """
    if seconds is None:
        size = os.path.getsize(path) if os.path.isfile(path) else 0
        seconds = READ_SECONDS + size / SLOWEST_BYTES_PER_SECOND
    with _lock:
        reader = _reader()
        try:
            answer, arrays = reader.ask(function, [os.fspath(path), *arguments], seconds)
        except (EOFError, OSError, ValueError) as error:
            reader.end()
            what = f"was given up after {seconds:.0f} seconds" if reader.timed_out else "ended the program that read it"
            raise FileError(
                f"'{os.fspath(path)}' is damaged: reading it {what}. Copy or export it again, or convert it in the "
                "program that wrote it."
            ) from error
        except BaseException:  # Ctrl+C: an answer that is half read cannot be followed by another
            reader.end()
            raise
        if sum(array.nbytes for array in arrays) > LARGE_ANSWER:
            reader.end()
    if "error" in answer:
        raise _error(answer["error"], answer["text"])
    return answer["facts"], arrays


def end_reader() -> None:
    """End the child, if there is one; the next call starts another."""
    global _current  # noqa: PLW0603 (one child for the whole process)
    with _lock:
        if _current is not None and _current.owner == os.getpid():
            _current.end()
        _current = None


class _Reader:
    """The child, as seen from here."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.timed_out = False
        parent = str(Path(__file__).resolve().parents[2])
        flags = 0
        if sys.platform == "win32":
            flags = subprocess.CREATE_NO_WINDOW
        paths = [parent, os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [_python(), "-c", "from hyperreg.imaging.guarded import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in paths if path)},
            creationflags=flags,
        )
        self._input = cast(BinaryIO, self._process.stdin)
        self._output = cast(BinaryIO, self._process.stdout)
        self._fresh = True

    @property
    def alive(self) -> bool:
        # A process that was forked from this one has the same object, but may not share the child.
        return self.owner == os.getpid() and self._process.poll() is None

    def ask(self, function: str, arguments: list[Any], seconds: float) -> Answer:
        """The child's answer and its arrays. Raises EOFError, OSError or ValueError if the child has ended."""
        if self._fresh:
            with self._limit(START_SECONDS):
                _receive(self._output)
            self._fresh = False
        with self._limit(seconds):
            request = {"function": function, "arguments": arguments, "seconds": seconds}
            self._input.write(json.dumps(request).encode() + b"\n")
            self._input.flush()
            answer = _receive(self._output)
            return answer, [_receive_array(self._output, dtype, shape) for dtype, shape in answer.get("arrays", ())]

    def end(self) -> None:
        with contextlib.suppress(OSError):
            self._process.kill()
        self._process.wait()
        for stream in (self._input, self._output):
            with contextlib.suppress(OSError):
                stream.close()

    @contextlib.contextmanager
    def _limit(self, seconds: float) -> Iterator[None]:
        """Kill the child when the time is over: what waits for its answer then gets an EOFError."""
        timer = threading.Timer(seconds, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self.timed_out = True
        self._process.kill()


_lock = threading.Lock()
_current: _Reader | None = None
atexit.register(end_reader)


def _reader() -> _Reader:
    global _current  # noqa: PLW0603 (one child for the whole process)
    if _current is None or not _current.alive:
        try:
            _current = _Reader()
        except OSError as error:
            raise OutOfMemory(
                f"No process for reading files could be started ({error.strerror or error}). Close other programs."
            ) from error
    return _current


def _python() -> str:
    """The interpreter: this one, or beside Slicer's own executable its launcher of Python."""
    beside = Path(sys.executable).with_name("PythonSlicer")
    return str(beside) if "python" not in Path(sys.executable).name.lower() and beside.exists() else sys.executable


def _receive(stream: BinaryIO) -> dict[str, Any]:
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError("the child has ended")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _receive_array(stream: BinaryIO, dtype: str, shape: list[int]) -> npt.NDArray:
    array = np.empty(shape, dtype=dtype)
    left = array.reshape(-1).view(np.uint8).data
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]
        if not count:
            raise EOFError("the child has ended")
        left = left[count:]
    return array


def _error(name: str, text: str) -> Exception:
    if name == "MemoryError":
        return OutOfMemory("There is not enough memory to read this file. Close other programs.")
    kind = getattr(errors, name, None)
    return kind(text) if isinstance(kind, type) and issubclass(kind, HyperRegError) else RuntimeError(text)


def serve() -> None:
    """The child's life: reads a request, runs the function, writes the answer, until its standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl+C is answered by the application
    requests = sys.stdin.buffer
    # Libraries print to standard output; the answers go to a copy of it that only this function knows.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    _limit_memory()
    importlib.import_module("SimpleITK")
    with contextlib.suppress(BrokenPipeError):
        _send(answers, {})
        for line in requests:
            request = json.loads(line)
            with _alarm(request["seconds"]):
                try:
                    module, _, name = request["function"].partition(":")
                    facts, arrays = getattr(importlib.import_module(module), name)(*request["arguments"])
                    arrays = [np.ascontiguousarray(array) for array in arrays]
                except Exception as error:  # noqa: BLE001 (every error goes to the parent, which knows what it means)
                    text = str(error) or type(error).__name__
                    _send(answers, {"error": type(error).__name__, "text": text})
                    continue
                shapes = [(array.dtype.str, array.shape) for array in arrays]
                _send(answers, {"facts": facts, "arrays": shapes}, arrays)
            del facts, arrays


def _send(stream: BinaryIO, answer: dict[str, Any], arrays: list[npt.NDArray] | None = None) -> None:
    stream.write(json.dumps(answer).encode() + b"\n")
    for array in arrays or ():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


@contextlib.contextmanager
def _alarm(seconds: float) -> Iterator[None]:
    """End this process by the system's clock if the parent is gone and cannot; a loop in C++ lets no thread run."""
    if sys.platform == "win32":
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds + 1)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _limit_memory() -> None:
    """Damaged sizes must not take the memory of the whole computer."""
    free, _ = main_memory()
    if sys.platform != "linux" or free is None:
        return
    import resource

    _, most = resource.getrlimit(resource.RLIMIT_AS)
    wanted = free + ADDRESS_SPACE
    resource.setrlimit(resource.RLIMIT_AS, (wanted if most == resource.RLIM_INFINITY else min(wanted, most), most))
