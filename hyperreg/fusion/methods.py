"""The methods of fusion by name: one call for all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.local import RADIUS, local
from hyperreg.fusion.qualities import dp_consensus
from hyperreg.fusion.stack import LabelStack
from hyperreg.fusion.staple import staple
from hyperreg.fusion.voting import vote
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Progress

METHODS = ("vote", "staple", "local", "dp")


@dataclass(frozen=True)
class Evidence:
    """What some methods need beside the labels.

    target, images: the target's image and those of the atlases, (A,), all on the grid of the labels: for "local".
    weights: of the raters for "vote", see `vote`. data_parameters: of the raters for "dp", (A,), as training found
    them; temperature: how sharply they are told apart, see `dp_weights`.
    """

    target: Volume | None = None
    images: Sequence[Volume] = ()
    weights: npt.ArrayLike | None = None
    data_parameters: npt.ArrayLike | None = None
    temperature: float | None = None
    radius: int = RADIUS


def fuse(
    stack: LabelStack,
    method: str,
    evidence: Evidence | None = None,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> Consensus:
    """The consensus of a stack by one of METHODS.

    Raises InputError for another method or without what the method needs, Cancelled.
    """
    given = evidence or Evidence()
    if method == "vote":
        return vote(stack, given.weights)
    if method == "staple":
        return staple(stack)
    if method == "local":
        if given.target is None or not given.images:
            raise InputError("Local voting compares images: it needs the target's image and those of the atlases.")
        return local(stack, given.target, given.images, given.radius, progress, cancelled)
    if method == "dp":
        if given.data_parameters is None:
            raise InputError("Data parameters have to be trained first.")
        return dp_consensus(stack, given.data_parameters, given.temperature)
    raise InputError(f"Unknown method of fusion '{method}'. Use one of {', '.join(METHODS)}.")
