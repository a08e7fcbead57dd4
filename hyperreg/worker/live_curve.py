"""The response curve of a live registration: what is measured at which λ, and what that suggests. No torch."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any

from hyperreg.registration.anchors import SAME_LAMBDA
from hyperreg.registration.response import RESPONSE_LAMBDAS, Response, Suggestion, suggest


class Curve:
    """Grows while nothing else is to do. suggestion: once every λ of the plan was measured."""

    def __init__(self) -> None:
        self.response = Response()
        self.suggestion: Suggestion | None = None

    def add(self, lam: float, metrics: Mapping[str, Any]) -> None:
        """Takes the metrics of one λ."""
        self.response.add(lam, metrics)
        if not self._missing():
            self.suggestion = suggest(self.response)

    def next_lambda(self, known: Container[float]) -> float | None:
        """What to measure next; None if nothing is missing. known: λs whose fields are there, which costs least.

        Otherwise the λ farthest from all that were measured, so that the curve shows its shape from the beginning.
        """
        missing = self._missing()
        at_hand = [lam for lam in missing if lam in known]
        if at_hand or not missing:
            return at_hand[0] if at_hand else None
        measured = self._measured()
        return max(missing, key=lambda lam: min((abs(lam - other) for other in measured), default=0.0))

    def _measured(self) -> list[float]:
        return self.response.lambdas

    def _missing(self) -> list[float]:
        measured = self._measured()
        return [lam for lam in RESPONSE_LAMBDAS if not any(abs(lam - other) <= SAME_LAMBDA for other in measured)]
