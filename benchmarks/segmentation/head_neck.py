"""The head and neck model on the six patients that nobody trained on, against the clinical contours of radiotherapy."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import DATA
from benchmarks.segmentation.measure import agreement, segment
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Grid
from hyperreg.segmentation.catalogue import find_model

FOLDER = DATA / "head_neck_ct"
PATIENTS = ("pt_247", "pt_260", "pt_265", "pt_269", "pt_282", "pt_286")
# Voxels of a scanner's own reconstruction, mm along the image's axes. The images at hand are coarser: made finer, they
# show that a fine CT is brought to the model's voxels and back, not what finer detail would add.
FINE_MM = (1.2, 1.2, 2.5)


def run(patient: str, model: str, output: Path, threads: int, fine: bool = False) -> dict[str, Any]:
    """Dice and HD95 per organ on the contours' own voxels, time and memory of the command. fine: of a finer image."""
    folder = output / "segmentations"
    folder.mkdir(parents=True, exist_ok=True)
    image, truth = FOLDER / f"{patient}_ct.nii.gz", read_label_map(FOLDER / f"{patient}_labels.nii.gz")
    name = f"{patient}{'-fine' if fine else ''}-{model}"
    if fine:
        image = _finer(image, output / "made" / f"{patient}-fine.nii.gz")
    out = folder / f"{name}.nii.gz"
    cost = segment([str(image)], model, out, threads)
    found = read_label_map(out)
    if fine:
        found = resample(found, truth.grid, interpolation="nearest")
    named = [(structure.label, structure.name) for structure in find_model(model).structures]
    return {"structures": agreement(found.array, truth.array, named, truth.spacing), **cost.__dict__}


def patients(split: str) -> list[dict[str, Any]]:
    """The entries of a data list: the patients of head_neck_ct of one split ("train", "test")."""
    with (FOLDER / "cases.tsv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["split"] == split]
    return [
        {
            "image": str(FOLDER / f"{row['case']}_ct.nii.gz"),
            "label": str(FOLDER / f"{row['case']}_labels.nii.gz"),
            "contoured": [int(label) for label in row["contoured"].split()],
        }
        for row in rows
    ]


def _finer(image: Path, made: Path) -> Path:
    made.parent.mkdir(parents=True, exist_ok=True)
    volume = read_volume(image)
    factor = np.array(FINE_MM) / volume.spacing
    i, j, k = (int(n) for n in np.floor(np.array(volume.shape) / factor))
    affine = volume.ijk_to_ras.copy()
    affine[:3, :3] *= factor
    # The first voxels' outer corners lie on each other.
    affine[:3, 3] = volume.grid.to_ras((factor - 1) / 2)
    write_volume(resample(volume, Grid((i, j, k), affine)), made)
    return made
