"""A job: one request to the worker as its caller sees it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Protocol

import numpy.typing as npt

from hyperreg.errors import Cancelled, HyperRegError

JobState = Literal["queued", "running", "cancelling", "cancelled", "superseded", "failed", "done"]
ENDED: frozenset[JobState] = frozenset({"cancelled", "superseded", "failed", "done"})
_NEXT: dict[JobState, frozenset[JobState]] = {
    "queued": frozenset({"running", "cancelling", "cancelled", "superseded", "failed", "done"}),
    # Back in the queue: of a worker that took the place of the one in which it ran.
    "running": frozenset({"queued", "cancelling", "cancelled", "superseded", "failed", "done"}),
    "cancelling": frozenset({"cancelled", "superseded", "failed"}),
}


class JobOwner(Protocol):
    """What a job needs of the client that made it."""

    def cancel(self, job: Job) -> None: ...

    def finish(self, job: Job) -> None: ...

    def wait(self, job: Job, timeout: float | None) -> bool: ...


class Job:
    """One request: queued -> running -> done | failed | cancelled | superseded, by way of cancelling.

    inputs, arrays: views of the shared memory with what was given and (once done) with the outputs; they stay valid as
        long as they are held.
    result: plain values (once done). progress: (fraction 0 to 1, text).
    generation: which start of the worker has it (see `WorkerClient.generation`); another one than at first if that had
        to be ended for a job before it.
    failure: what went wrong (once failed); error: the same as text for the user; details: for a bug report.
    on_event(event, values): what some operations tell on their way, by name; `arrays` may be read meanwhile, if the
        operation says so.
    on_progress(fraction, text), on_done(job), on_failed(job), on_cancelled(job): called by `WorkerClient.poll`, on the
        thread that calls it; on_cancelled also for superseded. observers(job): called before these, at progress and at
        the end, for who passes the job on to somebody else.
    """

    def __init__(self, owner: JobOwner, number: int, operation: str, stream: str | None) -> None:
        self._owner = owner
        self.id = number
        self.operation = operation
        self.stream = stream
        self.generation = 0
        self.state: JobState = "queued"
        self.progress: tuple[float, str] = (0.0, "")
        self.inputs: dict[str, npt.NDArray] = {}
        self.arrays: dict[str, npt.NDArray] = {}
        self.result: dict[str, Any] = {}
        self.failure: HyperRegError | None = None
        self.details = ""
        self.observers: list[Callable[[Job], None]] = []
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None
        self.on_progress: Callable[[float, str], None] | None = None
        self.on_done: Callable[[Job], None] | None = None
        self.on_failed: Callable[[Job], None] | None = None
        self.on_cancelled: Callable[[Job], None] | None = None

    @property
    def error(self) -> str:
        return "" if self.failure is None else str(self.failure)

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    def cancel(self) -> None:
        """Gives the job up, within a second or so, if need be by ending the worker. Harmless once it has ended."""
        self._owner.cancel(self)

    def finish(self) -> None:
        """Asks for what is known by now instead of something better later: it ends as done, not as cancelled.

        Only some operations can; the others go on as they were.
        """
        self._owner.finish(self)

    def wait(self, timeout: float | None = None) -> bool:
        """Polls until the job has ended; False if it has not within `timeout` seconds. For use without event loop."""
        return self._owner.wait(self, timeout)

    def check(self) -> dict[str, Any]:
        """The result of an ended job; raises what made it fail, or Cancelled."""
        if self.failure is not None:
            raise self.failure
        if self.state != "done":
            raise Cancelled("The operation was cancelled.")
        return self.result

    def announce(self) -> None:
        """Calls what belongs to the state: the end, or progress before it (client only)."""
        for observer in list(self.observers):
            observer(self)
        if not self.ended:
            if self.on_progress is not None:
                self.on_progress(*self.progress)
            return
        callback = {"done": self.on_done, "failed": self.on_failed}.get(self.state, self.on_cancelled)
        if callback is not None:
            callback(self)

    def enter(self, state: JobState) -> bool:
        """Changes the state (client only); False, and no change, where the state machine does not allow it."""
        if state not in _NEXT.get(self.state, frozenset()):
            return False
        self.state = state
        return True
