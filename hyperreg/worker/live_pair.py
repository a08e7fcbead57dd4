"""What a live registration knows of its pair: what it was prepared from, what was set, which fields are known."""

from __future__ import annotations

import bisect
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import MAX_ANCHORS, Anchors, Fields
from hyperreg.registration.constraints import MAPS, Constraints
from hyperreg.registration.response import RESPONSE_LAMBDAS
from hyperreg.registration.stages import BETWEEN_TEXT, Stage, stage_of
from hyperreg.worker.jobs import Job

# As finely as the worker tells values of lambda apart.
DECIMALS = 6
FIELDS = ("forward", "inverse")
# The parts of `Constraints` that belong together. They go to the worker one after the other: one that is refused takes
# no other with it.
PARTS = (("fixed_mask", "moving_mask"), ("landmarks",), ("rigid", "rigid_values"), ("regions", "region_lambdas"))


@dataclass
class Settings:
    """What is set besides λ, and which of it the worker's session has.

    values: hyperparameters other than λ by name. constraints: everything else.
    """

    values: dict[str, float] = field(default_factory=dict)
    constraints: Constraints = field(default_factory=Constraints)
    _values_there: dict[str, float] = field(default_factory=dict)
    _constraints_there: Constraints = field(default_factory=Constraints)

    def started(self, values: Mapping[str, float]) -> None:
        """The worker has prepared a new session, with these values and no constraints."""
        self._values_there = dict(values)
        self.values = {**values, **{name: value for name, value in self.values.items() if name in values}}
        self._constraints_there = Constraints()

    @property
    def next_operation(self) -> str | None:
        """The operation that brings the session nearer to what is set; None if it has everything."""
        if self.values != self._values_there:
            return "choose"
        return None if self._next_part is None else "constrain"

    @property
    def _next_part(self) -> tuple[str, ...] | None:
        return next((part for part in PARTS if not self._with(part).same_as(self._constraints_there)), None)

    def _with(self, part: tuple[str, ...]) -> Constraints:
        """What the session has, with one part as it is wanted."""
        return replace(self._constraints_there, **{name: getattr(self.constraints, name) for name in part})

    def request(self) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
        """Parameters (without the session) and arrays of `next_operation`; label maps that are there stay there."""
        if self.next_operation == "choose":
            return {"values": self.values}, {}
        there = self._constraints_there
        wanted = self._with(self._next_part or ())
        maps = {name: volume for name in MAPS if (volume := getattr(wanted, name)) is not None}
        same = [name for name, volume in maps.items() if volume is getattr(there, name)]
        given = {name: volume for name, volume in maps.items() if name not in same}
        parameters = {
            "same": same,
            "volumes": _places(given),
            "pull": 0.0 if wanted.landmarks is None else wanted.landmarks.pull,
            "rigid_values": list(wanted.rigid_values),
            "region_lambdas": {str(label): lam for label, lam in wanted.region_lambdas.items()},
        }
        arrays = {name: volume.array for name, volume in given.items()}
        if wanted.landmarks is not None:
            arrays |= {"fixed_points": wanted.landmarks.fixed, "moving_points": wanted.landmarks.moving}
        return parameters, arrays

    def sent(self, before: Settings) -> None:
        """The session has taken over what `before`, a copy from when it was asked, says."""
        if before.next_operation == "choose":
            self._values_there = dict(before.values)
        else:
            self._constraints_there = before._with(before._next_part or ())

    def copy(self) -> Settings:
        """A copy that later changes do not reach."""
        return Settings(dict(self.values), self.constraints, dict(self._values_there), self._constraints_there)

    def refused(self, before: Settings) -> None:
        """Back to what the session has, in what it has refused of `before`, a copy from when it was asked."""
        if before.next_operation == "choose":
            self.values = dict(self._values_there)
        else:
            back = {name: getattr(self._constraints_there, name) for name in before._next_part or ()}
            self.constraints = replace(self.constraints, **back)


@dataclass(eq=False)
class Shown:
    """What is shown: the fields of λ, and how they were found.

    lam: the λ that the fields belong to; where no field is known on one side of the slider, the nearest that has one.
    inverse: None of a preview between two λ: nothing that is made of one needs it. title: the stage, in words.
    stage: a place in `Pair.stages`; of a preview, that of the coarser one of both.
    measured: whether the metrics of these fields were told.
    """

    lam: float
    forward: DisplacementField
    inverse: DisplacementField | None
    stage: int
    title: str
    final: bool = False
    measured: bool = False

    @property
    def solved(self) -> bool:
        """Whether the fields were computed for exactly this λ."""
        return self.inverse is not None

    def same_as(self, other: Shown) -> bool:
        """Whether nothing would change on screen."""
        return self.solved and other.solved and (self.lam, self.stage) == (other.lam, other.stage)


def key_of(lam: float) -> float:
    """λ as finely as the worker tells values apart."""
    return round(lam, DECIMALS)


@dataclass
class Pair:
    """What is known of a prepared pair, apart from what the worker knows.

    arrays, parameters: what it was prepared from, to do it again in another worker. stages: coarse to fine.
    start: fixed RAS to moving RAS, if the deformation started from a given transform that is not linear.
    anchors: the best fields that are known; previews are interpolated between them.
    known: stage and fields of every anchor, and of the shown λ where there was no room for another anchor.
    metrics: at each λ and stage that was measured. preview: the buffer that previews are written to.
    full_failed: whether the last stage has failed; it does not come by itself any more: what ended the worker, or was
        short of memory, would be again at the next λ.
    epoch: counts how often the fields were forgotten, because a setting changed.
    """

    arrays: dict[str, npt.NDArray]
    parameters: dict[str, Any]
    grid: Grid
    linear: npt.NDArray[np.float64]
    stages: tuple[Stage, ...]
    note: str = ""
    start: Transform | None = None
    settings: Settings = field(default_factory=Settings)
    anchors: Anchors = field(default_factory=Anchors)
    known: dict[float, tuple[int, Fields]] = field(default_factory=dict)
    metrics: dict[tuple[float, int], dict[str, Any]] = field(default_factory=dict)
    preview: DisplacementField | None = None
    full_failed: bool = False
    epoch: int = 0

    @classmethod
    def prepared(cls, job: Job, parameters: dict[str, Any], start: Transform | None) -> Pair:
        """From a "prepare" that is done, the parameters it was asked for with, and the start that it was given."""
        result = job.result
        # Prepared again, it has to start from the same alignment; a start that was given is the same in any case.
        again = parameters if start is not None else {**parameters, "initial": result["linear"]}
        grid = Grid(tuple(result["shape"]), np.array(result["ijk_to_ras"]))
        stages = tuple(stage_of(entry) for entry in result["stages"])
        pair = cls(job.inputs, again, grid, np.array(result["linear"]), stages, result["note"], start)
        pair.settings.started(result["values"])
        return pair

    @property
    def quick_stage(self) -> int:
        """The last stage that costs little, see `LiveSession.quick_stage`."""
        return max(0, len(self.stages) - 2)

    @property
    def image_grids(self) -> tuple[Grid, Grid]:
        """Of the fixed and the moving image."""
        places = self.parameters["volumes"]
        fixed, moving = (
            Grid(self.arrays[name].shape, np.array(places[name]["ijk_to_ras"])) for name in ("fixed", "moving")
        )
        return fixed, moving

    def stage_at(self, lam: float) -> int:
        """The stage of the best field of λ; -1: none."""
        return self.known[lam][0] if lam in self.known else -1

    def fields_at(self, lam: float) -> Fields | None:
        """The best field of λ, if there is one."""
        return self.known[lam][1] if lam in self.known else None

    def nearest_below(self, lam: float, stage: int) -> float | None:
        """The known λ nearest to this one whose field is not yet of that stage; None if all are."""
        behind = [other for other, (reached, _) in self.known.items() if reached < stage]
        return min(behind, key=lambda other: abs(other - lam), default=None)

    def add(self, lam: float, stage: int, fields: Fields, keep: float | None) -> None:
        """Takes a field. It becomes an anchor while there is room, which the λ of the response have in any case.

        keep: the λ that is shown; its field stays, too.
        """
        self.known[lam] = stage, fields
        anchors = {key_of(other) for other in self.anchors.lambdas}
        reserved = set(RESPONSE_LAMBDAS) - anchors - {lam}
        if lam in anchors or lam in RESPONSE_LAMBDAS or len(anchors) + len(reserved) < MAX_ANCHORS:
            self.anchors.add(lam, fields, stage)
            anchors.add(lam)
        for other in list(self.known):
            if other not in anchors and (keep is None or other != key_of(keep)) and other != lam:
                del self.known[other]

    def best(self, lam: float) -> Shown | None:
        """The best that is known for λ: its own field, or a preview between its neighbours; None without any field.

        Beyond the outermost field that one is shown, under its own λ.
        """
        lambdas = self.anchors.lambdas
        if (own := self.known.get(key_of(lam))) is not None:
            return self._shown(key_of(lam), *own)
        if not lambdas:
            return None
        if not lambdas[0] < lam < lambdas[-1]:
            nearest = key_of(lambdas[0] if lam <= lambdas[0] else lambdas[-1])
            return self._shown(nearest, *self.known[nearest])
        self.preview = self.anchors.interpolate(lam, self.preview)
        return Shown(lam, self.preview, None, self.stage_between(lam), BETWEEN_TEXT)

    def stage_between(self, lam: float) -> int:
        """The coarser stage of λ's neighbours, that of a preview; -1 where λ does not lie between two."""
        lambdas = self.anchors.lambdas
        right = bisect.bisect_left(lambdas, lam)
        if not 0 < right < len(lambdas):
            return -1
        return min(self.stage_at(key_of(lambdas[at])) for at in (right - 1, right))

    def _shown(self, lam: float, stage: int, fields: Fields) -> Shown:
        final = stage == len(self.stages) - 1
        return Shown(lam, fields.forward, fields.inverse, stage, self.stages[stage].text, final)

    def forget_fields(self) -> None:
        """Something other than λ was changed: nothing that was computed counts any more."""
        self.anchors = Anchors()
        self.known, self.metrics = {}, {}
        self.epoch += 1


def prepare_request(
    session: str,
    model: str | None,
    device: str,
    initial: str | npt.NDArray[np.float64] | Transform,
    contrast: str,
    symmetric: bool,
    volumes: Mapping[str, Volume | None],
) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
    """Parameters and arrays of a "prepare". volumes: by role; None is left out."""
    given: dict[str, Volume | DisplacementField] = {name: v for name, v in volumes.items() if v is not None}
    stages: Any = initial
    if isinstance(initial, Transform) and not initial.is_linear:
        fields = {f"start_{n}": stage for n, stage in enumerate(initial.stages) if isinstance(stage, DisplacementField)}
        given |= fields
        names = {id(stage): name for name, stage in fields.items()}
        stages = {"stages": [names.get(id(stage)) or np.asarray(stage).tolist() for stage in initial.stages]}
    elif not isinstance(initial, str):
        matrix = initial.linear if isinstance(initial, Transform) else initial
        stages = np.asarray(matrix, dtype=np.float64).tolist()
    parameters = {
        "session": session,
        "model": model or "",
        "device": device,
        "initial": stages,
        "contrast": contrast,
        "symmetric": symmetric,
        "volumes": _places(given),
    }
    return parameters, {name: volume.array for name, volume in given.items()}


def _places(volumes: Mapping[str, Volume | DisplacementField]) -> dict[str, Any]:
    """Where volumes lie, as a request says it."""
    return {
        name: {"name": getattr(volume, "name", name), "ijk_to_ras": volume.ijk_to_ras.tolist()}
        for name, volume in volumes.items()
    }


def outputs_on(grid: Grid) -> dict[str, tuple[tuple[int, ...], type]]:
    """The outputs of an operation that fills fields on this grid."""
    return dict.fromkeys(FIELDS, ((3, *grid.shape), np.float32))


def fields_of(job: Job, grid: Grid) -> Fields:
    """The fields that a job filled, read-only: they may be an anchor, whoever else gets them."""
    for name in FIELDS:
        job.arrays[name].setflags(write=False)
    return Fields(*(DisplacementField(job.arrays[name], grid.ijk_to_ras) for name in FIELDS))


def restored(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as the session gave them, before they were JSON: labels are numbers, null is NaN."""
    return {
        name: {int(label): _number(number) for label, number in value.items()}
        if isinstance(value, dict)
        else _number(value)
        for name, value in metrics.items()
    }


def _number(value: Any) -> Any:
    return float("nan") if value is None else value
