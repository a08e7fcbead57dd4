"""Which registration models there are. Reads cards only: no torch, so that menus and `doctor` open at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.catalogue import (
    Card,
    Hyperparameter,
    check_grid,
    common_entries,
    find_card,
    hyperparameters_of,
    list_cards,
    parse_card,
)

KIND = "hyperreg-registration"
MOST_PASSES = 16
# The name that stands for no model: the solver alone.
NO_MODEL = "none"


@dataclass(frozen=True, kw_only=True)
class ModelCard(Card):
    """A registration model's card: what it is, what it needs, how it was made."""

    hyperparameters: tuple[Hyperparameter, ...]
    network: Mapping[str, Any]
    spacing_mm: float
    max_shape: tuple[int, int, int]
    multiple: int
    passes: int

    @property
    def has_network(self) -> bool:
        """Whether there is a network; else the solver works alone."""
        return bool(self.network)

    def check_weights(self) -> None:
        """See `Card`; where there is no network, there is nothing to check."""
        if self.has_network:
            super().check_weights()

    @property
    def default_lambda(self) -> float:
        return self.hyperparameters[0].default

    @property
    def other_defaults(self) -> dict[str, float]:
        """The hyperparameters other than lambda, with their defaults; empty for most models."""
        return {h.name: h.default for h in self.hyperparameters[1:]}


def read_card(folder: Path) -> ModelCard:
    """Read one model's card. Raises WeightsError if it is missing, damaged or incomplete."""

    def parse(card: dict[str, Any]) -> ModelCard:
        hyperparameters = hyperparameters_of(card["hyperparameters"])
        if not hyperparameters or hyperparameters[0].name != "lambda":
            raise ValueError("the first hyperparameter is not lambda")
        i, j, k = (int(n) for n in card["grid"]["max_shape"])
        found = ModelCard(
            **common_entries(folder, card),
            hyperparameters=hyperparameters,
            network=dict(card["network"]),
            spacing_mm=float(card["grid"]["spacing_mm"]),
            max_shape=(i, j, k),
            multiple=int(card["grid"]["multiple"]),
            passes=int(card["network"]["passes"]),
        )
        _check(found)
        return found

    return parse_card(folder, KIND, parse)


def _check(card: ModelCard) -> None:
    """Raise ValueError for a card that no model can have."""
    names = [h.name for h in card.hyperparameters]
    if len(set(names)) < len(names) or not all(0 <= h.default <= 1 for h in card.hyperparameters):
        raise ValueError("hyperparameters have different names and defaults from 0 to 1")
    check_grid((card.spacing_mm,) * 3, card.max_shape)
    if not (1 <= card.multiple <= min(card.max_shape) and 1 <= card.passes <= MOST_PASSES):
        raise ValueError(f"multiple fits into max_shape, and passes are 1 to {MOST_PASSES}")


NONE = ModelCard(
    name=NO_MODEL,
    title="None (solver alone)",
    description="Every field is found on the two images themselves, for any part of the body; nothing was trained.",
    version=hyperreg.__version__,
    licence="Apache-2.0",
    sha256="",
    folder=Path(),
    card={},
    ensemble={},
    hyperparameters=(Hyperparameter("lambda", "Smoothness λ", 0.2, "0: most flexible, 1: most rigid."),),
    network={},
    spacing_mm=0.0,
    max_shape=(0, 0, 0),
    multiple=1,
    passes=0,
)


def list_models() -> list[ModelCard]:
    """The choice of no model, then every registration model with a readable card, by name."""
    return [NONE, *list_networks()]


def list_networks() -> list[ModelCard]:
    """Every registration model with a readable card, by name."""
    return list_cards(read_card)


def find_model(name: str) -> ModelCard:
    """The model of that name. Raises WeightsError, naming the ones there are, if there is none."""
    return find_card(name, list_models())


def default_model() -> str:
    """The name of the model to start with."""
    return NO_MODEL
