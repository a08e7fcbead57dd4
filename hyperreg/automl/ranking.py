"""From predictions about pairs to an order of many configurations; how good predictions are; how large the noise is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from hyperreg.automl.predictor import Floats, Predictor
from hyperreg.automl.space import Configuration

# Of thousands, so many are compared with each other; the others with a panel of so many alone.
FINALISTS = 64
PANEL = 8


def copeland(probabilities: Floats) -> Floats:
    """The Copeland score of each of n configurations: predicted wins against the others, a tie counts half.

    probabilities: (n, n), P(row is better than column). The diagonal is not looked at.
    """
    wins = np.where(probabilities > 0.5, 1.0, np.where(probabilities == 0.5, 0.5, 0.0))
    np.fill_diagonal(wins, 0.0)
    found: Floats = wins.sum(1)
    return found


def rank(predictor: Predictor, candidates: Sequence[Configuration]) -> list[int]:
    """The best first: numbers of at most FINALISTS of the candidates.

    All pairs of 10,000 are too many. Every candidate is compared with a panel of candidates (the first ones); those
    with the largest sum of probabilities are compared with each other and ordered by Copeland score.
    """
    panel = candidates[:PANEL]
    against = predictor.probability(candidates, panel).sum(1)
    finalists = [int(n) for n in np.argsort(-against, kind="stable")[:FINALISTS]]
    chosen = [candidates[n] for n in finalists]
    mutual = predictor.probability(chosen, chosen)
    # Ties in wins are broken by how clear the wins are.
    keys = copeland(mutual) + mutual.sum(1) / (10 * len(chosen))
    return [finalists[int(n)] for n in np.argsort(-keys, kind="stable")]


def seed_noise(repeats: Sequence[Sequence[float]]) -> float:
    """SD of the difference of two runs that differ in their seed alone, from groups of such runs; 0 without any.

    Pooled within the groups: sqrt(2 sum of squares / degrees of freedom).
    """
    groups = [np.asarray(group, float) for group in repeats if len(group) > 1]
    degrees = sum(len(group) - 1 for group in groups)
    if not degrees:
        return 0.0
    return math.sqrt(2 * sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / degrees)


def pair_accuracy(probabilities: Floats, scores: Sequence[float], noise: float, weights: Floats | None = None) -> float:
    """The share of pairs outside the noise whose order was predicted; a probability of one half is half right.

    probabilities: (n, n). weights: of the configurations; a pair has the product. NaN without such pairs.
    """
    values = np.asarray(scores, float)
    better = values[:, None] - values[None] > noise
    right = np.where(probabilities > 0.5, 1.0, np.where(probabilities == 0.5, 0.5, 0.0))
    weight = np.ones(len(values)) if weights is None else weights
    each = better * np.outer(weight, weight)
    total = float(each.sum())
    return float((each * right).sum() / total) if total else math.nan


def kendall_tau(one: Sequence[float] | Floats, two: Sequence[float] | Floats) -> float:
    """Kendall's tau-b of two series of values, which allows for ties; NaN if one of them is constant."""
    a, b = (np.sign(np.subtract.outer(np.asarray(v, float), np.asarray(v, float))) for v in (one, two))
    scale = math.sqrt(float((a**2).sum()) * float((b**2).sum()))
    return float((a * b).sum() / scale) if scale else math.nan


def bootstrap(
    folds: Sequence[tuple[Floats, Sequence[float]]], noise: float, draws: int = 1000, seed: int = 0
) -> Mapping[str, tuple[float, float, float]]:
    """Pair accuracy and tau over held-out folds, each with its 95 % interval: {"accuracy": (value, low, high), "tau"}.

    folds: of each, probabilities (n, n) and true scores. Configurations are drawn with replacement, within their folds;
    pairs are not independent, so that drawing them would make the intervals far too narrow.
    """
    random = np.random.default_rng(seed)
    value = _figures(folds, noise, [np.ones(len(scores)) for _, scores in folds])
    drawn = []
    for _ in range(draws):
        counts = [np.bincount(random.integers(0, len(s), len(s)), minlength=len(s)).astype(float) for _, s in folds]
        drawn.append(_figures(folds, noise, counts))
    found = {}
    for n, name in enumerate(("accuracy", "tau")):
        finite = [figures[n] for figures in drawn if math.isfinite(figures[n])]
        low, high = np.percentile(finite, [2.5, 97.5]) if finite else (math.nan, math.nan)
        found[name] = (float(value[n]), float(low), float(high))
    return found


def _figures(
    folds: Sequence[tuple[Floats, Sequence[float]]], noise: float, weights: Sequence[Floats]
) -> tuple[float, float]:
    """Accuracy over the pairs of all folds; the mean tau of the folds."""
    right = total = 0.0
    taus = []
    for (probabilities, scores), weight in zip(folds, weights, strict=True):
        values = np.asarray(scores, float)
        pairs = ((values[:, None] - values[None] > noise) * np.outer(weight, weight)).sum()
        if pairs:
            right += pair_accuracy(probabilities, scores, noise, weight) * float(pairs)
            total += float(pairs)
        chosen = np.repeat(np.arange(len(values)), weight.astype(int))
        taus.append(kendall_tau(copeland(probabilities)[chosen], values[chosen]))
    return right / total if total else math.nan, float(np.nanmean(taus)) if np.isfinite(taus).any() else math.nan
