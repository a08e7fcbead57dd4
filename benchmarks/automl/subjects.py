"""The real images that trials are compared on: which structures, who is learned from, held out, and tested on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import DATA, check_data
from benchmarks.segmentation import head_neck
from benchmarks.segmentation.structures import MANUAL
from hyperreg.imaging.files import read_label_map, write_volume
from hyperreg.imaging.volume import Volume

# Of the patients of head_neck_ct with every organ, the first so many are what trials are compared by.
HELD_OUT_PATIENTS = 6
# So of brain_oasis; the others are learned from.
HELD_OUT_BRAINS, TEST_BRAINS = ("1006", "1008", "1009"), ("1010", "1017")
# Structures of a brain that are large enough for voxels of 4 mm, and the manual structures that make them up.
BRAIN_PARTS = {
    "White matter": ("Cerebral white matter",),
    "Cortex": ("Cerebral cortex",),
    "Ventricles": ("Lateral ventricle", "Third ventricle", "Fourth ventricle"),
    "Cerebellum": ("Cerebellar white matter", "Cerebellar cortex"),
    "Deep grey matter": ("Thalamus", "Caudate nucleus", "Putamen", "Globus pallidus", "Nucleus accumbens"),
    "Brain stem": ("Brain stem", "Ventral diencephalon"),
    "Hippocampus and amygdala": ("Hippocampus", "Amygdala"),
}
ORGANS = (
    "Brainstem", "Spinal cord", "Right parotid gland", "Left parotid gland", "Oesophagus", "Larynx", "Mandible",
)  # fmt: skip


@dataclass(frozen=True)
class Subjects:
    """What a search is compared on.

    title: for the report. structures: by label. spacing_mm: of the trials' voxels. modality: of the images.
    make: writes what has to be derived into a folder, and gives the entries of a data list by "training", "validation"
    and "test".
    """

    title: str
    structures: tuple[str, ...]
    spacing_mm: tuple[float, float, float]
    modality: str
    make: Callable[[Path], Mapping[str, list[dict[str, Any]]]]

    @property
    def names(self) -> dict[int, str]:
        """The structures by label."""
        return dict(enumerate(self.structures, start=1))

    def write(self, folder: Path) -> tuple[Path, list[tuple[str, Path, Path]]]:
        """The data list, and name, image and label map of those who are tested on. Raises FileError without images."""
        check_data()
        folder.mkdir(parents=True, exist_ok=True)
        entries = self.make(folder)
        content = {
            "labels": {str(label): name for label, name in self.names.items()},
            "modality": {"0": self.modality},
            "training": entries["training"],
            "validation": entries["validation"],
        }
        path = folder / "dataset.json"
        path.write_text(json.dumps(content), encoding="utf-8")
        tested = [(Path(e["image"]).name.split("_")[0], Path(e["image"]), Path(e["label"])) for e in entries["test"]]
        return path, tested


def _patients(_folder: Path) -> dict[str, list[dict[str, Any]]]:
    every = head_neck.patients("train")
    held_out = [entry for entry in every if len(entry["contoured"]) == len(ORGANS)][:HELD_OUT_PATIENTS]
    training = [entry for entry in every if entry not in held_out]
    return {"training": training, "validation": held_out, "test": head_neck.patients("test")}


def _brains(folder: Path) -> dict[str, list[dict[str, Any]]]:
    source = DATA / "brain_oasis"
    entries: dict[str, list[dict[str, Any]]] = {"training": [], "validation": [], "test": []}
    for path in sorted(source.glob("*_T1_brain.nii.gz")):
        subject = path.name.split("_")[0]
        split = "test" if subject in TEST_BRAINS else "validation" if subject in HELD_OUT_BRAINS else "training"
        label = folder / f"{subject}_parts.nii.gz"
        if not label.exists():
            write_volume(parts_of(read_label_map(source / f"{subject}_labels.nii.gz")), label)
        entries[split].append({"image": str(path), "label": str(label)})
    return entries


def parts_of(manual: Volume) -> Volume:
    """Manual labels as those of BRAIN_PARTS; everything else is background."""
    table = np.zeros(int(manual.array.max()) + 1, np.uint8)
    for label, parts in enumerate(BRAIN_PARTS.values(), start=1):
        numbers = [number for part in parts for number in MANUAL[part] if number < table.size]
        table[numbers] = label
    return Volume(table[manual.array], manual.ijk_to_ras, manual.name)


SUBJECTS = {
    "brains": Subjects(
        "T1 of brains without skull (brain_oasis), manual labels in 7 parts",
        tuple(BRAIN_PARTS), (4.0, 4.0, 4.0), "T1", _brains,
    ),
    "head-neck": Subjects(
        "CT of head and neck (head_neck_ct), 7 organs; organs that were not contoured count for nothing",
        ORGANS, (5.0, 5.0, 4.0), "CT", _patients,
    ),
}  # fmt: skip
