"""Models as folders: a card (JSON) beside its weights. Reads cards only: no torch, so that menus open at once."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hyperreg
from hyperreg.errors import WeightsError

CARD = "card.json"
WEIGHTS = "weights.safetensors"
MODELS_VARIABLE = "HYPERREG_MODELS"
# A JSON file of a model that is larger than this is none.
LARGEST_JSON_BYTES = 4 << 20
# What reading entries of a damaged or hostile description can raise: a wrong type, a number out of every range...
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError, RecursionError)


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
            if file_sha256(path) != sha256:
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


def file_sha256(path: Path) -> str:
    """SHA256 of a file, read in pieces. Raises WeightsError if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise WeightsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    return digest.hexdigest()


def read_json(path: Path) -> Any:
    """What a JSON file holds. Raises OSError, or ValueError for what is no JSON of plain, finite values."""
    if not path.is_file():
        raise FileNotFoundError(2, "No such file", str(path))
    with path.open("rb") as file:
        content = file.read(LARGEST_JSON_BYTES + 1)
    if len(content) > LARGEST_JSON_BYTES:
        raise ValueError(f"it has more than {LARGEST_JSON_BYTES >> 20} MB")
    try:
        return json.loads(content.decode("utf-8"), parse_constant=_finite, parse_float=_finite)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is no finite number")
    return value


def parse_card(folder: Path, kind: str, parse: Callable[[dict[str, Any]], C]) -> C:
    """Read the card of a folder; `parse` makes it of the JSON object.

    Raises WeightsError if it is missing, damaged, incomplete, or of a model of another kind.
    """
    path = folder / CARD
    try:
        card = read_json(path)
        if card["kind"] != kind:
            raise WeightsError(f"'{path}' describes a model of the kind '{str(card['kind'])[:80]}', not '{kind}'.")
        return parse(card)
    except (OSError, *MALFORMED) as error:
        raise WeightsError(
            f"The model card '{path}' is missing or damaged ({str(error)[:300] or repr(error)}); reinstall the model."
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


# Voxels that a network may see, from a mouse's to a whole body's, and how many of them at once.
VOXEL_SIZES_MM = (0.001, 100.0)
MOST_VOXELS = 512**3


def check_grid(spacing_mm: Sequence[float | None], shape: Sequence[int]) -> None:
    """Raise ValueError for voxels (None: the image's own) or a number of them that no network is made for."""
    least, most = VOXEL_SIZES_MM
    if not all(size is None or least <= size <= most for size in spacing_mm):
        raise ValueError(f"voxels are {least:g} to {most:g} mm")
    if min(shape) < 1 or math.prod(shape) > MOST_VOXELS:
        raise ValueError(f"a network sees at least one voxel along each axis, and at most {MOST_VOXELS} in all")


def own_models() -> Path:
    """Where models that the user adds go: $HYPERREG_MODELS, or a folder of the user's."""
    chosen = os.environ.get(MODELS_VARIABLE)
    return Path(chosen) if chosen else user_folder() / "models"


def user_folder() -> Path:
    """Where the program keeps what is the user's own; it need not be there yet."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "hyperreg"


def model_folders() -> list[Path]:
    """Where models are looked for: the user's own, then beside the package (source tree, extension), then inside."""
    package = Path(hyperreg.__file__).resolve().parent
    return [own_models(), package.parent / "Resources" / "Models", package / "models"]


def card_folders() -> Iterator[Path]:
    """Every folder with a card, of whatever kind, readable or not; hidden ones hold models that are in the making."""
    for place in model_folders():
        for path in sorted(place.glob(f"[!.]*/{CARD}")):
            yield path.parent


def kind_of(folder: Path) -> str | None:
    """The kind of model that a folder's card describes; None if the card cannot be read."""
    try:
        return str(read_json(folder / CARD)["kind"])
    except (OSError, *MALFORMED):
        return None


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
    if name in by_name:
        return by_name[name]
    other = [str(folder) for folder in card_folders() if folder.name == name]
    note = f" (that in '{other[0]}' is of another kind, or damaged; `hyperreg doctor` tells)" if other else ""
    raise WeightsError(f"There is no model '{name}'{note}. Models found: {', '.join(by_name) or 'none'}.")
