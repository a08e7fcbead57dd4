"""Bundles as MONAI's model zoo has them, small, and their zips."""

from __future__ import annotations

import copy
import json
import zipfile
from pathlib import Path
from typing import Any

import torch
from monai.networks import nets

# Shaped as brats_mri_segmentation of MONAI's model zoo is, with expressions where it has them; smaller.
NETWORK = {
    "_target_": "SegResNet", "blocks_down": [1, 1], "blocks_up": [1], "init_filters": 8, "in_channels": 4,
    "out_channels": 3, "dropout_prob": 0.2,
}  # fmt: skip
INFERENCE: dict[str, Any] = {
    "imports": ["$import glob"],
    "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
    "network_def": NETWORK,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image"},
            {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [16, 16, 16], "sw_batch_size": 1, "overlap": 0.5},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
            {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: x"},
        ],
    },
    "evaluating": ["$@evaluator.run()"],
}
METADATA: dict[str, Any] = {
    "version": "0.5.3",
    "task": "Multimodal Brain Tumor segmentation",
    "description": "A test",
    "network_data_format": {
        "inputs": {
            "image": {
                "modality": "MR",
                "num_channels": 4,
                "channel_def": {"0": "T1c", "1": "T1", "2": "T2", "3": "FLAIR"},
            }
        },
        "outputs": {
            "pred": {"num_channels": 3, "channel_def": {"0": "Tumor core", "1": "Whole tumor", "2": "Enhancing tumor"}}
        },
    },
}


def make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    options = {name: value for name, value in NETWORK.items() if name != "_target_"}
    return nets.SegResNet(**options).eval()


def write_bundle(
    folder: Path, inference: dict[str, Any] = INFERENCE, metadata: dict[str, Any] = METADATA, state: Any = None
) -> Path:
    """A bundle folder as MONAI writes it."""
    for name in ("configs", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    (folder / "configs" / "inference.json").write_text(json.dumps(inference), encoding="utf-8")
    (folder / "LICENSE").write_text("Some Licence 1.0\n\nYou may.", encoding="utf-8")
    torch.save(make_network().state_dict() if state is None else state, folder / "models" / "model.pt")
    return folder


def changed(place: list[Any], value: Any) -> dict[str, Any]:
    inference = copy.deepcopy(INFERENCE)
    part = inference
    for step in place[:-1]:
        part = part[step]
    part[place[-1]] = value
    return inference


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, Path(folder.name) / file.relative_to(folder))
    return path
