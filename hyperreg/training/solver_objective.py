"""What the learned solver learns from one pair: HyperMorph's loss of the map after every level (deep supervision)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.registration.grids import fade
from hyperreg.registration.learned import LearnedSteps, UpdateModel
from hyperreg.registration.solver import smoothing_of
from hyperreg.registration.steps import LEVELS, Level, climb, coarser, finer, shrink
from hyperreg.training.config import RegistrationConfig
from hyperreg.training.objective import Loss
from hyperreg.training.synthesis import SyntheticPair

# Plain steps before the learned ones of a level; drawn, so that the update does not count on a certain state.
PLAIN_STEPS = (2, 7)
# Pairs are cut out of heads: steps fade over a single voxel at the border, as on the coarsest level.
COARSEST = LEVELS[0].factor
# The weight of a level's loss falls so fast with the level.
LEVEL_WEIGHT = 0.5


def coarser_pair(pair: SyntheticPair, factor: int) -> SyntheticPair:
    """The pair on voxels that are `factor` times longer."""
    if factor == 1:
        return pair
    fixed, moving = (shrink(image, factor) for image in pair.images.split(1, dim=1))
    return replace(
        pair,
        images=torch.cat((fixed, moving), dim=1),
        fixed_structures=F.avg_pool3d(pair.fixed_structures, factor),
        moving_structures=F.avg_pool3d(pair.moving_structures, factor),
        displacement=None if pair.displacement is None else coarser(pair.displacement, factor),
    )


class SolverObjective(Loss):
    """The learned solver and the loss that trains it. Voxels of the pairs are as long as the card's grid says."""

    def __init__(self, model: UpdateModel, config: RegistrationConfig) -> None:
        super().__init__(config)
        self.model = model
        finest = float(config.grid["spacing_mm"])
        self.factors = [round(spacing / finest) for spacing, _steps in model.levels]
        if any(factor < model.detail(number) for number, factor in enumerate(self.factors)):
            raise InputError(f"Pairs with voxels of {finest:g} mm are too coarse for the network's levels and detail.")

    def forward(
        self, pair: SyntheticPair, values: list[float], plain_steps: list[int]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of all levels, and the parts of the last one's.

        plain_steps: on a level twice as coarse as the first that is learned, then before the learned ones on each.
        """
        loss = pair.images.new_zeros(())
        parts: dict[str, Tensor] = {}
        count = len(self.factors)
        for number, (own, displacement) in enumerate(self.levels(pair, values, plain_steps)):
            of_level, parts = self.loss(own, displacement, displacement, values)
            loss = loss + LEVEL_WEIGHT ** (count - 1 - number) * of_level
        return loss, parts

    def levels(
        self, pair: SyntheticPair, values: Sequence[float], plain_steps: Sequence[int], learned: bool = True
    ) -> Iterator[tuple[SyntheticPair, Tensor]]:
        """Per level, coarse to fine, the pair and the map on it. learned: False for the plain solver's."""
        lam, images = values[0], pair.images.split(1, dim=1)
        weights = self.model.weights(torch.tensor(values, device=pair.images.device))
        everywhere = pair.images.new_full((1, 1, 1, 1, 1), lam)
        sd = smoothing_of(lam, pair.same_contrast)

        def climbed(factor: int, count: int, start: Tensor) -> Tensor:
            fixed, moving = (shrink(image, factor) for image in images)
            return climb(fixed, moving, start, everywhere, sd, Level(COARSEST, count), _ignore)

        before = 2 * self.factors[0]
        nothing = torch.zeros_like(shrink(images[0], before)).expand(-1, 3, -1, -1, -1)
        with torch.no_grad():
            displacement = climbed(before, plain_steps[0], nothing)
        for number, (factor, count) in enumerate(zip(self.factors, plain_steps[1:], strict=True)):
            with torch.no_grad():
                displacement = climbed(factor, count, finer(displacement.detach(), before // factor))
            if learned:
                fixed, moving = (shrink(image, factor) for image in images)
                detailed = [shrink(image, factor // self.model.detail(number)) for image in images]
                i, j, k = fixed.shape[2:]
                freedom = (1 - lam) * fade((i, j, k), 1.0).to(fixed)
                steps = LearnedSteps(self.model, number, weights, fixed, moving, detailed, freedom, smoothing_of(lam))
                displacement = steps(displacement)
            before = factor
            yield coarser_pair(pair, factor), displacement


def _ignore(_fraction: float) -> None:
    pass


@torch.no_grad()
def validate_solver(
    objective: SolverObjective, pairs: Sequence[SyntheticPair], lambdas: Sequence[float]
) -> list[dict[str, float]]:
    """Means over the pairs, a row per lambda: the parts of the loss, and (plain_...) those of the plain solver."""
    device = next(objective.parameters()).device
    steps = [PLAIN_STEPS[1]] * (1 + len(objective.factors))
    rows = []
    for lam in lambdas:
        found: dict[str, list[float]] = {}
        for pair in pairs:
            for learned, prefix in ((True, ""), (False, "plain_")):
                *_, (own, displacement) = objective.levels(pair.to(device), [lam], steps, learned)
                loss, parts = objective.loss(own, displacement, displacement, [lam])
                for name, value in {"loss": loss, **parts}.items():
                    if not torch.isnan(value):
                        found.setdefault(prefix + name, []).append(float(value))
        rows.append({"lambda": lam, **{name: sum(values) / len(values) for name, values in found.items()}})
    return rows
