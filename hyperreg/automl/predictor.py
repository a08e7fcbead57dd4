"""Which of two configurations trains better: a transformer over their vectors, and simpler ways to compare with it.

Source: Yang et al., T-AutoML, ICCV 2021, for the transformer over a pair. Its sizes are not published; ours are small,
as there are a hundred configurations to learn from at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hyperreg.automl.encoding import FIELDS, VOCABULARY, Encoding, encode, token
from hyperreg.automl.space import AUGMENTATIONS, LEARNING_RATES, LOSSES, MOST_BLOCKS, TYPES, Configuration
from hyperreg.errors import Cancelled, InputError
from hyperreg.nets.searched import LEVELS
from hyperreg.reporting import Cancel

Floats = npt.NDArray[np.float64]
PAIRS_AT_ONCE = 1024


class Predictor(Protocol):
    """What orders configurations: learned from some that were trained, asked about others."""

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        """Learn from scores of one budget; pairs whose scores differ by no more than `noise` say nothing."""

    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        """P(first is better), (len(first), len(second))."""


def pairs_of(scores: Sequence[float], noise: float) -> list[tuple[int, int]]:
    """Ordered pairs (better, worse) whose scores differ by more than `noise`."""
    count = len(scores)
    return [(i, j) for i in range(count) for j in range(count) if scores[i] - scores[j] > noise]


class Majority:
    """Every answer the same: right for exactly half of all pairs, as both orders are asked about."""

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        """Learn nothing."""

    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        return np.full((len(first), len(second)), 0.5)


class Ridge:
    """Ridge regression of the score on counts and switches. strength: of the penalty, for standardised features."""

    def __init__(self, strength: float = 10.0, features: Callable[[Configuration], list[float]] | None = None) -> None:
        self.strength = strength
        self.features = features or all_features

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        del noise
        x, y = np.array([self.features(c) for c in configurations]), np.asarray(scores, float)
        self._mean, self._sd = x.mean(0), x.std(0) + 1e-9
        z = (x - self._mean) / self._sd
        self._weights = np.linalg.solve(z.T @ z + self.strength * np.eye(z.shape[1]), z.T @ (y - y.mean()))
        residual = y - y.mean() - z @ self._weights
        self._spread = float(residual.std()) + 1e-9

    def scores(self, configurations: Sequence[Configuration]) -> Floats:
        x = np.array([self.features(c) for c in configurations])
        found: Floats = (x - self._mean) / self._sd @ self._weights
        return found

    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        difference = self.scores(first)[:, None] - self.scores(second)[None]
        return _logistic(difference / self._spread)


def rate_features(configuration: Configuration) -> list[float]:
    """The learning rate alone: what a search would have to beat to be worth it."""
    return [float(configuration.learning_rate == rate) for rate in LEARNING_RATES]


def all_features(configuration: Configuration) -> list[float]:
    """Switches of augmentations, rate and loss; how many blocks there are of each type and level; skips; depth."""
    blocks = configuration.blocks
    return [
        *rate_features(configuration),
        *(float(configuration.loss == loss) for loss in LOSSES),
        *(float(name in configuration.augmentations) for name in AUGMENTATIONS),
        float(len(blocks)),
        *(float(sum(b.type == kind for b in blocks)) for kind in TYPES),
        *(float(sum(b.level == level for b in blocks)) for level in range(LEVELS)),
        float(blocks[-1].level),
        float(sum(len(set(b.inputs)) for b in blocks)),
    ]


@dataclass(frozen=True)
class TransformerSettings:
    """Sizes and training of the transformers. epochs: over all pairs in both orders, at most `pairs_per_epoch`."""

    width: int = 32
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    epochs: int = 12
    pairs_per_epoch: int = 2000
    batch: int = 64
    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    seed: int = 0


class _Trunk(nn.Module):
    """Tokens with embeddings of value, field, block and side to one vector, (B, width)."""

    def __init__(self, settings: TransformerSettings) -> None:
        super().__init__()
        width = settings.width
        # Behind the values: the beginning, the separator, padding.
        self.values = nn.Embedding(VOCABULARY + 3, width, padding_idx=VOCABULARY + 2)
        self.fields = nn.Embedding(len(FIELDS) + 1, width)
        self.places = nn.Embedding(MOST_BLOCKS + 2, width)
        self.sides = nn.Embedding(2, width)
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 2 * width, settings.dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1))
        for embedding in (self.values, self.fields, self.places, self.sides):
            nn.init.normal_(embedding.weight, std=0.1)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 4, length) of value, field, place and side to (B,)."""
        value, field, place, side = tokens.unbind(1)
        x = self.values(value) + self.fields(field) + self.places(place) + self.sides(side)
        found: Tensor = self.head(self.layers(x, src_key_padding_mask=value == VOCABULARY + 2)[:, 0])[:, 0]
        return found


class PairTransformer:
    """T-AutoML's predictor: both vectors in one sequence to the probability that the first is better."""

    def __init__(self, settings: TransformerSettings | None = None, cancelled: Cancel | None = None) -> None:
        self.settings = settings or TransformerSettings()
        self._cancelled = cancelled

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        codes = [encode(c) for c in configurations]
        pairs = pairs_of(scores, noise)
        both = [(i, j, 1.0) for i, j in pairs] + [(j, i, 0.0) for i, j in pairs]

        def logits(trunk: nn.Module, first: Sequence[int], second: Sequence[int]) -> Tensor:
            found: Tensor = trunk(_padded([_pair(codes[i], codes[j]) for i, j in zip(first, second, strict=True)]))
            return found

        self._trunk = _train(self.settings, both, logits, self._cancelled)

    @torch.inference_mode()
    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        """P(first is better): the mean of what is said of both orders, so that the two sum to 1."""
        one, two = [encode(c) for c in first], [encode(c) for c in second]
        asked = [(a, b) for a in one for b in two]
        found = self._logits(asked) - self._logits([(b, a) for a, b in asked])
        return _logistic(found.reshape(len(one), len(two)) / 2)

    def _logits(self, asked: Sequence[tuple[Encoding, Encoding]]) -> Floats:
        parts = [
            self._trunk(_padded([_pair(a, b) for a, b in asked[n : n + PAIRS_AT_ONCE]]))
            for n in range(0, len(asked), PAIRS_AT_ONCE)
        ]
        return np.concatenate([part.double().numpy() for part in parts]) if parts else np.zeros(0)


class BradleyTerry:
    """A score of every configuration alone, s; P(first is better) = logistic(s_first - s_second).

    Source: Bradley and Terry, Biometrika 39 (1952). The scores come from the same transformer over one vector.
    """

    def __init__(self, settings: TransformerSettings | None = None, cancelled: Cancel | None = None) -> None:
        self.settings = settings or TransformerSettings()
        self._cancelled = cancelled

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        rows = _padded([_single(encode(c)) for c in configurations])
        pairs = [(i, j, 1.0) for i, j in pairs_of(scores, noise)]

        def differences(trunk: nn.Module, i: Sequence[int], j: Sequence[int]) -> Tensor:
            chosen = sorted({*i, *j})
            found = trunk(rows[chosen])
            at = {number: n for n, number in enumerate(chosen)}
            difference: Tensor = found[[at[n] for n in i]] - found[[at[n] for n in j]]
            return difference

        self._trunk = _train(self.settings, pairs, differences, self._cancelled)

    @torch.inference_mode()
    def scores(self, configurations: Sequence[Configuration]) -> Floats:
        rows = [_single(encode(c)) for c in configurations]
        parts = [self._trunk(_padded(rows[n : n + PAIRS_AT_ONCE])) for n in range(0, len(rows), PAIRS_AT_ONCE)]
        return np.concatenate([part.double().numpy() for part in parts])

    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        return _logistic(self.scores(first)[:, None] - self.scores(second)[None])


def _train(
    settings: TransformerSettings,
    pairs: Sequence[tuple[int, int, float]],
    compare: Callable[[nn.Module, Sequence[int], Sequence[int]], Tensor],
    cancelled: Cancel | None,
) -> _Trunk:
    """A trunk that learned the pairs (first, second, 1 if the first is better)."""
    if not pairs:
        raise InputError("No two configurations differ by more than the noise: there is nothing to learn from.")
    # The caller's random state stays what it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        trunk = _Trunk(settings)
        optimiser = torch.optim.AdamW(trunk.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for _ in range(settings.epochs):
            order = torch.randperm(len(pairs))[: settings.pairs_per_epoch].tolist()
            for n in range(0, len(order), settings.batch):
                if cancelled is not None and cancelled():
                    raise Cancelled("Cancelled; trials that were finished are kept.")
                first, second, target = zip(*(pairs[index] for index in order[n : n + settings.batch]), strict=True)
                loss = F.binary_cross_entropy_with_logits(compare(trunk, first, second), torch.tensor(target))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
    return trunk.eval()


def _single(code: Encoding, side: int = 0, mark: int = 0) -> list[tuple[int, int, int, int]]:
    """mark: 0 the beginning, 1 the separator, before the vector."""
    tokens = [(VOCABULARY + mark, len(FIELDS), MOST_BLOCKS + 1, side)]
    tokens += [(token(v, f), f, p, side) for v, f, p in zip(code.values, code.fields, code.places, strict=True)]
    return tokens


def _pair(one: Encoding, two: Encoding) -> list[tuple[int, int, int, int]]:
    return _single(one, 0, 0) + _single(two, 1, 1)


def _padded(rows: Sequence[Sequence[tuple[int, int, int, int]]]) -> Tensor:
    """(B, 4, longest)."""
    longest = max(map(len, rows))
    pad = (VOCABULARY + 2, len(FIELDS), MOST_BLOCKS + 1, 0)
    array = np.array([[*row, *[pad] * (longest - len(row))] for row in rows], dtype=np.int64)
    return torch.from_numpy(array.transpose(0, 2, 1).copy())


def _logistic(values: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(values, -50, 50)))
    return found
