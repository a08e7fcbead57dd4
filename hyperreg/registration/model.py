"""A registration model: hypernetwork, backbone and card; reading and writing it."""

from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from hyperreg.catalogue import MALFORMED
from hyperreg.errors import WeightsError
from hyperreg.nets.backbones import make_backbone
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.weights import fast_precision, load_network, save_weights
from hyperreg.registration.catalogue import KIND, ModelCard, read_card
from hyperreg.registration.features import CHANNELS, FEATURES
from hyperreg.registration.field import compose, integrate, sample

# VoxelMorph starts its last convolution almost at zero, so that registration starts from the identity.
FLOW_INIT_SD = 1e-5

SMALL_NETWORK: Mapping[str, Any] = {
    "features": "images",
    "backbone": "voxelmorph_unet",
    "options": {"channels": [4, 4, 8, 8, 8, 8], "unet_out_channels": 4, "final_channels": [4]},
    "hidden": [8, 4],
    "passes": 1,
}


class RegistrationModel(nn.Module):
    """Fixed and moving image and hyperparameters -> stationary velocities on the images' grid, in voxels.

    network: the card's "network": features (what is shown of the pair), backbone, options, hidden (the hypernetwork's
    layers), rank (optional, see HyperNetwork), passes (how often the network sees the pair, each time with the moving
    image warped by what it has found).
    hyperparameters: how many it takes.
    precision: what the backbone computes in (autocast); features, integration and weights stay float32.
    """

    def __init__(self, network: Mapping[str, Any], hyperparameters: int = 1) -> None:
        super().__init__()
        try:
            features = network["features"]
            if features not in FEATURES:
                raise WeightsError(f"The model needs the features '{features}', which this version does not have.")
            self.features = FEATURES[features]
            backbone = make_backbone(network["backbone"], CHANNELS[features], network["options"])
            hidden = [int(n) for n in network["hidden"]]
            rank = None if network.get("rank") is None else int(network["rank"])
            self.passes = int(network["passes"])
        except MALFORMED as error:
            raise WeightsError(f"The model's description of its network is incomplete: {error!r}") from error
        flow = [name for name, _ in backbone.named_parameters()][-2:]
        with torch.no_grad():
            backbone.get_parameter(flow[0]).normal_(0, FLOW_INIT_SD)
            backbone.get_parameter(flow[1]).zero_()
        self.hyper = HyperNetwork(backbone, hyperparameters, hidden, fixed=flow, rank=rank)
        self.precision = torch.float32
        self._run = self.hyper.run

    def weights(self, hyperparameters: Tensor) -> dict[str, Tensor]:
        """The backbone's weights for hyperparameters (H,) in [0, 1]."""
        return self.hyper.generate(hyperparameters)

    def velocity(self, weights: dict[str, Tensor], fixed: Tensor, moving: Tensor) -> Tensor:
        """One pass: images (1, 1, I, J, K) in 0..1 -> velocity (1, 3, I, J, K), voxels."""
        # Channels last: a quarter faster in float32 on a CPU, four times in bfloat16 where it has matrix units.
        shown = self.features(fixed, moving).contiguous(memory_format=torch.channels_last_3d)
        with torch.autocast(shown.device.type, self.precision, enabled=self.precision != torch.float32):
            return self._run(weights, shown).float()

    def compile(self, *args: Any, **options: Any) -> None:
        """Compile the backbone (torch.compile, same arguments): pays after many passes of one shape."""
        self._run = torch.compile(self.hyper.run, *args, **options)

    def velocities(self, weights: dict[str, Tensor], fixed: Tensor, moving: Tensor) -> list[Tensor]:
        """The velocity of every pass, first to last; the map is x -> exp(v1)(exp(v2)(... x))."""
        found: list[Tensor] = []
        warped = moving
        displacement: Tensor | None = None
        for index in range(self.passes):
            found.append(self.velocity(weights, fixed, warped))
            if index + 1 < self.passes:
                step = integrate(found[-1])
                displacement = step if displacement is None else compose(displacement, step)
                warped = sample(moving, displacement)
        return found


def displacement(velocities: list[Tensor]) -> Tensor:
    """x -> exp(v1)(exp(v2)(... x)) as a displacement (1, 3, I, J, K), voxels, of the velocities of all passes."""
    found = integrate(velocities[0])
    for velocity in velocities[1:]:
        found = compose(found, integrate(velocity))
    return found


def inverse_displacement(velocities: list[Tensor]) -> Tensor:
    """Its inverse, y -> exp(-vn)(... exp(-v1)(y))."""
    return displacement([-velocity for velocity in reversed(velocities)])


def load_model(card: ModelCard, device: str = "cpu") -> RegistrationModel:
    """Read a model's weights, as float32, ready for inference.

    Raises WeightsError if the file is missing, damaged, or does not fit the card.
    """
    model = load_network(lambda: RegistrationModel(card.network, len(card.hyperparameters)), card)
    model.precision = fast_precision(device)
    return model.to(device).eval().requires_grad_(False)


def save_model(model: RegistrationModel, card: Mapping[str, Any], folder: Path) -> ModelCard:
    """Write weights (float16) and card into `folder`; the card gets the weights' SHA256.

    Raises FileError if the folder cannot be written.
    """
    save_weights(model, {**card, "kind": KIND}, folder)
    return read_card(folder)


# What users read beside each slider.
HYPERPARAMETERS = {
    "lambda": ("Smoothness λ", "0: most flexible, 1: most rigid."),
    "gamma": (
        "Structures γ",
        "0: follow the images' intensities, 1: follow the anatomical structures learned in training.",
    ),
}


def hyperparameter_entries(defaults: Mapping[str, float]) -> list[dict[str, Any]]:
    """The card's "hyperparameters" for names and default values; lambda first. Raises WeightsError for other names."""
    if list(defaults)[:1] != ["lambda"] or set(defaults) - set(HYPERPARAMETERS):
        raise WeightsError(
            f"Hyperparameters are lambda and then any of {sorted(HYPERPARAMETERS)}, not {list(defaults)}."
        )
    return [
        {"name": name, "title": HYPERPARAMETERS[name][0], "default": value, "description": HYPERPARAMETERS[name][1]}
        for name, value in defaults.items()
    ]


def new_card(name: str, network: Mapping[str, Any], **entries: Any) -> dict[str, Any]:
    """A card with every entry that `read_card` needs; `entries` replace or add to the defaults."""
    card: dict[str, Any] = {
        "kind": KIND,
        "name": name,
        "title": name,
        "description": "",
        "version": "1",
        "licence": "Apache-2.0",
        "hyperparameters": hyperparameter_entries({"lambda": 0.3}),
        "network": dict(network),
        "grid": {"spacing_mm": 2.0, "max_shape": [80, 96, 112], "multiple": 16},
    }
    return {**card, **entries}


def save_untrained(
    folder: Path,
    name: str = "untrained",
    seed: int = 0,
    strength: float = 0.3,
    defaults: Mapping[str, float] = types.MappingProxyType({"lambda": 0.3}),
) -> ModelCard:
    """Write a tiny model with random weights into `folder / name`: for tests and for trying a network's speed.

    strength: SD of the last convolution's weights; large enough that the fields differ visibly with lambda.
    defaults: its hyperparameters and their defaults, as {"lambda": 0.3, "gamma": 0.5}.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = RegistrationModel(SMALL_NETWORK, len(defaults))
        flow = list(model.hyper.backbone.parameters())[-2]
        nn.init.normal_(flow, 0, strength)
        model.hyper.heads.data *= 10
    description = "Random weights: registers nothing."
    entries = hyperparameter_entries(defaults)
    card = new_card(name, SMALL_NETWORK, description=description, hyperparameters=entries)
    return save_model(model, card, folder / name)
