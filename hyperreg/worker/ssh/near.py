"""The near end: to the application a worker, to the far end an application. `python -m hyperreg.worker.ssh ADDRESS`."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy.typing as npt

import hyperreg
from hyperreg.errors import InputError, WorkerError
from hyperreg.worker import protocol
from hyperreg.worker.connection import WorkerConnection
from hyperreg.worker.memory import attach, remove_folders
from hyperreg.worker.server import EXIT_CONNECTION_LOST, EXIT_ENDED
from hyperreg.worker.ssh.address import explain, host_of, start_ssh
from hyperreg.worker.ssh.wire import GREETING, Reader, Wire, Writer

# What people's login scripts print before the far end says who it is.
_MAX_PREAMBLE_BYTES = 1 << 16
# These read or write files that lie on this computer.
FILE_OPERATIONS = frozenset({"atlases", "fuse_atlases", "licence", "add_model", "remove_model"})
_ELSEWHERE = (
    "This works with files of this computer, while HyperReg computes on '{}'. Let it compute on this computer for that."
)
_END_MESSAGES = (protocol.Result, protocol.Failure, protocol.Ended)


class NearEnd:
    """Passes on what the application and the far end say to each other, with the arrays that go with it.

    connection: to the application; folders: of its shared memory. ssh: the running call; host: where to.
    """

    def __init__(
        self, connection: WorkerConnection, folders: Sequence[Path], ssh: subprocess.Popen[bytes], host: str
    ) -> None:
        self._connection, self._folders, self._ssh, self._host = connection, folders, ssh, host
        # The arrays to fill of the requests that the far end was told, by number.
        self._outputs: dict[int, list[npt.NDArray]] = {}
        self._wire = Wire(cast(Reader, ssh.stdout), cast(Writer, ssh.stdin), self._lose)

    def run(self) -> None:
        """Works until the process ends, with the application or with the connection."""
        self._wire.start()
        threading.Thread(target=self._answer, name="answers", daemon=True).start()
        self._connection.send(protocol.Hello(protocol.VERSION, os.getpid()))
        for content in self._connection.contents():
            self._ask(content)
        remove_folders(self._folders)  # the application is gone, perhaps killed
        self._end(EXIT_ENDED)

    def _ask(self, content: dict[str, Any]) -> None:
        """Passes on what the application said."""
        message = protocol.parse(content, protocol.Request, protocol.Cancel, protocol.Finish, protocol.Stop)
        if isinstance(message, protocol.Stop):
            self._end(EXIT_ENDED)
        elif isinstance(message, protocol.Cancel):
            if self._wire.withdraw(message.id):
                self._tell(protocol.Ended(message.id, "cancelled"))
            else:
                self._wire.send_now(content)
        elif isinstance(message, protocol.Finish):
            self._wire.send_now(content)
        elif message.operation in FILE_OPERATIONS:
            self._tell(protocol.Failure(message.id, "InputError", _ELSEWHERE.format(self._host), ""))
        else:
            try:
                inputs = [attach(spec, self._folders, writable=False) for spec in message.inputs.values()]
                outputs = [attach(spec, self._folders, writable=True) for spec in message.outputs.values()]
            except WorkerError as error:
                self._tell(protocol.Failure(message.id, "WorkerError", str(error), ""))
                return
            self._outputs[message.id] = outputs
            self._wire.send(message.id, content, inputs)

    def _answer(self) -> None:
        """Passes on what the far end says."""
        try:
            for content in self._wire.receive(self._places):
                message = protocol.parse(
                    content, protocol.Started, protocol.Progress, protocol.Event, protocol.Lost, *_END_MESSAGES
                )
                self._tell(message)
                if isinstance(message, protocol.Lost):
                    self._end(EXIT_CONNECTION_LOST)
                if isinstance(message, _END_MESSAGES):
                    self._outputs.pop(message.id, None)
        except protocol.ProtocolError as error:
            self._tell(protocol.Lost(f"What HyperReg on '{self._host}' says is not understood: {error}"))
            self._end(EXIT_CONNECTION_LOST)
        self._lose()

    def _places(self, content: dict[str, Any]) -> Sequence[npt.NDArray]:
        if content.get("kind") not in ("result", "event"):
            return ()
        return self._outputs.get(content.get("id", 0), ())

    def _tell(self, message: protocol.Message) -> None:
        with contextlib.suppress(OSError):  # the application is gone: reading from it ends, too
            self._connection.send(message)

    def _lose(self) -> None:
        self._tell(
            protocol.Lost(
                f"The connection to '{self._host}' was lost. The next request connects again; what was computed there "
                "for this pair has to be computed again."
            )
        )
        self._end(EXIT_CONNECTION_LOST)

    def _end(self, code: int) -> None:
        # Not sys.exit: the other threads wait for what does not come any more.
        self._ssh.kill()
        os._exit(code)


def call(address: str) -> subprocess.Popen[bytes]:
    """The far end at that address, which has said that it is one of this version.

    Raises InputError for what is no address, WorkerError, in words for the user, if there is no such far end.
    """
    ssh = start_ssh(address)
    complaints: deque[str] = deque(maxlen=3)
    stdout, stderr = cast(IO[bytes], ssh.stdout), cast(IO[bytes], ssh.stderr)
    listener = threading.Thread(target=lambda: complaints.extend(_lines(stderr)), daemon=True)
    listener.start()
    told = _greeting(stdout.readline)
    if told is None:
        # Its own end tells why.
        with contextlib.suppress(subprocess.TimeoutExpired):
            ssh.wait(1.0)
        ssh.kill()
        code = ssh.wait()
        listener.join(1.0)
        raise WorkerError(explain(address, code, complaints[-1] if complaints else ""))
    if told != hyperreg.__version__:
        ssh.kill()
        raise WorkerError(
            f"'{host_of(address)}' has HyperReg {told}, this computer {hyperreg.__version__}. "
            "Install the same version on both."
        )
    return ssh


def _greeting(read_line: Callable[[int], bytes]) -> str | None:
    """The version that the far end tells, after what a login script may print; None if it tells none."""
    rest = _MAX_PREAMBLE_BYTES
    while rest > 0:
        line = read_line(rest)
        if not line:
            return None
        rest -= len(line)
        if line.startswith(GREETING):
            return line[len(GREETING) :].decode(errors="replace").strip()
    return None


def _lines(stream: Iterable[bytes]) -> Iterator[str]:
    """The lines as they come, each written to the log as well."""
    for line in stream:
        text = line.decode(errors="replace").strip()
        print(text, file=sys.stderr, flush=True)
        if text:
            yield text


def main(address: str, greeting: Mapping[str, Any]) -> None:
    """Works for the application that is described by the greeting, until it goes; see `server.read_greeting`."""
    connection = WorkerConnection(greeting["port"], greeting["key"])
    try:
        ssh = call(address)
    except (WorkerError, InputError) as error:
        connection.send(protocol.Lost(str(error)))
        sys.exit(EXIT_CONNECTION_LOST)
    NearEnd(connection, [Path(folder) for folder in greeting["folders"]], ssh, host_of(address)).run()
