"""The picture of a λ response: what to draw where. No Qt and no MRML: the module paints it, the browser app writes SVG.

One strip per measure, above each other over one λ axis: measures have different units, and one axis of values for all
of them would hide what matters, where each is best.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hyperreg.mrml.shapes import Anchor, Dot, Line, Shape, Text
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion

# Pixels. Names stand left of the strips, their values right of them.
LEFT, RIGHT, TOP = 74.0, 60.0, 16.0
STRIP, GAP, AXIS = 40.0, 9.0, 20.0
# A click this near to a suggested or measured λ means it.
SNAP_PIXELS = 5.0
SIMILARITY_COLOUR, DICE_COLOUR, FOLDING_COLOUR = "#3d8fe0", "#2fa35a", "#d9544f"
LANDMARKS_COLOUR, VOLUME_COLOUR = "#a26fd0", "#1fa7a0"
SUGGESTED_COLOUR = "#e39a1f"


@dataclass(frozen=True)
class _Measure:
    """column: of the response. least_span: smaller differences than this are not blown up to the whole strip.

    low: the column of a second curve below the first, where a measure is a range; "" for none.
    """

    column: str
    name: str
    colour: str
    form: str
    least_span: float
    from_zero: bool = False
    low: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column, self.low) if self.low else (self.column,)

    def text(self, values: Mapping[str, Any]) -> str:
        """The numbers of one λ; "" if one is missing."""
        known = [values.get(column) for column in reversed(self.columns)]
        if any(value is None or not math.isfinite(value) for value in known):
            return ""
        return self.form.format(known[-1]) if len(known) == 1 else f"{known[0]:+.0f}…{self.form.format(known[1])}"


MEASURES = (
    _Measure("similarity", "Similarity", SIMILARITY_COLOUR, "{:.3f}", 0.02),
    _Measure("dice_mean", "Dice", DICE_COLOUR, "{:.3f}", 0.02),
    _Measure("landmarks_mm", "Landmarks", LANDMARKS_COLOUR, "{:.2f} mm", 0.5),
    # The price: how much the deformation squeezes and stretches, and where it tears.
    _Measure("volume_change_high_percent", "Volume", VOLUME_COLOUR, "{:+.0f} %", 10.0, low="volume_change_low_percent"),
    _Measure("folding_percent", "Folding", FOLDING_COLOUR, "{:.2f} %", 0.05, from_zero=True),
)


def height(response: Response) -> int:
    """Of the picture of this response, pixels."""
    strips = max(2, len(_known(response)))
    return round(TOP + strips * STRIP + (strips - 1) * GAP + AXIS)


def x_of(lam: float, width: float) -> float:
    """Where a λ is."""
    return LEFT + lam * (width - LEFT - RIGHT)


def lambda_at(x: float, width: float, response: Response, suggestion: Suggestion | None = None) -> float:
    """The λ that a click means, 0 to 1: a suggested or measured one if that is near, else in steps of 0.01."""
    lam = min(1.0, max(0.0, (x - LEFT) / max(1.0, width - LEFT - RIGHT)))
    wanted = [*([suggestion.lam] if suggestion is not None else []), *response.lambdas]
    near = [other for other in wanted if abs(x_of(other, width) - x_of(lam, width)) <= SNAP_PIXELS]
    return near[0] if near else round(lam, 2)


def draw(
    response: Response,
    suggestion: Suggestion | None,
    lam: float,
    width: float,
    ink: str,
    metrics: Mapping[str, Any] | None = None,
) -> list[Shape]:
    """The picture. lam: where the slider is. ink: colour of the text, "#rrggbb"; readable on the background.

    metrics: of exactly what the views show: those numbers stand under the measures' names; none before they are there.
    """
    known = _known(response)
    bottom = height(response) - AXIS
    middle = (x_of(0, width) + x_of(1, width)) / 2
    shapes: list[Shape] = []
    for tick in (0.0, 0.25, 0.5, 0.75, 1.0):
        x = x_of(tick, width)
        shapes += [Line(((x, bottom), (x, bottom + 4)), ink), Text(x, bottom + 12, f"{tick:g}", ink, "middle")]
    shapes += [Line(((x_of(0, width), bottom), (x_of(1, width), bottom)), ink), Text(4, bottom + 12, "λ", ink)]
    if not known:
        return [*shapes, Text(middle, (TOP + bottom) / 2, "Measuring ...", ink, "middle")]
    for number, measure in enumerate(known):
        shapes += _strip(response, measure, TOP + number * (STRIP + GAP), width, ink, metrics or {})
    shapes.append(Line(((x_of(lam, width), TOP), (x_of(lam, width), bottom)), ink, 1.5))
    if suggestion is not None:
        x = x_of(suggestion.lam, width)
        shapes.append(Line(((x, TOP), (x, bottom)), SUGGESTED_COLOUR, 2, dashed=True))
        text = f"suggested {suggestion.lam:.2f}"
        anchor: Anchor = "left" if suggestion.lam < 0.2 else "right" if suggestion.lam > 0.8 else "middle"
        shapes.append(Text(x, TOP / 2, text, SUGGESTED_COLOUR, anchor))
    else:
        measured = sum(any(abs(row - plan) < 1e-6 for row in response.lambdas) for plan in RESPONSE_LAMBDAS)
        text = f"measuring: {measured} of {len(RESPONSE_LAMBDAS)}"
        shapes.append(Text(middle, TOP / 2, text, ink, "middle"))
    return shapes


def _known(response: Response) -> list[_Measure]:
    return [measure for measure in MEASURES if all(map(response.knows, measure.columns))]


def _strip(
    response: Response, measure: _Measure, top: float, width: float, ink: str, metrics: Mapping[str, Any]
) -> list[Shape]:
    curves = [response.column(column) for column in measure.columns]
    values = [value for curve in curves for value in curve]
    low, high = min(values), max(values)
    if measure.from_zero:
        low = 0.0
    spare = max(0.0, measure.least_span - (high - low))
    low, high = low - (0.0 if measure.from_zero else spare / 2), high + (spare if measure.from_zero else spare / 2)
    inset = 4.0  # so that the extremes do not lie on the neighbours' edge

    def y_of(value: float) -> float:
        return top + STRIP - inset - (value - low) / (high - low) * (STRIP - 2 * inset)

    places = [x_of(lam, width) for lam in response.lambdas]
    left, right = x_of(0, width), x_of(1, width)
    shapes: list[Shape] = [
        Line(((left, top + STRIP), (right, top + STRIP)), ink, 0.3),
        Text(4, top + STRIP / 2 - 7, measure.name, measure.colour),
        *(Line(tuple(zip(places, map(y_of, curve), strict=True)), measure.colour, 2) for curve in curves),
        *(Dot(x, y_of(y), 2.2, measure.colour) for curve in curves for x, y in zip(places, curve, strict=True)),
        Text(right + 6, y_of(max(values)), measure.form.format(max(values)), measure.colour),
    ]
    if now := measure.text(metrics):
        shapes.append(Text(4, top + STRIP / 2 + 8, now, ink))
    if y_of(min(values)) - y_of(max(values)) >= 14:
        shapes.append(Text(right + 6, y_of(min(values)), measure.form.format(min(values)), measure.colour))
    return shapes
