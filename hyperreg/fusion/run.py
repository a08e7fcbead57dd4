"""Fusion from files to files: what `hyperreg fuse` does, without the printing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hyperreg.errors import Cancelled, InputError
from hyperreg.fusion.atlases import AtlasSettings, Carried, Loader, carry
from hyperreg.fusion.consensus import Consensus
from hyperreg.fusion.layers import Layers, fuse_layers
from hyperreg.fusion.learned import IMAGES as PLOTS
from hyperreg.fusion.learned import learn, learned_of, save_plot
from hyperreg.fusion.methods import METHODS, Evidence, fuse
from hyperreg.fusion.qualities import DataParameters
from hyperreg.fusion.records import AtlasProgress, Learned
from hyperreg.imaging.files import WRITABLE, extension, read_volume, write_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.output import StagedOutputs
from hyperreg.imaging.segment_files import check_name
from hyperreg.imaging.structures import LabelMap, Table, name_of, numbered_alike
from hyperreg.imaging.volume import Volume
from hyperreg.reporting import Cancel, Progress, Stopwatch, describe_image, versions, write_report

FIGURES = (
    "sensitivity, specificity, dice: of each label map, means over the labels of the consensus; STAPLE's own "
    "estimates, else counted against the consensus; specificity within the box around all labels. None is accuracy "
    "against a truth. similarity: mean local correlation of the registered image with the target."
)
# The share of a run with atlases after which labels are fused; only the progress bar depends on it.
REGISTERED = 0.85


@dataclass(frozen=True)
class Method:
    """name: one of METHODS. weights: of the label maps, for "vote". radius: for "local".

    For "dp": temperature; steps: of learning, None for the usual number; minutes: of learning at most.
    """

    name: str
    weights: tuple[float, ...] | None = None
    temperature: float | None = None
    radius: int | None = None
    steps: int | None = None
    minutes: float | None = None

    def check(self, *, with_images: bool) -> None:
        """Raise InputError for what cannot be done, before anything is read."""
        if self.name not in METHODS:
            raise InputError(f"Unknown method of fusion '{self.name}'. Use one of {', '.join(METHODS)}.")
        if self.weights is not None and self.name != "vote":
            raise InputError("Weights are for voting (--method vote); the other methods find their own.")
        if self.name in ("local", "dp") and not with_images:
            raise InputError(f"The method '{self.name}' looks at the images: give --target and --atlases.")
        if self.name != "dp" and (self.steps, self.minutes) != (None, None):
            raise InputError("Steps and minutes are for the learning of data parameters (--method dp).")
        if (self.steps is not None and self.steps < 1) or (self.minutes is not None and not self.minutes > 0):
            raise InputError("Learning needs at least one step, and more than no time.")


@dataclass(frozen=True)
class Outputs:
    """Where results go; None means not wanted. disagreement: share of label maps that differ, 0 to 1. report: JSON.

    plot: of data parameters over the steps of their learning, an image.
    """

    segmentation: Path | None = None
    disagreement: Path | None = None
    report: Path | None = None
    plot: Path | None = None

    def check(self, method: Method) -> None:
        if self.plot is not None and method.name != "dp":
            raise InputError("The plot shows how data parameters were learned: it needs --method dp.")
        if self.plot is not None and self.plot.suffix.lower() not in PLOTS:
            raise InputError(f"'{self.plot.name}' has no ending of an image; use {', '.join(PLOTS)}.")
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
    *,
    layers: bool = False,
) -> FusionResult:
    """Fuse label maps of one image that are aligned already, by the names of their structures where these are known.

    The result lies on the grid of most of them, made large enough for all labels. layers: whether structures may
    overlap; the result then has layers, too, which few programs but 3D Slicer read, so they have to be asked for.

    Raises InputError, FileError or Cancelled; nothing is written then.
    """
    method.check(with_images=False)
    outputs.check(method)
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    with _staged(outputs, maps) as staged:
        tell(0.0, "Reading the label maps")
        with watch.stage("read"):
            read = [read_structures(Path(path)) for path in maps]
            alike, table, changes = numbered_alike(read)
            if not layers:
                _check_flat(alike)
            changes = [*(text for labels in read for text in labels.warnings), *changes]
        _go_on(cancelled)
        tell(0.4, "Fusing")
        with watch.stage("fuse"):
            evidence = Evidence(weights=method.weights)
            found = fuse_layers(alike, table, lambda stack: fuse(stack, method.name, evidence, None, cancelled))
        report = _report(found, table, [*changes, *found.warnings], watch, staged)
        report["inputs"] = [describe_image(Path(path), one.layers[0]) for path, one in zip(maps, read, strict=True)]
        _write(found, table, report, staged)
        tell(1.0, "Done")
    return FusionResult(report, list(staged.targets.values()))


def _check_flat(maps: Sequence[LabelMap]) -> None:
    """Raise InputError if structures overlap in a map."""
    for labels in maps:
        try:
            _ = labels.flat
        except InputError as error:
            raise InputError(f"{error} With --layers, structures that overlap are fused in layers.") from error


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
    outputs.check(method)
    tell = progress or (lambda _fraction, _text: None)
    watch = Stopwatch()
    files = [path for atlas in loader.library.atlases for path in (atlas.image, atlas.labels)]
    folder = [] if loader.library.folder is None else [loader.library.folder]  # with its tables
    with _staged(outputs, [target, *files, *folder]) as staged:
        tell(0.0, "Reading the images")
        with watch.stage("read"):
            warnings: list[str] = []
            image = check_image(read_volume(target), warnings)
            count = len(loader.atlases()) + len(loader.skipped)
        states = Watched(count, lambda fraction, text: tell(0.02 + (REGISTERED - 0.02) * fraction, text))
        with watch.stage("register"):
            with_images = method.name == "local"
            carried = carry(image, loader, settings, with_images=with_images, watch=states, cancelled=cancelled)
        _go_on(cancelled)
        tell(REGISTERED, "Fusing")
        with watch.stage("fuse"):
            found = fuse_carried(
                image,
                carried,
                method,
                lambda fraction, text: tell(REGISTERED + (0.95 - REGISTERED) * fraction, text),
                cancelled,
                cache=settings.cache,
            )
        layers = Layers((found.consensus,))
        report = _report(layers, carried.table, [*warnings, *carried.warnings, *found.warnings], watch, staged)
        report["target"] = describe_image(target, image)
        report["atlases"] = [asdict(row) for row in carried.rows]
        learned = None
        if found.learned is not None:
            learned = learned_of(found.learned, method.temperature)
            report["data_parameters"] = asdict(learned)
        tell(0.95, "Writing")
        _write(layers, carried.table, report, staged, learned)
        tell(1.0, "Done")
    return FusionResult(report, list(staged.targets.values()))


@dataclass(frozen=True, eq=False)
class Answer:
    """The consensus of atlases on a target, and the data parameters that it was voted with, if any."""

    consensus: Consensus
    learned: DataParameters | None = None

    @property
    def warnings(self) -> list[str]:
        own = []
        if self.learned is not None and (self.learned.alike or not self.learned.finished):
            done = f"an early answer, after {self.learned.steps} of {self.learned.wanted} steps"
            alike = (
                f"NOTHING WAS LEARNED YET: the data parameters are {done}. All label maps weigh the same, so the "
                "result is a majority vote. Give it more time or steps; with the cache, it goes on from here when "
                "started again."
            )
            own.append(alike if self.learned.alike else f"The data parameters are {done}.")
        if self.learned is not None and self.learned.problem:
            own.append(self.learned.problem)
        return [*self.consensus.warnings, *own]


def fuse_carried(
    image: Volume,
    carried: Carried,
    method: Method,
    progress: Progress | None = None,
    cancelled: Cancel | None = None,
    *,
    cache: Path | None = None,
    enough: Cancel | None = None,
    answer: Callable[[Answer], None] | None = None,
) -> Answer:
    """The consensus of atlases that lie on the target; learns data parameters where the method asks for them.

    For the latter: cache, enough: see `learn`. answer: is given what is known so far, every now and then.
    """
    stack = carried.stack
    evidence = Evidence(image, carried.images, temperature=method.temperature)
    if method.radius is not None:
        evidence = replace(evidence, radius=method.radius)
    if method.name != "dp":
        return Answer(fuse(stack, method.name, evidence, progress, cancelled))
    if len(stack.names) == 1 or len(stack.labels) == 1:  # nothing to tell apart
        return Answer(fuse(stack, "vote"))

    def voted(learned: DataParameters) -> Answer:
        return Answer(fuse(stack, "dp", replace(evidence, data_parameters=learned.values[0])), learned)

    def told(learned: DataParameters) -> None:
        if answer is not None and not learned.finished:
            answer(voted(learned))

    learned = learn(
        image, stack, steps=method.steps, minutes=method.minutes, cache=cache,
        progress=progress, cancelled=cancelled, enough=enough, answer=told,
    )  # fmt: skip
    return voted(learned)


class Watched:
    """Progress of all registrations as one fraction and a line."""

    def __init__(self, count: int, tell: Progress) -> None:
        """count: of the atlases."""
        self.count, self.tell = max(count, 1), tell
        self.fractions: dict[str, float] = {}

    def __call__(self, atlas: AtlasProgress) -> None:
        self.fractions[atlas.name] = atlas.fraction
        done = sum(1 for value in self.fractions.values() if value >= 1)
        self.tell(
            min(1.0, sum(self.fractions.values()) / self.count),
            f"{atlas.name}: {atlas.text} ({done} of {self.count} atlases done)",
        )


def _staged(outputs: Outputs, inputs: Sequence[Path]) -> StagedOutputs:
    targets = {
        "segmentation": outputs.segmentation,
        "disagreement": outputs.disagreement,
        "report": outputs.report,
        "plot": outputs.plot,
    }
    return StagedOutputs(targets, [Path(path) for path in inputs])


def _write(
    layers: Layers, table: Table, report: dict[str, Any], staged: StagedOutputs, learned: Learned | None = None
) -> None:
    if "segmentation" in staged:
        layers.write(table, staged.path("segmentation"))
    if "disagreement" in staged:
        write_volume(layers.disagreement, staged.path("disagreement"))
    if "plot" in staged:
        if learned is None:
            raise InputError("From one label map, or none with labels, nothing is learned: there is nothing to plot.")
        save_plot(learned, staged.path("plot"))
    if "report" in staged:
        write_report(report, staged.path("report"))


def _report(
    layers: Layers, table: Table, warnings: Sequence[str], watch: Stopwatch, staged: StagedOutputs
) -> dict[str, Any]:
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "method": layers.method,
        "label_maps": [asdict(rater) for rater in layers.raters()],
        "structures": [{"name": name_of(row.label, table), **asdict(row)} for row in layers.structures()],
        "disputed_voxels_percent": layers.disputed_percent,
        "figures": FIGURES,
        "timing_s": {name: round(seconds, 3) for name, seconds in watch.seconds.items()},
        "versions": versions(),
        "warnings": list(dict.fromkeys(warnings)),
        "outputs": {name: str(path) for name, path in staged.targets.items()},
    }


def _go_on(cancelled: Callable[[], bool] | None) -> None:
    if cancelled is not None and cancelled():
        raise Cancelled("Cancelled; nothing was written.")
