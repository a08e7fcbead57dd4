"""Many targets by the same atlases: resumable, one failure does not stop the rest, a table of quality figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.errors import InputError
from hyperreg.execution.executors import Executor, check_mark
from hyperreg.execution.many import known_row, rows_of
from hyperreg.fusion.atlases import AtlasSettings, Loader
from hyperreg.fusion.cache import content_hash, key_of
from hyperreg.fusion.library import LABELS, find_atlases, images_in
from hyperreg.fusion.records import AtlasOutcome
from hyperreg.fusion.run import Method, Outputs, fuse_target
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.output import replacing
from hyperreg.imaging.streams import same_file
from hyperreg.registration.catalogue import default_model, find_model
from hyperreg.reporting import Cancel, Progress, write_report


@dataclass(frozen=True)
class TargetTask:
    """An image that is segmented by the atlases of a folder, into `folder`. mark: see `executors.mark`."""

    image: Path
    atlases: Path
    settings: AtlasSettings
    method: Method
    folder: Path
    ending: str
    mark: str

    @property
    def name(self) -> str:
        return self.image.name[: -len(extension(self.image))]


def fuse_cohort(
    targets: Path,
    atlases: Path,
    settings: AtlasSettings,
    method: Method,
    folder: Path,
    executor: Executor,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    ending: str = ".nii.gz",
) -> list[dict[str, Any]]:
    """Segment every image of a folder; rows of figures, one per target, which `many.TABLE` in `folder` holds, too.

    For each target NAME, `folder` gets NAME_labels, NAME_report.json. Targets whose report is there already, made of
    the same voxels by the same atlases, model, version and settings, are not done again. One that fails is a row with
    its error. Every process reads the atlases once.
    Raises InputError for folders that cannot be used or in which another run works; FileError, Cancelled, WorkerError.
    """
    method.check(with_images=True)
    targets, atlases, folder = (Path(path).absolute() for path in (targets, atlases, folder))
    # What an earlier run of this process has read may have changed since.
    _atlases_in.cache_clear()
    loader, _ = _atlases_in(atlases)
    images = _targets_in(targets, loader, own=atlases.resolve() == targets.resolve())
    for given in (targets, atlases):
        if same_file(folder, given):
            raise InputError(f"Results in '{folder}' could replace what is there; give --out a folder of its own.")

    def tasks(word: str) -> list[TargetTask]:
        return [TargetTask(path, atlases, settings, method, folder, ending, word) for path in images]

    return rows_of(segment_target, tasks, folder, executor, progress, cancelled)


def segment_target(task: TargetTask, progress: Progress, cancelled: Cancel | None = None) -> dict[str, Any]:
    """Do a target, unless that was done before; its row. Raises HyperRegError."""
    check_mark(task.folder, task.mark)
    loader, atlases = _atlases_in(task.atlases)
    labels, report = (task.folder / f"{task.name}{end}" for end in (f"{LABELS}{task.ending}", "_report.json"))
    how = _how(task.settings, task.method, atlases, content_hash(read_volume(task.image)))
    known = known_row(report, labels, how, lambda found: _cohort_row(task.name, found, "done before"))
    if known is not None:
        return known
    out = Outputs(labels, report=report)
    result = fuse_target(task.image, loader, task.settings, task.method, out, progress, cancelled)
    result.report["settings"] = how
    with replacing(report) as target:
        write_report(result.report, target)
    return _cohort_row(task.name, result.report, "done")


@lru_cache(maxsize=1)
def _atlases_in(folder: Path) -> tuple[Loader, str]:
    """The atlases of a folder, and what they are."""
    loader = Loader(find_atlases(folder))
    return loader, _hash_of(loader)


def _targets_in(folder: Path, loader: Loader, *, own: bool) -> list[Path]:
    """The images of a folder; of one that holds the atlases, too, those that are atlases."""
    images = images_in(folder)
    if own:
        images = [path for path in images if path in {atlas.image for atlas in loader.library.atlases}]
    if not images:
        raise InputError(f"'{folder}' holds no image.")
    return images


def _hash_of(loader: Loader) -> str:
    """What the atlases are: voxels, places, labels, meanings and λ."""
    atlases = loader.atlases()
    parts = {name: [content_hash(one.image), content_hash(one.labels)] for name, one in atlases.items()}
    own = {files.name: files.lam for files in loader.library.atlases}
    table = [[label, meaning.name, meaning.colour] for label, meaning in sorted(loader.table.items())]
    return key_of(atlases=parts, lambdas=own, table=table)


def _how(settings: AtlasSettings, method: Method, atlases: str, target: str) -> dict[str, Any]:
    """What a result depends on, for knowing a finished one again. atlases, target: hashes of what they hold."""
    card = find_model(settings.model or default_model())
    wanted = {key: value for key, value in asdict(settings).items() if key not in ("jobs", "cache", "device")}
    return {
        "version": hyperreg.__version__,
        "model": card.sha256,
        "target": target,
        "atlases": atlases,
        "registration": wanted,
        "method": asdict(method),
    }


def _cohort_row(name: str, report: dict[str, Any], state: str) -> dict[str, Any]:
    used = [AtlasOutcome(**row) for row in report["atlases"]]
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
