"""How much memory a trial needs, counted on tensors without data: nothing is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

FLOAT = 4
# Weights, gradients and Adam's two averages; and the copy that a rung's decay goes back to (all but the gradients).
COPIES = 7


@dataclass(frozen=True)
class Needs:
    """bytes: of weights, optimiser, and what one training step keeps for its gradients. parameters: weights."""

    bytes: int
    parameters: int


def needs(make: Callable[[], nn.Module], inputs: int, patch: tuple[int, int, int], batch: int) -> Needs:
    """What training `make()` on batches of patches needs; without the memory of a convolution's own workspace."""
    with torch.device("meta"):
        network = make().train()
        images = torch.empty(batch, inputs, *patch)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        # By storage, of which views are no second copy. Held, so that no address is used twice.
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        logits = network(images)
        logits.float().softmax(1)

    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    activations = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in weights)
    parameters = sum(p.numel() for p in network.parameters())
    # A gradient of the largest size, beside what is kept: logits and their loss.
    extra = 4 * logits.numel() * FLOAT
    return Needs(activations + extra + COPIES * parameters * FLOAT, parameters)
