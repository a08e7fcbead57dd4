"""A picture (see `hyperreg.mrml.shapes`) in a label, in the label's own width and colours. Qt only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import qt

from hyperreg.mrml import shapes

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
        height, shapes = self._draw(width, self._label.palette.color(qt.QPalette.WindowText).name())
        pixmap = qt.QPixmap(width, height)
        pixmap.fill(qt.QColor(0, 0, 0, 0))
        painter = qt.QPainter(pixmap)
        painter.setRenderHint(qt.QPainter.Antialiasing)
        font = qt.QFont(self._label.font)
        font.setPixelSize(FONT_PIXELS)
        painter.setFont(font)
        for shape in shapes:
            _paint(painter, shape)
        painter.end()
        if self._label.minimumHeight != height:
            self._label.minimumHeight = height
            self._label.maximumHeight = height
        self._label.setPixmap(pixmap)


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
