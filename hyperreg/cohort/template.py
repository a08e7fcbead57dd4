"""A template of a population: the mean of its subjects in shape and in grey values, none of them preferred.

Every round registers the template to all subjects, averages what they show there, and moves that by the inverse of the
mean displacement, so that the mean of the maps to the subjects is no movement. Source: Avants et al., NeuroImage 2010
(the round), Guimond et al., CVIU 2000 (the inverse of the mean). The subjects' order means nothing: they are put into
that of their content first.
"""

from __future__ import annotations

import csv
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

from hyperreg.cohort.mean import centred, common_grid, inverse, mean_field, on_one_grid
from hyperreg.cohort.subject import SubjectTask, register_subject, results_of
from hyperreg.errors import HyperRegError, InputError
from hyperreg.execution.executors import Executor, Whole, mark
from hyperreg.fusion.atlases import outliers
from hyperreg.fusion.cache import content_hash
from hyperreg.fusion.registering import Registered
from hyperreg.imaging import itk
from hyperreg.imaging.files import WRITABLE, extension, read_volume, write_volume
from hyperreg.imaging.intensity import check_image, foreground, normalise
from hyperreg.imaging.label_maps import stem_of
from hyperreg.imaging.output import StagedOutputs, alone_in, make_folder, replacing
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Matrix, Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.catalogue import default_model, find_model
from hyperreg.registration.volume_change import volume_change
from hyperreg.reporting import Cancel, Progress, Stopwatch, versions, write_report

ALIGNMENTS = ("affine", "rigid", "none")
SUBJECTS, REPORT = "subjects.csv", "template.json"
FILES = TRANSFORM, INVERSE, LOG_JACOBIAN = "transform.h5", "inverse.h5", "log_jacobian.nii.gz"
# Around what the subjects show, mm: the solver's steps fade towards the border of the grid.
MARGIN = 10.0
# Every subject's mean grey value in its foreground, after its values were brought to 0..1.
MEAN_VALUE = 0.5
# How much of the average is replaced by its sharpened version, as ANTs does it: averages of maps that are a little off
# are blurred, and edges are what the next round is registered by.
SHARPENED = 0.25
# A subject whose foreground, after the alignment, overlaps what most subjects show less than this (Dice) shows
# something else.
LEAST_OVERLAP = 0.5
# On voxels of this size, mm: all subjects are in memory together.
OVERLAP_SPACING = 4.0
# A subject is aligned with one of them, and with their mean.
ALIGNMENT_STAGES = 2
# Volumes as a multiple of the template's are not taken for smaller than this: where space is folded there is no
# logarithm.
SMALLEST_VOLUME = 0.01


@dataclass(frozen=True)
class TemplateSettings:
    """iterations: rounds with deformations. lam: of the registrations; None for the model's default.

    fast: the last round is of the quick stage, too, as all before it are. initial: one of ALIGNMENTS; "none" if the
    subjects lie on each other already. spacing: of the template's voxels, mm; None for the subjects' median.
    """

    iterations: int = 4
    lam: float | None = None
    fast: bool = False
    initial: str = "affine"
    spacing: float | None = None
    model: str | None = None
    device: str = "auto"


@dataclass
class Subject:
    """One subject. content: hash of its voxels and place. box: corners of what it shows, (8, 3) RAS mm.

    linear: template RAS to subject RAS, (4, 4). deformation: what comes before it, of the template that was registered
    last. figures: of that registration.
    """

    name: str
    path: Path
    content: str
    box: npt.NDArray[np.float64]
    spacing: float
    linear: Matrix = field(default_factory=lambda: np.eye(4))
    deformation: DisplacementField | None = None
    figures: dict[str, float] = field(default_factory=dict)


def make_template(
    images: Sequence[Path],
    out: Path,
    settings: TemplateSettings,
    executor: Executor,
    fields: Path | None = None,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
) -> dict[str, Any]:
    """Make a template of the images, write it, and return what the report says.

    fields: a folder for what leads from the template to each subject: NAME/transform.h5 (for pulling the subject onto
    the template), NAME/inverse.h5, NAME/log_jacobian.nii.gz, with the tables SUBJECTS and REPORT.
    What is half done lies in the folder OUT_work beside it until the template is there: the same call goes on with it.
    Raises InputError for fewer than two subjects, doubled ones, and subjects that show too little in common; FileError;
    OutOfMemory; WorkerError; Cancelled.
    """
    _check(images, out, settings)
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    work = out.absolute().parent / f"{stem_of(out)}_work"
    if fields is not None:
        make_folder(fields)
    with StagedOutputs({"template": out}, images) as staged, alone_in(work):
        maker = _Maker(settings, executor, work, tell, cancelled)
        try:
            with watch.stage("read"):
                maker.read(images)
            with watch.stage("align"):
                maker.align()
            with watch.stage("deform"):
                for number in range(1, settings.iterations + 1):
                    maker.round(number)
        except InputError:  # going on would end the same way
            shutil.rmtree(work, ignore_errors=True)
            raise
        with watch.stage("write"):
            write_volume(maker.template, staged.path("template"))
            if fields is not None:
                _write_fields(maker, fields)
        report = maker.report(out, watch)
        if fields is not None:
            with replacing(fields / REPORT) as target:
                write_report(report, target)
        shutil.rmtree(work, ignore_errors=True)
    tell(1.0, "Done")
    return report


class _Maker:
    """A template in the making: its subjects, and the template of the last round."""

    def __init__(
        self, settings: TemplateSettings, executor: Executor, work: Path, tell: Progress, cancelled: Cancel | None
    ) -> None:
        self.settings, self.executor, self.work, self.tell, self.cancelled = settings, executor, work, tell, cancelled
        self.card = find_model(settings.model or default_model())
        self.lam = check_lambda(self.card.default_lambda if settings.lam is None else settings.lam)
        self.subjects: list[Subject] = []
        self.mark = mark(work)
        self.grid: Grid
        self.template: Volume
        # The template's file in the working folder, and its content.
        self.last: tuple[Path, str]
        # From the template to the one that was registered last: the way back to the mean shape.
        self.shape: DisplacementField | None = None
        # How much each round changed of the template, % of its grey values.
        self.changes: list[float] = []
        self._stage = 0

    def read(self, images: Sequence[Path]) -> None:
        """Look at every subject once, and put them into the order of their content."""
        for number, path in enumerate(images):
            self.tell(0.05 * number / len(images), f"Reading {path.name}")
            volume = check_image(read_volume(path))
            inside = np.argwhere(foreground(volume))
            ends = np.stack((inside.min(axis=0), inside.max(axis=0)))
            corners = np.stack(np.meshgrid(*ends.T, indexing="ij"), axis=-1).reshape(-1, 3)
            spacing = float(np.prod(volume.spacing) ** (1 / 3))
            content = content_hash(volume)
            self.subjects.append(Subject(stem_of(path), path.absolute(), content, volume.grid.to_ras(corners), spacing))
        self.subjects.sort(key=lambda one: one.content)
        for first, second in zip(self.subjects, self.subjects[1:], strict=False):
            if first.content == second.content:
                raise InputError(f"'{first.path}' and '{second.path}' are the same image. Give each subject once.")

    def align(self) -> None:
        """The place of the template: the mean of the subjects', found by way of one of them and then of the mean."""
        if self.settings.initial != "none":
            reference = self.subjects[0]
            found = self._done(reference.path, reference.content, self.subjects[1:])
            self._place([np.eye(4), *(found[one.name].linear for one in self.subjects[1:])])
            path, content = self._average("aligned-0")
            found = self._done(path, content, self.subjects)
            self._place([found[one.name].linear for one in self.subjects])
        else:
            self._place([np.eye(4)] * len(self.subjects))
        self._stage = ALIGNMENT_STAGES
        self._check_overlap()
        self.last = self._average("aligned")

    def _place(self, maps: Sequence[Matrix]) -> None:
        for subject, linear in zip(self.subjects, centred(maps), strict=True):
            subject.linear = linear
        self.grid = self._grid(self.settings.spacing or float(np.median([one.spacing for one in self.subjects])))

    def _grid(self, spacing: float) -> Grid:
        boxes, maps = [one.box for one in self.subjects], [one.linear for one in self.subjects]
        return common_grid(boxes, maps, spacing, MARGIN)

    def _check_overlap(self) -> None:
        masks, place = [], self._grid(OVERLAP_SPACING)
        for subject in self.subjects:
            volume = read_volume(subject.path)
            inside = Volume(foreground(volume).astype(np.uint8), volume.ijk_to_ras, subject.name)
            masks.append(resample(inside, place, Transform((subject.linear,)), "nearest").array > 0)
        common = np.mean(masks, axis=0) > 0.5
        shares = [2 * np.count_nonzero(one & common) / max(1, one.sum() + common.sum()) for one in masks]
        worst = int(np.argmin(shares))
        if shares[worst] < LEAST_OVERLAP:
            raise InputError(
                f"'{self.subjects[worst].path.name}' shows too little of what the other images show: after the "
                f"alignment ({self.settings.initial}) they overlap by {100 * shares[worst]:.0f} % (Dice). Leave it "
                "out, or bring the images onto each other first."
            )

    def round(self, number: int) -> None:
        """Register the template to all subjects, average them there, and give the average their mean shape."""
        fast = self.settings.fast or number < self.settings.iterations
        found = self._done(*self.last, self.subjects, deform=True, fast=fast)
        fields = on_one_grid([_field_of(found[one.name]) for one in self.subjects])
        for subject, deformation in zip(self.subjects, fields, strict=True):
            subject.deformation, subject.figures = deformation, found[subject.name].figures
        # Also what all maps are wrong by alike goes with it: it displaced the average, and is undone.
        self.shape = inverse(mean_field(fields))
        before = self.template.array
        self.last = self._average(f"round-{number}")
        inside = foreground(self.template)
        change = np.abs(self.template.array - before)[inside].mean() / self.template.array[inside].mean()
        self.changes.append(100 * float(change))

    def _done(
        self, template: Path, content: str, subjects: Sequence[Subject], *, deform: bool = False, fast: bool = True
    ) -> dict[str, Registered]:
        """Name -> registration of a template to subjects: the linear alignment, or the deformation after it."""
        tasks = [
            SubjectTask(
                one.name, one.path, one.content, template, content, self.work, self.mark, self.card.name,
                self.settings.initial, tuple(map(tuple, one.linear.tolist())) if deform else None, self.lam, fast,
                self.settings.device,
            )
            for one in subjects
        ]  # fmt: skip
        # Reading, the alignments, the rounds, writing: only the progress bar depends on these shares.
        first, each = 0.05 + 0.075 * self._stage, 0.075
        if deform:
            each = 0.75 / self.settings.iterations
            first = 0.2 + each * (self._stage - ALIGNMENT_STAGES)
        self._stage += 1
        what = f"subjects (round {self._stage - ALIGNMENT_STAGES})" if deform else "subjects aligned"
        whole = Whole(self.tell, len(tasks), what, first, first + each)
        for task, result in self.executor.results(register_subject, tasks, whole.tell, self.cancelled):
            if isinstance(result, HyperRegError):
                raise type(result)(f"{task.image.name}: {result}")
            whole.end(task.name, worked=result)
        kept = results_of(self.work)
        found = {task.name: kept.load(task.key) for task in tasks}
        if missing := [name for name, one in found.items() if one is None]:
            raise InputError(f"The registration of '{missing[0]}' was removed from '{self.work}'. Start again.")
        return {name: one for name, one in found.items() if one is not None}

    def transform_to(self, subject: Subject) -> Transform:
        """Template RAS to subject RAS."""
        stages = [one for one in (self.shape, subject.deformation) if one is not None]
        return Transform((*stages, subject.linear))

    def _average(self, name: str) -> tuple[Path, str]:
        """Make the template as the subjects show it now; returns its file in the working folder, and its content."""
        total = np.zeros(self.grid.shape)
        for subject in self.subjects:
            shown = resample(_comparable(read_volume(subject.path)), self.grid, self.transform_to(subject), fill=0.0)
            total += shown.array
        average = Volume((total / len(self.subjects)).astype(np.float32), self.grid.ijk_to_ras, "template")
        self.template = sharpened(average)
        path = self.work / f"{name}.nii.gz"
        with replacing(path) as target:
            write_volume(self.template, target)
        return path, content_hash(read_volume(path))

    def report(self, out: Path, watch: Stopwatch) -> dict[str, Any]:
        """What is told of the template: JSON."""
        far = outliers({one.name: one.figures["similarity"] for one in self.subjects})
        rows = [
            {"name": one.name, "file": str(one.path), "linear_ras": one.linear.tolist(), **one.figures}
            for one in self.subjects
        ]
        return {
            "template": str(out),
            "shape": list(self.grid.shape),
            "spacing_mm": float(self.grid.spacing[0]),
            "settings": {**asdict(self.settings), "lam": self.lam, "model": self.card.describe()},
            "changed_percent": self.changes,
            "warnings": [f"{name}: {why} Look at it, and leave it out if it is off." for name, why in far.items()],
            "subjects": sorted(rows, key=lambda row: str(row["name"])),
            "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "timing_s": {name: round(seconds, 3) for name, seconds in watch.seconds.items()},
            "versions": versions(),
        }


def sharpened(image: Volume) -> Volume:
    """An image partly replaced by its sharpened version (ITK's Laplacian), not darker than 0."""
    sharp = itk.volume_from_itk(sitk.LaplacianSharpening(itk.volume_to_itk(image, np.float32))).array
    mixed = (1 - SHARPENED) * image.array + SHARPENED * sharp
    return replace(image, array=np.maximum(mixed, 0).astype(np.float32))


def log_volume_change(deformation: DisplacementField) -> Volume:
    """The logarithm of `volume_change`: 0 is unchanged, above it the subject is larger there than the template."""
    change = volume_change(deformation)
    return replace(change, array=np.log(np.maximum(change.array, SMALLEST_VOLUME)), name="log volume change")


def _comparable(volume: Volume) -> Volume:
    """An image with its grey values as every subject has them: 0 is dark, MEAN_VALUE the mean of the foreground."""
    volume = check_image(volume)
    values = normalise(volume.array)
    return replace(volume, array=values * np.float32(MEAN_VALUE / values[foreground(volume)].mean()))


def _field_of(registered: Registered) -> DisplacementField:
    assert registered.field is not None  # noqa: S101 (a lambda was asked for)
    return registered.field


def _check(images: Sequence[Path], out: Path, settings: TemplateSettings) -> None:
    if len(images) < 2:
        raise InputError("A template needs at least two images.")
    if settings.initial not in ALIGNMENTS:
        raise InputError(f"A template starts from {', '.join(ALIGNMENTS)}, not '{settings.initial}'.")
    if settings.iterations < 1:
        raise InputError("A template needs at least one round (--iterations).")
    if settings.spacing is not None and not 0.05 <= settings.spacing <= 20:
        raise InputError("The template's voxels (--spacing) have to measure between 0.05 and 20 mm.")
    if extension(out) not in WRITABLE:
        raise InputError(f"'{out.name}' has no ending that tells the format; use one of {', '.join(WRITABLE)}.")
    counts = Counter(stem_of(path).casefold() for path in images)
    if doubled := [stem_of(path) for path in images if counts[stem_of(path).casefold()] > 1]:
        raise InputError(f"Two images are called '{doubled[0]}': results are called after them. Rename one.")


def _write_fields(maker: _Maker, folder: Path) -> None:
    rows = []
    inside = foreground(maker.template)
    for number, subject in enumerate(maker.subjects):
        maker.tell(0.95 + 0.05 * number / len(maker.subjects), f"Writing {subject.name}")
        place = folder / subject.name
        make_folder(place)
        stages = [one for one in (maker.shape, subject.deformation) if one is not None]
        deformation = Transform(tuple(stages)).to_field(stages[0].grid)
        linear_back = np.asarray(np.linalg.inv(subject.linear), dtype=np.float64)
        change = resample(log_volume_change(deformation), maker.grid, fill=0.0)
        with StagedOutputs({name: place / name for name in FILES}, [subject.path]) as staged:
            write_volume(change, staged.path(LOG_JACOBIAN))
            write_transform(Transform((deformation, subject.linear)), staged.path(TRANSFORM), maker.grid)
            back = Transform((linear_back, inverse(deformation)))
            write_transform(back, staged.path(INVERSE), read_volume(subject.path).grid)
        rows.append(
            {
                "name": subject.name,
                "file": str(subject.path),
                "log_volume_linear": float(np.log(np.linalg.det(subject.linear))),
                "log_volume_deformation_mean": float(change.array[inside].mean()),
                **subject.figures,
            }
        )
    rows.sort(key=lambda row: str(row["name"]))
    with replacing(folder / SUBJECTS) as target, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
