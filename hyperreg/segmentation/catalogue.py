"""Which segmentation models there are. Reads cards only: no torch, so that menus and `doctor` open at once."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from hyperreg.catalogue import (
    Card,
    Hyperparameter,
    check_grid,
    common_entries,
    find_card,
    hyperparameters_of,
    list_cards,
    parse_card,
    says,
)
from hyperreg.errors import InputError
from hyperreg.imaging.structures import Code, Expected, Structure, Terminology

KIND = "hyperreg-segmentation"

# How grey values are brought to the network's scale; see `inputs.scaled`.
INTENSITIES = ("robust", "nonzero", "nonzero_tanh", "standard", "window", "soft_window", "none")
# The network's axes: where each runs to in the body, as "ras" or "lps"; or, along R, A and S, with the slices last.
SLICES_LAST = "slices_last"
DIRECTIONS = {"r": (0, 1), "l": (0, -1), "a": (1, 1), "p": (1, -1), "s": (2, 1), "i": (2, -1)}
MODALITIES = ("MR", "CT", "any")
DEVICES = ("cpu", "cuda")
# What is kept of all structures together: everything, or the largest connected part.
KEPT = ("all", "largest")
# These separate the parts of a terminology entry in files.
_RESERVED = frozenset("~^|")

Modality = Literal["MR", "CT", "any"]


@dataclass(frozen=True)
class Input:
    """One image that the network wants. patterns: words in file names (or wildcards) by which it is recognised."""

    name: str
    title: str
    patterns: tuple[str, ...] = ()

    def fits(self, name: str) -> bool:
        """Whether one of the words in an image's name is one of the patterns, or the name of the input itself."""
        words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word]
        patterns = [self.name.lower(), *(pattern.lower() for pattern in self.patterns)]
        return any(fnmatchcase(word, pattern) for word in words for pattern in patterns)


@dataclass(frozen=True)
class Postprocessing:
    """Which islands are removed; see `islands`.

    keep: "all", or "largest", the largest connected part of all structures together, once bridges up to twice
    bridge_mm thick (as between brain and scalp) are cut. share, reach_mm: parts of a structure smaller than this share
    of its largest part and farther than this from all larger ones are removed; with a share of 0 none are.
    """

    keep: str = "all"
    bridge_mm: float = 0.0
    share: float = 0.0
    reach_mm: float = 5.0


@dataclass(frozen=True, kw_only=True)
class SegmentationCard(Card):
    """A segmentation model's card.

    structures: in the order in which they are painted where regions overlap. exclusive: channels exclude each other
    (softmax; a channel without structure is background); otherwise each is a region of its own (sigmoid).
    spacing_mm: voxel size that the network knows, along its axes; None keeps the image's own.
    window: sides of the patches that the network is shown. flips: axes along which it was trained with flips.
    intensity_window: for the intensities "window". hyperparameters: of a network whose weights are made for a choice of
    them (`nets.hypernetwork`); empty for most. citation, modality: for the user.
    memory_gb, seconds: what a usual image of this kind took, measured: peak of main memory, and seconds by device
    ("cpu", "cuda"); None and empty where nothing was measured.
    measured: in words, how accurate it was, and on what. postprocessing: None leaves the network's result.
    temperature: by which logits are divided, so that probabilities hold on cases that were not trained on; 1 where
    that was not measured (see `training.calibration`).
    """

    citation: str
    memory_gb: float | None
    seconds: Mapping[str, float]
    measured: str
    modality: Modality
    inputs: tuple[Input, ...]
    structures: tuple[Structure, ...]
    network: Mapping[str, Any]
    channels: int
    exclusive: bool
    axes: str
    spacing_mm: tuple[float | None, float | None, float | None]
    window: tuple[int, int, int]
    flips: tuple[int, ...]
    intensities: str
    intensity_window: tuple[float, float]
    hyperparameters: tuple[Hyperparameter, ...]
    postprocessing: Postprocessing | None
    temperature: float

    @property
    def texts(self) -> tuple[str, ...]:
        inputs = (text for entry in self.inputs for text in (entry.name, entry.title))
        return (*super().texts, self.citation, *inputs, *(structure.name for structure in self.structures))


def read_card(folder: Path) -> SegmentationCard:
    """Read one model's card. Raises WeightsError if it is missing, damaged or incomplete."""
    return parse_card(folder, KIND, lambda card: card_of(folder, card))


def card_of(folder: Path, card: Mapping[str, Any]) -> SegmentationCard:
    """The card that a JSON object describes. Raises ValueError, KeyError or TypeError for one that is not right."""
    output, grid, intensities = card["output"], card["grid"], card["intensities"]
    _check_choice(intensities["method"], INTENSITIES)
    _check_choice(card["modality"], MODALITIES)
    _check_choice(output["activation"], ("softmax", "sigmoid"))
    low, high = (float(value) for value in intensities.get("window", (0, 1)))
    found = SegmentationCard(
        **common_entries(folder, card),
        citation=str(card.get("citation", "")),
        memory_gb=None if card.get("memory_gb") is None else float(card["memory_gb"]),
        seconds={str(device): float(seconds) for device, seconds in card.get("seconds", {}).items()},
        measured=str(card.get("measured", "")),
        modality=card["modality"],
        inputs=tuple(_input(entry) for entry in card["inputs"]),
        structures=tuple(_structure(entry) for entry in card["structures"]),
        network=dict(card["network"]),
        channels=int(output["channels"]),
        exclusive=output["activation"] == "softmax",
        axes=str(grid["axes"]),
        spacing_mm=_three([None if n is None else float(n) for n in grid["spacing_mm"]]),
        window=_three([int(n) for n in grid["window"]]),
        flips=tuple(int(axis) for axis in grid.get("flips", ())),
        intensities=intensities["method"],
        intensity_window=(low, high),
        hyperparameters=hyperparameters_of(card.get("hyperparameters", ())),
        postprocessing=postprocessing_of(card.get("postprocessing")),
        temperature=float(card.get("temperature", 1)),
    )
    _check(found)
    return found


def postprocessing_of(entry: Mapping[str, Any] | None) -> Postprocessing | None:
    """What a card declares. Raises TypeError or ValueError for an entry that is not right."""
    if entry is None:
        return None
    known = [part.name for part in fields(Postprocessing)]
    if not set(entry) <= set(known):
        raise ValueError(f"postprocessing has {', '.join(known)}, and not {', '.join(set(entry) - set(known))}")
    sizes = {name: float(value) for name, value in entry.items() if name != "keep"}
    found = Postprocessing(str(entry.get("keep", "all")), **sizes)
    _check_choice(found.keep, KEPT)
    if not (0 <= found.share <= 1 and 0 <= found.bridge_mm < math.inf and 0 <= found.reach_mm < math.inf):
        raise ValueError("postprocessing has a share from 0 to 1, and bridge_mm and reach_mm that are not negative")
    return found


def list_models() -> list[SegmentationCard]:
    """Every segmentation model with a readable card, by name."""
    return list_cards(read_card)


def search(
    cards: Iterable[SegmentationCard], words: str = "", modality: str = "", structure: str = ""
) -> list[SegmentationCard]:
    """The models that fit all that is given, in their order.

    words: each is somewhere in name, title, description, citation, inputs or structures. modality: "MR" or "CT", also
    finds models for any. structure: its words are all in the name of one structure. Case does not matter.
    Raises InputError for a modality that no card can have.
    """
    chosen = {known.casefold(): known for known in MODALITIES}.get(modality.casefold(), modality)
    if chosen and chosen not in MODALITIES:
        raise InputError(f"'{modality}' is no modality of models; choose {', '.join(MODALITIES)}.")
    return [
        card
        for card in cards
        if says(words, *card.texts)
        and (chosen in ("", "any") or card.modality in (chosen, "any"))
        and (not structure or any(says(structure, found.name) for found in card.structures))
    ]


def find_model(name: str) -> SegmentationCard:
    """The model of that name. Raises WeightsError, naming the ones there are, if there is none."""
    return find_card(name, list_models())


def _check(card: SegmentationCard) -> None:
    """Raise ValueError for a card whose parts contradict each other."""
    labels = [structure.label for structure in card.structures]
    channels = [structure.channel for structure in card.structures]
    names = [entry.name for entry in card.inputs]
    if not labels or not names:
        raise ValueError("no structures or no inputs")
    if min(labels) < 1 or max(labels) > 65535 or len(set(labels)) < len(labels):
        raise ValueError("labels are different whole numbers from 1 to 65535")
    if min(channels) < 0 or max(channels) >= card.channels or len(set(channels)) < len(channels):
        raise ValueError("every structure has a channel of its own, of those that the network gives")
    if card.exclusive and len(labels) >= card.channels:
        raise ValueError("a channel of a softmax has to be background")
    if len(set(names)) < len(names):
        raise ValueError("two inputs have one name")
    check_grid(card.spacing_mm, card.window)
    along = sorted(DIRECTIONS[letter][0] for letter in card.axes if letter in DIRECTIONS)
    if card.axes != SLICES_LAST and (len(card.axes) != 3 or along != [0, 1, 2]):
        raise ValueError(f"'{card.axes}' names no order of the axes")
    if not set(card.flips) <= {0, 1, 2}:
        raise ValueError("flips are axes 0, 1 and 2")
    declared = {h.name: h.default for h in card.hyperparameters}
    if len(declared) < len(card.hyperparameters) or any(not 0 <= value <= 1 for value in declared.values()):
        raise ValueError("hyperparameters have different names and defaults from 0 to 1")
    if not 0 < card.temperature < math.inf:
        raise ValueError("the temperature is larger than zero")
    if not set(card.seconds) <= set(DEVICES) or any(not value > 0 for value in _costs(card)):
        raise ValueError(f"memory_gb and seconds are larger than zero, seconds by device ({', '.join(DEVICES)})")


def _costs(card: SegmentationCard) -> list[float]:
    return [*card.seconds.values(), *([] if card.memory_gb is None else [card.memory_gb])]


def _check_choice(value: object, known: Sequence[str]) -> None:
    if value not in known:
        raise ValueError(f"'{value}' is not one of {', '.join(known)}")


def _three(values: Sequence[Any]) -> tuple[Any, Any, Any]:
    i, j, k = values
    return i, j, k


def _input(entry: Mapping[str, Any]) -> Input:
    return Input(str(entry["name"]), str(entry["title"]), tuple(str(p) for p in entry.get("patterns", ())))


def _structure(entry: Mapping[str, Any]) -> Structure:
    red, green, blue = (int(n) for n in entry["colour"])
    if min(red, green, blue) < 0 or max(red, green, blue) > 255:
        raise ValueError("colours are three numbers from 0 to 255")
    words = entry.get("terminology")
    terminology = None
    if words is not None:
        modifier = words.get("modifier")
        terminology = Terminology(
            _code(words["category"]), _code(words["type"]), None if modifier is None else _code(modifier)
        )
    return Structure(
        int(entry["label"]),
        int(entry["channel"]),
        str(entry["name"]),
        (red, green, blue),
        terminology,
        _expected(entry.get("expected")),
    )


def _expected(entry: Mapping[str, Any] | None) -> Expected | None:
    if entry is None:
        return None
    low, high = (float(value) for value in entry["ml"])
    centre, spread = _three([float(value) for value in entry["centre_mm"]]), float(entry["spread_mm"])
    if not (0 <= low <= high < math.inf and high > 0 and 0 <= spread < math.inf and all(map(math.isfinite, centre))):
        raise ValueError("what is expected of a structure are volumes, a centre and a spread in mm")
    return Expected((low, high), centre, spread, bool(entry.get("cut", False)))


def _code(entry: Sequence[str]) -> Code:
    scheme, value, meaning = (str(part) for part in entry)
    if _RESERVED & set(scheme + value + meaning):
        raise ValueError("codes hold none of ~ ^ |")
    return Code(scheme, value, meaning)
