"""The live sessions of a worker: prepared pairs that its application asks for fields and their metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from hyperreg.errors import SessionLost
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.constraints import MAPS, Constraints
from hyperreg.registration.landmarks import pair_landmarks
from hyperreg.worker import parameters
from hyperreg.worker.device import FELL_BACK, attempt, free_memory
from hyperreg.worker.plain import plain
from hyperreg.worker.server import Context

if TYPE_CHECKING:
    from hyperreg.imaging.volume import Grid
    from hyperreg.registration.anchors import Fields
    from hyperreg.registration.stages import Stage


class Session(Protocol):
    """What is used of `hyperreg.registration.session.LiveSession`."""

    grid: Grid
    stages: tuple[Stage, ...]
    contrast_note: str
    linear: npt.NDArray[np.float64]
    device: str
    warnings: list[str]
    timing: dict[str, float]

    @property
    def values(self) -> Mapping[str, float]: ...

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        initial: str | npt.NDArray[np.float64] | Transform,
        contrast: str,
        symmetric: bool,
        fixed_labels: Volume | None,
        moving_labels: Volume | None,
        progress: Callable[[float, str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> None: ...

    def field(
        self,
        lam: float,
        stage: int,
        *,
        beside: Sequence[float],
        progress: Callable[[float, str], None] | None,
        cancelled: Callable[[], bool] | None,
    ) -> Fields: ...

    def metrics(self, lam: float, stage: int) -> Mapping[str, Any]: ...

    def choose(self, values: Mapping[str, float]) -> None: ...

    def constrain(self, constraints: Constraints) -> None: ...


SessionFactory = Callable[[str, str], Session]


@dataclass
class _Pair:
    """What a session is prepared from, and what was set since; kept for the fall-back to the CPU."""

    model: str
    fixed: Volume
    moving: Volume
    initial: str | npt.NDArray[np.float64] | Transform
    contrast: str
    symmetric: bool
    fixed_labels: Volume | None
    moving_labels: Volume | None
    values: dict[str, float] = field(default_factory=dict)
    constraints: Constraints = field(default_factory=Constraints)


@dataclass
class _Open:
    pair: _Pair
    session: Session
    fell_back: bool = False


class Sessions:
    """Prepared sessions, each under the name its owner chose: one per owner. factory: makes one of model and device."""

    def __init__(self, factory: SessionFactory) -> None:
        self._factory = factory
        self._open: dict[str, _Open] = {}

    def prepare(self, context: Context) -> dict[str, Any]:
        """Arrays fixed, moving (and labels) with their affines -> where the fields will lie, and how it was aligned.

        Replaces the owner's earlier session, which is freed first: two may not fit into the memory.
        """
        name = parameters.text(context, "session")
        self._drop(name)
        pair = _Pair(
            model=parameters.text(context, "model"),
            fixed=parameters.volume(context, "fixed"),
            moving=parameters.volume(context, "moving"),
            initial=parameters.start(context),
            contrast=parameters.text(context, "contrast"),
            symmetric=parameters.flag(context, "symmetric"),
            fixed_labels=_given(context, "fixed_labels"),
            moving_labels=_given(context, "moving_labels"),
        )
        device = parameters.text(context, "device")
        context.progress(0.0, "Loading the model")
        opened = attempt(lambda: self._prepared(context, pair, device), on_cpu=device == "cpu")
        if opened is None:
            opened = self._prepared(context, pair, "cpu")
            opened.fell_back = True
        context.check()
        self._open[name] = opened
        session = opened.session
        return {
            "shape": [int(n) for n in session.grid.shape],
            "ijk_to_ras": np.asarray(session.grid.ijk_to_ras).tolist(),
            "stages": [stage.describe() for stage in session.stages],
            "linear": np.asarray(session.linear, dtype=np.float64).tolist(),
            "timing": plain(session.timing),
            "values": plain(session.values),
            **_state(opened),
        }

    def field(self, context: Context) -> dict[str, Any]:
        """lambda, stage, beside (λ that will be asked for next) -> fills the outputs forward and inverse. Can be
        cancelled."""
        lam, stage = parameters.lam(context), parameters.whole(context, "stage")
        beside = parameters.lambdas(context, "beside")

        def fill(session: Session) -> dict[str, Any]:
            fields = session.field(lam, stage, beside=beside, progress=context.progress, cancelled=context.cancelled)
            context.check()
            context.outputs["forward"][...] = fields.forward.array
            context.outputs["inverse"][...] = fields.inverse.array
            return {}

        return self._with_session(context, fill)

    def metrics(self, context: Context) -> dict[str, Any]:
        """lambda, stage -> metrics; numbers that are none become null."""
        lam, stage = parameters.lam(context), parameters.whole(context, "stage")
        return self._with_session(context, lambda session: {"metrics": plain(session.metrics(lam, stage))})

    def choose(self, context: Context) -> dict[str, Any]:
        """values: hyperparameters other than λ by name -> values: all of them."""
        values = parameters.numbers(context, "values")

        def compute(session: Session) -> dict[str, Any]:
            session.choose(values)
            return {"values": plain(session.values)}

        result = self._with_session(context, compute)
        self._opened(context).pair.values |= values
        return result

    def constrain(self, context: Context) -> dict[str, Any]:
        """Sets `Constraints`: label maps come along as volumes, or are named in "same", if they are those of before.

        fixed_points, moving_points: arrays, with the number "pull". rigid_values: label values. region_lambdas: label
        value -> λ.
        """
        opened = self._opened(context)
        before = opened.pair.constraints
        same = parameters.texts(context, "same")
        fixed_points, moving_points = (context.inputs.get(name) for name in ("fixed_points", "moving_points"))
        wanted = Constraints(
            # The same object again: the session keeps what it computed for it.
            **{name: getattr(before, name) if name in same else _given(context, name) for name in MAPS},
            landmarks=pair_landmarks(fixed_points, moving_points, parameters.number(context, "pull")),
            rigid_values=parameters.wholes(context, "rigid_values"),
            region_lambdas=parameters.labelled_numbers(context, "region_lambdas"),
        )

        def compute(session: Session) -> dict[str, Any]:
            session.constrain(wanted)
            return {}

        result = self._with_session(context, compute)
        self._opened(context).pair.constraints = wanted
        return result

    def close(self, context: Context) -> dict[str, Any]:
        """Frees the session; harmless if there is none."""
        self._drop(parameters.text(context, "session"))
        return {}

    def _opened(self, context: Context) -> _Open:
        name = parameters.text(context, "session")
        if name not in self._open:
            raise SessionLost("The registration was not prepared in this worker; press Register again.")
        return self._open[name]

    def _with_session(self, context: Context, compute: Callable[[Session], dict[str, Any]]) -> dict[str, Any]:
        opened = self._opened(context)
        values = attempt(lambda: compute(opened.session), on_cpu=opened.session.device == "cpu")
        if values is None:
            # The alignment found is kept: another one would move the image under the user's eyes.
            if not isinstance(opened.pair.initial, Transform):
                opened.pair.initial = np.array(opened.session.linear, dtype=np.float64)
            pair, name = opened.pair, parameters.text(context, "session")
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
            contrast=pair.contrast,
            symmetric=pair.symmetric,
            fixed_labels=pair.fixed_labels,
            moving_labels=pair.moving_labels,
            progress=context.progress,
            cancelled=context.cancelled,
        )
        if pair.values:
            session.choose(pair.values)
        session.constrain(pair.constraints)
        return _Open(pair, session)

    def _drop(self, name: str) -> None:
        if self._open.pop(name, None) is not None:
            free_memory()


def _state(opened: _Open) -> dict[str, Any]:
    warnings = [str(text) for text in opened.session.warnings]
    if opened.fell_back:
        warnings.append(FELL_BACK)
    session = opened.session
    return {"device": str(session.device), "warnings": warnings, "note": session.contrast_note}


def _given(context: Context, name: str) -> Volume | None:
    return parameters.volume(context, name) if name in context.inputs else None
