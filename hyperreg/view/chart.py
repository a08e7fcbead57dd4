"""Pictures as SVG text; what is drawn where is shared with the Slicer modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from hyperreg.mrml.registration import response_plot
from hyperreg.mrml.shapes import Dot, Line, Shape
from hyperreg.registration.response import Response, Suggestion

# Of the page's box that it lies in; the picture is drawn in the pixels of the page, so that its text is sharp.
WIDTH = 334
INK = "#d6d6d6"
_ANCHORS = {"left": "start", "middle": "middle", "right": "end"}


def svg(response: Response, suggestion: Suggestion | None, lam: float, metrics: Mapping[str, Any] | None = None) -> str:
    """The picture of a response with the slider at `lam`. metrics: of exactly what the views show."""
    shapes = response_plot.draw(response, suggestion, lam, WIDTH, INK, metrics)
    return picture(response_plot.height(response), shapes, "Response to λ")


def picture(height: int, shapes: Sequence[Shape], title: str) -> str:
    """Shapes as SVG, WIDTH pixels wide. title: for those who cannot see it."""
    inside = "".join(_element(shape) for shape in shapes)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" viewBox="0 0 {WIDTH} {height}" '
        f'font-size="11" role="img" aria-label="{title}">{inside}</svg>'
    )


def lambda_at(x: float, response: Response, suggestion: Suggestion | None) -> float:
    """The λ of a click. x: pixels from the left edge of the picture."""
    return response_plot.lambda_at(x, WIDTH, response, suggestion)


def _element(shape: Shape) -> str:
    if isinstance(shape, Line):
        points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
        dashes = ' stroke-dasharray="5 3"' if shape.dashed else ""
        return f'<polyline points="{points}" fill="none" stroke="{shape.colour}" stroke-width="{shape.width}"{dashes}/>'
    if isinstance(shape, Dot):
        return f'<circle cx="{shape.x:.1f}" cy="{shape.y:.1f}" r="{shape.radius}" fill="{shape.colour}"/>'
    return (
        f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" dy="0.35em" fill="{shape.colour}" '
        f'text-anchor="{_ANCHORS[shape.anchor]}">{escape(shape.text)}</text>'
    )
