"""What a live registration knows of its pair: what it was prepared from, what was set, which fields are known."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import Anchors, Fields
from hyperreg.worker.jobs import Job

# As finely as the worker tells values of lambda apart.
DECIMALS = 6
FIELDS = ("forward", "inverse")


@dataclass
class Settings:
    """What is set besides λ, and which of it the worker's session has.

    values: hyperparameters other than λ by name. labels, lambdas: label map of the regions, λ of each label value.
    """

    values: dict[str, float] = field(default_factory=dict)
    labels: Volume | None = None
    lambdas: dict[int, float] = field(default_factory=dict)
    _values_there: dict[str, float] = field(default_factory=dict)
    _labels_there: Volume | None = None
    _lambdas_there: dict[int, float] = field(default_factory=dict)

    def started(self, values: Mapping[str, float]) -> None:
        """The worker has prepared a new session, with these values and no regions."""
        self._values_there = dict(values)
        self.values = {**values, **{name: value for name, value in self.values.items() if name in values}}
        self._labels_there, self._lambdas_there = None, {}

    @property
    def next_operation(self) -> str | None:
        """The operation that brings the session nearer to what is set; None if it has everything."""
        if self.values != self._values_there:
            return "choose"
        if self.labels is not self._labels_there or self.lambdas != self._lambdas_there:
            return "regions"
        return None

    def request(self) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
        """Parameters (without the session) and arrays of `next_operation`."""
        if self.next_operation == "choose":
            return {"values": self.values}, {}
        parameters: dict[str, Any] = {"lambdas": {str(label): lam for label, lam in self.lambdas.items()}}
        if self.labels is None:
            return {**parameters, "labels": "none"}, {}
        if self.labels is self._labels_there:
            return {**parameters, "labels": "same"}, {}
        volumes = {"regions": {"name": self.labels.name, "ijk_to_ras": self.labels.ijk_to_ras.tolist()}}
        return {**parameters, "labels": "given", "volumes": volumes}, {"regions": self.labels.array}

    def sent(self, before: Settings) -> None:
        """The session has taken over what `before`, a copy from when it was asked, says."""
        if before.next_operation == "choose":
            self._values_there = dict(before.values)
        else:
            self._labels_there, self._lambdas_there = before.labels, dict(before.lambdas)

    def copy(self) -> Settings:
        """A copy that later changes do not reach."""
        return Settings(
            dict(self.values), self.labels, dict(self.lambdas),
            dict(self._values_there), self._labels_there, dict(self._lambdas_there),
        )  # fmt: skip

    def give_up(self) -> None:
        """Back to what the session has: it refused the rest."""
        self.values = dict(self._values_there)
        self.labels, self.lambdas = self._labels_there, dict(self._lambdas_there)


@dataclass
class Pair:
    """What is known of a prepared pair, apart from what the worker knows.

    arrays, parameters: what it was prepared from, to do it again in another worker. exact: fields at the anchors.
    preview: the buffer that previews are written to. metrics: at each λ that was measured.
    epoch: counts how often the fields were forgotten, because a setting changed.
    """

    arrays: dict[str, npt.NDArray]
    parameters: dict[str, Any]
    grid: Grid
    refined_grid: Grid
    linear: npt.NDArray[np.float64]
    settings: Settings = field(default_factory=Settings)
    anchors: Anchors = field(default_factory=Anchors)
    exact: dict[float, Fields] = field(default_factory=dict)
    metrics: dict[float, dict[str, Any]] = field(default_factory=dict)
    preview: Fields | None = None
    epoch: int = 0

    @classmethod
    def prepared(cls, job: Job, parameters: dict[str, Any]) -> Pair:
        """From a "prepare" that is done, and the parameters it was asked for with."""
        result = job.result
        # Prepared again, it has to start from the same alignment.
        again = {**parameters, "initial": result["linear"]}
        grid, refined_grid = (
            Grid(tuple(result[f"{kind}shape"]), np.array(result[f"{kind}ijk_to_ras"])) for kind in ("", "refined_")
        )
        pair = cls(job.inputs, again, grid, refined_grid, np.array(result["linear"]))
        pair.settings.started(result["values"])
        return pair

    @property
    def image_grids(self) -> tuple[Grid, Grid]:
        """Of the fixed and the moving image."""
        places = self.parameters["volumes"]
        fixed, moving = (
            Grid(self.arrays[name].shape, np.array(places[name]["ijk_to_ras"])) for name in ("fixed", "moving")
        )
        return fixed, moving

    def add_anchor(self, lam: float, fields: Fields) -> None:
        """Keeps exact fields that previews may use."""
        self.exact[round(lam, DECIMALS)] = fields
        self.anchors.add(lam, fields)

    def forget_fields(self) -> None:
        """Something other than λ was changed: nothing that was computed counts any more."""
        self.anchors = Anchors()
        self.exact, self.metrics = {}, {}
        self.epoch += 1


def prepare_request(
    session: str,
    model: str | None,
    device: str,
    initial: str | npt.NDArray[np.float64],
    volumes: Mapping[str, Volume | None],
) -> tuple[dict[str, Any], dict[str, npt.NDArray]]:
    """Parameters and arrays of a "prepare". volumes: by role; None is left out."""
    given = {name: volume for name, volume in volumes.items() if volume is not None}
    parameters = {
        "session": session,
        "model": model or "",
        "device": device,
        "initial": initial if isinstance(initial, str) else np.asarray(initial, dtype=np.float64).tolist(),
        "volumes": {name: {"name": v.name, "ijk_to_ras": v.ijk_to_ras.tolist()} for name, v in given.items()},
    }
    return parameters, {name: volume.array for name, volume in given.items()}


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
