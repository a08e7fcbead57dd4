"""Which registration models there are. Reads cards only: no torch, so that menus and `doctor` open at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hyperreg.catalogue import (
    Card,
    Hyperparameter,
    check_grid,
    common_entries,
    find_card,
    hyperparameters_of,
    list_cards,
    model_folders,
    parse_card,
)
from hyperreg.errors import WeightsError

KIND = "hyperreg-registration"
MOST_PASSES = 16


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


def list_models() -> list[ModelCard]:
    """Every registration model with a readable card, by name."""
    return list_cards(read_card)


def find_model(name: str) -> ModelCard:
    """The model of that name. Raises WeightsError, naming the ones there are, if there is none."""
    return find_card(name, list_models())


def default_model() -> str:
    """The name of the model to start with. Raises WeightsError if none is installed."""
    models = list_models()
    if not models:
        places = ", ".join(str(place) for place in model_folders())
        raise WeightsError(f"No registration model is installed (looked in {places}); reinstall HyperReg.")
    names = [card.name for card in models]
    return "brain" if "brain" in names else names[0]
