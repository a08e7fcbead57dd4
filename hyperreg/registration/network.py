"""A pretrained network and one pair on its grid: the fields of any lambda in one pass."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.imaging.intensity import normalise
from hyperreg.imaging.resampling import resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.catalogue import ModelCard
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.field import to_ras
from hyperreg.registration.grids import fade, network_grid
from hyperreg.registration.model import RegistrationModel, displacement, inverse_displacement
from hyperreg.registration.regions import Regions, regions_of
from hyperreg.registration.stages import Stage

# The velocities of the latest lambdas that are kept.
KEPT_VELOCITIES = 8


class Network:
    """See the module. values: hyperparameters other than lambda by name; read anew at every pass.

    linear: (4, 4), fixed RAS to moving RAS, mm. foreground: the fixed image's, 1 inside, on its own grid.
    grid: where fields are given. images: fixed and moving, after the linear alignment, (1, 1, I, J, K) in 0..1.
    """

    def __init__(
        self,
        model: RegistrationModel,
        card: ModelCard,
        values: Mapping[str, float],
        fixed: Volume,
        moving: Volume,
        linear: npt.NDArray[np.float64],
        foreground: Volume,
    ) -> None:
        self._model, self._values = model, values
        self.grid = network_grid(fixed.grid, foreground.array > 0, card)
        self.stages: tuple[Stage, ...] = (Stage("network", "The network's result", float(self.grid.spacing.min())),)
        arrays = [
            resample_smoothed(fixed, self.grid).array,
            resample_smoothed(moving, self.grid, Transform((linear,))).array,
        ]
        self.images = [torch.from_numpy(normalise(array))[None, None] for array in arrays]
        self._fade = fade(self.grid.shape)
        self._affine = torch.from_numpy(self.grid.ijk_to_ras.copy())
        self._regions: Regions | None = None
        self._velocities: OrderedDict[tuple[float | str, ...], list[Tensor]] = OrderedDict()

    def forget(self) -> None:
        """Nothing to do: what is kept is of one lambda everywhere, whatever the regions are."""

    def constrain(self, constraints: Constraints) -> list[str]:
        """Take the regions into account from now on; returns warnings. Raises InputError for any other constraint."""
        if refused := constraints.forces:
            raise InputError(f"A network cannot mind {' and '.join(refused)}: choose no model (none) for that.")
        self._regions = regions_of(constraints, self._regions, self.grid)
        return [] if self._regions is None else self._regions.warnings

    @torch.inference_mode()
    def fields(self, lam: float, _stage: int, device: str, tick: Callable[[float], None]) -> Fields:
        """Fields at lambda, RAS mm. _stage: the only one, 0. tick: called once; may raise, to cancel."""
        tick(0.0)

        def network(lam: float) -> list[Tensor]:
            return self._network(lam, device)

        velocities = network(lam) if self._regions is None else self._regions.blend(lam, network)
        window = self._fade.to(device)
        velocities = [velocity * window for velocity in velocities]
        both = displacement(velocities), inverse_displacement(velocities)
        return Fields(*(self._as_field(field) for field in both))

    def finest_fields(self, lam: float, device: str, tick: Callable[[float], None]) -> Fields:
        """The same: the network knows no finer grid."""
        return self.fields(lam, 0, device, tick)

    def _as_field(self, found: Tensor) -> DisplacementField:
        array = to_ras(found, self._affine)[0].float().cpu().numpy()
        return DisplacementField(np.ascontiguousarray(array), self.grid.ijk_to_ras)

    def _network(self, lam: float, device: str) -> list[Tensor]:
        """The velocity of every pass, voxels, at one lambda everywhere."""
        hyperparameters = (lam, *self._values.values())
        key: tuple[float | str, ...] = (*hyperparameters, device)
        if key not in self._velocities:
            weights = self._model.weights(torch.tensor(hyperparameters, device=device))
            fixed, moving = (image.to(device) for image in self.images)
            self._velocities[key] = self._model.velocities(weights, fixed, moving)
            while len(self._velocities) > KEPT_VELOCITIES:
                self._velocities.popitem(last=False)
        # The latest stay: among them those of the regions' lambdas, which every field needs.
        self._velocities.move_to_end(key)
        return self._velocities[key]
