"""What can be chosen for a registration, and the checks of what the browser sent."""

from __future__ import annotations

from typing import Any

from hyperreg.errors import InputError
from hyperreg.mrml.registration.texts import ALIGNMENT_TITLES, DEVICE_TITLES
from hyperreg.registration.catalogue import default_model, find_model, list_models


def offer(state: Any) -> None:
    """Fills the lists of the page; a model that does not exist gives way to the default one."""
    state.models = [{"title": card.title, "value": card.name} for card in list_models()]
    state.devices = [{"title": title, "value": name} for name, title in DEVICE_TITLES.items()]
    state.alignments = [{"title": title, "value": name} for name, title in ALIGNMENT_TITLES.items()]
    if not is_model(state, state.model):
        state.model = default_model()


def is_model(state: Any, model: Any) -> bool:
    """Whether a model was offered."""
    return model in [entry["value"] for entry in state.models]


def default_lambda(state: Any) -> float:
    """The λ with which the chosen model begins."""
    return find_model(state.model if is_model(state, state.model) else default_model()).default_lambda


def check(state: Any) -> None:
    """Raises InputError for an alignment or a device that was not offered."""
    if state.alignment not in list(ALIGNMENT_TITLES) or state.device not in list(DEVICE_TITLES):
        raise InputError("Choose an initial alignment and a device from the lists.")


def check_lambda(value: Any) -> float:
    """Raises InputError for what is no λ."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"λ is a number between 0 (most flexible) and 1 (most rigid), not {value!r}.")
    return float(value)
