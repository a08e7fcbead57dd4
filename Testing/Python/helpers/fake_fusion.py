"""A RemoteFuser without a worker: the same callbacks, results from a formula, answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hyperreg.errors import InputError
from hyperreg.fusion.records import AtlasFiles, AtlasProgress, Learned, LearnedWeight, Rater, StructureVolumes
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.worker.fusion import EarlyAnswer, FoundAtlas, Fused, FusedStructure

CORE, RIM = Structure(300, 0, "Core", (220, 60, 40)), Structure(7, 1, "Rim", (60, 120, 220))


def learned(steps: int) -> Learned:
    """Data parameters of the atlases that are used, noted every 25 of 100 steps."""
    noted = tuple(range(25, steps + 1, 25))
    atlases = tuple(
        LearnedWeight(name, value, weight, tuple(value * step / 100 for step in noted))
        for name, value, weight in (("a10", 0.8, 0.5), ("a9", 0.5, 0.4), ("a2", -0.6, 0.1))
    )
    return Learned(steps, 100, steps >= 100, False, 60.0, 2.0, noted, (), atlases)


class FakeFuser:
    """Stands in for `hyperreg.worker.fusion.RemoteFuser`; the methods at the end play the worker."""

    def __init__(self) -> None:
        self.on_progress: Callable[..., None] | None = None
        self.on_done: Callable[..., None] | None = None
        self.on_error: Callable[..., None] | None = None
        self.on_cancelled: Callable[..., None] | None = None
        self.on_atlas: Callable[..., None] | None = None
        self.on_answer: Callable[..., None] | None = None
        self.finished = False
        self.asked: list[tuple[str, Any, dict[str, Any]]] = []
        self.running = False
        self.structures: Sequence[Structure] = (CORE, RIM)
        self._place: Grid | None = None
        self._found: Callable[..., None] | None = None

    def fuse_atlases(self, target: Volume, atlases: str | Sequence[AtlasFiles], **options: Any) -> None:
        self._begin(target.grid)
        self.asked.append((atlases, target, options))

    def finish(self) -> None:
        self.finished = True

    def fuse_maps(self, maps: Sequence[Volume], grid: Grid, **options: Any) -> None:
        self._begin(grid)
        self.asked.append(("maps", list(maps), options))

    def find_atlases(self, folder: Any, on_found: Callable[..., None], on_error: Callable[..., None]) -> None:
        self.asked.append(("find", folder, {}))
        self._found = on_found

    def cancel(self) -> None:
        if self.running:
            self.running = False
            self.on_cancelled()

    def close(self) -> None:
        self.on_progress = self.on_done = self.on_error = self.on_cancelled = None

    def _begin(self, place: Grid) -> None:
        if self.running:
            raise InputError("A fusion is still running.")
        self.running, self._place = True, place

    # The worker's part, played by the test

    def progress(self, fraction: float, text: str) -> None:
        self.on_progress(fraction, text)

    def news(self, name: str, state: str, fraction: float = 0.0, text: str = "") -> None:
        self.on_atlas(AtlasProgress(name, state, fraction, text))

    def early(self, steps: int) -> EarlyAnswer:
        """A ball of 7 mm in the middle, after so many of 100 steps."""
        assert self._place is not None
        distance = np.linalg.norm(self._place.points() - self._place.centre, axis=-1)
        labels = Volume(np.where(distance < 7, 7, 0).astype(np.int32), self._place.ijk_to_ras)
        nowhere = Volume(np.zeros(self._place.shape, np.float32), self._place.ijk_to_ras)
        found = EarlyAnswer(learned(steps), labels, nowhere, [RIM])
        self.on_answer(found)
        return found

    def answer(self, warnings: tuple[str, ...] = (), learned: Learned | None = None) -> Fused:
        """A ball of 9 mm in the middle, its core of 5 mm; two of three atlases disagree in a ball of 4 mm beside it."""
        assert self._place is not None
        grid = self._place
        points = grid.points() - grid.centre
        distance = np.linalg.norm(points, axis=-1)
        labels = np.where(distance < 5, 300, np.where(distance < 9, 7, 0)).astype(np.int32)
        away = np.linalg.norm(points - (9.0, 0.0, 0.0), axis=-1)
        disagreement = np.where(away < 4, 2 / 3, 0.0).astype(np.float32)
        size = float(grid.spacing.prod()) / 1000
        rows = [
            FusedStructure(
                entry,
                StructureVolumes(entry.label, size * np.count_nonzero(labels == entry.label), 1.0, 0.5, 0.2, 2.0),
            )
            for entry in (CORE, RIM)
        ]
        raters = [
            Rater("a10", 0.5, 0.91, 0.99, 0.93, similarity=0.81, lam=0.3),
            Rater("a9", 0.4, 0.95, 0.98, 0.90, similarity=0.79, lam=0.3),
            Rater("a2", 0.1, 0.60, 0.97, 0.65, similarity=0.70, lam=0.3),
            Rater("bad", state="left out", reason="The registration failed.", similarity=0.2, lam=0.3),
        ]
        fused = Fused(
            "vote",
            Volume(labels, grid.ijk_to_ras),
            Volume(disagreement, grid.ijk_to_ras),
            rows,
            raters,
            4.2,
            list(warnings),
            12.0,
            learned,
        )
        self.running = False
        self.on_done(fused)
        return fused

    def fail(self, message: str) -> None:
        self.running = False
        self.on_error(message)

    def found(self) -> None:
        picture = np.zeros((96, 96, 3), np.uint8)
        picture[20:70, 20:70] = (200, 180, 0)
        self._found(
            [
                FoundAtlas("a10", "a10_T1.nii.gz", "a10_labels.nii.gz", "", picture),
                FoundAtlas("bad", "", "", "'bad_labels.nii.gz' is damaged.", None),
            ]
        )
