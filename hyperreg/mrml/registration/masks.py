"""Areas to leave out of the match: what is marked on screen, turned round into what counts."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.mrml import regions

ROLES = ("fixed", "moving")


class LeftOut:
    """What of one volume is left out: a segmentation or label map, or one segment of it.

    role: "fixed" or "moving". wanted: id and stamp (see `regions`) of the node, and between them the key of a segment,
    "" for all of them; None: nothing is left out.
    """

    def __init__(self, role: str) -> None:
        self.role = role
        self.wanted: tuple[str, str, tuple[int, ...]] | None = None
        self._drawing = regions.Drawing()
        # What the mask was made from, and the mask: the same object as long as nothing was drawn.
        self._made: tuple[Any, Volume] | None = None

    @property
    def node_id(self) -> str | None:
        return self.wanted[0] if self.wanted is not None else None

    def mask(self, node: Any, grid: Grid) -> Volume:
        """What counts of a volume: 1, and 0 where `node` marks it; uint8, on the volume's grid in the world.

        Raises InputError for a node that marks nothing of the volume, or all of it.
        """
        labels, values = self._drawing.read(node)
        key = self.wanted[1] if self.wanted is not None else ""
        made_from = (labels, key, grid.shape, grid.ijk_to_ras.tobytes())
        if self._made is None or self._made[0] != made_from:
            if key and key not in values:
                raise InputError(f"'{labels.name}' has lost the segment that was to be left out. Choose another one.")
            marked = labels.array == values[key] if key else labels.array != 0
            drawn = Volume(marked.astype(np.uint8), labels.ijk_to_ras, labels.name)
            self._made = made_from, self._counting(drawn, grid)
        return self._made[1]

    def _counting(self, marked: Volume, image: Grid) -> Volume:
        left_out = resample(marked, image, interpolation="nearest").array > 0
        if not left_out.any():
            raise InputError(
                f"'{marked.name}' marks nothing of the {self.role} volume, so nothing can be left out. Was it drawn on "
                "that volume, and is it larger than a voxel?"
            )
        if left_out.all():
            raise InputError(
                f"'{marked.name}' marks all of the {self.role} volume: nothing would be left to match. Mark only what "
                "has no counterpart in the other volume."
            )
        return Volume((~left_out).astype(np.uint8), image.ijk_to_ras, f"{marked.name} left out")
