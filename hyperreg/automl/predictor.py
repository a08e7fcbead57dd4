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

from hyperreg.automl.encoding import FIELDS, VOCABULARY, encode, token
from hyperreg.automl.space import AUGMENTATIONS, LEARNING_RATES, LOSSES, MOST_BLOCKS, TYPES, Configuration
from hyperreg.errors import Cancelled, InputError
from hyperreg.nets.searched import LEVELS
from hyperreg.reporting import Cancel

Floats = npt.NDArray[np.float64]
# As many as a core's cache holds: larger batches take twice as long.
PAIRS_AT_ONCE = 64
Tokens = npt.NDArray[np.int64]
PADDING = (VOCABULARY + 2, len(FIELDS), MOST_BLOCKS + 1, 0)


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
    """Sizes and training of the transformers. epochs: over all pairs, of which `pairs_per_epoch` at most are drawn."""

    width: int = 32
    heads: int = 4
    layers: int = 2
    dropout: float = 0.1
    epochs: int = 12
    pairs_per_epoch: int = 800
    batch: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-2
    seed: int = 0


class _Trunk(nn.Module):
    """A transformer over tokens with embeddings of value, field, block and side, and a number from the mean of each
    side's tokens: from a single token at the beginning, pairs are learned far more slowly.
    """

    def __init__(self, settings: TransformerSettings, sides: int) -> None:
        super().__init__()
        width = settings.width
        # Behind the values: the beginning, the separator, padding.
        self.values = nn.Embedding(VOCABULARY + 3, width)
        self.fields = nn.Embedding(len(FIELDS) + 1, width)
        self.places = nn.Embedding(MOST_BLOCKS + 2, width)
        self.sides = nn.Embedding(sides, width)
        layer = nn.TransformerEncoderLayer(
            width, settings.heads, 2 * width, settings.dropout, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, settings.layers, enable_nested_tensor=False)
        self.head = nn.Sequential(nn.LayerNorm(sides * width), nn.Linear(sides * width, 1))
        # The side decides the sign of everything else: where it stands out less, pairs are learned by heart.
        for embedding, std in ((self.values, 0.1), (self.fields, 0.1), (self.places, 0.1), (self.sides, 0.5)):
            nn.init.normal_(embedding.weight, std=std)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, 4, length) of value, field, place and side to (B,)."""
        value, field, place, side = tokens.unbind(1)
        padding = value == PADDING[0]
        x = self.values(value) + self.fields(field) + self.places(place) + self.sides(side)
        x = self.layers(x, src_key_padding_mask=padding)
        means = []
        for number in range(self.sides.num_embeddings):
            own = ((side == number) & ~padding)[..., None]
            means.append((x * own).sum(1) / own.sum(1))
        found: Tensor = self.head(torch.cat(means, dim=1))[:, 0]
        return found


class PairTransformer:
    """T-AutoML's predictor: both vectors in one sequence to the probability that the first is better.

    Every pair is shown in both orders, with the opposite target for the second, and what is said of the two is put
    together, in training too: half the difference of the logits. P(a better than b) + P(b better than a) is 1.
    """

    def __init__(self, settings: TransformerSettings | None = None, cancelled: Cancel | None = None) -> None:
        self.settings = settings or TransformerSettings()
        self._cancelled = cancelled

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        codes = [_tokens(c) for c in configurations]

        def logits(trunk: nn.Module, first: Sequence[int], second: Sequence[int]) -> Tensor:
            return _both_orders(trunk, [(codes[i], codes[j]) for i, j in zip(first, second, strict=True)])

        self._trunk = _train(self.settings, 2, pairs_of(scores, noise), logits, self._cancelled)

    @torch.inference_mode()
    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        one, two = [_tokens(c) for c in first], [_tokens(c) for c in second]
        asked = [(a, b) for a in one for b in two]
        parts = [
            _both_orders(self._trunk, asked[n : n + PAIRS_AT_ONCE]).double().numpy()
            for n in range(0, len(asked), PAIRS_AT_ONCE)
        ]
        return _logistic(np.concatenate(parts).reshape(len(one), len(two)))


def _both_orders(trunk: nn.Module, pairs: Sequence[tuple[Tokens, Tokens]]) -> Tensor:
    there, back = trunk(_padded([_pair(a, b) for a, b in pairs] + [_pair(b, a) for a, b in pairs])).chunk(2)
    found: Tensor = (there - back) / 2
    return found


class BradleyTerry:
    """A score of every configuration alone, s; P(first is better) = logistic(s_first - s_second).

    Source: Bradley and Terry, Biometrika 39 (1952). The scores come from the same transformer over one vector.
    """

    def __init__(self, settings: TransformerSettings | None = None, cancelled: Cancel | None = None) -> None:
        self.settings = settings or TransformerSettings()
        self._cancelled = cancelled

    def fit(self, configurations: Sequence[Configuration], scores: Sequence[float], noise: float) -> None:
        rows = _padded([_tokens(c) for c in configurations])

        def differences(trunk: nn.Module, i: Sequence[int], j: Sequence[int]) -> Tensor:
            chosen = sorted({*i, *j})
            found = trunk(rows[chosen])
            at = {number: n for n, number in enumerate(chosen)}
            difference: Tensor = found[[at[n] for n in i]] - found[[at[n] for n in j]]
            return difference

        self._trunk = _train(self.settings, 1, pairs_of(scores, noise), differences, self._cancelled)

    @torch.inference_mode()
    def scores(self, configurations: Sequence[Configuration]) -> Floats:
        rows = [_tokens(c) for c in configurations]
        parts = [self._trunk(_padded(rows[n : n + PAIRS_AT_ONCE])) for n in range(0, len(rows), PAIRS_AT_ONCE)]
        return np.concatenate([part.double().numpy() for part in parts])

    def probability(self, first: Sequence[Configuration], second: Sequence[Configuration]) -> Floats:
        return _logistic(self.scores(first)[:, None] - self.scores(second)[None])


def _train(
    settings: TransformerSettings,
    sides: int,
    pairs: Sequence[tuple[int, int]],
    compare: Callable[[nn.Module, Sequence[int], Sequence[int]], Tensor],
    cancelled: Cancel | None,
) -> _Trunk:
    """A trunk that learned the pairs (better, worse); `compare` gives the logits that the first is better."""
    if not pairs:
        raise InputError("No two configurations differ by more than the noise: there is nothing to learn from.")
    # The caller's random state stays what it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        trunk = _Trunk(settings, sides)
        optimiser = torch.optim.AdamW(trunk.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
        for _ in range(settings.epochs):
            order = torch.randperm(len(pairs))[: settings.pairs_per_epoch].tolist()
            for n in range(0, len(order), settings.batch):
                if cancelled is not None and cancelled():
                    raise Cancelled("Cancelled; trials that were finished are kept.")
                better, worse = zip(*(pairs[index] for index in order[n : n + settings.batch]), strict=True)
                loss = F.softplus(-compare(trunk, better, worse)).mean()
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
    return trunk.eval()


def _tokens(configuration: Configuration) -> Tokens:
    """Value, field, place and side (0) of each token, (4, length); the first one marks the beginning."""
    code = encode(configuration)
    values = [token(value, field) for value, field in zip(code.values, code.fields, strict=True)]
    rows = ([VOCABULARY, *values], [len(FIELDS), *code.fields], [MOST_BLOCKS + 1, *code.places])
    return np.array([*rows, [0] * (len(values) + 1)], dtype=np.int64)


def _pair(one: Tokens, two: Tokens) -> Tokens:
    """Both in one sequence, with the separator between them."""
    second = two.copy()
    second[3] = 1
    second[0, 0] = VOCABULARY + 1
    return np.concatenate((one, second), axis=1)


def _padded(rows: Sequence[Tokens]) -> Tensor:
    """(B, 4, longest)."""
    found = np.empty((len(rows), 4, max(row.shape[1] for row in rows)), dtype=np.int64)
    found[:] = np.array(PADDING)[:, None]
    for target, row in zip(found, rows, strict=True):
        target[:, : row.shape[1]] = row
    return torch.from_numpy(found)


def _logistic(values: Floats) -> Floats:
    found: Floats = 1 / (1 + np.exp(-np.clip(values, -50, 50)))
    return found
