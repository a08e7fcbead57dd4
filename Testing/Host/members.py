"""What a name means on a Qt object: which class members PythonQt exposes, and how it reads and writes properties."""

from __future__ import annotations

import enum
import types
from typing import Any

import numpy as np
from PySide6 import QtCore

from .convert import EnumInt, call, from_python, to_python

# Names that a property of the same name would hide, but which PythonQt keeps as methods.
_METHODS_OVER_PROPERTIES = {("QTimer", "singleShot")}
# Written in Python in PySide6, thus not part of what PythonQt shows of a class.
_PYSIDE_ONLY = {"metaObject", "staticMetaObject", "connect", "disconnect", "emit", "tr", "receivers"}


def invokable(function: Any) -> Any:
    """Mark a Python method of a host widget as a public slot or Q_INVOKABLE: only these are visible to modules."""
    function._invokable = True
    return function


def is_host_class(raw_class: type) -> bool:
    """Whether a PySide6 subclass stands for a ctk or qMRML class, whose plain methods PythonQt does not wrap."""
    return bool(raw_class.__dict__.get("_meta_object_only", False))


def qt_class(raw_class: type) -> type:
    """Return the nearest class that modules know: a Qt class, a ctk or qMRML class."""
    for candidate in raw_class.__mro__:
        if candidate.__module__.startswith("PySide6.") or is_host_class(candidate):
            return candidate
    return raw_class


def find_member(raw_class: type, name: str) -> Any:
    """Return the class attribute that PythonQt would expose under ``name``, or None.

    Of ctk and qMRML classes only invokables, signals and enums are visible, of Qt classes everything.
    """
    if name.startswith("_") or name in _PYSIDE_ONLY:
        return None
    name = {"exec_": "exec", "print_": "print", "raise_": "raise_"}.get(name, name)
    for owner in raw_class.__mro__:
        if name not in owner.__dict__:
            continue
        found = owner.__dict__[name]
        if owner.__module__.startswith("PySide6."):
            return getattr(raw_class, name) if isinstance(found, staticmethod) else getattr(owner, name)
        if isinstance(found, staticmethod):
            return getattr(owner, name) if getattr(found.__func__, "_invokable", False) else None
        if getattr(found, "_invokable", False) or isinstance(found, (enum.Enum, enum.EnumMeta, EnumInt)):
            return found
        if is_host_class(owner) and isinstance(found, types.FunctionType):
            continue  # a helper of the host, or an overridden virtual of the Qt class below
    enum_value = getattr(raw_class, name, None) if not is_host_class(raw_class) else None
    return enum_value if isinstance(enum_value, enum.Enum) else None


def property_index(raw: Any, name: str) -> int:
    """Return the index of a declared Qt property, -1 if there is none; ``name`` stands for objectName."""
    if not isinstance(raw, QtCore.QObject):
        return -1
    meta = raw.metaObject()
    index = meta.indexOfProperty(name)
    if index < 0 and name == "name":
        index = meta.indexOfProperty("objectName")
    if index >= 0 and any((c.__name__, name) in _METHODS_OVER_PROPERTIES for c in type(raw).__mro__):
        return -1
    return int(index)


def read_property(raw: QtCore.QObject, name: str) -> Any:
    """Read a Qt property as PythonQt would hand it to Python."""
    try:
        return to_python(raw.property(name))
    except RuntimeError:  # PySide6 has no converter for enum properties: use the getter
        for getter in (name, "is" + name[0].upper() + name[1:], "has" + name[0].upper() + name[1:]):
            if callable(getattr(raw, getter, None)):
                return to_python(getattr(raw, getter)())
        raise


def write_property(raw: QtCore.QObject, index: int, value: Any) -> None:
    """Write a Qt property, converting as PythonQt does: text from anything, numbers from numbers."""
    meta_property = raw.metaObject().property(index)
    name, kind = meta_property.name(), meta_property.typeName()
    if not meta_property.isWritable():
        raise AttributeError(f"Property '{name}' of type '{kind}' is not writable")
    refused = AttributeError(
        f"Property '{name}' of type '{kind}' does not accept an object of type {type(value).__name__} ({value!r})"
    )
    if isinstance(value, np.generic):
        value = value.item()
    if kind == "QString":
        value = str(value)
    elif kind in ("int", "uint", "double", "float", "bool", "qlonglong"):
        if isinstance(value, str) or not hasattr(value, "__float__"):
            raise refused
        value = {"double": float, "float": float, "bool": bool}.get(kind, int)(value)
    elif kind == "QStringList":
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise refused
        value = [str(item) for item in value]
    setter = getattr(type(raw), "set" + name[0].upper() + name[1:], None)
    raw_value = from_python(value)
    if isinstance(raw_value, enum.Enum) and not meta_property.isEnumType():
        raw_value = raw_value.value
    if setter is not None and type(setter).__name__ == "method_descriptor" and not isinstance(raw_value, enum.Enum):
        try:
            call(setter, (value,), bound_to=raw)
        except ValueError:
            raise refused from None
        return
    if isinstance(raw_value, enum.Enum):
        if setter is not None:
            call(setter, (value,), bound_to=raw)
            return
        raw_value = raw_value.value
    if not raw.setProperty(name, raw_value):
        raise refused
