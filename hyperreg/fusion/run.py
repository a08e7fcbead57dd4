"""Fusion from files to files: what `hyperreg fuse` does, without the printing."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hyperreg.errors import Cancelled, HyperRegError, InputError
from hyperreg.fusion.atlases import AtlasRow, AtlasSettings, Carried, Loader, carry
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.library import IMAGES, LABELS, find_atlases
from hyperreg.fusion.methods import METHODS, Evidence, fuse
from hyperreg.fusion.stack import stack_labels
from hyperreg.fusion.tables import Table, merged, read_labels_with_table, renumbered, structures_of
from hyperreg.imaging.files import WRITABLE, extension, read_volume, write_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.output import StagedOutputs, replacing
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Cancel, Progress, Stopwatch, describe_image, versions, write_report
from hyperreg.segmentation.segments import check_name, write_segmentation

FIGURES = (
    "sensitivity, specificity, dice: of each label map, means over the labels of the consensus; STAPLE's own "
    "estimates, else counted against the consensus; specificity within the box around all labels. None is accuracy "
    "against a truth. similarity: mean local correlation of the registered image with the target."
)
COHORT_TABLE = "quality.csv"
# The share of a run with atlases after which labels are fused; only the progress bar depends on it.
REGISTERED = 0.85


@dataclass(frozen=True)
class Method:
    """name: one of METHODS. weights: of the label maps, for "vote". temperature: for "dp"; radius: for "local"."""

    name: str = "vote"
    weights: tuple[float, ...] | None = None
    temperature: float | None = None
    radius: int | None = None

    def check(self, *, with_images: bool) -> None:
        """Raise InputError for what cannot be done, before anything is read."""
        if self.name not in METHODS:
            raise InputError(f"Unknown method of fusion '{self.name}'. Use one of {', '.join(METHODS)}.")
        if self.weights is not None and self.name != "vote":
            raise InputError("Weights are for voting (--method vote); the other methods find their own.")
        if self.name in ("local", "dp") and not with_images:
            raise InputError(f"The method '{self.name}' looks at the images: give --target and --atlases.")


@dataclass(frozen=True)
class Outputs:
    """Where results go; None means not wanted. disagreement: share of label maps that differ, 0 to 1. report: JSON."""

    segmentation: Path | None = None
    disagreement: Path | None = None
    report: Path | None = None

    def check(self) -> None:
        if self.segmentation is not None:
            check_name(self.segmentation)
        if self.disagreement is not None and extension(self.disagreement) not in WRITABLE:
            raise InputError(f"'{self.disagreement.name}' has no ending that tells the format; use .nii.gz or .nrrd.")


@dataclass(frozen=True)
class FusionResult:
    """report: what the JSON report holds. written: the files that are there now."""

    report: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(self.report["warnings"])


def fuse_maps(
    maps: Sequence[Path],
    method: Method,
    outputs: Outputs,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> FusionResult:
    """Fuse label maps of one image that are aligned already; the result is on the grid of the first one.

    Raises InputError, FileError or Cancelled; nothing is written then.
    """
    method.check(with_images=False)
    outputs.check()
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    with _staged(outputs, maps) as staged:
        tell(0.0, "Reading the label maps")
        volumes: list[Volume] = []
        table: Table = {}
        changes: list[str] = []
        with watch.stage("read"):
            for path in maps:
                volume, own = read_labels_with_table(Path(path))
                if own and table:
                    volume, texts = renumbered(volume, own, table)
                    changes += texts
                table = merged((table, own))
                volumes.append(volume)
        _go_on(cancelled)
        tell(0.4, "Fusing")
        with watch.stage("fuse"):
            stack = stack_labels(volumes)
            consensus = fuse(stack, method.name, Evidence(weights=method.weights), None, cancelled)
        report = _report(consensus, table, [*changes, *consensus.warnings], watch, staged)
        report["inputs"] = [describe_image(Path(path), volume) for path, volume in zip(maps, volumes, strict=True)]
        _write(consensus, table, report, staged)
        tell(1.0, "Done")
    return FusionResult(report, list(staged.targets.values()))


def fuse_target(
    target: Path,
    loader: Loader,
    settings: AtlasSettings,
    method: Method,
    outputs: Outputs,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> FusionResult:
    """Segment one image by atlases. Raises InputError, FileError, WeightsError, Cancelled; nothing is written then."""
    method.check(with_images=True)
    outputs.check()
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    files = [path for atlas in loader.library.atlases for path in (atlas.image, atlas.labels)]
    with _staged(outputs, [target, *files]) as staged:
        tell(0.0, "Reading the images")
        with watch.stage("read"):
            warnings: list[str] = []
            image = check_image(read_volume(target), warnings)
            count = len(loader.atlases())
        states = _States(count, lambda fraction, text: tell(0.02 + (REGISTERED - 0.02) * fraction, text))
        with watch.stage("register"):
            with_images = method.name == "local"
            carried = carry(image, loader, settings, with_images=with_images, watch=states, cancelled=cancelled)
        _go_on(cancelled)
        tell(REGISTERED, "Fusing")
        with watch.stage("fuse"):
            consensus = fuse_carried(
                image,
                carried,
                method,
                lambda fraction, text: tell(REGISTERED + (0.95 - REGISTERED) * fraction, text),
                cancelled,
            )
        texts = list(dict.fromkeys([*warnings, *carried.warnings, *consensus.warnings]))
        report = _report(consensus, carried.table, texts, watch, staged)
        report["target"] = describe_image(target, image)
        report["atlases"] = [asdict(row) for row in carried.rows]
        tell(0.95, "Writing")
        _write(consensus, carried.table, report, staged)
        tell(1.0, "Done")
    return FusionResult(report, list(staged.targets.values()))


def fuse_carried(
    image: Volume,
    carried: Carried,
    method: Method,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> Consensus:
    """The consensus of atlases that lie on the target; trains data parameters where the method asks for them."""
    evidence = Evidence(image, carried.images, temperature=method.temperature)
    if method.radius is not None:
        evidence = replace(evidence, radius=method.radius)
    if method.name == "dp" and len(carried.stack.names) > 1 and len(carried.stack.labels) > 1:
        from hyperreg.fusion.data_parameters import train
        from hyperreg.fusion.samples import LabelledTarget

        learned = train([LabelledTarget("target", image, carried.stack)], progress=progress, cancelled=cancelled)
        evidence = replace(evidence, data_parameters=learned.of("target"))
    elif method.name == "dp":  # nothing to tell apart
        return fuse(carried.stack, "vote")
    return fuse(carried.stack, method.name, evidence, progress, cancelled)


def fuse_cohort(
    targets: Path,
    atlases: Path,
    settings: AtlasSettings,
    method: Method,
    folder: Path,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    ending: str = ".nii.gz",
) -> list[dict[str, Any]]:
    """Segment every image of a folder; rows of figures, one per target, which COHORT_TABLE in `folder` holds, too.

    For each target NAME, `folder` gets NAME_labels, NAME_report.json. Targets whose report is there already, made with
    the same settings, are not done again. One that fails is a row with its error. Atlases are read once.
    Raises InputError or FileError for folders that cannot be used, Cancelled.
    """
    method.check(with_images=True)
    loader = Loader(find_atlases(atlases))
    images = _targets_in(targets, loader, own=Path(atlases).resolve() == Path(targets).resolve())
    if not Path(folder).is_dir():
        Path(folder).mkdir(parents=True)
    tell = progress or (lambda _fraction, _text: None)
    rows: list[dict[str, Any]] = []
    how = _how(settings, method, loader)
    for number, path in enumerate(images):
        name = path.name[: -len(extension(path))]
        out = Outputs(folder / f"{name}{LABELS}{ending}", report=folder / f"{name}_report.json")
        part = _part(tell, number, len(images), name)
        known = _known(out, how)
        if known is not None:
            rows.append(_cohort_row(name, known, "done before"))
        else:
            try:
                result = fuse_target(path, loader, settings, replace(method), out, part, cancelled)
                result.report["settings"] = how
                with replacing(out.report or folder) as target:
                    write_report(result.report, target)
                rows.append(_cohort_row(name, result.report, "done"))
            except Cancelled:
                raise
            except HyperRegError as error:
                rows.append({"target": name, "state": "failed", "error": str(error)})
        _write_rows(rows, folder / COHORT_TABLE)
    return rows


class _States:
    """Progress of all registrations as one fraction and a line."""

    def __init__(self, count: int, tell: Progress) -> None:
        self.count, self.tell = max(count, 1), tell
        self.fractions: dict[str, float] = {}

    def __call__(self, name: str, state: str, fraction: float) -> None:
        self.fractions[name] = fraction
        done = sum(1 for value in self.fractions.values() if value >= 1)
        self.tell(
            min(1.0, sum(self.fractions.values()) / self.count),
            f"{name}: {state} ({done} of {self.count} atlases done)",
        )


def _staged(outputs: Outputs, inputs: Sequence[Path]) -> StagedOutputs:
    targets = {
        "segmentation": outputs.segmentation,
        "disagreement": outputs.disagreement,
        "report": outputs.report,
    }
    return StagedOutputs(targets, [Path(path) for path in inputs])


def _write(consensus: Consensus, table: Table, report: dict[str, Any], staged: StagedOutputs) -> None:
    if "segmentation" in staged:
        labels = consensus.stack.labels[1:].tolist()
        write_segmentation(consensus.labels, structures_of(labels, table), staged.path("segmentation"))
    if "disagreement" in staged:
        write_volume(consensus.disagreement, staged.path("disagreement"))
    if "report" in staged:
        write_report(report, staged.path("report"))


def _report(
    consensus: Consensus, table: Table, warnings: Sequence[str], watch: Stopwatch, staged: StagedOutputs
) -> dict[str, Any]:
    names = {structure.label: structure.name for structure in structures_of(consensus.stack.labels.tolist(), table)}
    disputed = consensus.stack.disputed.size
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "method": consensus.method,
        "label_maps": [asdict(rater) for rater in consensus.raters()],
        "structures": [{"name": names[row.label], **asdict(row)} for row in consensus.structures()],
        "disputed_voxels_percent": 100 * disputed / consensus.codes.size,
        "figures": FIGURES,
        "timing_s": {name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        "versions": versions(),
        "warnings": list(dict.fromkeys(warnings)),
        "outputs": {name: str(path) for name, path in staged.targets.items()},
    }


def _targets_in(folder: Path, loader: Loader, *, own: bool) -> list[Path]:
    """The images of a folder: not its label maps, and not what lies in a folder below."""
    if not Path(folder).is_dir():
        raise InputError(f"The folder of targets '{folder}' does not exist.")
    files = sorted(path for path in Path(folder).iterdir() if path.is_file() and extension(path) in IMAGES)
    images = [path for path in files if not path.name[: -len(extension(path))].endswith(LABELS)]
    images = [path for path in images if not path.name.lower().endswith(".seg.nrrd")]
    if own:
        images = [path for path in images if path in {atlas.image for atlas in loader.library.atlases}]
    if not images:
        raise InputError(f"'{folder}' holds no image.")
    return images


def _part(tell: Progress, number: int, count: int, name: str) -> Progress:
    return lambda fraction, text: tell((number + fraction) / count, f"{name}: {text}")


def _how(settings: AtlasSettings, method: Method, loader: Loader) -> dict[str, Any]:
    """What a result depends on beside the target, for knowing a finished one again."""
    wanted = {key: value for key, value in asdict(settings).items() if key not in ("jobs", "cache", "device")}
    return {
        "atlases": [atlas.name for atlas in loader.library.atlases],
        "registration": wanted,
        "method": asdict(method),
    }


def _known(outputs: Outputs, how: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a result that is there and was made in the same way."""
    import json

    if outputs.report is None or outputs.segmentation is None or not outputs.segmentation.is_file():
        return None
    try:
        report = json.loads(outputs.report.read_text(encoding="utf-8"))
        same = report["settings"] == json.loads(json.dumps(how))
        _cohort_row("", report, "")
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(report) if same else None


def _cohort_row(name: str, report: dict[str, Any], state: str) -> dict[str, Any]:
    used = [AtlasRow(**row) for row in report["atlases"]]
    similarities = [row.similarity for row in used if row.state == "used" and row.similarity is not None]
    return {
        "target": name,
        "state": state,
        "atlases_used": len(similarities),
        "atlases_left_out": " ".join(row.name for row in used if row.state == "left out"),
        "similarity_mean": sum(similarities) / max(len(similarities), 1),
        "similarity_least": min(similarities, default=None),
        "dice_with_consensus_mean": _mean([row["dice"] for row in report["label_maps"]]),
        "disputed_voxels_percent": report["disputed_voxels_percent"],
        "structures": sum(1 for row in report["structures"] if row["volume_ml"] > 0),
        "volume_ml": sum(row["volume_ml"] for row in report["structures"]),
        "warnings": len(report["warnings"]),
        "error": "",
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def _go_on(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("Cancelled; nothing was written.")
