"""Models as folders: a card (JSON) beside its weights. Reads cards only: no torch, so that menus open at once."""

from __future__ import annotations

import hashlib
import json
import os
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


@dataclass(frozen=True, kw_only=True)
class Card:
    """What every model's card says. `folder` holds the card and the weights; `card` is the whole JSON object."""

    name: str
    title: str
    description: str
    version: str
    licence: str
    sha256: str
    folder: Path
    card: Mapping[str, Any]

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS

    def check_weights(self) -> None:
        """Raise WeightsError unless the weights are there and are the ones that the card describes."""
        if not self.weights.is_file():
            raise WeightsError(f"The weights of the model '{self.name}' are missing ({self.weights}); reinstall it.")
        if hashlib.sha256(self.weights.read_bytes()).hexdigest() != self.sha256:
            raise WeightsError(
                f"The weights of the model '{self.name}' are damaged or not the ones its card describes "
                f"(SHA256 differs: {self.weights}); reinstall the model."
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
    """The fields of `Card`, by name. Raises KeyError for one that the JSON object lacks."""
    texts = ("name", "title", "description", "version", "licence", "sha256")
    return {**{name: str(card[name]) for name in texts}, "folder": folder, "card": card}


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
