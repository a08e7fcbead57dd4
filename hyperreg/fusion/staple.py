"""STAPLE: consensus and quality of each rater at once (Warfield et al. 2004, doi:10.1109/TMI.2004.828354).

One label beside the background: SimpleITK's filter. Several: the equations of its multi-label filter (Rohlfing et
al. 2004, doi:10.1109/TMI.2004.830803), solved once for every combination of votes that occurs instead of once per voxel
and iteration; SimpleITK's filter needs many minutes for the 138 structures of a brain atlas.

Only the box around all labels is looked at, with priors counted there: in the whole image the background would be
nearly everything. Empty input, which SimpleITK answers with NaN, and voxels that stay undecided are decided here.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.fusion.consensus import Consensus, performance
from hyperreg.fusion.patterns import Patterns
from hyperreg.fusion.stack import Codes, LabelStack
from hyperreg.fusion.voting import vote
from hyperreg.imaging import itk

Array = npt.NDArray[np.float64]

# The box is this much larger than the labels, voxels, so that every border of a structure lies inside.
MARGIN = 2
# Both methods stop by themselves; where raters contradict each other they may go back and forth for ever.
MOST_ITERATIONS = 200
# The iteration ends when no share changes by more than this. SimpleITK's 1e-5 took three times as many steps on brains
# with 140 labels, for the same overlap with the truth to a tenth of a point.
CONVERGED = 1e-4
# Shares are kept away from 0 by this much, so that a vote never seen before is unlikely, not impossible.
LEAST_SHARE = 1e-10
# A probability this close to one half is a tie.
TIE = 1e-6


def staple(stack: LabelStack) -> Consensus:
    """The most probable label at every voxel, and each rater's estimated sensitivity and specificity.

    Voxels that stay undecided get what the majority says. `weights` of the result are informedness (sensitivity +
    specificity - 1, its mean over labels) as shares: STAPLE itself weighs each label of each rater, which no single
    number tells. One rater, or none with a label: the result is that of `vote`, with a warning.
    """
    majority = vote(stack, method="staple")
    if len(stack.names) == 1:
        majority.warnings.append("STAPLE needs several label maps: quality cannot be estimated from one.")
    if len(stack.names) == 1 or len(stack.labels) == 1:
        return majority
    box = _widened(stack)
    inside = stack.codes[:, box[0], box[1], box[2]]
    priors = np.bincount(inside.ravel(), minlength=len(stack.labels)) / inside.size
    patterns = Patterns(inside, len(stack.labels))
    if len(stack.labels) == 2:
        confusion = _binary(inside)
    else:
        confusion = _multi_label(patterns, priors, majority.codes[box])
    shares = patterns.posterior(np.log(np.maximum(confusion, LEAST_SHARE)), np.log(np.maximum(priors, LEAST_SHARE)))
    winner, tied = patterns.decide(shares, TIE)
    decided = np.zeros(stack.grid.shape, dtype=stack.codes.dtype)
    decided[box] = np.where(tied, majority.codes[box], winner)
    warnings = list(stack.warnings)
    if tied.any():
        warnings.append(f"STAPLE left {int(tied.sum())} voxels undecided; they got the label of the majority.")
    estimated = performance(confusion * priors)

    def probability(code: int) -> npt.NDArray[np.float32]:
        whole = np.full(stack.grid.shape, float(code == 0), dtype=np.float32)
        whole[box] = patterns.probability(shares, code)
        return whole

    return Consensus(stack, "staple", decided, _informedness(*estimated), probability, estimated, warnings)


def _widened(stack: LabelStack) -> tuple[slice, slice, slice]:
    i, j, k = (
        slice(max(side.start - MARGIN, 0), min(side.stop + MARGIN, size))
        for side, size in zip(stack.box, stack.grid.shape, strict=True)
    )
    return i, j, k


def _binary(codes: Codes) -> Array:
    """Confusion (A, 2 of the rater, 2 of the truth), shares that sum to 1 over the first 2, by SimpleITK."""
    method = sitk.STAPLEImageFilter()
    method.SetForegroundValue(1)
    method.SetMaximumIterations(MOST_ITERATIONS)
    with itk.quiet():
        method.Execute([sitk.GetImageFromArray(rater.transpose(2, 1, 0)) for rater in codes])
    right = np.array([method.GetSpecificity(), method.GetSensitivity()])
    # Where raters contradict each other entirely the filter divides zero by zero: then nothing is known of them.
    specificity, sensitivity = np.nan_to_num(right, nan=0.5)
    return np.array([[specificity, 1 - sensitivity], [1 - specificity, sensitivity]]).transpose(2, 0, 1)


def _multi_label(patterns: Patterns, priors: Array, start: Codes) -> Array:
    """The same of all labels, (A, L, L), by expectation and maximisation; start: the majority's decision."""
    log_priors = np.log(np.maximum(priors, LEAST_SHARE))
    confusion = patterns.confusion(patterns.certain(start), np.eye(priors.size)[None])
    for _iteration in range(MOST_ITERATIONS):
        shares = patterns.posterior(np.log(np.maximum(confusion, LEAST_SHARE)), log_priors)
        found = patterns.confusion(shares, confusion)
        change = float(np.abs(found - confusion).max())
        confusion = found
        if change < CONVERGED:
            break
    return confusion


def _informedness(sensitivity: Array, specificity: Array) -> Array:
    """Sensitivity + specificity - 1 of each rater, its mean over labels, as shares of all raters: (A,)."""
    each = sensitivity[:, 1:] + specificity[:, 1:] - 1
    known = np.isfinite(each)
    means = np.clip(np.where(known, each, 0).sum(axis=1) / np.maximum(known.sum(axis=1), 1), 0, None)
    return means / means.sum() if means.sum() > 0 else np.full(len(means), 1 / len(means))
