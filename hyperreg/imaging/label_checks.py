"""Whether an array can be a label map, and whether it lies on its image. No files: Slicer's own process checks, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.structures import places_in, values_of
from hyperreg.imaging.volume import Volume

# Label values further than this from a whole number are no labels.
LABEL_TOLERANCE = 1e-3
# An image given as a label map: so many values, of which neighbours differ in more than this share (label maps with
# 138 structures of a brain: 20 %; noise-free images: 80 %), but by less than this times what any two voxels do.
IMAGE_VALUES, IMAGE_EDGES, IMAGE_STEPS = 24, 0.6, 0.75
# A label map of the image's own size that explains the image better by this much voxel by voxel than in the place that
# its header gives has lost its place (correlation ratio, 0 to 1).
LOST = 0.05
# More than this share of the labelled volume outside of the image is worth a warning.
OUTSIDE = 0.01


def as_labels(volume: Volume) -> np.ndarray:
    """The (I, J, K) array as integers that int64 holds.

    Raises InputError if its values are not whole numbers, or rounded or larger ones.
    """
    if volume.array.dtype.kind in "iu":
        if volume.array.dtype == np.uint64 and volume.array.max(initial=0) > np.iinfo(np.int64).max:
            raise InputError(
                f"'{volume.name}' holds label numbers up to {volume.array.max()}, more than HyperReg can count. Number "
                "its structures anew."
            )
        return volume.array
    if volume.array.dtype == np.bool_:
        return volume.array.astype(np.uint8)
    rounded = np.rint(volume.array)
    with np.errstate(invalid="ignore"):
        whole = np.abs(volume.array - rounded) <= LABEL_TOLERANCE
    if not whole.all():
        raise InputError(
            f"'{volume.name}' is not a label map: it has values that are not whole numbers. Was an image given "
            f"instead, or was "
            "the label map resampled with interpolation? Resample label maps with nearest neighbour."
        )
    largest = float(np.abs(rounded).max(initial=0))
    if largest > 2.0 ** (np.finfo(volume.array.dtype).nmant + 1):
        raise InputError(
            f"'{volume.name}' holds label numbers up to {largest:.0f} as {volume.array.dtype}, which rounds them. Save "
            "it with whole numbers of 32 bits."
        )
    return rounded.astype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)


def check_is_label_map(array: npt.NDArray[np.integer], name: str) -> None:
    """Raise InputError for what looks like an image: many values, and most neighbours differ, but by little."""
    values = values_of(array)
    if len(values) < IMAGE_VALUES:
        return
    most = values[np.bincount(places_in(values, array).ravel(), minlength=len(values)).argmax()]
    pairs = differ = 0
    steps = 0.0
    for axis in range(3):
        here, there = np.moveaxis(array, axis, 0)[:-1], np.moveaxis(array, axis, 0)[1:]
        inside = (here != most) & (there != most)
        pairs += int(np.count_nonzero(inside))
        differ += int(np.count_nonzero(inside & (here != there)))
        steps += float(np.abs(here[inside].astype(np.float64) - there[inside]).sum())
    # Of two voxels anywhere: neighbours in an image are more alike than that, numbers of structures are not.
    shown = np.sort(array[array != most].ravel().astype(np.float64))
    apart = float(((2 * np.arange(shown.size) - shown.size + 1) * shown).sum()) * 2 / max(1, shown.size) ** 2
    if differ > IMAGE_EDGES * pairs and steps < IMAGE_STEPS * apart * pairs:
        raise InputError(
            f"'{name}' is not a label map but an image: it holds {len(values)} values, and {100 * differ / pairs:.0f} "
            "% of its neighbouring voxels differ. Give the label map that belongs to the image."
        )


def check_on_image(labels: Volume, image: Volume, measured_only: bool = False) -> list[str]:
    """What the user should know of where a label map lies on its image; [] if it lies on the image's own voxels.

    Raises InputError for the image itself, for labels outside of it, and for a label map that has the image's number
    of voxels but lost its place in space: judged by how well its labels explain the image's values there, and voxel by
    voxel. measured_only: of a label map by which nothing but overlap is measured, the last is a warning.
    """
    if labels.array.shape == image.array.shape and labels.array.any() and np.array_equal(labels.array, image.array):
        raise InputError(f"'{labels.name}' is the image itself, not a label map of it.")
    if labels.grid.matches(image.grid) or not labels.array.any():
        return []
    moved = resample(labels, image.grid, interpolation="nearest").array
    if labels.array.shape == image.array.shape:
        own, placed = (_explained(image.array, array) for array in (labels.array, moved))
        if own > placed + LOST:
            lost = (
                f"The label map '{labels.name}' has as many voxels as its image '{image.name}', but does not lie on "
                "it: it is another image's, or its place in space (origin, orientation or voxel size) was lost when it "
                "was saved."
            )
            if measured_only:
                return [f"{lost} The overlap that is measured by it says nothing."]
            raise InputError(f"{lost} Save it with the image's geometry.")
    if not moved.any():
        raise InputError(
            f"The labels of '{labels.name}' lie outside of the image '{image.name}'. Is it the label map of another "
            "image?"
        )
    outside = _outside(labels, image)
    if outside <= OUTSIDE:
        return []
    share = f"{100 * outside:.0f} % of the labelled voxels of '{labels.name}'"
    return [f"{share} lie outside of the image '{image.name}'. Is it the label map of this image?"]


def _outside(labels: Volume, image: Volume) -> float:
    """The share of the labelled voxels whose centres lie outside of the image."""
    inside = np.argwhere(labels.array != 0)
    index = image.grid.to_ijk(labels.grid.to_ras(inside))
    beyond = ((index < -0.5) | (index > np.array(image.shape) - 0.5)).any(axis=1)
    return float(beyond.mean())


def _explained(image: npt.NDArray, labels: npt.NDArray[np.integer]) -> float:
    """The correlation ratio: the share of the image's variance that lies between the labels, 0 to 1."""
    values = values_of(labels)
    places = places_in(values, labels).ravel()
    grey = image.ravel().astype(np.float64)
    counts = np.bincount(places, minlength=len(values))
    means = np.bincount(places, weights=grey, minlength=len(values)) / np.maximum(counts, 1)
    variance = float(grey.var())
    between = float((counts * (means - grey.mean()) ** 2).sum() / grey.size)
    return between / variance if variance > 0 else 0.0
