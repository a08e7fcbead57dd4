"""A LiveRegistration without a worker: the same callbacks, fields from a formula, answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_fusion import FakeFuser
from fake_segmentation import FakeSegmenter, FakeStore

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.landmarks import Landmarks, pair_landmarks
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, suggest

METRICS = {
    "similarity": 0.9,
    "similarity_before": 0.5,
    "folding_percent": 0.02,
    "displacement_max_mm": 9.3,
    "displacement_mean_mm": 2.1,
    "smoothness": 0.01,
    "dice": {1: 0.8, 2: 0.6},
    "dice_mean": 0.7,
    "dice_mean_before": 0.4,
}


def wavy(grid: Grid, lam: float, sign: float = 1.0) -> DisplacementField:
    """A smooth field, at most about 6 mm, that shrinks with λ and is zero at λ = 1."""
    i, j, k = np.meshgrid(*(np.linspace(0, np.pi, n) for n in grid.shape), indexing="ij")
    bump = np.sin(i) * np.sin(j) * np.sin(k)
    array = np.stack([4 * bump, -3 * bump * np.cos(j), 2 * bump * np.cos(i)]) * (1 - lam) * sign
    return DisplacementField(array.astype(np.float32), grid.ijk_to_ras)


def finer(grid: Grid) -> Grid:
    """Half the spacing, the same corner."""
    i, j, k = (2 * n - 1 for n in grid.shape)
    return Grid((i, j, k), grid.ijk_to_ras @ np.diag([0.5, 0.5, 0.5, 1.0]))


def metrics_at(lam: float, *, dice: bool = True) -> dict[str, Any]:
    """Figures of a response whose Dice is best at λ = 0.2, and whose folding vanishes towards λ = 1."""
    best = {"dice": {1: 0.8, 2: 0.6}, "dice_mean": 0.7 - 0.3 * (lam - 0.2) ** 2, "dice_mean_before": 0.4}
    return {
        **{name: value for name, value in METRICS.items() if not name.startswith("dice")},
        "similarity": 0.9 - 0.3 * lam,
        "folding_percent": 0.4 * (1 - lam) ** 6,
        **(best if dice else {}),
    }


@dataclass
class FakeRefinement:
    lam: float
    contrast: str = "auto"


class FakeRegistration:
    """Stands in for `hyperreg.worker.live.LiveRegistration`; `answer` plays the worker."""

    def __init__(self, grid: Grid | None = None, linear: np.ndarray | None = None) -> None:
        self.on_progress: Callable[..., None] | None = None
        self.on_ready: Callable[..., None] | None = None
        self.on_field: Callable[..., None] | None = None
        self.on_metrics: Callable[..., None] | None = None
        self.on_refine_progress: Callable[..., None] | None = None
        self.on_refined: Callable[..., None] | None = None
        self.on_refine_ended: Callable[..., None] | None = None
        self.on_response: Callable[..., None] | None = None
        self.on_warning: Callable[..., None] | None = None
        self.on_error: Callable[..., None] | None = None
        self.given_grid = grid
        self.linear = np.eye(4) if linear is None else linear
        self.device = "cpu"
        self.warnings: list[str] = []
        self.calls: list[str] = []
        self.prepared_with: dict[str, Any] = {}
        self.preparing = False
        self.ready = False
        self.lam = 0.0
        self.exact_lam: float | None = None
        self.asked: list[float] = []
        self.refining = self.refined = False
        self.refinement: FakeRefinement | None = None
        self.values: dict[str, float] = {}
        self.regions: tuple[Volume | None, dict[int, float]] = (None, {})
        self.regions_set: list[tuple[Volume | None, dict[int, float]]] = []
        self.contrast = ""
        self.landmarks: Landmarks | None = None

    @property
    def grid(self) -> Grid:
        return self.given_grid or self.prepared_with["fixed"].grid

    def prepare(self, fixed: Volume, moving: Volume, **options: Any) -> None:
        self.calls.append("prepare")
        self.prepared_with = {"fixed": fixed, "moving": moving, **options}
        self.preparing = True

    def set_lambda(self, lam: float) -> None:
        self.lam = lam
        self.asked.append(lam)
        self.refined = False
        self.cancel_refine()
        if self.ready and not self.preparing and self.on_field is not None:
            self.on_field(self.fields(lam), lam, False)

    def refine(self, contrast: str = "auto") -> None:
        if self.exact_lam != self.lam:
            raise InputError("The result for this λ is not complete yet. Wait a moment, then refine it.")
        self.calls.append("refine")
        self.contrast = contrast
        self.refining = True

    def cancel_refine(self) -> None:
        if self.refining:
            self.calls.append("cancel_refine")
            self.refining = False
            self.on_refine_ended()

    def undo_refine(self) -> None:
        if self.refined:
            self.refined = False
            self.answer_exact()

    def redo_refine(self) -> None:
        if self.refinement is None:
            raise InputError("There is no refinement to go back to.")
        self.lam = self.exact_lam = self.refinement.lam
        self._show_refined()

    def set_hyperparameter(self, name: str, value: float) -> None:
        if self.values[name] != value:
            self.values[name] = value
            self._settings_changed()

    def set_regions(self, labels: Volume | None, lambdas: dict[int, float]) -> None:
        if self.regions != (labels, lambdas):
            self.regions = (labels, lambdas)
            self.regions_set.append(self.regions)
            self._settings_changed()

    def set_landmarks(self, fixed_points: np.ndarray | None, moving_points: np.ndarray | None) -> None:
        before, self.landmarks = self.landmarks, pair_landmarks(fixed_points, moving_points)
        if before is self.landmarks is None:
            return
        if self.exact_lam is not None:
            self.on_metrics(self.measured(), self.exact_lam)

    def measured(self) -> dict[str, Any]:
        """The figures of what is shown."""
        if self.landmarks is None:
            return METRICS
        return self.landmarks.beside(METRICS, self.shown_fields().forward, self.linear)

    def _settings_changed(self) -> None:
        self.cancel_refine()
        self.exact_lam, self.refined, self.refinement = None, False, None

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.preparing = False

    def reset(self) -> None:
        self.calls.append("reset")
        self.preparing = self.ready = self.refining = self.refined = False
        self.refinement = self.exact_lam = None

    def close(self) -> None:
        self.calls.append("close")

    def transform(self) -> Transform:
        return Transform((self.shown_fields().forward, self.linear))

    def inverse_transform(self) -> Transform:
        return Transform((np.linalg.inv(self.linear), self.shown_fields().inverse))

    # The worker's part, played by the test

    def fields(self, lam: float) -> Fields:
        return Fields(wavy(self.grid, lam), wavy(self.grid, lam, sign=-1.0))

    @property
    def refined_grid(self) -> Grid:
        return finer(self.grid)

    def refined_fields(self, lam: float) -> Fields:
        """Half as much as the network's, on a finer grid."""
        return Fields(
            *(
                DisplacementField(wavy(self.refined_grid, lam, s).array / 2, self.refined_grid.ijk_to_ras)
                for s in (1, -1)
            )
        )

    def shown_fields(self) -> Fields:
        return (self.refined_fields if self.refined else self.fields)(self.exact_lam)

    def answer_refined(self) -> None:
        """The refinement that was asked for arrives."""
        self.refining = False
        self.refinement = FakeRefinement(self.lam, self.contrast)
        self._show_refined()

    def _show_refined(self) -> None:
        self.refined = True
        self.on_refined(self.refined_fields(self.lam), {**METRICS, "similarity": 0.95}, "Refined in 30 steps.")

    def answer_response(self, *, dice: bool = True, complete: bool = True) -> Response:
        """The response is measured, all of it or only the ends and the middle."""
        response = Response()
        for lam in RESPONSE_LAMBDAS if complete else (0.0, 0.5, 1.0):
            response.add(lam, metrics_at(lam, dice=dice))
        self.on_response(response, suggest(response) if complete else None)
        return response

    def progress(self, fraction: float, text: str) -> None:
        self.on_progress(fraction, text)

    def answer_ready(self) -> None:
        """The pair is prepared, and the exact field and the metrics of the newest λ arrive."""
        self.preparing, self.ready = False, True
        self.on_ready()
        self.answer_exact()

    def answer_exact(self) -> None:
        self.exact_lam = self.lam
        self.refined = False
        self.on_field(self.fields(self.lam), self.lam, True)
        self.on_metrics(self.measured(), self.lam)

    def fail(self, message: str) -> None:
        self.preparing = False
        self.on_error(message)


class FakeConnection:
    """Stands in for `HyperRegSlicerLib.Worker.Connection`."""

    def __init__(self) -> None:
        self.registration = FakeRegistration()
        self.segmenter = FakeSegmenter()
        self.fuser = FakeFuser()
        self.store: FakeStore | None = None
        self.polls = 0
        self.closed = False

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
