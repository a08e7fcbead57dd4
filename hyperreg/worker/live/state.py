"""What a live registration tells of itself: one frozen state, and who can be asked for it. numpy only, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.transform import Transform, displacement_at
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import SAME_LAMBDA
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC
from hyperreg.registration.landmarks import Landmarks
from hyperreg.registration.response import Response, Suggestion, warning
from hyperreg.registration.stages import Stage

INCOMPLETE = "The result for this λ is not complete yet. Wait a moment and try again."
# Constraints are compared by identity: without any, two states are the same.
NOTHING_SET = Constraints()


@dataclass(frozen=True, eq=False)
class Prepared:
    """A pair of images that is prepared.

    grid: of its fields. linear: (4, 4), the initial alignment, fixed RAS to moving RAS, mm. stages: coarse to fine.
    """

    grid: Grid
    linear: npt.NDArray[np.float64]
    stages: tuple[Stage, ...]

    @property
    def quick_stage(self) -> int:
        """The last stage that costs little, see `LiveSession.quick_stage`."""
        return max(0, len(self.stages) - 2)

    @property
    def last_stage(self) -> int:
        """Full resolution; of a network alone its only stage."""
        return len(self.stages) - 1


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown: the fields of λ, and how they were found. Compared by identity: another object is another picture.

    lam: the λ that the fields belong to; where no field is known on one side of the slider, the nearest that has one.
    forward: of a preview, an array that the next preview overwrites.
    inverse: None of a preview between two λ: nothing that is made of one needs it. title: the stage, in words.
    stage: a place in `Prepared.stages`; of a preview, that of the coarser one of both.
    final: whether no better one will come.
    """

    lam: float
    forward: DisplacementField
    inverse: DisplacementField | None
    stage: int
    title: str
    final: bool = False

    @property
    def solved(self) -> bool:
        """Whether the fields were computed for exactly this λ."""
        return self.inverse is not None

    def same_as(self, other: Shown) -> bool:
        """Whether nothing would change on screen."""
        return self.solved and other.solved and (self.lam, self.stage) == (other.lam, other.stage)


@dataclass(frozen=True)
class Work:
    """A field that is being computed: at which λ, up to which stage, how far it is (0 to 1), and that in words."""

    lam: float
    stage: Stage
    fraction: float
    text: str


@dataclass(frozen=True)
class LiveState:
    """All that is known of a live registration at one moment. Cheap: fields and label maps are referred to, not copied.

    lam: where the slider is; None before it was set for the first time.
    pair: what λ works on; None before one is prepared. While another is being prepared it is still the one before.
    progress: of preparing, 0 to 1 and in words; None while nothing is being prepared.
    ready: whether λ moves the field: there is a pair, and no other is being prepared.
    shown: None before the first field with the settings of now. metrics: of exactly the fields in `shown`, see
    `LiveSession.metrics`; {} while they are not measured.
    work: the field that is being computed. busy: whether the worker does anything for this registration, or will when
    λ has come to rest.
    response, suggestion: what was measured over λ with the settings of now, and the λ that it speaks for.
    device, note, warnings: what the worker computes on, how the pair is registered and what the user should know.
    values: hyperparameters other than λ by name. constraints, landmarks: what else is set, without what was refused.
    full_automatically: whether full resolution comes by itself. full_wanted: whether it comes at this λ in any case.
    """

    lam: float | None = None
    pair: Prepared | None = None
    progress: tuple[float, str] | None = None
    ready: bool = False
    shown: Shown | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    work: Work | None = None
    busy: bool = False
    response: Response = field(default_factory=Response)
    suggestion: Suggestion | None = None
    device: str = ""
    note: str = ""
    warnings: tuple[str, ...] = ()
    values: Mapping[str, float] = field(default_factory=dict)
    constraints: Constraints = NOTHING_SET
    landmarks: Landmarks | None = None
    full_automatically: bool = True
    full_wanted: bool = False

    @property
    def preparing(self) -> bool:
        """Whether a pair is being prepared (also again, in a new worker)."""
        return self.progress is not None

    @property
    def is_at_lambda(self) -> bool:
        """Whether what is shown belongs to λ, not to the nearest one that has a field."""
        return self.shown is not None and self.lam is not None and abs(self.shown.lam - self.lam) <= SAME_LAMBDA

    @property
    def is_solved(self) -> bool:
        """Whether what is shown was computed for exactly λ."""
        return self.shown is not None and self.shown.solved and self.is_at_lambda

    @property
    def is_final(self) -> bool:
        """Whether what is shown will not become any better."""
        return self.shown is not None and self.shown.final and self.is_at_lambda

    @property
    def worse(self) -> str:
        """In words for the user, if what is shown is worse than the linear alignment alone; else ""."""
        return warning(self.metrics) or ""

    def deformed_mm(self, place: npt.NDArray) -> float | None:
        """How far what is shown moves a place of the fixed image, besides the linear alignment; None without a field.

        place: (3,), RAS mm.
        """
        if not self.ready or self.shown is None:
            return None
        return float(np.linalg.norm(displacement_at(self.shown.forward, np.asarray(place, float)[None])))

    @property
    def is_waiting(self) -> bool:
        """Whether the first field with the settings of now is still on its way."""
        return self.ready and self.shown is None and self.busy

    @property
    def has_full(self) -> bool:
        """Whether there is a full resolution besides what comes first; a network alone has one stage."""
        return self.ready and self.pair is not None and len(self.pair.stages) > 1

    @property
    def is_computing_full(self) -> bool:
        """Whether a field is being computed at full resolution, at whatever λ."""
        last = self.pair.stages[-1] if self.has_full and self.pair is not None else None
        return self.work is not None and self.work.stage == last

    @property
    def can_request_full(self) -> bool:
        """Whether full resolution at λ has to be asked for, and can be."""
        return self.ready and self.shown is not None and not self.is_final and not self.full_wanted


class Publisher:
    """Tells a state if it is another one. What is changed by who is told is told as soon as that has returned.

    state(): what is known now.
    """

    def __init__(self, state: Callable[[], LiveState]) -> None:
        self._state, self._told, self._telling = state, state(), False

    def publish(self, on_state: Callable[[LiveState], None]) -> None:
        """Calls on_state until it has been told what is known now; at once if it knows, or is being told."""
        if self._telling:
            return
        self._telling = True
        try:
            while (state := self._state()) != self._told:
                self._told = state
                on_state(state)
        finally:
            self._telling = False


class Registration(Protocol):
    """A live registration for who shows it: `LiveRegistration`, which says what each member does, or a fake in tests.

    on_state(state): it is another one. on_error(message): in words for the user; the state is told before.
    """

    on_state: Callable[[LiveState], None]
    on_error: Callable[[str], None]

    @property
    def state(self) -> LiveState: ...
    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        model: str | None = None,
        device: str = "auto",
        initial: str | npt.NDArray[np.float64] | Transform = "affine",
        contrast: str = AUTOMATIC,
        symmetric: bool = False,
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
    ) -> Any: ...
    def cancel(self) -> None: ...
    def set_lambda(self, lam: float) -> None: ...
    def set_full_automatically(self, on: bool) -> None: ...
    def request_full(self) -> None: ...
    def cancel_full(self) -> None: ...
    def set_hyperparameter(self, name: str, value: float) -> None: ...
    def set_regions(self, labels: Volume | None, lambdas: Mapping[int, float]) -> None: ...
    def set_masks(self, fixed_mask: Volume | None, moving_mask: Volume | None) -> None: ...
    def set_rigid(self, labels: Volume | None, values: Sequence[int]) -> None: ...
    def set_landmarks(
        self,
        fixed_points: npt.NDArray | None,
        moving_points: npt.NDArray | None,
        pull: float = 0.0,
        left_out: Sequence[int] = (),
    ) -> None: ...
    def transform(self) -> Transform: ...
    def inverse_transform(self) -> Transform: ...
    def reset(self) -> None: ...
    def set_aside(self) -> None: ...
    def bring_back(self) -> None: ...
    def drop_aside(self) -> None: ...
    def close(self) -> None: ...
