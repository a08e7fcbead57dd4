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
    """Combinations of votes, and the labels that are considered for each: its candidates.

    votes: (P, A) codes. counts: (P,) voxels of each. index: (i, j, k) the combination of every voxel.
    owner, label: (C,) the combination and the code of every candidate, ordered by combination; first: (P,) where the
    candidates of a combination begin. Shares are numbers of candidates, (C,), that sum to 1 in every combination.
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
        self.votes = np.concatenate((np.repeat(same[:, None], raters, axis=1), rows[first])).astype(np.int32)
        index = flat[0].astype(np.int32)
        index[disputed] = inverse.ravel() + labels
        self.index = index.reshape(codes.shape[1:])
        self.counts = np.bincount(index, minlength=len(self.votes))
        count = len(self.votes)
        if labels <= FEW_LABELS:
            self.label = np.tile(np.arange(labels, dtype=np.int32), count)
            sizes = np.full(count, labels)
        else:
            ordered = np.sort(self.votes, axis=1)
            new = np.ones(ordered.shape, dtype=bool)
            new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
            self.label, sizes = ordered[new], new.sum(axis=1)
        self.owner = np.repeat(np.arange(count, dtype=np.int32), sizes)
        self.first = np.concatenate(([0], np.cumsum(sizes)[:-1]))
        # Where a rater's vote and a candidate meet in its confusion matrix, flattened: (A, C).
        self._cells = [self.votes[self.owner, rater] * np.int32(labels) + self.label for rater in range(raters)]

    def posterior(self, log_confusion: Array, log_priors: Array) -> Array:
        """The shares by Bayes. log_confusion: (A, L of the rater, L of the truth); log_priors: (L,)."""
        shares = log_priors[self.label]
        for table, cells in zip(log_confusion, self._cells, strict=True):
            shares += table.ravel()[cells]
        shares -= np.maximum.reduceat(shares, self.first)[self.owner]
        np.exp(shares, out=shares)
        return shares / np.add.reduceat(shares, self.first)[self.owner]

    def certain(self, decided: Codes) -> Array:
        """The shares of a decision (i, j, k): how many of the voxels of each combination got a candidate."""
        width = np.int64(self.labels)
        seen = np.bincount((self.index * width + decided).ravel(), minlength=len(self.votes) * self.labels)
        found = seen[self.owner * width + self.label].astype(np.float64)
        return found / np.maximum(np.add.reduceat(found, self.first), 1)[self.owner]

    def confusion(self, shares: Array, otherwise: Array) -> Array:
        """(A, L of the rater, L of the truth), summing to 1 over the rater's; `otherwise` for labels without voxels."""
        weights = shares * self.counts[self.owner]
        size = self.labels**2
        sums = np.stack([np.bincount(cells, weights, minlength=size) for cells in self._cells])
        sums = sums.reshape(-1, self.labels, self.labels)
        total = sums.sum(axis=1, keepdims=True)
        return np.where(total > 0, sums / np.where(total > 0, total, 1), otherwise)

    def decide(self, shares: Array, tie: float) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.bool_]]:
        """The most probable label of every voxel, (i, j, k), and where another is as probable within `tie`."""
        close = shares >= np.maximum.reduceat(shares, self.first)[self.owner] - tie
        winner = np.empty(len(self.votes), dtype=np.int32)
        winner[self.owner[close][::-1]] = self.label[close][::-1]  # the first of several
        several = np.bincount(self.owner[close], minlength=len(self.votes)) > 1
        return winner[self.index], several[self.index]

    def probability(self, shares: Array, code: int) -> npt.NDArray[np.float32]:
        """The probability of one label at every voxel: (i, j, k) float32."""
        each = np.zeros(len(self.votes), dtype=np.float32)
        mine = self.label == code
        each[self.owner[mine]] = shares[mine]
        return each[self.index]
