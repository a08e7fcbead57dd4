"""What is searched: configurations of network, augmentation, learning rate and loss, one canonical form for each.

Source: Yang et al., T-AutoML, ICCV 2021. Number of blocks, levels and widths are not published where they could be
read: the ones here are ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from hyperreg.nets.searched import BLOCKS, LEVELS, STEM

TYPES = tuple(BLOCKS)
# Blocks before dead ones are removed.
FEWEST_BLOCKS, MOST_BLOCKS = 4, 12
AUGMENTATIONS = ("flip_0", "flip_1", "flip_2", "rotate_90", "zoom", "noise", "shift", "scale")
LEARNING_RATES = (0.01, 0.005, 0.001, 0.0005, 0.0001)
LOSSES = ("dice", "dice_squared", "cross_entropy", "dice_cross_entropy", "dice_focal")


class Chooser(Protocol):
    """What decides: Optuna's trial has these two, and so has `RandomChooser`."""

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...

    def suggest_int(self, name: str, low: int, high: int) -> int: ...


class RandomChooser:
    """Uniform choices, without Optuna's bookkeeping (10,000 configurations in a second)."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        del name
        return choices[int(self._random.integers(len(choices)))]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """In low..high, both included."""
        del name
        return int(self._random.integers(low, high + 1))


@dataclass(frozen=True)
class Block:
    """One block: its type (one of TYPES), its level (0 is finest), its inputs (blocks before it, or -1: the stem)."""

    type: str
    level: int
    inputs: tuple[int, int]


@dataclass(frozen=True)
class Configuration:
    """Everything that a trial is made of. augmentations: those that are on, in the order of AUGMENTATIONS."""

    blocks: tuple[Block, ...]
    augmentations: tuple[str, ...]
    learning_rate: float
    loss: str

    def __post_init__(self) -> None:
        """Raise ValueError for what is no configuration."""
        for number, block in enumerate(self.blocks):
            if block.type not in TYPES or not 0 <= block.level < LEVELS:
                raise ValueError(f"block {number} has a type of {TYPES} and a level from 0 to {LEVELS - 1}")
            if not all(STEM <= n < number for n in block.inputs) or (number and max(block.inputs) == STEM):
                raise ValueError(f"block {number} takes blocks before it, not {block.inputs}")
        if not self.blocks:
            raise ValueError("a configuration has at least one block")
        if self.augmentations != tuple(name for name in AUGMENTATIONS if name in self.augmentations):
            raise ValueError(f"augmentations are some of {AUGMENTATIONS}, in that order")
        if self.learning_rate not in LEARNING_RATES or self.loss not in LOSSES:
            raise ValueError(f"learning_rate is one of {LEARNING_RATES}, loss one of {LOSSES}")

    def network_options(self, width: int) -> dict[str, Any]:
        """Of the network "searched", as a model's card writes them."""
        blocks = [{"type": b.type, "level": b.level, "inputs": list(b.inputs)} for b in self.blocks]
        return {"blocks": blocks, "width": width}

    def to_json(self) -> dict[str, Any]:
        """The configuration as JSON's types; `from_json` reads it."""
        return {
            "blocks": [[b.type, b.level, *b.inputs] for b in self.blocks],
            "augmentations": list(self.augmentations),
            "learning_rate": self.learning_rate,
            "loss": self.loss,
        }


def from_json(entry: Mapping[str, Any]) -> Configuration:
    """Read what `Configuration.to_json` made. Raises ValueError, KeyError or TypeError for anything else."""
    blocks = tuple(Block(str(kind), int(level), (int(a), int(b))) for kind, level, a, b in entry["blocks"])
    augmentations = tuple(str(name) for name in entry["augmentations"])
    return Configuration(blocks, augmentations, float(entry["learning_rate"]), str(entry["loss"]))


def draw(chooser: Chooser) -> Configuration:
    """A configuration in canonical form, as `chooser` decides.

    The first block takes the stem, the second the first and the stem, later ones any two before them.
    """
    count = chooser.suggest_int("blocks", FEWEST_BLOCKS, MOST_BLOCKS)
    blocks = []
    for number in range(count):
        kind = chooser.suggest_categorical(f"type_{number}", TYPES)
        level = chooser.suggest_int(f"level_{number}", 0, LEVELS - 1)
        inputs = (STEM, STEM) if number == 0 else (0, STEM)
        if number > 1:
            one, two = (chooser.suggest_int(f"input_{number}_{n}", 0, number - 1) for n in (1, 2))
            inputs = (one, two)
        blocks.append(Block(kind, level, inputs))
    augmentations = tuple(name for name in AUGMENTATIONS if chooser.suggest_categorical(name, (False, True)))
    learning_rate = chooser.suggest_categorical("learning_rate", LEARNING_RATES)
    loss = chooser.suggest_categorical("loss", LOSSES)
    return canonical(Configuration(tuple(blocks), augmentations, learning_rate, loss))


def draw_random(seed: int) -> Configuration:
    """The random configuration of a seed."""
    return draw(RandomChooser(seed))


def canonical(configuration: Configuration) -> Configuration:
    """The same network in its one form: no block that the head does not see, blocks and inputs in a fixed order.

    Blocks that nothing tells apart by what is before and behind them keep their order.
    """
    blocks = configuration.blocks
    alive = _alive(blocks)
    colours = _colours(blocks, alive)
    order: list[int] = []
    while len(order) < len(alive):
        ready = [n for n in alive if n not in order and all(i == STEM or i in order for i in blocks[n].inputs)]
        # The head takes the last block, which comes last by itself: everything else is before it.
        order.append(min(ready, key=lambda n: (colours[n], n)))
    number = {STEM: STEM, **{old: new for new, old in enumerate(order)}}
    renamed = []
    for old in order:
        one, two = sorted((number[n] for n in blocks[old].inputs), reverse=True)
        renamed.append(replace(blocks[old], inputs=(one, two)))
    return replace(configuration, blocks=tuple(renamed))


def _alive(blocks: Sequence[Block]) -> list[int]:
    """The blocks that the last one depends on, itself included, ascending."""
    wanted = {len(blocks) - 1}
    for number in range(len(blocks) - 1, -1, -1):
        if number in wanted:
            wanted |= {n for n in blocks[number].inputs if n != STEM}
    return sorted(wanted)


def _colours(blocks: Sequence[Block], alive: Sequence[int]) -> dict[int, str]:
    """A text for each block that depends on its place in the graph, not on its number (Weisfeiler and Leman's way)."""
    behind: dict[int, list[int]] = {n: [] for n in alive}
    for n in alive:
        for source in set(blocks[n].inputs) - {STEM}:
            behind[source].append(n)
    colours = {n: f"{TYPES.index(blocks[n].type)}{blocks[n].level}" for n in alive}
    for _ in alive:
        texts = {}
        for n in alive:
            before = sorted("stem" if i == STEM else colours[i] for i in blocks[n].inputs)
            after = sorted(colours[i] for i in behind[n])
            texts[n] = f"{colours[n]}|{before}|{after}"
        ranks = {text: f"{rank:03d}" for rank, text in enumerate(sorted(set(texts.values())))}
        colours = {n: ranks[texts[n]] for n in alive}
    return colours
