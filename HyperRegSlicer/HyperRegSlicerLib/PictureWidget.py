"""A picture (see `hyperreg.mrml.shapes`) in a label, in the label's own width and colours. Qt only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import qt

from hyperreg.mrml import shapes
from hyperreg.mrml.registration import response_plot
from hyperreg.registration.response import Response, Suggestion

FONT_PIXELS = 11
TEXT_HEIGHT = 16
TEXT_WIDTH = 400

# Width in pixels and the colour of text -> height in pixels, and what to draw.
Draw = Callable[[float, str], tuple[int, Sequence[shapes.Shape]]]


class _Events(qt.QObject):
    """Hears what happens to the label: a QLabel has no signal for clicks."""

    def __init__(self, picture: Picture) -> None:
        qt.QObject.__init__(self)
        self._picture = picture

    def eventFilter(self, _watched, event):
        kind = event.type()
        if kind == qt.QEvent.MouseButtonPress and event.button() == qt.Qt.LeftButton:
            self._picture.clicked(event.pos().x())
            return True
        if kind == qt.QEvent.Resize:
            self._picture.paint()
        return False


class Picture:
    """Keeps the picture of a label up to date. draw: see `Draw`; asked again whenever the label's size changes."""

    def __init__(self, label: qt.QLabel, draw: Draw) -> None:
        self._label = label
        self._draw = draw
        self._events = _Events(self)
        label.installEventFilter(self._events)
        self.paint()

    def clicked(self, x: float) -> None:
        """A click at this many pixels from the left."""

    def close(self) -> None:
        """Ends listening."""
        self._label.removeEventFilter(self._events)

    def paint(self) -> None:
        """Draws what is shown in the label's present width."""
        width = max(200, self._label.width)
        height, drawn = self._draw(width, self._label.palette.color(qt.QPalette.WindowText).name())
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor(0, 0, 0, 0))
        painter = qt.QPainter(pixmap)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        font = qt.QFont(self._label.font)
        font.setPixelSize(FONT_PIXELS)
        painter.setFont(font)
        for shape in drawn:
            _paint(painter, shape)
        painter.end()
        if self._label.minimumHeight != height:
            self._label.minimumHeight = height
            self._label.maximumHeight = height
        self._label.setPixmap(pixmap)


class ResponsePicture(Picture):
    """Keeps the picture of a label up to date. on_click(lam): where the user clicked."""

    def __init__(self, label: qt.QLabel, on_click: Callable[[float], None]) -> None:
        self._on_click = on_click
        self._shown: tuple[Response, Suggestion | None, float, Mapping[str, Any]] = (Response(), None, 0.0, {})
        super().__init__(label, self._draw_response)

    def show(self, response: Response, suggestion: Suggestion | None, lam: float, metrics: Mapping[str, Any]) -> None:
        """Draws another response, or the same with the slider elsewhere. metrics: of what the views show, or {}."""
        shown = (response, suggestion, lam, metrics)
        if shown != self._shown:
            self._shown = shown
            self.paint()

    def clicked(self, x: float) -> None:
        response, suggestion, _lam, _metrics = self._shown
        if response.rows:
            self._on_click(response_plot.lambda_at(x, self._label.width, response, suggestion))

    def _draw_response(self, width: float, ink: str) -> tuple[int, list[shapes.Shape]]:
        response, suggestion, lam, metrics = self._shown
        return response_plot.height(response), response_plot.draw(response, suggestion, lam, width, ink, metrics)


def _paint(painter: qt.QPainter, shape: shapes.Shape) -> None:
    pen = qt.QPen(qt.QColor(shape.colour))
    if isinstance(shape, shapes.Line):
        pen.setWidthF(shape.width)
        pen.setStyle(qt.Qt.DashLine if shape.dashed else qt.Qt.SolidLine)
        painter.setPen(pen)
        for (x1, y1), (x2, y2) in zip(shape.points, shape.points[1:], strict=False):
            painter.drawLine(qt.QPointF(x1, y1), qt.QPointF(x2, y2))
    elif isinstance(shape, shapes.Dot):
        painter.setPen(pen)
        painter.setBrush(qt.QBrush(qt.QColor(shape.colour)))
        painter.drawEllipse(qt.QPointF(shape.x, shape.y), shape.radius, shape.radius)
    else:
        painter.setPen(pen)
        left = {"left": 0, "middle": TEXT_WIDTH // 2, "right": TEXT_WIDTH}[shape.anchor]
        side = {"left": qt.Qt.AlignLeft, "middle": qt.Qt.AlignHCenter, "right": qt.Qt.AlignRight}[shape.anchor]
        corner = round(shape.x) - left, round(shape.y) - TEXT_HEIGHT // 2
        painter.drawText(*corner, TEXT_WIDTH, TEXT_HEIGHT, side | qt.Qt.AlignVCenter, shape.text)
