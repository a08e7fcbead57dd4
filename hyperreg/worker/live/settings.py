"""What is set of a pair besides λ, and how the worker comes to know it. numpy only, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy.typing as npt

from hyperreg.registration.constraints import MAPS, Constraints
from hyperreg.worker.live.messages import places

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
            "volumes": places(given),
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
