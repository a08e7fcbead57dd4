"""How a pair answers to lambda, and which lambda that speaks for. Without torch, so that it runs in Slicer.

It is measured on the fields of the quick stage. Without label maps or landmarks lambda is chosen by what these fields
were not fitted to: they are found on a coarse grid, and the agreement of the images' finer detail is measured, where
the linear alignment left them apart ("detail", see `registration.detail`). Similarity on the coarse grid grows nearly
always with flexibility; that of the finer detail falls again where the field follows noise and differences without a
counterpart.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from hyperreg.errors import Cancelled, InputError
from hyperreg.registration.anchors import SAME_LAMBDA, check_lambda

# Denser near 0, where the response bends most.
RESPONSE_LAMBDAS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
# What a search for the best, without the whole curve, tries: between them the response hardly bends. It starts at the
# first ones and climbs to a neighbour as long as that is better.
SEARCHED_LAMBDAS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
FIRST_LAMBDAS = (0.1, 0.4)
# A registration that is worse than its start by less than this is as good: it would read the same on screen.
SAME_SHARE = 5e-4
SAME_MM = 0.05
# A deformation has to mend at least this share of the disagreement that the linear alignment left. On eight pairs of
# brains, lung and heart the network mended 7 to 26 % of it at its default lambda; where it went astray, nothing.
LEAST_MENDED = 0.01
# A start that makes fine detail agree less than so many times as well as chance has not brought the images together.
# Over 15 real pairs (brain, CT and MR of heads, lung, heart, limb, prostate, breast, spine) it was 2.4 to 7; of noise
# and other parts of the body, .8 to 1.9.
LEAST_OVER_CHANCE = 2.0


@dataclass
class Response:
    """rows: per lambda, in rising order, the figures of `LiveSession.metrics` as numbers.

    Dice of the label 3 is "dice_3"; the values before the deformation of single labels are left out.
    """

    rows: list[dict[str, float]] = field(default_factory=list)

    def add(self, lam: float, metrics: Mapping[str, Any]) -> None:
        """Keep the figures of one lambda; older ones of the same lambda are replaced. Raises InputError."""
        lam = check_lambda(lam)
        row = {"lambda": lam}
        for name, value in metrics.items():
            if isinstance(value, Mapping):
                if not name.endswith("_before"):
                    row.update({f"{name}_{label}": float(part) for label, part in value.items()})
            elif value is not None:
                row[name] = float(value)
        kept = [other for other in self.rows if abs(other["lambda"] - lam) > SAME_LAMBDA]
        self.rows = sorted([*kept, row], key=lambda other: other["lambda"])

    @property
    def lambdas(self) -> list[float]:
        return self.column("lambda")

    @property
    def columns(self) -> list[str]:
        """The names of all figures, lambda first; [] without rows."""
        return list(self.rows[0]) if self.rows else []

    def column(self, name: str) -> list[float]:
        """One figure over lambda. Raises KeyError if not every row has it."""
        return [row[name] for row in self.rows]

    def knows(self, name: str) -> bool:
        """Whether every row has a number for this figure."""
        return bool(self.rows) and all(math.isfinite(row.get(name, math.nan)) for row in self.rows)

    def best(self, name: str, *, largest: bool = True) -> dict[str, float]:
        """The row with the best value of a figure; of equal ones the smoothest."""
        return max(self.rows, key=lambda row: (row[name] if largest else -row[name], row["lambda"]))


@dataclass(frozen=True)
class Suggestion:
    """lam: the suggested lambda. by: what it was chosen by, or who gave it. reason: one sentence for the user."""

    lam: float
    reason: str
    by: Literal["dice", "landmarks", "images", "user", "model"]


def suggest(response: Response) -> Suggestion:
    """The lambda that the response speaks for: by Dice, else by landmarks, else by the images alone.

    Raises InputError if nothing has been measured.
    """
    if response.knows("dice_mean"):
        row = response.best("dice_mean")
        return Suggestion(
            row["lambda"],
            f"The label maps overlap best there: mean Dice {row['dice_mean']:.3f}, after the linear alignment alone "
            f"{row['dice_mean_before']:.3f}.",
            "dice",
        )
    if response.knows("landmarks_mm"):
        row = response.best("landmarks_mm", largest=False)
        return Suggestion(
            row["lambda"],
            f"The landmarks lie closest together there: {row['landmarks_mm']:.2f} mm on average, after the linear "
            f"alignment alone {row['landmarks_mm_before']:.2f} mm.",
            "landmarks",
        )
    if response.knows("detail"):
        row = response.best("detail")
        if _worse(row) is not None:
            return Suggestion(
                1.0, "No deformation makes the images agree clearly better than the linear alignment alone.", "images"
            )
        return Suggestion(
            row["lambda"],
            "The fine detail of the images, to which these fields were not fitted, agrees best there.",
            "images",
        )
    if response.knows("similarity"):
        return Suggestion(response.best("similarity")["lambda"], "The images are most similar there.", "images")
    raise InputError("No λ can be suggested yet: nothing has been measured on this pair.")


def warning(metrics: Mapping[str, Any], start: str = "the linear alignment") -> str | None:
    """A sentence for the user if the deformation made the registration worse than its start, else None.

    Label maps decide if there are any, then landmarks, then the images' detail, then their similarity. Of the images
    alone it is not enough that they agree hardly worse: a deformation has to show that it is good for something.
    """
    found = _worse(metrics)
    if found is None or not metrics.get("displacement_max_mm", 1.0):
        return chance_warning(metrics)
    makes, look = ("makes", "") if found.by_truth else ("may make", "Look at it closely. ")
    return (
        f"The deformation {makes} this registration worse: {found.what} ({found.after}) than after {start} alone "
        f"({found.before}). {look}Choose a larger λ, or keep {start}."
    )


def chance_warning(metrics: Mapping[str, Any]) -> str | None:
    """A sentence for the user if the images agreed by chance alone before the deformation, as far as nothing but the
    images can tell; else None. A deformation that is flexible enough makes noise look like anything."""
    times = metrics.get("over_chance_before")
    truth = (metrics.get(name, math.nan) for name in ("dice_mean", "landmarks_mm"))
    if times is None or times >= LEAST_OVER_CHANCE or any(math.isfinite(value) for value in truth):
        return None
    return (
        "Before the deformation, the images agree hardly better than by chance "
        f"({times:.1f} times as well as where they have nothing to do with each other): they show other things, were "
        "not brought together, or are of kinds that cannot be compared. A deformation makes any images look alike; do "
        "not rely on this one."
    )


@dataclass(frozen=True)
class _Loss:
    """what: got worse, in words; before, after: the figures. by_truth: whether more than the images says so."""

    what: str
    before: str
    after: str
    by_truth: bool


def _worse(metrics: Mapping[str, Any]) -> _Loss | None:
    """What got worse, by the best judge that knows both; None if that one sees nothing worse."""

    def pair(name: str) -> tuple[float, float] | None:
        old, new = metrics.get(f"{name}_before"), metrics.get(name)
        if old is None or new is None or not (math.isfinite(old) and math.isfinite(new)):
            return None
        return float(old), float(new)

    if (found := pair("dice_mean")) is not None:
        if found[1] >= found[0] - SAME_SHARE:
            return None
        return _Loss("the label maps overlap less", f"{found[0]:.3f}", f"mean Dice {found[1]:.3f}", True)
    if (found := pair("landmarks_mm")) is not None:
        if found[1] <= found[0] + SAME_MM:
            return None
        return _Loss("the landmarks lie further apart", f"{found[0]:.2f} mm", f"{found[1]:.2f} mm", True)
    for name, where in (("detail", " in their fine detail"), ("similarity", "")):
        found = pair(name)
        if found is None:
            continue
        gain = found[1] - found[0]
        if gain >= LEAST_MENDED * (1 - found[0]):
            return None
        how = "less" if gain < -SAME_SHARE else "hardly more"
        return _Loss(f"the images agree {how}{where}", f"{found[0]:.3f}", f"{found[1]:.3f}", False)
    return None


class Measurable(Protocol):
    """What the search needs of a session (a `LiveSession`)."""

    @property
    def quick_stage(self) -> int: ...

    def metrics(self, lam: float, stage: int, /) -> Mapping[str, Any]: ...


def automatic_lambda(
    session: Measurable,
    progress: Callable[[float, str], None] | None = None,
    cancelled: Callable[[], bool] | None = None,
    response: Response | None = None,
) -> Suggestion:
    """Search the SEARCHED_LAMBDAS for the best one: a few first, then the neighbours of the best, again and again.

    session: prepared. response: what is known already; what is measured is added to it.
    Raises Cancelled, and what `LiveSession.metrics` raises.
    """
    response = Response() if response is None else response
    # Two neighbours of the best of the first, and on from there once or twice.
    expected = len(FIRST_LAMBDAS) + 3
    done = 0
    while wanted := _unmeasured(response):
        for lam in wanted:
            if cancelled is not None and cancelled():
                raise Cancelled("The search for λ was cancelled.")
            if progress is not None:
                progress(min(done / expected, 0.99), f"Searching λ: trying {lam:g}")
            response.add(lam, session.metrics(lam, session.quick_stage))
            done += 1
    if progress is not None:
        progress(1.0, "λ found")
    return suggest(response)


def _unmeasured(response: Response) -> list[float]:
    """What the search has to measure next: the first values, then what lies next to the best; [] when it is done."""

    def missing(lambdas: Iterable[float]) -> list[float]:
        return [lam for lam in lambdas if not any(abs(lam - known) <= SAME_LAMBDA for known in response.lambdas)]

    if first := missing(FIRST_LAMBDAS):
        return first
    best = suggest(response).lam
    at = min(range(len(SEARCHED_LAMBDAS)), key=lambda index: abs(SEARCHED_LAMBDAS[index] - best))
    return missing(SEARCHED_LAMBDAS[max(0, at - 1) : at + 2])
