"""Majority and weighted voting.

Each voxel gets the label with the largest sum of weights. A tie goes to the one of the tied labels that most of the 26
neighbours got, as far as these are decided, and if that is no answer either, to the background or else the first in
the order of the stack. So the result does not depend on the order of the raters.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.stack import Codes, LabelStack

Weights = npt.NDArray[np.float32]

# Voxels per step: bounds what is needed beside the maps themselves (A raters: about 10 A bytes per voxel).
BLOCK = 1 << 18
# Sums of weights that differ by less than this share of their total are equal: weights are float32.
TIE = 1e-5


def vote(stack: LabelStack, weights: npt.ArrayLike | None = None, method: str = "vote") -> Consensus:
    """The label with the most weight at every voxel.

    weights: None (majority), one per rater (A,), or one per rater and voxel: (A, I, J, K), or (A, D) at the stack's
    disputed voxels. Two labels, background and one other: foreground where its share of the weights is above 0.5.
    method: what the result is called. Raises InputError for weights that cannot be used.
    """
    checked = stack.check_weights(weights)
    decided = stack.flat[0].copy()
    undecided: list[npt.NDArray[np.intp]] = []
    for part in _blocks(stack.disputed.size):
        where = stack.disputed[part]
        codes = stack.flat[:, where]
        lowest, tied = winners(codes, checked[:, part] if checked.shape[1] > 1 else checked)
        decided[where] = lowest
        undecided.append(where[tied])
    warnings = list(stack.warnings)
    if len(stack.names) == 1:
        warnings.append("There is only one label map: it is the consensus as it is.")
    _decide_ties(stack, checked, decided, np.concatenate(undecided) if undecided else np.zeros(0, dtype=np.intp))

    def probability(code: int) -> npt.NDArray[np.float32]:
        shares = (stack.flat[0] == code).astype(np.float32)
        for part in _blocks(stack.disputed.size):
            where = stack.disputed[part]
            given = checked[:, part] if checked.shape[1] > 1 else checked
            shares[where] = (given * (stack.flat[:, where] == code)).sum(axis=0) / given.sum(axis=0)
        return shares.reshape(stack.grid.shape)

    return Consensus(
        stack, method, decided.reshape(stack.grid.shape), _mean_weights(checked), probability, warnings=warnings
    )


def softmax_weights(values: npt.ArrayLike, temperature: float = 1.0) -> npt.NDArray[np.float64]:
    """Weights that sum to 1 from qualities on any scale, such as data parameters: exp(value / temperature), (A,).

    temperature: above 0; small ones leave all the weight to the best, large ones make all alike.
    Raises InputError for a temperature that is not above 0, or values that are no finite numbers.
    """
    if not (np.isfinite(temperature) and temperature > 0):
        raise InputError(f"The temperature is a number above 0, not {temperature}.")
    scaled = np.asarray(values, dtype=np.float64)
    if scaled.ndim != 1 or not scaled.size or not np.isfinite(scaled).all():
        raise InputError("Qualities of raters are one finite number each.")
    scaled = (scaled - scaled.max()) / temperature
    exponentials = np.exp(scaled)
    return exponentials / exponentials.sum()


def winners(codes: Codes, weights: Weights) -> tuple[Codes, npt.NDArray[np.bool_]]:
    """The smallest code with the most weight at each of N voxels, (N,), and where another has just as much, (N,).

    codes: (A, N). weights: (A, N) or (A, 1).
    """
    scores = _scores(codes, weights)
    candidate = _candidates(scores, weights)
    highest = np.iinfo(codes.dtype).max
    least = np.where(candidate, codes, highest).min(axis=0).astype(codes.dtype)
    most = np.where(candidate, codes, 0).max(axis=0)
    return least, least != most


def _scores(codes: Codes, weights: Weights) -> Weights:
    """For every rater, the weights of all raters that say the same: (A, N)."""
    scores = np.empty(codes.shape, dtype=np.float32)
    scores[...] = weights
    for one in range(len(codes)):
        for other in range(one):
            same = codes[one] == codes[other]
            scores[one] += same * weights[other]
            scores[other] += same * weights[one]
    return scores


def _candidates(scores: Weights, weights: Weights) -> npt.NDArray[np.bool_]:
    """Which raters say a label that no other label surpasses: (A, N)."""
    return scores >= scores.max(axis=0) - TIE * weights.sum(axis=0)


def _decide_ties(stack: LabelStack, weights: Weights, decided: Codes, where: npt.NDArray[np.intp]) -> None:
    """Give tied voxels the candidate that most decided neighbours have; the provisional, smallest one stays if none."""
    if not where.size:
        return
    shape = stack.grid.shape
    open_ = np.zeros(decided.shape, dtype=bool)
    open_[where] = True
    before = decided.copy()
    own = np.searchsorted(stack.disputed, where)
    for part in _blocks(where.size):
        here = where[part]
        codes = stack.flat[:, here]
        given = weights[:, own[part]] if weights.shape[1] > 1 else weights
        candidate = _candidates(_scores(codes, given), given)
        support = np.zeros(codes.shape, dtype=np.int16)
        place = np.stack(np.unravel_index(here, shape))
        for step in product((-1, 0, 1), repeat=3):
            moved = place + np.array(step)[:, None]
            inside = ((moved >= 0) & (moved < np.array(shape)[:, None])).all(axis=0)
            flat = np.ravel_multi_index(tuple(np.where(inside, moved, 0)), shape)
            known = inside & ~open_[flat]
            support += (codes == before[flat]) & known
        support[~candidate] = -1
        best = support == support.max(axis=0)
        decided[here] = np.where(best, codes, np.iinfo(codes.dtype).max).min(axis=0)


def _mean_weights(weights: Weights) -> npt.NDArray[np.float64]:
    """(A,) shares of the raters; the mean over voxels where weights are local."""
    if not weights.shape[1]:
        return np.full(len(weights), 1 / len(weights))
    means = (weights / weights.sum(axis=0)).mean(axis=1, dtype=np.float64)
    return means / means.sum()


def _blocks(size: int) -> Iterator[slice]:
    for start in range(0, size, BLOCK):
        yield slice(start, min(start + BLOCK, size))
