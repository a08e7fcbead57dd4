"""The combinations of votes in a stack, with which STAPLE computes: all voxels of one combination are alike."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.fusion.stack import Codes

Array = npt.NDArray[np.float64]

# Up to so many labels every label is a candidate everywhere; of more, only those that a rater gave there. What that
# leaves out are labels that nobody voted for.
FEW_LABELS = 8


class Patterns:
    """Combinations of votes.

    votes: (P, A) codes. counts: (P,) voxels of each. candidates: (P, C) codes of the labels considered; valid: (P, C),
    False where a candidate stands there already. index: (i, j, k) the combination of every voxel.
    """

    def __init__(self, codes: Codes, labels: int) -> None:
        """codes: (A, i, j, k). labels: how many there are."""
        raters = len(codes)
        self.labels = labels
        flat = codes.reshape(raters, -1)
        disputed = (flat != flat[0]).any(axis=0)
        rows = np.ascontiguousarray(flat[:, disputed].T)
        _keys, first, inverse = np.unique(
            rows.view(np.dtype((np.void, rows.dtype.itemsize * raters))).ravel(), return_index=True, return_inverse=True
        )
        same = np.arange(labels, dtype=codes.dtype)  # the combinations in which all raters agree come first
        self.votes = np.concatenate((np.repeat(same[:, None], raters, axis=1), rows[first])).astype(np.intp)
        index = flat[0].astype(np.int32)
        index[disputed] = inverse.ravel() + labels
        self.index = index.reshape(codes.shape[1:])
        self.counts = np.bincount(index, minlength=len(self.votes))
        if labels <= FEW_LABELS:
            self.candidates = np.broadcast_to(np.arange(labels), (len(self.votes), labels))
            self.valid = np.ones(self.candidates.shape, dtype=bool)
        else:
            self.candidates = self.votes
            self.valid = np.ones(self.votes.shape, dtype=bool)
            for rater in range(1, raters):
                self.valid[:, rater] = (self.votes[:, :rater] != self.votes[:, rater : rater + 1]).all(axis=1)

    def posterior(self, log_confusion: Array, log_priors: Array) -> Array:
        """The probability of every candidate: (P, C). log_confusion: (A, L of the rater, L of the truth)."""
        shares = log_priors[self.candidates]
        for rater, table in enumerate(log_confusion):
            shares += table.ravel()[self.votes[:, rater, None] * self.labels + self.candidates]
        shares[~self.valid] = -np.inf
        shares -= shares.max(axis=1, keepdims=True)
        np.exp(shares, out=shares)
        return shares / shares.sum(axis=1, keepdims=True)

    def certain(self, decided: Codes) -> Array:
        """(P, C) shares of the candidates among the voxels of each combination, given a decision (i, j, k)."""
        width = self.candidates.shape[1]
        seen = np.zeros((len(self.votes), width))
        for place in range(width):
            right = decided == self.candidates[:, place][self.index]
            seen[:, place] = np.bincount(self.index[right], minlength=len(self.votes))
        seen[~self.valid] = 0
        return seen / np.maximum(seen.sum(axis=1, keepdims=True), 1)

    def confusion(self, shares: Array, otherwise: Array) -> Array:
        """(A, L of the rater, L of the truth), summing to 1 over the rater's; `otherwise` for labels without voxels."""
        weights = (shares * self.counts[:, None]).ravel()
        size = self.labels**2
        tables = []
        for rater in range(self.votes.shape[1]):
            places = (self.votes[:, rater, None] * self.labels + self.candidates).ravel()
            tables.append(np.bincount(places, weights, minlength=size).reshape(self.labels, self.labels))
        sums = np.stack(tables)
        total = sums.sum(axis=1, keepdims=True)
        return np.where(total > 0, sums / np.where(total > 0, total, 1), otherwise)

    def decide(self, shares: Array, tie: float) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
        """The most probable label of every voxel, (i, j, k), and where another is as probable within `tie`."""
        rows = np.arange(len(shares))
        best = shares.argmax(axis=1)
        winner = self.candidates[rows, best]
        close = ((shares >= shares[rows, best][:, None] - tie) & self.valid).sum(axis=1) > 1
        return winner[self.index], close[self.index]

    def probability(self, shares: Array, code: int) -> npt.NDArray[np.float32]:
        """The probability of one label at every voxel: (i, j, k) float32."""
        each = np.where((self.candidates == code) & self.valid, shares, 0).sum(axis=1)
        return each.astype(np.float32)[self.index]
