"""The λ response as a picture in a label; a click in it chooses λ. Qt only; what is drawn where is in ResponsePlot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import qt

from hyperreg.mrml.registration import response_plot
from hyperreg.registration.response import Response, Suggestion
from HyperRegSlicerLib.PictureWidget import Picture


class ResponsePicture(Picture):
    """Keeps the picture of a label up to date. on_click(lam): where the user clicked."""

    def __init__(self, label: qt.QLabel, on_click: Callable[[float], None]) -> None:
        self._on_click = on_click
        self._shown: tuple[Response, Suggestion | None, float, Mapping[str, Any]] = (Response(), None, 0.0, {})
        super().__init__(label, self._draw_response)

    def show(self, response: Response, suggestion: Suggestion | None, lam: float, metrics: Mapping[str, Any]) -> None:
        """Draws another response, or the same with the slider elsewhere. metrics: of what the views show, or {}."""
        self._shown = (response, suggestion, lam, metrics)
        self.paint()

    def clicked(self, x: float) -> None:
        response, suggestion, _lam, _metrics = self._shown
        if response.rows:
            self._on_click(response_plot.lambda_at(x, self._label.width, response, suggestion))

    def _draw_response(self, width: float, ink: str) -> tuple[int, list[response_plot.Shape]]:
        response, suggestion, lam, metrics = self._shown
        return response_plot.height(response), response_plot.draw(response, suggestion, lam, width, ink, metrics)
