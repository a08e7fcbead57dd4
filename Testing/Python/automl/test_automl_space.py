"""The search space: every random configuration is a network, has one form, and survives its encoding."""

from __future__ import annotations

import dataclasses
from dataclasses import replace

import numpy as np
import optuna
import pytest
import torch

from hyperreg.automl.encoding import FIELDS, LONGEST, VOCABULARY, decode, encode, token
from hyperreg.automl.memory import needs
from hyperreg.automl.space import (
    AUGMENTATIONS,
    LEARNING_RATES,
    LOSSES,
    Block,
    Configuration,
    canonical,
    draw,
    draw_random,
    from_json,
)
from hyperreg.nets.searched import BLOCKS, STEM, SearchedNet


@pytest.fixture(scope="module")
def many() -> list[Configuration]:
    return [draw_random(seed) for seed in range(10_000)]


def test_decoding_gives_the_same_network_back(many: list[Configuration]) -> None:
    for configuration in many:
        code = encode(configuration)
        assert decode(code.values) == configuration
        assert len(code.values) == len(code.fields) == len(code.places) == 5 * len(configuration.blocks) + 10
        assert len(code.values) <= LONGEST
    assert from_json(many[0].to_json()) == many[0]


def test_every_value_of_every_field_has_a_token_of_its_own(many: list[Configuration]) -> None:
    seen: dict[int, tuple[int, int]] = {}
    for configuration in many[:2000]:
        code = encode(configuration)
        for pair in zip(code.values, code.fields, strict=True):
            number = token(*pair)
            assert 0 <= number < VOCABULARY
            assert seen.setdefault(number, pair) == pair
    assert {field for _, field in seen.values()} == set(range(len(FIELDS)))


def test_no_block_is_dead_and_the_first_takes_the_stem(many: list[Configuration]) -> None:
    for configuration in many:
        taken = {n for block in configuration.blocks for n in block.inputs}
        assert taken >= set(range(len(configuration.blocks) - 1))
        assert configuration.blocks[0].inputs == (STEM, STEM)
    assert {len(c.blocks) for c in many} >= {2, 3, 4, 8}
    assert {b.type for c in many for b in c.blocks} == set(BLOCKS)
    assert {c.learning_rate for c in many} == set(LEARNING_RATES) and {c.loss for c in many} == set(LOSSES)
    assert {name for c in many for name in c.augmentations} == set(AUGMENTATIONS)


def shuffled(configuration: Configuration, random: np.random.Generator) -> Configuration:
    """The same network written otherwise: blocks in another possible order, inputs swapped, a dead block among them."""
    blocks = configuration.blocks
    order: list[int] = []
    while len(order) < len(blocks):
        ready = [n for n in range(len(blocks)) if n not in order and set(blocks[n].inputs) <= {STEM, *order}]
        order.append(int(random.choice(ready)))
    number = {STEM: STEM, **{old: new for new, old in enumerate(order)}}
    written = [replace(blocks[old], inputs=tuple(number[n] for n in blocks[old].inputs[::-1])) for old in order]
    dead = Block("bottleneck", 1, (len(written) - 2, 0)) if len(written) > 1 else None
    if dead is not None:
        last = written[-1]
        written = [*written[:-1], dead, last]
    return replace(configuration, blocks=tuple(written))


def test_a_network_has_one_form_however_it_is_written(many: list[Configuration]) -> None:
    random = np.random.default_rng(0)
    different = 0
    for configuration in many[:500]:
        other = shuffled(configuration, random)
        different += other != configuration
        assert canonical(other) == configuration
        assert canonical(configuration) == configuration
    assert different > 300


def test_the_one_form_computes_the_same() -> None:
    written = Configuration(
        (
            Block("residual", 0, (-1, -1)),
            Block("bottleneck", 1, (0, -1)),
            Block("residual", 2, (0, 0)),
            Block("residual", 1, (1, 0)),
        ),
        (),
        0.001,
        "dice",
    )
    short = canonical(written)
    assert [block.type for block in short.blocks] == ["residual", "bottleneck", "residual"]
    torch.manual_seed(0)
    long = SearchedNet(1, 3, **written.network_options(4)).eval()
    net = SearchedNet(1, 3, **short.network_options(4)).eval()
    state = long.state_dict()
    # Block 2 is dead; block 3 is now block 2, and its inputs (1, 0) are in the same order.
    kept = {
        name.replace("blocks.3.", "blocks.2.").replace("joins.3.", "joins.2."): value
        for name, value in state.items()
        if not name.startswith(("blocks.2.", "joins.2."))
    }
    net.load_state_dict(kept)
    image = torch.randn(1, 1, 16, 16, 16)
    assert torch.equal(long(image), net(image))


@pytest.mark.parametrize("seed", range(6))
def test_a_random_configuration_is_a_network_that_trains(seed: int) -> None:
    configuration = draw_random(seed)
    torch.manual_seed(0)
    network = SearchedNet(2, 3, **configuration.network_options(4))
    image = torch.randn(1, 2, 16, 32, 16)
    logits = network(image)
    assert logits.shape == (1, 3, 16, 32, 16)
    logits.square().mean().backward()
    # No weight is without use: dead blocks are gone.
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in network.parameters())
    assert all(any(bool(p.grad.any()) for p in block.parameters() if p.grad is not None) for block in network.blocks)


def test_optuna_decides_as_any_chooser_does() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    asked = study.ask()
    configuration = draw(asked)
    # The same answers again give the same configuration.
    assert draw(optuna.trial.FixedTrial(asked.params)) == configuration


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": ()},
        {"blocks": (Block("residual", 0, (0, -1)),)},
        {"blocks": (Block("residual", 9, (-1, -1)),)},
        {"blocks": (Block("dense", 0, (-1, -1)),)},
        {"learning_rate": 0.5},
        {"loss": "hinge"},
        {"augmentations": ("noise", "zoom")},
    ],
)
def test_what_is_no_configuration_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"block|learning_rate|augmentations"):
        dataclasses.replace(draw_random(0), **change)


def test_vectors_of_no_configuration_are_refused() -> None:
    values = list(encode(draw_random(0)).values)
    for wrong in (values[:-1], values[:9], [7, *values[1:]], [*values[:-1], 99], [*values[:1], 7, *values[2:]]):
        with pytest.raises(ValueError, match=r"integers|vector"):
            decode(wrong)


def test_a_card_with_blocks_that_make_no_network_is_refused() -> None:
    for blocks in (
        [],
        [{"type": "residual", "level": 0, "inputs": [0, -1]}],
        [{"type": "x", "level": 0, "inputs": [-1]}],
    ):
        with pytest.raises(ValueError, match="block"):
            SearchedNet(1, 2, blocks)


def test_memory_is_counted_as_torch_keeps_it() -> None:
    """Against the tensors that a real step keeps for its gradients."""
    configuration = draw_random(1)
    counted = needs(lambda: SearchedNet(1, 4, **configuration.network_options(4)), 1, (16, 16, 16), 1)
    network = SearchedNet(1, 4, **configuration.network_options(4))
    kept: dict[int, torch.Tensor] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept.setdefault(tensor.untyped_storage().data_ptr(), tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        network(torch.zeros(1, 1, 16, 16, 16)).float().softmax(1).sum().backward()
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    activations = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)
    parameters = sum(p.numel() for p in network.parameters())
    assert counted.parameters == parameters
    own = counted.bytes - 7 * 4 * parameters - 4 * 4 * 4 * 16**3
    assert abs(own - activations) < 0.1 * activations
    larger = needs(lambda: SearchedNet(1, 4, **configuration.network_options(4)), 1, (32, 16, 16), 2)
    assert larger.bytes > 3 * own
