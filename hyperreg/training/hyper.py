"""λ-conditioned segmentation: one setting of the loss is drawn anew for every step, and the network is told.

HyperMorph's idea with another loss (arXiv 2101.01035): a hypernetwork makes the segmentation network's weights for a λ
in [0, 1], so that one training serves all values of the setting, and the user chooses afterwards.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.training.segmentation_config import HyperConfig, LossConfig

LAMBDA = "lambda"
# Of AH-Net's parts, the one that is kept; see `segmentation_models.kept_network`.
DEEP = "deep."


def wrap(network: nn.Module, hyper: HyperConfig) -> HyperNetwork:
    """A network whose weights depend on λ, from an ordinary one, which it starts as."""
    return HyperNetwork(network, 1, hyper.hidden, rank=hyper.rank)


def loss_for(loss: LossConfig, hyper: HyperConfig, lam: float) -> LossConfig:
    """The loss at a λ: the driven setting runs over its range."""
    low, high = hyper.range
    return loss.model_copy(update={hyper.drives: low + (high - low) * lam})


def network_for(network: HyperNetwork, lam: float) -> nn.Module:
    """The ordinary network for a λ: a copy."""
    with torch.no_grad():
        weights = network.generate(torch.tensor([lam], device=network.heads.device))
    made = copy.deepcopy(network.backbone)
    made.load_state_dict(weights, strict=False)
    return made


def over(network: HyperNetwork, kept: nn.Module) -> HyperNetwork:
    """The hypernetwork over what is kept of its network (see `segmentation_models.kept_network`): the other rows go."""
    sizes = dict(zip(network.generated, network.heads.split(network.sizes), strict=True))
    rank = None if network.mix is None else len(network.mix)
    hidden = [layer.out_features for layer in network.layers if isinstance(layer, nn.Linear)]
    made = HyperNetwork(kept, network.hyperparameters, hidden, rank=rank).to(network.heads.device)
    names = [name if name in sizes else DEEP + name for name in made.generated]
    with torch.no_grad():
        made.heads.copy_(torch.cat([sizes[name] for name in names]))
    made.layers.load_state_dict(network.layers.state_dict())
    if network.mix is not None:
        made.mix = nn.Parameter(network.mix.detach().clone())
    return made.eval()


def hyperparameter_entries(hyper: HyperConfig | None) -> list[dict[str, Any]]:
    """The card's "hyperparameters"."""
    if hyper is None:
        return []
    return [{"name": LAMBDA, "title": hyper.title, "default": hyper.default, "description": hyper.description}]


def network_entry(network: dict[str, Any], hyper: HyperConfig | None) -> dict[str, Any]:
    """The card's "network"."""
    return network if hyper is None else {**network, "hidden": hyper.hidden, "rank": hyper.rank}
