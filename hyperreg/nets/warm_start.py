"""A hypernetwork that starts as another one, of fewer hyperparameters or input channels: the same function at first."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyperreg.errors import WeightsError
from hyperreg.nets.hypernetwork import HyperNetwork


@torch.no_grad()
def start_from(new: HyperNetwork, old: HyperNetwork) -> None:
    """Copy `old` into `new`, so that new(h, more..., x, more channels) = old(h, x) whatever the added values are.

    What the new one has more gets weights of zero where it would be heard: the encoding's columns of the added
    hyperparameters (they come after the old ones), the added input channels, the rows of `mix` for added ranks. All of
    these have gradients, so training uses them from its first step.

    Raises WeightsError if `old` is no part of `new`: other layers, more hyperparameters, more ranks.
    """
    before, after = old.hyperparameters, new.hyperparameters
    if before > after:
        raise WeightsError(f"A model of {before} hyperparameters cannot start one of {after}.")
    # encode() puts all cosines before all sines.
    columns = [*range(before), *range(after, after + before)]
    first, *others = (layer for layer in new.layers if isinstance(layer, nn.Linear))
    old_first, *old_others = (layer for layer in old.layers if isinstance(layer, nn.Linear))
    try:
        for target, source in zip(others, old_others, strict=True):
            target.load_state_dict(source.state_dict())
        first.weight.zero_()
        first.weight[:, columns] = old_first.weight
        first.bias.copy_(old_first.bias)
        features = [*columns, *range(2 * after, 2 * after + old_others[-1].out_features)]
        _copy_heads(new, old, features)
        for name, parameter in new.backbone.named_parameters():
            parameter.copy_(_padded(old.backbone.get_parameter(name), parameter))
    except (RuntimeError, ValueError, AttributeError) as error:
        raise WeightsError(f"The model to start from has another network than the one to train: {error}") from error


def _copy_heads(new: HyperNetwork, old: HyperNetwork, features: list[int]) -> None:
    """The generated residual: heads @ mix; `features` says which of the new features are the old ones, in order."""
    columns = old.heads.shape[1]
    if new.generated != old.generated or new.heads.shape[1] < columns:
        raise WeightsError(
            f"The model to start from has {columns} ranks and {len(old.generated)} generated weights; "
            f"the one to train has {new.heads.shape[1]} and {len(new.generated)}."
        )
    if new.mix is not None:
        mix = torch.eye(columns).to(old.heads) if old.mix is None else old.mix
        new.mix.zero_()
        new.mix[:columns, features] = mix.to(new.mix)
        places = list(range(columns))
    elif old.mix is None:
        new.heads.zero_()
        places = features
    else:
        raise WeightsError("The model to start from has a rank of its own; name one for the model to train as well.")
    start = old_start = 0
    for name, size, old_size in zip(new.generated, new.sizes, old.sizes, strict=True):
        source, target = old.backbone.get_parameter(name), new.backbone.get_parameter(name)
        for place, column in zip(places, range(columns), strict=True):
            part = old.heads[old_start : old_start + old_size, column].view_as(source)
            new.heads[start : start + size, place] = _padded(part, target).flatten()
        # Added input channels of added ranks need no zeros: their rows of `mix` are zero.
        start, old_start = start + size, old_start + old_size


def _padded(source: Tensor, target: Tensor) -> Tensor:
    """Weights with zeros for the input channels (axis 1) that a layer did not have. Raises ValueError for others."""
    if source.shape == target.shape:
        return source
    rest = source.shape[:1] + source.shape[2:], target.shape[:1] + target.shape[2:]
    if source.ndim < 2 or rest[0] != rest[1] or source.shape[1] > target.shape[1]:
        raise ValueError(f"weights of {tuple(source.shape)} for a layer of {tuple(target.shape)}")
    padded = torch.zeros_like(target)
    padded[:, : source.shape[1]] = source
    return padded
