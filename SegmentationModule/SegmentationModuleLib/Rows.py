"""Rows of a form that depend on the model. Qt only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def emptied(panel: Any) -> Any:
    """The form layout of a widget, without the rows that it had."""
    layout = panel.layout()
    while layout.count():
        widget = layout.takeAt(0).widget()
        if widget is not None:
            widget.hide()
            widget.deleteLater()
    return layout


def named(slot: Callable[[str, Any], None], name: str) -> Callable[[Any], None]:
    """The slot with the row's name before what the signal says.

    Not a lambda with a default argument: PythonQt would put the signal's own into it.
    """

    def called(value: Any) -> None:
        slot(name, value)

    return called
