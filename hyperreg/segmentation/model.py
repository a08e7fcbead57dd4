"""A segmentation model: the network that a card describes; reading and writing it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from hyperreg.catalogue import MALFORMED, check_grid
from hyperreg.errors import InputError, WeightsError
from hyperreg.nets.anisotropic import AHNet
from hyperreg.nets.cascade import Cascade
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.searched import SearchedNet
from hyperreg.nets.segresnet import SegResNet
from hyperreg.nets.sided import SidedNet
from hyperreg.nets.weights import load_network, save_weights
from hyperreg.segmentation.catalogue import KIND, SegmentationCard, read_card


def make_cascade(
    inputs: int,
    channels: int,
    exclusive: bool,
    first: Mapping[str, Any],
    second: Mapping[str, Any],
    window: Sequence[int],
) -> Cascade:
    """Two SegResNets, the second with attention gates and stage 1's result among its inputs. See `Cascade`."""
    found = channels - 1 if exclusive else channels
    return Cascade(
        SegResNet(inputs, channels, **first),
        SegResNet(inputs + found, channels, gated=True, **second),
        window,
        exclusive,
    )


def make_monai(name: str, inputs: int, channels: int, /, **options: Any) -> nn.Module:
    """A network of MONAI as bundles name it, with the settings that `bundle_cards` lets through."""
    from monai.networks import nets

    options = {**options, "in_channels": inputs, "out_channels": channels}
    if name == "UNet":
        network: nn.Module = nets.UNet(**{"spatial_dims": 3, **options})
        multiple = math.prod(options["strides"])
    elif name == "SegResNetDS":
        deep = nets.SegResNetDS(**options)
        network, multiple = deep, int(max(deep.shape_factor()))
    else:
        network = nets.SegResNet(**options)
        multiple = 2 ** (len(options.get("blocks_down", (1, 2, 2, 4))) - 1)
    network.multiple = multiple
    return network


def make_sided(
    inputs: int,
    _channels: int,
    exclusive: bool,
    channels: Sequence[int],
    network: Mapping[str, Any],
    side: Mapping[str, Any],
) -> SidedNet:
    """A network for structures, and one for the side. See `SidedNet`."""
    structures = make_network(network, inputs, max(channels) + 1, exclusive)
    return SidedNet(structures, make_network(side, inputs, 1, exclusive=False), channels)


# Name in cards -> inputs, channels, exclusive, options to network.
NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "segresnet": lambda inputs, channels, _exclusive, /, **options: SegResNet(inputs, channels, **options),
    "ahnet": lambda inputs, channels, _exclusive, /, **options: AHNet(inputs, channels, **options),
    "cascade": make_cascade,
    "sided": make_sided,
    "searched": lambda inputs, channels, _exclusive, /, **options: SearchedNet(inputs, channels, **options),
    "monai_segresnet": lambda inputs, channels, _exclusive, /, **options: make_monai(
        "SegResNet", inputs, channels, **options
    ),
    "monai_segresnetds": lambda inputs, channels, _exclusive, /, **options: make_monai(
        "SegResNetDS", inputs, channels, **options
    ),
    "monai_unet": lambda inputs, channels, _exclusive, /, **options: make_monai("UNet", inputs, channels, **options),
}


def make_network(
    network: Mapping[str, Any], inputs: int, channels: int, exclusive: bool, hyperparameters: int = 0
) -> nn.Module:
    """The network of a card's "network": {"name", "options"}.

    hyperparameters: how many the card declares; with any, a HyperNetwork around the network, of which "network" then
    holds "hidden" and maybe "rank". Raises WeightsError for what this version cannot make.
    """
    name, options = network.get("name"), network.get("options", {})
    if name not in NETWORKS:
        raise WeightsError(f"The model needs the network '{name}', which this version does not have; update HyperReg.")
    try:
        made = NETWORKS[name](inputs, channels, exclusive, **options)
        if not hyperparameters:
            return made
        return HyperNetwork(made, hyperparameters, network["hidden"], rank=network.get("rank"))
    except MALFORMED as error:
        raise WeightsError(f"The model's description of its network '{name}' cannot be used: {error}") from error


def try_network(network: nn.Module, card: SegmentationCard) -> None:
    """Show a network (on torch's device "meta": nothing is computed) what the card says that it takes.

    Raises WeightsError unless it gives so many channels on the same grid.
    """
    if isinstance(network, HyperNetwork):
        network = network.backbone
    multiple = int(getattr(network, "multiple", 1))
    shape = [math.ceil(n / multiple) * multiple for n in card.window]
    try:
        check_grid((), shape)
        with torch.device("meta"), torch.inference_mode():
            found = network.eval()(torch.zeros(1, len(card.inputs), *shape))
        fits = tuple(found.shape) == (1, card.channels, *shape)
    except Exception as error:  # sizes that do not go together fail in whatever way
        raise WeightsError(f"The model's network cannot take images of {shape} voxels: {str(error)[:300]}") from error
    if not fits:
        raise WeightsError(f"The model's network makes {tuple(found.shape)} of images of {shape} voxels.")


def load_model(
    card: SegmentationCard,
    device: str = "cpu",
    hyperparameters: Mapping[str, float] | None = None,
    path: Path | None = None,
) -> nn.Module:
    """A card's network with its weights, ready for inference.

    hyperparameters: values from 0 to 1 by name, for which the weights are made if the card declares any; the card's
    defaults where none is given. path: one of the card's `weight_files`; by default the first.
    Raises WeightsError if the weights are missing, damaged, or those of another network; InputError for hyperparameters
    that the card does not declare.
    """
    values = _values(card, hyperparameters or {})
    network = load_network(
        lambda: make_network(card.network, len(card.inputs), card.channels, card.exclusive, len(values)), card, path
    )
    if isinstance(network, HyperNetwork):
        # The weights for these values are made once: from here on it is an ordinary network.
        generated = network.requires_grad_(False).generate(torch.tensor(values))
        network = network.backbone
        network.load_state_dict(generated, strict=False)
    return network.to(device).eval().requires_grad_(False)


def load_ensemble(
    card: SegmentationCard, device: str = "cpu", hyperparameters: Mapping[str, float] | None = None
) -> list[nn.Module]:
    """All networks of a card, the first one first. Raises InputError if there is only one, and as `load_model`."""
    if not card.ensemble:
        raise InputError(f"The model '{card.name}' has one set of weights only; leave out the ensemble.")
    return [load_model(card, device, hyperparameters, path) for path in card.weight_files]


def _values(card: SegmentationCard, given: Mapping[str, float]) -> list[float]:
    """The hyperparameters in the card's order."""
    values = {**{h.name: h.default for h in card.hyperparameters}, **given}
    unknown = set(given) - {h.name for h in card.hyperparameters}
    if unknown and not card.hyperparameters:
        raise InputError(
            f"The model '{card.name}' has no hyperparameters (such as λ): leave {', '.join(unknown)} out. "
            "`hyperreg models` shows which models have some."
        )
    if unknown or not all(0 <= value <= 1 for value in values.values()):
        names = ", ".join(h.name for h in card.hyperparameters) or "none"
        raise InputError(
            f"{', '.join(f'{name}={value:g}' for name, value in given.items())}: the model '{card.name}' has the "
            f"hyperparameters {names}, each from 0 to 1."
        )
    return list(values.values())


def save_model(network: nn.Module, card: Mapping[str, Any], folder: Path, half: bool = True) -> SegmentationCard:
    """Write weights (float16, or as they are) and card into `folder`. Raises FileError if it cannot be written."""
    save_weights(network, {**card, "kind": KIND}, folder, half)
    return read_card(folder)


def new_card(name: str, structures: Sequence[Mapping[str, Any]], **entries: Any) -> dict[str, Any]:
    """A card with every entry that is needed, for one MR image and a small SegResNet; `entries` replace them."""
    card: dict[str, Any] = {
        "kind": KIND,
        "name": name,
        "title": name,
        "description": "",
        "version": "1",
        "licence": "Apache-2.0",
        "citation": "",
        "modality": "MR",
        "inputs": [{"name": "image", "title": "Image"}],
        "structures": list(structures),
        "output": {"channels": len(structures) + 1, "activation": "softmax"},
        "network": {"name": "segresnet", "options": {"filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}},
        "grid": {"axes": "ras", "spacing_mm": [1.0, 1.0, 1.0], "window": [96, 96, 96], "flips": []},
        "intensities": {"method": "robust"},
    }
    return {**card, **entries}


def save_untrained(folder: Path, card: Mapping[str, Any], seed: int = 0) -> SegmentationCard:
    """Write a model with random weights into `folder / name`: for tests and for trying a network's speed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        output = card["output"]
        exclusive = output["activation"] == "softmax"
        count = len(card.get("hyperparameters", ()))
        network = make_network(card["network"], len(card["inputs"]), output["channels"], exclusive, count)
    return save_model(network, card, folder / card["name"])
