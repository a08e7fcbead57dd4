"""How fast the browser app follows the mouse: from a move of λ's slider to changed pictures, and pictures a second.

The app runs as for a user, in Chromium without a GPU. What is measured is seen from the page: the time from the
browser's own event to the moment at which a view has another picture, decoded and ready to be painted.
"""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.readme import BENCHMARKS, replace_section

MOVES, DRAG_S = 30, 4.0
# Between two moves, ms: everything that belongs to one has come.
PAUSE_MS = 1500
SLIDER = ".hyperreg-lambda-slider"
# Quick results of every λ are there, and full resolution, which would go on for minutes, comes when asked for.
SETTLED = "window.trame.state.get('suggested') !== '' && window.trame.state.get('work_text') === ''"
LISTEN = """() => {
  window.seen = []; window.moved = 0;
  addEventListener("mousemove", () => { window.moved = performance.now(); }, true);
  document.querySelectorAll(".layout-grid-item img").forEach((image, view) =>
    image.addEventListener("load", () => window.seen.push([view, performance.now()])));
}"""


def moves(page: Any) -> dict[str, list[float]]:
    """ms from each move of the slider to the first view's new picture, and to that of the last of the three slices."""
    first, last = [], []
    for number in range(MOVES):
        page.evaluate("window.seen = []")
        page.mouse.move(*_place(page, 0.2 + 0.6 * (number * 7 % MOVES) / MOVES))
        page.wait_for_timeout(PAUSE_MS)
        moved, seen = page.evaluate("[window.moved, window.seen]")
        by_view = {view: time - moved for view, time in reversed(seen)}
        if by_view:
            first.append(min(by_view.values()))
            last.append(max(by_view.values()))
    return {"first": first, "last": last}


def drag(page: Any) -> float:
    """Pictures a second of one view while the slider is dragged to and fro."""
    page.evaluate("window.seen = []")
    started = page.evaluate("performance.now()")
    step = 0
    while page.evaluate("performance.now()") - started < 1000 * DRAG_S:
        step += 1
        page.mouse.move(*_place(page, 0.2 + 0.6 * abs((step % 80) / 40 - 1)))
        page.wait_for_timeout(15)
    seen = page.evaluate("window.seen")
    return max(sum(view == other for other, _ in seen) for view in {view for view, _ in seen}) / DRAG_S


def _place(page: Any, share: float) -> tuple[float, float]:
    box = page.locator(f"{SLIDER} .v-slider-track").bounding_box()
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def measure(fixed: Path | None, moving: Path | None) -> dict[str, Any]:
    """The app on a pair, or on the sample pair."""
    from Testing.Host.app_page import app_page

    with app_page(*(path for path in (fixed, moving) if path is not None)) as page:
        page.click(".hyperreg-register")
        page.wait_for_function("window.trame.state.get('phase') === 'live' && window.trame.state.get('fresh')")
        page.click(".hyperreg-full-automatically input")
        page.wait_for_function(SETTLED)
        page.wait_for_timeout(2 * PAUSE_MS)
        page.evaluate(LISTEN)
        page.mouse.move(*_place(page, 0.2))
        page.mouse.down()
        found = moves(page)
        rate = drag(page)
        page.mouse.up()
    return {**found, "rate": rate}


def table(found: dict[str, Any]) -> str:
    """Markdown."""
    lines = ["| browser app, λ moved by the mouse | measured | goal |", "|---|---|---|"]
    for title, values in (("first changed view", found["first"]), ("all three slices", found["last"])):
        middle, high = statistics.median(values), statistics.quantiles(values, n=20)[-1]
        lines.append(f"| {title}, ms (median; 95 %) | {middle:.0f}; {high:.0f} | {'120' if 'first' in title else ''} |")
    return "\n".join([*lines, f"| pictures a second of a view, fast drag | {found['rate']:.1f} | 10 |"])


def command(
    fixed: Annotated[Path | None, typer.Argument(help="The sample pair if not given.")] = None,
    moving: Annotated[Path | None, typer.Argument()] = None,
    readme: Annotated[bool, typer.Option("--readme", help="Also replace the table in docs/benchmarks.")] = False,
) -> None:
    """How fast the browser app follows the mouse."""
    text = table(measure(fixed, moving))
    typer.echo(text)
    if readme:
        replace_section(BENCHMARKS, "app-latency", text)
