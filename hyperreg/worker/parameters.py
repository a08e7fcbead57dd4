"""What a request says, checked before it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.worker.server import Context


def text(context: Context, name: str) -> str:
    """A parameter that is a text. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, str):
        raise InputError(f"The parameter '{name}' is missing or not a text.")
    return value


def flag(context: Context, name: str) -> bool:
    """A parameter that is true or false. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, bool):
        raise InputError(f"The parameter '{name}' is missing or neither true nor false.")
    return value


def whole(context: Context, name: str) -> int:
    """A parameter that is a whole number, not below zero. Raises InputError."""
    value = context.parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"The parameter '{name}' is missing or no whole number.")
    return value


def lam(context: Context) -> float:
    """The parameter "lambda", 0 to 1. Raises InputError."""
    return check_lambda(number(context, "lambda"))


def lambdas(context: Context, name: str) -> tuple[float, ...]:
    """A parameter that is a list of values of λ, 0 to 1. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, list) or any(
        isinstance(item, bool) or not isinstance(item, (int, float)) for item in value
    ):
        raise InputError(f"The parameter '{name}' is missing or no list of numbers.")
    return tuple(check_lambda(item) for item in value)


def number(context: Context, name: str) -> float:
    """A parameter that is a finite number. Raises InputError."""
    value = context.parameters.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"The parameter '{name}' is missing or not a number.")
    return float(value)


def texts(context: Context, name: str) -> list[str]:
    """A parameter that is a list of texts. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"The parameter '{name}' is missing or no list of texts.")
    return value


def wholes(context: Context, name: str) -> tuple[int, ...]:
    """A parameter that is a list of whole numbers. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, list) or any(isinstance(item, bool) or not isinstance(item, int) for item in value):
        raise InputError(f"The parameter '{name}' is missing or no list of whole numbers.")
    return tuple(value)


def numbers(context: Context, name: str) -> dict[str, float]:
    """A parameter that maps names to finite numbers. Raises InputError."""
    value = context.parameters.get(name)
    if not isinstance(value, Mapping):
        raise InputError(f"The parameter '{name}' is missing or no table of numbers.")
    for key, number in value.items():
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise InputError(f"The value of '{key}' in '{name}' is not a number.")
    return {str(key): float(number) for key, number in value.items()}


def labelled_numbers(context: Context, name: str) -> dict[int, float]:
    """A parameter that maps label values (as text, for JSON) to finite numbers. Raises InputError."""
    try:
        return {int(key): number for key, number in numbers(context, name).items()}
    except ValueError as error:
        raise InputError(f"A name in '{name}' is no label value: {error}.") from error


def matrix(value: Any) -> npt.NDArray[np.float64]:
    """(4, 4) from nested lists. Raises InputError."""
    try:
        result = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        result = np.zeros(0)
    if result.shape != (4, 4) or not np.isfinite(result).all():
        raise InputError("Expected a 4x4 matrix of finite numbers.")
    return result


def start(context: Context) -> str | npt.NDArray[np.float64] | Transform:
    """The parameter "initial": a method's name, a matrix, or the stages of a transform. Raises InputError.

    A stage is a matrix, or the name of an input, which is a field whose place the parameter "volumes" gives.
    """
    value = context.parameters.get("initial")
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        return matrix(value)
    stages = value.get("stages")
    if not isinstance(stages, list) or not stages:
        raise InputError("The parameter 'initial' names no stages.")
    return Transform(tuple(_field(context, stage) if isinstance(stage, str) else matrix(stage) for stage in stages))


def _field(context: Context, name: str) -> DisplacementField:
    if name not in context.inputs:
        raise InputError(f"The field '{name}' is missing.")
    return DisplacementField(np.asarray(context.inputs[name], dtype=np.float32), _place(context, name)[0])


def _place(context: Context, name: str) -> tuple[npt.NDArray[np.float64], str]:
    """Where an input lies, (4, 4), and what it is called."""
    described = context.parameters.get("volumes")
    place = described.get(name) if isinstance(described, dict) else None
    if not isinstance(place, dict) or not isinstance(place.get("name"), str):
        raise InputError(f"The image '{name}' has no place in space.")
    return matrix(place.get("ijk_to_ras")), place["name"]


def volume(context: Context, name: str) -> Volume:
    """An input array with the place in space that the parameter "volumes" gives it. Raises InputError."""
    if name not in context.inputs:
        raise InputError(f"The image '{name}' is missing.")
    return Volume(context.inputs[name], *_place(context, name))
