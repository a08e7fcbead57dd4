"""The response curve of a live registration: what is measured at which λ, and what that suggests. No torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hyperreg.registration.anchors import SAME_LAMBDA
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion, suggest


class Curve:
    """Grows while nothing else is to do.

    response: another object whenever it has grown. suggestion: once every λ of the plan was measured.
    """

    def __init__(self) -> None:
        self.response = Response()
        self.suggestion: Suggestion | None = None

    def add(self, lam: float, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of one λ."""
        self.response = Response(self.response.rows)
        self.response.add(lam, metrics)
        if not self._missing():
            self.suggestion = suggest(self.response)

    def next_lambda(self) -> float | None:
        """What to measure next: the λ farthest from all that were measured, so that the curve shows its shape from the
        beginning; None if nothing is missing."""
        measured = self.response.lambdas
        distances = {lam: min((abs(lam - other) for other in measured), default=0.0) for lam in self._missing()}
        return max(distances, key=lambda lam: distances[lam], default=None)

    def _missing(self) -> list[float]:
        measured = self.response.lambdas
        return [lam for lam in RESPONSE_LAMBDAS if not any(abs(lam - other) <= SAME_LAMBDA for other in measured)]
