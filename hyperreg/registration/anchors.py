"""Preview fields: interpolation between exact fields at a few values of lambda. numpy only, so that it runs in Slicer.

Interpolation of the displacements between anchors is what makes the slider live on a CPU: cubic, with the slopes that
the anchors beside an interval give, which halves the error of linear interpolation where the response is smooth. The
anchors are set where the response bends: each new one halves the interval whose interpolation is worst, until none is
off by more than the tolerance. How far that is off, the anchors say themselves: each one as the others predict it.
"""

from __future__ import annotations

import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField

# What a preview may be off from the exact field: mean and 99th percentile of the length of the difference.
TOLERANCE_MEAN_MM = 0.1
TOLERANCE_P99_MM = 0.5
# Errors are estimated on every second voxel along each axis: enough for a choice between intervals.
ESTIMATED_ON = 2
# The outermost intervals have a neighbour on one side only, and the response may bend more and more towards the end:
# the curvature there counts so many times.
OUTERMOST = 2.0
MAX_ANCHORS = 17
# Lambdas closer than this are the same; also how finely the slider's values are told apart.
SAME_LAMBDA = 1e-6


@dataclass(frozen=True)
class Fields:
    """The displacement of one lambda and the displacement of its inverse map, on one grid.

    With A the linear part: fixed x -> A(x + forward(x)), and back: moving y -> z + inverse(z), z = A^-1 y.
    """

    forward: DisplacementField
    inverse: DisplacementField


def check_lambda(lam: float) -> float:
    """The value as a float. Raises InputError outside [0, 1] or for NaN."""
    if not 0.0 <= lam <= 1.0:
        raise InputError(f"λ must lie between 0 (most flexible) and 1 (most rigid), not {lam}.")
    return float(lam)


def difference_mm(first: DisplacementField, second: DisplacementField) -> tuple[float, float]:
    """Mean and 99th percentile of |first - second|, mm, on their common grid."""
    length = np.linalg.norm(first.array - second.array, axis=0)
    return float(length.mean()), float(np.percentile(length, 99))


class Anchors:
    """Exact fields at known lambdas, and interpolation between them."""

    def __init__(self) -> None:
        self.lambdas: list[float] = []
        self._fields: list[Fields] = []
        self._stages: list[int] = []
        # How far an anchor is from what the two beside it predict, as a fraction of the tolerance; of the latest ones.
        self._bends: dict[tuple[float, ...], float] = {}

    def __len__(self) -> int:
        return len(self.lambdas)

    def add(self, lam: float, fields: Fields, stage: int = 0) -> None:
        """Keep an exact field; one at the same lambda is replaced. stage: how good it is; see `interpolate`."""
        lam = check_lambda(lam)
        at = bisect.bisect_left(self.lambdas, lam - SAME_LAMBDA)
        if at < len(self) and abs(self.lambdas[at] - lam) <= SAME_LAMBDA:
            self._fields[at], self._stages[at] = fields, stage
            return
        self.lambdas.insert(at, lam)
        self._fields.insert(at, fields)
        self._stages.insert(at, stage)

    def next_lambda(self) -> float | None:
        """Where the next exact field helps most; None if the interpolation is good enough everywhere."""
        for end in (0.0, 1.0):
            if not any(abs(lam - end) <= SAME_LAMBDA for lam in self.lambdas):
                return end
        if len(self) >= MAX_ANCHORS:
            return None
        errors = self._errors()
        worst = int(np.argmax(errors))
        if errors[worst] <= 1.0:
            return None
        return (self.lambdas[worst] + self.lambdas[worst + 1]) / 2

    def _errors(self) -> list[float]:
        """How far linear interpolation is off in the middle of each interval, as a fraction of the tolerance.

        Told from anchors of one stage; 0 where there are too few. An anchor that lies a and b from the next ones is off
        their line by a b / 2 times the second derivative, the middle of an interval of length h by h^2 / 8 times that:
        the larger derivative of both ends counts.
        """
        curvatures = [0.0] * len(self)
        bends: dict[tuple[float, ...], float] = {}
        for at in range(1, len(self) - 1):
            if len(set(self._stages[at - 1 : at + 2])) > 1:
                continue  # they differ by more than the response bends
            beside = self._fields[at - 1 : at + 2]
            key = *self.lambdas[at - 1 : at + 2], *self._stages[at - 1 : at + 2]
            before, after = self.lambdas[at] - self.lambdas[at - 1], self.lambdas[at + 1] - self.lambdas[at]
            bends[key] = self._bends[key] if key in self._bends else _bend(beside, before / (before + after))
            curvatures[at] = 2 * bends[key] / (before * after)
        self._bends = bends
        if len(self) == 2:
            return [float("inf")]
        curvatures[0], curvatures[-1] = OUTERMOST * curvatures[1], OUTERMOST * curvatures[-2]
        return [
            max(curvatures[left], curvatures[left + 1]) * (self.lambdas[left + 1] - self.lambdas[left]) ** 2 / 8
            for left in range(len(self) - 1)
        ]

    def interpolate(self, lam: float, out: DisplacementField | None = None) -> DisplacementField:
        """The displacement at lambda, between the two nearest anchors (the nearest one alone beyond the ends).

        Cubic where both are of one stage, with slopes from the next anchors of that stage; else linear.
        out: a field whose array is overwritten, to save the allocation. Raises InputError without any anchor.
        """
        lam = check_lambda(lam)
        if not self.lambdas:
            raise InputError("There is no field to preview yet; wait for the first one.")
        weights = self._weights(lam)
        return _sum(weights, [field.forward for field in self._fields], out)

    def _weights(self, lam: float) -> dict[int, float]:
        """The share of each anchor, by its place, in the fields at lambda; they sum to 1."""
        right = min(bisect.bisect_left(self.lambdas, lam), len(self) - 1)
        left = max(0, right - 1) if self.lambdas[right] > lam else right
        if left == right:
            return {left: 1.0}
        span = self.lambdas[right] - self.lambdas[left]
        t = (lam - self.lambdas[left]) / span
        if self._stages[left] != self._stages[right]:
            return {left: 1 - t, right: t}
        # Hermite's polynomials: of the value and of the slope at each end.
        weights = {left: (1 + 2 * t) * (1 - t) ** 2, right: t * t * (3 - 2 * t)}
        for end, height in ((left, t * (1 - t) ** 2), (right, t * t * (t - 1))):
            for at, share in self._slope(end).items():
                weights[at] = weights.get(at, 0.0) + span * height * share
        return weights

    def _slope(self, at: int) -> dict[int, float]:
        """The derivative over lambda at an anchor, as shares of anchors: of the parabola through it and the two beside
        it; of the line where only one of these is of its stage."""
        beside = [n for n in (at - 1, at + 1) if 0 <= n < len(self) and self._stages[n] == self._stages[at]]
        if len(beside) == 1:
            step = self.lambdas[beside[0]] - self.lambdas[at]
            return {at: -1 / step, beside[0]: 1 / step}
        before, after = self.lambdas[at] - self.lambdas[at - 1], self.lambdas[at + 1] - self.lambdas[at]
        whole = before + after
        return {
            at - 1: -after / (before * whole),
            at: (after - before) / (before * after),
            at + 1: before / (after * whole),
        }


def _bend(fields: Sequence[Fields], weight: float) -> float:
    """How far the second of three fields is from the line between the others, as a fraction of the tolerance.

    weight: of the third one on that line.
    """
    thinned = [
        DisplacementField(one.forward.array[:, ::ESTIMATED_ON, ::ESTIMATED_ON, ::ESTIMATED_ON], one.forward.ijk_to_ras)
        for one in fields
    ]
    line = _sum({0: 1 - weight, 2: weight}, thinned, None)
    mean, p99 = difference_mm(line, thinned[1])
    return max(mean / TOLERANCE_MEAN_MM, p99 / TOLERANCE_P99_MM)


def _sum(
    weights: Mapping[int, float], fields: Sequence[DisplacementField], out: DisplacementField | None
) -> DisplacementField:
    """The weighted sum of some of the fields, into the array of `out` if given."""
    places = list(weights)
    first = fields[places[0]]
    array = np.empty_like(first.array) if out is None else out.array
    np.multiply(first.array, np.float32(weights[places[0]]), out=array)
    term = np.empty_like(array) if len(places) > 1 else array
    for at in places[1:]:
        np.multiply(fields[at].array, np.float32(weights[at]), out=term)
        array += term
    return DisplacementField(array, first.ijk_to_ras) if out is None else out
