"""Many images segmented with one model: resumable, on one machine or many; one failure does not stop the rest."""

from __future__ import annotations

import socket
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.errors import InputError
from hyperreg.execution.executors import Executor, check_mark
from hyperreg.execution.many import Row, known_row, rows_of
from hyperreg.fusion.cache import content_hash
from hyperreg.fusion.library import LABELS, images_in
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.output import replacing
from hyperreg.imaging.streams import same_file
from hyperreg.reporting import Cancel, Progress, write_report
from hyperreg.segmentation.catalogue import find_model
from hyperreg.segmentation.run import Case, Outputs, segment


@dataclass(frozen=True)
class ImageTask:
    """An image that is segmented as `case` says, into `folder`. model: its SHA256. mark: see `executors.mark`."""

    image: Path
    case: Case
    model: str
    folder: Path
    mark: str

    @property
    def name(self) -> str:
        return self.image.name[: -len(extension(self.image))]


def segment_images(
    images: Path,
    case: Case,
    folder: Path,
    executor: Executor,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> list[Row]:
    """Segment every image of a folder; rows of volumes, one per image, which `many.TABLE` in `folder` holds, too.

    case: without images. For each image NAME, `folder` gets NAME_labels.nii.gz, NAME_report.json. What is there
    already, made of the same voxels with the same model, version and settings, is not done again.
    Raises InputError for a model that wants several images of a case, and as `many.rows_of`; FileError, Cancelled,
    WorkerError.
    """
    card = find_model(case.model)
    if len(card.inputs) != 1:
        raise InputError(
            f"The model '{case.model}' wants {len(card.inputs)} images of each case; a folder of images is for models "
            "that want one."
        )
    images, folder = images.absolute(), folder.absolute()
    found = images_in(images)
    if not found:
        raise InputError(f"'{images}' holds no image.")
    if same_file(folder, images):
        raise InputError(f"Results in '{folder}' could replace what is there; give --out a folder of its own.")

    def tasks(word: str) -> list[ImageTask]:
        return [ImageTask(path, replace(case, images=(str(path),)), card.sha256, folder, word) for path in found]

    return rows_of(segment_image, tasks, folder, executor, progress, cancelled)


def segment_image(task: ImageTask, progress: Progress, cancelled: Cancel | None = None) -> Row:
    """Do an image, unless that was done before; its row. Raises HyperRegError."""
    check_mark(task.folder, task.mark)
    if find_model(task.case.model).sha256 != task.model:
        raise InputError(f"The machine '{socket.gethostname()}' has another model under the name '{task.case.model}'.")
    labels, report = (task.folder / f"{task.name}{end}" for end in (f"{LABELS}.nii.gz", "_report.json"))
    wanted = {key: value for key, value in asdict(task.case).items() if key not in ("images", "device")}
    content = content_hash(read_volume(task.image))
    temperature = find_model(task.case.model).temperature
    how = {
        "version": hyperreg.__version__, "model": task.model, "temperature": temperature, "image": content,
        "case": wanted,
    }  # fmt: skip
    known = known_row(report, labels, how, lambda found: _row(task.name, found, "done before"))
    if known is not None:
        return known
    result = segment(task.case, Outputs(labels, report=report), progress, cancelled)
    result.report["settings"] = how
    with replacing(report) as target:
        write_report(result.report, target)
    return _row(task.name, result.report, "done")


def _row(name: str, report: dict[str, Any], state: str) -> Row:
    volumes = {f"{row['name']}, ml": row["volume_ml"] for row in report["structures"]}
    told = {"plausible": report["plausible"], "warnings": len(report["warnings"]), "error": ""}
    return {"target": name, "state": state, **told, **volumes}
