"""Weights of models: in safetensors files, beside the card that names their SHA256. Nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hyperreg.catalogue import CARD, WEIGHTS, Card
from hyperreg.errors import FileError, WeightsError


def load_weights(network: nn.Module, card: Card, path: Path | None = None) -> None:
    """Fill a network with the weights of a card's model, as float32.

    path: one of the card's `weight_files`; by default the first.
    Raises WeightsError if the file is missing, damaged, or does not fit the card.
    """
    card.check_weights()
    try:
        state = load_file(card.weights if path is None else path)
        network.load_state_dict({name: _single(tensor) for name, tensor in state.items()}, strict=True)
    except (SafetensorError, RuntimeError, OSError) as error:
        raise WeightsError(
            f"The weights of the model '{card.name}' do not fit its card; reinstall it. ({error})"
        ) from error


def save_weights(network: nn.Module, card: Mapping[str, Any], folder: Path, half: bool = True) -> None:
    """Write weights (float16, or as they are) and card into `folder`; the card gets the weights' SHA256.

    Raises FileError if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: _stored(tensor, half) for name, tensor in network.state_dict().items()}
        temporary = folder / f".{WEIGHTS}.tmp"
        save_file(state, temporary)
        temporary.chmod(0o644)  # safetensors writes for the owner alone; models are shared
        digest = hashlib.sha256(temporary.read_bytes()).hexdigest()
        os.replace(temporary, folder / WEIGHTS)
        temporary = folder / f".{CARD}.tmp"
        text = json.dumps({**card, "sha256": digest}, indent=2, ensure_ascii=False) + "\n"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, folder / CARD)
    except OSError as error:
        raise FileError(f"The model cannot be written to '{folder}': {error.strerror}.") from error


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
