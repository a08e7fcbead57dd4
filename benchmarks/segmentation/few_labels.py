"""Does the variational branch help when labels are few, and the second stage at equal compute? On real patients.

Small networks learn from 8 to 64 patients with clinical contours, each from several seeds, which also draw the
patients; measured on the six patients that nobody trained on. The claim is that of SegResNet's paper (Myronenko, arXiv
1810.11654): the branch's reconstruction regularises where there is little to learn from.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import yaml

from benchmarks.segmentation.ablation import CONFIGS, NORMED
from benchmarks.segmentation.head_neck import patients
from benchmarks.segmentation.measure import agreement
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.segmentation.catalogue import read_card
from hyperreg.segmentation.session import Segmenter
from hyperreg.training.segmentation import SegmentationTrainer
from hyperreg.training.segmentation_config import read_segmentation_config

BASE = "head_neck_organs"
COUNTS, SEEDS = (8, 16, 32, 64), (0, 1, 2)
STEPS = 800
# What so few steps can find, and the labels of head_neck_ct that make it up.
ORGANS = {"Brainstem": [1], "Spinal cord": [2], "Parotid glands": [3, 4], "Mandible": [7]}
# Of the intervals.
DRAWS = 10_000
PLAIN, BRANCH = "SegResNet", "SegResNet with VAE"
CASCADE, LONGER = "cascade", "SegResNet, as long as the cascade"
# The cascade's CPU-s over those of its first stage alone, at equal steps: the first stage gets so many more instead.
CASCADE_COSTS = 1.65
VARIANTS: dict[str, dict[str, Any]] = {
    PLAIN: {"network": {"name": "segresnet", "options": NORMED}},
    BRANCH: {"network": {"name": "segresnet", "options": NORMED}, "vae": {"codes": 32}},
    CASCADE: {
        "network": {"name": "cascade", "options": {"first": NORMED, "second": NORMED, "window": [24, 24, 24]}},
    },
    LONGER: {
        "network": {"name": "segresnet", "options": NORMED}, "steps": round(CASCADE_COSTS * STEPS),
    },
}  # fmt: skip
# What the report sets beside each other, and for which numbers of patients.
COMPARED = ((PLAIN, BRANCH, COUNTS), (LONGER, CASCADE, COUNTS[-1:]))
COMMON: dict[str, Any] = {
    "structures": [
        {"label": label, "name": name, "colour": [0, 0, 0], "numbers": numbers}
        for label, (name, numbers) in enumerate(ORGANS.items(), start=1)
    ],
    "vae": None, "deep_supervision": False,
    "grid": {"axes": "ras", "spacing_mm": [5.0, 5.0, 5.0], "window": [40, 40, 40]},
    "loss": {"dice": 1.0, "cross_entropy": 1.0, "balance": 0.7},
    "steps": STEPS, "minutes": None, "learning_rate": 3.0e-3, "averaging": 0.98, "warm_up": 50,
    "validation": {"cases": 0}, "precision": "bfloat16", "workers": 0, "device": "cpu",
}  # fmt: skip


def studies() -> list[tuple[str, int, int]]:
    """Variant, number of patients and seed of every training, the first seeds first."""
    whole = [(CASCADE, COUNTS[-1]), (LONGER, COUNTS[-1])]
    each = [(variant, count) for count in COUNTS for variant in (PLAIN, BRANCH)]
    return [(variant, count, seed) for seed in SEEDS for variant, count in [*each, *whole]]


def train(variant: str, count: int, seed: int, folder: Path) -> dict[str, Any]:
    """One training; Dice and HD95 per organ of each test patient, and the CPU-seconds that the steps took."""
    folder.mkdir(parents=True, exist_ok=True)
    every = patients("train")
    chosen = [every[index] for index in np.random.default_rng(seed).permutation(len(every))[:count]]
    (folder / "dataset.json").write_text(json.dumps({"training": chosen}), encoding="utf-8")
    config = yaml.safe_load((CONFIGS / f"{BASE}.yaml").read_text(encoding="utf-8"))
    cases = {**config["cases"], "source": str(folder / "dataset.json"), "shape": [32, 32, 32], "mirror": []}
    config |= {**COMMON, **VARIANTS[variant], "cases": cases, "seed": seed, "output": str(folder / "model")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}), "utf-8")
    torch.set_num_threads(1)
    trainer = SegmentationTrainer(read_segmentation_config(path))
    started = time.process_time()
    for sample in trainer.remaining_samples():
        trainer.train_step(sample)
    seconds = time.process_time() - started
    trainer.export()
    return {"variant": variant, "count": count, "seed": seed, "training_cpu_s": seconds} | {
        "regions": on_patients(folder / "model")
    }


def on_patients(folder: Path) -> dict[str, dict[str, dict[str, float]]]:
    """Dice and HD95 by test patient and organ, on the contours' own voxels."""
    card = read_card(folder)
    segmenter = Segmenter(card, "cpu")
    found = {}
    for entry in patients("test"):
        result = segmenter.segment({card.inputs[0].name: read_volume(Path(entry["image"]))}).labels.array
        truth = read_label_map(Path(entry["label"]))
        drawn = np.zeros_like(truth.array)
        named = []
        for label, (name, numbers) in enumerate(ORGANS.items(), start=1):
            drawn[np.isin(truth.array, numbers)] = label
            if set(numbers) <= set(entry["contoured"]):
                named.append((label, name))
        found[Path(entry["image"]).name.split("_ct")[0]] = agreement(result, drawn, named, truth.spacing)
    return found


def dice_of(rows: Sequence[dict[str, Any]]) -> npt.NDArray[np.float64]:
    """Mean Dice over the organs, by training and test patient: (T, P)."""
    each = [row["regions"].values() for row in rows]
    return np.array([[np.mean([organ["dice"] for organ in patient.values()]) for patient in one] for one in each])


def interval(values: npt.NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean of (T, P), drawing trainings and patients with replacement."""
    draws = np.random.default_rng(0)
    trainings, patients = (draws.integers(0, n, (DRAWS, n)) for n in values.shape)
    means = values[trainings[:, :, None], patients[:, None, :]].mean((1, 2))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)
