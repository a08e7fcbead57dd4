"""The far end: `hyperreg worker`, which ssh starts on the other computer. It has a worker there do what is asked."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

import hyperreg
from hyperreg.errors import HyperRegError
from hyperreg.worker import protocol
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.protocol import content_of
from hyperreg.worker.ssh.wire import GREETING, Reader, Wire, Writer

_WORKER_ENDED = "The HyperReg engine on the other computer has ended. The next request starts it again."
_POLL_S = 0.005
_KINDS = (protocol.Request, protocol.Cancel, protocol.Finish)


class FarEnd:
    """Serves the near end at these streams with a worker of its own. client: that worker's."""

    def __init__(self, client: WorkerClient, reader: Reader, writer: Writer) -> None:
        self._client = client
        # The near end may never tell its end, if the line is cut: its silence is one, too.
        self._wire = Wire(reader, writer, lambda: self._received.put(None))
        self._jobs: dict[int, Job] = {}
        # The arrays that come with the request that is arriving.
        self._arriving: dict[str, npt.NDArray] = {}
        # None: nothing more will come.
        self._received: queue.SimpleQueue[tuple[protocol.Message, dict[str, npt.NDArray]] | None] = queue.SimpleQueue()

    def run(self) -> None:
        """Works until the near end is gone, or this process is told to end."""
        for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):
            signal.signal(number, lambda *_: self._received.put(None))
        self._wire.start()
        threading.Thread(target=self._receive, name="requests", daemon=True).start()
        while True:
            with contextlib.suppress(queue.Empty):
                received = self._received.get(timeout=_POLL_S)
                if received is None:
                    return
                self._do(*received)
            self._client.poll()
            if self._client.generation > 1 or (self._client.generation and not self._client.alive):
                # What it had prepared is gone, which the application has to know; then the near end goes.
                self._say(protocol.Lost(_WORKER_ENDED))

    def _receive(self) -> None:
        try:
            for content in self._wire.receive(self._places):
                message = protocol.parse(content, *_KINDS)
                inputs = self._arriving if isinstance(message, protocol.Request) else {}
                self._received.put((message, inputs))
        except (protocol.ProtocolError, MemoryError) as error:
            self._wire.send_now(content_of(protocol.Lost(f"The other computer gives up: {error or 'no memory left'}.")))
        finally:
            self._received.put(None)

    def _places(self, content: dict[str, Any]) -> Sequence[npt.NDArray]:
        request = protocol.parse(content, protocol.Request)
        self._arriving = {name: np.empty(spec.shape, spec.dtype) for name, spec in request.inputs.items()}
        return list(self._arriving.values())

    def _do(self, message: protocol.Message, inputs: dict[str, npt.NDArray]) -> None:
        if isinstance(message, protocol.Request):
            self._submit(message, inputs)
        elif isinstance(message, protocol.Cancel) and message.id in self._jobs:
            self._jobs[message.id].cancel()
        elif isinstance(message, protocol.Finish) and message.id in self._jobs:
            self._jobs[message.id].finish()

    def _submit(self, request: protocol.Request, inputs: dict[str, npt.NDArray]) -> None:
        number = request.id
        outputs = {name: (spec.shape, spec.dtype) for name, spec in request.outputs.items()}
        try:
            job = self._client.submit(request.operation, request.parameters, inputs, request.stream, outputs=outputs)
        except HyperRegError as error:
            self._say(protocol.Failure(number, type(error).__name__, str(error)[: protocol.MAX_TEXT], ""))
            return
        self._jobs[number] = job
        arrays = [job.arrays[name] for name in outputs]
        job.on_event = lambda event, values: self._wire.send(
            number, content_of(protocol.Event(number, event, values)), arrays
        )
        job.on_progress = lambda fraction, text: self._say(protocol.Progress(number, fraction, text))
        job.on_done = lambda done: self._finish(number, protocol.Result(number, done.result), arrays)
        job.on_failed = lambda failed: self._finish(
            number, protocol.Failure(number, type(failed.failure).__name__, failed.error, failed.details)
        )
        job.on_cancelled = lambda ended: self._finish(number, protocol.Ended(number, ended.state))

    def _finish(self, number: int, message: protocol.Message, arrays: Sequence[npt.NDArray] = ()) -> None:
        del self._jobs[number]
        if isinstance(message, protocol.Result):
            self._wire.send(number, content_of(message), arrays)
        else:
            self._say(message)

    def _say(self, message: protocol.Message) -> None:
        self._wire.send_now(content_of(message))


def main(client: WorkerClient | None = None) -> None:
    """Speaks through this process's standard input and output, until the near end goes. client: of the worker."""
    reader = os.fdopen(os.dup(0), "rb", buffering=0)
    writer = os.fdopen(os.dup(1), "wb", buffering=0)
    # What any library prints must not come between the messages; standard error goes to the near end's log.
    os.dup2(2, 1)
    writer.write(GREETING + hyperreg.__version__.encode() + b"\n")
    client = client or WorkerClient()
    try:
        FarEnd(client, reader, writer).run()
    finally:
        client.stop()
