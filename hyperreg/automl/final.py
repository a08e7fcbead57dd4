"""The end of a search: the best configuration trained further, and put into the catalogue."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperreg.automl.running import ModelTask, TrialTask, train_further, write_model
from hyperreg.automl.settings import SearchSettings
from hyperreg.automl.task import Task
from hyperreg.automl.trial import steps_in
from hyperreg.errors import InputError
from hyperreg.execution.executors import Executor, result_of
from hyperreg.reporting import Cancel
from hyperreg.segmentation import licences
from hyperreg.segmentation.bundles import add_model
from hyperreg.segmentation.catalogue import SegmentationCard, list_models, read_card

MODEL = "model"


def train_best(
    trial: TrialTask, task: Task, settings: SearchSettings, executor: Executor, more: Callable[[int], bool],
    cancelled: Cancel,
) -> SegmentationCard:  # fmt: skip
    """Train the winner while `more`, asked with its steps, is true; write network and card to MODEL in its folder.

    It is trained by as many steps at a time as the first rung is long, each a task. Raises Cancelled, FileError.
    """
    trial = replace(trial, final=True)
    if trial.checkpoint.exists():
        trial = replace(trial, steps=steps_in(trial.checkpoint))
    while more(trial.steps):
        trial = replace(trial, steps=trial.steps + settings.rungs[0])
        result_of(executor, train_further, trial, cancelled)
    configuration, width = trial.configuration, settings.trial.width
    entries: dict[str, Any] = {
        **task.entries,
        "title": f"{settings.name} (searched)",
        "description": "Found by hyperreg search on images of one's own.",
        "licence": "That of the images it was trained on",
        "network": {"name": "searched", "options": configuration.network_options(width)},
        "data": f"{len(task.training)} cases of the user's",
        "recipe": {**configuration.to_json(), "steps": trial.steps, "seed": trial.seed, "rungs": settings.rungs},
    }
    place = trial.folder / MODEL
    result_of(executor, write_model, ModelTask(trial, entries, place), cancelled)
    return read_card(place)


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
