"""One segmentation from files to files: what `hyperreg segment` does, without the printing."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging import files
from hyperreg.imaging.dicom.results import DicomRequest
from hyperreg.imaging.files import extension, read_volume, write_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.output import StagedOutputs
from hyperreg.imaging.segment_files import SEGMENTATION, check_name, write_segmentation
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.transform import Matrix, Transform
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Cancel, Progress, Stopwatch, describe_image, versions, write_report
from hyperreg.segmentation import look
from hyperreg.segmentation.catalogue import Input, SegmentationCard, find_model
from hyperreg.segmentation.dicom_output import dicom_results
from hyperreg.segmentation.inputs import assign
from hyperreg.segmentation.mask import whole_mask
from hyperreg.segmentation.session import IMAGE_BYTES, Segmentation, Segmenter
from hyperreg.segmentation.structures import DOUBTFUL, SURE

# First image, other image, progress, cancelled -> first RAS points to the other's, mm: (4, 4). Given by who may know
# of registration, which this part of the engine does not.
Aligner = Callable[[Volume, Volume, Progress | None, Cancel | None], Matrix]

# The share of the run after which the images are read; only the progress bar depends on it.
READ = 0.05
FIGURES = (
    f"volume_ml: voxels of the label map. volume_sure_ml, volume_doubtful_ml: voxels with a probability of at least "
    f"{SURE:g} and of at least {DOUBTFUL:g}: how far the volume depends on where the border is drawn. Probabilities "
    "are the network's own, not calibrated."
)


@dataclass(frozen=True)
class Case:
    """What is segmented, and how.

    images: files, or NAME=FILE where the file's name does not tell which input it is. model: a name from the catalogue.
    device: "auto", "cpu" or "cuda". flips, ensemble: average over flipped images, over all weights of the model.
    hyperparameters: values by name, for models that declare any. islands: keep those that the model's card removes.
    """

    images: tuple[str, ...]
    model: str
    device: str = "auto"
    flips: bool = False
    ensemble: bool = False
    hyperparameters: Mapping[str, float] = field(default_factory=dict)
    islands: bool = False


@dataclass(frozen=True)
class Outputs:
    """Where results go; None means not wanted.

    segmentation: on the grid of the first image. uncertainty: entropy, 0 to 1. probabilities: a file per structure
    beside the segmentation, named after it. report: JSON. mask: of all structures together, see `mask.whole_mask`.
    dicom: see `dicom_output`.
    """

    segmentation: Path | None = None
    uncertainty: Path | None = None
    probabilities: bool = False
    report: Path | None = None
    mask: Path | None = None
    dicom: DicomRequest | None = None


@dataclass(frozen=True)
class SegmentationResult:
    """report: what the JSON report holds. written: the files that are there now."""

    report: dict[str, Any]
    written: list[Path] = field(default_factory=list)

    @property
    def warnings(self) -> list[str]:
        return list(self.report["warnings"])


def segment(
    case: Case,
    outputs: Outputs,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    align: Aligner | None = None,
) -> SegmentationResult:
    """Segment one case and write the wanted outputs, all of them or none.

    progress: called with a fraction in [0, 1] and what is being done. cancelled: asked between steps.
    align: brings the other images to the first one; by default they are taken to lie as their headers say.
    Raises InputError, FileError, WeightsError, OutOfMemory or Cancelled; nothing is written then.
    """
    card = find_model(case.model)
    read: dict[Path, Volume] = {}
    seen: list[str] = []
    images = assign(case.images, card, lambda paths, inputs: _seen(paths, inputs, read, seen))
    first = _first(case, images)
    targets = _targets(outputs, card)
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    with StagedOutputs(targets, images.values()) as staged, dicom_results(outputs.dicom, images[first]) as objects:
        tell(0.0, "Reading the images")
        with watch.stage("read"):
            volumes = {name: read.get(path) or read_volume(path, IMAGE_BYTES) for name, path in images.items()}
            read.clear()

        def write_probability(structure: Structure, values: Volume) -> None:
            write_volume(values, staged.path(f"probability {structure.label}"))

        with watch.stage("load"):
            segmenter = Segmenter(card, case.device, case.hyperparameters, case.ensemble)
        with watch.stage("align"):
            others = [name for name in volumes if name != first] if align is not None else []
            matrices = {name: _aligned(align, volumes, first, name, tell, cancelled) for name in others}
        result = segmenter.segment(
            volumes,
            first=first,
            transforms={name: Transform((matrix,)) for name, matrix in matrices.items()},
            flips=case.flips,
            islands=case.islands,
            sink=write_probability if outputs.probabilities else None,
            progress=lambda fraction, text: tell(READ + (0.95 - READ) * fraction, text),
            cancelled=cancelled,
        )
        tell(0.95, "Writing")
        with watch.stage("write"):
            if "segmentation" in staged:
                write_segmentation(result.labels, card.structures, staged.path("segmentation"))
            if "uncertainty" in staged:
                write_volume(result.uncertainty, staged.path("uncertainty"))
            if "mask" in staged:
                write_volume(whole_mask(result.labels), staged.path("mask"))
        report = _report(case, images, volumes, result, {**watch.seconds, **result.seconds}, staged)
        report["warnings"] += seen
        report["alignment_ras"] = {name: matrix.tolist() for name, matrix in matrices.items()}
        if objects is not None and outputs.dicom is not None:
            objects.write(volumes[first], result, report)
            report["outputs"]["dicom"] = str(outputs.dicom.folder)
        if "report" in staged:
            write_report(report, staged.path("report"))
        tell(1.0, "Done")
    return SegmentationResult(report, [Path(path) for path in report["outputs"].values()])


def _seen(
    paths: Sequence[Path], inputs: Sequence[Input], read: dict[Path, Volume], notes: list[str]
) -> dict[str, Path] | None:
    """Which file is which input by a look at the images, which are kept in `read`; what was guessed goes to `notes`."""
    for path in paths:
        read[path] = read_volume(path, IMAGE_BYTES)
    found = look.recognise([read[path] for path in paths], inputs)
    if found is None:
        return None
    if found.guess:
        notes.append(f"{found.guess} This is a guess: check it, or write NAME=FILE.")
    return {name: paths[index] for name, index in found.images.items()}


def _islands(case: Case, result: Segmentation) -> dict[str, Any]:
    """What was done about them, and how much became background."""
    rule = result.card.postprocessing
    if rule is None or case.islands:
        return {"removed": False}
    return {"removed": True, "rule": asdict(rule), "removed_ml": round(result.removed_ml, 4)}


def _aligned(
    align: Aligner | None,
    volumes: Mapping[str, Volume],
    first: str,
    name: str,
    tell: Progress,
    cancelled: Cancel | None,
) -> Matrix:
    if align is None:
        return np.eye(4)
    return align(
        check_image(volumes[first]), check_image(volumes[name]), lambda _fraction, text: tell(READ, text), cancelled
    )


def _first(case: Case, images: Mapping[str, Path]) -> str:
    """The input that was given first: the result is on its grid."""
    given = case.images[0]
    return next(name for name, path in images.items() if path in (Path(given), Path(given.partition("=")[2])))


def _targets(outputs: Outputs, card: SegmentationCard) -> dict[str, Path | None]:
    targets: dict[str, Path | None] = {
        "segmentation": outputs.segmentation,
        "uncertainty": outputs.uncertainty,
        "report": outputs.report,
        "mask": outputs.mask,
    }
    if outputs.segmentation is not None:
        check_name(outputs.segmentation)
    for path in (outputs.uncertainty, outputs.mask):
        if path is not None and extension(path) not in files.WRITABLE:
            known = ", ".join(files.WRITABLE)
            raise InputError(f"'{path.name}' has no ending that tells the format; use one of {known}.")
    if outputs.probabilities:
        if outputs.segmentation is None:
            raise InputError("Probabilities are written beside the segmentation: name it too (--out).")
        targets |= {
            f"probability {structure.label}": probability_file(outputs.segmentation, structure)
            for structure in card.structures
        }
    return targets


def probability_file(segmentation: Path, structure: Structure) -> Path:
    """Where the probabilities of a structure go: beside the segmentation, with its label and name."""
    name = segmentation.name
    ending = SEGMENTATION if name.lower().endswith(SEGMENTATION) else extension(segmentation)
    kind = ".nrrd" if ending == SEGMENTATION else name[len(name) - len(ending) :]
    words = re.sub(r"[^a-z0-9]+", "-", structure.name.lower()).strip("-")
    return segmentation.with_name(f"{name[: len(name) - len(ending)]}-probability-{structure.label}-{words}{kind}")


def _report(
    case: Case,
    images: Mapping[str, Path],
    volumes: Mapping[str, Volume],
    result: Segmentation,
    seconds: Mapping[str, float],
    staged: StagedOutputs,
) -> dict[str, Any]:
    model_grid = result.frame.model
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": result.card.describe(),
        "inputs": {name: describe_image(path, volumes[name]) for name, path in images.items()},
        "seen_by_the_model": {
            "shape": list(model_grid.shape),
            "spacing_mm": [round(float(size), 4) for size in model_grid.spacing],
            "resampled": result.frame.is_resampled,
        },
        "flips": case.flips,
        "ensemble": len(result.card.weight_files) if case.ensemble else 1,
        "hyperparameters": {h.name: h.default for h in result.card.hyperparameters} | dict(case.hyperparameters),
        "islands": _islands(case, result),
        "device": result.device,
        "steps": result.steps,
        "plausible": not result.verdict.wrong,
        "out_of_the_ordinary": list(result.verdict.odd),
        "structures": [volume.as_dict() for volume in result.volumes],
        "figures": FIGURES,
        "timing_s": {name: round(value, 3) for name, value in seconds.items()},
        "versions": versions(),
        "warnings": list(dict.fromkeys(result.warnings)),
        "outputs": {name: str(path) for name, path in staged.targets.items()},
    }
