"""A live registration as the application sees it: lambda in, fields out, at once. numpy only, no torch.

The exact fields are computed by the worker. Between a few of them, the anchors, which lie in shared memory, this
process interpolates by itself: that is the preview which follows the slider.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.contrast import AUTOMATIC, check_contrast
from hyperreg.registration.landmarks import outside_warnings, pair_landmarks
from hyperreg.registration.response import Response, Suggestion
from hyperreg.worker.jobs import Job
from hyperreg.worker.live_engine import LiveEngine
from hyperreg.worker.live_pair import DECIMALS, prepare_request

if TYPE_CHECKING:
    from hyperreg.imaging.transform import Transform


class LiveRegistration(LiveEngine):
    """One pair, one slider. Whoever owns it calls `client.poll()` regularly; the callbacks come from there.

    on_progress(fraction, text): of preparing. on_ready(): lambda can be set (again).
    on_field(fields, lam, exact): new fields; a preview (exact=False) is overwritten by the next one, and comes from
        within `set_lambda`. on_metrics(metrics, lam): after the exact field.
    on_refine_progress(fraction, text); then on_refined(fields, figures, message), fields on `refined_grid`, or
        on_refine_ended() if it was cancelled, failed, or λ moved meanwhile: what was shown before is still shown.
    on_response(response, suggestion): one more λ was measured, or all are forgotten; no suggestion before the end.
    on_anchor(): previews have become better. on_warning(text), on_error(text): for the user.
    device, warnings: of the worker's session. lam: the newest lambda, exact_lam: the one whose exact fields are there.
    refined: whether `refinement` stands in the place of the exact fields.
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
        """Whether a request is on its way."""
        return self._requests.job is not None

    @property
    def grid(self) -> Grid:
        """Of the network's fields. Raises InputError before a pair is prepared."""
        return self._prepared().grid

    @property
    def refined_grid(self) -> Grid:
        """Of refined fields. Raises InputError before a pair is prepared."""
        return self._prepared().refined_grid

    @property
    def linear(self) -> npt.NDArray[np.float64]:
        """(4, 4) initial alignment, fixed RAS to moving RAS, mm. Raises InputError before a pair is prepared."""
        return self._prepared().linear

    @property
    def values(self) -> dict[str, float]:
        """The hyperparameters other than λ that are set, by name; empty if the model has none."""
        return {} if self._pair is None else dict(self._pair.settings.values)

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
        parameters, arrays = prepare_request(self._name, model, device, initial, volumes)
        job = self._client.submit("prepare", parameters, arrays, stream=self._name)
        self.cancel_refine()
        # Not cancelled: an exact field cannot be interrupted, and the worker would be ended for it.
        self._requests.job = None
        self._preparing = job
        self._prepared_in = 0
        job.observers.append(lambda job: self._prepare_changed(job, parameters))
        return job

    def set_lambda(self, lam: float) -> None:
        """Asks for the fields at lambda; the newest value wins. Raises InputError outside [0, 1].

        While a pair is being prepared the value is only kept, for when it is ready. A refinement that is shown or on
        its way is left; `redo_refine` brings a finished one back.
        """
        lam = check_lambda(lam)
        if lam == self.lam and lam in (self._wanted, self.exact_lam):
            return
        self.lam = self._wanted = lam
        pair = self._pair
        if pair is None or not self.ready:
            return
        self.refined = False
        self.cancel_refine()
        known = self._exact if lam == self.exact_lam else pair.exact.get(round(lam, DECIMALS))
        try:
            if known is not None:
                self._deliver(lam, known)
            elif len(pair.anchors) >= 2:
                pair.preview = pair.anchors.interpolate(lam, out=pair.preview)
                if self.on_field is not None:
                    self.on_field(pair.preview, lam, False)
        finally:
            self._next()

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
        settings = self._prepared().settings
        wanted = {int(label): check_lambda(lam) for label, lam in lambdas.items()}
        if labels is None or not wanted:
            labels, wanted = None, {}
        if settings.labels is not labels or settings.lambdas != wanted:
            settings.labels, settings.lambdas = labels, wanted
            self._settings_changed()

    def set_landmarks(self, fixed_points: npt.NDArray | None, moving_points: npt.NDArray | None) -> None:
        """Measures by landmarks: points (P, 3), RAS mm, row by row the same place; None, None: without any.

        They count for the pair that is prepared now, in metrics and response; no field changes.
        Raises InputError before a pair is prepared and for points that make no pairs.
        """
        pair = self._prepared()
        landmarks = pair_landmarks(fixed_points, moving_points)
        if landmarks is self.landmarks or (landmarks is not None and landmarks.same_as(self.landmarks)):
            return
        self.landmarks = landmarks
        if landmarks is not None:
            self._warn(outside_warnings(landmarks, *pair.image_grids))
        self._landmarks_changed()

    def refine(self, contrast: str = AUTOMATIC) -> None:
        """Asks for the refinement of the field at `lam`. contrast: one of `contrast.CONTRASTS`.

        Raises InputError before its exact field is there.
        """
        contrast = check_contrast(contrast)
        if not self.ready or self._exact is None or self.exact_lam != self.lam:
            raise InputError("The result for this λ is not complete yet. Wait a moment, then refine it.")
        if not self.refining:
            self._refine_at, self._contrast = self.exact_lam, contrast
            self._next()

    def undo_refine(self) -> None:
        """Back to the network's field of the same λ; harmless if no refinement is shown."""
        if self.refined and self._exact is not None and self.exact_lam is not None:
            self._deliver(self.exact_lam, self._exact)
            self._next()

    def redo_refine(self) -> None:
        """Shows the last refinement again, at its λ. Raises InputError if there is none."""
        found = self.refinement
        if found is None or not self.ready:
            raise InputError("There is no refinement to go back to.")
        if not self.refined:
            self.cancel_refine()
            self._show_refinement(found)
            self._next()

    def cancel(self) -> None:
        """Gives up preparing, if that is going on."""
        for job in (self._preparing, self._requests.job):
            if job is not None and job.operation == "prepare":
                job.cancel()

    def transform(self) -> Transform:
        """Fixed RAS to moving RAS at `exact_lam`, refined if it is: x -> A(x + u(x)). Raises InputError before that."""
        from hyperreg.imaging.transform import Transform

        return Transform((self._shown_fields().forward, self.linear))

    def inverse_transform(self) -> Transform:
        """Moving RAS to fixed RAS, see `transform`. Raises InputError before there is a field."""
        from hyperreg.imaging.transform import Transform

        back = np.asarray(np.linalg.inv(self.linear), dtype=np.float64)
        return Transform((back, self._shown_fields().inverse))

    def reset(self) -> None:
        """Back to the beginning: no pair, no lambda; what is on its way is dropped."""
        if self._preparing is not None:
            self._preparing.cancel()
        self.cancel_refine()
        held = self._preparing is not None or self._pair is not None
        self._forget()
        if held and self._client.alive:
            self._client.submit("close", {"session": self._name})

    def close(self) -> None:
        """`reset`, and no callback any more."""
        self.reset()
        self.on_progress = self.on_ready = self.on_field = self.on_metrics = self.on_anchor = None
        self.on_refine_progress = self.on_refined = self.on_refine_ended = self.on_response = None
        self.on_warning = self.on_error = None
