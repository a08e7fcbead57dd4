"""Wrappers with the attribute rules of PythonQt around PySide6 objects.

Every Qt class becomes one wrapper class; the wrapper classes do not inherit from each other, which is why
``isinstance(button, qt.QWidget)`` is False here as in Slicer. What a name means is looked up as PythonQt does it:
Python attributes of a subclass, Qt properties (values), methods, signals, enums, dynamic properties, named children.
"""

from __future__ import annotations

import contextlib
import enum
import types
import weakref
from typing import Any

import numpy
import shiboken6
from PySide6 import QtCore

from . import dialogs, signals
from .convert import EnumInt, call, from_python, set_wrap_hook, to_python
from .record import record_exception

_classes: dict[type, type] = {}
# Names that a property of the same name would hide, but which PythonQt keeps as methods.
_METHODS_OVER_PROPERTIES = {("QTimer", "singleShot")}
# Written in Python in PySide6, thus not part of what PythonQt shows of a class.
_PYSIDE_ONLY = {"metaObject", "staticMetaObject", "connect", "disconnect", "emit", "tr", "receivers"}


def invokable(function: Any) -> Any:
    """Mark a Python method of a host widget as a public slot or Q_INVOKABLE: only these are visible to modules."""
    function._invokable = True
    return function


def _is_host_class(raw_class: type) -> bool:
    """Whether a PySide6 subclass stands for a ctk or qMRML class, whose plain methods PythonQt does not wrap."""
    return bool(raw_class.__dict__.get("_meta_object_only", False))


def _qt_class(raw_class: type) -> type:
    """Return the nearest class that modules know: a Qt class, a ctk or qMRML class."""
    for candidate in raw_class.__mro__:
        if candidate.__module__.startswith("PySide6.") or _is_host_class(candidate):
            return candidate
    return raw_class


def wrapper_class(raw_class: type) -> type:
    """Return the wrapper class of a PySide6 class or host widget class."""
    raw_class = _qt_class(raw_class)
    if raw_class not in _classes:
        _classes[raw_class] = QtClass(raw_class.__name__, (Wrapper,), {"_raw_class": raw_class, "__slots__": ()})
    return _classes[raw_class]


def wrap(raw: Any) -> Any:
    """Return the wrapper of a Qt object: the same one as long as somebody holds it."""
    if raw is None or isinstance(raw, Wrapper):
        return raw
    known = getattr(raw, "_host_wrapper", None)
    wrapper = known() if known is not None else None
    if wrapper is None:
        cls = wrapper_class(type(raw))
        wrapper = cls.__new__(cls)
        object.__setattr__(wrapper, "_raw", raw)
        with contextlib.suppress(AttributeError):
            raw._host_wrapper = weakref.ref(wrapper)
    return wrapper


set_wrap_hook(wrap)


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
        if _is_host_class(owner) and isinstance(found, types.FunctionType):
            continue  # a helper of the host, or an overridden virtual of the Qt class below
    enum_value = getattr(raw_class, name, None) if not _is_host_class(raw_class) else None
    return enum_value if isinstance(enum_value, enum.Enum) else None


class QtClass(type):
    """Metaclass of wrappers: static methods, unbound methods, enums and nested classes of the C++ class."""

    def __getattr__(cls, name: str) -> Any:
        raw_class = cls.__dict__.get("_raw_class") or cls._raw_class
        found = find_member(raw_class, name)
        if found is None:
            raise AttributeError(f"{cls.__name__} has no attribute named '{name}'")
        return class_member(cls.__name__, raw_class, name, found)

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        instance = cls.__new__(cls)
        instance.__init__(*arguments, **keywords)
        return instance

    def __repr__(cls) -> str:
        return f"<class 'qt.{cls.__name__}'>"


class EnumType:
    """Long form of an enum, ``qt.Qt.AlignmentFlag``: its members are ints, it converts ints."""

    def __init__(self, raw: enum.EnumMeta) -> None:
        self._enum = raw

    def __getattr__(self, name: str) -> Any:
        try:
            return EnumInt(getattr(self._enum, name))
        except AttributeError:
            raise AttributeError(f"{self._enum.__name__} has no attribute named '{name}'") from None

    def __call__(self, value: int) -> EnumInt:
        return EnumInt(self._enum(int(value)))


def class_member(owner: str, raw_class: type, name: str, found: Any) -> Any:
    """Convert a class attribute of PySide6 into what PythonQt shows."""
    if isinstance(found, enum.EnumMeta):
        return EnumType(found)
    if isinstance(found, enum.Enum):
        return EnumInt(found)
    if isinstance(found, type) and issubclass(found, shiboken6.Object):
        return wrapper_class(found)
    if isinstance(found, int):
        return found
    if dialogs.is_static_dialog(owner, name):
        return lambda *arguments: dialogs.static_dialog(owner, name, arguments)
    unbound = isinstance(raw_class.__dict__.get(name), types.FunctionType) or "method" in type(found).__name__
    static = isinstance(found, types.BuiltinFunctionType)

    def function(*arguments: Any, **keywords: Any) -> Any:
        _no_keywords(name, keywords)
        if unbound and not static:
            return call(found, tuple(arguments[1:]), bound_to=from_python(arguments[0]))
        return call(found, arguments)

    return function


def _no_keywords(name: str, keywords: dict[str, Any]) -> None:
    if keywords:
        raise TypeError(f"{name}() takes no keyword arguments: {', '.join(keywords)}")


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
    if isinstance(value, numpy.generic):
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


class Wrapper(metaclass=QtClass):
    """A Qt object as Python code in Slicer sees it."""

    __slots__ = ("_raw", "__weakref__")
    _raw_class: type = QtCore.QObject

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if "_raw_class" not in cls.__dict__:
            from .subclass import make_raw_class

            cls._raw_class = make_raw_class(cls)

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        cls = type(self)
        _no_keywords(cls.__name__, keywords)
        raw_class = cls._raw_class
        raw = from_python(call(raw_class, arguments, describe=_qt_class(raw_class)))
        object.__setattr__(self, "_raw", raw)
        with contextlib.suppress(AttributeError):
            raw._host_wrapper = weakref.ref(self)

    def _alive(self) -> bool:
        raw = getattr(self, "_raw", None)
        return raw is not None and shiboken6.isValid(raw)

    def _open(self) -> Any:
        if not self._alive():
            raise ValueError(f"Trying to use a destroyed {type(self).__name__} object")
        return self._raw

    def __bool__(self) -> bool:
        return self._alive()

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Wrapper) or not self._alive() or not other._alive():
            return False
        if isinstance(self._raw, QtCore.QObject):
            return self._raw is other._raw
        return bool(self._raw == other._raw)

    def __hash__(self) -> int:
        return id(getattr(self, "_raw", self))

    def __repr__(self) -> str:
        state = "" if self._alive() else " (destroyed)"
        return f"{type(self).__name__} (host object at {id(self):#x}){state}"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_raw":
            raise AttributeError(name)
        raw_class = type(self)._raw_class if not self._alive() else type(self._raw)
        if not self._alive():
            if find_member(raw_class, name) is not None and not hasattr(raw_class, "staticMetaObject"):
                return self._method(name)
            raise ValueError(f"Trying to read '{name}' from a destroyed {type(self).__name__} object")
        raw = self._raw
        if property_index(raw, name) >= 0:
            return read_property(raw, "objectName" if name == "name" and raw.metaObject().indexOfProperty("name") < 0 else name)
        if isinstance(raw, QtCore.QObject):
            special = _OBJECT_METHODS.get(name)
            if special is not None:
                return types.MethodType(special, self)
            overloads = signals.signal_signatures(raw).get(name)
            if overloads:
                return signals.SignalFunction(self, raw, name, overloads[0])
        found = find_member(raw_class, name)
        if found is not None:
            if callable(found) and not isinstance(found, (type, enum.EnumMeta)):
                return self._method(name, found)
            return class_member(type(self).__name__, raw_class, name, found)
        if isinstance(raw, QtCore.QObject):
            if name.encode() in [bytes(n) for n in raw.dynamicPropertyNames()]:
                return read_property(raw, name)
            for child in raw.children():
                if child.objectName() == name:
                    return wrap(child)
        raise AttributeError(f"{type(self).__name__} has no attribute named '{name}'")

    def _method(self, name: str, found: Any = None) -> Any:
        def method(*arguments: Any, **keywords: Any) -> Any:
            _no_keywords(name, keywords)
            raw = self._open()
            if dialogs.is_dialog_method(raw, name):
                return dialogs.run_dialog(self, raw)
            if dialogs.is_static_dialog(type(self).__name__, name):
                return dialogs.static_dialog(type(self).__name__, name, arguments)
            bound = getattr(raw, {"exec_": "exec"}.get(name, name))
            if isinstance(found, types.FunctionType):
                return to_python(bound(*[from_python(argument) for argument in arguments]))
            return call(bound, arguments, describe=found)

        method.__name__ = name
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        is_subclass = "_raw_class_made" in dir(type(self)._raw_class)
        if is_subclass and name in dir(type(self)) or name == "_raw":
            object.__setattr__(self, name, value)
            return
        if self._alive():
            raw = self._raw
            index = property_index(raw, name)
            if index >= 0:
                write_property(raw, index, value)
                return
            if find_member(type(raw), name) is not None or name in _OBJECT_METHODS:
                if not is_subclass:
                    raise AttributeError(f"Slot '{name}' can not be overwritten on this object")
            elif isinstance(raw, QtCore.QObject):
                if name in signals.signal_signatures(raw):
                    raise AttributeError(f"Signal '{name}' can not be overwritten on this object")
                if name.encode() in [bytes(n) for n in raw.dynamicPropertyNames()]:
                    raw.setProperty(name, from_python(value))
                    return
        elif not is_subclass:
            raise ValueError(f"Trying to set '{name}' on a destroyed {type(self).__name__} object")
        if not is_subclass:
            raise AttributeError(
                f"Attribute '{name}' does not exist and creation of new attributes on C++ objects is not allowed"
            )
        object.__setattr__(self, name, value)

    def __dir__(self) -> list[str]:
        names = set(object.__dir__(self))
        if self._alive():
            names.update(n for n in dir(type(self._raw)) if find_member(type(self._raw), n) is not None)
            if isinstance(self._raw, QtCore.QObject):
                meta = self._raw.metaObject()
                names.update(meta.property(i).name() for i in range(meta.propertyCount()))
                names.update(signals.signal_signatures(self._raw), ("name",), _OBJECT_METHODS)
        return sorted(names)

    def __del__(self) -> None:
        # A Python subclass lives as long as its C++ object does once a parent owns it.
        raw = getattr(self, "_raw", None)
        if raw is None or "_raw_class_made" not in dir(type(self)._raw_class) or not shiboken6.isValid(raw):
            return
        try:
            if isinstance(raw, QtCore.QObject) and raw.parent() is not None:
                raw._host_keep = self
                raw._host_wrapper = weakref.ref(self)
        except RuntimeError as error:
            record_exception(error)

    def _arithmetic(self, operator: str, other: Any) -> Any:
        return to_python(getattr(self._open(), operator)(from_python(other)))

    def __add__(self, other: Any) -> Any:
        return self._arithmetic("__add__", other)

    def __sub__(self, other: Any) -> Any:
        return self._arithmetic("__sub__", other)

    def __mul__(self, other: Any) -> Any:
        return self._arithmetic("__mul__", other)


def _matches(raw: QtCore.QObject, cls: Any, name: str | None) -> bool:
    return raw.inherits(cls.__name__) and (name is None or raw.objectName() == name)


def _find_children(self: Wrapper, cls: Any, name: str | None = None) -> tuple[Any, ...]:
    if not isinstance(cls, type) or not issubclass(cls, Wrapper):
        raise TypeError("findChildren: the first argument must be a Qt class, e.g. findChildren(qt.QWidget)")
    return tuple(wrap(c) for c in self._open().findChildren(QtCore.QObject) if _matches(c, cls, name))


def _find_child(self: Wrapper, cls: Any, name: str | None = None) -> Any:
    if not isinstance(cls, type) or not issubclass(cls, Wrapper):
        raise TypeError("findChild: the first argument must be a Qt class, e.g. findChild(qt.QPushButton, 'apply')")
    found = _find_children(self, cls, name)
    return found[0] if found else None


def _connect(self: Wrapper, signal: str, target: Any, slot: str | None = None) -> bool:
    return signals.connect(self._open(), signal, target, slot)


def _disconnect(self: Wrapper, signal: str | None = None, target: Any = None) -> bool:
    return signals.disconnect(self._open(), signal, target)


def _class_name(self: Wrapper) -> str:
    return _qt_class(type(self._open())).__name__


def _set_property(self: Wrapper, name: str, value: Any) -> bool:
    raw = self._open()
    index = raw.metaObject().indexOfProperty(name)
    if index >= 0:
        write_property(raw, index, value)
        return True
    return bool(raw.setProperty(name, from_python(value)))


def _property(self: Wrapper, name: str) -> Any:
    return read_property(self._open(), name)


def _delete(self: Wrapper) -> None:
    shiboken6.delete(self._open())


_OBJECT_METHODS: dict[str, Any] = {
    "findChild": _find_child,
    "findChildren": _find_children,
    "connect": _connect,
    "disconnect": _disconnect,
    "className": _class_name,
    "setProperty": _set_property,
    "property": _property,
    "delete": _delete,
}
