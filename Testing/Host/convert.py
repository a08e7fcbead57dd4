"""Values crossing between Python and Qt, with PythonQt's rules on top of PySide6.

Out of Qt: enums become ints, lists become tuples, objects become wrappers. Into Qt: wrappers are opened, numpy scalars
become Python numbers, plain ints are accepted where Qt wants an enum, anything is turned into text where it wants text.
"""

from __future__ import annotations

import enum
import functools
import inspect
import types
import typing
from collections.abc import Callable
from typing import Any

import numpy as np
import shiboken6
from PySide6 import QtCore
from shibokensupport.signature import get_signature

from .record import guarded


class EnumInt(int):
    """A Qt enum value: an int, as in PythonQt, that remembers which PySide6 member it came from."""

    member: Any

    def __new__(cls, member: Any) -> EnumInt:  # noqa: PYI034 (Self is not in Python 3.10)
        number = super().__new__(cls, member.value)
        number.member = member
        return number

    def __or__(self, other: int) -> int:
        """Combine flags; of the same enum the result still knows which one."""
        both = int(self) | int(other)
        if (
            isinstance(other, EnumInt)
            and type(other.member) is type(self.member)
            and isinstance(self.member, enum.Flag)
        ):
            return EnumInt(type(self.member)(both))
        return both


_wrap_hook: list[Callable[[Any], Any]] = []


def set_wrap_hook(wrap: Callable[[Any], Any]) -> None:
    """Tell this module how to wrap a Qt object (the wrappers import this module, not the other way round)."""
    _wrap_hook[:] = [wrap]


def to_python(value: Any) -> Any:
    """Convert a value that Qt returned or passed to a slot into what PythonQt would hand to Python."""
    if value is None or (isinstance(value, (bool, int, float, str, bytes)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, enum.Enum):
        return EnumInt(value)
    if isinstance(value, (list, tuple)):
        return tuple(to_python(item) for item in value)
    if isinstance(value, dict):
        return {key: to_python(item) for key, item in value.items()}
    if isinstance(value, shiboken6.Object):
        return _wrap_hook[0](value)
    return value


def from_python(value: Any) -> Any:
    """Convert an argument given by Python code into what PySide6 accepts."""
    open_ = getattr(type(value), "_open", None)
    if open_ is not None:
        return open_(value)
    if isinstance(value, EnumInt):
        return value.member
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, (list, tuple)):
        return [from_python(item) for item in value]
    if isinstance(value, dict):
        return {key: from_python(item) for key, item in value.items()}
    if isinstance(value, type) and hasattr(value, "_raw_class"):
        return value._raw_class
    if inspect.isroutine(value) or type(value).__name__ in ("partial", "SignalFunction"):
        return guarded(value)
    return value


def _all_bits(flags: type[enum.Flag]) -> int:
    """Return the bits that members of a flag enum use."""
    return functools.reduce(lambda bits, member: bits | int(member.value), flags.__members__.values(), 0)


def coerce(value: Any, annotation: Any, lenient: bool) -> tuple[bool, Any]:
    """Try to turn ``value`` into ``annotation``. Return (possible, value)."""
    if annotation in (inspect.Parameter.empty, Any, object):
        return True, value
    origin = typing.get_origin(annotation)
    if origin is typing.Union or origin is types.UnionType:
        for choice in typing.get_args(annotation):
            possible, converted = coerce(value, choice, lenient)
            if possible:
                return True, converted
        return False, value
    if origin is not None:
        return isinstance(value, (list, tuple, dict)), value
    if annotation is type(None):
        return value is None, value
    if isinstance(annotation, enum.EnumMeta):
        if isinstance(value, annotation):
            return True, value
        number = value.value if isinstance(value, enum.Enum) else value
        if isinstance(number, int) and not isinstance(number, bool):
            if issubclass(annotation, enum.Flag) and int(number) & ~_all_bits(annotation):
                return False, value
            try:
                return True, annotation(number)
            except ValueError:
                return False, value
        return False, value
    if isinstance(value, enum.Enum):
        value = value.value
    if annotation is str:
        return (True, str(value)) if lenient or isinstance(value, str) else (False, value)
    if annotation is bool:
        return (True, bool(value)) if isinstance(value, (bool, int)) else (False, value)
    if annotation is int:
        if isinstance(value, int):
            return True, int(value)
        return (True, int(value)) if lenient and isinstance(value, float) else (False, value)
    if annotation is float:
        return (True, float(value)) if isinstance(value, (int, float)) else (False, value)
    if isinstance(annotation, type):
        if isinstance(value, annotation):
            return True, value
        if value is None and issubclass(annotation, QtCore.QObject):
            return True, None
        if lenient and isinstance(value, (str, int)) and annotation.__module__ == "PySide6.QtGui":
            try:
                return True, annotation(value)  # implicit C++ conversions: QIcon(str), QColor(int), QKeySequence(str)
            except TypeError:
                return False, value
        return False, value
    return True, value


def _signatures(function: Any) -> list[inspect.Signature]:
    found = get_signature(function)
    if found is None:
        return []
    return list(found) if isinstance(found, (list, tuple)) else [found]


def _bind(signature: inspect.Signature, arguments: list[Any], lenient: bool) -> list[Any] | None:
    parameters = [p for name, p in signature.parameters.items() if name != "self"]
    required = [p for p in parameters if p.default is inspect.Parameter.empty and p.kind is not p.VAR_POSITIONAL]
    if len(arguments) < len(required) or len(arguments) > len(parameters):
        return None
    converted = []
    for value, parameter in zip(arguments, parameters, strict=False):
        possible, fitting = coerce(value, parameter.annotation, lenient)
        if not possible:
            return None
        converted.append(fitting)
    return converted


def call(function: Callable[..., Any], arguments: tuple[Any, ...], bound_to: Any = None, describe: Any = None) -> Any:
    """Call a PySide6 function with PythonQt's conversions and return the PythonQt-like result.

    Args:
        function: PySide6 function, method or class.
        arguments: as given by Python code.
        bound_to: raw object to pass first, for unbound methods.
        describe: object whose signature is looked up when it differs from ``function`` (a class for its subclass).
    """
    raw = [from_python(argument) for argument in arguments]
    first = [] if bound_to is None else [bound_to]
    try:
        return to_python(function(*first, *raw))
    except TypeError as error:
        if isinstance(function, (types.FunctionType, types.MethodType)):
            raise  # written in Python (host widgets): the error is theirs
        signatures = _signatures(describe or function)
        for lenient in (False, True):
            for signature in signatures:
                converted = _bind(signature, raw, lenient)
                if converted is None:
                    continue
                try:
                    return to_python(function(*first, *converted))
                except TypeError:
                    continue
        name = getattr(describe or function, "__name__", "function")
        raise ValueError(f"Could not find matching overload for given arguments: {arguments!r} of {name}") from error
