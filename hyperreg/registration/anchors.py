"""Preview fields: interpolation between exact fields at a few values of lambda. numpy only, so that it runs in Slicer.

Linear interpolation of the displacements between anchors is what makes the slider live on a CPU. The anchors are set
where the response bends: each new one halves the interval whose interpolation is worst, until none is off by more than
the tolerance.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField

# What a preview may be off from the exact field: mean and 99th percentile of the length of the difference.
TOLERANCE_MEAN_MM = 0.1
TOLERANCE_P99_MM = 0.5
# Halving an interval divides the error of linear interpolation by four where the response is smooth; two is on the safe
# side where it bends.
ERROR_DECAY = 0.5
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
        self._errors: list[float] = []  # of the interval right of each anchor, as a fraction of the tolerance

    def __len__(self) -> int:
        return len(self.lambdas)

    def add(self, lam: float, fields: Fields) -> None:
        """Keep an exact field; one at the same lambda is replaced."""
        lam = check_lambda(lam)
        at = bisect.bisect_left(self.lambdas, lam - SAME_LAMBDA)
        if at < len(self) and abs(self.lambdas[at] - lam) <= SAME_LAMBDA:
            self._fields[at] = fields
            return
        error = float("inf")
        if 0 < at < len(self):
            mean, p99 = difference_mm(self.interpolate(lam, inverse=False).forward, fields.forward)
            error = ERROR_DECAY * max(mean / TOLERANCE_MEAN_MM, p99 / TOLERANCE_P99_MM)
            self._errors[at - 1] = error
        self.lambdas.insert(at, lam)
        self._fields.insert(at, fields)
        self._errors.insert(at, error)

    def next_lambda(self) -> float | None:
        """Where the next exact field helps most; None if the interpolation is good enough everywhere."""
        for end in (0.0, 1.0):
            if not any(abs(lam - end) <= SAME_LAMBDA for lam in self.lambdas):
                return end
        if len(self) >= MAX_ANCHORS:
            return None
        errors = self._errors[: len(self) - 1]
        worst = int(np.argmax(errors))
        if errors[worst] <= 1.0:
            return None
        return (self.lambdas[worst] + self.lambdas[worst + 1]) / 2

    def interpolate(self, lam: float, *, inverse: bool = True, out: Fields | None = None) -> Fields:
        """Fields at lambda, linear between the two nearest anchors (the nearest one alone beyond the ends).

        inverse=False leaves the inverse as it is in `out` (or at the nearest anchor): half the work while dragging.
        out: fields whose arrays are overwritten, to save the allocation. Raises InputError without any anchor.
        """
        lam = check_lambda(lam)
        if not self.lambdas:
            raise InputError("There is no field to preview yet; wait for the first one.")
        right = min(bisect.bisect_left(self.lambdas, lam), len(self) - 1)
        left = max(0, right - 1) if self.lambdas[right] > lam else right
        span = self.lambdas[right] - self.lambdas[left]
        weight = (lam - self.lambdas[left]) / span if span > 0 else 0.0
        first, second = self._fields[left], self._fields[right]
        nearest = second if weight > 0.5 else first
        forward = _blend(first.forward, second.forward, weight, out.forward if out else None)
        if inverse:
            return Fields(forward, _blend(first.inverse, second.inverse, weight, out.inverse if out else None))
        return Fields(forward, out.inverse if out else nearest.inverse)


def _blend(
    first: DisplacementField, second: DisplacementField, weight: float, out: DisplacementField | None
) -> DisplacementField:
    """(1 - weight) first + weight second, into the array of `out` if given."""
    array = np.empty_like(first.array) if out is None else out.array
    np.subtract(second.array, first.array, out=array)
    array *= np.float32(weight)
    array += first.array
    return DisplacementField(array, first.ijk_to_ras) if out is None else out
