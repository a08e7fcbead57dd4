"""The figures of a prepared pair: what is measured of any field on it, before and after the deformation."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.imaging.label_grids import covering
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.detail import Detail, field_on
from hyperreg.registration.field import from_ras, sample
from hyperreg.registration.landmarks import Landmarks
from hyperreg.registration.losses import local_ncc
from hyperreg.registration.masks import counted_by
from hyperreg.registration.metrics import dice, field_figures, mean_dice, shared_labels

Figures = dict[str, float | dict[int, float]]


class PairFigures:
    """What is measured of a field on one pair.

    fixed, moving: (1, 1, I, J, K), on `grid`, the moving one after `linear`, (4, 4) fixed RAS to moving RAS.
    fixed_volume, moving_volume: the images at their own resolution. foreground: the fixed image's, likewise.
    labels: label maps of both, or None. start: the field that the deformation starts from, if it is not zero.
    """

    def __init__(
        self,
        fixed: Tensor,
        moving: Tensor,
        grid: Grid,
        fixed_volume: Volume,
        moving_volume: Volume,
        linear: npt.NDArray[np.float64],
        foreground: Volume,
        labels: tuple[Volume, Volume] | None,
        landmarks: Landmarks | None,
        start: DisplacementField | None = None,
    ) -> None:
        self._start = start
        self._fixed, self._moving, self._grid, self._linear = fixed, moving, grid, linear
        self._affine = torch.from_numpy(grid.ijk_to_ras.copy())
        self._foreground, self._volumes = foreground, (fixed_volume, moving_volume)
        self._inside = self._inside_of(grid)
        self._labels, self._landmarks = None, landmarks
        if labels is not None:
            # All of the image counts, not only the part that a segmentation was cut to.
            whole = covering(labels[0], fixed_volume.grid)
            self._labels = (whole or resample(labels[0], fixed_volume.grid, interpolation="nearest"), labels[1])
        self._shared = shared_labels(labels[0].array, labels[1].array) if labels is not None else []
        self._counted = self._inside
        self._constraints = Constraints()
        self._before: Figures = {}

    def constrain(self, constraints: Constraints) -> None:
        """From now on the images are compared where the masks let them count, and landmarks that pull are measured
        beside those that only measure."""
        if not constraints.same_masks(self._constraints):
            self._before = {}
            self.__dict__.pop("_detail", None)
            self._counted = self._inside
            given, ways = (constraints.fixed_mask, constraints.moving_mask), (Transform(), self._at_start)
            for mask, image, way in zip(given, self._volumes, ways, strict=True):
                if mask is not None:
                    counted = counted_by(mask, image.grid, self._grid, way)
                    self._counted = self._counted & torch.from_numpy(counted)
        self._constraints = constraints

    @property
    def _at_start(self) -> Transform:
        """Fixed RAS to moving RAS before anything is deformed."""
        return Transform((self._linear,) if self._start is None else (self._start, self._linear))

    def before(self, device: str) -> Figures:
        """The figures of the linear alignment, or the start, alone; all that takes long is computed once."""
        start = self._at_start
        if not self._before:
            self._before = self._of_images(self._start, device) | self._of_truth(start)
            self._before["over_chance"] = self._detail.over_chance(self._start, device)
        return self._before | self._of_pull(start)

    @cached_property
    def _detail(self) -> Detail:
        # Made when it is first asked for: nobody should wait for it before the first field.
        return Detail(*self._volumes, self._linear, self._grid, self._counted.numpy())

    @torch.inference_mode()
    def similarity(self, field: DisplacementField | None, device: str) -> float:
        """Mean local NCC in the fixed image's foreground, where it counts, on `grid`; None: of the linear alignment."""
        fixed, moving = self._fixed.to(device), self._moving.to(device)
        if field is not None:
            moving = sample(moving, from_ras(field_on(field, self._grid, device), self._affine))
        values = local_ncc(fixed, moving)[0, 0].cpu()
        return float(values[self._counted].mean() if bool(self._counted.any()) else values.mean())

    @torch.inference_mode()
    def measure(self, field: DisplacementField, device: str) -> Figures:
        """See `LiveSession.metrics`; of a field on any grid."""
        grid = field.grid
        inside = self._inside if grid.matches(self._grid) else self._inside_of(grid)
        whole = Transform((field, self._linear))
        return {
            **self._beside_before(self._of_images(field, device), device),
            "over_chance_before": self.before(device)["over_chance"],
            **field_figures(field, inside),
            **self._beside_before(self._of_truth(whole) | self._of_pull(whole), device),
        }

    def _beside_before(self, after: Figures, device: str) -> Figures:
        before = self.before(device)
        together: Figures = {}
        for name, value in after.items():
            together |= {name: value, f"{name}_before": before[name]}
        return together

    def _inside_of(self, grid: Grid) -> Tensor:
        """The fixed image's foreground on a grid: (I, J, K) bool."""
        return torch.from_numpy(resample(self._foreground, grid, interpolation="nearest").array != 0)

    def _of_images(self, field: DisplacementField | None, device: str) -> Figures:
        return {"similarity": self.similarity(field, device), "detail": self._detail.agreement(field, device)}

    def _of_truth(self, transform: Transform) -> Figures:
        """What label maps and landmarks say of a map from fixed RAS to moving RAS; {} without any."""
        figures: Figures = {}
        if self._labels is not None:
            fixed, moving = self._labels
            overlap = dice(fixed.array, resample(moving, fixed.grid, transform, "nearest").array, self._shared)
            figures |= {"dice": overlap, "dice_mean": mean_dice(overlap)}
        if self._landmarks is not None:
            figures |= self._landmarks.figures(transform)
        return figures

    def _of_pull(self, transform: Transform) -> Figures:
        landmarks = self._constraints.landmarks
        return {} if landmarks is None else {**landmarks.figures(transform)}
