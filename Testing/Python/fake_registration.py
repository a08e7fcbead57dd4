"""A LiveRegistration without a worker: the same callbacks, fields from a formula, answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Fields

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


class FakeRegistration:
    """Stands in for `hyperreg.worker.live.LiveRegistration`; `answer` plays the worker."""

    def __init__(self, grid: Grid | None = None, linear: np.ndarray | None = None) -> None:
        self.on_progress: Callable[..., None] | None = None
        self.on_ready: Callable[..., None] | None = None
        self.on_field: Callable[..., None] | None = None
        self.on_metrics: Callable[..., None] | None = None
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
        if self.ready and not self.preparing and self.on_field is not None:
            self.on_field(self.fields(lam), lam, False)

    def cancel(self) -> None:
        self.calls.append("cancel")
        self.preparing = False

    def reset(self) -> None:
        self.calls.append("reset")
        self.preparing = self.ready = False
        self.exact_lam = None

    def close(self) -> None:
        self.calls.append("close")

    def transform(self) -> Transform:
        return Transform((self.fields(self.exact_lam).forward, self.linear))

    def inverse_transform(self) -> Transform:
        return Transform((np.linalg.inv(self.linear), self.fields(self.exact_lam).inverse))

    # The worker's part, played by the test

    def fields(self, lam: float) -> Fields:
        return Fields(wavy(self.grid, lam), wavy(self.grid, lam, sign=-1.0))

    def progress(self, fraction: float, text: str) -> None:
        self.on_progress(fraction, text)

    def answer_ready(self) -> None:
        """The pair is prepared, and the exact field and the metrics of the newest λ arrive."""
        self.preparing, self.ready = False, True
        self.on_ready()
        self.answer_exact()

    def answer_exact(self) -> None:
        self.exact_lam = self.lam
        self.on_field(self.fields(self.lam), self.lam, True)
        self.on_metrics(METRICS, self.lam)

    def fail(self, message: str) -> None:
        self.preparing = False
        self.on_error(message)


class FakeConnection:
    """Stands in for `HyperRegSlicerLib.Worker.Connection`."""

    def __init__(self) -> None:
        self.registration = FakeRegistration()
        self.polls = 0
        self.closed = False

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
