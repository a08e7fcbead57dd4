"""A fixed set of synthetic pairs that no training sees, measured as at inference: all passes, several lambdas."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from hyperreg.registration import losses
from hyperreg.registration.field import jacobian_determinant, sample
from hyperreg.registration.model import RegistrationModel, displacement
from hyperreg.training.engine import SEED_OFFSET
from hyperreg.training.label_maps import LabelMap
from hyperreg.training.synthesis import PairSynthesiser, SyntheticPair


def validation_pairs(pairs: PairSynthesiser, maps: Sequence[LabelMap], count: int) -> list[SyntheticPair]:
    """`count` pairs of `maps` as the last stage of the training makes them, with numbers that it never reaches."""
    other = replace(pairs, maps=maps, stages=pairs.stages[-1:], _on_device={}, _halves={})
    return [other[SEED_OFFSET + index] for index in range(count)]


@torch.no_grad()
def validate(
    model: RegistrationModel,
    pairs: Sequence[SyntheticPair],
    lambdas: Sequence[float],
    others: Sequence[float] = (),
) -> list[dict[str, float]]:
    """Means over the pairs, a row per lambda; `others`: the values of the hyperparameters after lambda.

    dice (soft, of the structures), similarity (local NCC, pairs of one contrast), error_voxels (inside the structures,
    pairs with a known field), smoothness (mean squared gradient of the displacement), folding_percent.
    """
    device = next(model.parameters()).device
    rows = []
    for lam in lambdas:
        weights = model.weights(torch.tensor([lam, *others], device=device))
        found: dict[str, list[float]] = {}
        for pair in pairs:
            for name, value in _figures(model, weights, pair.to(device)).items():
                found.setdefault(name, []).append(value)
        rows.append({"lambda": lam, **{name: sum(values) / len(values) for name, values in found.items()}})
    return rows


def _figures(model: RegistrationModel, weights: dict[str, torch.Tensor], pair: SyntheticPair) -> dict[str, float]:
    fixed, moving = pair.images.split(1, dim=1)
    found = displacement(model.velocities(weights, fixed, moving))
    figures = {
        "smoothness": losses.diffusion(found),
        "folding_percent": (jacobian_determinant(found) <= 0).float().mean() * 100,
    }
    if pair.has_structures:
        figures["dice"] = 1 - losses.dice_loss(pair.fixed_structures, sample(pair.moving_structures, found))
        figures["dice_before"] = 1 - losses.dice_loss(pair.fixed_structures, pair.moving_structures)
    if pair.same_contrast:
        figures["similarity"] = 1 - losses.lncc_loss(fixed, sample(moving, found))
    if pair.displacement is not None:
        inside = pair.fixed_structures.sum(1)[0] > 0.5
        figures["error_voxels"] = (found - pair.displacement)[0, :, inside].norm(dim=0).mean()
        figures["error_before_voxels"] = pair.displacement[0, :, inside].norm(dim=0).mean()
    return {name: float(value) for name, value in figures.items()}
