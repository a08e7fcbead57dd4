"""One brain in three contrasts: how far the segmentations of T1, T2 and FLAIR agree. There is no truth here."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import DATA
from benchmarks.segmentation.measure import agreement, segment
from hyperreg.imaging.files import read_label_map
from hyperreg.segmentation.catalogue import find_model

PATIENT = "patient19"
# Images of one patient (multiple sclerosis) on one grid of 1 mm.
CONTRASTS = ("T1", "T2", "FLAIR")


def run(model: str, output: Path, threads: int) -> dict[str, Any]:
    """Dice and HD95 between the segmentations of every two contrasts, and every structure's volume in each."""
    folder = output / "segmentations"
    folder.mkdir(parents=True, exist_ok=True)
    card = find_model(model)
    found = {}
    for contrast in CONTRASTS:
        out = folder / f"{PATIENT}-{contrast}-{model}.nii.gz"
        segment([str(DATA / "brain_ms" / f"{PATIENT}_{contrast}.nii.gz")], model, out, threads)
        found[contrast] = read_label_map(out)
    named = [(structure.label, structure.name) for structure in card.structures]
    spacing = found[CONTRASTS[0]].spacing
    return {
        "regions": {
            f"{one}, {two}": agreement(found[one].array, found[two].array, named, spacing)
            for one, two in itertools.combinations(CONTRASTS, 2)
        },
        "structures": {
            name: {f"ml_{contrast}": float(np.count_nonzero(volume.array == label)) * float(np.prod(spacing)) / 1000
                   for contrast, volume in found.items()}
            for label, name in named
        },
    }  # fmt: skip
