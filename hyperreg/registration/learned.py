"""The learned solver: the solver's steps, and after them, on the levels it knows, steps that a hypernetwork makes.

A learned step is u <- u o (id + (1 - lambda) G_sigma(lambda) * B_theta(lambda)(...)): G is the Gaussian of the solver,
the weights of B are made from lambda (see `nets.solver_update`). Untrained it is the plain solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperreg.catalogue import MALFORMED
from hyperreg.errors import WeightsError
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.solver_update import SolverUpdate
from hyperreg.registration.features import demons_step
from hyperreg.registration.field import compose, sample
from hyperreg.registration.filters import gaussian_kernel, separable

BACKBONE = "solver_update"
# A level is as one that was trained if its voxels are no more than this many times as long or short.
SAME_SIZE = math.sqrt(2)
# How the displacement would be evened out is shown to the model: a filter of the nearest neighbours. Its own, so that
# tuning the solver does not change what a trained model sees.
EVEN_OUT = (0.25, 0.5, 0.25)


class UpdateModel(nn.Module):
    """Hyperparameters -> weights of the update of every level that was trained.

    network: the card's "network": options (see `SolverUpdate`), hidden and rank (see `HyperNetwork`).
    precision: what the convolutions compute in (autocast).
    """

    def __init__(self, network: Mapping[str, Any], hyperparameters: int = 1) -> None:
        super().__init__()
        try:
            backbone = SolverUpdate(**network["options"])
            self.levels = [(float(one["spacing_mm"]), int(one["steps"])) for one in network["options"]["levels"]]
            hidden = [int(n) for n in network["hidden"]]
            rank = None if network.get("rank") is None else int(network["rank"])
        except MALFORMED as error:
            raise WeightsError(f"The model's description of its network is incomplete: {error!r}") from error
        shared = [name for name, _ in backbone.named_parameters() if name.startswith("encoders.")]
        self.hyper = HyperNetwork(backbone, hyperparameters, hidden, fixed=shared, rank=rank)
        self.precision = torch.float32

    @property
    def backbone(self) -> SolverUpdate:
        return cast(SolverUpdate, self.hyper.backbone)

    def weights(self, hyperparameters: Tensor) -> dict[str, Tensor]:
        """The generated weights for hyperparameters (H,) in [0, 1]."""
        return self.hyper.generate(hyperparameters)

    def level_of(self, spacing_mm: float) -> int | None:
        """Which of the trained levels has about such voxels."""
        for index, (trained, _steps) in enumerate(self.levels):
            if trained / SAME_SIZE < spacing_mm <= trained * SAME_SIZE:
                return index
        return None

    def detail(self, level: int) -> int:
        """The images that the level's features are made of are so many times finer than the level."""
        return self.backbone.detail[level]

    def cast(self, image: Tensor) -> torch.autocast:
        return torch.autocast(image.device.type, self.precision, enabled=self.precision != torch.float32)


@dataclass(frozen=True)
class LearnedSteps:
    """The learned steps of one level of one pair, after the solver's own.

    level, weights: of the model. fixed, moving: on the level's voxels, (1, 1, I, J, K) in 0..1; detailed: both, so many
    times finer as `UpdateModel.detail` says. freedom: what is added is multiplied with, 1 - lambda, fading to zero at
    the border. smoothing_sd: of what is added, voxels.
    """

    model: UpdateModel
    level: int
    weights: dict[str, Tensor]
    fixed: Tensor
    moving: Tensor
    detailed: Sequence[Tensor]
    freedom: Tensor
    smoothing_sd: float

    def __call__(self, displacement: Tensor) -> Tensor:
        """The map x + u(x) after these steps: (1, 3, I, J, K), voxels of the level. displacement: u to start from."""
        smoothing = gaussian_kernel(self.smoothing_sd)
        with self.model.cast(self.fixed):
            fixed, moving = (self.model.backbone.encode(self.level, image) for image in self.detailed)
        for _ in range(self.model.levels[self.level][1]):
            # What the steps see of the map has no gradient; the maps that they make have.
            now = displacement.detach()
            evened = separable(now, EVEN_OUT, "repeat") - now
            demons = torch.cat(demons_step(self.fixed, sample(self.moving, now, padding="border")), dim=1)
            warped = sample(moving, now, padding="border")
            with self.model.cast(self.fixed):
                added: Tensor = self.model.hyper.run(self.weights, self.level, fixed, warped, demons, evened)
            displacement = compose(displacement, separable(added, smoothing, "zeros") * self.freedom)
        return displacement
