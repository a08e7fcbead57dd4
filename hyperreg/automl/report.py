"""What a search tells its user at the end: one HTML page with plots, without anything from the network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hyperreg.automl.ledger import Record
from hyperreg.automl.space import Configuration
from hyperreg.imaging.output import replacing
from hyperreg.nets.searched import STEM

COLOURS = {"residual": "#4c72b0", "bottleneck": "#55a868", "axial_attention": "#c44e52"}
# So many networks are drawn.
DRAWN = 3

CAVEAT = (
    "Scores are Dice of probabilities near the structures of held-out cases, which the search chose by: elsewhere "
    "the network will do worse."
)
STYLE = "body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
STYLE += "td,th{padding:.2em .7em;border-bottom:1px solid #ccc;text-align:left}img{max-width:100%}"


def write_html(
    path: Path,
    name: str,
    records: Sequence[Record],
    winner: Record,
    seconds: float,
    ranks: Sequence[tuple[float, float]],
) -> None:
    """Write the page: the best configuration, progress, the predictor's rank curve, networks, time, failed trials.

    ranks: see `proposing.held_out_ranks`. Raises FileError.
    """
    done = [record for record in records if record.score is not None]
    top = sorted((r for r in done if r.steps == winner.steps), key=lambda r: -(r.score or 0.0))[:DRAWN]
    amount = f"{len(done)} runs of {len({r.key for r in done})} configurations in {seconds / 60:.1f} min."
    parts = [
        f"<h1>Search for a network: {html.escape(name)}</h1>",
        f"<p>{amount} {CAVEAT}</p>",
        "<h2>Best configuration</h2>", _table(winner),
        "<h2>Progress</h2>", _image(progress_figure(done)),
        "<h2>Predictor</h2>",
        _image(rank_figure(ranks)) if ranks else "<p>Too few runs to judge the predictor by runs it did not see.</p>",
        "<h2>Best networks</h2>", _image(network_figure([r.configuration for r in top])),
        "<h2>Time</h2>", _times(records), _failures(records),
    ]  # fmt: skip
    page = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(name)}</title>'
    page += f"<style>{STYLE}</style>{''.join(parts)}</html>\n"
    with replacing(path) as target:
        target.write_text(page, encoding="utf-8")


def progress_figure(records: Sequence[Record]) -> Figure:
    """Every run's score, by the CPU time spent until then, and the best so far; a colour for each number of steps."""
    figure = Figure(figsize=(7, 3.2), layout="constrained")
    axes = figure.subplots()
    spent = np.cumsum(costs(records))
    scores = np.array([record.score or 0.0 for record in records])
    steps = np.array([record.steps for record in records])
    for value in np.unique(steps):
        axes.plot(spent[steps == value], scores[steps == value], "o", ms=3, label=f"{value} steps")
    if len(scores):
        axes.step(spent, np.maximum.accumulate(scores), where="post", color="black", lw=1, label="best so far")
    axes.set(xlabel="CPU time of trials, s", ylabel="Score")
    axes.legend(frameon=False, fontsize=8)
    return figure


def costs(records: Sequence[Record]) -> list[float]:
    """CPU-s of each run alone: a trial that was taken further counts what came on top."""
    before: dict[str, float] = {}
    found = []
    for record in records:
        found.append(max(0.0, record.cpu_s - before.get(record.key, 0.0)))
        before[record.key] = record.cpu_s
    return found


def rank_figure(ranks: Sequence[tuple[float, float]]) -> Figure:
    """Predicted share of wins against the score reached, for runs that the predictor did not learn from."""
    figure = Figure(figsize=(4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(*zip(*ranks, strict=True), "o", ms=4)
    axes.set(xlabel="Predicted share of wins", ylabel="Score reached", xlim=(-0.05, 1.05))
    return figure


def network_figure(configurations: Sequence[Configuration]) -> Figure:
    """Each network as a graph: blocks from left to right, finer levels above, lines to the blocks they take."""
    count = max(1, len(configurations))
    figure = Figure(figsize=(8, 2.2 * count), layout="constrained")
    for axes, configuration in zip(figure.subplots(count, squeeze=False)[:, 0], configurations, strict=False):
        _draw(axes, configuration)
    return figure


def _draw(axes: Axes, configuration: Configuration) -> None:
    places = {STEM: (-1.0, 0.0), **{n: (float(n), -float(b.level)) for n, b in enumerate(configuration.blocks)}}
    end = (float(len(configuration.blocks)), 0.0)
    for number, block in enumerate(configuration.blocks):
        for source in set(block.inputs):
            _line(axes, places[source], places[number])
    _line(axes, places[len(configuration.blocks) - 1], end)
    for number, block in enumerate(configuration.blocks):
        word = block.type.split("_", maxsplit=1)[0]
        axes.text(*places[number], word, ha="center", va="center", fontsize=7, color="white",
                  bbox={"boxstyle": "round", "fc": COLOURS[block.type], "ec": "none"})  # fmt: skip
    for place, word in ((places[STEM], "stem"), (end, "head")):
        axes.text(*place, word, ha="center", va="center", fontsize=7, bbox={"boxstyle": "round", "fc": "#ddd"})
    axes.set(xlim=(-1.6, end[0] + 0.6), ylim=(-3.6, 0.8), yticks=[0, -1, -2, -3], xticks=[])
    axes.set_yticklabels(["level 0", "1", "2", "3"], fontsize=7)
    on = ", ".join(configuration.augmentations) or "none"
    title = f"learning rate {configuration.learning_rate:g}, loss {configuration.loss}, augmentations: {on}"
    axes.set_title(title, fontsize=8)
    axes.spines[:].set_visible(False)


def _line(axes: Axes, one: tuple[float, float], two: tuple[float, float]) -> None:
    arrow = {"arrowstyle": "-|>", "color": "#888", "connectionstyle": "arc3,rad=-0.15", "shrinkA": 8, "shrinkB": 10}
    axes.annotate("", two, one, arrowprops=arrow)


def _image(figure: Figure) -> str:
    with io.BytesIO() as file:
        figure.savefig(file, format="png", dpi=110)
        return f'<img alt="" src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _table(record: Record) -> str:
    configuration = record.configuration
    rows = {
        "Score, Dice": f"{record.score or 0:.3f}, {record.dice or 0:.3f} after {record.steps} steps",
        "Proposed by": record.source,
        "Learning rate": f"{configuration.learning_rate:g}",
        "Loss": configuration.loss,
        "Augmentations": ", ".join(configuration.augmentations) or "none",
        "Blocks": "; ".join(
            f"{n}: {b.type}, level {b.level}, takes {b.inputs}" for n, b in enumerate(configuration.blocks)
        ),
    }
    cells = (f"<tr><th>{html.escape(key)}</th><td>{html.escape(value)}</td></tr>" for key, value in rows.items())
    return f"<table>{''.join(cells)}</table>"


def _times(records: Sequence[Record]) -> str:
    spent: dict[tuple[str, int], list[float]] = {}
    for record, cost in zip(records, costs(records), strict=True):
        spent.setdefault((record.source, record.steps), []).append(cost)
    rows = "".join(
        f"<tr><td>{html.escape(source)}</td><td>{steps}</td><td>{len(each)}</td><td>{sum(each):.0f}</td></tr>"
        for (source, steps), each in spent.items()
    )
    return f"<table><tr><th>Proposed by</th><th>Steps</th><th>Runs</th><th>CPU-s</th></tr>{rows}</table>"


def _failures(records: Sequence[Record]) -> str:
    reasons = [record.reason for record in records if record.score is None]
    if not reasons:
        return ""
    items = "".join(f"<li>{reasons.count(r)}: {html.escape(r)}</li>" for r in sorted(set(reasons)))
    return f"<h2>Failed runs</h2><p>They count for nothing, neither as good nor as bad.</p><ul>{items}</ul>"
