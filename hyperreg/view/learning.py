"""Learning from one's own images over night: what the page says of it, and a process of its own that does it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hyperreg.errors import HyperRegError, InputError
from hyperreg.overnight import Overnight
from hyperreg.registration.catalogue import list_models

# How often it is asked how far it is.
LOOK_S = 1.0


class LearningControls:
    """The controller's part for models that learn from the user's images.

    state: the shared state. overnight: where the training is; None where nothing may be kept.
    on_models(): there may be another model. tell(text): an error.
    """

    def __init__(
        self, state: Any, overnight: Overnight | None, on_models: Callable[[], None], tell: Callable[[str], None]
    ) -> None:
        self._state, self._overnight, self._on_models, self._tell = state, overnight, on_models, tell
        self._looked_at = -math.inf
        networks = [card for card in list_models() if card.has_network]
        state.learn_models = [{"title": card.title, "value": card.name} for card in networks]
        state.learn_model = networks[0].name if networks else ""

    @property
    def is_possible(self) -> bool:
        return self._overnight is not None and bool(self._state.learn_models)

    def start(self, images: Any = None) -> None:
        """Learns from the images of a folder, of the one that was typed if none is given; goes on where an earlier run
        on them had come."""
        state, images = self._state, str(images or self._state.learn_images).strip()
        if self._overnight is None or state.learn_running:
            return
        state.error = ""
        try:
            if state.learn_model not in [entry["value"] for entry in state.learn_models]:
                raise InputError("Choose the model that is to learn from the list.")
            self._overnight.start(Path(images), state.learn_model, _number(state.learn_hours))
        except HyperRegError as error:
            self._tell(str(error))
        self._look()

    def cancel(self) -> None:
        """Ends it; what was learned is kept for a next time."""
        if self._overnight is not None:
            self._overnight.cancel()

    def step(self) -> None:
        """Shows how far it is, whoever has started it."""
        if self._overnight is not None and time.monotonic() > self._looked_at + LOOK_S:
            self._look()

    def _look(self) -> None:
        if self._overnight is None:
            return
        self._looked_at = time.monotonic()
        state, found = self._state, self._overnight.look()
        running = bool(found.text) and not found.ended
        if state.learn_running and not running:
            self._on_models()
        state.learn_running, state.learn_progress, state.learn_text = running, 100 * found.fraction, found.text
        if running or not state.learn_images:
            state.learn_images = found.images


def _number(text: Any) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        return math.nan
