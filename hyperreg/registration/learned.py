"""The learned solver: the solver's steps, and what a hypernetwork adds to the last of them on the levels it knows.

d = (1 - lambda) (alpha(lambda) g + G_sigma(lambda) * B_theta(lambda)(...)): g is the plain step, G its Gaussian, alpha
and B are made from lambda (see `nets.solver_update`). Untrained it is the plain solver.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from hyperreg.catalogue import MALFORMED
from hyperreg.errors import WeightsError
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.solver_update import SolverUpdate
from hyperreg.registration.features import demons_step
from hyperreg.registration.field import sample

BACKBONE = "solver_update"
# A level is as one that was trained if its voxels are no more than this many times as long or short.
SAME_SIZE = math.sqrt(2)


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

    def update(
        self,
        level: int,
        weights: dict[str, Tensor],
        smoothing_sd: float,
        fixed: Tensor,
        detailed_fixed: Tensor,
        detailed_moving: Tensor,
    ) -> LevelUpdate:
        """What is added on that level. fixed: on the level's voxels; the detailed images: `detail` times finer.

        smoothing_sd: see `LevelUpdate`.
        """
        with self.cast(fixed):
            features = [self.backbone.encode(level, image) for image in (detailed_fixed, detailed_moving)]
        return LevelUpdate(self, level, weights, smoothing_sd, fixed, features[0], features[1], self.levels[level][1])

    def cast(self, image: Tensor) -> torch.autocast:
        return torch.autocast(image.device.type, self.precision, enabled=self.precision != torch.float32)


@dataclass(frozen=True)
class LevelUpdate:
    """The learned update on one level of one pair.

    smoothing_sd: what is added is smoothed so much, voxels; as between images of one contrast, whatever they are.
    steps: so many last steps of the level have it.
    """

    model: UpdateModel
    level: int
    weights: dict[str, Tensor]
    smoothing_sd: float
    fixed: Tensor
    fixed_features: Tensor
    moving_features: Tensor
    steps: int

    def __call__(self, warped: Tensor, displacement: Tensor, plain: Tensor, diffusion: Tensor) -> tuple[Tensor, Tensor]:
        """See `SolverUpdate.forward`. warped: the moving image under the map x + `displacement`."""
        demons = torch.cat(demons_step(self.fixed, warped), dim=1)
        features = sample(self.moving_features, displacement, padding="border")
        with self.model.cast(warped):
            found: tuple[Tensor, Tensor] = self.model.hyper.run(
                self.weights, self.level, self.fixed_features, features, demons, plain, diffusion
            )
        return found
