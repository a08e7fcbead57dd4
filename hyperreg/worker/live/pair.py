"""What a live registration knows of its pair: what it was prepared from, what is set, what is known and shown of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid
from hyperreg.registration.anchors import Fields
from hyperreg.registration.landmarks import Landmarks
from hyperreg.registration.stages import stage_of
from hyperreg.worker.jobs import Job
from hyperreg.worker.live.curve import Curve
from hyperreg.worker.live.fields import FieldStore
from hyperreg.worker.live.messages import restored
from hyperreg.worker.live.settings import Settings
from hyperreg.worker.live.state import Prepared, Shown


@dataclass(eq=False)
class Pair:
    """A prepared pair, apart from what the worker knows.

    arrays, parameters: what it was prepared from, to do it again in another worker.
    start: fixed RAS to moving RAS, if the deformation started from a given transform that is not linear.
    generation: the start of the worker (see `WorkerClient.generation`) that has it prepared; 0: none has.
    store: fields and metrics with the settings of now. changed: whether there were other settings before.
    shown: None before the first field with the settings of now.
    device, note, warnings: of the worker's session.
    full_failed: whether the last stage has failed; it does not come by itself any more: what ended the worker, or was
        short of memory, would be again at the next λ.
    """

    prepared: Prepared
    arrays: dict[str, npt.NDArray]
    parameters: dict[str, Any]
    start: Transform | None
    generation: int
    store: FieldStore
    settings: Settings = field(default_factory=Settings)
    curve: Curve = field(default_factory=Curve)
    landmarks: Landmarks | None = None
    shown: Shown | None = None
    device: str = ""
    note: str = ""
    warnings: tuple[str, ...] = ()
    changed: bool = False
    full_failed: bool = False
    # What `shown` is the best for, and what `metrics` are of.
    _best_for: tuple[Any, ...] = ()
    _measured: tuple[tuple[Any, ...], Mapping[str, Any]] = ((), {})

    @classmethod
    def from_job(cls, job: Job, parameters: dict[str, Any], start: Transform | None) -> Pair:
        """From a "prepare" that is done, the parameters it was asked for with, and the start that it was given."""
        result = job.result
        # Prepared again, it has to start from the same alignment; a start that was given is the same in any case.
        again = parameters if start is not None else {**parameters, "initial": result["linear"]}
        grid = Grid(tuple(result["shape"]), np.array(result["ijk_to_ras"]))
        stages = tuple(stage_of(entry) for entry in result["stages"])
        prepared = Prepared(grid, np.array(result["linear"]), stages)
        pair = cls(prepared, job.inputs, again, start, job.generation, FieldStore(stages))
        pair.settings.started(result["values"])
        pair.take_answer(job)
        return pair

    @property
    def image_grids(self) -> tuple[Grid, Grid]:
        """Of the fixed and the moving image."""
        places = self.parameters["volumes"]
        fixed, moving = (
            Grid(self.arrays[name].shape, np.array(places[name]["ijk_to_ras"])) for name in ("fixed", "moving")
        )
        return fixed, moving

    @property
    def metrics(self) -> Mapping[str, Any]:
        """Of exactly the fields that are shown, with the distances of the landmarks by them; {} until measured."""
        found = None if self.shown is None else self.store.metrics_of(self.shown)
        if found is None or self.shown is None:
            return {}
        of = (self.shown, found, self.landmarks)
        if any(new is not old for new, old in zip(of, self._measured[0] or [None] * 3, strict=True)):
            self._measured = of, self._with_landmarks(found, self.shown.forward)
        return self._measured[1]

    def show(self, lam: float | None) -> None:
        """Shows the best that is known for λ. Nothing is shown twice."""
        best_for = (lam, self.store, self.store.count)
        if lam is None or best_for == self._best_for:
            return
        self._best_for = best_for
        found = self.store.best(lam)
        if found is not None and (self.shown is None or not found.same_as(self.shown)):
            self.shown = found

    def settings_changed(self) -> None:
        """Nothing that was computed counts any more; what stands on screen stays until the new field is there."""
        self.store, self.curve = FieldStore(self.prepared.stages), Curve()
        self.shown, self.changed = None, True

    def take_answer(self, job: Job) -> None:
        """The session's device, note and warnings, as they came with a result."""
        self.device, self.note = job.result["device"], job.result["note"]
        self.warn(job.result["warnings"])

    def take_fields(self, lam: float, stage: int, fields: Fields) -> None:
        """A field has come."""
        self.store.add(lam, stage, fields, keep=None if self.shown is None else self.shown.lam)
        if stage > self.prepared.quick_stage:
            self.full_failed = False

    def take_metrics(self, lam: float, stage: int, metrics: Mapping[str, Any]) -> None:
        """Metrics have come, as JSON has them."""
        self.store.metrics[lam, stage] = restored(metrics)
        if stage == self.prepared.quick_stage:
            self._add_to_curve(lam)

    def set_landmarks(self, landmarks: Landmarks | None) -> None:
        """All metrics anew, from the fields that are here; the worker has nothing to do."""
        self.landmarks, self.curve = landmarks, Curve()
        for lam, stage in list(self.store.metrics):
            if stage == self.prepared.quick_stage:
                self._add_to_curve(lam)

    def warn(self, texts: Iterable[str]) -> None:
        """Adds what was not said before to the warnings."""
        self.warnings = tuple(dict.fromkeys([*self.warnings, *texts]))

    def _add_to_curve(self, lam: float) -> None:
        """The metrics of a quick field; landmarks are measured with the best field that is here."""
        metrics, fields = self.store.metrics[lam, self.prepared.quick_stage], self.store.fields_at(lam)
        if fields is not None:
            self.curve.add(lam, self._with_landmarks(metrics, fields.forward))
        elif self.landmarks is None:
            self.curve.add(lam, metrics)

    def _with_landmarks(self, metrics: Mapping[str, Any], forward: DisplacementField) -> Mapping[str, Any]:
        """The worker's metrics with the distance of the landmarks by this field, and by the linear alignment alone.

        Measured here, not in the worker: points cost next to nothing, and they may change while λ does not.
        """
        if self.landmarks is None:
            return metrics
        return self.landmarks.beside(metrics, forward, self.prepared.linear, self.start)
