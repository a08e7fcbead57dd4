"""Which configuration is better: predictors learn a law that is there, and figures of quality are what they say."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hyperreg.automl.predictor import (
    BradleyTerry,
    Majority,
    PairTransformer,
    Predictor,
    Ridge,
    TransformerSettings,
    pairs_of,
)
from hyperreg.automl.ranking import bootstrap, copeland, kendall_tau, pair_accuracy, rank, seed_noise
from hyperreg.automl.space import LEARNING_RATES, Configuration, draw_random
from hyperreg.errors import Cancelled, InputError

FEW = TransformerSettings(width=16, heads=2, layers=1, dropout=0.0, epochs=6, pairs_per_epoch=800, learning_rate=5e-3)
CONFIGURATIONS = [draw_random(seed) for seed in range(60)]


def law(configuration: Configuration) -> float:
    """A larger rate is better, and so is attention: something a predictor can learn."""
    attention = sum(block.type == "axial_attention" for block in configuration.blocks)
    return -0.2 * LEARNING_RATES.index(configuration.learning_rate) + 0.01 * attention


SCORES = [law(configuration) for configuration in CONFIGURATIONS]


@pytest.mark.parametrize(
    "predictor", [PairTransformer(FEW), BradleyTerry(FEW), Ridge()], ids=lambda p: type(p).__name__
)
def test_a_law_is_learned_and_holds_for_configurations_that_were_not_seen(predictor: Predictor) -> None:
    predictor.fit(CONFIGURATIONS[:40], SCORES[:40], 0.05)
    found = predictor.probability(CONFIGURATIONS[40:], CONFIGURATIONS[40:])
    assert found.shape == (20, 20)
    assert pair_accuracy(found, SCORES[40:], 0.05) > 0.85
    assert kendall_tau(copeland(found), SCORES[40:]) > 0.5


@pytest.mark.parametrize(
    "predictor", [PairTransformer(FEW), BradleyTerry(FEW), Ridge(), Majority()], ids=lambda p: type(p).__name__
)
def test_both_orders_of_a_pair_say_the_same(predictor: Predictor) -> None:
    predictor.fit(CONFIGURATIONS[:12], SCORES[:12], 0.0)
    one, two = CONFIGURATIONS[20:25], CONFIGURATIONS[25:31]
    assert np.allclose(predictor.probability(one, two) + predictor.probability(two, one).T, 1, atol=1e-5)


def test_the_length_of_the_others_in_a_batch_changes_nothing() -> None:
    """Padding is masked: a pair gets the same answer alone and beside a longer one."""
    predictor = PairTransformer(FEW)
    predictor.fit(CONFIGURATIONS[:12], SCORES[:12], 0.0)
    ordered = sorted(CONFIGURATIONS, key=lambda c: len(c.blocks))
    short, long = ordered[0], ordered[-1]
    assert len(long.blocks) > len(short.blocks) + 3
    alone = predictor.probability([short], [ordered[1]])
    beside = predictor.probability([short, long], [ordered[1], long])
    assert beside[0, 0] == pytest.approx(alone[0, 0], abs=1e-5)


def test_learning_again_gives_the_same_and_leaves_the_random_state_alone() -> None:
    import torch

    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = []
    for _ in range(2):
        predictor = PairTransformer(FEW)
        predictor.fit(CONFIGURATIONS[:10], SCORES[:10], 0.0)
        found.append(predictor.probability(CONFIGURATIONS[10:14], CONFIGURATIONS[14:18]))
    assert np.array_equal(*found)
    assert torch.equal(before, torch.get_rng_state())


def test_pairs_inside_the_noise_are_left_out() -> None:
    assert pairs_of([0.1, 0.12, 0.5], 0.05) == [(2, 0), (2, 1)]
    with pytest.raises(InputError, match="nothing to learn"):
        PairTransformer(FEW).fit(CONFIGURATIONS[:3], [0.1, 0.12, 0.14], 0.05)


def test_learning_can_be_cancelled() -> None:
    with pytest.raises(Cancelled):
        PairTransformer(FEW, cancelled=lambda: True).fit(CONFIGURATIONS[:5], SCORES[:5], 0.0)


def test_copeland_counts_wins_and_half_of_ties() -> None:
    probabilities = np.array([[0.5, 0.9, 0.5], [0.1, 0.5, 0.6], [0.5, 0.4, 0.5]])
    assert copeland(probabilities).tolist() == [1.5, 1.0, 0.5]


def test_the_best_of_many_come_first() -> None:
    class Knows:
        def fit(self, configurations: object, scores: object, noise: float) -> None: ...

        def probability(self, first: list[Configuration], second: list[Configuration]) -> np.ndarray:
            one, two = (np.array([law(c) for c in part]) for part in (first, second))
            return 1 / (1 + np.exp(-50 * (one[:, None] - two[None])))

    many = [draw_random(seed) for seed in range(300)]
    order = rank(Knows(), many)
    assert len(order) == 64
    values = [law(many[n]) for n in order]
    assert values == sorted(values, reverse=True)
    assert values[0] == max(law(c) for c in many)


def test_noise_of_seeds_is_that_of_a_difference() -> None:
    random = np.random.default_rng(0)
    groups = [random.normal(place, 0.1, 4).tolist() for place in random.normal(0, 5, 2000)]
    assert seed_noise(groups) == pytest.approx(0.1 * math.sqrt(2), rel=0.03)
    assert seed_noise([[0.3], [0.4]]) == 0.0


def test_kendall_is_that_of_the_textbook() -> None:
    assert kendall_tau([1, 2, 3, 4], [1, 2, 3, 4]) == 1
    assert kendall_tau([1, 2, 3, 4], [4, 3, 2, 1]) == -1
    assert kendall_tau([1, 2, 3, 4], [1, 2, 4, 3]) == pytest.approx(4 / 6)
    # A tie in one: tau-b = 5 / sqrt(5 * 6).
    assert kendall_tau([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(5 / math.sqrt(30))
    assert math.isnan(kendall_tau([1, 1, 1], [1, 2, 3]))


def test_the_interval_is_of_configurations_not_of_pairs() -> None:
    """A predictor that is right for all pairs but those of two configurations out of twenty."""
    scores = np.arange(20, dtype=float)
    right = (scores[:, None] > scores[None]).astype(float)
    wrong = right.copy()
    for n in (3, 11):
        wrong[n], wrong[:, n] = 1 - right[n], 1 - right[:, n]
    found = bootstrap([(wrong, scores.tolist())], 0.0, draws=400)
    value, low, high = found["accuracy"]
    assert value == pytest.approx(pair_accuracy(wrong, scores.tolist(), 0.0))
    assert value == pytest.approx(1 - 37 / 190)
    # 190 independent pairs would give +- .056; ten times fewer configurations give far more.
    assert high - low > 0.2
    perfect = bootstrap([(right, scores.tolist())], 0.0, draws=50)
    assert perfect["accuracy"] == (1, 1, 1) and perfect["tau"][0] == 1
    constant = bootstrap([(np.full((20, 20), 0.5), scores.tolist())], 0.0, draws=50)
    assert constant["accuracy"][0] == 0.5
