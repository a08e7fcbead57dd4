"""What a run of data parameters leaves on disk, so that it can go on after a cancel or a crash."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch

from hyperreg.errors import FileError
from hyperreg.fusion.samples import Samples

if TYPE_CHECKING:
    from hyperreg.fusion.qualities import DataParameterSettings

FILE = "data_parameters.pt"
# Settings that a run may be continued with although they have changed.
FREE = ("steps", "answer_every")


def fingerprint(settings: DataParameterSettings, samples: Samples) -> str:
    """The same for the same images, labels and settings that matter."""
    digest = hashlib.sha256(repr({k: v for k, v in asdict(settings).items() if k not in FREE}).encode())
    for tensor in (*samples.images, *samples.labels):
        digest.update(repr(tuple(tensor.shape)).encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def save_progress(folder: Path, state: Mapping[str, Any]) -> None:
    """Written whole or not at all. Raises FileError."""
    temporary = folder / f".{FILE}.{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(dict(state), temporary)
        os.replace(temporary, folder / FILE)
    except (OSError, RuntimeError) as error:  # torch says RuntimeError where the disk is full
        if temporary.exists():
            temporary.unlink()
        raise FileError(f"The progress of data parameters cannot be written to '{folder}': {error}") from error


def load_progress(folder: Path, key: str) -> dict[str, Any] | None:
    """The progress of the run with this fingerprint; None if there is none, or it is damaged or another run's.

    Only plain data and tensors are read (weights_only), never code.
    """
    try:
        state = torch.load(folder / FILE, weights_only=True, map_location="cpu")
    except (OSError, RuntimeError, EOFError, ValueError, UnpicklingError):
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
