"""Synthetic brain tumours: nested blobs in a label map, and how the sequences of a tumour protocol show them.

A shape without physics: healthy tissue is replaced, not pushed aside, and oedema follows white matter only in that it
reaches further there. Enough to learn what is bright or dark where; no substitute for real tumours.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.training.appearance import LABELS, T1_TISSUES, Contrast
from hyperreg.training.deformation import positions, smooth_noise
from hyperreg.training.draws import Draws

# Labels in maps, after whatever lies around the brain, and the numbers by which configurations name them.
NECROSIS, OEDEMA, ENHANCING = LABELS - 3, LABELS - 2, LABELS - 1
TUMOUR_NUMBERS = {9001: NECROSIS, 9002: OEDEMA, 9003: ENHANCING}
# The core's radius, mm, how far oedema reaches beyond it in white matter, and its share of that elsewhere.
CORE_MM, OEDEMA_MM, IN_GREY = (6.0, 25.0), (3.0, 25.0), 0.3
# Share of the core's radius that the enhancing rim takes; share of cores that are solid; share without any oedema.
RIM, SOLID, DRY = (0.15, 0.6), 0.2, 0.1
# Ranges of grey values per sequence: white and grey matter, fluid, necrosis, oedema, enhancing part.
SEQUENCES: dict[str, dict[str, tuple[float, float]]] = {
    "t1c": {"w": (0.5, 0.8), "g": (0.4, 0.65), "f": (0.1, 0.3), "n": (0.2, 0.5), "o": (0.3, 0.6), "e": (0.75, 1.3)},
    "t1": {"w": (0.7, 1.0), "g": (0.5, 0.75), "f": (0.1, 0.35), "n": (0.2, 0.6), "o": (0.4, 0.75), "e": (0.4, 0.8)},
    "t2": {"w": (0.25, 0.45), "g": (0.35, 0.6), "f": (0.8, 1.3), "n": (0.5, 1.1), "o": (0.5, 1.0), "e": (0.35, 0.8)},
    "flair": {"w": (0.3, 0.5), "g": (0.35, 0.6), "f": (0.05, 0.3), "n": (0.2, 0.9), "o": (0.6, 1.1), "e": (0.4, 0.9)},
}
_WHITE = tuple(index for index, letter in enumerate(T1_TISSUES, start=1) if letter == "w")
_FLUID = tuple(index for index, letter in enumerate(T1_TISSUES, start=1) if letter == "f")


def add_tumour(labels: Tensor, spacing: float, draws: Draws) -> Tensor:
    """Labels (I, J, K) int64 with a tumour in the brain; the same labels where no white matter is seen.

    Necrosis lies inside the enhancing part, that inside oedema where there is any; ventricles and what is around the
    brain stay. spacing: mm.
    """
    white = torch.isin(labels, torch.tensor(_WHITE, device=labels.device))
    places = torch.nonzero(white)
    if not len(places):
        return labels
    centre = places[draws.integer(0, len(places) - 1)]
    middle = (centre - (torch.tensor(labels.shape, device=labels.device) - 1) / 2) * spacing
    stretch = 1 + draws.uniforms(-0.25, 0.25, 3, 1, 1, 1)
    distance = ((positions(labels.shape, spacing, labels.device) - middle.view(3, 1, 1, 1)) * stretch).norm(dim=0)
    outer, inner = (_bumps(labels.shape, size / spacing, draws) for size in (15.0, 6.0))
    distance = distance * outer
    core = draws.uniform(*CORE_MM)
    reach = 0.0 if draws.chance(DRY) else draws.uniform(*OEDEMA_MM)
    hollow = 0.0 if draws.chance(SOLID) else core * (1 - draws.uniform(*RIM))
    brain = (
        (labels >= 1) & (labels <= len(T1_TISSUES)) & ~torch.isin(labels, torch.tensor(_FLUID, device=labels.device))
    )
    wet = torch.where(white, core + reach, core + IN_GREY * reach)
    found = torch.where(brain & (distance < wet), OEDEMA, labels)
    found = torch.where(brain & (distance < core), ENHANCING, found)
    # The rim is closed: necrosis keeps a voxel away from whatever is not core.
    core_only = F.max_pool3d((brain & (distance >= core))[None, None].float(), 3, 1, 1)[0, 0] == 0
    return torch.where(brain & core_only & (distance * inner.clamp_min(1) < hollow), NECROSIS, found)


def sequence_contrast(sequence: str, draws: Draws) -> Contrast:
    """Grey values of a sequence (SEQUENCES): tissues and tumour within its ranges, what lies around at random."""
    drawn = {letter: draws.uniform(*bounds) for letter, bounds in SEQUENCES[sequence].items()}
    drawn["d"] = (drawn["w"] + drawn["g"]) / 2
    means = draws.uniforms(0.1, 1.0, LABELS)
    means[1 : 1 + len(T1_TISSUES)] = torch.tensor([drawn[letter] for letter in T1_TISSUES], device=draws.device)
    for label, letter in ((NECROSIS, "n"), (OEDEMA, "o"), (ENHANCING, "e")):
        means[label] = drawn[letter]
    means[0] = 0.0
    return Contrast(means, draws.uniforms(0.01, 0.06, LABELS))


def _bumps(shape: Sequence[int], control: float, draws: Draws) -> Tensor:
    """(I, J, K) factors around 1 that make a sphere lumpy."""
    return (1 + 0.3 * smooth_noise(shape, control, draws.fields, channels=1)[0, 0]).clamp(0.4, 1.8)
