"""Of what pictures are drawn: the modules paint these shapes, the browser app writes them as SVG. No Qt and no MRML."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Anchor = Literal["left", "middle", "right"]


@dataclass(frozen=True)
class Line:
    """Through points (x, y), pixels from the upper left corner."""

    points: tuple[tuple[float, float], ...]
    colour: str
    width: float = 1.0
    dashed: bool = False


@dataclass(frozen=True)
class Dot:
    x: float
    y: float
    radius: float
    colour: str


@dataclass(frozen=True)
class Text:
    """A line of text whose middle is at height y; x is its left end, middle or right end."""

    x: float
    y: float
    text: str
    colour: str
    anchor: Anchor = "left"


Shape = Line | Dot | Text
