"""What a live registration sends to the worker, and what becomes of the answers. numpy only, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration.anchors import MAX_ANCHORS, SAME_LAMBDA
from hyperreg.registration.landmarks import Landmarks
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.live_curve import Curve
from hyperreg.worker.live_pair import Pair, Shown, fields_of, key_of, outputs_on, restored
from hyperreg.worker.live_requests import Requests

# λ that has not been moved for so long rests. While it moves nothing is computed for it, which would be too late, and
# would slow down what it moves.
REST_S = 0.2

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class SetAside:
    """A live registration that was put aside, see `LiveRegistration.set_aside`; its names are those of the engine."""

    pair: Pair
    curve: Curve
    lam: float | None
    shown: Shown | None
    landmarks: Landmarks | None
    device: str
    warnings: list[str]


class LiveEngine:
    """The part of `LiveRegistration` that talks to the worker: one request at a time, the most needed first."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._name = f"live-{next(_numbers)}"
        self.on_progress: Callable[[float, str], None] | None = None
        self.on_ready: Callable[[], None] | None = None
        self.on_field: Callable[[Shown], None] | None = None
        self.on_metrics: Callable[[dict[str, Any], Shown], None] | None = None
        self.on_work: Callable[[float, str], None] | None = None
        self.on_response: Callable[[Response, Suggestion | None], None] | None = None
        self.on_warning: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self._requests = Requests(client, self._tell_progress, self._tell_error, self._next)
        self.full_automatically = True
        self._aside: SetAside | None = None
        self._forget()

    def _forget(self) -> None:
        self._pair: Pair | None = None
        self._preparing: Job | None = None
        self._requests.job = None
        # The start of the worker (see WorkerClient.generation) that has the pair prepared; 0: none has.
        self._prepared_in = 0
        self._filling = False
        # The λ at which full resolution was asked for, where it does not come by itself.
        self._full_at: float | None = None
        # λ and stage of the field that was asked for last, and whether that was because λ is there.
        self._sent: tuple[float, int] = (1.0, 0)
        self._sent_for_lambda = False
        # Whether λ was moved just now.
        self._moving = False
        self._curve = Curve()
        self.lam: float | None = None
        self.shown: Shown | None = None
        self.landmarks: Landmarks | None = None
        self.device = ""
        self.warnings: list[str] = []

    @property
    def ready(self) -> bool:
        """Whether a pair is prepared and no other one is being prepared."""
        return self._pair is not None and self._preparing is None

    def _prepared(self) -> Pair:
        if self._pair is None:
            raise InputError("No pair of images has been registered yet.")
        return self._pair

    def _running(self, operation: str) -> bool:
        return self._requests.job is not None and self._requests.job.operation == operation

    def _prepare_changed(self, job: Job, parameters: dict[str, Any], start: Transform | None) -> None:
        """What becomes of a preparation that the user asked for. start: see `Pair`."""
        if job is not self._preparing:
            return
        if not job.ended:
            self._tell_progress(job)
            return
        self._preparing = None
        if job.state == "done":
            self._aside = None
            self._pair = Pair.prepared(job, parameters, start)
            self.shown, self.landmarks, self._full_at = None, None, None
            self._prepared_in, self._filling = job.generation, True
            self.warnings = []
            self._take_state(job)
            self._forget_curve()
            if self.on_ready is not None:
                self.on_ready()
        else:
            # The pair before is still there, but not in the worker: it comes back with the next request.
            self._filling = False
            if job.state == "failed":
                self._tell_error(job.error)
        self._next()

    def _settings_changed(self) -> None:
        """Nothing that was computed counts any more; what is shown stays until the new field is there."""
        self._prepared().forget_fields()
        self.shown = None
        self._full_at = None
        self._filling = True
        self._cancel_field()
        self._forget_curve()
        self._next()

    def _cancel_field(self) -> None:
        """Gives up the field that is on its way, if there is one: the worker looks between two steps."""
        if self._requests.job is not None and self._running("field"):
            self._requests.job.cancel()

    def _show(self) -> None:
        """Shows the best that is known for λ. Nothing is shown twice."""
        pair, lam = self._pair, self.lam
        if pair is None or lam is None or not self.ready:
            return
        found = pair.best(lam)
        if found is None:
            return
        if self.shown is None or not found.same_as(self.shown):
            self.shown = found
            if self.on_field is not None:
                self.on_field(found)
        self._tell_metrics(pair)

    def _next(self) -> None:
        """Sends what is most needed, if nothing is on its way."""
        pair = self._pair
        if pair is None or not self.ready or self._requests.job is not None:
            return
        work = self._most_needed(pair)
        if work is None:
            return
        if self._prepared_in != self._client.generation or not self._client.alive:
            self._prepare_again(pair)
        else:
            work()

    def _most_needed(self, pair: Pair) -> Callable[[], None] | None:
        """In this order: settings; a first field at λ and at both ends, so that λ moves the picture; the quick field at
        λ and its metrics; quick fields everywhere; full resolution at λ; the response; full resolution everywhere.

        After a change of settings the ends wait for the quick field at λ: who drags a landmark looks at that one. While
        λ moves only what previews are made of is needed."""
        if not self._filling:
            return None
        if pair.settings.next_operation is not None:
            return lambda: self._request_settings(pair)
        # Before λ is set for the first time, one end of the slider is as good as the other.
        lam = key_of(1.0 if self.lam is None else self.lam)
        quick, last = pair.quick_stage, len(pair.stages) - 1
        # A draft of λ would be no better than a preview of that stage.
        drafted = pair.stage_at(lam) >= 0 or pair.stage_between(lam) >= (0 if self._moving else quick)
        drafts = [end for end in (1.0, 0.0) if pair.stage_at(end) < 0]
        ends = [partial(self._request_field, pair, end, 0) for end in ([] if drafted else [lam]) + drafts]
        if ends and (pair.epoch == 0 or not drafted):
            return ends[0]
        if not self._moving:
            if pair.stage_at(lam) < quick:
                return partial(self._request_field, pair, lam, quick, for_lambda=True)
            if (lam, pair.stage_at(lam)) not in pair.metrics:
                return lambda: self._request_metrics(pair, lam, pair.stage_at(lam))
        if ends:
            return ends[0]
        to_full = self._wants_full(lam) and pair.stage_at(lam) < last and not self._moving
        anchors = self._next_anchors(pair, lam)
        if anchors and not (to_full and self._full_at is not None):
            return partial(self._request_field, pair, anchors[0], quick, beside=anchors[1:])
        return None if self._moving else self._least_needed(pair, lam, to_full)

    def _least_needed(self, pair: Pair, lam: float, to_full: bool) -> Callable[[], None] | None:
        """What waits for all quick fields. to_full: whether full resolution at λ is wanted, and not there."""
        quick, last = pair.quick_stage, len(pair.stages) - 1
        if to_full:
            return partial(self._request_field, pair, lam, last, for_lambda=True)
        if (measured := self._curve.next_lambda()) is not None:
            return lambda: self._request_metrics(pair, measured, quick)
        if self._full_by_itself and (behind := pair.nearest_below(lam, last)) is not None:
            return partial(self._request_field, pair, behind, last, for_lambda=True)
        return None

    def _rests(self) -> None:
        self._moving = False
        self._next()

    @property
    def _full_by_itself(self) -> bool:
        return self.full_automatically and not (self._pair is not None and self._pair.full_failed)

    def _wants_full(self, lam: float) -> bool:
        return self._full_by_itself or (self._full_at is not None and abs(self._full_at - lam) <= SAME_LAMBDA)

    def _next_anchors(self, pair: Pair, lam: float) -> list[float]:
        """The λ whose quick fields help most: of the response's, the nearest to λ; then where previews are worst."""
        missing = [other for other in RESPONSE_LAMBDAS if pair.stage_at(other) < pair.quick_stage]
        if missing:
            return sorted(missing, key=lambda other: abs(other - lam))
        worst = pair.anchors.next_lambda() if len(pair.anchors) < MAX_ANCHORS else None
        return [] if worst is None else [key_of(worst)]

    def _prepare_again(self, pair: Pair) -> None:
        def done(job: Job) -> None:
            self._prepared_in = job.generation
            pair.settings.started(job.result["values"])
            self._take_state(job)

        job = self._requests.send(
            "prepare",
            pair.parameters,
            done,
            lambda _failed: self._stop_filling(),
            arrays=pair.arrays,
            stream=self._name,
        )
        if job is not None:
            pair.arrays = job.inputs

    def _request_settings(self, pair: Pair) -> None:
        before = pair.settings.copy()

        def done(job: Job) -> None:
            pair.settings.sent(before)
            self._take_state(job)

        def ended(_failed: bool) -> None:
            # Without the worker nothing was refused: what is set is sent again with the next request of the user.
            self._filling = self._client.alive
            if not self._filling:
                return
            pair.settings.refused(before)
            if self.landmarks is not None and pair.settings.constraints.landmarks is None:
                self.landmarks = replace(self.landmarks, pull=0.0)

        parameters, arrays = pair.settings.request()
        operation = pair.settings.next_operation or ""
        self._requests.send(operation, {"session": self._name, **parameters}, done, ended, arrays=arrays)

    def _request_field(
        self, pair: Pair, lam: float, stage: int, beside: Sequence[float] = (), for_lambda: bool = False
    ) -> None:
        epoch = pair.epoch

        def done(job: Job) -> None:
            self._take_state(job)
            if pair.epoch != epoch:
                return  # a setting has changed meanwhile
            pair.add(lam, stage, fields_of(job, pair.grid), keep=self.lam)
            if stage > pair.quick_stage:
                pair.full_failed = False
            if self._full_at == lam:
                self._full_at = None
            self._show()

        def ended(failed: bool) -> None:
            if not failed:
                return
            self._stop_filling()
            if stage > pair.quick_stage:
                # What costs less still works, unless the worker has died of it.
                pair.full_failed, self._filling = True, self._client.alive

        self._sent, self._sent_for_lambda = (lam, stage), for_lambda
        self._requests.send(
            "field",
            {"session": self._name, "lambda": lam, "stage": stage, "beside": list(beside)},
            done,
            ended,
            outputs=outputs_on(pair.grid),
        )

    def _request_metrics(self, pair: Pair, lam: float, stage: int) -> None:
        epoch = pair.epoch

        def done(job: Job) -> None:
            self._take_state(job)
            if pair.epoch != epoch:
                return
            pair.metrics[lam, stage] = restored(job.result["metrics"])
            self._tell_metrics(pair)
            if stage == pair.quick_stage:
                self._add_to_curve(pair, lam)
                self._tell_response()

        self._requests.send(
            "metrics",
            {"session": self._name, "lambda": lam, "stage": stage},
            done,
            lambda _failed: self._stop_filling(),
        )

    def _stop_filling(self) -> None:
        # Only a new request of the user is tried again: what ended the worker once may end it every time.
        self._filling = False
        self._full_at = None

    def _take_state(self, job: Job) -> None:
        """The session's device, note and warnings, as they came with a result."""
        self.device = job.result["device"]
        if self._pair is not None:
            self._pair.note = job.result["note"]
        self._warn(job.result["warnings"])

    def _warn(self, texts: Iterable[str]) -> None:
        """Tells what was not told before."""
        for text in texts:
            if text not in self.warnings:
                self.warnings.append(text)
                if self.on_warning is not None:
                    self.on_warning(text)

    def _forget_curve(self) -> None:
        self._curve = Curve()
        self._tell_response()

    def _tell_response(self) -> None:
        if self.on_response is not None:
            self.on_response(self._curve.response, self._curve.suggestion)

    def _tell_metrics(self, pair: Pair) -> None:
        """The user sees the metrics of exactly what is shown: once, and none of another λ or stage."""
        shown = self.shown
        if shown is None or shown.measured or not shown.solved:
            return
        metrics = pair.metrics.get((key_of(shown.lam), shown.stage))
        if metrics is not None:
            shown.measured = True
            if self.on_metrics is not None:
                self.on_metrics(self._with_landmarks(metrics, shown.forward), shown)

    def _with_landmarks(self, metrics: dict[str, Any], forward: DisplacementField | None) -> dict[str, Any]:
        """The worker's metrics with the distance of the landmarks by this field, and by the linear alignment alone.

        Measured here, not in the worker: points cost next to nothing, and they may change while λ does not.
        """
        if self.landmarks is None or forward is None:
            return metrics
        pair = self._prepared()
        return self.landmarks.beside(metrics, forward, pair.linear, pair.start)

    def _add_to_curve(self, pair: Pair, lam: float) -> None:
        """The metrics of a quick field; landmarks are measured with the best field that is here."""
        fields = pair.fields_at(lam)
        if self.landmarks is None or fields is not None:
            self._curve.add(
                lam, self._with_landmarks(pair.metrics[lam, pair.quick_stage], fields.forward if fields else None)
            )

    def _landmarks_changed(self) -> None:
        """All metrics anew, from the fields that are here; the worker has nothing to do."""
        pair = self._prepared()
        self._curve = Curve()
        for lam, stage in list(pair.metrics):
            if stage == pair.quick_stage:
                self._add_to_curve(pair, lam)
        self._tell_response()
        if self.shown is not None:
            self.shown.measured = False
        self._tell_metrics(pair)
        self._next()

    def _tell_progress(self, job: Job) -> None:
        listener = self.on_progress if job.operation == "prepare" else self.on_work
        if listener is not None:
            listener(*job.progress)

    def _tell_error(self, message: str) -> None:
        if self.on_error is not None:
            self.on_error(message)
