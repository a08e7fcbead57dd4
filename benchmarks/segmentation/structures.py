"""The models' structures in brain_oasis's manual labels (label_information.csv, Neuromorphometrics' protocol).

Compared are structures that both protocols draw alike. Not compared: cerebrospinal fluid (drawn by hand in some places
only). Counted as background, because the models' protocol (FreeSurfer's) has no such structure or gives parts of it to
several: basal forebrain, optic chiasm, vessels, lesions, fluid. Borders still differ: Neuromorphometrics draws the
cortex generously (it reaches into sulci), ends the brain stem lower, and draws ventral diencephalon and accumbens its
own way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

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


def in_models_labels(
    manual: Labels, card: SegmentationCard, numbers: Mapping[str, tuple[int, ...]] = MANUAL
) -> npt.NDArray[np.uint8]:
    """Labels with these numbers as the label values of a model; what is not compared becomes 0."""
    table = np.zeros(int(manual.max()) + 1, np.uint8)
    for structure in card.structures:
        for number in numbers.get(structure.name, ()):
            if number < table.size:
                table[number] = structure.label
    mapped: npt.NDArray[np.uint8] = table[manual]
    return mapped


def compared(card: SegmentationCard) -> Iterable[tuple[int, str]]:
    """Label and name of the structures of a model that have a manual counterpart."""
    return ((structure.label, structure.name) for structure in card.structures if structure.name in MANUAL)
