"""The fields that are known of a pair, at which λ and how good, and what was measured of them. numpy only, no torch."""

from __future__ import annotations

import bisect
from typing import Any

from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration.anchors import MAX_ANCHORS, Anchors, Fields
from hyperreg.registration.response import RESPONSE_LAMBDAS
from hyperreg.registration.stages import BETWEEN_TEXT, Stage
from hyperreg.worker.live.state import Shown

# As finely as the worker tells values of lambda apart.
DECIMALS = 6


def key_of(lam: float) -> float:
    """λ as finely as the worker tells values apart."""
    return round(lam, DECIMALS)


class FieldStore:
    """Fields and metrics of one pair with one setting. With another setting they count no more: another store begins.

    anchors: the best fields that are known; previews are interpolated between them.
    known: stage and fields of every anchor, and of the shown λ where there was no room for another anchor.
    metrics: of the worker, at each λ and stage that was measured; also of fields that are not kept.
    count: how many fields have come.
    """

    def __init__(self, stages: tuple[Stage, ...]) -> None:
        self._stages = stages
        self.anchors = Anchors()
        self.known: dict[float, tuple[int, Fields]] = {}
        self.metrics: dict[tuple[float, int], dict[str, Any]] = {}
        self.count = 0
        # The buffer that previews are written to.
        self._preview: DisplacementField | None = None

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

    def next_anchors(self, lam: float, stage: int) -> list[float]:
        """The λ whose fields of a stage help most: the nearest of the response's; then where previews are worst."""
        missing = [other for other in RESPONSE_LAMBDAS if self.stage_at(other) < stage]
        if missing:
            return sorted(missing, key=lambda other: abs(other - lam))
        worst = self.anchors.next_lambda() if len(self.anchors) < MAX_ANCHORS else None
        return [] if worst is None else [key_of(worst)]

    def add(self, lam: float, stage: int, fields: Fields, keep: float | None) -> None:
        """Takes a field. It becomes an anchor while there is room, which the λ of the response have in any case.

        keep: the λ whose field is shown; it stays, too.
        """
        self.count += 1
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
        self._preview = self.anchors.interpolate(lam, self._preview)
        return Shown(lam, self._preview, None, self.stage_between(lam), BETWEEN_TEXT)

    def stage_between(self, lam: float) -> int:
        """The coarser stage of λ's neighbours, that of a preview; -1 where λ does not lie between two."""
        lambdas = self.anchors.lambdas
        right = bisect.bisect_left(lambdas, lam)
        if not 0 < right < len(lambdas):
            return -1
        return min(self.stage_at(key_of(lambdas[at])) for at in (right - 1, right))

    def _shown(self, lam: float, stage: int, fields: Fields) -> Shown:
        final = stage == len(self._stages) - 1
        return Shown(lam, fields.forward, fields.inverse, stage, self._stages[stage].text, final)

    def metrics_of(self, shown: Shown) -> dict[str, Any] | None:
        """What was measured of exactly these fields; None of a preview, and before they are measured."""
        return self.metrics.get((shown.lam, shown.stage)) if shown.solved else None
