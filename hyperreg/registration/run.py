"""One registration from files to files: what `hyperreg register` does, without the printing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging import files, transform_files
from hyperreg.imaging.dicom.results import DicomRequest
from hyperreg.imaging.files import extension, write_volume
from hyperreg.imaging.output import StagedOutputs
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.structures import Table, name_of, structures_of
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration import page
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.catalogue import ModelCard, default_model, find_model
from hyperreg.registration.dicom_output import dicom_results, volume_changes
from hyperreg.registration.pairs import LoadedPair, Pair, load_pair, open_session
from hyperreg.registration.regions import check_region_lambdas
from hyperreg.registration.response import Response, Suggestion, automatic_lambda, warning
from hyperreg.registration.session import Figures, LiveSession
from hyperreg.registration.stages import Stage
from hyperreg.registration.verification import check_volume, inverse_errors
from hyperreg.registration.volume_change import volume_change
from hyperreg.reporting import Cancel, Progress, Stopwatch, describe_image, versions, write_report

# Fractions of the run on a CPU; only the progress bar depends on them. Where computing the field begins; how much of
# what lies before it preparing takes if lambda is searched for; where measuring begins.
FIELD = 0.35
PREPARING_TO_SEARCH = 0.4
MEASURING = 0.8


@dataclass(frozen=True)
class Outputs:
    """Where results go; None means not wanted.

    volume: the moving image on the fixed grid. transform: fixed to moving space, as ITK resamples. inverse: moving to
    fixed. labels: the moving label map on the fixed grid. jacobian: the deformation's local change of volume on the
    fixed grid, see `volume_change.volume_change`. report: JSON. dicom: see `dicom_output`. page: the report on one page
    for people, PDF; patient_on_page: with the patient's name, ID and date, where DICOM headers have them.
    """

    volume: Path | None = None
    transform: Path | None = None
    inverse: Path | None = None
    labels: Path | None = None
    report: Path | None = None
    jacobian: Path | None = None
    dicom: DicomRequest | None = None
    page: Path | None = None
    patient_on_page: bool = False

    def by_name(self) -> dict[str, Path | None]:
        """The report comes first, because what comes first is moved into place last: where it is, all else is."""
        return {
            "report": self.report,
            "volume": self.volume,
            "transform": self.transform,
            "inverse": self.inverse,
            "labels": self.labels,
            "jacobian": self.jacobian,
            "page": self.page,
        }


@dataclass(frozen=True)
class RegistrationResult:
    """report: what the JSON report holds. written: the files that are there now."""

    report: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(self.report["warnings"])


@dataclass(frozen=True)
class Result:
    """What is written: fixed RAS to moving RAS, its inverse, and their metrics as `LiveSession.measure` names them.

    forward: the deformation alone. stage: how far the field was improved.
    """

    transform: Transform
    inverse: Transform
    figures: Figures
    forward: DisplacementField
    stage: Stage


def register(
    pair: Pair,
    lam: float | Literal["auto"] | None,
    outputs: Outputs,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    *,
    fast: bool = False,
    only_linear: bool = False,
    about: Mapping[str, Any] | None = None,
) -> RegistrationResult:
    """Register a pair at one lambda and write the wanted outputs, all of them or none.

    lam: a number, "auto" to search for it, None for the model's default.
    progress: called with a fraction in [0, 1] and what is being done. cancelled: asked between stages, and between the
    steps of long ones.
    only_linear: write the linear alignment alone, as a linear transform; lam has to be None.
    fast: whether the field of the quick stage is enough; else it is solved at the images' own resolution. A search for
    lambda is made on quick fields. about: what the caller adds to the report.
    Raises InputError, FileError, WeightsError, OutOfMemory or Cancelled; nothing is written then.
    """
    card = find_model(pair.model or default_model())
    if only_linear and lam is not None:
        raise InputError("The linear alignment alone has no λ: leave --lam out, or --only.")
    if only_linear and (pair.pull or pair.rigid or pair.regions or pair.fixed_mask or pair.moving_mask):
        raise InputError(
            "The linear alignment alone minds neither masks nor regions, and landmarks do not pull at it: leave "
            "--fixed-mask, --moving-mask, --rigid, --regions and --pull out, or --only."
        )
    choice = Suggestion(1.0, "The linear alignment alone.", "user") if only_linear else _given_lambda(card, lam)
    _check_request(pair, outputs)
    ready = PREPARING_TO_SEARCH * FIELD if choice is None else FIELD
    tell = progress or (lambda _fraction, _text: None)

    def go_on(fraction: float, text: str) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        tell(fraction, text)

    def part(start: float, end: float) -> Progress:
        return lambda fraction, text: tell(start + fraction * (end - start), text)

    watch = Stopwatch()
    response = Response()
    with StagedOutputs(outputs.by_name(), pair.files) as staged, dicom_results(outputs.dicom, pair) as objects:
        go_on(0.0, "Reading the images")
        with watch.stage("read"):
            images = load_pair(pair)
        with watch.stage("prepare"):
            session = open_session(pair, images, part(0.02, ready), cancelled)
        if choice is None:
            with watch.stage("search"):
                choice = automatic_lambda(session, part(ready, FIELD), cancelled, response)
        lam = choice.lam
        if only_linear:
            result = _linear_result(session, watch)
        else:
            result = _result(session, lam, fast, watch, part(FIELD, MEASURING), cancelled)
        go_on(0.85, "Writing")
        with watch.stage("write"):
            _write(staged, images, result)
        go_on(0.95, "Checking what was written")
        with watch.stage("check"):
            checks = _check_written(staged, images, result)
        report = {
            "lambda": lam,
            "lambda_choice": {"by": choice.by, "reason": choice.reason, "response": response.rows},
            "values": dict(session.values),
            "regions": {
                "file": str(pair.regions) if pair.regions else None,
                "lambdas": {str(label): value for label, value in pair.region_lambdas.items()},
            },
            "constraints": {
                "fixed_mask": str(pair.fixed_mask) if pair.fixed_mask else None,
                "moving_mask": str(pair.moving_mask) if pair.moving_mask else None,
                "pull": pair.pull,
                "rigid": None
                if images.rigid is None
                else {"file": str(pair.rigid), "labels": list(images.rigid.labels)},
                "symmetric": pair.symmetric,
            },
            "stage": result.stage.describe(),
            "contrast": {"chosen": pair.contrast, "note": session.contrast_note},
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "fixed": describe_image(pair.fixed, images.fixed),
            "moving": describe_image(pair.moving, images.moving),
            "initial": pair.initial,
            "deformed_start": _is_deformed(images),
            "linear_ras": np.asarray(session.linear).tolist(),
            "model": card.describe(),
            "device": session.device,
            "metrics": _without_dice(result.figures),
            "dice": _with_names(_dice(result.figures), images.table),
            "checks": checks,
            "timing_s": {
                **{name: round(seconds, 3) for name, seconds in watch.seconds.items()},
                "stages": {name: round(float(seconds), 3) for name, seconds in session.timing.items()},
            },
            "versions": versions(),
            "warnings": _all_warnings(images, session, result.figures),
            "outputs": {name: str(path) for name, path in staged.targets.items()},
            **(about or {}),
        }
        if objects is not None and outputs.dicom is not None:
            shown = _page_images(images, session, result, only_linear)
            shown = replace(shown, names=page.names_of(pair.fixed, pair.moving))
            report["warnings"] += objects.write(shown, report, volume_changes(images))
            report["outputs"]["dicom"] = str(outputs.dicom.folder)
        if outputs.dicom is not None and outputs.dicom.leave_out_patient:
            # Folders and files of DICOM are often called after the patient.
            report["fixed"]["file"] = report["moving"]["file"] = None
        if "page" in staged:
            _write_page(staged.path("page"), pair, outputs, report, _page_images(images, session, result, only_linear))
        if "report" in staged:
            write_report(report, staged.path("report"))
        go_on(1.0, "Done")
    return RegistrationResult(report, [Path(path) for path in report["outputs"].values()])


def _result(
    session: LiveSession, lam: float, fast: bool, watch: Stopwatch, progress: Progress, cancelled: Cancel | None
) -> Result:
    with watch.stage("field"):
        if fast:
            stage = session.quick_stage
            fields = session.field(lam, stage, progress=progress, cancelled=cancelled)
        else:
            stage = len(session.stages) - 1
            fields = session.finest_fields(lam, progress=progress, cancelled=cancelled)
    progress(1.0, "Measuring")
    with watch.stage("measure"):
        figures = session.measure(fields.forward)
    return Result(*session.transforms(fields), figures, fields.forward, session.stages[stage])


def _page_images(images: LoadedPair, session: LiveSession, result: Result, only_linear: bool) -> page.PageImages:
    """What the page shows: of a linear alignment alone, the moving image as it was loaded beside the aligned one."""
    linear = Transform((np.asarray(session.linear, dtype=np.float64),))
    shown = page.PageImages(images.fixed, images.moving, linear, result.transform, result.forward)
    if only_linear:
        return replace(shown, before=Transform(), forward=None, titles=("Moving, as loaded", page.ALIGNED))
    start = images.initial
    if isinstance(start, Transform) and not start.is_linear:
        return replace(shown, before=start, titles=("Moving, at the start", page.REGISTERED))
    return shown


def _write_page(path: Path, pair: Pair, outputs: Outputs, report: Mapping[str, Any], shown: page.PageImages) -> None:
    """The page, without what may name a patient unless that is wanted."""
    paths = pair.fixed, pair.moving
    if outputs.patient_on_page:
        page.write_page(report, replace(shown, names=page.names_of(*paths)), path, page.patient_of(*paths))
        return
    if outputs.dicom is None or not outputs.dicom.leave_out_patient:
        shown = replace(shown, names=page.names_of(*paths))
    page.write_page({**report, "warnings": page.without_names(report["warnings"], *paths)}, shown, path)


def _linear_result(session: LiveSession, watch: Stopwatch) -> Result:
    """The linear alignment alone, and its own figures: a network deforms at λ = 1, too."""
    still = DisplacementField(np.zeros((3, *session.grid.shape), np.float32), session.grid.ijk_to_ras)
    with watch.stage("measure"):
        figures = session.measure(still)
    back = np.asarray(np.linalg.inv(session.linear), dtype=np.float64)
    stage = session.stages[session.quick_stage]
    return Result(Transform((session.linear,)), Transform((back,)), figures, still, stage)


def _given_lambda(card: ModelCard, lam: float | Literal["auto"] | None) -> Suggestion | None:
    """None if lambda has to be searched for."""
    if lam == "auto":
        return None
    if lam is None:
        return Suggestion(check_lambda(card.default_lambda), "The model's default.", "model")
    return Suggestion(check_lambda(lam), "Given by the user.", "user")


def _all_warnings(images: LoadedPair, session: LiveSession, measured: Mapping[str, Any]) -> list[str]:
    worse = warning(measured, "the given start" if _is_deformed(images) else "the linear alignment")
    return list(dict.fromkeys([*images.warnings, *session.warnings, *([worse] if worse else [])]))


def _is_deformed(images: LoadedPair) -> bool:
    """Whether the registration started from more than a linear map."""
    return isinstance(images.initial, Transform) and not images.initial.is_linear


def _check_request(pair: Pair, outputs: Outputs) -> None:
    """Raise InputError for what cannot be done, before anything is read."""
    if pair.region_lambdas and not pair.regions:
        raise InputError("A λ for a region was given, but no label map of the regions (--regions).")
    if pair.regions and not pair.region_lambdas:
        raise InputError("A label map of regions was given, but no λ for any of them (--region-lambda LABEL=λ).")
    check_region_lambdas(pair.region_lambdas)
    if (pair.fixed_points is None) != (pair.moving_points is None):
        raise InputError("Landmarks of one image only: give --fixed-points and --moving-points, in the same order.")
    if pair.pull and not pair.fixed_points:
        raise InputError(
            "--pull needs landmarks that pull: give --fixed-points and --moving-points, in the same order."
        )
    if outputs.labels and not pair.moving_labels:
        raise InputError("A warped label map was asked for, but no moving label map was given.")
    if outputs.patient_on_page and outputs.page is None:
        raise InputError("--patient-on-page belongs to --out-report, which was not given.")
    if outputs.patient_on_page and outputs.dicom is not None and outputs.dicom.leave_out_patient:
        raise InputError("--patient-on-page and --leave-out-patient-data contradict each other: leave one of them out.")
    for path, known in (
        (outputs.volume, files.WRITABLE),
        (outputs.labels, files.WRITABLE),
        (outputs.jacobian, files.WRITABLE),
        (outputs.transform, transform_files.WRITABLE),
        (outputs.inverse, transform_files.WRITABLE),
        (outputs.page, (page.PDF,)),
    ):
        if path is not None and extension(path) not in known:
            raise InputError(f"'{path.name}' has no ending that tells the format; use one of {', '.join(known)}.")


def _without_dice(measured: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in measured.items() if not name.startswith("dice")}


def _dice(measured: Mapping[str, Any]) -> dict[str, Any] | None:
    """Dice per label after the linear alignment ("before") and after the deformation; None without label maps."""
    before, after = measured.get("dice_before", {}), measured.get("dice", {})
    if not before:
        return None
    return {
        "labels": {str(label): {"before": before[label], "after": after[label]} for label in before},
        "mean_before": measured["dice_mean_before"],
        "mean_after": measured["dice_mean"],
    }


def _with_names(dice: dict[str, Any] | None, table: Table) -> dict[str, Any] | None:
    """Dice with the names of the structures, where the label maps tell them."""
    if dice is None:
        return None
    named = {label: {"name": name_of(int(label), table), **row} for label, row in dice["labels"].items()}
    return {**dice, "labels": named}


def _write(staged: StagedOutputs, images: LoadedPair, result: Result) -> None:
    if "volume" in staged:
        write_volume(resample(images.moving, images.fixed.grid, result.transform), staged.path("volume"))
    if "labels" in staged and images.drawn is not None:
        drawn = images.drawn
        warped = resample(drawn.flat, images.fixed.grid, result.transform, interpolation="nearest")
        write_segmentation(warped, structures_of(drawn.labels, drawn.table), staged.path("labels"))
    if "jacobian" in staged:
        change = resample(volume_change(result.forward), images.fixed.grid, fill=1.0)
        write_volume(change, staged.path("jacobian"))
    if "transform" in staged:
        write_transform(result.transform, staged.path("transform"), images.fixed.grid)
    if "inverse" in staged:
        write_transform(result.inverse, staged.path("inverse"), images.moving.grid)


def _check_written(staged: StagedOutputs, images: LoadedPair, result: Result) -> dict[str, Any]:
    """Read the outputs back. Raises FileError if the transform and the volume disagree."""
    checks: dict[str, Any] = {}
    if "transform" in staged and "volume" in staged:
        checks["volume_and_transform_difference"] = check_volume(
            staged.path("transform"), staged.path("volume"), images.fixed.grid, images.moving
        )
    if "inverse" in staged:
        errors = inverse_errors(result.transform, read_transform(staged.path("inverse")), images.fixed.grid)
        checks["inverse_error_mm"] = {"mean": float(errors.mean()), "p99": float(np.quantile(errors, 0.99))}
    return checks
