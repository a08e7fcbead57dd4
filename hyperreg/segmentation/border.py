"""Where the border of one structure runs: from what is sure, over the result, to all that may be the structure.

The rule. A position goes from SUREST over RESULT to WIDEST, and every voxel has a level: the least position at which it
belongs to the structure. With p the structure's probability there, and r that of its strongest rival:

- A voxel of the result leaves while the limit goes from r, where the result decides, to SURE: at the end p >= SURE.
- Any other voxel joins while the limit goes from r to DOUBTFUL: at the end p >= DOUBTFUL.

So at RESULT it is the model's own decision to the voxel, the ends are the volumes "sure" and "doubtful" of the table
(the result itself is never less than "doubtful"), and what a position holds, every larger one does. A fixed limit for
p would not do: where two neighbours share a voxel with the structure, .4 beside .3 and .3 is its own, and would be lost
at once. Measured from the rival, such a voxel leaves in its turn.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.machine import main_memory
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.frame import Box, Frame, box_of
from hyperreg.segmentation.structures import DOUBTFUL, SURE, Array

# Positions; NEVER is the level of a voxel that no position holds.
SUREST, RESULT, WIDEST, NEVER = -100, 0, 100, 127
# The least way of a limit, so that nothing is divided by 0.
LEAST_WAY = 1e-6
# Of a probability that was rounded to float16, so that none at the limit is lost.
ROUNDED = 0.99
# What may be kept of a result, in bytes, and the share of the free memory that it may take.
MOST_BYTES, MOST_SHARE = 1_000_000_000, 0.5

Levels = npt.NDArray[np.int8]
Mask = npt.NDArray[np.bool_]


def levels(own: Array, rival: Array, labelled: Mask) -> Levels:
    """The level of every voxel; see the rule above. own, rival: p and r. labelled: where the result is the structure.

    All of one shape. Where the label says otherwise than p and r, which are rounded, the label counts.
    """
    found = np.full(own.shape, NEVER, dtype=np.int8)
    near = labelled | (own >= DOUBTFUL)  # the few voxels that any position holds
    own, rival, labelled = own[near], rival[near], labelled[near]
    leaves = np.maximum(own - rival, 0) / np.maximum(SURE - rival, LEAST_WAY)
    joins = np.maximum(rival - own, 0) / np.maximum(rival - DOUBTFUL, LEAST_WAY)
    inside = np.clip(-np.floor(WIDEST * leaves), SUREST + 1, RESULT)
    inside[own >= SURE] = SUREST
    outside = np.clip(np.ceil(WIDEST * joins), RESULT + 1, WIDEST)
    found[near] = np.where(labelled, inside, outside)
    return found


@dataclass(frozen=True)
class Kept:
    """What is kept of a segmentation so that borders can be moved.

    probabilities: (channels, I, J, K) float16 on the model's grid, without islands. labels: on the part of the image
    that was looked at.
    """

    card: SegmentationCard
    frame: Frame
    probabilities: npt.NDArray[np.float16]
    labels: npt.NDArray[np.unsignedinteger]

    def levels(self, label: int) -> Levels:
        """(I, J, K) of the image: the levels of the structure with this label. Raises InputError for no such one."""
        number = next((n for n, structure in enumerate(self.card.structures) if structure.label == label), None)
        if number is None:
            raise InputError(f"The model '{self.card.name}' finds no structure with the label {label}.")
        found = np.full(self.frame.part.shape, NEVER, dtype=np.int8)
        # The strongest of all has at least an even share; and between voxels there is no more than at one of them.
        least = min(DOUBTFUL, 1 / self.card.channels) if self.card.exclusive else DOUBTFUL
        there = box_of(self.probabilities[self.card.structures[number].channel] >= ROUNDED * least)
        if there[0].stop:
            boxes = self.frame.boxes(there)
            own, rival = self._contest(number, boxes)
            found[boxes[1]] = levels(own, rival, self.labels[boxes[1]] == label)
        return self.frame.to_image(found, "levels", NEVER).array

    def _contest(self, number: int, boxes: tuple[Box, Box]) -> tuple[Array, Array]:
        """p and r of the structure with this number, on a box of the part; only there are all voxels needed."""

        def bring(values: npt.NDArray[np.float16]) -> Array:
            return self.frame.to_part(values.astype(np.float32), boxes)

        everywhere = (slice(None), *boxes[0])
        seen = self.probabilities[everywhere]
        structure, *over = self.card.structures[number:]
        own = bring(seen[structure.channel])
        if not self.card.exclusive:
            for other in over:  # painted over it, see `structures.decide`
                own *= 1 - bring(seen[other.channel])
            return own, 1 - own
        # The strongest is looked for before resampling: after it every channel would have to be brought there.
        # As whole numbers: the order is the same, where nothing is below 0, and processors are faster at it.
        strongest = np.zeros(seen.shape[1:], np.uint16)
        for channel, values in enumerate(seen.view(np.uint16)):
            if channel != structure.channel:
                np.maximum(strongest, values, out=strongest)
        return own, bring(strongest.view(np.float16))


def keep(
    probabilities: Array, card: SegmentationCard, frame: Frame, labels: npt.NDArray[np.unsignedinteger]
) -> Kept | None:
    """What borders are moved with, see `Kept`; None where it would take too much memory."""
    free, _ = main_memory()
    size = probabilities.size * np.dtype(np.float16).itemsize
    if size > MOST_BYTES or (free is not None and size > MOST_SHARE * free):
        return None
    return Kept(card, frame, probabilities.astype(np.float16), labels)
