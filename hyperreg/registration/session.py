"""The live session: one pair of volumes, prepared once; then lambda in, displacement fields out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from hyperreg.errors import Cancelled, InputError, OutOfMemory
from hyperreg.imaging.intensity import check_image, foreground, normalise
from hyperreg.imaging.resampling import resample, resample_smoothed
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.machine import choose_device
from hyperreg.registration.anchors import Anchors, Fields, check_lambda
from hyperreg.registration.catalogue import ModelCard, find_model
from hyperreg.registration.contrast import AUTOMATIC, check_contrast, contrast_text
from hyperreg.registration.detail import Detail
from hyperreg.registration.field import to_ras
from hyperreg.registration.figures import Figures, PairFigures
from hyperreg.registration.grids import fade, network_grid
from hyperreg.registration.landmarks import outside_warnings, pair_landmarks
from hyperreg.registration.linear import align
from hyperreg.registration.model import displacement, inverse_displacement, load_model
from hyperreg.registration.refinement import START_LAMBDA, Refined, RefinedFields, Refiner, refined_grid
from hyperreg.registration.regions import Regions
from hyperreg.registration.response import refinement_warning
from hyperreg.reporting import Progress

_T = TypeVar("_T")

KEPT_FIELDS = 4


class LiveSession:
    """A model and a prepared pair.

    model: a model card or its name; device: "auto", "cpu" or "cuda". If the GPU runs out of memory the session goes on
    on the CPU and says so in `warnings`. Raises WeightsError or InputError.
    """

    def __init__(self, model: ModelCard | str, device: str = "auto") -> None:
        started = time.perf_counter()
        self.card = find_model(model) if isinstance(model, str) else model
        self.device = choose_device(device)
        self.model = load_model(self.card, self.device)
        self.warnings: list[str] = []
        self.timing: dict[str, float] = {"load": time.perf_counter() - started}
        self.anchors = Anchors()
        self.values: dict[str, float] = self.card.other_defaults
        self._prepared = False

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.timing[stage] = time.perf_counter() - started

    @staticmethod
    def _reporter(progress: Progress | None, cancelled: Callable[[], bool] | None) -> Progress:
        """Tells `progress`, and raises Cancelled once `cancelled` says so."""

        def report(fraction: float, text: str) -> None:
            if cancelled is not None and cancelled():
                raise Cancelled("Registration cancelled.")
            if progress is not None:
                progress(fraction, text)

        return report

    def prepare(
        self,
        fixed: Volume,
        moving: Volume,
        *,
        initial: str | npt.NDArray[np.float64] = "affine",
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
        fixed_points: npt.NDArray | None = None,
        moving_points: npt.NDArray | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Align linearly, and bring both images to the network's grid; everything before is forgotten.

        initial: "none", "com", "rigid", "affine", or a (4, 4) map of fixed RAS to moving RAS, mm.
        Label maps, if both are given, add Dice to `metrics`; fixed_points and moving_points, both (P, 3), RAS mm, row
        by row the same place, add the distance of landmarks. Raises InputError or Cancelled.
        """
        report = self._reporter(progress, cancelled)
        self._prepared = False
        self.warnings = []
        self._regions: Regions | None = None
        self._forget_fields()
        report(0.0, "Checking the images")
        if fixed is moving or (fixed.grid.matches(moving.grid) and np.array_equal(fixed.array, moving.array)):
            raise InputError("Fixed and moving are the same image; choose two different ones.")
        fixed = check_image(fixed, self.warnings)
        moving = check_image(moving, self.warnings)
        landmarks = pair_landmarks(fixed_points, moving_points)
        if landmarks is not None:
            self.warnings += outside_warnings(landmarks, fixed.grid, moving.grid)
        with self._timed("align"):
            self.linear = align(
                fixed, moving, initial,
                progress=lambda fraction, text: report(0.05 + 0.75 * fraction, text), cancelled=cancelled,
            )  # fmt: skip
        report(0.8, "Resampling to the model's grid")
        with self._timed("resample"):
            inside = foreground(fixed)
            self.grid = network_grid(fixed.grid, inside, self.card)
            self.refined_grid = refined_grid(fixed.grid, inside)
            self._refiner: Refiner | None = None
            self._images = fixed, moving
            self._body = body = Volume(inside.astype(np.uint8), fixed.ijk_to_ras, "foreground")
            linear = Transform((self.linear,))
            arrays = [resample_smoothed(fixed, self.grid).array, resample_smoothed(moving, self.grid, linear).array]
            if np.ptp(arrays[1]) == 0:
                raise InputError(
                    "After the initial alignment the moving image does not overlap the fixed one. "
                    "Choose another initial alignment ('affine' starts from the centres of mass)."
                )
            images = [torch.from_numpy(normalise(array))[None, None] for array in arrays]
            self._fade = fade(self.grid.shape)
            self._affine = torch.from_numpy(self.grid.ijk_to_ras.copy())
            on_grid = resample(body, self.grid, interpolation="nearest").array > 0
            self.detail = Detail(fixed, moving, self.linear, self.grid, on_grid)
        self._fixed, self._moving = (image.to(self.device) for image in images)
        labels = None if fixed_labels is None or moving_labels is None else (fixed_labels, moving_labels)
        self._figures = PairFigures(images[0], images[1], self.grid, self.linear, body, self.detail, labels, landmarks)
        self._on_device(lambda: self._figures.measure_before(self.device))
        self._prepared = True
        report(1.0, "Ready")

    @property
    def linear_similarity(self) -> float:
        """Mean local correlation in the fixed image's foreground after the linear alignment alone, 0 to 1."""
        self._check_prepared()
        return float(self._figures.before["similarity"])  # type: ignore[arg-type]

    def choose(self, values: Mapping[str, float]) -> None:
        """Set hyperparameters other than lambda, by name; `values` holds the present ones (empty for most models).

        If one changes, fields and anchors are forgotten. Raises InputError, changing nothing, for a name that the model
        does not declare or a value outside [0, 1].
        """
        for name, value in values.items():
            if name not in self.values:
                known = ", ".join(self.values) or "none"
                raise InputError(f"The model '{self.card.name}' has no hyperparameter '{name}' (besides λ: {known}).")
            if not 0.0 <= value <= 1.0:
                raise InputError(f"The value of '{name}' must lie between 0 and 1, not {value}.")
        chosen = {**self.values, **{name: float(value) for name, value in values.items()}}
        if chosen != self.values:
            self.values = chosen
            self._forget_fields()

    def hyperparameters(self, lam: float) -> Tensor:
        """What the hypernetwork is given at lambda: (H,), lambda first, on the session's device."""
        return torch.tensor([lam, *self.values.values()], device=self.device)

    def set_regions(self, labels: Volume | None, lambdas: Mapping[int, float]) -> None:
        """Give labels of a map in the fixed image's space (any grid) a lambda of their own; see `Regions`.

        All other voxels keep the slider's. None or {} clears. Fields and anchors are forgotten, but not what the
        network has found at single lambdas, so that other lambdas for the same map cost little. Raises InputError,
        changing nothing, before `prepare` and for what `Regions` refuses.
        """
        self._check_prepared()
        if labels is None or not lambdas:
            self._regions = None
        elif self._regions is not None and self._regions.is_of(labels):
            self._regions.set_lambdas(lambdas)
        else:
            self._regions = Regions(labels, lambdas, self.grid)
        if self._regions is not None:
            self.warnings += [text for text in self._regions.warnings if text not in self.warnings]
        self.anchors = Anchors()
        self._forwards.clear()
        self._inverses.clear()

    def _forget_fields(self) -> None:
        self.anchors = Anchors()
        self._weights: OrderedDict[float, dict[str, Tensor]] = OrderedDict()
        self._velocities: OrderedDict[float, list[Tensor]] = OrderedDict()
        self._forwards: OrderedDict[float, DisplacementField] = OrderedDict()
        self._inverses: OrderedDict[float, DisplacementField] = OrderedDict()

    def _check_prepared(self) -> None:
        if not self._prepared:
            raise InputError("No pair of images has been prepared yet.")

    def _on_device(self, compute: Callable[[], _T]) -> _T:
        """Run on the session's device; out of GPU memory, go on on the CPU for good and say so."""
        try:
            return compute()
        except torch.OutOfMemoryError as error:
            if self.device == "cpu":
                raise OutOfMemory("There is not enough memory for this registration; close other programs.") from error
            self.warnings.append("The GPU ran out of memory; this registration continues on the CPU, more slowly.")
            self.device = "cpu"
            self.model.to("cpu")
            self._weights.clear()
            self._velocities.clear()
            self._fixed, self._moving = self._fixed.cpu(), self._moving.cpu()
        torch.cuda.empty_cache()
        return self._on_device(compute)

    def _network(self, lam: float) -> list[Tensor]:
        """The velocity of every pass, voxels, at one lambda everywhere."""
        if lam in self._velocities:
            return self._velocities[lam]
        with self._timed("hypernetwork"):
            if lam not in self._weights:
                self._weights[lam] = self.model.weights(self.hyperparameters(lam))
                while len(self._weights) > KEPT_FIELDS:
                    self._weights.popitem(last=False)
        with self._timed("network"):
            found = self.model.velocities(self._weights[lam], self._fixed, self._moving)
        self._velocities[lam] = found
        # Those of the regions' lambdas stay: every field needs them.
        own = set(self._regions.lambdas.values()) if self._regions is not None else set()
        passing = [known for known in self._velocities if known not in own]
        for known in passing[:-KEPT_FIELDS]:
            del self._velocities[known]
        return found

    @torch.inference_mode()
    def _integrated(self, lam: float, how: Callable[[list[Tensor]], Tensor]) -> DisplacementField:
        velocities = self._network(lam) if self._regions is None else self._regions.blend(lam, self._network)
        window = self._fade.to(self.device)
        with self._timed("integration"):
            found = to_ras(how([velocity * window for velocity in velocities]), self._affine)
        return DisplacementField(np.ascontiguousarray(found[0].float().cpu().numpy()), self.grid.ijk_to_ras)

    def _exact(
        self, lam: float, kept: OrderedDict[float, DisplacementField], how: Callable[[list[Tensor]], Tensor]
    ) -> DisplacementField:
        lam = round(lam, 6)
        if lam not in kept:
            kept[lam] = self._on_device(lambda: self._integrated(lam, how))
            while len(kept) > KEPT_FIELDS:
                kept.popitem(last=False)
        return kept[lam]

    def forward(self, lam: float) -> DisplacementField:
        """The first of `field`, in less time: all that measuring and resampling need. Raises as `field`."""
        lam = check_lambda(lam)
        self._check_prepared()
        return self._exact(lam, self._forwards, displacement)

    def field(self, lam: float) -> Fields:
        """The exact fields at lambda, RAS mm; the last few are kept.

        Raises InputError for lambda outside [0, 1] or before `prepare`; OutOfMemory.
        """
        return Fields(self.forward(lam), self._exact(lam, self._inverses, inverse_displacement))

    def fill_anchors(self) -> None:
        """Compute every anchor that previews need (a live application does this one by one, when idle)."""
        while (lam := self.anchors.next_lambda()) is not None:
            self.anchors.add(lam, self.field(lam))

    def preview(self, lam: float) -> Fields:
        """Fields at lambda interpolated between anchors; see `Anchors`. Raises InputError without any anchor."""
        self._check_prepared()
        return self.anchors.interpolate(lam)

    def transforms(self, fields: Fields) -> tuple[Transform, Transform]:
        """Fixed RAS to moving RAS (what a resampler needs): x -> A(x + u(x)); and moving RAS to fixed RAS."""
        back = np.asarray(np.linalg.inv(self.linear), dtype=np.float64)
        return Transform((fields.forward, self.linear)), Transform((back, fields.inverse))

    def transform(self, lam: float) -> Transform:
        """Fixed RAS to moving RAS at lambda."""
        return Transform((self.forward(lam), self.linear))

    def inverse_transform(self, lam: float) -> Transform:
        """Moving RAS to fixed RAS at lambda."""
        return self.transforms(self.field(lam))[1]

    def refine(
        self,
        lam: float,
        *,
        contrast: str = AUTOMATIC,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Refined:
        """The field at lambda improved on this pair's images, on `refined_grid`; see `registration.refinement`.

        contrast: whether the images are of one contrast, "same" or "different"; "auto" looks at them.
        Nothing of the session changes: `field(lam)` stays the network's. Raises InputError before `prepare` or for
        lambda outside [0, 1], Cancelled, OutOfMemory.
        """
        lam, contrast = check_lambda(lam), check_contrast(contrast)
        report = self._reporter(progress, cancelled)
        report(0.0, "Computing the network's field")
        start = self.field(max(lam, START_LAMBDA))
        report(0.05, "Preparing the images at their own resolution")
        if self._refiner is None:
            self._refiner = Refiner(*self._images, self.linear, self.refined_grid, self._body)
        refiner = self._refiner
        regions = self._regions.lambda_map(lam) if self._regions is not None else None

        def compute() -> RefinedFields:
            return refiner.refine(
                start, lam, self.device, lambda share: report(0.1 + 0.75 * share, "Refining"), regions, contrast
            )

        with self._timed("refinement"):
            found = self._on_device(compute)
        report(0.87, "Measuring")
        network, figures = self._measure(self.forward(lam)), self._measure(found.fields.forward)
        message = (
            f"Refined in {found.steps} steps: similarity {figures['similarity_before']:.2f} after the linear "
            f"alignment, {network['similarity']:.2f} by the network, now {figures['similarity']:.2f}."
        )
        message += contrast_text(contrast, found.same_contrast)
        return Refined(found.fields, figures, message, refinement_warning(network, figures))

    def metrics(self, lam: float) -> Figures:
        """Figures of the exact field at lambda.

        similarity and similarity_before (mean local NCC in the foreground, 0 to 1; before: linear alignment only),
        detail and detail_before (the same of detail finer than the network's grid, see `Detail`),
        folding_percent, displacement_max_mm, displacement_mean_mm, roughness (see `field_figures`); with label maps
        dice and dice_before (per label), dice_mean and dice_mean_before; with landmarks landmarks_mm and
        landmarks_mm_before (mean distance, mm).
        """
        return self._measure(self.forward(lam))

    def _measure(self, field: DisplacementField) -> Figures:
        return self._on_device(lambda: self._figures.measure(field, self.device))
