"""What to train next: the predictor learns from the runs so far, and orders thousands of random configurations."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from hyperreg.automl.ledger import Record
from hyperreg.automl.predictor import PairTransformer
from hyperreg.automl.ranking import copeland, rank, seed_noise
from hyperreg.automl.space import Configuration, RandomChooser, draw, from_json
from hyperreg.errors import FileError
from hyperreg.imaging.output import replacing
from hyperreg.reporting import Cancel

# A rung with fewer runs says nothing about which configurations are good.
FEWEST = 6
# Share of the runs that the predictor is judged by, in the report.
JUDGED = 0.25


def by_budget(records: Sequence[Record]) -> dict[int, list[Record]]:
    """Runs that were measured, by steps: only those of one budget can be compared."""
    found = defaultdict(list)
    for record in records:
        if record.score is not None:
            found[record.steps].append(record)
    return dict(found)


def noise_of(records: Sequence[Record]) -> float:
    """SD of the difference between runs that differ in their seed alone; 0 if none do."""
    groups = defaultdict(list)
    for record in records:
        if record.score is not None:
            groups[record.configuration, record.steps].append(record.score)
    return seed_noise(list(groups.values()))


def propose(
    records: Sequence[Record],
    candidates: int,
    count: int,
    seed: int,
    fits: Callable[[Configuration], bool],
    cancelled: Cancel | None = None,
) -> list[Configuration]:
    """The `count` best of `candidates` random configurations, none of them tried, as a predictor of the runs says.

    It learns from the rung with the most runs: the first, as halving goes. With too few, the candidates are random.
    """
    chooser = RandomChooser(seed)
    tried = {record.configuration for record in records}
    drawn = [made for made in (draw(chooser) for _ in range(candidates)) if made not in tried]
    drawn = list(dict.fromkeys(drawn))
    order: Sequence[int] = range(len(drawn))
    runs = max(by_budget(records).values(), key=len, default=[])
    noise = noise_of(records)
    scores = [record.score or 0.0 for record in runs]
    if len(runs) >= FEWEST and max(scores) - min(scores) > noise:
        predictor = PairTransformer(cancelled=cancelled)
        predictor.fit([record.configuration for record in runs], scores, noise)
        order = rank(predictor, drawn)
    chosen: list[Configuration] = []
    for number in order:
        if len(chosen) == count:
            break
        if fits(drawn[number]):
            chosen.append(drawn[number])
    return chosen


def held_out_ranks(records: Sequence[Record], seed: int) -> list[tuple[float, float]]:
    """(predicted share of wins, score) of runs that a predictor did not learn from; empty with too few runs."""
    runs = max(by_budget(records).values(), key=len, default=[])
    count = round(JUDGED * len(runs))
    if count < 3 or len(runs) - count < FEWEST:
        return []
    order = np.random.default_rng(seed).permutation(len(runs))
    judged, learned = ([runs[int(n)] for n in part] for part in (order[:count], order[count:]))
    scores = [record.score or 0.0 for record in learned]
    noise = noise_of(records)
    if max(scores) - min(scores) <= noise:
        return []
    predictor = PairTransformer()
    predictor.fit([record.configuration for record in learned], scores, noise)
    chosen = [record.configuration for record in judged]
    wins = copeland(predictor.probability(chosen, chosen)) / (len(chosen) - 1)
    return [(float(win), record.score or 0.0) for win, record in zip(wins, judged, strict=True)]


def write(configurations: Sequence[Configuration], path: Path) -> None:
    """Write configurations as JSON. Raises FileError."""
    with replacing(path) as target:
        target.write_text(json.dumps([made.to_json() for made in configurations]) + "\n", encoding="utf-8")


def read(path: Path) -> list[Configuration]:
    """Read what `write` wrote. Raises FileError."""
    try:
        return [from_json(entry) for entry in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileError(f"The proposals in '{path}' cannot be read ({error}); delete the file and resume.") from error
