"""Records, numbers and arrays as JSON has them, and records back again: what events and results are made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, TypeVar, cast, get_args, get_type_hints

import numpy as np

Record = TypeVar("Record")


def plain(value: Any) -> Any:
    """The value as JSON has it: records become objects, numpy numbers and arrays Python's, keys and paths text, NaN and
    infinity None.
    """
    if is_dataclass(value) and not isinstance(value, type):
        return {part.name: plain(getattr(value, part.name)) for part in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def record(kind: type[Record], values: Any) -> Record:
    """The record (a dataclass) that `plain` gave these values of; None is NaN again where a number is meant.

    Raises TypeError, ValueError or KeyError for values that are not one.
    """
    hints = get_type_hints(kind)
    if set(values) != set(hints):
        raise ValueError(f"A {kind.__name__} has {', '.join(hints)}, and not {', '.join(map(str, values))}.")
    return kind(**{name: _restored(hint, values[name]) for name, hint in hints.items()})


def _restored(hint: Any, value: Any) -> Any:
    given = get_args(hint)
    if NoneType in given:
        return None if value is None else _restored(next(one for one in given if one is not NoneType), value)
    if is_dataclass(hint):
        return record(cast(type, hint), value)
    if isinstance(value, list):
        kind = tuple if getattr(hint, "__origin__", None) is tuple else list
        return kind(_restored(given[0], item) for item in value)
    if hint is float:
        return math.nan if value is None else float(value)
    return Path(value) if hint is Path else value
