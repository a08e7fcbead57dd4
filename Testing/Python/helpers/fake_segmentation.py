"""A RemoteSegmenter without a worker: the same callbacks, results from a formula, answers when the test says so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hyperreg.imaging.volume import Volume
from hyperreg.segmentation.border import Kept
from hyperreg.segmentation.catalogue import find_model
from hyperreg.segmentation.frame import Frame
from hyperreg.segmentation.structures import decide
from hyperreg.worker.segmentation import Segmented


class FakeSegmenter:
    """Stands in for `hyperreg.worker.segmentation.RemoteSegmenter`; the methods at the end play the worker."""

    def __init__(self) -> None:
        self.on_progress: Callable[..., None] | None = None
        self.on_done: Callable[..., None] | None = None
        self.on_error: Callable[..., None] | None = None
        self.on_cancelled: Callable[..., None] | None = None
        self.running = self.closed = False
        self.looked: Any = None
        self.asked: list[tuple[dict[str, Volume], str, dict[str, Any]]] = []
        # Of the last answer; None where the worker has not got it any more.
        self.kept: Kept | None = None
        self.borders: list[tuple[int, Callable[..., None], Callable[[str], None]]] = []

    def segment(self, volumes: Mapping[str, Volume], model: str, **options: Any) -> None:
        assert not self.running
        self.running = True
        self.asked.append((dict(volumes), model, options))

    def recognise(self, volumes: Sequence[Volume], model: str, on_done: Any, on_error: Any) -> None:
        self.looked = (list(volumes), model, on_done)

    def keeps(self, case: str) -> bool:
        return case == "case" and self.kept is not None

    def border(self, _segmented: Segmented, label: int, on_done: Any, on_error: Any) -> None:
        self.borders.append((label, on_done, on_error))

    def cancel(self) -> None:
        if self.running:
            self.running = False
            self.on_cancelled()

    def close(self) -> None:
        self.closed = True

    # The worker's part, played by the test

    def progress(self, fraction: float, text: str) -> None:
        self.on_progress(fraction, text)

    def tell_border(self) -> None:
        label, on_done, _on_error = self.borders.pop()
        on_done(self.kept.levels(label))

    def answer(self, warnings: tuple[str, ...] = (), case: str = "case") -> Segmented:
        """The case is done: what is bright is the model's last structure, what is half as bright its first one."""
        volumes, model, _ = self.asked[-1]
        card, first = find_model(model), next(iter(volumes.values()))
        shares = first.array.astype(np.float32) / first.array.max()
        centres = np.linspace(0, 1, card.channels, dtype=np.float32)
        logits = np.stack([-60 * (shares - centre) ** 2 for centre in centres])
        probabilities = np.exp(logits) / np.exp(logits).sum(0)
        decided = decide(probabilities, card, float(np.prod(first.spacing)) / 1000)
        segmented = Segmented(
            card,
            Volume(decided.labels, first.ijk_to_ras, "segmentation"),
            Volume(decided.uncertainty, first.ijk_to_ras, "uncertainty"),
            decided.volumes, "cpu", ["on the CPU"], list(warnings), {"prepare": 1.0, "network": 4.0}, {}, case,
        )  # fmt: skip
        grid = first.grid
        box = (slice(None), slice(None), slice(None))
        frame = Frame(grid, (0, 1, 2), (1, 1, 1), grid, box, grid, grid)
        self.kept = Kept(card, frame, probabilities.astype(np.float16), decided.labels)
        self.running = False
        self.on_done(segmented)
        return segmented

    def fail(self, message: str) -> None:
        self.running = False
        self.on_error(message)


class FakeStore:
    """Stands in for `hyperreg.worker.models.ModelStore`."""

    def __init__(self, on_error: Callable[[str], None]) -> None:
        self.on_error = on_error
        self.asked: list[tuple[str, str]] = []
        self.callbacks: list[Callable[..., None]] = []

    def licence(self, source: str, on_done: Callable[..., None]) -> None:
        self._ask("licence", source, on_done)

    def add(self, source: str, on_done: Callable[..., None]) -> None:
        self._ask("add", source, on_done)

    def remove(self, model: str, on_done: Callable[..., None]) -> None:
        self._ask("remove", model, on_done)

    def answer(self, *values: Any) -> None:
        self.callbacks.pop(0)(*values)

    def _ask(self, what: str, value: str, on_done: Callable[..., None]) -> None:
        self.asked.append((what, value))
        self.callbacks.append(on_done)
