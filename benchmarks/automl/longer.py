"""The network found and the default one, trained longer and measured on subjects that no trial saw."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from benchmarks.automl.campaign import SEGRESNET, Campaign, of
from benchmarks.segmentation.measure import agreement
from hyperreg.automl.trial import Trial
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.segmentation.catalogue import read_card
from hyperreg.segmentation.model import save_model
from hyperreg.segmentation.session import Segmenter


def measure_long(campaign: Campaign, output: Path) -> None:
    """Rows of Dice and HD95 by subject and structure into `output / "test.json"`, network by network."""
    path = output / "test.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    data, scale = campaign.data, campaign.scale
    best = max(of(campaign.ledger.records(), "random", "predictor"), key=lambda record: record.score or 0.0)
    makers: dict[str, Any] = {
        "found": lambda: Trial(best.configuration, data.training, data.held_out, scale.trial, 0),
        "default": lambda: campaign.default_trial(0),
    }
    entries = {
        "found": {"name": "searched", "options": best.configuration.network_options(scale.trial.width)},
        "default": {"name": "segresnet", "options": SEGRESNET},
    }
    for name, make in makers.items():
        if name in found or time.monotonic() > campaign.deadline:
            continue
        folder = output / f"model-{name}"

        def write(network: nn.Module, name: str = name, folder: Path = folder) -> None:
            save_model(network, {**data.task.entries, "name": name, "network": entries[name]}, folder)

        measured = make().run_to(scale.long_steps, finished=write)
        found[name] = {
            "steps": measured.steps, "score": measured.score, "dice": measured.dice, "training_cpu_s": measured.cpu_s,
            "subjects": on_subjects(folder, data.test, data.names),
        }  # fmt: skip
        path.write_text(json.dumps(found) + "\n", encoding="utf-8")
        campaign.say(f"{name}: trained to {measured.steps} steps and measured")


def on_subjects(folder: Path, subjects: list[tuple[str, Path, Path]], names: Mapping[int, str]) -> list[dict[str, Any]]:
    """Dice and HD95 of each structure in whole images on their own grids, and CPU-s of each subject's inference."""
    card = read_card(folder)
    segmenter = Segmenter(card, "cpu")
    rows: list[dict[str, Any]] = []
    for name, image, label in subjects:
        started = time.process_time()
        result = segmenter.segment({card.inputs[0].name: read_volume(image)})
        seconds = time.process_time() - started
        truth = read_label_map(label)
        spacing = [float(value) for value in np.asarray(truth.spacing)]
        for structure, values in agreement(result.labels.array, truth.array, names.items(), spacing).items():
            rows.append({"subject": name, "structure": structure, **values, "cpu_s": seconds})
    return rows
