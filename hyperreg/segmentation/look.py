"""Which MR image is which, by a look at the images: T1, T1 with contrast agent, T2 and FLAIR of one patient.

Where grey values of two contrasts rise and fall together, and where against each other, is physics and anatomy: T1 and
T2 go against each other nearly everywhere, FLAIR goes with T1 at the fluid. It is measured as the local correlation,
which a shading of the coil does not change, and compared with what is expected of every pair of contrasts. The
expectations were set on three patients: a guess where names tell nothing, for the user to check, and a check of names.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.imaging import itk
from hyperreg.imaging.resampling import resample_smoothed
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import Input

# What models call these contrasts.
CONTRASTS = {
    "t1": "T1", "t1n": "T1", "t1w": "T1", "t1c": "T1c", "t1ce": "T1c", "t1gd": "T1c", "t2": "T2", "t2w": "T2",
    "flair": "FLAIR", "t2f": "FLAIR", "fla": "FLAIR",
}  # fmt: skip
# Local correlation of two contrasts, weighted by how much there is to see.
EXPECTED = {
    frozenset(("T1", "T1c")): 0.7,
    frozenset(("T1", "T2")): -0.65,
    frozenset(("T1", "FLAIR")): 0.6,
    frozenset(("T1c", "T2")): -0.5,
    frozenset(("T1c", "FLAIR")): 0.2,
    frozenset(("T2", "FLAIR")): -0.2,
}
SPACING_MM = 2.5
# Windows of the local correlation reach this far to each side, voxels.
RADIUS = 3
# Of an image's mean; darker voxels are background.
FOREGROUND = 0.4
# The best assignment has to be better than the next one by this much (squared differences), else nothing is told.
MARGIN = 0.2
# And no relation may differ from what is expected by more than this (squared, on average): up to 0.05 on real patients,
# 0.2 where images do not lie on each other, when the best order means nothing.
LARGEST = 0.1
# An image with less local correlation than this with every other one does not lie where they do: of real ones in their
# place each has at least 0.2 with some other one, of a real one whose header was 15 mm wrong 0.02.
LEAST_IN_COMMON = 0.1

# Among more volumes than these none is recognised: there would be too many orders.
MOST_VOLUMES = 8

Matrix = npt.NDArray[np.float64]
Order = tuple[int, ...]


@dataclass(frozen=True)
class Recognised:
    """images: input name -> index of its image. guess: what was guessed and why, for the user; "" if names told all."""

    images: dict[str, int]
    guess: str


def contrast_of(entry: Input) -> str | None:
    """The contrast that a model's input is; None if its name is none of those that are known."""
    return CONTRASTS.get(entry.name.lower())


def recognise(volumes: Sequence[Volume], inputs: Sequence[Input]) -> Recognised | None:
    """Which volume is which input, by their names, and by a look where these do not tell; None if it cannot be told.

    volumes: of one patient, aligned; there may be more than the model needs.
    """
    if not len(inputs) <= len(volumes) <= MOST_VOLUMES:
        return None
    names = [volume.name for volume in volumes]
    possible = orders(names, inputs)
    sure = [order for order in possible if all(e.fits(names[n]) for e, n in zip(inputs, order, strict=True))]
    only = sure if len(sure) == 1 else possible if len(volumes) == len(inputs) else []
    if len(only) == 1:
        chosen = {entry.name: index for entry, index in zip(inputs, only[0], strict=True)}
        left = [entry for entry in inputs if not entry.fits(names[chosen[entry.name]])]
        told = ", ".join(f"'{names[chosen[entry.name]]}' as {entry.name}" for entry in left)
        return Recognised(chosen, f"Taken, because the other names tell the rest: {told}." if left else "")
    found = tell(volumes, inputs, possible or None)
    if found is None:
        return None
    told = ", ".join(f"{name} = '{names[index]}'" for name, index in found.items())
    return Recognised(found, f"The names do not tell which image is which; by their contrast: {told}.")


def orders(names: Sequence[str], inputs: Sequence[Input]) -> list[Order]:
    """Every choice of an image for each input that the images' names allow: the index of its name.

    An input that names fit gets one of these; an image whose name fits inputs is none of the others.
    """
    fits = [[entry.fits(name) for name in names] for entry in inputs]
    named = [any(column) for column in zip(*fits, strict=True)]
    allowed = [[n for n, fit in enumerate(row) if fit or not (any(row) or named[n])] for row in fits]
    return [order for order in itertools.product(*allowed) if len(set(order)) == len(order)]


def tell(
    volumes: Sequence[Volume], inputs: Sequence[Input], possible: Sequence[Order] | None = None
) -> dict[str, int] | None:
    """Which volume is which input: name -> index; None if it cannot be told with some certainty.

    volumes: of one patient, aligned, at least as many as there are inputs. possible: the only orders that are thought
    of, a volume's index for each input (all orders); None is told, too, if the images say that none of them is right.
    Fewer than three inputs are never told: one relation between two images does not say which is which.
    """
    if len(volumes) < len(inputs) or not _can_be_told(inputs):
        return None
    return _told(relations(volumes), inputs, possible)


def warnings(volumes: Mapping[str, Volume], inputs: Sequence[Input]) -> list[str]:
    """What looks wrong with images that were given by input name: not in their place, or in another order.

    Only models are looked after whose inputs all are known contrasts.
    """
    if len(inputs) < 2 or None in (contrast_of(entry) for entry in inputs):
        return []
    given = [volumes[entry.name] for entry in inputs]
    found = relations(given)
    lost = [
        f"'{volume.name}' ({entry.name})"
        for volume, entry, strongest in zip(given, inputs, np.nanmax(np.abs(found), axis=1, initial=0), strict=True)
        if strongest < LEAST_IN_COMMON
    ]
    if lost:
        names = " and ".join((", ".join(lost[:-1]), lost[-1])) if len(lost) > 1 else lost[0]
        text = (
            f"{names}: nothing of this lies where the other images show it, as if the patient moved or a header is "
            "wrong. Align the images (segment --align)."
        )
        return [text]
    seen = _told(found, inputs) if _can_be_told(inputs) else None
    wrong = ", ".join(
        f"'{given[seen[entry.name]].name}' looks like {entry.name}"
        for index, entry in enumerate(inputs)
        if seen is not None and seen[entry.name] != index
    )
    return [f"By their contrast, the images seem to be mixed up: {wrong}. Check which is which."] if wrong else []


def _can_be_told(inputs: Sequence[Input]) -> bool:
    contrasts = [contrast_of(entry) for entry in inputs]
    if len(inputs) < 3 or None in contrasts or len(set(contrasts)) < len(inputs):
        return False
    return "T1c" not in contrasts or "T1" in contrasts  # it is told from T2 by what it has in common with T1


def _told(found: Matrix, inputs: Sequence[Input], possible: Sequence[Order] | None = None) -> dict[str, int] | None:
    contrasts = [contrast_of(entry) for entry in inputs]
    every = list(itertools.permutations(range(len(found)), len(inputs)))
    costs = {order: _cost(found, contrasts, order) for order in every}
    best, *others = sorted(every if possible is None else possible, key=lambda order: costs[order])
    nearest = min((costs[order] for order in others), default=math.inf)
    # Also where there is nothing to compare: costs are infinite then, and their difference is no number.
    if not nearest - costs[best] >= MARGIN or costs[best] - min(costs.values()) >= MARGIN:
        return None
    if costs[best] > LARGEST * math.comb(len(inputs), 2):
        return None
    return {entry.name: index for entry, index in zip(inputs, best, strict=True)}


def relations(volumes: Sequence[Volume]) -> Matrix:
    """Mean local correlation of every two volumes, weighted by their contrast there: (N, N); NaN without overlap."""
    grid = _around(volumes[0])
    images, bright = [], []
    for volume in volumes:
        array = resample_smoothed(volume, grid).array.astype(np.float32)
        array = np.clip(array, 0, np.percentile(array, 99.5))
        array /= max(float(array.mean()), 1e-6)
        bright.append(array > FOREGROUND)
        images.append(itk.volume_to_itk(Volume(array, grid.ijk_to_ras)))
    means = [_mean(image) for image in images]
    spreads = [
        np.sqrt(np.maximum(_mean(image * image) - mean**2, 1e-6)) for image, mean in zip(images, means, strict=True)
    ]
    found = np.full((len(volumes), len(volumes)), math.nan)
    for a, b in itertools.combinations(range(len(volumes)), 2):
        inside = (bright[a] & bright[b]).astype(np.uint8)
        inner = _array(sitk.BinaryErode(sitk.GetImageFromArray(inside.T), [RADIUS] * 3)) > 0
        covariance = (_mean(images[a] * images[b]) - means[a] * means[b])[inner]
        contrast = (spreads[a] * spreads[b])[inner]
        weight = (contrast / (means[a] * means[b])[inner]) if inner.any() else contrast
        if weight.sum() > 0:
            found[a, b] = found[b, a] = float((covariance / contrast * weight).sum() / weight.sum())
    return found


def _cost(found: Matrix, contrasts: Sequence[str | None], order: Sequence[int]) -> float:
    """How far the relations are from what is expected if the volume order[n] is the n-th contrast; inf if unknown."""
    total = sum(
        (found[order[a], order[b]] - EXPECTED[frozenset((str(contrasts[a]), str(contrasts[b])))]) ** 2
        for a, b in itertools.combinations(range(len(order)), 2)
    )
    return math.inf if math.isnan(total) else float(total)


def _around(volume: Volume) -> Grid:
    """A coarse grid over a volume, along R, A and S."""
    corners = volume.grid.corners
    low, high = corners.min(axis=0), corners.max(axis=0)
    i, j, k = (max(1, int(n)) for n in np.ceil((high - low) / SPACING_MM))
    affine = np.diag([SPACING_MM, SPACING_MM, SPACING_MM, 1.0])
    affine[:3, 3] = low
    return Grid((i, j, k), affine)


def _mean(image: sitk.Image) -> npt.NDArray[np.float32]:
    return _array(sitk.BoxMean(image, [RADIUS] * 3))


def _array(image: sitk.Image) -> npt.NDArray:
    return sitk.GetArrayFromImage(image).T
