"""A live registration as the application sees it: lambda in, fields out, at once. numpy only, no torch.

The fields are computed by the worker, better stage by stage. Between a few of them, the anchors, which lie in shared
memory, this process interpolates by itself: that is the preview which follows the slider.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.anchors import Fields, check_lambda
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC, check_contrast
from hyperreg.registration.landmarks import check_pull, outside_warnings, pair_landmarks
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.jobs import Job
from hyperreg.worker.live.fields import key_of
from hyperreg.worker.live.messages import prepare_request
from hyperreg.worker.live.pair import Pair
from hyperreg.worker.live.scheduler import Scheduler
from hyperreg.worker.live.state import INCOMPLETE, LiveState, Publisher

_numbers = itertools.count(1)


class LiveRegistration:
    """One pair, one slider. Whoever owns it calls `client.poll()` regularly; what the worker has done comes from there.

    on_state(state): the state is another one. A preview comes from within `set_lambda`. What is changed from within
        on_state is told as soon as that has returned.
    on_error(text): for the user; the state is told before.
    """

    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._name = f"live-{next(_numbers)}"
        self.on_state: Callable[[LiveState], None] = _ignore
        self.on_error: Callable[[str], None] = _ignore
        self._lam: float | None = None
        self._pair: Pair | None = None
        # What was put aside, and its λ.
        self._aside: tuple[Pair, float | None] | None = None
        self._preparing: Job | None = None
        self._scheduler = Scheduler(client, self._name, self._changed)
        self._publisher = Publisher(lambda: self.state)

    @property
    def state(self) -> LiveState:
        """What is known now."""
        pair, scheduler, lam = self._pair, self._scheduler, self._lam
        progress, full = None if self._preparing is None else self._preparing.progress, scheduler.full_automatically
        if pair is None:
            return LiveState(lam, progress=progress, full_automatically=full)
        job = scheduler.job
        if job is not None and job.operation == "prepare":
            progress = job.progress
        return LiveState(
            lam=lam,
            pair=pair.prepared,
            progress=progress,
            ready=self._preparing is None,
            shown=pair.shown,
            metrics=pair.metrics,
            work=scheduler.work(pair),
            busy=job is not None or scheduler.moving,
            response=pair.curve.response,
            suggestion=pair.curve.suggestion,
            device=pair.device,
            note=pair.note,
            warnings=pair.warnings,
            values=dict(pair.settings.values),
            constraints=pair.settings.constraints,
            landmarks=pair.landmarks,
            full_automatically=full,
            full_wanted=lam is not None and scheduler.wants_full(pair, key_of(lam)),
        )

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        model: str | None = None,
        device: str = "auto",
        initial: str | npt.NDArray[np.float64] | Transform = "affine",
        contrast: str = AUTOMATIC,
        symmetric: bool = False,
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
    ) -> Job:
        """Starts preparing a pair; the images are copied. model: None for the default one. initial, contrast and
        symmetric: see `LiveSession.prepare`.

        Until it is ready the pair before stays what it was, and comes back if this one fails or is cancelled (through
        the job). A newer call supersedes this one. Raises InputError for images that cannot be sent, OutOfMemory.
        """
        volumes = {"fixed": fixed, "moving": moving, "fixed_labels": fixed_labels, "moving_labels": moving_labels}
        parameters, arrays = prepare_request(
            self._name, model, device, initial, check_contrast(contrast), symmetric, volumes
        )
        job = self._client.submit("prepare", parameters, arrays, stream=self._name)
        self._scheduler.forget()
        self._preparing = job
        # The worker holds one session of ours: it gives up that of the pair before, or of the one that was set aside.
        for pair in (self._pair, self._aside and self._aside[0]):
            if pair is not None:
                pair.generation = 0
        start = initial if isinstance(initial, Transform) and not initial.is_linear else None
        job.observers.append(lambda job: self._prepare_changed(job, parameters, start))
        self._publish()
        return job

    def _prepare_changed(self, job: Job, parameters: dict[str, Any], start: Transform | None) -> None:
        """What becomes of a preparation that the user asked for. start: see `Pair`."""
        if job is not self._preparing:
            return
        if job.ended:
            self._preparing = None
        if job.state == "done":
            self._aside = None
            self._pair = Pair.from_job(job, parameters, start)
            self._scheduler.wake()
        elif job.ended:
            # The pair before is still there, but not in the worker: it comes back with the next request.
            self._scheduler.forget()
        self._changed(job.error)

    def cancel(self) -> None:
        """Gives up preparing, if that is going on."""
        for job in (self._preparing, self._scheduler.job):
            if job is not None and job.operation == "prepare":
                job.cancel()

    # λ and full resolution

    def set_lambda(self, lam: float) -> None:
        """Moves to lambda: the best that is known for it is shown at once; the newest value wins.

        While no pair is prepared the value is only kept, for when one is. Raises InputError outside [0, 1].
        """
        before, self._lam = self._lam, check_lambda(lam)
        self._scheduler.wake()
        if self._pair is not None and self._preparing is None and lam != before:
            self._scheduler.lambda_moved(lam)
        self._changed()

    def set_full_automatically(self, on: bool) -> None:
        """Whether full resolution comes by itself, first at the shown λ, then at the others; or when asked for.

        Where it has failed it is tried again only when this or `request_full` says so.
        """
        self._scheduler.set_full_automatically(on, self._pair)
        self._changed()

    def request_full(self) -> None:
        """Asks for full resolution at the shown λ. Raises InputError before there is a pair."""
        self._prepared()
        self._scheduler.request_full(self._lam)
        self._changed()

    def cancel_full(self) -> None:
        """Gives up the full resolution that is being computed; from now on it comes only when asked for."""
        self._scheduler.cancel_full(self._pair)
        self._changed()

    # What is set besides λ

    def set_hyperparameter(self, name: str, value: float) -> None:
        """Sets a hyperparameter other than λ; every field is computed anew.

        Raises InputError before a pair is prepared, for a name that the model has not, or a value outside [0, 1].
        """
        settings = self._prepared().settings
        if name not in settings.values:
            raise InputError(f"This model has no hyperparameter '{name}'.")
        if not 0 <= value <= 1:
            raise InputError(f"'{name}' must lie between 0 and 1, not {value}.")
        if settings.values[name] != value:
            settings.values[name] = float(value)
            self._settings_changed()

    def set_regions(self, labels: Volume | None, lambdas: Mapping[int, float]) -> None:
        """Gives the label values of a label map in the fixed image's space a λ of their own; None or {}: no regions.

        The same Volume object again costs little; only then. Raises InputError before a pair is prepared or outside
        [0, 1].
        """
        self._prepared()
        wanted = {int(label): check_lambda(lam) for label, lam in lambdas.items()}
        if labels is None or not wanted:
            labels, wanted = None, {}
        self._constrain(regions=labels, region_lambdas=wanted)

    def set_masks(self, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
        """Says what of each image counts for the similarity: not 0 counts, 0 is left out; None: everything counts.

        Label maps in the space of either image. The same Volume object again is unchanged. A mask that leaves nothing,
        or lies elsewhere, is refused through on_error. Raises InputError before a pair is prepared.
        """
        self._constrain(fixed_mask=fixed_mask, moving_mask=moving_mask)

    def set_rigid(self, labels: Volume | None, values: Sequence[int]) -> None:
        """Makes label values of a label map in the fixed image's space move as one rigid body each; None or (): none.

        The same Volume object again is unchanged. What cannot be used is refused through on_error. Raises InputError
        before a pair is prepared.
        """
        wanted = tuple(sorted({int(value) for value in values}))
        if labels is None or not wanted:
            labels, wanted = None, ()
        self._constrain(rigid=labels, rigid_values=wanted)

    def set_landmarks(
        self,
        fixed_points: npt.NDArray | None,
        moving_points: npt.NDArray | None,
        pull: float = 0.0,
        left_out: Sequence[int] = (),
    ) -> None:
        """Points (P, 3), RAS mm, row by row the same place of the anatomy; None, None: without any.

        pull: 0, they are only measured and no field changes, to 1, at the points the images have no say. left_out: rows
        that never pull, so that their distance judges the result: landmarks_mm; that of the others is pulled_mm.
        They count for the pair that is prepared now, in metrics and response. Raises InputError before a pair is
        prepared, for points that make no pairs, and for those that cannot pull (see `check_pull`).
        """
        pair = self._prepared()
        landmarks = pair_landmarks(fixed_points, moving_points, pull, left_out)
        if landmarks is pair.landmarks or (landmarks is not None and landmarks.same_as(pair.landmarks)):
            return
        pulling = None if landmarks is None else landmarks.pulling
        if landmarks is not None and pulling is not None:
            check_pull(landmarks, pair.prepared.linear, *pair.image_grids)
        pair.set_landmarks(landmarks)
        if landmarks is not None:
            pair.warn(outside_warnings(landmarks, *pair.image_grids))
        if not self._constrain(landmarks=pulling):
            self._changed()

    def _constrain(self, **changes: Any) -> bool:
        """Changes some of the constraints, see `Constraints`; whether anything has changed.

        Raises InputError before a pair is prepared.
        """
        settings = self._prepared().settings
        wanted: Constraints = replace(settings.constraints, **changes)
        if wanted.same_as(settings.constraints):
            return False
        settings.constraints = wanted
        self._settings_changed()
        return True

    def _settings_changed(self) -> None:
        self._prepared().settings_changed()
        self._scheduler.settings_changed()
        self._changed()

    # The result

    def transform(self) -> Transform:
        """Fixed RAS to moving RAS of what is shown: x -> A(x + u(x)). Raises InputError unless it is solved."""
        return Transform((self._solved().forward, self._prepared().prepared.linear))

    def inverse_transform(self) -> Transform:
        """Moving RAS to fixed RAS, see `transform`. Raises InputError unless what is shown is solved."""
        inverse = self._solved().inverse
        back = np.asarray(np.linalg.inv(self._prepared().prepared.linear), dtype=np.float64)
        return Transform((back, inverse))

    def _solved(self) -> Fields:
        state = self.state
        if not state.is_solved or state.shown is None or state.shown.inverse is None:
            raise InputError(INCOMPLETE)
        return Fields(state.shown.forward, state.shown.inverse)

    # The end, and back from it

    def reset(self) -> None:
        """Back to the beginning: no pair; what is on its way and what was set aside is dropped. The slider stays."""
        held = self._preparing is not None or self._pair is not None or self._aside is not None
        self._stop()
        self._aside = None
        if held and self._client.alive:
            self._client.submit("close", {"session": self._name})
        self._publish()

    def set_aside(self) -> None:
        """`reset` that `bring_back` undoes: the pair, its fields and the worker's session stay in memory.

        One pair at most is kept so, until another one is prepared or `reset` is called. Raises InputError before a
        pair is prepared.
        """
        aside = self._prepared(), self._lam
        self._stop()
        self._aside = aside
        self._publish()

    def bring_back(self) -> None:
        """Undoes `set_aside`: everything is as it was then, and what was still to be computed goes on.

        A worker that has lost the session meanwhile prepares the pair again. A pair that is being prepared is given up.
        Raises InputError if nothing is aside.
        """
        if self._aside is None:
            raise InputError("No registration was set aside.")
        aside = self._aside
        self._stop()
        (self._pair, self._lam), self._aside = aside, None
        self._scheduler.wake()
        self._changed()

    def drop_aside(self) -> None:
        """Frees what was set aside, if anything is."""
        if self._pair is None and self._preparing is None:
            self.reset()
        self._aside = None

    def close(self) -> None:
        """`reset`, and nothing is told any more."""
        self.on_state = self.on_error = _ignore
        self.reset()

    def _stop(self) -> None:
        """What is on its way is dropped, and nothing is known any more but what the worker has prepared."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._scheduler.forget()
        self._pair = self._preparing = None

    # Inside

    def _prepared(self) -> Pair:
        if self._pair is None:
            raise InputError("No pair of images has been registered yet.")
        return self._pair

    def _changed(self, error: str = "") -> None:
        """Something may have changed: shows the best for λ, tells it, and sends what is most needed next."""
        try:
            if self._pair is not None and self._preparing is None:
                self._pair.show(self._lam)
            self._publish()
            if error:
                self.on_error(error)
        finally:
            # Whoever was told may have changed something.
            if self._pair is not None and self._preparing is None:
                self._scheduler.advance(self._pair, self._lam)
        self._publish()

    def _publish(self) -> None:
        self._publisher.publish(self.on_state)


def _ignore(_news: Any) -> None:
    """The callback of who does not want to know."""
