"""What the worker can do: the table that `python -m hyperreg.worker` serves.

Everything that imports torch is imported inside functions, at the first request that needs it.
"""

from __future__ import annotations

import gc
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError, WorkerError
from hyperreg.imaging.volume import Volume
from hyperreg.worker.device import DeviceError, is_device_failure, is_out_of_memory, list_devices
from hyperreg.worker.server import Context, Operation

if TYPE_CHECKING:
    from hyperreg.imaging.volume import Grid
    from hyperreg.registration.anchors import Fields

FELL_BACK = "The graphics card has not enough memory for these images; HyperReg goes on with the CPU, which is slower."
_T = TypeVar("_T")


class Session(Protocol):
    """What is used of `hyperreg.registration.session.LiveSession`."""

    grid: Grid
    linear: npt.NDArray[np.float64]
    device: str
    warnings: list[str]
    timing: dict[str, float]

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        initial: str | npt.NDArray[np.float64],
        fixed_labels: Volume | None,
        moving_labels: Volume | None,
        progress: Callable[[float, str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None: ...

    def field(self, lam: float) -> Fields: ...

    def metrics(self, lam: float) -> Mapping[str, Any]: ...


SessionFactory = Callable[[str, str], Session]


def open_live_session(model: str, device: str) -> Session:
    """A LiveSession of that model ("" for the default one)."""
    from hyperreg.registration.catalogue import default_model
    from hyperreg.registration.session import LiveSession

    session: Session = LiveSession(model or default_model(), device=device)
    return session


def standard_operations(factory: SessionFactory = open_live_session) -> dict[str, Operation]:
    """Every operation by its name. factory: makes sessions from a model's name and a device."""
    sessions = _Sessions(factory)
    return {
        "prepare": sessions.prepare,
        "field": sessions.field,
        "metrics": sessions.metrics,
        "close": sessions.close,
        "devices": _devices,
        "check_model": _check_model,
    }


def _devices(_: Context) -> dict[str, Any]:
    """-> devices: see `device.list_devices`."""
    return {"devices": list_devices()}


def _check_model(context: Context) -> dict[str, Any]:
    """model: name -> name, version, sha256 of a model whose weights are intact and fit its network."""
    from hyperreg.registration.catalogue import find_model
    from hyperreg.registration.model import load_model

    card = find_model(_text(context, "model"))
    load_model(card)
    return {"name": card.name, "version": card.version, "sha256": card.sha256}


@dataclass
class _Pair:
    """What a session is prepared from; kept for the fall-back to the CPU."""

    model: str
    fixed: Volume
    moving: Volume
    initial: str | npt.NDArray[np.float64]
    fixed_labels: Volume | None
    moving_labels: Volume | None


@dataclass
class _Open:
    pair: _Pair
    session: Session
    fell_back: bool = False


class _Sessions:
    """Prepared sessions, each under the name its owner chose: one per owner."""

    def __init__(self, factory: SessionFactory) -> None:
        self._factory = factory
        self._open: dict[str, _Open] = {}

    def prepare(self, context: Context) -> dict[str, Any]:
        """Arrays fixed, moving (and labels) with their affines -> where the fields will lie, and how it was aligned.

        Replaces the owner's earlier session, which is freed first: two may not fit into the memory.
        """
        name = _text(context, "session")
        self._drop(name)
        initial = context.parameters.get("initial")
        pair = _Pair(
            model=_text(context, "model"),
            fixed=_volume(context, "fixed"),
            moving=_volume(context, "moving"),
            initial=initial if isinstance(initial, str) else _matrix(initial),
            fixed_labels=_volume(context, "fixed_labels") if "fixed_labels" in context.inputs else None,
            moving_labels=_volume(context, "moving_labels") if "moving_labels" in context.inputs else None,
        )
        device = _text(context, "device")
        context.progress(0.0, "Loading the model")
        opened = self._attempt(lambda: self._prepared(context, pair, device), on_cpu=device == "cpu")
        if opened is None:
            opened = self._prepared(context, pair, "cpu")
            opened.fell_back = True
        context.check()
        self._open[name] = opened
        grid = opened.session.grid
        return {
            "shape": [int(n) for n in grid.shape],
            "ijk_to_ras": np.asarray(grid.ijk_to_ras).tolist(),
            "linear": np.asarray(opened.session.linear, dtype=np.float64).tolist(),
            "timing": plain(opened.session.timing),
            **_state(opened),
        }

    def field(self, context: Context) -> dict[str, Any]:
        """lambda -> fills the outputs forward and inverse."""
        lam = _lambda(context)

        def fill(session: Session) -> dict[str, Any]:
            fields = session.field(lam)
            context.outputs["forward"][...] = fields.forward.array
            context.outputs["inverse"][...] = fields.inverse.array
            return {}

        return self._with_session(context, fill)

    def metrics(self, context: Context) -> dict[str, Any]:
        """lambda -> metrics; numbers that are none become null."""
        lam = _lambda(context)
        return self._with_session(context, lambda session: {"metrics": plain(session.metrics(lam))})

    def close(self, context: Context) -> dict[str, Any]:
        """Frees the session; harmless if there is none."""
        self._drop(_text(context, "session"))
        return {}

    def _with_session(self, context: Context, compute: Callable[[Session], dict[str, Any]]) -> dict[str, Any]:
        name = _text(context, "session")
        if name not in self._open:
            raise WorkerError("The registration was not prepared in this worker; press Register again.")
        opened = self._open[name]
        values = self._attempt(lambda: compute(opened.session), on_cpu=opened.session.device == "cpu")
        if values is None:
            # The alignment found is kept: another one would move the image under the user's eyes.
            opened.pair.initial = np.array(opened.session.linear, dtype=np.float64)
            pair = opened.pair
            del opened
            self._drop(name)
            opened = self._open[name] = self._prepared(context, pair, "cpu")
            opened.fell_back = True
            values = compute(opened.session)
        return {**values, **_state(opened)}

    def _prepared(self, context: Context, pair: _Pair, device: str) -> _Open:
        session = self._factory(pair.model, device)
        session.prepare(
            pair.fixed,
            pair.moving,
            initial=pair.initial,
            fixed_labels=pair.fixed_labels,
            moving_labels=pair.moving_labels,
            progress=context.progress,
            cancelled=context.cancelled,
        )
        return _Open(pair, session)

    def _attempt(self, compute: Callable[[], _T], *, on_cpu: bool) -> _T | None:
        """The result, or None if a graphics card's memory did not suffice (what it held is freed then)."""
        try:
            return compute()
        except Exception as error:
            if is_device_failure(error):
                raise DeviceError(
                    f"The graphics card failed ({error}). The next request starts the registration engine again; "
                    "if this repeats, choose the CPU."
                ) from error
            if on_cpu or not is_out_of_memory(error):
                raise
        # Only here, after the error with its frames is gone, nothing holds the card's memory any more.
        _free_memory()
        return None

    def _drop(self, name: str) -> None:
        if self._open.pop(name, None) is not None:
            _free_memory()


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()


def _state(opened: _Open) -> dict[str, Any]:
    warnings = [str(text) for text in opened.session.warnings]
    if opened.fell_back:
        warnings.append(FELL_BACK)
    return {"device": str(opened.session.device), "warnings": warnings}


def plain(value: Any) -> Any:
    """The value as JSON has it: numpy numbers and arrays become Python's, keys text, NaN and infinity None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _text(context: Context, name: str) -> str:
    value = context.parameters.get(name)
    if not isinstance(value, str):
        raise InputError(f"The parameter '{name}' is missing or not a text.")
    return value


def _lambda(context: Context) -> float:
    from hyperreg.registration.anchors import check_lambda

    value = context.parameters.get("lambda")
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError("The parameter 'lambda' is missing or not a number.")
    return check_lambda(value)


def _matrix(value: Any) -> npt.NDArray[np.float64]:
    try:
        matrix = np.array(value, dtype=np.float64)
    except (TypeError, ValueError):
        matrix = np.zeros(0)
    if matrix.shape != (4, 4) or not np.isfinite(matrix).all():
        raise InputError("Expected a 4x4 matrix of finite numbers.")
    return matrix


def _volume(context: Context, name: str) -> Volume:
    if name not in context.inputs:
        raise InputError(f"The image '{name}' is missing.")
    described = context.parameters.get("volumes")
    place = described.get(name) if isinstance(described, dict) else None
    if not isinstance(place, dict) or not isinstance(place.get("name"), str):
        raise InputError(f"The image '{name}' has no place in space.")
    return Volume(context.inputs[name], _matrix(place.get("ijk_to_ras")), place["name"])
