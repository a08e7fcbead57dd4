"""A lambda of its own for each region: bone that stays stiff while the organ beside it bends.

The velocities that the network finds at the regions' lambdas are blended, pass by pass, with smooth weights that add up
to one everywhere. A blend of velocities is a velocity: its exponential is as smooth and as invertible as any other
field of the model, whatever the lambdas on both sides of a border are. Blended displacements would not be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.label_checks import as_labels
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.losses import box_mean

# Two boxes of this width (voxels of the network's grid, odd), one on top of the other: the border between two regions
# is five voxels wide, so that their velocities differ little from voxel to voxel.
BORDER_WIDTH = 3


def check_region_lambdas(lambdas: Mapping[int, float]) -> dict[int, float]:
    """The same with integers and floats. Raises InputError that names the region whose lambda is outside [0, 1]."""
    checked = {}
    for label, lam in lambdas.items():
        try:
            checked[int(label)] = round(check_lambda(lam), 6)
        except InputError as error:
            raise InputError(f"Region {label}: {error}") from error
    return checked


def regions_of(constraints: Constraints, before: Regions | None, grid: Grid) -> Regions | None:
    """The regions that the constraints name, on `grid`; what `before` knows of the same label map is kept.

    Raises InputError, see `Regions`.
    """
    if constraints.regions is None or not constraints.region_lambdas:
        return None
    if before is not None and before.is_of(constraints.regions):
        before.set_lambdas(constraints.region_lambdas)
        return before
    return Regions(constraints.regions, constraints.region_lambdas, grid)


class Regions:
    """A label map on the network's grid, and lambdas for some of its labels; all other voxels take the slider's.

    labels: in the fixed image's space, on any grid, whole numbers. lambdas: label -> lambda. grid: the network's.
    warnings: what the user should know, one sentence each.
    Raises InputError for a label map that is none or lies beside the image, for a label that it does not contain, and
    for a lambda outside [0, 1].
    """

    def __init__(self, labels: Volume, lambdas: Mapping[int, float], grid: Grid) -> None:
        self._source, self._grid = labels, grid
        whole = Volume(as_labels(labels), labels.ijk_to_ras, labels.name)
        self._known = set(np.unique(whole.array).tolist())
        self._labels = torch.from_numpy(resample(whole, grid, interpolation="nearest").array.astype(np.int64))
        if not bool((self._labels != 0).any()):
            raise InputError(
                f"The regions of '{labels.name}' do not overlap the fixed image. Choose a label map or segmentation "
                "that was drawn on the fixed image."
            )
        self._weights: dict[tuple[int, ...], Tensor] = {}
        self.set_lambdas(lambdas)

    def is_of(self, labels: Volume) -> bool:
        """Whether these are the regions of the same label map: then only the lambdas need to be set."""
        mine = self._source
        return mine is labels or (mine.grid.matches(labels.grid) and np.array_equal(mine.array, labels.array))

    def set_lambdas(self, lambdas: Mapping[int, float]) -> None:
        """Other lambdas for the same label map. Raises InputError, changing nothing."""
        checked = check_region_lambdas(lambdas)
        if missing := sorted(set(checked) - self._known):
            known = ", ".join(str(label) for label in sorted(self._known)[:20])
            raise InputError(
                f"'{self._source.name}' has no region {', '.join(map(str, missing))}; its labels are {known}"
                f"{', …' if len(self._known) > 20 else ''}."
            )
        self.lambdas = checked
        here = set(torch.unique(self._labels).tolist())
        self.warnings = [
            f"Region {label} is too small for this model, or lies outside the registered part of the fixed image: "
            "its λ has no effect."
            for label in sorted(set(checked) - here)
        ]

    def groups(self, lam: float) -> dict[float, tuple[int, ...]]:
        """The labels of every lambda that is not the slider's, `lam`."""
        found: dict[float, tuple[int, ...]] = {}
        for label, own in sorted(self.lambdas.items()):
            if own != lam:
                found[own] = (*found.get(own, ()), label)
        return found

    def weight(self, labels: tuple[int, ...]) -> Tensor:
        """Share of these regions in each voxel: (1, 1, I, J, K), 0 to 1, smooth. Of all labels together it is 1."""
        if labels not in self._weights:
            chosen = torch.isin(self._labels, torch.tensor(labels)).float()[None, None]
            self._weights[labels] = box_mean(box_mean(chosen, BORDER_WIDTH), BORDER_WIDTH)
        return self._weights[labels]

    def lambda_map(self, lam: float) -> Volume:
        """Lambda of every voxel of the network's grid where the slider is at `lam`, blended as the velocities are."""
        found = torch.full((1, 1, *self._labels.shape), lam)
        for own, labels in self.groups(lam).items():
            found += self.weight(labels) * (own - lam)
        return Volume(found[0, 0].numpy(), self._grid.ijk_to_ras, "lambda")

    def blend(self, lam: float, velocities: Callable[[float], list[Tensor]]) -> list[Tensor]:
        """The velocity of every pass, (1, 3, I, J, K), where the slider is at `lam`.

        velocities: gives those of one lambda everywhere.
        """
        groups = self.groups(lam)
        # Weights of groups that are no more would pile up while the user tries lambdas.
        self._weights = {labels: self._weights[labels] for labels in groups.values() if labels in self._weights}
        everywhere = velocities(lam)
        blended = [velocity.clone() for velocity in everywhere]
        for own, labels in groups.items():
            weight = self.weight(labels).to(blended[0])
            for index, (here, there) in enumerate(zip(everywhere, velocities(own), strict=True)):
                blended[index] += weight * (there - here)
        return blended
