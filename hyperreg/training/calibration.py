"""The temperature by which a network's logits are divided, so that a probability of .8 is right in 8 of 10 voxels.

Source: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017. One number for all classes: it changes no
label, and it cannot mend a doubt that lies in the wrong places.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.output import replacing
from hyperreg.training.cases import SyntheticCase
from hyperreg.training.segmentation_losses import merge_unknown

# What is tried.
TEMPERATURES = tuple(float(value) for value in torch.logspace(-0.4, 0.8, 49))
# Of a case, so many voxels tell. Where nobody would doubt that there is background, they tell nothing.
VOXELS, CERTAIN = 50_000, 0.999


def fit_temperature(probabilities: Callable[[Tensor], Tensor], held_out: Sequence[SyntheticCase]) -> float:
    """The temperature of least cross-entropy on cases that were not trained on.

    probabilities: images (1, C, I, J, K) to (classes, I, J, K) that sum to 1, at temperature 1. Raises InputError
    without cases.
    """
    if not held_out:
        raise InputError("Calibration needs cases that were not trained on: set validation.cases above 0.")
    sums = torch.zeros(len(TEMPERATURES), dtype=torch.float64)
    for case in held_out:
        found = probabilities(case.images).flatten(1).T
        wanted = case.target[0].cpu().flatten(1).T
        seen = torch.nonzero((found[:, 0] < CERTAIN) | (wanted[:, 0] < CERTAIN))[:, 0]
        seen = seen[:: max(1, len(seen) // VOXELS)]
        # The logarithm of a softmax is its logits, but for a constant.
        logits, wanted = found[seen].clamp_min(1e-8).log(), wanted[seen]
        for index, temperature in enumerate(TEMPERATURES):
            sums[index] += F.cross_entropy(*merge_unknown(logits / temperature, wanted, case.unknown)).double()
    return round(TEMPERATURES[int(sums.argmin())], 3)


def calibrate(config_path: Path, folder: Path) -> float:
    """Write the temperature into the card of a model that is there already, from its training's held-out cases.

    config_path: the configuration that it was trained with. Raises FileError, InputError, WeightsError.
    """
    from hyperreg.segmentation.catalogue import read_card
    from hyperreg.segmentation.model import load_model
    from hyperreg.training.segmentation import SegmentationTrainer
    from hyperreg.training.segmentation_config import read_segmentation_config

    config = read_segmentation_config(config_path)
    network = load_model(read_card(folder))
    temperature = SegmentationTrainer(config).temperature_of(network)
    path = folder / "card.json"
    card = {**json.loads(path.read_text(encoding="utf-8")), "temperature": temperature}
    with replacing(path) as target:
        target.write_text(json.dumps(card, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return temperature
