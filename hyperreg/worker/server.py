"""The worker: takes requests from its application, runs one at a time, ends with it.

The main thread computes; a second thread reads, so that cancellations and newer requests are seen meanwhile. It never
outlives its application: when the connection ends, the process ends, whatever it is doing.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy.typing as npt

from hyperreg.errors import Cancelled, HyperRegError, OutOfMemory
from hyperreg.machine import is_out_of_memory
from hyperreg.worker import protocol
from hyperreg.worker.connection import WorkerConnection
from hyperreg.worker.device import DeviceError, physical_cores
from hyperreg.worker.memory import attach, remove_folders

# Progress is for people: more often than this it only fills the connection.
_PROGRESS_INTERVAL_S = 0.1
# Exit codes of the worker: it was told to end or its application has; it cannot read on; only a new process can use the
# device again.
EXIT_ENDED = 0
EXIT_CONNECTION_LOST = 1
EXIT_DEVICE_LOST = 70


class Context:
    """What an operation is given.

    parameters: plain values, unchecked. inputs: read-only arrays. outputs: arrays to fill.
    An operation returns plain values (JSON), or raises a HyperRegError whose text is for the user.
    """

    def __init__(self, task: _Task, folders: list[Path], send: Callable[[protocol.Message], None]) -> None:
        request = task.request
        self.parameters: Mapping[str, Any] = request.parameters
        self.inputs: dict[str, npt.NDArray] = {
            name: attach(spec, folders, writable=False) for name, spec in request.inputs.items()
        }
        self.outputs: dict[str, npt.NDArray] = {
            name: attach(spec, folders, writable=True) for name, spec in request.outputs.items()
        }
        self._task = task
        self._send = send
        self._last_progress = 0.0

    def cancelled(self) -> bool:
        """Whether the operation should end now by raising Cancelled; long operations ask often."""
        return self._task.given_up.is_set()

    def enough(self) -> bool:
        """Whether the operation should improve nothing any more, and answer with what it has."""
        return self._task.enough.is_set()

    def check(self) -> None:
        """Raises Cancelled if the operation should end now."""
        if self.cancelled():
            raise Cancelled("The operation was cancelled.")

    def progress(self, fraction: float, text: str) -> None:
        """Tells how far the operation is, 0 to 1, and what it does; may be called as often as one likes."""
        now = time.monotonic()
        if now - self._last_progress >= _PROGRESS_INTERVAL_S:
            self._last_progress = now
            limited = min(1.0, max(0.0, float(fraction)))
            self._send(protocol.Progress(self._task.request.id, limited, text[: protocol.MAX_TEXT]))

    def event(self, event: str, values: Mapping[str, Any]) -> None:
        """Tells the application something beside the progress: plain values, under a name."""
        self._send(protocol.Event(self._task.request.id, event, dict(values)))


Operation = Callable[[Context], Mapping[str, Any]]


@dataclass
class _Task:
    """A request in the worker. end_state: set once it was given up. enough: it should come to an end."""

    request: protocol.Request
    enough: threading.Event = field(default_factory=threading.Event)
    given_up: threading.Event = field(default_factory=threading.Event)
    end_state: str = ""


class Server:
    """Runs requests from one connection with a table of operations.

    folders: where shared memory is found; removed when the application has gone.
    """

    def __init__(self, connection: WorkerConnection, operations: Mapping[str, Operation], folders: list[Path]) -> None:
        self._connection = connection
        self._operations = dict(operations)
        self._folders = folders
        self._queue: deque[_Task] = deque()
        self._running: _Task | None = None
        self._changed = threading.Condition()

    def run(self) -> None:
        """Works until the process ends (the reading thread ends it when the application goes away)."""
        threading.Thread(target=self._read, name="reader", daemon=True).start()
        self._send(protocol.Hello(protocol.VERSION, os.getpid()))
        while True:
            with self._changed:
                self._running = None
                while not self._queue:
                    self._changed.wait()
                self._running = task = self._queue.popleft()
            self._execute(task)

    def _read(self) -> None:
        # Not sys.exit: the computing thread may be deep in a library, and nobody is left to compute for.
        try:
            for content in self._connection.contents():
                self._take(content)
            remove_folders(self._folders)  # the application is gone, perhaps killed
            os._exit(EXIT_ENDED)
        except BaseException:  # noqa: BLE001  frames that cannot be told apart any more; or a fault here
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(EXIT_CONNECTION_LOST)

    def _take(self, content: dict[str, Any]) -> None:
        try:
            message = protocol.parse(content, protocol.Request, protocol.Cancel, protocol.Finish, protocol.Stop)
        except protocol.ProtocolError as error:
            number = content.get("id")
            if type(number) is not int or not 0 <= number <= protocol.MAX_ID:
                number = 0
            self._send(protocol.Failure(number, "WorkerError", str(error), ""))
            return
        if isinstance(message, protocol.Stop):
            os._exit(EXIT_ENDED)
        with self._changed:
            if isinstance(message, protocol.Cancel):
                self._give_up(lambda task: task.request.id == message.id, "cancelled")
            elif isinstance(message, protocol.Finish):
                for task in (*self._queue, self._running):
                    if task is not None and task.request.id == message.id:
                        task.enough.set()
            else:
                if message.stream is not None:
                    self._give_up(lambda task: task.request.stream == message.stream, "superseded")
                self._queue.append(_Task(message))
                self._changed.notify()

    def _give_up(self, chosen: Callable[[_Task], bool], state: str) -> None:
        """Drops chosen tasks that wait; asks one that runs to end. Called with the lock held."""
        for task in [task for task in self._queue if chosen(task)]:
            self._queue.remove(task)
            self._send(protocol.Ended(task.request.id, state))
        if self._running is not None and chosen(self._running) and not self._running.end_state:
            self._running.end_state = state
            self._running.given_up.set()

    def _execute(self, task: _Task) -> None:
        number = task.request.id
        self._send(protocol.Started(number))
        answer: protocol.Message
        device_lost = False
        try:
            values = self._operation(task.request.operation)(Context(task, self._folders, self._send))
            answer = protocol.Result(number, dict(values))
            protocol.encode(answer)  # an operation that returns something else fails like any other
        except Cancelled:
            answer = protocol.Ended(number, "cancelled")
        except Exception as error:  # noqa: BLE001  whatever it is, the application has to be told
            answer = _failure(number, error)
            device_lost = isinstance(error, DeviceError)
            # Frames of the traceback may hold gigabytes.
            traceback.clear_frames(error.__traceback__)
        with self._changed:
            self._running = None
            # Even if it went well: whoever gave it up does not expect a result any more.
            if task.end_state:
                answer = protocol.Ended(number, task.end_state)
        self._send(answer)
        if device_lost:
            os._exit(EXIT_DEVICE_LOST)

    def _operation(self, name: str) -> Operation:
        if name not in self._operations:
            raise HyperRegError(f"The worker knows no operation '{name}'; is it of another version of HyperReg?")
        return self._operations[name]

    def _send(self, message: protocol.Message) -> None:
        # If the application is gone, the reading thread ends the process.
        with contextlib.suppress(OSError):
            self._connection.send(message)


def _failure(number: int, error: Exception) -> protocol.Failure:
    details = "".join(traceback.format_exception(error))[-protocol.MAX_DETAILS :]
    if is_out_of_memory(error) and not isinstance(error, HyperRegError):
        error = OutOfMemory("Not enough memory. Close other programs, or crop or downsample the images.")
    if isinstance(error, HyperRegError):
        return protocol.Failure(number, type(error).__name__, str(error)[: protocol.MAX_TEXT], details)
    sys.stderr.write(details)
    message = f"The HyperReg engine failed unexpectedly ({type(error).__name__}: {error})"
    return protocol.Failure(number, "WorkerError", message[: protocol.MAX_TEXT - 1] + ".", details)


def main(operations: Mapping[str, Operation]) -> None:
    """Serves the application that has started this process with these operations, until it goes."""
    faulthandler.enable()
    greeting = read_greeting()
    folders = [Path(folder) for folder in greeting["folders"]]
    _claim_processor()
    Server(WorkerConnection(greeting["port"], greeting["key"]), operations, folders).run()


def read_greeting() -> dict[str, Any]:
    """What the environment says of the application; see `protocol.GREETING_VARIABLE`. Ends the process without it."""
    if protocol.GREETING_VARIABLE not in os.environ:
        sys.exit("This is a part of HyperReg that the application starts by itself; run 'hyperreg --help' instead.")
    # Taken away: processes that this one might start are not told the key.
    greeting: dict[str, Any] = json.loads(os.environ.pop(protocol.GREETING_VARIABLE))
    return greeting


def _claim_processor() -> None:
    """Normal priority (Slicer on Linux is nice 19, children inherit it) and one thread per physical core."""
    if sys.platform != "win32":
        with contextlib.suppress(OSError):  # only allowed with a privilege or a limit that permits it
            if os.getpriority(os.PRIO_PROCESS, 0) > 0:
                os.setpriority(os.PRIO_PROCESS, 0, 0)
    # Read by torch's libraries when they are loaded, which is later; the user's own setting wins.
    # MKL's alone would win over the user's for OpenMP: two threads that wait for each other where one was asked for.
    threads = os.environ.setdefault("OMP_NUM_THREADS", str(physical_cores()))
    os.environ.setdefault("MKL_NUM_THREADS", threads)
