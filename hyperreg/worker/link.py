"""What a client holds of one worker process: the process, the connection to it and the memory shared with it."""

from __future__ import annotations

import secrets
import time
import weakref
from collections.abc import Mapping, Sequence

from hyperreg.errors import WorkerError
from hyperreg.worker import protocol
from hyperreg.worker.connection import Channel, Reception
from hyperreg.worker.memory import Workspace
from hyperreg.worker.process import WorkerProcess

# Reading Python and numpy from a cold disk, with a virus scanner in between.
START_TIMEOUT_S = 120.0
_WORKER_MESSAGES = (
    protocol.Hello,
    protocol.Started,
    protocol.Progress,
    protocol.Event,
    protocol.Result,
    protocol.Failure,
    protocol.Ended,
    protocol.Lost,
)


class Link:
    """A worker that was started; it may not have answered yet.

    python, arguments, environment: see `WorkerClient`. workspace: the memory to share, which goes with the link.
    Raises WorkerError if it cannot be started.
    """

    def __init__(
        self, python: str, arguments: Sequence[str], environment: Mapping[str, str], workspace: Workspace
    ) -> None:
        self.workspace = workspace
        self.pid: int | None = None
        self._deadline = time.monotonic() + START_TIMEOUT_S
        self._waiting: dict[int, bytes] = {}
        self._channel: Channel | None = None
        key = secrets.token_hex(32)
        try:
            self._reception = Reception(key)
        except OSError as error:
            self.workspace.close()
            raise WorkerError(f"The HyperReg engine cannot be reached: {error.strerror or error}.") from error
        try:
            self.process = WorkerProcess(
                python, arguments, environment, port=self._reception.port, key=key, folders=self.workspace.folders
            )
        except WorkerError:
            self._reception.close()
            self.workspace.close()
            raise
        # A client that is forgotten, or an application that ends, leaves nothing behind.
        self._finalizer = weakref.finalize(self, _clean, self.process, self.workspace)

    def request(self, number: int, frame: bytes) -> None:
        """Sends a request, or keeps it until the worker is ready."""
        # Not earlier: what comes together with the end of the handshake would be taken for a part of it.
        if self._channel is None or self.pid is None:
            self._waiting[number] = frame
        else:
            self._channel.send_frame(frame)

    def withdraw(self, number: int) -> bool:
        """Takes a request back if it was not sent yet; otherwise asks the worker to give it up and returns False."""
        if self._waiting.pop(number, None) is not None:
            return True
        if self._channel is not None:
            self._channel.send(protocol.Cancel(number))
        return False

    def finish(self, number: int) -> None:
        """Asks the worker to come to an end with a request. One that was not sent yet stays as it is."""
        if self._channel is not None and number not in self._waiting:
            self._channel.send(protocol.Finish(number))

    def receive(self) -> list[protocol.Message]:
        """What the worker has said until now. Raises WorkerError, in words for the user, once it is lost."""
        self.process.bound_log()
        if self.pid is None and time.monotonic() > self._deadline:
            raise WorkerError("The HyperReg engine did not start in time. Try again; its log may tell more.")
        if self._channel is None:
            self._channel = self._reception.poll()
        if self._channel is None:
            if self.process.exit_code is not None:
                raise WorkerError(self.process.explain_exit())
            return []
        contents = self._channel.receive()
        messages = [protocol.parse(content, *_WORKER_MESSAGES) for content in contents]
        for message in messages:
            if isinstance(message, protocol.Hello):
                if message.version != protocol.VERSION:
                    raise WorkerError("The worker is of another version of HyperReg; reinstall it (hyperreg doctor).")
                self._welcome(self._channel, message.pid)
            elif isinstance(message, protocol.Lost):
                raise WorkerError(message.message)
        if not messages and self._channel.closed:
            self.process.wait()
            raise WorkerError(self.process.explain_exit())
        return messages

    def close(self, *, gently: bool = False, keep: bool = False) -> str:
        """Ends the worker with all its children, frees what was shared, returns the end of its log.

        gently: let it end by itself first. keep: the shared memory stays, for the next link.
        """
        self._reception.close()
        if gently and self._channel is not None:
            self._channel.send(protocol.Stop())
            self.process.wait()
        self.process.kill()
        log = self.process.log()
        # Only now: a worker that loses its application cleans up, its log included.
        if self._channel is not None:
            self._channel.close()
        self._finalizer.detach()
        if not keep:
            self.workspace.close()
        return log

    def _welcome(self, channel: Channel, pid: int) -> None:
        self.pid = pid
        for frame in self._waiting.values():
            channel.send_frame(frame)
        self._waiting.clear()


def _clean(process: WorkerProcess, workspace: Workspace) -> None:
    if not workspace.is_mine:
        return
    try:
        process.kill()
    except KeyboardInterrupt:  # a second Ctrl+C while the interpreter ends
        process.kill(tidy_s=0)
    finally:
        workspace.close()
