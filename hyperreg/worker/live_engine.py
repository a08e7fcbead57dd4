"""What a live registration sends to the worker, and what becomes of the answers. numpy only, no torch."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from hyperreg.errors import InputError
from hyperreg.registration.anchors import MAX_ANCHORS, Fields
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.landmarks import Landmarks
from hyperreg.registration.response import Response, Suggestion, refinement_warning
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.live_curve import Curve
from hyperreg.worker.live_pair import DECIMALS, Pair, fields_of, outputs_on, restored
from hyperreg.worker.live_requests import Requests

_numbers = itertools.count(1)


@dataclass(frozen=True, eq=False)
class Refinement:
    """A refinement of the pair. network: the exact fields that it began with; figures: see `LiveSession.metrics`.

    contrast: what was chosen, one of `contrast.CONTRASTS`.
    """

    lam: float
    fields: Fields
    figures: dict[str, Any]
    message: str
    network: Fields
    contrast: str


class LiveEngine:
    """The part of `LiveRegistration` that talks to the worker: one request at a time, the most needed first."""

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._name = f"live-{next(_numbers)}"
        self.on_progress: Callable[[float, str], None] | None = None
        self.on_ready: Callable[[], None] | None = None
        self.on_field: Callable[[Fields, float, bool], None] | None = None
        self.on_metrics: Callable[[dict[str, Any], float], None] | None = None
        self.on_refine_progress: Callable[[float, str], None] | None = None
        self.on_refined: Callable[[Fields, dict[str, Any], str], None] | None = None
        self.on_refine_ended: Callable[[], None] | None = None
        self.on_response: Callable[[Response, Suggestion | None], None] | None = None
        self.on_anchor: Callable[[], None] | None = None
        self.on_warning: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self._requests = Requests(client, self._tell_progress, self._tell_error, self._next)
        self._forget()

    def _forget(self) -> None:
        self._pair: Pair | None = None
        self._preparing: Job | None = None
        self._requests.job = None
        # The start of the worker (see WorkerClient.generation) that has the pair prepared; 0: none has.
        self._prepared_in = 0
        self._filling = False
        self._wanted: float | None = None
        self._refine_at: float | None = None
        self._contrast = AUTOMATIC
        self._unmeasured: float | None = None
        self._exact: Fields | None = None
        self._curve = Curve()
        self.lam: float | None = None
        self.exact_lam: float | None = None
        self.refined = False
        self.refinement: Refinement | None = None
        self.landmarks: Landmarks | None = None
        self.device = ""
        self.warnings: list[str] = []

    @property
    def ready(self) -> bool:
        """Whether a pair is prepared and no other one is being prepared."""
        return self._pair is not None and self._preparing is None

    @property
    def refining(self) -> bool:
        """Whether a refinement was asked for and has not come yet."""
        return self._refine_at is not None

    def _prepared(self) -> Pair:
        if self._pair is None:
            raise InputError("No pair of images has been registered yet.")
        return self._pair

    def _shown_fields(self) -> Fields:
        if self._exact is None:
            raise InputError("There is no result yet; wait until the registration has finished.")
        return self.refinement.fields if self.refined and self.refinement is not None else self._exact

    def _running(self, operation: str) -> bool:
        return self._requests.job is not None and self._requests.job.operation == operation

    def _prepare_changed(self, job: Job, parameters: dict[str, Any]) -> None:
        """What becomes of a preparation that the user asked for."""
        if job is not self._preparing:
            return
        if not job.ended:
            self._tell_progress(job)
            return
        self._preparing = None
        if job.state == "done":
            self._pair = Pair.prepared(job, parameters)
            self._exact = self.exact_lam = self._unmeasured = None
            self.refined, self.refinement, self.landmarks = False, None, None
            self._wanted = self.lam
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
        pair = self._prepared()
        pair.forget_fields()
        self.cancel_refine()
        self._exact = self.exact_lam = self._unmeasured = None
        self.refined, self.refinement = False, None
        self._wanted = self.lam
        self._forget_curve()
        self._next()

    def cancel_refine(self) -> None:
        """Gives a refinement up; what was shown before it stays. Harmless if there is none."""
        if not self.refining:
            return
        self._refine_at = None
        if self._requests.job is not None and self._running("refine"):
            self._requests.job.cancel()
        if self.on_refine_ended is not None:
            self.on_refine_ended()
        self._next()

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
        """In this order: settings, the newest lambda, a refinement, the metrics, the response and the anchors."""
        if pair.settings.next_operation is not None:
            return lambda: self._request_settings(pair)
        if (wanted := self._wanted) is not None:
            return lambda: self._request_field(pair, wanted, as_anchor=len(pair.anchors) < 2)
        if (refine_at := self._refine_at) is not None:
            return lambda: self._request_refinement(pair, refine_at)
        if (lam := self._unmeasured) is not None:
            if (metrics := pair.metrics.get(round(lam, DECIMALS))) is None:
                return lambda: self._request_metrics(pair, lam)
            self._unmeasured = None
            self._tell_metrics(metrics, lam)
        return self._background(pair)

    def _background(self, pair: Pair) -> Callable[[], None] | None:
        found = self._next_to_fill(pair)
        if found is None:
            return None
        lam, as_anchor = found
        if as_anchor:
            return lambda: self._request_field(pair, lam, as_anchor=True)
        return lambda: self._request_metrics(pair, lam)

    def _next_to_fill(self, pair: Pair) -> tuple[float, bool] | None:
        """A λ and whether its fields are wanted (an anchor) or its metrics (a point of the response).

        First two anchors, so that there are previews; then the response, whose fields are anchors too; more anchors.
        """
        while self._filling:
            lam = self._curve.next_lambda(pair.exact) if len(pair.anchors) >= 2 else None
            if lam is not None and (lam in pair.exact or len(pair.anchors) >= MAX_ANCHORS):
                return lam, False
            if lam is None:
                lam = pair.anchors.next_lambda()
            if lam is None:
                return None
            if lam != self.exact_lam or self._exact is None:
                return lam, True
            self._add_anchor(pair, lam, self._exact)
        return None

    def _prepare_again(self, pair: Pair) -> None:
        def done(job: Job) -> None:
            self._prepared_in = job.generation
            pair.settings.started(job.result["values"])
            self._take_state(job)

        def ended(_failed: bool) -> None:
            self._stop_filling()
            self._wanted = None
            self._end_refining()

        job = self._requests.send("prepare", pair.parameters, done, ended, arrays=pair.arrays, stream=self._name)
        if job is not None:
            pair.arrays = job.inputs

    def _request_settings(self, pair: Pair) -> None:
        before = pair.settings.copy()

        def done(job: Job) -> None:
            pair.settings.sent(before)
            self._take_state(job)

        def ended(_failed: bool) -> None:
            self._stop_filling()
            pair.settings.give_up()

        parameters, arrays = pair.settings.request()
        operation = pair.settings.next_operation or ""
        self._requests.send(operation, {"session": self._name, **parameters}, done, ended, arrays=arrays)

    def _request_field(self, pair: Pair, lam: float, *, as_anchor: bool) -> None:
        epoch = pair.epoch

        def done(job: Job) -> None:
            self._take_state(job)
            if pair.epoch != epoch:
                return  # a setting has changed meanwhile
            fields = fields_of(job, pair.grid)
            if as_anchor:
                self._add_anchor(pair, lam, fields)
            if lam == self.lam == self._wanted:
                self._filling = True
                self._deliver(lam, fields)

        def ended(_failed: bool) -> None:
            self._stop_filling()
            if self._wanted == lam:
                self._wanted = None

        outputs = outputs_on(pair.grid)
        self._requests.send("field", {"session": self._name, "lambda": lam}, done, ended, outputs=outputs)

    def _request_metrics(self, pair: Pair, lam: float) -> None:
        epoch = pair.epoch

        def done(job: Job) -> None:
            self._take_state(job)
            if pair.epoch != epoch:
                return
            metrics = pair.metrics[round(lam, DECIMALS)] = restored(job.result["metrics"])
            if self._unmeasured == lam:
                self._unmeasured = None
            self._tell_metrics(metrics, lam)
            self._add_to_curve(pair, lam, metrics)
            self._tell_response()

        self._requests.send(
            "metrics", {"session": self._name, "lambda": lam}, done, lambda _failed: self._stop_filling()
        )

    def _request_refinement(self, pair: Pair, lam: float) -> None:
        epoch = pair.epoch

        def done(job: Job) -> None:
            self._take_state(job)
            if pair.epoch != epoch or self._refine_at != lam or self.exact_lam != lam or self._exact is None:
                return  # given up meanwhile
            self._refine_at = None
            fields = fields_of(job, pair.refined_grid)
            figures = self._with_landmarks(restored(job.result["figures"]), fields)
            warning = job.result["warning"]
            if self.landmarks is not None and "dice_mean" not in figures:
                # The worker does not know of landmarks, which are a better judge than the images.
                warning = refinement_warning(self._with_landmarks({}, self._exact), figures)
            message = " ".join(filter(None, (job.result["message"], warning)))
            self._show_refinement(Refinement(lam, fields, figures, message, self._exact, self._contrast))

        def ended(failed: bool) -> None:
            if failed:
                self._stop_filling()
            self._end_refining()

        outputs = outputs_on(pair.refined_grid)
        parameters = {"session": self._name, "lambda": lam, "contrast": self._contrast}
        self._requests.send("refine", parameters, done, ended, outputs=outputs)

    def _show_refinement(self, found: Refinement) -> None:
        self.refinement, self.refined = found, True
        self.lam = self.exact_lam = found.lam
        self._exact, self._wanted = found.network, None
        if self.on_refined is not None:
            self.on_refined(found.fields, found.figures, found.message)

    def _end_refining(self) -> None:
        was, self._refine_at = self._refine_at, None
        if was is not None and self.on_refine_ended is not None:
            self.on_refine_ended()

    def _stop_filling(self) -> None:
        # Only a new request of the user is tried again: what ended the worker once may end it every time.
        self._filling = False
        self._unmeasured = None

    def _deliver(self, lam: float, fields: Fields) -> None:
        self._wanted = None
        self.refined = False
        self._exact, self.exact_lam, self._unmeasured = fields, lam, lam
        if self.on_field is not None:
            self.on_field(fields, lam, True)

    def _add_anchor(self, pair: Pair, lam: float, fields: Fields) -> None:
        pair.add_anchor(lam, fields)
        if self.on_anchor is not None:
            self.on_anchor()

    def _take_state(self, job: Job) -> None:
        """The session's device and warnings, as they came with a result."""
        self.device = job.result["device"]
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

    def _tell_metrics(self, metrics: dict[str, Any], lam: float) -> None:
        """The user sees the figures of what is shown: not those of another λ, not the network's while refined."""
        if lam == self.lam == self.exact_lam and not self.refined and self.on_metrics is not None:
            self.on_metrics(self._with_landmarks(metrics, self._exact), lam)

    def _with_landmarks(self, figures: dict[str, Any], fields: Fields | None) -> dict[str, Any]:
        """The worker's figures with the distance of the landmarks by these fields, and by the linear alignment alone.

        Measured here, not in the worker: points cost next to nothing, and they may change while λ does not.
        """
        if self.landmarks is None or fields is None:
            return figures
        return self.landmarks.beside(figures, fields.forward, self._prepared().linear)

    def _add_to_curve(self, pair: Pair, lam: float, metrics: dict[str, Any]) -> None:
        self._curve.add(lam, self._with_landmarks(metrics, self._fields_at(pair, lam)))

    def _fields_at(self, pair: Pair, lam: float) -> Fields | None:
        """The network's exact fields, if they are here."""
        return self._exact if lam == self.exact_lam else pair.exact.get(round(lam, DECIMALS))

    def _landmarks_changed(self) -> None:
        """All figures anew, from the fields that are here; the worker has nothing to do."""
        pair = self._prepared()
        self._curve = Curve()
        for lam, metrics in pair.metrics.items():
            # Of other λs the fields are gone; without landmarks their rows would speak of other figures.
            if self.landmarks is None or self._fields_at(pair, lam) is not None:
                self._add_to_curve(pair, lam, metrics)
        self._tell_response()
        if self.refinement is not None:
            known = {name: v for name, v in self.refinement.figures.items() if not name.startswith("landmarks_mm")}
            figures = self._with_landmarks(known, self.refinement.fields)
            self.refinement = replace(self.refinement, figures=figures)
            if self.refined and self.on_metrics is not None:
                self.on_metrics(figures, self.refinement.lam)
        if self.exact_lam is not None and (found := pair.metrics.get(round(self.exact_lam, DECIMALS))) is not None:
            self._tell_metrics(found, self.exact_lam)
        self._next()

    def _tell_progress(self, job: Job) -> None:
        listener = self.on_refine_progress if job.operation == "refine" else self.on_progress
        if listener is not None:
            listener(*job.progress)

    def _tell_error(self, message: str) -> None:
        if self.on_error is not None:
            self.on_error(message)
