"""A live registration without a worker: fields from a formula, answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from fake_fusion import FakeFuser
from fake_segmentation import FakeSegmenter, FakeStore

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.mrml.lifecycle import ignore
from hyperreg.registration.anchors import Fields
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.landmarks import Landmarks, pair_landmarks
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, suggest
from hyperreg.registration.stages import BETWEEN_TEXT, Stage
from hyperreg.worker.live.state import LiveState, Prepared, Publisher, Shown, Work

METRICS = {
    "similarity": 0.9,
    "similarity_before": 0.5,
    "folding_percent": 0.02,
    "displacement_max_mm": 9.3,
    "displacement_mean_mm": 2.1,
    "roughness": 0.01,
    "volume_change_low_percent": -12.3,
    "volume_change_high_percent": 18.4,
    "dice": {1: 0.8, 2: 0.6},
    "dice_mean": 0.7,
    "dice_mean_before": 0.4,
}


def wavy(grid: Grid, lam: float, sign: float = 1.0, stage: int = 1) -> DisplacementField:
    """A smooth field, at most about 6 mm, that shrinks with λ and is zero at λ = 1; another one at full resolution."""
    i, j, k = np.meshgrid(*(np.linspace(0, np.pi, n) for n in grid.shape), indexing="ij")
    bump = np.sin(i) * np.sin(j) * np.sin(k)
    array = np.stack([4 * bump, -3 * bump * np.cos(j), 2 * bump * np.cos(i)]) * (1 - lam) * sign
    array[0] *= 0.6 if stage == FULL else 1.0
    return DisplacementField(array.astype(np.float32), grid.ijk_to_ras)


def metrics_at(lam: float, *, dice: bool = True) -> dict[str, Any]:
    """Metrics of a response whose Dice is best at λ = 0.2, and whose folding vanishes towards λ = 1."""
    best = {"dice": {1: 0.8, 2: 0.6}, "dice_mean": 0.7 - 0.3 * (lam - 0.2) ** 2, "dice_mean_before": 0.4}
    return {
        **{name: value for name, value in METRICS.items() if not name.startswith("dice")},
        "similarity": 0.9 - 0.3 * lam,
        "folding_percent": 0.4 * (1 - lam) ** 6,
        "volume_change_low_percent": -30 * (1 - lam),
        "volume_change_high_percent": 50 * (1 - lam),
        **(best if dice else {}),
    }


STAGES = (
    Stage("draft", "First draft", 4.0),
    Stage("quick", "Quick result", 2.0),
    Stage("full", "Full resolution", 1.0),
)
QUICK, FULL = 1, 2


class FakeRegistration:
    """Stands in for `LiveRegistration` where a `Registration` is wanted; the methods `answer...` play the worker.

    calls: what was asked for, by name. asked: λ as they were set. previews: whether every λ has a preview; without,
    what is shown stays.
    """

    def __init__(self, grid: Grid | None = None, linear: np.ndarray | None = None) -> None:
        self.on_state: Callable[[LiveState], None] = ignore
        self.on_error: Callable[[str], None] = ignore
        self.given_grid = grid
        self.linear = np.eye(4) if linear is None else linear
        self.stages = STAGES
        self.calls: list[str] = []
        self.asked: list[float] = []
        self.prepared_with: dict[str, Any] = {}
        self.previews = True
        self.lam: float | None = None
        self.pair: Prepared | None = None
        self.preparing: tuple[float, str] | None = None
        self.shown: Shown | None = None
        self.metrics: dict[str, Any] = {}
        self.computing: Work | None = None
        self.busy = False
        self.response, self.suggestion = Response(), None
        self.note = ""
        self.warnings: tuple[str, ...] = ()
        self.values: dict[str, float] = {}
        self.regions: tuple[Volume | None, dict[int, float]] = (None, {})
        self.regions_set: list[tuple[Volume | None, dict[int, float]]] = []
        self.landmarks: Landmarks | None = None
        self.masks: tuple[Volume | None, Volume | None] = (None, None)
        self.rigid: tuple[Volume | None, tuple[int, ...]] = (None, ())
        self.full_automatically = True
        self.full_wanted = True
        self.aside: Any = None
        self._constraints = Constraints()
        self._publisher = Publisher(lambda: self.state)

    @property
    def state(self) -> LiveState:
        pulling = None if self.landmarks is None else self.landmarks.pulling
        constraints = Constraints(*self.masks, pulling, *self.rigid, *self.regions)
        if not constraints.same_as(self._constraints):
            self._constraints = constraints
        return LiveState(
            lam=self.lam,
            pair=self.pair,
            progress=self.preparing,
            ready=self.pair is not None and self.preparing is None,
            shown=self.shown,
            metrics=self.metrics,
            work=self.computing,
            busy=self.busy,
            response=self.response,
            suggestion=self.suggestion,
            device="" if self.pair is None else "cpu",
            note="" if self.pair is None else self.note,
            warnings=self.warnings,
            values=self.values,
            constraints=self._constraints,
            landmarks=self.landmarks,
            full_automatically=self.full_automatically,
            full_wanted=self.full_wanted,
        )

    @property
    def grid(self) -> Grid:
        return self.given_grid or self.prepared_with["fixed"].grid

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        model: str | None = None,
        device: str = "auto",
        initial: str | np.ndarray | Transform = "affine",
        contrast: str = AUTOMATIC,
        symmetric: bool = False,
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
    ) -> None:
        self.calls.append("prepare")
        self.prepared_with = {
            "fixed": fixed,
            "moving": moving,
            "model": model,
            "device": device,
            "initial": initial,
            "contrast": contrast,
            "symmetric": symmetric,
            "fixed_labels": fixed_labels,
            "moving_labels": moving_labels,
        }
        self.preparing = (0.0, "")
        self.tell()

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.preparing = None
        self.tell()

    def set_lambda(self, lam: float) -> None:
        self.lam = lam
        self.asked.append(lam)
        self.full_wanted = self.full_automatically
        if self.state.ready and self.previews:
            self.show(Shown(lam, self.fields(lam).forward, None, QUICK, BETWEEN_TEXT))
        else:
            self.tell()

    def set_full_automatically(self, on: bool) -> None:
        self.calls.append(f"full_automatically {on}")
        self.full_automatically = self.full_wanted = on
        self.tell()

    def request_full(self) -> None:
        self.calls.append("request_full")
        self.full_wanted = True
        self.tell()

    def cancel_full(self) -> None:
        self.calls.append("cancel_full")
        self.full_automatically = self.full_wanted = False
        self.rest()

    def set_hyperparameter(self, name: str, value: float) -> None:
        if self.values[name] != value:
            self.values = {**self.values, name: value}
            self._settings_changed()

    def set_regions(self, labels: Volume | None, lambdas: Mapping[int, float]) -> None:
        if self.regions != (labels, lambdas):
            self.regions = (labels, dict(lambdas))
            self.regions_set.append(self.regions)
            self._settings_changed()

    def set_masks(self, fixed_mask: Volume | None, moving_mask: Volume | None) -> None:
        if any(new is not old for new, old in zip((fixed_mask, moving_mask), self.masks, strict=True)):
            self.masks = (fixed_mask, moving_mask)
            self._settings_changed()

    def set_rigid(self, labels: Volume | None, values: Sequence[int]) -> None:
        if self.rigid != (labels, tuple(values)):
            self.rigid = (labels, tuple(values))
            self._settings_changed()

    def set_landmarks(
        self,
        fixed_points: np.ndarray | None,
        moving_points: np.ndarray | None,
        pull: float = 0.0,
        left_out: Sequence[int] = (),
    ) -> None:
        before, self.landmarks = self.landmarks, pair_landmarks(fixed_points, moving_points, pull, left_out)
        if before is self.landmarks is None or (before is not None and before.same_as(self.landmarks)):
            return
        pulling = [None if points is None else points.pulling for points in (before, self.landmarks)]
        if pulling[0] is not pulling[1] and (pulling[1] is None or not pulling[1].same_as(pulling[0])):
            self._settings_changed()
        elif self.shown is not None and self.shown.solved:
            self.answer_metrics(self.measured())

    def transform(self) -> Transform:
        return Transform((self.shown.forward, self.linear))

    def inverse_transform(self) -> Transform:
        return Transform((np.linalg.inv(self.linear), self.shown.inverse))

    def reset(self) -> None:
        self.calls.append("reset")
        self._forget()
        self.aside = None
        self.tell()

    def set_aside(self) -> None:
        self.calls.append("set_aside")
        self.aside = self.lam, self.pair, self.shown, self.metrics
        self._forget()
        self.tell()

    def bring_back(self) -> None:
        self.calls.append("bring_back")
        (self.lam, self.pair, self.shown, self.metrics), self.aside = self.aside, None
        self.tell()

    def drop_aside(self) -> None:
        self.calls.append("drop_aside")
        self.aside = None

    def close(self) -> None:
        self.calls.append("close")

    # The worker's part, played by the test

    def tell(self) -> None:
        self._publisher.publish(self.on_state)

    def fields(self, lam: float, stage: int = QUICK) -> Fields:
        return Fields(wavy(self.grid, lam, stage=stage), wavy(self.grid, lam, sign=-1.0, stage=stage))

    def measured(self) -> dict[str, Any]:
        """The metrics of what is shown."""
        if self.landmarks is None:
            return METRICS
        return self.landmarks.beside(METRICS, self.shown.forward, self.linear)

    def show(self, shown: Shown) -> None:
        """These fields arrive; their metrics do not yet."""
        self.shown, self.metrics = shown, {}
        self.tell()

    def progress(self, fraction: float, text: str) -> None:
        """Preparing goes on."""
        self.preparing = (fraction, text)
        self.tell()

    def answer_ready(self) -> None:
        """The pair is prepared, and the quick field and the metrics of the newest λ arrive."""
        self._forget()
        self.pair = Prepared(self.grid, self.linear, self.stages)
        self.aside = None
        self.tell()
        if self.pair is not None:
            self.answer_solved()

    def answer_solved(self, stage: int = QUICK) -> None:
        """The field of a stage at the newest λ arrives, and its metrics."""
        self.answer_field(stage)
        self.answer_metrics(self.measured())

    def answer_field(self, stage: int = QUICK) -> None:
        """The field of a stage at the newest λ arrives; its metrics do not yet."""
        self.computing = None
        fields = self.fields(self.lam, stage)
        self.show(Shown(self.lam, fields.forward, fields.inverse, stage, STAGES[stage].text, stage == FULL))

    def answer_metrics(self, metrics: dict[str, Any]) -> None:
        """The metrics of what is shown arrive."""
        self.metrics = metrics
        self.tell()

    def answer_response(self, *, dice: bool = True, complete: bool = True) -> Response:
        """The response is measured, all of it or only the ends and the middle."""
        self.response = Response()
        for lam in RESPONSE_LAMBDAS if complete else (0.0, 0.5, 1.0):
            self.response.add(lam, metrics_at(lam, dice=dice))
        self.suggestion = suggest(self.response) if complete else None
        self.tell()
        return self.response

    def work(self, stage: int, fraction: float, lam: float | None = None) -> None:
        """A field is being computed, at the newest λ unless another is given."""
        self.computing = Work(self.lam if lam is None else lam, STAGES[stage], fraction, "step 3 of 30")
        self.tell()

    def rest(self) -> None:
        """Nothing is being computed any more."""
        self.computing = None
        self.tell()

    def warn(self, message: str) -> None:
        self.warnings = (*self.warnings, message)
        self.tell()

    def fail(self, message: str) -> None:
        self.preparing = None
        self.tell()
        self.on_error(message)

    def _settings_changed(self) -> None:
        self.shown, self.metrics = None, {}
        self.tell()

    def _forget(self) -> None:
        self.pair = self.preparing = self.shown = self.computing = self.suggestion = None
        self.metrics, self.response, self.warnings = {}, Response(), ()


class FakeComputer:
    """Stands in for `hyperreg.mrml.computer.Computer`: every address answers at once."""

    def __init__(self, on_told: Callable[[str], None]) -> None:
        self.address = ""
        self._on_told = on_told

    def choose(self, address: str) -> None:
        self.address = address
        self._on_told(f"Connected: {address}" if address else "")


class FakeConnection:
    """Stands in for `HyperRegSlicerLib.Worker.Connection`."""

    def __init__(self) -> None:
        self.registration = FakeRegistration()
        self.segmenter = FakeSegmenter()
        self.fuser = FakeFuser()
        self.store: FakeStore | None = None
        self.polls = 0
        self.closed = False

    def computer(self, on_told: Callable[[str], None]) -> FakeComputer:
        return FakeComputer(on_told)

    def models(self, on_error: Callable[[str], None]) -> FakeStore:
        self.store = FakeStore(on_error)
        return self.store

    def poll(self) -> None:
        self.polls += 1

    def ask_devices(self, on_answer: Callable[..., None]) -> None:
        on_answer(
            [
                {"name": "cuda:0", "title": "Test card", "free_bytes": 20 << 30, "total_bytes": 24 << 30},
                {"name": "cpu", "title": "CPU, 8 cores", "free_bytes": 12 << 30, "total_bytes": 16 << 30},
            ]
        )

    def close(self) -> None:
        self.closed = True
