"""The end of a search: the best configuration trained further, and put into the catalogue."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from hyperreg.automl.ledger import Record
from hyperreg.automl.running import Place
from hyperreg.automl.settings import SearchSettings
from hyperreg.automl.task import Task
from hyperreg.errors import InputError
from hyperreg.reporting import Cancel
from hyperreg.segmentation import licences
from hyperreg.segmentation.bundles import add_model
from hyperreg.segmentation.catalogue import SegmentationCard, list_models, read_card
from hyperreg.segmentation.model import save_model

MODEL = "model"


def train_best(
    place: Place,
    winner: Record,
    task: Task,
    settings: SearchSettings,
    out: Path,
    more: Callable[[int], bool],
    cancelled: Cancel,
) -> SegmentationCard:
    """Train the winner while `more`, asked with its steps, is true; write network and card to `out / "model"`.

    Its checkpoint is written as often as the first rung is long. Raises Cancelled, FileError.
    """
    device = settings.devices[0].partition(":")[0]
    trial = place.trial(winner.configuration, winner.seed, device)
    checkpoint = place.path(winner.configuration, winner.seed).with_suffix(".final.pt")
    if checkpoint.exists():
        trial.load(checkpoint)
    while more(trial.step):
        trial.train(trial.step + settings.rungs[0], cancelled)
        trial.save(checkpoint)

    steps = trial.step

    def write(network: nn.Module) -> None:
        structures = [s.name for s in task.card.structures]
        _, dice = trial.measure()
        measured = ", ".join(f"{name} {value:.3f}" for name, value in zip(structures, dice, strict=True))
        entries: dict[str, Any] = {
            **task.entries,
            "title": f"{settings.name} (searched)",
            "description": "Found by hyperreg search on images of one's own.",
            "licence": "That of the images it was trained on",
            "network": {"name": "searched", "options": winner.configuration.network_options(settings.trial.width)},
            "data": f"{len(task.training)} cases of the user's",
            "measured": f"Dice near the structures of {len(place.held_out)} cases that the search chose by: {measured}",
            "recipe": {**winner.configuration.to_json(), "steps": steps, "seed": winner.seed, "rungs": settings.rungs},
        }
        save_model(network, entries, out / MODEL)

    trial.run_to(steps, cancelled, write)
    return read_card(out / MODEL)


def check_name(name: str, catalogue: Path, out: Path) -> None:
    """Raise InputError if the catalogue has another model of that name: it is better to know before the search."""
    for card in list_models():
        if card.name == name and not _same(card, out):
            raise InputError(f"There is a model '{name}' already ({card.folder}). Give another --name.")
    if (catalogue / name).exists() and not any(card.name == name for card in list_models()):
        raise InputError(f"'{catalogue / name}' exists already. Give another --name.")


def _same(card: SegmentationCard, out: Path) -> bool:
    """Whether it is the model that this search has added before."""
    return (out / MODEL / "card.json").exists() and read_card(out / MODEL).sha256 == card.sha256


def add_to_catalogue(card: SegmentationCard, catalogue: Path) -> SegmentationCard:
    """Put a finished model into the catalogue, in place of the one that this search has put there before."""
    there = catalogue / card.name
    if there.is_dir():
        shutil.rmtree(there)
    added = add_model(card.folder, catalogue)
    licences.accept(added)
    return added
