"""The live session: one pair of volumes, prepared once; then lambda in, fields out, better stage by stage."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from hyperreg.errors import Cancelled, InputError, OutOfMemory
from hyperreg.imaging.intensity import check_image, foreground, without_padding
from hyperreg.imaging.plausibility import ratio_warnings
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.machine import choose_device, is_out_of_memory
from hyperreg.registration.anchors import Anchors, Fields, check_lambda
from hyperreg.registration.catalogue import ModelCard, find_model
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC, check_contrast, contrast_text
from hyperreg.registration.figures import Figures, PairFigures
from hyperreg.registration.grids import beyond_model
from hyperreg.registration.landmarks import check_pull, outside_warnings, pair_landmarks
from hyperreg.registration.linear import align, direction_warnings
from hyperreg.registration.masks import check_masks
from hyperreg.registration.model import RegistrationModel, load_model
from hyperreg.registration.network import Network
from hyperreg.registration.parallel import side_by_side
from hyperreg.registration.solver import Solver
from hyperreg.registration.stages import Stage
from hyperreg.registration.start import check_start, split
from hyperreg.reporting import Progress

_T = TypeVar("_T")

# Fields of the latest lambdas and stages that are kept: a live application measures those of its anchors later.
KEPT_FIELDS = 16


class FieldMaker(Protocol):
    """What makes the fields of a prepared pair: a `Solver`, or a `Network`."""

    grid: Grid
    stages: tuple[Stage, ...]

    @property
    def images(self) -> list[torch.Tensor]: ...

    def fields(self, lam: float, stage: int, device: str, tick: Callable[[float], None], /) -> Fields: ...

    def finest_fields(self, lam: float, device: str, tick: Callable[[float], None]) -> Fields: ...

    def constrain(self, constraints: Constraints) -> list[str]: ...

    def forget(self) -> None: ...


class LiveSession:
    """A model and a prepared pair.

    model: a model card or its name; the card `catalogue.NONE` stands for the solver alone. device: "auto", "cpu" or
    "cuda". If the GPU runs out of memory the session goes on on the CPU and says so in `warnings`.
    Of the prepared pair: stages; grid, where fields lie; linear, fixed RAS to moving RAS, mm; foreground, the fixed
    image's, 1 inside.
    Raises WeightsError or InputError.
    """

    stages: tuple[Stage, ...]
    grid: Grid
    linear: npt.NDArray[np.float64]
    foreground: Volume

    def __init__(self, model: ModelCard | str, device: str = "auto") -> None:
        started = time.perf_counter()
        self.card = find_model(model) if isinstance(model, str) else model
        self.device = choose_device(device)
        self.model: RegistrationModel | None = None
        if self.card.has_network:
            self.model = load_model(self.card, self.device)
        self.warnings: list[str] = []
        self.timing: dict[str, float] = {"load": time.perf_counter() - started}
        self.anchors = Anchors()
        self.values: dict[str, float] = self.card.other_defaults
        self.contrast_note = ""
        self._maker: FieldMaker | None = None
        self.constraints = Constraints()
        self._fields: OrderedDict[tuple[float, int], Fields] = OrderedDict()
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
        initial: str | npt.NDArray[np.float64] | Transform = "affine",
        contrast: str = AUTOMATIC,
        symmetric: bool = False,
        fixed_labels: Volume | None = None,
        moving_labels: Volume | None = None,
        fixed_points: npt.NDArray | None = None,
        moving_points: npt.NDArray | None = None,
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> None:
        """Align linearly, and bring both images to one grid; everything before is forgotten.

        initial: one of `start.ALIGNMENTS`, a (4, 4) map of fixed RAS to moving RAS, mm, or any transform that maps so:
        its linear part becomes the alignment, and the deformation starts from the rest, which is what lambda = 1 shows.
        contrast: whether both images show tissues alike, one of `contrast.CONTRASTS`; only the solver minds.
        symmetric: neither image is preferred: the other way round, the result is the inverse. Only the solver can.
        Label maps, if both are given, add Dice to `metrics`; fixed_points and moving_points, both (P, 3), RAS mm, row
        by row the same place, add the distance of landmarks. Raises InputError or Cancelled.
        """
        report = self._reporter(progress, cancelled)
        check_contrast(contrast)
        if symmetric and self.model is not None:
            raise InputError("A network is not symmetric: choose no model (none) for that.")
        self._prepared = False
        self.warnings = []
        self.constraints = Constraints()
        self._maker = None
        self._forget_fields()
        report(0.0, "Checking the images")
        if fixed is moving or (fixed.grid.matches(moving.grid) and np.array_equal(fixed.array, moving.array)):
            raise InputError("Fixed and moving are the same image; choose two different ones.")
        fixed = without_padding(check_image(fixed, self.warnings))
        moving = without_padding(check_image(moving, self.warnings))
        sizes = ratio_warnings(fixed, moving)
        self.warnings += sizes
        landmarks = pair_landmarks(fixed_points, moving_points)
        if landmarks is not None:
            self.warnings += outside_warnings(landmarks, fixed.grid, moving.grid)
        self._images, self._contrast = (fixed, moving), contrast
        with self._timed("align"):
            self.foreground = body = Volume(foreground(fixed).astype(np.uint8), fixed.ijk_to_ras, "foreground")
            start = None
            if isinstance(initial, Transform):
                if initial.is_linear:
                    initial = initial.linear
                else:
                    check_start(initial, body, moving.grid)
                    initial, start = split(initial, body)
            self.linear = align(
                fixed, moving, initial,
                progress=lambda fraction, text: report(0.05 + 0.75 * fraction, text), cancelled=cancelled,
                symmetric=symmetric,
            )  # fmt: skip
            if not isinstance(initial, str):
                self.warnings += direction_warnings(fixed, moving, self.linear)
        report(0.8, "Resampling both images to one grid")
        with self._timed("resample"):
            if self.model is None:
                maker: FieldMaker = Solver(fixed, moving, self.linear, body, contrast, start, symmetric)
            elif start is not None:
                raise InputError(
                    "A network starts from a linear alignment only: choose no model (none) for this start."
                )
            else:
                maker = Network(self.model, self.card, self.values, fixed, moving, self.linear, body)
                self.warnings += beyond_model(fixed, body.array > 0, self.card)
            self._maker, self.grid, self.stages = maker, maker.grid, maker.stages
            images = maker.images
            if float(np.ptp(images[1].numpy())) == 0:
                remedy = "Choose another initial alignment ('affine' starts from the centres of mass)."
                raise InputError(
                    "After the initial alignment the moving image does not overlap the fixed one. "
                    f"{' '.join(sizes) or remedy}"
                )
        labels = None if fixed_labels is None or moving_labels is None else (fixed_labels, moving_labels)
        self._figures = PairFigures(
            images[0], images[1], self.grid, fixed, moving, self.linear, body, labels, landmarks,
            None if start is None else start.to_field(self.grid),
        )  # fmt: skip
        self.contrast_note = ""
        if isinstance(maker, Solver):
            with self._timed("contrast"):
                self._compare_contrasts(maker, report)
        self._prepared = True
        report(1.0, "Ready")

    def _compare_contrasts(self, solver: Solver, report: Progress) -> None:
        def tick(_fraction: float) -> None:
            report(0.9, "Comparing the contrasts")

        self._on_device(lambda: solver.find_contrast(self.device, tick))
        self.contrast_note = contrast_text(self._contrast, bool(solver.same_contrast))

    @property
    def linear_similarity(self) -> float:
        """Mean local correlation in the fixed image's foreground after the linear alignment alone, 0 to 1."""
        self._check_prepared()
        return float(self._figures.before(self.device)["similarity"])  # type: ignore[arg-type]

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
        if any(self.values[name] != value for name, value in values.items()):
            self.values.update({name: float(value) for name, value in values.items()})
            self._forget_fields()

    def constrain(self, constraints: Constraints) -> None:
        """Set what the user knows of the pair, instead of what was set before; `constraints` holds it.

        Fields and anchors are forgotten; nothing else is prepared again, except that other masks may tell another
        contrast. Raises InputError, changing nothing, before `prepare` and for what cannot be used.
        """
        maker, before = self._check_prepared(), self.constraints
        if constraints.same_as(before):
            return
        other_masks = not constraints.same_masks(before)
        if other_masks:
            check_masks(*self._images, constraints.fixed_mask, constraints.moving_mask)
        landmarks = constraints.landmarks
        if landmarks is not None and not landmarks.same_as(before.landmarks):
            check_pull(landmarks, self.linear, *(image.grid for image in self._images))
        self.warnings += [text for text in maker.constrain(constraints) if text not in self.warnings]
        self.constraints = constraints
        self._figures.constrain(constraints)
        self._forget_fields()
        if other_masks and isinstance(maker, Solver):
            self._compare_contrasts(maker, lambda _fraction, _text: None)

    def _forget_fields(self) -> None:
        self.anchors = Anchors()
        self._fields.clear()
        if self._maker is not None:
            self._maker.forget()

    def _check_prepared(self) -> FieldMaker:
        if not self._prepared or self._maker is None:
            raise InputError("No pair of images has been prepared yet.")
        return self._maker

    def _on_device(self, compute: Callable[[], _T]) -> _T:
        """Run on the session's device; out of GPU memory, go on on the CPU for good and say so."""
        try:
            return compute()
        except Exception as error:
            if self.device == "cpu" or not isinstance(error, torch.OutOfMemoryError):
                if not is_out_of_memory(error):
                    raise
                raise OutOfMemory("There is not enough memory for this registration; close other programs.") from error
            self.warnings.append("The GPU ran out of memory; this registration continues on the CPU, more slowly.")
            self.device = "cpu"
            if self.model is not None:
                self.model.to("cpu")
            if self._maker is not None:
                self._maker.forget()
        torch.cuda.empty_cache()
        return self._on_device(compute)

    def field(
        self,
        lam: float,
        stage: int | None = None,
        *,
        beside: Sequence[float] = (),
        progress: Progress | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> Fields:
        """The fields at lambda, RAS mm, on `grid`; the last few are kept.

        stage: a place in `stages`; None: the last, the best. beside: what will be asked for next at this stage; where
        the cores allow it, it is solved at the same time and kept. Raises InputError for lambda outside [0, 1], a stage
        that is none, or before `prepare`; Cancelled; OutOfMemory.
        """
        lam = round(check_lambda(lam), 6)
        maker = self._check_prepared()
        stage = len(self.stages) - 1 if stage is None else stage
        if not 0 <= stage < len(self.stages):
            raise InputError(f"There is no stage {stage}; this registration has {len(self.stages)}.")
        if (lam, stage) not in self._fields:
            tick = self._ticker(self.stages[stage], progress, cancelled)
            wanted = [lam]
            if self.model is None and self.device == "cpu":
                rounded = (round(check_lambda(other), 6) for other in beside)
                wanted += [other for other in rounded if other != lam and (other, stage) not in self._fields]

            def solve(at: float, tick: Callable[[float], None]) -> Fields:
                return maker.fields(at, stage, self.device, tick)

            with self._timed(self.stages[stage].name):
                found = self._on_device(lambda: side_by_side(solve, wanted, tick))
            for at in reversed(found):  # lambda itself is the newest
                self._fields[at, stage] = found[at]
            while len(self._fields) > KEPT_FIELDS:
                self._fields.popitem(last=False)
        return self._fields[lam, stage]

    def finest_fields(
        self, lam: float, *, progress: Progress | None = None, cancelled: Callable[[], bool] | None = None
    ) -> Fields:
        """The fields of the last stage on the finest grid that there is, for results that are written once.

        Raises as `field`.
        """
        lam = check_lambda(lam)
        maker = self._check_prepared()
        tick = self._ticker(self.stages[-1], progress, cancelled)
        with self._timed(self.stages[-1].name):
            return self._on_device(lambda: maker.finest_fields(lam, self.device, tick))

    def _ticker(
        self, stage: Stage, progress: Progress | None, cancelled: Callable[[], bool] | None
    ) -> Callable[[float], None]:
        report = self._reporter(progress, cancelled)
        return lambda fraction: report(fraction, stage.text)

    @property
    def quick_stage(self) -> int:
        """The last stage that costs little: fields at many values of lambda are of this one."""
        return max(0, len(self.stages) - 2)

    def fill_anchors(self) -> None:
        """Compute every anchor that previews need (a live application does this one by one, when idle)."""
        while (lam := self.anchors.next_lambda()) is not None:
            self.anchors.add(lam, self.field(lam, self.quick_stage))

    def preview(self, lam: float) -> DisplacementField:
        """The displacement at lambda, between anchors; see `Anchors.interpolate`. Raises InputError without any."""
        self._check_prepared()
        return self.anchors.interpolate(lam)

    def transforms(self, fields: Fields) -> tuple[Transform, Transform]:
        """Fixed RAS to moving RAS (what a resampler needs): x -> A(x + u(x)); and moving RAS to fixed RAS."""
        back = np.asarray(np.linalg.inv(self.linear), dtype=np.float64)
        return Transform((fields.forward, self.linear)), Transform((back, fields.inverse))

    def transform(self, lam: float, stage: int | None = None) -> Transform:
        """Fixed RAS to moving RAS at lambda."""
        return self.transforms(self.field(lam, stage))[0]

    def metrics(self, lam: float, stage: int | None = None) -> Figures:
        """Metrics of the field at lambda, see `measure`."""
        return self.measure(self.field(lam, stage).forward)

    def measure(self, field: DisplacementField) -> Figures:
        """Metrics of a forward field on any grid, RAS mm.

        similarity and similarity_before (mean local NCC in the foreground, 0 to 1; before: what was started from),
        detail and detail_before (the same of detail finer than `grid`, see `Detail`), over_chance_before (how many
        times as well as by chance that detail agreed where it was started from),
        folding_percent, displacement_max_mm, displacement_mean_mm, roughness, volume_change_low_percent and
        volume_change_high_percent (see `field_figures`); with label maps dice and dice_before (per label), dice_mean
        and dice_mean_before; with landmarks landmarks_mm and landmarks_mm_before (mean distance, mm); with landmarks
        that pull pulled_mm and pulled_mm_before.
        """
        self._check_prepared()
        return self._on_device(lambda: self._figures.measure(field, self.device))
