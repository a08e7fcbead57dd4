"""A live registration as the application sees it: lambda in, fields out, at once. numpy only, no torch.

The exact fields are computed by the worker. Between a few of them, the anchors, which lie in shared memory, this
process interpolates by itself: that is the preview which follows the slider.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import HyperRegError, InputError
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Anchors, Fields, check_lambda
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job

if TYPE_CHECKING:
    from hyperreg.imaging.transform import Transform

# As finely as the worker tells values of lambda apart.
_DECIMALS = 6
_FIELDS = ("forward", "inverse")
_numbers = itertools.count(1)


@dataclass
class _Pair:
    """What is known of a prepared pair, apart from what the worker knows.

    arrays, parameters: what it was prepared from, to do it again in another worker. exact: fields at the anchors.
    preview: the buffer that previews are written to.
    """

    arrays: dict[str, npt.NDArray]
    parameters: dict[str, Any]
    grid: Grid
    linear: npt.NDArray[np.float64]
    anchors: Anchors = field(default_factory=Anchors)
    exact: dict[float, Fields] = field(default_factory=dict)
    preview: Fields | None = None

    def add_anchor(self, lam: float, fields: Fields) -> None:
        self.exact[round(lam, _DECIMALS)] = fields
        self.anchors.add(lam, fields)


class LiveRegistration:
    """One pair, one slider. Whoever owns it calls `client.poll()` regularly; the callbacks come from there.

    on_progress(fraction, text): of preparing. on_ready(): lambda can be set (again).
    on_field(fields, lam, exact): new fields; a preview (exact=False) is overwritten by the next one, and comes from
        within `set_lambda`. on_metrics(metrics, lam): after the exact field.
    on_anchor(): previews have become better. on_warning(text), on_error(text): for the user.
    device, warnings: of the worker's session. lam: the newest lambda, exact_lam: the one whose exact fields are there.
    """

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._name = f"live-{next(_numbers)}"
        self.on_progress: Callable[[float, str], None] | None = None
        self.on_ready: Callable[[], None] | None = None
        self.on_field: Callable[[Fields, float, bool], None] | None = None
        self.on_metrics: Callable[[dict[str, Any], float], None] | None = None
        self.on_anchor: Callable[[], None] | None = None
        self.on_warning: Callable[[str], None] | None = None
        self.on_error: Callable[[str], None] | None = None
        self._forget()

    def _forget(self) -> None:
        self._pair: _Pair | None = None
        self._preparing: Job | None = None
        # At most one request is on its way, so that a new lambda waits for no more than that one.
        self._job: Job | None = None
        # The start of the worker (see WorkerClient.generation) that has the pair prepared; 0: none has.
        self._prepared_in = 0
        self._filling = False
        self._wanted: float | None = None
        self._unmeasured: float | None = None
        self._exact: Fields | None = None
        self.lam: float | None = None
        self.exact_lam: float | None = None
        self.device = ""
        self.warnings: list[str] = []

    @property
    def ready(self) -> bool:
        """Whether a pair is prepared and no other one is being prepared."""
        return self._pair is not None and self._preparing is None

    @property
    def preparing(self) -> bool:
        """Whether a pair is being prepared (also again, in a new worker)."""
        return self._preparing is not None or (self._job is not None and self._job.operation == "prepare")

    @property
    def grid(self) -> Grid:
        """Of the fields. Raises InputError before a pair is prepared."""
        return self._prepared().grid

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """(4, 4) initial alignment, fixed RAS to moving RAS, mm. Raises InputError before a pair is prepared."""
        return self._prepared().linear

    @property
    def anchor_count(self) -> int:
        return 0 if self._pair is None else len(self._pair.anchors)

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        model: str | None = None,
        device: str = "auto",
        initial: str | npt.NDArray[np.float64] = "affine",
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
    ) -> Job:
        """Starts preparing a pair; the images are copied. model: None for the default one.

        Until it is ready the pair before stays what it was, and comes back if this one fails or is cancelled (through
        the job). A newer call supersedes this one. Raises InputError for images that cannot be sent, OutOfMemory.
        """
        volumes = {"fixed": fixed, "moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
        given = {name: volume for name, volume in volumes.items() if volume is not None}
        parameters = {
            "session": self._name,
            "model": model or "",
            "device": device,
            "initial": initial if isinstance(initial, str) else np.asarray(initial, dtype=np.float64).tolist(),
            "volumes": {name: {"name": v.name, "ijk_to_ras": v.ijk_to_ras.tolist()} for name, v in given.items()},
        }
        arrays = {name: volume.array for name, volume in given.items()}
        job = self._client.submit("prepare", parameters, arrays, stream=self._name)
        # Not cancelled: an exact field cannot be interrupted, and the worker would be ended for it.
        self._job = None
        self._preparing = job
        self._prepared_in = 0
        generation = self._client.generation
        job.observers.append(lambda job: self._prepare_changed(job, parameters, generation))
        return job

    def set_lambda(self, lam: float) -> None:
        """Asks for the fields at lambda; the newest value wins. Raises InputError outside [0, 1].

        While a pair is being prepared the value is only kept, for when it is ready.
        """
        lam = check_lambda(lam)
        if lam == self.lam and lam in (self._wanted, self.exact_lam):
            return
        self.lam = self._wanted = lam
        pair = self._pair
        if pair is None or not self.ready:
            return
        known = self._exact if lam == self.exact_lam else pair.exact.get(round(lam, _DECIMALS))
        try:
            if known is not None:
                self._deliver(lam, known)
            elif len(pair.anchors) >= 2:
                pair.preview = pair.anchors.interpolate(lam, out=pair.preview)
                if self.on_field is not None:
                    self.on_field(pair.preview, lam, False)
        finally:
            self._next()

    def cancel(self) -> None:
        """Gives up preparing, if that is going on."""
        for job in (self._preparing, self._job):
            if job is not None and job.operation == "prepare":
                job.cancel()

    def transform(self) -> Transform:
        """Fixed RAS to moving RAS at `exact_lam`: x -> A(x + u(x)). Raises InputError before there is a field."""
        from hyperreg.imaging.transform import Transform

        return Transform((self._exact_fields().forward, self.linear))

    def inverse_transform(self) -> Transform:
        """Moving RAS to fixed RAS at `exact_lam`. Raises InputError before there is a field."""
        from hyperreg.imaging.transform import Transform

        back = np.asarray(np.linalg.inv(self.linear), dtype=np.float64)
        return Transform((back, self._exact_fields().inverse))

    def reset(self) -> None:
        """Back to the beginning: no pair, no lambda; what is on its way is dropped."""
        if self._preparing is not None:
            self._preparing.cancel()
        held = self._preparing is not None or self._pair is not None
        self._forget()
        if held and self._client.alive:
            self._client.submit("close", {"session": self._name})

    def close(self) -> None:
        """`reset`, and no callback any more."""
        self.reset()
        self.on_progress = self.on_ready = self.on_field = self.on_metrics = None
        self.on_anchor = self.on_warning = self.on_error = None

    def _prepared(self) -> _Pair:
        if self._pair is None:
            raise InputError("No pair of images has been registered yet.")
        return self._pair

    def _exact_fields(self) -> Fields:
        if self._exact is None:
            raise InputError("There is no result yet; wait until the registration has finished.")
        return self._exact

    def _prepare_changed(self, job: Job, parameters: dict[str, Any], generation: int) -> None:
        """What becomes of a preparation that the user asked for."""
        if job is not self._preparing:
            return
        if not job.ended:
            self._tell_progress(job)
            return
        self._preparing = None
        if job.state == "done":
            grid = Grid(tuple(job.result["shape"]), np.array(job.result["ijk_to_ras"]))
            linear = np.array(job.result["linear"])
            # Prepared again, it has to start from the same alignment.
            again = {**parameters, "initial": job.result["linear"]}
            self._pair = _Pair(job.inputs, again, grid, linear)
            self._exact = self.exact_lam = self._unmeasured = None
            self._wanted = self.lam
            self._prepared_in, self._filling = generation, True
            self.warnings = []
            self._take_state(job)
            if self.on_ready is not None:
                self.on_ready()
        else:
            # The pair before is still there, but not in the worker: it comes back with the next request.
            self._filling = False
            if job.state == "failed":
                self._tell_error(job.error)
        self._next()

    def _next(self) -> None:
        """Sends what is most needed, if nothing is on its way: the newest lambda, its metrics, one more anchor."""
        pair = self._pair
        if pair is None or not self.ready or self._job is not None:
            return
        anchor = self._next_anchor(pair) if self._wanted is None and self._unmeasured is None else None
        if self._wanted is None and self._unmeasured is None and anchor is None:
            return
        if self._prepared_in != self._client.generation or not self._client.alive:
            self._prepare_again(pair)
        elif self._wanted is not None:
            self._request_field(pair, self._wanted, as_anchor=len(pair.anchors) < 2)
        elif self._unmeasured is not None:
            self._request_metrics(self._unmeasured)
        elif anchor is not None:
            self._request_field(pair, anchor, as_anchor=True)

    def _next_anchor(self, pair: _Pair) -> float | None:
        while self._filling:
            lam = pair.anchors.next_lambda()
            if lam is None or lam != self.exact_lam or self._exact is None:
                return lam
            self._add_anchor(pair, lam, self._exact)
        return None

    def _prepare_again(self, pair: _Pair) -> None:
        def done(job: Job) -> None:
            self._prepared_in = generation
            self._take_state(job)

        job = self._submit("prepare", pair.parameters, done, arrays=pair.arrays, stream=self._name)
        generation = self._client.generation
        if job is not None:
            pair.arrays = job.inputs

    def _request_field(self, pair: _Pair, lam: float, *, as_anchor: bool) -> None:
        def done(job: Job) -> None:
            for array in job.arrays.values():
                array.setflags(write=False)  # it may be an anchor, whoever else gets it
            forward, inverse = (DisplacementField(job.arrays[name], pair.grid.ijk_to_ras) for name in _FIELDS)
            fields = Fields(forward, inverse)
            self._take_state(job)
            if as_anchor:
                self._add_anchor(pair, lam, fields)
            if lam == self.lam == self._wanted:
                self._filling = True
                self._deliver(lam, fields)

        outputs = dict.fromkeys(_FIELDS, ((3, *pair.grid.shape), np.float32))
        self._submit("field", {"session": self._name, "lambda": lam}, done, lam=lam, outputs=outputs)

    def _request_metrics(self, lam: float) -> None:
        def done(job: Job) -> None:
            self._take_state(job)
            if self._unmeasured == lam:
                self._unmeasured = None
            if lam == self.lam and self.on_metrics is not None:
                self.on_metrics(_restored(job.result["metrics"]), lam)

        self._submit("metrics", {"session": self._name, "lambda": lam}, done)

    def _submit(
        self,
        operation: str,
        parameters: dict[str, Any],
        done: Callable[[Job], None],
        *,
        lam: float | None = None,
        **options: Any,
    ) -> Job | None:
        """Sends the one request that may be on its way. lam: of the field it asks for.

        Returns None, and tells the user, if there is no room for what it shares with the worker.
        """

        def changed(job: Job) -> None:
            if job is not self._job:
                return  # overtaken by another pair, or by reset
            if not job.ended:
                self._tell_progress(job)
                return
            self._job = None
            if job.state == "done":
                done(job)
            else:
                give_up()
                if job.state == "failed":
                    self._tell_error(job.error)
            self._next()

        def give_up() -> None:
            # Only a new request of the user is tried again: what ended the worker once may end it every time.
            self._filling = False
            self._unmeasured = None
            if operation == "prepare" or self._wanted == lam:
                self._wanted = None

        try:
            self._job = job = self._client.submit(operation, parameters, **options)
        except HyperRegError as error:
            give_up()
            self._tell_error(str(error))
            return None
        job.observers.append(changed)
        return job

    def _deliver(self, lam: float, fields: Fields) -> None:
        self._wanted = None
        self._exact, self.exact_lam, self._unmeasured = fields, lam, lam
        if self.on_field is not None:
            self.on_field(fields, lam, True)

    def _add_anchor(self, pair: _Pair, lam: float, fields: Fields) -> None:
        pair.add_anchor(lam, fields)
        if self.on_anchor is not None:
            self.on_anchor()

    def _take_state(self, job: Job) -> None:
        """The session's device and warnings, as they came with a result."""
        self.device = job.result["device"]
        for text in job.result["warnings"]:
            if text not in self.warnings:
                self.warnings.append(text)
                if self.on_warning is not None:
                    self.on_warning(text)

    def _tell_progress(self, job: Job) -> None:
        if self.on_progress is not None:
            self.on_progress(*job.progress)

    def _tell_error(self, message: str) -> None:
        if self.on_error is not None:
            self.on_error(message)


def _restored(metrics: dict[str, Any]) -> dict[str, Any]:
    """Metrics as the session gave them, before they were JSON: labels are numbers, null is NaN."""
    return {
        name: {int(label): _number(number) for label, number in value.items()}
        if isinstance(value, dict)
        else _number(value)
        for name, value in metrics.items()
    }


def _number(value: Any) -> Any:
    return float("nan") if value is None else value
