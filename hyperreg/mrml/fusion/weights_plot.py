"""The picture of label maps' weights, and of data parameters over the steps: what to draw where."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hyperreg.mrml.shapes import Line, Shape, Text

# Pixels. Names stand left of the bars, shares right of them.
LEFT, RIGHT, BAR, PAD = 112.0, 52.0, 15.0, 4.0
COURSE, AXIS, TITLE = 92.0, 18.0, 18.0
# More bars than this say nothing any more.
BARS = 24
NAME_LETTERS = 17
# Readable on a white and on a dark panel; a bar has the colour of its line.
COLOURS = ("#3d8fe0", "#e08a2c", "#2fa35a", "#d9544f", "#a26fd0", "#a3763f", "#d76cb0", "#8a8f98", "#a9a832", "#25a7b8")


@dataclass(frozen=True)
class Course:
    """Data parameters while they were learned. steps: when they were noted; wanted: steps in all.

    values: per label map, one for each of `steps`; larger: the better label map.
    """

    steps: Sequence[int] = ()
    wanted: int = 0
    values: Mapping[str, Sequence[float]] = field(default_factory=dict)


def draw(weights: Mapping[str, float], course: Course, width: float, ink: str) -> tuple[int, list[Shape]]:
    """Height and shapes. weights: per label map, 0 to 1. ink: colour of text, readable on the background."""
    colours = {name: COLOURS[number % len(COLOURS)] for number, name in enumerate(weights)}
    ordered = sorted(weights, key=lambda name: -weights[name])
    most = max(weights.values(), default=0.0) or 1.0
    room = width - LEFT - RIGHT
    shapes: list[Shape] = [Text(PAD, TITLE / 2, "Weight in the consensus", ink)]
    y = TITLE
    for name in ordered[:BARS]:
        middle, end = y + BAR / 2, LEFT + max(1.0, room * weights[name] / most)
        shapes += [
            Text(PAD, middle, _short(name), ink),
            Line(((LEFT, middle), (end, middle)), colours[name], BAR - 5),
            Text(end + 5, middle, f"{100 * weights[name]:.1f} %", ink),
        ]
        y += BAR
    if len(ordered) > BARS:
        shapes.append(Text(PAD, y + BAR / 2, f"and {len(ordered) - BARS} more", ink))
        y += BAR
    if course.steps:
        shapes += _course(course, colours, y + PAD, width, ink)
        y += PAD + TITLE + COURSE + AXIS
    return round(y + PAD), shapes


def _course(course: Course, colours: Mapping[str, str], top: float, width: float, ink: str) -> list[Shape]:
    left, right = 40.0, width - 12.0
    upper, lower = top + TITLE, top + TITLE + COURSE
    lines = {name: [0.0, *values] for name, values in course.values.items()}
    low, high = min(map(min, lines.values())), max(map(max, lines.values()))
    span = (high - low) or 1.0
    last = max(course.wanted, course.steps[-1])

    def place(step: float, value: float) -> tuple[float, float]:
        return left + (right - left) * step / last, lower - 6 - (value - low) / span * (COURSE - 12)

    shapes: list[Shape] = [
        Text(PAD, top + TITLE / 2, "Data parameters (higher: the better label map)", ink),
        Line(((left, lower), (right, lower)), ink),
        Line(((left, upper), (left, lower)), ink),
        Text(left - 4, place(0, low)[1], f"{low:.2g}", ink, "right"),
        Text(left - 4, place(0, high)[1], f"{high:.2g}", ink, "right"),
        Text(left, lower + AXIS / 2, "0", ink, "middle"),
        Text(right, lower + AXIS / 2, f"step {last}", ink, "right"),
    ]
    for name, values in lines.items():
        points = tuple(place(step, value) for step, value in zip([0, *course.steps], values, strict=True))
        shapes.append(Line(points, colours.get(name, ink), 1.6))
    return shapes


def _short(name: str) -> str:
    return name if len(name) <= NAME_LETTERS else f"{name[: NAME_LETTERS - 1]}…"
