"""Which registration models there are. Reads cards only: no torch, so that menus and `doctor` open at once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.errors import WeightsError

CARD = "card.json"
WEIGHTS = "weights.safetensors"
MODELS_VARIABLE = "HYPERREG_MODELS"
KIND = "hyperreg-registration"


@dataclass(frozen=True)
class Hyperparameter:
    """One slider: its name in the loss, what it is called, the value to start from (0 to 1), what it does (a line)."""

    name: str
    title: str
    default: float
    description: str = ""


@dataclass(frozen=True)
class ModelCard:
    """A model's card: what it is, what it needs, how it was made. `folder` holds the card and the weights."""

    name: str
    title: str
    description: str
    version: str
    licence: str
    hyperparameters: tuple[Hyperparameter, ...]
    network: Mapping[str, Any]
    spacing_mm: float
    max_shape: tuple[int, int, int]
    multiple: int
    passes: int
    sha256: str
    folder: Path
    card: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def default_lambda(self) -> float:
        return self.hyperparameters[0].default

    @property
    def other_defaults(self) -> dict[str, float]:
        """The hyperparameters other than lambda, with their defaults; empty for most models."""
        return {h.name: h.default for h in self.hyperparameters[1:]}

    def check_weights(self) -> None:
        """Raise WeightsError unless the weights are there and are the ones that the card describes."""
        if not self.weights.is_file():
            raise WeightsError(f"The weights of the model '{self.name}' are missing ({self.weights}); reinstall it.")
        if hashlib.sha256(self.weights.read_bytes()).hexdigest() != self.sha256:
            raise WeightsError(
                f"The weights of the model '{self.name}' are damaged or not the ones its card describes "
                f"(SHA256 differs: {self.weights}); reinstall the model."
            )


def read_card(folder: Path) -> ModelCard:
    """Read one model's card. Raises WeightsError if it is missing, damaged or incomplete."""
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["kind"] != KIND:
            raise WeightsError(f"'{path}' describes a model of the kind '{card['kind']}', not one for registration.")
        hyperparameters = tuple(
            Hyperparameter(str(h["name"]), str(h["title"]), float(h["default"]), str(h.get("description", "")))
            for h in card["hyperparameters"]
        )
        if not hyperparameters or hyperparameters[0].name != "lambda":
            raise ValueError("the first hyperparameter is not lambda")
        i, j, k = (int(n) for n in card["grid"]["max_shape"])
        return ModelCard(
            name=str(card["name"]),
            title=str(card["title"]),
            description=str(card["description"]),
            version=str(card["version"]),
            licence=str(card["licence"]),
            hyperparameters=hyperparameters,
            network=dict(card["network"]),
            spacing_mm=float(card["grid"]["spacing_mm"]),
            max_shape=(i, j, k),
            multiple=int(card["grid"]["multiple"]),
            passes=int(card["network"]["passes"]),
            sha256=str(card["sha256"]),
            folder=folder,
            card=card,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"The model card '{path}' is missing or damaged ({error!r}); reinstall the model."
        ) from error


def model_folders() -> list[Path]:
    """Where models are looked for: $HYPERREG_MODELS, then beside the package (source tree, extension), then inside."""
    package = Path(hyperreg.__file__).resolve().parent
    places = [package.parent / "Resources" / "Models", package / "models"]
    chosen = os.environ.get(MODELS_VARIABLE)
    return [Path(chosen), *places] if chosen else places


def list_models() -> list[ModelCard]:
    """Every model with a readable card, by name; a damaged one is left out (`hyperreg doctor` names it)."""
    found: dict[str, ModelCard] = {}
    for place in model_folders():
        for path in sorted(place.glob(f"*/{CARD}")):
            try:
                card = read_card(path.parent)
            except WeightsError:
                continue
            found.setdefault(card.name, card)
    return sorted(found.values(), key=lambda card: card.name)


def find_model(name: str) -> ModelCard:
    """The model of that name. Raises WeightsError, naming the ones there are, if there is none."""
    models = list_models()
    for card in models:
        if card.name == name:
            return card
    known = ", ".join(card.name for card in models) or "none"
    raise WeightsError(f"There is no model '{name}'. Models found: {known}.")


def default_model() -> str:
    """The name of the model to start with. Raises WeightsError if none is installed."""
    models = list_models()
    if not models:
        places = ", ".join(str(place) for place in model_folders())
        raise WeightsError(f"No registration model is installed (looked in {places}); reinstall HyperReg.")
    names = [card.name for card in models]
    return "brain" if "brain" in names else names[0]
