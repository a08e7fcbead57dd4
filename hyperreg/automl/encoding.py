"""A configuration as a vector of integers, of a length that depends on its number of blocks, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyperreg.automl.space import (
    AUGMENTATIONS,
    LEARNING_RATES,
    LOSSES,
    MOST_BLOCKS,
    TYPES,
    Block,
    Configuration,
)
from hyperreg.nets.searched import LEVELS, STEM

# What each integer means: five of every block, then one of each.
BLOCK_FIELDS = ("id", "type", "level", "input_1", "input_2")
FIELDS = (*BLOCK_FIELDS, *AUGMENTATIONS, "learning_rate", "loss")
LAST = len(AUGMENTATIONS) + 2
# The largest value of a field, and the longest vector.
LARGEST = max(MOST_BLOCKS, LEVELS, len(TYPES), len(LEARNING_RATES), len(LOSSES))
LONGEST = len(BLOCK_FIELDS) * MOST_BLOCKS + LAST


@dataclass(frozen=True)
class Encoding:
    """values: the integers (-1: the stem, as an input). fields: of each, its number in FIELDS. places: its block's
    number, or MOST_BLOCKS behind the blocks.
    """

    values: tuple[int, ...]
    fields: tuple[int, ...]
    places: tuple[int, ...]


def encode(configuration: Configuration) -> Encoding:
    """The vector of a configuration: (id, type, level, input, input) of each block, augmentations, rate, loss."""
    values: list[int] = []
    for number, block in enumerate(configuration.blocks):
        values += [number, TYPES.index(block.type), block.level, *block.inputs]
    values += [int(name in configuration.augmentations) for name in AUGMENTATIONS]
    values += [LEARNING_RATES.index(configuration.learning_rate), LOSSES.index(configuration.loss)]
    count = len(configuration.blocks)
    fields = [*range(len(BLOCK_FIELDS))] * count + [*range(len(BLOCK_FIELDS), len(FIELDS))]
    places = [number for number in range(count) for _ in BLOCK_FIELDS] + [MOST_BLOCKS] * LAST
    return Encoding(tuple(values), tuple(fields), tuple(places))


def decode(values: Sequence[int]) -> Configuration:
    """The configuration of a vector. Raises ValueError for one that no configuration has."""
    size = len(BLOCK_FIELDS)
    count, rest = divmod(len(values) - LAST, size)
    if count < 1 or rest:
        raise ValueError(f"a vector of {len(values)} integers is no configuration's")
    blocks = []
    for number in range(count):
        own, kind, level, one, two = values[number * size : (number + 1) * size]
        if own != number or not 0 <= kind < len(TYPES):
            raise ValueError(f"the integers of block {number} are no block's: {own, kind}")
        blocks.append(Block(TYPES[kind], level, (one, two)))
    *switches, rate, loss = values[count * size :]
    if not set(switches) <= {0, 1} or not 0 <= rate < len(LEARNING_RATES) or not 0 <= loss < len(LOSSES):
        raise ValueError("the last integers are no switches, learning rate and loss")
    on = tuple(name for name, switch in zip(AUGMENTATIONS, switches, strict=True) if switch)
    return Configuration(tuple(blocks), on, LEARNING_RATES[rate], LOSSES[loss])


def token(value: int, field: int) -> int:
    """A number from 0 to VOCABULARY - 1 for a value of a field."""
    return field * (LARGEST + 1) + value - STEM


VOCABULARY = len(FIELDS) * (LARGEST + 1)
