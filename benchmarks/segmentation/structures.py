"""The models' structures in brain_oasis's manual labels (label_information.csv, Neuromorphometrics' protocol).

Compared are structures that both protocols draw alike. Not compared: cerebrospinal fluid (drawn by hand in some places
only). Counted as background, because the models' protocol (FreeSurfer's) has no such structure or gives parts of it to
several: basal forebrain, optic chiasm, vessels, lesions, fluid. Borders still differ: Neuromorphometrics draws the
cortex generously (it reaches into sulci), ends the brain stem lower, and draws ventral diencephalon and accumbens its
own way.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from hyperreg.segmentation.catalogue import SegmentationCard

Labels = npt.NDArray[np.integer]

# Numbers of the labels that make up each structure; both sides together, as in the models.
CORTEX_FROM = 100
MANUAL: dict[str, tuple[int, ...]] = {
    "Cerebral white matter": (44, 45),
    "Cerebral cortex": (42, 43, *range(CORTEX_FROM, 208)),
    "Lateral ventricle": (49, 50, 51, 52),
    "Cerebellar white matter": (40, 41),
    "Cerebellar cortex": (38, 39, 71, 72, 73),
    "Thalamus": (59, 60),
    "Caudate nucleus": (36, 37),
    "Putamen": (57, 58),
    "Globus pallidus": (55, 56),
    "Third ventricle": (4,),
    "Fourth ventricle": (11,),
    "Brain stem": (35,),
    "Hippocampus": (47, 48),
    "Amygdala": (31, 32),
    "Nucleus accumbens": (23, 30),
    "Ventral diencephalon": (61, 62),
}
# The same in the automatic labels of brain_ixi (DLMUSE), which has white matter by lobes under numbers that
# Neuromorphometrics gives to other things.
AUTOMATIC: dict[str, tuple[int, ...]] = {**MANUAL, "Cerebral white matter": tuple(range(81, 96))}
# What is meant by "subcortical" in tables.
SUBCORTICAL = (
    "Thalamus", "Caudate nucleus", "Putamen", "Globus pallidus", "Hippocampus", "Amygdala", "Nucleus accumbens",
    "Ventral diencephalon", "Brain stem",
)  # fmt: skip


# Manual labels of the two halves of the body; from CORTEX_FROM on gyri alternate, the right one first.
RIGHT = (23, 31, 36, 38, 40, 42, 44, 47, 49, 51, 55, 57, 59, 61, *range(CORTEX_FROM, 208, 2))
LEFT = (30, 32, 37, 39, 41, 43, 45, 48, 50, 52, 56, 58, 60, 62, *range(CORTEX_FROM + 1, 208, 2))
# The number of each structure in what is compared, both sides together.
NUMBERS = {name: number for number, name in enumerate(MANUAL, start=1)}
# The side of a voxel.
NO_SIDE, ON_LEFT, ON_RIGHT = 0, 1, 2


def manual_structures(manual: Labels, numbers: Mapping[str, tuple[int, ...]] = MANUAL) -> npt.NDArray[np.uint8]:
    """Manual labels as NUMBERS; what is not compared becomes 0."""
    return _mapped(manual, {number: NUMBERS[name] for name, mine in numbers.items() for number in mine})


def found_structures(found: Labels, card: SegmentationCard) -> npt.NDArray[np.uint8]:
    """A model's labels as NUMBERS; what is not compared becomes 0."""
    return _mapped(found, {one.label: NUMBERS.get(_whole(one.name), 0) for one in card.structures})


def wrong_side(found: Labels, manual: Labels, card: SegmentationCard) -> float | None:
    """Of the voxels in which a model finds the right structure, and both name a side, how many have the other side.

    None for a model that names no sides.
    """
    sides = {one.label: _side(one.name) for one in card.structures}
    if not any(sides.values()):
        return None
    by_number = {**dict.fromkeys(LEFT, ON_LEFT), **dict.fromkeys(RIGHT, ON_RIGHT)}
    by_hand, by_model = _mapped(manual, by_number), _mapped(found, sides)
    both = (manual_structures(manual) == found_structures(found, card)) & (by_hand > 0) & (by_model > 0)
    return float((by_hand != by_model)[both].mean())


def _mapped(labels: Labels, table: Mapping[int, int]) -> npt.NDArray[np.uint8]:
    values = np.zeros(max(int(labels.max()), *table) + 1, np.uint8)
    values[list(table)] = list(table.values())
    mapped: npt.NDArray[np.uint8] = values[labels]
    return mapped


def _side(name: str) -> int:
    return {"Left": ON_LEFT, "Right": ON_RIGHT}.get(name.split(" ", maxsplit=1)[0], NO_SIDE)


def _whole(name: str) -> str:
    """A structure's name without its side."""
    return name.split(" ", 1)[1].capitalize() if _side(name) else name
