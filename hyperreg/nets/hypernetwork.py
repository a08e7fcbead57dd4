"""HyperMorph's hypernetwork: hyperparameters in, the weights of any torch backbone out.

Sources: HyperMorph (Hoopes et al., arXiv 2101.01035) for the idea; "magnitude invariant parametrisation"
(Ortiz et al., arXiv 2304.07645) for the form used here: the input is encoded with constant norm, and the weights are a
learned base plus a generated residual, so that no hyperparameter value starts with vanishing or exploding weights.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from hyperreg.errors import WeightsError

# The residual starts at this fraction of the base weights' spread: large enough to learn from, small enough that an
# untrained hypernetwork behaves like its backbone.
RESIDUAL_GAIN = 0.1


def encode(hyperparameters: Tensor) -> Tensor:
    """Values (H,) in [0, 1] to [cos(pi h / 2), sin(pi h / 2)]: (2H,), of norm sqrt(H) whatever the values."""
    angle = hyperparameters * (math.pi / 2)
    return torch.cat((torch.cos(angle), torch.sin(angle)))


class HyperNetwork(nn.Module):
    """Wraps a backbone so that its weights are a function of hyperparameters.

    theta(h) = theta0 + heads @ mix @ [encode(h), layers(encode(h))]. The encoding itself is among the features, because
    freshly initialised layers hardly change with h, and the slider did nothing for hundreds of steps. theta0 is
    the backbone's own state, so an ordinary trained network can be wrapped and trained on.

    backbone: any module; its buffers stay as they are.
    hyperparameters: how many values the network takes.
    hidden: widths of the dense layers.
    fixed: names of backbone parameters that are not generated (VoxelMorph's last convolution, say).
    rank: columns of `heads`, which are nearly all of the model's size; None: one per feature (the last width plus the
    encoding) and no `mix`. Trained models use three directions in weight space for one hyperparameter.
    Raises WeightsError if `fixed` names a parameter that the backbone lacks, or nothing is left to generate.
    """

    def __init__(
        self,
        backbone: nn.Module,
        hyperparameters: int = 1,
        hidden: Sequence[int] = (32, 32, 8),
        fixed: Sequence[str] = (),
        rank: int | None = None,
    ) -> None:
        super().__init__()
        names = [name for name, _ in backbone.named_parameters()]
        unknown = set(fixed) - set(names)
        if unknown:
            raise WeightsError(f"The backbone has no parameters named {sorted(unknown)}.")
        self.backbone = backbone
        self.hyperparameters = hyperparameters
        self.generated = [name for name in names if name not in fixed]
        if not self.generated:
            raise WeightsError("A hypernetwork needs at least one parameter to generate.")
        layers: list[nn.Module] = []
        width = 2 * hyperparameters
        for units in hidden:
            layers += [nn.Linear(width, units), nn.LeakyReLU(0.2)]
            width = units
        self.layers = nn.Sequential(*layers)
        features = width + 2 * hyperparameters
        self.mix: nn.Parameter | None = None
        if rank is not None:
            self.mix = nn.Parameter(torch.randn(rank, features) / math.sqrt(2 * hyperparameters))
        columns = features if rank is None else rank
        base = [backbone.get_parameter(name) for name in self.generated]
        self.sizes = [p.numel() for p in base]
        # One matrix for all parameters: one product makes every weight.
        spread = torch.cat([p.detach().float().std(correction=0).clamp_min(1e-3).expand(p.numel()) for p in base])
        heads = torch.randn(int(sum(self.sizes)), columns) * (RESIDUAL_GAIN / math.sqrt(columns)) * spread[:, None]
        self.heads = nn.Parameter(heads)

    @torch.no_grad()
    def freeze(self) -> None:
        """Make it an ordinary network: no residual, whatever the hyperparameters; only the backbone can be trained."""
        self.heads.zero_()
        for part in (self.layers, self.heads, self.mix):
            if part is not None:
                part.requires_grad_(False)

    def generate(self, hyperparameters: Tensor) -> dict[str, Tensor]:
        """The backbone's generated parameters by name, for values (H,) in [0, 1]."""
        encoded = encode(hyperparameters)
        features = torch.cat((encoded, self.layers(encoded)))
        residual = self.heads @ (features if self.mix is None else self.mix @ features)
        parts = torch.split(residual, self.sizes)
        parameters = (self.backbone.get_parameter(name) for name in self.generated)
        return {
            name: base + part.view_as(base) for name, base, part in zip(self.generated, parameters, parts, strict=True)
        }

    def run(self, weights: dict[str, Tensor], *inputs: Any) -> Any:
        """The backbone's output with weights from `generate` (kept by the caller while the hyperparameters rest)."""
        return functional_call(self.backbone, weights, inputs)

    def forward(self, hyperparameters: Tensor, *inputs: Any) -> Any:
        return self.run(self.generate(hyperparameters), *inputs)
