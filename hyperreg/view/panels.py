"""What the app can do, a panel each: the page shows one of them at a time, beside the views that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hyperreg.view.messages import Messages


def nothing() -> None:
    """Where a panel has nothing to do."""


@dataclass(frozen=True)
class Panel:
    """One tab of the page.

    name: in the state ("panel"). fill(): makes its widgets, called once, where they belong.
    bar(): makes what stays in sight below it: what is going on, and the main action.
    enter(): it is shown from now on: the views are its own. leave(): another one is shown.
    """

    name: str
    title: str
    fill: Callable[[], None]
    bar: Callable[[], None]
    enter: Callable[[], None] = nothing
    leave: Callable[[], None] = nothing


class Panels:
    """Which of the panels is shown. state: the shared state, whose "panel" the browser changes."""

    def __init__(self, state: Any, panels: Sequence[Panel], messages: Messages) -> None:
        self._state, self._messages = state, messages
        self._panels = {panel.name: panel for panel in panels}
        self._shown = panels[0]
        state.panel = panels[0].name
        messages.begin(panels[0].name)

    def choose(self, name: Any) -> None:
        """Shows another panel; what is none of them is ignored."""
        panel = self._panels.get(name) if isinstance(name, str) else None
        if panel is None:
            self._state.panel = self._shown.name
        elif panel is not self._shown:
            self._shown.leave()
            self._messages.change(self._shown.name, panel.name)
            self._shown = panel
            panel.enter()
