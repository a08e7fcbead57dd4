"""Signals as PythonQt has them: by name or by string signature, surplus arguments trimmed, exceptions printed."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable
from typing import Any

import shiboken6
from PySide6 import QtCore, QtWidgets

from .convert import from_python, to_python
from .record import record_exception, record_warning

# Slicer is built on a Qt whose classes have these overloads; PySide6 (Qt 6) has them under another name.
_OVERLOADS: dict[type, dict[str, str]] = {
    QtWidgets.QComboBox: {
        "currentIndexChanged(QString)": "currentTextChanged(QString)",
        "activated(QString)": "textActivated(QString)",
        "highlighted(QString)": "textHighlighted(QString)",
    },
    QtWidgets.QSpinBox: {"valueChanged(QString)": "textChanged(QString)"},
    QtWidgets.QDoubleSpinBox: {"valueChanged(QString)": "textChanged(QString)"},
    QtWidgets.QButtonGroup: {
        "buttonClicked(int)": "idClicked(int)",
        "buttonPressed(int)": "idPressed(int)",
        "buttonReleased(int)": "idReleased(int)",
        "buttonToggled(int,bool)": "idToggled(int,bool)",
    },
}


class Signal:
    """qt.Signal: declares a signal on a Python subclass of a QObject."""

    def __init__(self, *types_: Any) -> None:
        self.types = types_

    def raw(self) -> QtCore.Signal:
        """Return the PySide6 declaration."""
        plain = (bool, int, float, str, object)
        return QtCore.Signal(*[t if t in plain or isinstance(t, str) else object for t in self.types])


def signal_signatures(raw: QtCore.QObject) -> dict[str, list[str]]:
    """Return {name: [signatures]} of all signals of a Qt object, the full signature before those with defaults."""
    if type(raw) not in _known:
        _known[type(raw)] = _find_signatures(raw)
    return _known[type(raw)]


_known: dict[type, dict[str, list[str]]] = {}


def _find_signatures(raw: QtCore.QObject) -> dict[str, list[str]]:
    meta = raw.metaObject()
    found: dict[str, list[str]] = {}
    for index in range(meta.methodCount()):
        method = meta.method(index)
        if method.methodType() == QtCore.QMetaMethod.MethodType.Signal:
            found.setdefault(bytes(method.name()).decode(), []).append(bytes(method.methodSignature()).decode())
    for name in getattr(raw, "_hidden_signals", ()):
        found.pop(name, None)
    return found


def _extra_signatures(raw: QtCore.QObject) -> dict[str, str]:
    extra: dict[str, str] = dict(getattr(raw, "_cpp_signals", {}))
    for owner, overloads in _OVERLOADS.items():
        if isinstance(raw, owner):
            extra.update(overloads)
    return extra


def resolve(raw: QtCore.QObject, signature: str) -> str | None:
    """Return the PySide6 signature that the C++ signature ``signature`` stands for, or None if there is none."""
    normal = bytes(QtCore.QMetaObject.normalizedSignature(signature.lstrip("2"))).decode()
    extra = _extra_signatures(raw)
    if normal in extra:
        return extra[normal]
    name = normal.split("(")[0]
    return normal if normal in signal_signatures(raw).get(name, []) else None


def accepted_arguments(function: Callable[..., Any]) -> int | None:
    """Return how many arguments PythonQt passes at most: known for functions and methods, else None (all)."""
    bound = isinstance(function, types.MethodType)
    plain = function.__func__ if isinstance(function, types.MethodType) else function
    if not isinstance(plain, types.FunctionType) or plain.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return plain.__code__.co_argcount - (1 if bound else 0)


_connections: dict[int, list[tuple[str, Any, Callable[..., None]]]] = {}


def _key(raw: QtCore.QObject) -> int:
    return int(shiboken6.getCppPointer(raw)[0])


def _records(raw: QtCore.QObject) -> list[tuple[str, Any, Callable[..., None]]]:
    key = _key(raw)
    if key not in _connections:
        _connections[key] = []
        raw.destroyed.connect(lambda *_, key=key: _connections.pop(key, None))
    return _connections[key]


def connect(raw: QtCore.QObject, signature: str, target: Any, slot: str | None = None) -> bool:
    """Connect by C++ signature. Return False, after printing why, when there is no such signal or slot."""
    actual = resolve(raw, signature)
    if actual is None:
        name = raw.metaObject().className()
        record_warning(f"QObject::connect: No such signal {name}::{signature}")
        return False
    if slot is not None:
        target = getattr(target, slot.lstrip("1").split("(")[0], None)
    if not callable(target):
        record_warning(f"QObject::connect: {target!r} given to {signature} is not callable")
        return False
    limit = accepted_arguments(target)

    def deliver(*arguments: Any) -> None:
        values = [to_python(argument) for argument in arguments]
        try:
            target(*(values if limit is None else values[:limit]))
        except Exception as error:  # noqa: BLE001 - PythonQt prints, the emitter goes on
            record_exception(error)

    if not QtCore.QObject.connect(raw, QtCore.SIGNAL(actual), deliver):
        return False
    _records(raw).append((actual, target, deliver))
    return True


def disconnect(raw: QtCore.QObject, signature: str | None = None, target: Any = None) -> bool:
    """Disconnect Python callables: of one signal, of one callable, or all. Return whether there were any."""
    actual = None if signature is None else resolve(raw, signature)
    if signature is not None and actual is None:
        record_warning(f"QObject::disconnect: No such signal {raw.metaObject().className()}::{signature}")
        return False
    records = _records(raw)
    dropped = [r for r in records if (actual is None or r[0] == actual) and (target is None or r[1] == target)]
    for record in dropped:
        QtCore.QObject.disconnect(raw, QtCore.SIGNAL(record[0]), record[2])
        records.remove(record)
    return bool(dropped)


class SignalFunction:
    """``widget.clicked``: connect, disconnect, emit or call it. No indexing by overload, as in PythonQt."""

    def __init__(self, owner: Any, raw: QtCore.QObject, name: str, signature: str) -> None:
        self._owner, self._raw, self._name, self._signature = owner, raw, name, signature

    def connect(self, target: Any, slot: str | None = None) -> bool:
        """Connect the first overload to a callable, another signal, or a slot given by its string."""
        return connect(self._raw, self._signature, target, slot)

    def disconnect(self, target: Any = None) -> bool:
        """Disconnect a callable, or all of them."""
        return disconnect(self._raw, self._signature, target)

    def emit(self, *arguments: Any) -> None:
        """Emit the signal."""
        getattr(self._raw, self._name).emit(*[from_python(argument) for argument in arguments])

    __call__ = emit

    def __repr__(self) -> str:
        return f"<qt_signal {self._name} of {self._owner!r}>"
