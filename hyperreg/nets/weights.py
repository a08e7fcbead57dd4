"""Weights of models: in safetensors files, beside the card that names their SHA256. Nothing is ever unpickled."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.modules.module import (
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from hyperreg.catalogue import CARD, WEIGHTS, Card, file_sha256
from hyperreg.errors import FileError, HyperRegError, WeightsError
from hyperreg.imaging.output import make_folder, replacing

# More parts than any network has that one would use here (SegResNet has about 150).
MOST_MODULES = 20_000
# Larger weights are no result of training (variances of grey values, the largest there are, stay below).
LARGEST_WEIGHT = 1e10

N = TypeVar("N", bound=nn.Module)


def load_network(make: Callable[[], N], card: Card, path: Path | None = None) -> N:
    """The network that `make` makes, with the weights of a card's model, as float32.

    What the card describes is compared with the header of the file of weights before anything is made, so that no
    network takes more memory than its file justifies.
    path: one of the card's `weight_files`; by default the first.
    Raises WeightsError if the file is missing, damaged, does not fit the card, or holds what are no weights.
    """
    card.check_weights()
    try:
        described_network(make, _header(card.weights if path is None else path))
        state = load_file(card.weights if path is None else path)
        check_values(state)
        network = make()
        network.load_state_dict({name: _single(tensor) for name, tensor in state.items()}, strict=True)
    except (SafetensorError, WeightsError, OSError) as error:
        raise WeightsError(
            f"The weights of the model '{card.name}' do not fit its card; reinstall it. ({error})"
        ) from error
    return network


def described_network(make: Callable[[], N], shapes: Mapping[str, tuple[int, ...]]) -> N:
    """The network that `make` makes, without memory for its weights (torch's device "meta").

    Raises WeightsError unless its weights have these names and shapes, and as soon as it has more of them.
    """
    try:
        with _limited(sum(math.prod(shape) for shape in shapes.values())), torch.device("meta"):
            network = make()
        wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    except HyperRegError:
        raise
    except Exception as error:  # options that a library refuses in whatever way
        raise WeightsError(f"The network cannot be made: {str(error)[:300]}") from error
    other = sorted(name for name in {*wanted, *shapes} if wanted.get(name) != shapes.get(name))
    if other:
        sides = (str(side.get(other[0], "none")) for side in (wanted, shapes))
        raise WeightsError(
            f"{len(other)} tensors differ; '{other[0]}' of the network is {', of the weights '.join(sides)}."
        )
    return network


@contextmanager
def _limited(numbers: int) -> Iterator[None]:
    """Ends the making of a network that has more parameters than this, or more parts than any."""
    parameters = modules = 0

    def count_parameter(_module: nn.Module, _name: str, parameter: nn.Parameter | None) -> None:
        nonlocal parameters
        parameters += 0 if parameter is None else parameter.numel()
        if parameters > numbers:
            raise WeightsError(f"The network that is described has more parameters than the {numbers} weights.")

    def count_module(_module: nn.Module, _name: str, _part: nn.Module | None) -> None:
        nonlocal modules
        modules += 1
        if modules > MOST_MODULES:
            raise WeightsError(f"The network that is described has more than {MOST_MODULES} parts.")

    hooks = [
        register_module_parameter_registration_hook(count_parameter),
        register_module_module_registration_hook(count_module),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def check_values(state: Mapping[str, torch.Tensor]) -> None:
    """Raise WeightsError for weights that are NaN, infinite, or beyond what training makes."""
    for name, tensor in state.items():
        # One pass; NaN is not less than anything.
        if tensor.is_floating_point() and tensor.numel() and not tensor.abs().max().item() < LARGEST_WEIGHT:
            raise WeightsError(f"'{name}' holds values that are no weights (NaN, infinite or huge).")


def save_weights(network: nn.Module, card: Mapping[str, Any], folder: Path, half: bool = True) -> None:
    """Write weights (float16, or as they are) and card into `folder`; the card gets the weights' SHA256.

    Raises FileError if the folder cannot be written.
    """
    make_folder(folder)
    state = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
    size = sum(tensor.nbytes for tensor in state.values())
    with replacing(folder / WEIGHTS, size) as target:
        try:
            save_file(state, target)
        except SafetensorError as error:  # a full disk, too
            raise FileError(f"The model cannot be written to '{folder}': {error}.") from error
        target.chmod(0o644)  # safetensors writes for the owner alone; models are shared
        digest = file_sha256(target)
    with replacing(folder / CARD) as target:
        text = json.dumps({**card, "sha256": digest}, indent=2, ensure_ascii=False) + "\n"
        target.write_text(text, encoding="utf-8")


def _header(path: Path) -> dict[str, tuple[int, ...]]:
    """The shapes of the tensors in a file of weights, by name; nothing but its header is read."""
    with safe_open(path, framework="pt") as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118  not a mapping


def fast_precision(device: str) -> torch.dtype:
    """bfloat16 on a CPU that has matrix units for it (a network takes a quarter of the time there), else float32."""
    # Newer than the oldest torch that is supported.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return torch.bfloat16 if device == "cpu" and capabilities.get("amx_bf16") else torch.float32


def _stored(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """float16 for numbers, if wanted; counts, as of batch norms, stay whole."""
    tensor = tensor.detach().cpu()
    return (tensor.half() if half and tensor.is_floating_point() else tensor).contiguous()


def _single(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
