"""The application's side of the worker: starts it, sends requests, delivers answers when polled.

No thread, no event loop of its own: somebody calls `poll` now and then (a QTimer in Slicer, an asyncio task in the
browser app, `Job.wait` on the command line) and gets the callbacks on the calling thread. Imports no torch.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg import errors
from hyperreg.errors import HyperRegError, InputError, WorkerError
from hyperreg.worker import protocol
from hyperreg.worker.device import DeviceError
from hyperreg.worker.jobs import Job, JobState
from hyperreg.worker.link import Link
from hyperreg.worker.memory import Workspace
from hyperreg.worker.ssh.address import host_of

# A running operation that was cancelled may take this long to notice; then the worker is ended.
CANCEL_GRACE_S = 1.0
_WAIT_STEP_S = 0.005

_HERE = ("-m", "hyperreg.worker")

Outputs = Mapping[str, tuple[Sequence[int], npt.DTypeLike]]


class WorkerClient:
    """One worker process and the jobs it was given. Not for use from several threads.

    python: executable of the worker (None: this one; in Slicer, PythonSlicer). environment: additional variables.
    arguments: what the executable runs. address: see `move_to`.
    The worker is started by `start` or the first `submit`, and again by the next `submit` after it died.
    generation: how often it was started; what an earlier one knew is lost (see `Job.generation`).
    """

    def __init__(
        self,
        python: str | None = None,
        environment: Mapping[str, str] | None = None,
        *,
        arguments: Sequence[str] = _HERE,
        address: str = "",
    ) -> None:
        self._python = python or sys.executable
        self._environment = dict(environment or {})
        self._arguments = tuple(arguments)
        self._link: Link | None = None
        self._active: dict[int, _Active] = {}
        self._events: deque[Callable[[], None]] = deque()
        self._delayed: list[tuple[float, Callable[[], None]]] = []
        self._last_id = 0
        self._log = ""
        self.generation = 0
        self.address = ""
        if address:
            self.move_to(address)

    @property
    def alive(self) -> bool:
        """Whether a worker process runs."""
        return self._link is not None and self._link.process.exit_code is None

    @property
    def pid(self) -> int | None:
        """Process id of the worker, once it has answered."""
        return None if self._link is None else self._link.pid

    @property
    def log(self) -> str:
        """The last of what the worker (or the one before it) printed: for a bug report."""
        return self._log if self._link is None else self._link.process.log()

    def start(self) -> None:
        """Starts the worker if none runs; returns at once. Raises WorkerError if the executable cannot be started."""
        if self._link is not None and not self.alive:
            self._lose(WorkerError(self._link.process.explain_exit()))
        if self._link is None:
            self._begin(Workspace())

    def _begin(self, workspace: Workspace) -> None:
        """Starts a worker that shares this memory, which is closed if it cannot be started."""
        self._link = Link(self._python, self._arguments, self._environment, workspace)
        self.generation += 1

    def stop(self) -> None:
        """Ends the worker; jobs that have not ended become cancelled, without callbacks."""
        for active in self._active.values():
            active.job.enter("cancelled")
        self._active.clear()
        self._events.clear()
        if self._link is not None:
            self._log = self._link.close(gently=True)
            self._link = None

    def move_to(self, address: str) -> None:
        """Has another computer compute from the next request on; "" this one. The worker that runs is ended.

        address: see `ssh.address.ssh_command`.
        Raises InputError for what is no address, and while anything is asked for.
        """
        if address:
            host_of(address)
        if self._active:
            raise InputError("Something is being computed. Cancel it or wait for it, then choose where to compute.")
        self.stop()
        self.address = address
        self._arguments = ("-m", "hyperreg.worker.ssh", address) if address else _HERE

    def submit(
        self,
        operation: str,
        parameters: Mapping[str, Any] | None = None,
        arrays: Mapping[str, npt.NDArray] | None = None,
        stream: str | None = None,
        *,
        outputs: Outputs | None = None,
    ) -> Job:
        """Asks for an operation.

        parameters: plain values (JSON). arrays: copied to shared memory, see `Job.inputs`.
        stream: a newer job of the same stream supersedes this one, unless it is already done.
        outputs: (shape, dtype) of the arrays that the operation fills, see `Job.arrays`.
        Raises InputError for what cannot be sent, OutOfMemory if it has no room. That the worker cannot be started
        is not raised, but makes the job fail.
        """
        try:
            plain = json.loads(json.dumps(dict(parameters or {}), allow_nan=False))
        except (TypeError, ValueError) as error:
            raise InputError(f"The parameters of '{operation}' are not plain values: {error}.") from error
        self._last_id += 1
        job = Job(self, self._last_id, operation, stream)
        try:
            self.start()
        except WorkerError as error:
            self._active[job.id] = _Active(job, None, (), b"")
            self._later(self._fail, job, error)
            return job
        assert self._link is not None  # noqa: S101  for the type checker: just started
        workspace = self._link.workspace
        inputs: dict[str, protocol.ArraySpec] = {}
        results: dict[str, protocol.ArraySpec] = {}
        self._active[job.id] = active = _Active(job, workspace, (inputs, results), b"")
        try:
            for name, array in (arrays or {}).items():
                inputs[name], job.inputs[name] = workspace.create(np.shape(array), np.asarray(array).dtype)
                np.copyto(job.inputs[name], array)
            for name, (shape, dtype) in (outputs or {}).items():
                results[name], job.arrays[name] = workspace.create(shape, dtype)
            active.frame = protocol.encode(protocol.Request(job.id, operation, stream, plain, inputs, results))
        except HyperRegError:
            active.release()
            del self._active[job.id]
            raise
        self._send(active)
        return job

    def poll(self) -> None:
        """Takes what the worker has sent and calls the callbacks of its jobs; never waits for it.

        An exception of a callback is passed on; what else has arrived is delivered by the next call.
        """
        if self._link is not None:
            try:
                for message in self._link.receive():
                    self._later(self._handle, message)
            except WorkerError as error:
                self._lose(error)
        self._deliver()
        now = time.monotonic()
        due = [function for at, function in self._delayed if at <= now]
        self._delayed = [(at, function) for at, function in self._delayed if at > now]
        for function in due:
            function()
        if any(now - active.cancelled_at > CANCEL_GRACE_S for active in self._active.values()):
            self._replace(WorkerError("The HyperReg engine did not react to a cancellation and was ended."))
            self._deliver()

    def call_after(self, seconds: float, function: Callable[[], None]) -> None:
        """The first `poll` after so many seconds calls the function; if there are several of the same, once."""
        self._delayed = [(at, other) for at, other in self._delayed if other != function]
        self._delayed.append((time.monotonic() + seconds, function))

    def cancel(self, job: Job) -> None:
        """See `Job.cancel`."""
        active = self._active.get(job.id)
        if active is None or not job.enter("cancelling"):
            return
        active.cancelled_at = time.monotonic()
        if self._link is None or self._link.withdraw(job.id):
            self._later(self._end, job, "cancelled")

    def finish(self, job: Job) -> None:
        """See `Job.finish`."""
        if job.id in self._active and job.state != "cancelling" and self._link is not None:
            self._link.finish(job.id)

    def wait(self, job: Job, timeout: float | None) -> bool:
        """See `Job.wait`."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            self.poll()
            if job.ended:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(_WAIT_STEP_S)

    def _later(self, function: Callable[..., None], *arguments: Any) -> None:
        self._events.append(lambda: function(*arguments))

    def _deliver(self) -> None:
        while self._events:
            self._events.popleft()()

    def _handle(self, message: protocol.Message) -> None:
        active = self._active.get(getattr(message, "id", 0))
        if active is None:
            return  # it has ended meanwhile
        job = active.job
        if isinstance(message, protocol.Started):
            job.enter("running")
        elif isinstance(message, protocol.Progress):
            job.progress = (message.fraction, message.text)
            job.announce()
        elif isinstance(message, protocol.Event):
            if job.on_event is not None and job.state != "cancelling":
                job.on_event(message.event, message.values)
        elif isinstance(message, protocol.Ended):
            self._end(job, "cancelled" if message.state == "cancelled" else "superseded")
        elif isinstance(message, protocol.Failure):
            kind = getattr(errors, message.error, None)
            known = isinstance(kind, type) and issubclass(kind, HyperRegError)
            self._fail(job, (kind if known and kind is not None else WorkerError)(message.message), message.details)
            if message.error == DeviceError.__name__:
                self._replace(WorkerError(message.message))  # it is about to end
        elif isinstance(message, protocol.Result):
            if job.state == "cancelling":
                self._end(job, "cancelled")
            else:
                job.result = message.values
                self._end(job, "done")

    def _fail(self, job: Job, error: HyperRegError, details: str = "") -> None:
        job.failure, job.details = error, details
        self._end(job, "failed")

    def _end(self, job: Job, state: JobState) -> None:
        active = self._active.pop(job.id, None)
        if active is not None:
            active.release()
        if job.enter(state):
            job.announce()

    def _send(self, active: _Active) -> None:
        if self._link is not None:
            active.job.generation = self.generation
            self._link.request(active.job.id, active.frame)

    def _lose(self, error: WorkerError) -> None:
        """Buries a worker that is lost: every job that it had fails, or is cancelled if that was wanted."""
        if self._link is None:
            return
        self._log = self._link.close()
        self._link = None
        self._give_up(list(self._active.values()), error)

    def _replace(self, error: WorkerError) -> None:
        """Ends a worker for what it does with one job: that one is over, what else it was asked for a new one gets."""
        if self._link is None:
            return
        others = [active for active in self._active.values() if active.job.state != "cancelling"]
        if not others:
            self._lose(error)
            return
        self._give_up([active for active in self._active.values() if active not in others], error)
        workspace = self._link.workspace
        self._log = self._link.close(keep=True)
        self._link = None
        try:
            self._begin(workspace)
        except WorkerError as unstartable:
            self._give_up(others, unstartable)
            return
        for active in others:
            active.job.enter("queued")
            self._send(active)

    def _give_up(self, actives: Sequence[_Active], error: WorkerError) -> None:
        for active in actives:
            if active.job.state == "cancelling":
                self._later(self._end, active.job, "cancelled")
            else:
                self._later(self._fail, active.job, error, self._log)


@dataclass
class _Active:
    """A job that has not ended, the names of its shared memory, and how it is asked for."""

    job: Job
    workspace: Workspace | None
    specs: tuple[dict[str, protocol.ArraySpec], ...]
    frame: bytes
    cancelled_at: float = float("inf")

    def release(self) -> None:
        """Takes the names away; the memory lives as long as the job's arrays."""
        if self.workspace is not None:
            for spec in [spec for group in self.specs for spec in group.values()]:
                self.workspace.remove(spec)
