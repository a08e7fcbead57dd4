"""A segmentation training of seconds: a small label map and a configuration, with whatever a test changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import yaml

from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume

# White matter, thalamus and hippocampus of both sides, and a label that training does not know (skin).
WHITE, THALAMUS, HIPPOCAMPUS, SKIN = (2, 41), (10, 49), (17, 53), 600

CONFIG = {
    "name": "toy",
    "title": "Toy",
    "description": "Test only",
    "output": "run",
    "structures": [
        {
            "label": 41, "name": "White matter", "colour": [245, 245, 245], "numbers": [2],
            "terminology": {"category": ["SCT", "91723000", "Anatomical structure"], "type": ["SCT", "389080008", "x"]},
        },
        {"label": 7, "name": "Deep grey", "colour": [200, 80, 90], "numbers": [10, 17]},
    ],
    "network": {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]}},
    "grid": {"axes": "ras", "spacing_mm": [2.0, 2.0, 2.0], "window": [16, 16, 16], "flips": [0]},
    "synthesis": {"label_maps": ["labels.nii.gz"], "shape": [16, 16, 16], "spacing_mm": [2.0, 2.0]},
    "vae": {"codes": 4},
    "steps": 4,
    "learning_rate": 0.01,
    "warm_up": 1,
    "checkpoint_every": 2,
    "workers": 0,
    "averaging": 0.5,
    "validation": {"cases": 2, "every": 2},
}  # fmt: skip

AHNET = {
    "network": {"name": "ahnet", "options": {"width": 2, "layers": [1, 1, 1, 1], "growth": 2, "halvings": 2}},
    "vae": None,
    "phases": {"flat": 2, "locked": 1, "slices_per_step": 4},
}
CASCADE = {
    "network": {
        "name": "cascade",
        "options": {
            "first": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]},
            "second": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]},
            "window": [8, 8, 8],
        },
    },
}  # fmt: skip


def write_labels(path: Path) -> np.ndarray:
    """Boxes in boxes, without symmetry, 1 mm, axes R, A, S: (48, 48, 48)."""
    labels = np.zeros((48, 48, 48), np.int16)
    labels[2:46, 2:46, 2:46] = SKIN
    labels[6:24, 6:42, 6:42], labels[24:42, 6:42, 6:42] = WHITE
    labels[14:24, 20:34, 18:36], labels[24:34, 20:34, 18:36] = THALAMUS
    labels[10:16, 8:20, 8:18], labels[32:38, 8:20, 8:18] = HIPPOCAMPUS
    write_volume(Volume(labels, np.eye(4), "labels"), path)
    return labels


def write_config(folder: Path, **changes: object) -> Path:
    folder.mkdir(exist_ok=True)
    write_labels(folder / "labels.nii.gz")
    path = folder / "toy.yaml"
    config = {name: value for name, value in {**CONFIG, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path
