"""A hypernetwork that starts as a smaller one is the same function, and what it has more learns from the first step."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn

from hyperreg.errors import WeightsError
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.warm_start import start_from


def network(
    hyperparameters: int, rank: int | None = None, channels: int = 2, hidden: Sequence[int] = (6, 3), seed: int = 0
) -> HyperNetwork:
    torch.manual_seed(seed)
    backbone = nn.Sequential(nn.Conv3d(channels, 4, 3, padding=1), nn.LeakyReLU(0.2), nn.Conv3d(4, 3, 3, padding=1))
    return HyperNetwork(backbone, hyperparameters, hidden, fixed=["2.weight", "2.bias"], rank=rank)


IMAGE = torch.randn(1, 3, 6, 7, 8, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(
    ("old_rank", "new_rank"), [(None, None), (None, 5), (None, 7), (4, 4), (4, 6)], ids=lambda rank: f"rank-{rank}"
)
def test_lambda_and_gamma_start_as_lambda_alone_for_every_gamma(old_rank: int | None, new_rank: int | None) -> None:
    old, new = network(1, old_rank), network(2, new_rank, channels=3, seed=1)
    start_from(new, old)
    for lam in (0.0, 0.3, 1.0):
        expected = old(torch.tensor([lam]), IMAGE[:, :2])
        for gamma in (0.0, 0.7, 1.0):
            assert torch.allclose(new(torch.tensor([lam, gamma]), IMAGE), expected, atol=1e-6)


def test_what_was_added_learns_from_the_first_step() -> None:
    old, new = network(1), network(2, 5, channels=3, seed=1)
    start_from(new, old)
    optimiser = torch.optim.Adam(new.parameters(), lr=1e-2)
    (new(torch.tensor([0.3, 0.9]), IMAGE) - 1).square().mean().backward()
    optimiser.step()
    low, high = new(torch.tensor([0.3, 0.0]), IMAGE), new(torch.tensor([0.3, 0.5]), IMAGE)
    assert float((low - high).detach().abs().max()) > 1e-5, "gamma does nothing"
    other = IMAGE.clone()
    other[:, 2] += 1
    changed = new(torch.tensor([0.3, 0.5]), other)
    assert float((changed - high).detach().abs().max()) > 1e-4, "the added channel does nothing"


def test_a_rank_makes_the_heads_smaller_and_every_weight_still_depends_on_the_hyperparameter() -> None:
    full, low = network(1), network(1, 2)
    assert low.heads.shape[1] == 2 < full.heads.shape[1]
    first, second = low.generate(torch.tensor([0.1])), low.generate(torch.tensor([0.9]))
    assert all(not torch.equal(first[name], second[name]) for name in first)


def test_what_cannot_start_another_is_refused() -> None:
    for new, old in (
        (network(1), network(2)),
        (network(2, 4), network(1)),  # five ranks do not fit into four
        (network(2), network(1, 3)),
        (network(1, channels=2), network(1, channels=3)),
        (network(1, hidden=(5, 3)), network(1)),
        (network(1, hidden=(6, 6, 3)), network(1)),
    ):
        with pytest.raises(WeightsError):
            start_from(new, old)
