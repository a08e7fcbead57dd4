"""A live registration as the application sees it: lambda in, fields out, at once. numpy only, no torch.

The fields are computed by the worker, better stage by stage. Between a few of them, the anchors, which lie in shared
memory, this process interpolates by itself: that is the preview which follows the slider.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import Fields, check_lambda
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC, check_contrast
from hyperreg.registration.landmarks import check_pull, outside_warnings, pair_landmarks
from hyperreg.registration.response import Response, Suggestion
from hyperreg.registration.stages import Stage
from hyperreg.worker.jobs import Job
from hyperreg.worker.live_engine import REST_S, LiveEngine, SetAside
from hyperreg.worker.live_pair import key_of, prepare_request


class LiveRegistration(LiveEngine):
    """One pair, one slider. Whoever owns it calls `client.poll()` regularly; the callbacks come from there.

    on_progress(fraction, text): of preparing. on_ready(): lambda can be set (again).
    on_field(shown): what is shown has become better, or belongs to another λ; a preview (not `shown.solved`) is
        overwritten by the next one, and comes from within `set_lambda`.
    on_metrics(metrics, shown): of exactly the fields that are shown. on_work(fraction, text): of the field that is on
        its way. on_response(response, suggestion): one more λ was measured, or all are forgotten; no suggestion before
        the end.
    on_warning(text), on_error(text): for the user.
    lam: the newest lambda. shown: what stands on screen, None before the first field. device, warnings: of the worker's
    session. full_automatically: whether full resolution comes by itself, see `set_full_automatically`.
    """

    @property
    def preparing(self) -> bool:
        """Whether a pair is being prepared (also again, in a new worker)."""
        return self._preparing is not None or self._running("prepare")

    @property
    def response(self) -> Response:
        """What was measured so far, with the settings of now."""
        return self._curve.response

    @property
    def suggestion(self) -> Suggestion | None:
        """The λ that the response speaks for; None until all of it was measured."""
        return self._curve.suggestion

    @property
    def busy(self) -> bool:
        """Whether a request is on its way, or will be when λ has come to rest."""
        return self._requests.job is not None or self._moving

    @property
    def grid(self) -> Grid:
        """Of the fields. Raises InputError before a pair is prepared."""
        return self._prepared().grid

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """(4, 4) initial alignment, fixed RAS to moving RAS, mm. Raises InputError before a pair is prepared."""
        return self._prepared().linear

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters other than λ that are set, by name; empty if the model has none."""
        return {} if self._pair is None else dict(self._pair.settings.values)

    @property
    def constraints(self) -> Constraints:
        """What is set besides λ and hyperparameters, without what the engine has refused."""
        return Constraints() if self._pair is None else self._pair.settings.constraints

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Coarse to fine. Raises InputError before a pair is prepared."""
        return self._prepared().stages

    @property
    def note(self) -> str:
        """What the user should know of how the pair is registered; "" for nothing."""
        return "" if self._pair is None else self._pair.note

    @property
    def at_full(self) -> int:
        """How many λ are known at the last stage."""
        last = len(self.stages) - 1 if self._pair is not None else 0
        return 0 if self._pair is None else sum(stage == last for stage, _ in self._pair.known.values())

    @property
    def working_at(self) -> tuple[float, Stage] | None:
        """λ and stage of the field that is being computed; None if none is."""
        return (self._sent[0], self.stages[self._sent[1]]) if self._running("field") else None

    @property
    def full_wanted(self) -> bool:
        """Whether full resolution at the shown λ is on its way or will come by itself."""
        return self.lam is not None and self._wants_full(key_of(self.lam))

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
        self._cancel_field()
        self._requests.job = None
        self._preparing = job
        # The worker holds one session of ours: it gives up that of the pair before, or of the one that was set aside.
        self._prepared_in = 0
        start = initial if isinstance(initial, Transform) and not initial.is_linear else None
        job.observers.append(lambda job: self._prepare_changed(job, parameters, start))
        return job

    def set_lambda(self, lam: float) -> None:
        """Moves to lambda: the best that is known for it is shown at once; the newest value wins.

        While a pair is being prepared the value is only kept, for when it is ready. Raises InputError outside [0, 1].
        """
        lam = check_lambda(lam)
        self._filling = True
        if lam == self.lam:
            self._next()
            return
        self.lam = lam
        pair = self._pair
        if pair is None or not self.ready:
            return
        # What was wanted for the λ before is not wanted any more; what serves all of them goes on.
        if self._running("field") and self._sent[0] != key_of(lam) and self._sent_for_lambda:
            self._cancel_field()
        self._moving = True
        self._client.call_after(REST_S, self._rests)
        try:
            self._show()
        finally:
            self._next()

    def set_full_automatically(self, on: bool) -> None:
        """Whether full resolution comes by itself, first at the shown λ, then at the others; or when asked for.

        Where it has failed it is tried again only when this or `request_full` says so.
        """
        self.full_automatically = on
        if on and self._pair is not None:
            self._pair.full_failed, self._filling = False, True
        if not on and self._full_at is None and self._running("field") and self._sent[1] > self._prepared().quick_stage:
            self._cancel_field()
        self._next()

    def request_full(self) -> None:
        """Asks for full resolution at the shown λ. Raises InputError before there is a pair."""
        self._prepared()
        self._full_at = self.lam if self.lam is None else key_of(self.lam)
        self._filling = True
        self._next()

    def cancel_full(self) -> None:
        """Gives up the full resolution that is being computed; from now on it comes only when asked for."""
        self._full_at = None
        self.set_full_automatically(False)

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

    def _constrain(self, **changes: Any) -> bool:
        """Changes some of the constraints, see `Constraints`; whether anything has changed.

        Raises InputError before a pair is prepared.
        """
        settings = self._prepared().settings
        wanted = replace(settings.constraints, **changes)
        if wanted.same_as(settings.constraints):
            return False
        settings.constraints = wanted
        self._settings_changed()
        return True

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
        if landmarks is self.landmarks or (landmarks is not None and landmarks.same_as(self.landmarks)):
            return
        pulling = None if landmarks is None else landmarks.pulling
        if landmarks is not None and pulling is not None:
            check_pull(landmarks, self.linear, *pair.image_grids)
        self.landmarks = landmarks
        if landmarks is not None:
            self._warn(outside_warnings(landmarks, *pair.image_grids))
        if not self._constrain(landmarks=pulling):
            self._landmarks_changed()

    def cancel(self) -> None:
        """Gives up preparing, if that is going on."""
        for job in (self._preparing, self._requests.job):
            if job is not None and job.operation == "prepare":
                job.cancel()

    def transform(self) -> Transform:
        """Fixed RAS to moving RAS of what is shown: x -> A(x + u(x)). Raises InputError unless it is solved."""
        return Transform((self._solved().forward, self.linear))

    def inverse_transform(self) -> Transform:
        """Moving RAS to fixed RAS, see `transform`. Raises InputError unless what is shown is solved."""
        back = np.asarray(np.linalg.inv(self.linear), dtype=np.float64)
        return Transform((back, self._solved().inverse))

    def _solved(self) -> Fields:
        shown = self.shown
        if shown is None or shown.inverse is None or self.lam is None or key_of(self.lam) != shown.lam:
            raise InputError("The result for this λ is not complete yet. Wait a moment and try again.")
        return Fields(shown.forward, shown.inverse)

    def reset(self) -> None:
        """Back to the beginning: no pair, no lambda; what is on its way and what was set aside is dropped."""
        held = self._preparing is not None or self._pair is not None or self._aside is not None
        self._stop()
        self._aside = None
        if held and self._client.alive:
            self._client.submit("close", {"session": self._name})

    def set_aside(self) -> None:
        """`reset` that `bring_back` undoes: the pair, its fields and the worker's session stay in memory.

        One pair at most is kept so, until another one is prepared or `reset` is called. Raises InputError before a
        pair is prepared.
        """
        pair, prepared_in = self._prepared(), self._prepared_in
        aside = SetAside(pair, self._curve, self.lam, self.shown, self.landmarks, self.device, self.warnings)
        self._stop()
        self._aside, self._prepared_in = aside, prepared_in

    def bring_back(self) -> None:
        """Undoes `set_aside`: everything is as it was then, and what was still to be computed goes on.

        A worker that has lost the session meanwhile prepares the pair again. A pair that is being prepared is given up.
        Raises InputError if nothing is aside.
        """
        if self._aside is None:
            raise InputError("No registration was set aside.")
        if self._preparing is not None:
            self._preparing.cancel()
            self._preparing = None
        aside, self._aside = self._aside, None
        self._pair, self._curve, self._filling = aside.pair, aside.curve, True
        self.lam, self.shown, self.landmarks = aside.lam, aside.shown, aside.landmarks
        self.device, self.warnings = aside.device, aside.warnings
        self._tell_response()
        self._next()

    def drop_aside(self) -> None:
        """Frees what was set aside, if anything is."""
        if self._pair is None and self._preparing is None:
            self.reset()
        self._aside = None

    def _stop(self) -> None:
        """What is on its way is dropped, and nothing is known any more but what the worker has prepared."""
        if self._preparing is not None:
            self._preparing.cancel()
        self._cancel_field()
        self._forget()

    def close(self) -> None:
        """`reset`, and no callback any more."""
        self.reset()
        self.on_progress = self.on_ready = self.on_field = self.on_metrics = self.on_work = None
        self.on_response = self.on_warning = self.on_error = None
