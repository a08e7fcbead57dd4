"""What the user is told in words: errors and notes, each in the panel that it belongs to."""

from __future__ import annotations

from typing import Any


class Messages:
    """Errors and notes of all panels. state: the shared state, whose "error" and "notes" are those of the shown one."""

    def __init__(self, state: Any) -> None:
        self._state = state
        # "": the page is not there yet, and what is told belongs to its first panel.
        self._shown = ""
        # Of the panels that are not shown.
        self._kept: dict[str, tuple[str, list[str]]] = {}

    def begin(self, panel: str) -> None:
        """This panel is the first one; what was told before belongs to it."""
        self._shown = panel

    def tell(self, panel: str, error: str) -> None:
        """Shows an error until the user closes it, or another one of that panel comes."""
        if self._is_shown(panel):
            self._state.error = error
        else:
            self._kept[panel] = error, self._of(panel)[1]

    def warn(self, panel: str, note: str) -> None:
        """Shows a note, once."""
        error, notes = (self._state.error, self._state.notes) if self._is_shown(panel) else self._of(panel)
        if note in notes:
            return
        if self._is_shown(panel):
            self._state.notes = [*notes, note]
        else:
            self._kept[panel] = error, [*notes, note]

    def clear(self, panel: str) -> None:
        """Nothing of that panel holds any more."""
        self._kept.pop(panel, None)
        if self._is_shown(panel):
            self._state.error, self._state.notes = "", []

    def change(self, before: str, after: str) -> None:
        """Another panel is shown."""
        self._shown = after
        self._kept[before] = self._state.error, self._state.notes
        self._state.error, self._state.notes = self._kept.pop(after, ("", []))

    def _is_shown(self, panel: str) -> bool:
        return self._shown in ("", panel)

    def _of(self, panel: str) -> tuple[str, list[str]]:
        return self._kept.get(panel, ("", []))
