"""Python subclasses of Qt classes: overridden virtual methods are called by Qt, qt.Signal declares signals."""

from __future__ import annotations

import types
from typing import Any

from .convert import from_python, to_python
from .record import record_exception
from .signals import Signal


def _forwarder(name: str, base: type, raw_cell: list[type]) -> Any:
    def forward(raw: Any, *arguments: Any) -> Any:
        reference = getattr(raw, "_host_wrapper", None)
        wrapper = reference() if reference is not None else None
        if wrapper is None:  # still in the C++ constructor, or Python's part is gone
            return getattr(super(raw_cell[0], raw), name)(*arguments)
        try:
            method = getattr(type(wrapper), name)
            return from_python(method(wrapper, *[to_python(argument) for argument in arguments]))
        except Exception as error:  # noqa: BLE001 - printed, as for slots; Qt goes on with the default
            record_exception(error)
            return getattr(super(raw_cell[0], raw), name)(*arguments)

    forward.__name__ = name
    return forward


def make_raw_class(cls: type) -> type:
    """Make the PySide6 subclass behind the Python class ``cls``, whose base is a wrapper class."""
    base = next(b for b in cls.__mro__[1:] if "_raw_class" in b.__dict__)
    raw_base: type = base._raw_class  # type: ignore[attr-defined]
    raw_cell: list[type] = []
    namespace: dict[str, Any] = {"_raw_class_made": True, "__module__": cls.__module__}
    for name, value in list(cls.__dict__.items()):
        if isinstance(value, Signal):
            namespace[name] = value.raw()
            delattr(cls, name)
        elif (
            isinstance(value, types.FunctionType)
            and not name.startswith("_")
            and callable(getattr(raw_base, name, None))
        ):
            namespace[name] = _forwarder(name, raw_base, raw_cell)
    made = type(raw_base)(cls.__name__, (raw_base,), namespace)
    raw_cell.append(made)
    return made
