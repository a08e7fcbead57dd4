"""Wrappers with the attribute rules of PythonQt around PySide6 objects.

Every Qt class becomes one wrapper class; the wrapper classes do not inherit from each other, which is why
``isinstance(button, qt.QWidget)`` is False here as in Slicer. What a name means is looked up as PythonQt does it:
Python attributes of a subclass, Qt properties (values), methods, signals, enums, dynamic properties, named children.
"""

from __future__ import annotations

import contextlib
import enum
import threading
import types
import weakref
from typing import Any

import shiboken6
from PySide6 import QtCore, QtGui

from . import dialogs, signals
from .convert import EnumInt, call, from_python, set_wrap_hook, to_python
from .members import find_member, property_index, qt_class, read_property, write_property
from .record import record_exception, record_warning

_classes: dict[type, type] = {}


def wrapper_class(raw_class: type) -> type:
    """Return the wrapper class of a PySide6 class or host widget class."""
    raw_class = qt_class(raw_class)
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
        if (owner, name) == ("QTimer", "singleShot") and threading.current_thread() is not threading.main_thread():
            record_warning("QTimer.singleShot called from a Python thread never fires")
            return None
        if unbound and not static:
            return call(found, tuple(arguments[1:]), bound_to=from_python(arguments[0]))
        return call(found, arguments)

    return function


def _no_keywords(name: str, keywords: dict[str, Any]) -> None:
    if keywords:
        raise TypeError(f"{name}() takes no keyword arguments: {', '.join(keywords)}")


class Wrapper(metaclass=QtClass):
    """A Qt object as Python code in Slicer sees it."""

    __slots__ = ("__weakref__", "_raw")
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
        if raw_class is QtGui.QImage and len(arguments) > 4:
            raise ValueError("QImage: no matching overload, only (data, width, height, format)")
        raw = from_python(call(raw_class, arguments, describe=qt_class(raw_class)))
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

    def _check_thread(self, name: str) -> None:
        if threading.current_thread() is not threading.main_thread() and isinstance(self._raw, QtCore.QObject):
            raise RuntimeError(f"'{name}' of {type(self).__name__} used outside the main thread: this crashes Slicer")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "_raw":
            raise AttributeError(name)
        raw_class = type(self)._raw_class if not self._alive() else type(self._raw)
        if not self._alive():
            if find_member(raw_class, name) is not None and not hasattr(raw_class, "staticMetaObject"):
                return self._method(name)
            raise ValueError(f"Trying to read '{name}' from a destroyed {type(self).__name__} object")
        raw = self._raw
        self._check_thread(name)
        if property_index(raw, name) >= 0:
            return read_property(
                raw, "objectName" if name == "name" and raw.metaObject().indexOfProperty("name") < 0 else name
            )
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
        if (is_subclass and name in dir(type(self))) or name == "_raw":
            object.__setattr__(self, name, value)
            return
        if self._alive():
            raw = self._raw
            self._check_thread(name)
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
    return qt_class(type(self._open())).__name__


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
