"""The slider that moves the border of one structure of a segmentation: between the page's state and the scene logic."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from hyperreg.mrml.segmentation import texts
from hyperreg.mrml.segmentation.borders import Borders
from hyperreg.mrml.segmentation.layer import segment_id
from hyperreg.segmentation.border import SUREST, WIDEST

# Surfaces follow a border that has not been moved for so long.
REST_SECONDS = 0.3


class BorderControls:
    """The slider without its page.

    state: with `SegmentationState`. borders: of the scene logic. on_moved(): structures have other voxels now.
    """

    def __init__(self, state: Any, borders: Borders, on_moved: Callable[[], None]) -> None:
        self._state, self._borders, self._on_moved = state, borders, on_moved
        self._wanted: int | None = None
        self._moved_at: float | None = None
        borders.on_change = self._changed
        self._changed()

    def choose(self, node: Any, label: int | None) -> None:
        """The structure of a segmentation whose border the slider moves from now on; None for none."""
        self._wanted = None
        self._borders.choose(node, label)
        self._state.segment_border_key = "" if label is None else segment_id(label)
        self._state.segment_border = self._borders.position

    def ask(self, position: Any) -> None:
        """The slider moved; the newest position is taken by the next `step`, so that a slow machine skips, not lags."""
        number = isinstance(position, (int, float)) and not isinstance(position, bool) and math.isfinite(position)
        if number and SUREST <= position <= WIDEST and self._state.segment_saving is not True:
            self._wanted = round(position)
        else:
            self._state.segment_border = self._borders.position

    def back(self) -> None:
        """The chosen structure is the model's result again."""
        self._wanted = None
        if self._state.segment_saving is not True:
            self._borders.back()
            self._has_moved()
        self._state.segment_border = self._borders.position

    def step(self) -> None:
        """Moves the border to where the slider is; tells the scene logic when it rests."""
        wanted, self._wanted = self._wanted, None
        if wanted is not None and wanted != self._borders.position:
            self._borders.move(wanted)
            self._has_moved()
            # Only what was refused is put back: the browser's slider may be ahead already.
            if self._borders.position != wanted:
                self._state.segment_border = self._borders.position
        if self._moved_at is not None and time.monotonic() > self._moved_at + REST_SECONDS:
            self._moved_at = None
            self._borders.rest()

    def _has_moved(self) -> None:
        self._moved_at = time.monotonic()
        self._on_moved()

    def _changed(self) -> None:
        state, borders = self._state, self._borders
        state.segment_border_text = texts.border(borders)
        state.segment_border_fixed = bool(borders.reason)
        state.segment_border_can_go_back = borders.can_go_back
