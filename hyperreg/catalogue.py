"""Models as folders: a card (JSON) beside its weights. Reads cards only: no torch, so that menus open at once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hyperreg
from hyperreg.errors import WeightsError

CARD = "card.json"
WEIGHTS = "weights.safetensors"
MODELS_VARIABLE = "HYPERREG_MODELS"


@dataclass(frozen=True)
class Hyperparameter:
    """One slider: its name in the loss, what it is called, the value to start from (0 to 1), what it does (a line)."""

    name: str
    title: str
    default: float
    description: str = ""


@dataclass(frozen=True, kw_only=True)
class Card:
    """What every model's card says. `folder` holds the card and the weights; `card` is the whole JSON object.

    ensemble: further weights of the same network, trained separately: file beside the first ones -> SHA256.
    """

    name: str
    title: str
    description: str
    version: str
    licence: str
    sha256: str
    folder: Path
    card: Mapping[str, Any]
    ensemble: Mapping[str, str]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    @property
    def weight_files(self) -> dict[Path, str]:
        """Every file of weights and its SHA256; first the one that is used alone."""
        return {self.weights: self.sha256, **{self.folder / name: sha256 for name, sha256 in self.ensemble.items()}}

    def check_weights(self) -> None:
        """Raise WeightsError unless the weights are there and are the ones that the card describes."""
        for path, sha256 in self.weight_files.items():
            if not path.is_file():
                raise WeightsError(f"The weights of the model '{self.name}' are missing ({path}); reinstall it.")
            if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
                raise WeightsError(
                    f"The weights of the model '{self.name}' are damaged or not the ones its card describes "
                    f"(SHA256 differs: {path}); reinstall the model."
                )

    @property
    def texts(self) -> tuple[str, ...]:
        """What a search for words looks at."""
        return (self.name, self.title, self.description)

    def describe(self) -> dict[str, str]:
        """What a report says of the model."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256, "licence": self.licence}


C = TypeVar("C", bound=Card)


def parse_card(folder: Path, kind: str, parse: Callable[[dict[str, Any]], C]) -> C:
    """Read the card of a folder; `parse` makes it of the JSON object.

    Raises WeightsError if it is missing, damaged, incomplete, or of a model of another kind.
    """
    path = folder / CARD
    try:
        card = json.loads(path.read_text(encoding="utf-8"))
        if card["kind"] != kind:
            raise WeightsError(f"'{path}' describes a model of the kind '{card['kind']}', not '{kind}'.")
        return parse(card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(
            f"The model card '{path}' is missing or damaged ({error!r}); reinstall the model."
        ) from error


def common_entries(folder: Path, card: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of `Card`, by name. Raises KeyError for one that the JSON object lacks, ValueError for a wrong one."""
    texts = ("name", "title", "description", "version", "licence", "sha256")
    ensemble = {str(name): str(sha256) for name, sha256 in card.get("ensemble", {}).items()}
    if not all(re.fullmatch(r"[\w-]+\.safetensors", name) and name != WEIGHTS for name in ensemble):
        raise ValueError("weights of an ensemble are further .safetensors files in the model's own folder")
    return {**{name: str(card[name]) for name in texts}, "folder": folder, "card": card, "ensemble": ensemble}


def hyperparameters_of(entries: Iterable[Mapping[str, Any]]) -> tuple[Hyperparameter, ...]:
    """The sliders that a card declares. Raises KeyError, TypeError or ValueError for entries that are not right."""
    return tuple(
        Hyperparameter(str(h["name"]), str(h["title"]), float(h["default"]), str(h.get("description", "")))
        for h in entries
    )


def own_models() -> Path:
    """Where models that the user adds go: $HYPERREG_MODELS, or a folder of the user's."""
    chosen = os.environ.get(MODELS_VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "hyperreg" / "models"


def model_folders() -> list[Path]:
    """Where models are looked for: the user's own, then beside the package (source tree, extension), then inside."""
    package = Path(hyperreg.__file__).resolve().parent
    return [own_models(), package.parent / "Resources" / "Models", package / "models"]


def card_folders() -> Iterator[Path]:
    """Every folder with a card, of whatever kind, readable or not."""
    for place in model_folders():
        for path in sorted(place.glob(f"*/{CARD}")):
            yield path.parent


def kind_of(folder: Path) -> str | None:
    """The kind of model that a folder's card describes; None if the card cannot be read."""
    try:
        kind = json.loads((folder / CARD).read_text(encoding="utf-8"))["kind"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return str(kind)


def list_cards(read: Callable[[Path], C]) -> list[C]:
    """Every model that `read` can read, by name; others are left out (`hyperreg doctor` names damaged ones)."""
    found: dict[str, C] = {}
    for folder in card_folders():
        try:
            card = read(folder)
        except WeightsError:
            continue
        found.setdefault(card.name, card)
    return sorted(found.values(), key=lambda card: card.name)


def says(words: str, *texts: str) -> bool:
    """Whether every one of the words is in one of the texts, whatever the case; yes if there are no words."""
    whole = "\n".join(texts).casefold()
    return all(word in whole for word in words.casefold().split())


def find_card(name: str, cards: Iterable[C]) -> C:
    """The model of that name. Raises WeightsError, naming the ones there are, if there is none."""
    by_name = {card.name: card for card in cards}
    if name not in by_name:
        raise WeightsError(f"There is no model '{name}'. Models found: {', '.join(by_name) or 'none'}.")
    return by_name[name]
