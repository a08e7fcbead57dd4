"""A search of seconds: cases with a bright egg and a dark one, small patches, few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from segmentation_bench import OBLIQUE, eggs, truth

from hyperreg.automl.settings import SearchSettings
from hyperreg.automl.trial import TrialSettings
from hyperreg.execution.executors import Place
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume

HERE = Place(jobs=1, device="cpu")
TRIAL = TrialSettings(patch=(16, 16, 16), window=(32, 32, 32), width=4)


def write_cases(folder: Path, count: int = 3, **changes: Any) -> Path:
    """A data list of `count` cases on oblique, anisotropic grids, one of them held out."""
    entries = []
    for number in range(count):
        random = np.random.default_rng(number)
        image = eggs(OBLIQUE)
        noisy = image.array + 0.05 * float(image.array.std()) * random.standard_normal(image.array.shape)
        write_volume(Volume(noisy.astype(np.float32), OBLIQUE.ijk_to_ras), folder / f"case{number}.nii.gz")
        labels = truth(OBLIQUE).astype(np.uint8)
        write_volume(Volume(labels, OBLIQUE.ijk_to_ras), folder / f"case{number}_labels.nii.gz")
        entries.append({"image": f"case{number}.nii.gz", "label": f"case{number}_labels.nii.gz"})
    content = {
        "labels": {"0": "background", "2": "bright egg", "5": "dark egg"},
        "modality": {"0": "MRI"},
        "training": entries[:-1],
        "validation": entries[-1:],
        **changes,
    }
    path = folder / "dataset.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def settings(data: Path, **changes: Any) -> SearchSettings:
    """Two random configurations and one round of one, rungs of two steps and four, whatever time that takes."""
    small = {"rungs": (2, 4), "reduction": 2, "first": 2, "each": 1, "candidates": 30, "rounds": 1, "repeats": 0}
    named = {"name": "toy-search", "data": data, "budget_s": 1e5, "final": 0.0, "trial": TRIAL}
    return SearchSettings(**{**named, **small, **changes})
