"""One registration from files to files: what `hyperreg register` does, without the printing."""

from __future__ import annotations

import json
import math
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

import hyperreg
from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.imaging import files, transform_files
from hyperreg.imaging.files import extension, read_label_map, read_volume, write_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.catalogue import ModelCard, default_model, find_model
from hyperreg.registration.outputs import StagedOutputs
from hyperreg.registration.regions import check_region_lambdas
from hyperreg.registration.response import Response, Suggestion, automatic_lambda, warning
from hyperreg.registration.session import LiveSession
from hyperreg.registration.verification import check_volume, inverse_errors

Progress = Callable[[float, str], None]
Cancel = Callable[[], bool]

INITIAL_METHODS = ("none", "com", "rigid", "affine")
# The share of the run that preparing takes on a CPU, without and with a search for lambda; only the progress bar
# depends on it.
PREPARING, PREPARING_TO_SEARCH = 0.7, 0.3


@dataclass(frozen=True)
class Pair:
    """What is registered, and how: two images, the label maps that belong to them, the start, the model and the device.

    initial: one of INITIAL_METHODS, or the file of a transform from fixed to moving space.
    model: a name from the catalogue, or None for the default one.
    device: "auto", "cpu" or "cuda".
    values: hyperparameters other than lambda, by name; the model's defaults for those that are not named.
    regions: a label map in the fixed image's space; region_lambdas: lambdas for some of its labels.
    """

    fixed: Path
    moving: Path
    fixed_labels: Path | None = None
    moving_labels: Path | None = None
    initial: str = "affine"
    model: str | None = None
    device: str = "auto"
    values: Mapping[str, float] = field(default_factory=dict)
    regions: Path | None = None
    region_lambdas: Mapping[int, float] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Everything that is read: no output may replace it."""
        initial = _initial_file(self.initial)
        return self.fixed, self.moving, self.fixed_labels, self.moving_labels, initial, self.regions


@dataclass(frozen=True)
class Outputs:
    """Where results go; None means not wanted.

    volume: the moving image on the fixed grid. transform: fixed to moving space, as ITK resamples. inverse: moving to
    fixed. labels: the moving label map on the fixed grid. report: JSON.
    """

    volume: Path | None = None
    transform: Path | None = None
    inverse: Path | None = None
    labels: Path | None = None
    report: Path | None = None

    def by_name(self) -> dict[str, Path | None]:
        return {
            "volume": self.volume,
            "transform": self.transform,
            "inverse": self.inverse,
            "labels": self.labels,
            "report": self.report,
        }


@dataclass(frozen=True)
class RegistrationResult:
    """report: what the JSON report holds. written: the files that are there now."""

    report: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(self.report["warnings"])


class Stopwatch:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


@dataclass(frozen=True)
class LoadedPair:
    """A pair's images, checked, and label maps in memory. warnings: what had to be mended to use the images."""

    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None
    moving_labels: Volume | None
    regions: Volume | None
    initial: str | npt.NDArray[np.float64]
    warnings: list[str]


def load_pair(pair: Pair) -> LoadedPair:
    """Read the images and label maps of a pair. Raises FileError or InputError that name the file."""
    warnings: list[str] = []
    return LoadedPair(
        fixed=check_image(read_volume(pair.fixed), warnings),
        moving=check_image(read_volume(pair.moving), warnings),
        fixed_labels=read_label_map(pair.fixed_labels) if pair.fixed_labels else None,
        moving_labels=read_label_map(pair.moving_labels) if pair.moving_labels else None,
        regions=read_label_map(pair.regions) if pair.regions else None,
        initial=_initial(pair.initial),
        warnings=warnings,
    )


def open_session(
    pair: Pair, images: LoadedPair, progress: Progress | None = None, cancelled: Cancel | None = None
) -> LiveSession:
    """A session in which the pair is prepared: any lambda can be asked for."""
    session = LiveSession(pair.model or default_model(), device=pair.device)
    session.choose(pair.values)
    session.prepare(
        images.fixed,
        images.moving,
        initial=images.initial,
        fixed_labels=images.fixed_labels,
        moving_labels=images.moving_labels,
        progress=progress,
        cancelled=cancelled,
    )
    session.set_regions(images.regions, pair.region_lambdas)
    return session


def register(
    pair: Pair,
    lam: float | Literal["auto"] | None,
    outputs: Outputs,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> RegistrationResult:
    """Register a pair at one lambda and write the wanted outputs, all of them or none.

    lam: a number, "auto" to search for it, None for the model's default.
    progress: called with a fraction in [0, 1] and what is being done. cancelled: asked between stages.
    Raises InputError, FileError, WeightsError, OutOfMemory or Cancelled; nothing is written then.
    """
    card = find_model(pair.model or default_model())
    choice = _given_lambda(card, lam)
    _check_request(pair, outputs)
    ready = PREPARING_TO_SEARCH if choice is None else PREPARING
    tell = progress or (lambda _fraction, _text: None)

    def go_on(fraction: float, text: str) -> None:
        if cancelled is not None and cancelled():
            raise Cancelled("Cancelled; nothing was written.")
        tell(fraction, text)

    watch = Stopwatch()
    response = Response()
    with StagedOutputs(outputs.by_name(), pair.files) as staged:
        go_on(0.0, "Reading the images")
        with watch.stage("read"):
            images = load_pair(pair)
        with watch.stage("prepare"):
            session = open_session(pair, images, lambda f, text: tell(0.02 + f * (ready - 0.02), text), cancelled)
        if choice is None:
            with watch.stage("search"):
                choice = automatic_lambda(
                    session, lambda f, text: tell(ready + f * (PREPARING - ready), text), cancelled, response
                )
        lam = choice.lam
        go_on(PREPARING, "Computing the field")
        with watch.stage("field"):
            session.field(lam)
        go_on(0.8, "Measuring")
        with watch.stage("measure"):
            measured = session.metrics(lam)
        go_on(0.85, "Writing")
        with watch.stage("write"):
            _write(staged, images, session, lam)
        go_on(0.95, "Checking what was written")
        with watch.stage("check"):
            checks = _check_written(staged, images, session, lam)
        report = {
            "lambda": lam,
            "lambda_choice": {"by": choice.by, "reason": choice.reason, "response": response.rows},
            "values": dict(session.values),
            "regions": {
                "file": str(pair.regions) if pair.regions else None,
                "lambdas": {str(label): value for label, value in pair.region_lambdas.items()},
            },
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "fixed": _describe(pair.fixed, images.fixed),
            "moving": _describe(pair.moving, images.moving),
            "initial": pair.initial,
            "linear_ras": np.asarray(session.linear).tolist(),
            "model": describe_model(card),
            "device": session.device,
            "metrics": {name: value for name, value in measured.items() if not name.startswith("dice")},
            "dice": _dice(measured),
            "checks": checks,
            "timing_s": {
                **{name: round(seconds, 3) for name, seconds in watch.seconds.items()},
                "stages": {name: round(float(seconds), 3) for name, seconds in session.timing.items()},
            },
            "versions": versions(),
            "warnings": _all_warnings(images, session, measured),
            "outputs": {name: str(path) for name, path in staged.targets.items()},
        }
        if "report" in staged:
            text = json.dumps(_without_nan(report), indent=2, ensure_ascii=False, allow_nan=False)
            staged.path("report").write_text(text + "\n", encoding="utf-8")
        go_on(1.0, "Done")
    return RegistrationResult(report, list(staged.targets.values()))


def _given_lambda(card: ModelCard, lam: float | Literal["auto"] | None) -> Suggestion | None:
    """None if lambda has to be searched for."""
    if lam == "auto":
        return None
    if lam is None:
        return Suggestion(check_lambda(card.default_lambda), "The model's default.", "model")
    return Suggestion(check_lambda(lam), "Given by the user.", "user")


def _all_warnings(images: LoadedPair, session: LiveSession, measured: Mapping[str, Any]) -> list[str]:
    worse = warning(measured)
    return list(dict.fromkeys([*images.warnings, *session.warnings, *([worse] if worse else [])]))


def describe_model(card: ModelCard) -> dict[str, str]:
    """What a report says of a model."""
    return {"name": card.name, "version": card.version, "sha256": card.sha256, "licence": card.licence}


def versions() -> dict[str, str]:
    """Versions of what took part in a registration."""
    packages = ("torch", "SimpleITK", "numpy", "nibabel", "monai")
    return {
        "hyperreg": hyperreg.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }


def _check_request(pair: Pair, outputs: Outputs) -> None:
    """Raise InputError for what cannot be done, before anything is read."""
    if pair.region_lambdas and not pair.regions:
        raise InputError("A λ for a region was given, but no label map of the regions (--regions).")
    if pair.regions and not pair.region_lambdas:
        raise InputError("A label map of regions was given, but no λ for any of them (--region-lambda LABEL=λ).")
    check_region_lambdas(pair.region_lambdas)
    if outputs.labels and not pair.moving_labels:
        raise InputError("A warped label map was asked for, but no moving label map was given.")
    for path, known in (
        (outputs.volume, files.WRITABLE),
        (outputs.labels, files.WRITABLE),
        (outputs.transform, transform_files.WRITABLE),
        (outputs.inverse, transform_files.WRITABLE),
    ):
        if path is not None and extension(path) not in known:
            raise InputError(f"'{path.name}' has no ending that tells the format; use one of {', '.join(known)}.")


def _initial_file(initial: str) -> Path | None:
    return None if initial in INITIAL_METHODS else Path(initial)


def _initial(initial: str) -> str | npt.NDArray[np.float64]:
    """A method's name as it is, or the linear map read from a transform file."""
    path = _initial_file(initial)
    if path is None:
        return initial
    if not path.exists():
        raise FileError(f"'{initial}' is neither one of {', '.join(INITIAL_METHODS)} nor a transform file that exists.")
    transform = read_transform(path)
    if not transform.is_linear:
        raise InputError(f"'{path}' holds a deformation; the initial alignment must be linear (rigid or affine).")
    return transform.linear


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


def _write(staged: StagedOutputs, images: LoadedPair, session: LiveSession, lam: float) -> None:
    transform = session.transform(lam)
    if "volume" in staged:
        write_volume(resample(images.moving, images.fixed.grid, transform), staged.path("volume"))
    if "labels" in staged and images.moving_labels is not None:
        warped = resample(images.moving_labels, images.fixed.grid, transform, interpolation="nearest")
        write_volume(warped, staged.path("labels"))
    if "transform" in staged:
        write_transform(transform, staged.path("transform"), images.fixed.grid)
    if "inverse" in staged:
        write_transform(session.inverse_transform(lam), staged.path("inverse"), images.moving.grid)


def _check_written(staged: StagedOutputs, images: LoadedPair, session: LiveSession, lam: float) -> dict[str, Any]:
    """Read the outputs back. Raises FileError if the transform and the volume disagree."""
    checks: dict[str, Any] = {}
    if "transform" in staged and "volume" in staged:
        checks["volume_and_transform_difference"] = check_volume(
            staged.path("transform"), staged.path("volume"), images.fixed.grid, images.moving
        )
    if "inverse" in staged:
        inverse = read_transform(staged.path("inverse"))
        errors = inverse_errors(session.transform(lam), inverse, images.fixed.grid)
        checks["inverse_error_mm"] = {"mean": float(errors.mean()), "p99": float(np.quantile(errors, 0.99))}
    return checks


def _without_nan(value: Any) -> Any:
    """The same with None for what JSON has no number for: a figure that could not be measured."""
    if isinstance(value, dict):
        return {key: _without_nan(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _describe(path: Path, volume: Volume) -> dict[str, Any]:
    return {
        "file": str(path),
        "shape": list(volume.shape),
        "spacing_mm": [round(float(value), 4) for value in volume.spacing],
    }
