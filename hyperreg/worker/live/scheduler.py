"""What the worker does next for a live registration: one request at a time, the most needed first. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from hyperreg.errors import HyperRegError, SessionLost
from hyperreg.registration.anchors import SAME_LAMBDA
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.live.fields import key_of
from hyperreg.worker.live.messages import fields_of, outputs_on
from hyperreg.worker.live.pair import Pair
from hyperreg.worker.live.state import Work

# λ that has not been moved for so long rests. While it moves nothing is computed for it, which would be too late, and
# would slow down what it moves.
REST_S = 0.2

# What becomes of an answer, and of a request that has failed (True) or was cancelled (False).
Done = Callable[[Job], None]
Ended = Callable[[bool], None]


@dataclass(frozen=True)
class Task:
    """Something that the worker is to do. operation: "prepare" (again), "settings", "field" or "metrics".

    lam, stage: of a field or of metrics. beside: λ that the worker may solve at the same time, for later.
    for_lambda: whether a field is wanted because λ is where it is; it is given up when λ moves.
    """

    operation: str
    lam: float = 1.0
    stage: int = 0
    beside: tuple[float, ...] = ()
    for_lambda: bool = False


class Scheduler:
    """Sends the worker what is most needed, one request at a time: a new λ waits for no more than one of them.

    on_change(error): an answer or news of its progress has come; error: in words for the user, "" without one.
    job, task: what is on its way, or None. moving: whether λ was moved just now.
    """

    def __init__(self, client: WorkerClient, session: str, on_change: Callable[[str], None]) -> None:
        self._client, self._session, self._on_change = client, session, on_change
        self.job: Job | None = None
        self.task: Task | None = None
        self.full_automatically = True
        self.forget()

    def forget(self) -> None:
        """Another pair, or none: what is on its way does not count any more, nor what was asked for."""
        self._cancel_field()
        self.job = self.task = None
        # The λ at which full resolution was asked for, where it does not come by itself.
        self._full_at: float | None = None
        self._filling = False
        self.moving = False

    # What is wanted

    def wake(self) -> None:
        """The user wants something: goes on, also after a failure."""
        self._filling = True

    def settings_changed(self) -> None:
        """Fields with the settings before are wanted no more."""
        self._full_at = None
        self._cancel_field()
        self.wake()

    def lambda_moved(self, lam: float) -> None:
        """What was wanted for the λ before is not wanted any more; what serves all of them goes on."""
        if self.task is not None and self.task.for_lambda and self.task.lam != key_of(lam):
            self._cancel_field()
        self.moving = True
        self._client.call_after(REST_S, self._rests)

    def _rests(self) -> None:
        self.moving = False
        self._on_change("")

    def set_full_automatically(self, on: bool, pair: Pair | None) -> None:
        """See `LiveRegistration.set_full_automatically`."""
        self.full_automatically = on
        if pair is None:
            return
        if on:
            pair.full_failed = False
            self.wake()
        elif self._full_at is None and self._computes_full(pair):
            self._cancel_field()

    def request_full(self, lam: float | None) -> None:
        """Full resolution is wanted at λ, whether it comes by itself or not."""
        self._full_at = None if lam is None else key_of(lam)
        self.wake()

    def cancel_full(self, pair: Pair | None) -> None:
        """Full resolution is wanted no more."""
        self._full_at = None
        self.set_full_automatically(False, pair)

    def wants_full(self, pair: Pair, lam: float) -> bool:
        """Whether full resolution at λ is on its way or will come."""
        return self._full_by_itself(pair) or (self._full_at is not None and abs(self._full_at - lam) <= SAME_LAMBDA)

    def _full_by_itself(self, pair: Pair) -> bool:
        return self.full_automatically and not pair.full_failed

    def _computes_full(self, pair: Pair) -> bool:
        task = self.task
        return task is not None and task.operation == "field" and task.stage > pair.prepared.quick_stage

    def _cancel_field(self) -> None:
        """Gives up the field that is on its way, if there is one: the worker looks between two steps."""
        if self.job is not None and self.job.operation == "field":
            self.job.cancel()

    # What is done

    def work(self, pair: Pair) -> Work | None:
        """The field that is being computed."""
        if self.job is None or self.task is None or self.task.operation != "field":
            return None
        return Work(self.task.lam, pair.prepared.stages[self.task.stage], *self.job.progress)

    def advance(self, pair: Pair, lam: float | None) -> None:
        """Sends what is most needed at λ, if nothing is on its way."""
        if self.job is not None or not self._filling:
            return
        # Before λ is set for the first time, one end of the slider is as good as the other.
        task = self.most_needed(pair, key_of(1.0 if lam is None else lam))
        if task is None:
            return
        if pair.generation != self._client.generation or not self._client.alive:
            self._prepare_again(pair)
        elif task.operation == "settings":
            self._send_settings(pair)
        elif task.operation == "field":
            self._request_field(pair, task)
        else:
            self._request_metrics(pair, task)

    def most_needed(self, pair: Pair, lam: float) -> Task | None:
        """In this order: settings; a first field at λ and at both ends, so that λ moves the picture; the quick field at
        λ and its metrics; quick fields everywhere; full resolution at λ; the response; full resolution everywhere.

        After a change of settings the ends wait for the quick field at λ: who drags a landmark looks at that one. While
        λ moves only what previews are made of is needed."""
        store, quick, last = pair.store, pair.prepared.quick_stage, pair.prepared.last_stage
        if pair.settings.next_operation is not None:
            return Task("settings")
        here = store.stage_at(lam)
        # A draft of λ would be no better than a preview of that stage.
        drafted = here >= 0 or store.stage_between(lam) >= (0 if self.moving else quick)
        ends = [Task("field", end, 0) for end in (1.0, 0.0) if store.stage_at(end) < 0]
        if not drafted:
            ends.insert(0, Task("field", lam, 0))
        if ends and not (pair.changed and drafted):
            return ends[0]
        if not self.moving:
            if here < quick:
                return Task("field", lam, quick, for_lambda=True)
            if (lam, here) not in store.metrics:
                return Task("metrics", lam, here)
        if ends:
            return ends[0]
        to_full = self.wants_full(pair, lam) and here < last and not self.moving
        anchors = store.next_anchors(lam, quick)
        if anchors and not (to_full and self._full_at is not None):
            return Task("field", anchors[0], quick, tuple(anchors[1:]))
        if to_full:
            return Task("field", lam, last, for_lambda=True)
        return None if self.moving else self._least_needed(pair, lam)

    def _least_needed(self, pair: Pair, lam: float) -> Task | None:
        """What waits for all quick fields, and for full resolution at λ."""
        if (unmeasured := pair.curve.next_lambda()) is not None:
            return Task("metrics", unmeasured, pair.prepared.quick_stage)
        behind = pair.store.nearest_below(lam, pair.prepared.last_stage) if self._full_by_itself(pair) else None
        return None if behind is None else Task("field", behind, pair.prepared.last_stage, for_lambda=True)

    def _prepare_again(self, pair: Pair) -> None:
        def done(job: Job) -> None:
            pair.generation = job.generation
            pair.settings.started(job.result["values"])

        job = self._send(
            pair, Task("prepare"), pair.parameters, done, self._stop, arrays=pair.arrays, stream=self._session
        )
        if job is not None:
            pair.arrays = job.inputs

    def _send_settings(self, pair: Pair) -> None:
        asked = pair.settings.copy()

        def ended(_failed: bool) -> None:
            # Without the worker nothing was refused: what is set is sent again with the next request of the user.
            self._filling = self._client.alive
            if not self._filling:
                return
            pair.settings.refused(asked)
            if pair.landmarks is not None and pair.settings.constraints.landmarks is None:
                pair.landmarks = replace(pair.landmarks, pull=0.0)

        parameters, arrays = asked.request()
        self._send(pair, Task("settings"), parameters, lambda _job: pair.settings.sent(asked), ended, arrays=arrays)

    def _request_field(self, pair: Pair, task: Task) -> None:
        store = pair.store

        def done(job: Job) -> None:
            if pair.store is not store:
                return  # a setting has changed meanwhile
            pair.take_fields(task.lam, task.stage, fields_of(job, pair.prepared.grid))
            if self._full_at == task.lam:
                self._full_at = None

        def ended(failed: bool) -> None:
            if not failed:
                return
            self._stop()
            if task.stage > pair.prepared.quick_stage:
                # What costs less still works, unless the worker has died of it.
                pair.full_failed, self._filling = True, self._client.alive

        parameters = {"lambda": task.lam, "stage": task.stage, "beside": list(task.beside)}
        self._send(pair, task, parameters, done, ended, outputs=outputs_on(pair.prepared.grid))

    def _request_metrics(self, pair: Pair, task: Task) -> None:
        store = pair.store

        def done(job: Job) -> None:
            if pair.store is store:
                pair.take_metrics(task.lam, task.stage, job.result["metrics"])

        self._send(pair, task, {"lambda": task.lam, "stage": task.stage}, done, self._stop)

    def _stop(self, _failed: bool = True) -> None:
        # Only a new request of the user is tried again: what ended the worker once may end it every time.
        self._filling = False
        self._full_at = None

    def _send(
        self, pair: Pair, task: Task, parameters: dict[str, Any], done: Done, ended: Ended, **options: Any
    ) -> Job | None:
        """Sends a request; see `WorkerClient.submit` for the options.

        Returns None, and tells the user, if there is no room for what it shares with the worker.
        """

        def changed(job: Job) -> None:
            if job is not self.job:
                return  # overtaken by another pair, or by reset
            error = ""
            if job.ended:
                self.job = self.task = None
                if job.state == "done":
                    pair.take_answer(job)
                    done(job)
                elif isinstance(job.failure, SessionLost) and job.generation != generation:
                    pass  # the worker was replaced while this waited: what is wanted still is, after a preparation
                else:
                    ended(job.state == "failed")
                    error = job.error
            self._on_change(error)

        operation = pair.settings.next_operation if task.operation == "settings" else task.operation
        try:
            job = self._client.submit(operation or "", {"session": self._session, **parameters}, **options)
        except HyperRegError as error:
            ended(True)
            self._on_change(str(error))
            return None
        self.job, self.task, generation = job, task, job.generation
        job.observers.append(changed)
        return job
