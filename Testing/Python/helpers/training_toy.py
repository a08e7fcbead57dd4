"""A training run of seconds: its configuration as a file, with whatever a test changes."""

from __future__ import annotations

from pathlib import Path

import yaml

STAGE = {"until": 4, "shape": [16, 16, 16], "spacing_mm": [3.0, 4.0]}
CONFIG = {
    "name": "toy",
    "title": "Toy",
    "description": "Test only",
    "output": "run",
    "network": {
        "features": "correlation",
        "backbone": "voxelmorph_unet",
        "options": {"channels": [4, 4, 8, 8, 8, 8], "unet_out_channels": 4, "final_channels": [4]},
        "hidden": [8, 4],
        "passes": 1,
    },
    "grid": {"spacing_mm": 3.0, "max_shape": [16, 16, 16], "multiple": 8},
    "synthesis": {"shape_maps": 2, "shape_size": 48, "stages": [STAGE]},
    "steps": 4,
    "learning_rate": 0.01,
    "warm_up": 2,
    "checkpoint_every": 2,
    "workers": 0,
    "validation": {"pairs": 2, "every": 2, "shape_maps": 1, "lambdas": [0.0, 1.0]},
}


def write_config(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    return path
