"""Islands: parts of a segmentation far from where it belongs, taken out of the probabilities before it is decided.

What the model's card declares (`catalogue.Postprocessing`) is done on the model's grid, so that label map, uncertainty,
probabilities and volumes all tell the same. What is taken from a structure goes to what is left in that voxel; outside
of the kept whole that is background alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.segmentation.catalogue import Postprocessing, SegmentationCard
from hyperreg.segmentation.structures import Array

# What lies this much further than a bridge's half thickness from the cores that cutting bridges leaves still belongs
# to the whole: so far do gyri stand out of a brain. Chosen with the rule of brain-anatomy's card on two brains without
# skull (manual labels: nothing lost) and four whole heads (automatic labels).
SLACK_MM = 5.0
# Around the kept whole, and around kept parts, doubt along the border stays, mm.
MARGIN_MM = 3.0
# Where the structures that are left have no more probability than this, there is background.
NEXT_TO_NOTHING = 1e-6

Mask = npt.NDArray[np.bool_]
Sizes = Sequence[float] | npt.NDArray[np.float64]


def remove_islands(
    probabilities: Array,
    card: SegmentationCard,
    spacing: Sizes,
    check: Callable[[float], None] | None = None,
) -> int:
    """Take islands out of probabilities (channels, I, J, K), in place; returns how many labelled voxels that changed.

    spacing: mm. check: is called with the share that is done; may raise Cancelled.
    """
    rule = card.postprocessing
    if rule is None:
        return 0
    before = _labelled(probabilities, card)
    whole: Mask = np.any(before, axis=0)
    if not whole.any():
        return 0
    if rule.keep == "largest":
        kept = _largest(whole, rule.bridge_mm, spacing)
        gone = whole & ~kept | (_distance(kept, spacing) > MARGIN_MM)
        for structure in card.structures:
            probabilities[structure.channel][gone] = 0
        before &= kept
    for done, (structure, there) in enumerate(zip(card.structures, before, strict=True)):
        if check is not None:
            check(done / len(card.structures))
        far = _far(there, rule, spacing) if rule.share else None
        if far is not None:
            probabilities[structure.channel][far] = 0
    if card.exclusive:
        _share_out(probabilities, card)
    return int(np.count_nonzero(whole & ~_labelled(probabilities, card).any(axis=0)))


def _labelled(probabilities: Array, card: SegmentationCard) -> Mask:
    """(structures, I, J, K): where each structure is, in the card's order."""
    if not card.exclusive:
        return np.stack([probabilities[structure.channel] > 0.5 for structure in card.structures])
    best = probabilities.argmax(axis=0)
    return np.stack([best == structure.channel for structure in card.structures])


def _largest(whole: Mask, bridge_mm: float, spacing: Sizes) -> Mask:
    """The largest connected part, once bridges up to twice `bridge_mm` thick are cut, with what stands out of it."""
    cores = _distance(~whole, spacing) > bridge_mm if bridge_mm else whole
    if not cores.any():  # thin all over: nothing can be told from a bridge
        cores, bridge_mm = whole, 0
    core = _biggest(cores)
    if not bridge_mm:
        return core
    return _biggest(whole & (_distance(core, spacing) <= bridge_mm + SLACK_MM))


def _far(there: Mask, rule: Postprocessing, spacing: Sizes) -> Mask | None:
    """Where a structure must not be: in parts that are small and far from its main ones, and all around them."""
    parts = _parts(there)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    main = sizes >= max(1, rule.share * sizes.max())
    if main.sum() == np.count_nonzero(sizes):
        return None
    distance = _distance(main[parts], spacing)
    nearest = np.full(len(sizes), np.inf, np.float32)
    np.minimum.at(nearest, parts.ravel(), distance.ravel())
    keep = main | (nearest <= rule.reach_mm)
    keep[0] = False
    kept: Mask = keep[parts]
    return there & ~kept | (distance > max(rule.reach_mm, MARGIN_MM)) & ~kept


def _share_out(probabilities: Array, card: SegmentationCard) -> None:
    """Make the channels' sum 1 again, where something was taken out."""
    background = next(n for n in range(card.channels) if n not in {s.channel for s in card.structures})
    total = probabilities.sum(axis=0)
    nothing = total <= NEXT_TO_NOTHING
    probabilities[background][nothing] = 1
    total[nothing] = 1
    probabilities /= total


def _biggest(mask: Mask) -> Mask:
    parts = _parts(mask)
    sizes = np.bincount(parts.ravel())
    sizes[0] = 0
    biggest: Mask = parts == sizes.argmax()
    return biggest


def _parts(mask: Mask) -> npt.NDArray[np.uint32]:
    """Connected parts, 1 ..., by faces; 0 elsewhere."""
    return sitk.GetArrayFromImage(sitk.ConnectedComponent(_image(mask))).T


def _distance(mask: Mask, spacing: Sizes) -> Array:
    """To the next voxel of a mask, mm; 0 in it."""
    if mask.all():
        return np.zeros(mask.shape, np.float32)
    image = _image(mask)
    image.SetSpacing([float(size) for size in spacing])
    found = sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True)
    return np.maximum(sitk.GetArrayFromImage(found).T, 0)


def _image(mask: Mask) -> sitk.Image:
    return sitk.GetImageFromArray(np.ascontiguousarray(mask.T, dtype=np.uint8))
