"""How well the bundled model registers real pairs, over lambda, against the linear alignment that it starts from."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.pairs import OASIS_PAIRS, RealPair, check_data, lung, oasis
from hyperreg.imaging.transform import Transform
from hyperreg.registration.session import LiveSession

LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


@dataclass(frozen=True)
class Row:
    """One pair at one lambda; lam is None for the linear alignment alone. NaN: this pair has no such truth."""

    pair: str
    lam: float | None
    dice: float
    tre_mm: float
    similarity: float
    folding_percent: float
    roughness: float
    displacement_max_mm: float


def target_error(transform: Transform, pair: RealPair) -> float:
    """Mean distance between the mapped fixed landmarks and the moving ones, mm; NaN without landmarks."""
    if pair.fixed_points is None or pair.moving_points is None:
        return float("nan")
    distances: npt.NDArray[np.float64] = np.linalg.norm(transform.apply(pair.fixed_points) - pair.moving_points, axis=1)
    return float(distances.mean())


def measure(pair: RealPair, model: str, lambdas: Sequence[float], initial: str = "affine") -> Iterator[Row]:
    """The linear alignment first, then every lambda."""
    session = LiveSession(model)
    session.prepare(
        pair.fixed, pair.moving, initial=initial, fixed_labels=pair.fixed_labels, moving_labels=pair.moving_labels
    )
    first = True
    for lam in lambdas:
        figures = session.metrics(lam)
        if first:
            before = float(figures.get("dice_mean_before", np.nan))  # type: ignore[arg-type]
            error = target_error(Transform((session.linear,)), pair)
            yield Row(pair.name, None, before, error, float(figures["similarity_before"]), 0.0, 0.0, 0.0)  # type: ignore[arg-type]
            first = False
        yield Row(
            pair.name,
            lam,
            float(figures.get("dice_mean", np.nan)),  # type: ignore[arg-type]
            target_error(session.transform(lam), pair),
            *(float(figures[n]) for n in ("similarity", "folding_percent", "roughness", "displacement_max_mm")),  # type: ignore[arg-type]
        )


def run(model: str, output: Path, oasis_pairs: int = len(OASIS_PAIRS)) -> list[Row]:
    """Measure every pair and write `quality.csv` into `output`. Raises FileError without the real data."""
    check_data()
    rows: list[Row] = []
    for names in OASIS_PAIRS[:oasis_pairs]:
        rows += measure(oasis(*names), model, LAMBDAS)
    rows += measure(lung(), model, LAMBDAS)
    output.mkdir(parents=True, exist_ok=True)
    with (output / "quality.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(asdict(rows[0])))
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
    return rows


def summarise(rows: Sequence[Row]) -> list[dict[str, float | None]]:
    """Means over the OASIS pairs (Dice and the rest) and the lung pair's landmark error, a dictionary per lambda."""
    table = []
    for lam in dict.fromkeys(row.lam for row in rows):
        brains = [row for row in rows if row.lam == lam and not np.isnan(row.dice)]
        lungs = [row for row in rows if row.lam == lam and not np.isnan(row.tre_mm)]
        table.append(
            {
                "lam": lam,
                "dice": float(np.mean([row.dice for row in brains])),
                "folding_percent": float(np.mean([row.folding_percent for row in brains])),
                "roughness": float(np.mean([row.roughness for row in brains])),
                "similarity": float(np.mean([row.similarity for row in brains])),
                "tre_mm": float(np.mean([row.tre_mm for row in lungs])),
            }
        )
    return table
