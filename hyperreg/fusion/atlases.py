"""Multi-atlas segmentation: atlases registered to a target, their labels carried over, and fused."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

import hyperreg
from hyperreg.errors import HyperRegError, InputError
from hyperreg.execution.processes import fitting_jobs
from hyperreg.fusion.cache import Cache, content_hash, key_of, voxel_hash
from hyperreg.fusion.library import Atlas, Library, read_atlases
from hyperreg.fusion.parallel import registrations
from hyperreg.fusion.records import AtlasOutcome, AtlasProgress
from hyperreg.fusion.registering import Registered, Task
from hyperreg.fusion.stack import LabelStack, listed, stack_labels
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.structures import Table
from hyperreg.imaging.volume import Volume
from hyperreg.registration.anchors import check_lambda
from hyperreg.registration.catalogue import ModelCard, default_model, find_model
from hyperreg.reporting import Cancel

# A deformation that makes the images less similar than the affine part by more than this has failed; less is noise.
MOST_LOSS = 0.02
# A registration is left out if its similarity lies further below the median than so many (normal) SDs and than this.
OUTLIER_SDS, OUTLIER_LEAST = 3.0, 0.05
FEWEST_FOR_OUTLIERS = 4
# So much folding makes the carried labels useless, percent of all voxels.
MOST_FOLDING = 5.0
# The affine alignment alone makes no two people this alike (at 3 mm: .93), but the target's own image on other voxels
# (.999).
SAME_IMAGE = 0.99
# The cache's entries change their meaning with this number.
FORMAT = 1

Watch = Callable[[AtlasProgress], None]


@dataclass(frozen=True)
class AtlasSettings:
    """How atlases are brought onto a target.

    lam: of all atlases that have none of their own; None: the model's default. lambdas: name -> lambda, before all
    others. model: None for the default one. refine: improve every field on its images. select: keep so many, by
    similarity after the affine alignment; None keeps all. jobs: registrations at once; None: what fits. cache: None
    keeps nothing.
    """

    lam: float | None = None
    lambdas: Mapping[str, float] = field(default_factory=dict)
    model: str | None = None
    refine: bool = False
    device: str = "auto"
    select: int | None = None
    jobs: int | None = None
    cache: Path | None = None


@dataclass(frozen=True, eq=False)
class Carried:
    """Atlases on a target's grid.

    stack: their labels; its warnings are in `warnings`, too. images: theirs, in the same order, [] unless wanted.
    rows: of every atlas, used or not. table: what the labels mean.
    """

    stack: LabelStack
    images: Sequence[Volume]
    rows: list[AtlasOutcome]
    table: Table
    warnings: list[str]


class Loader:
    """The atlases of a library, read once: for a cohort they stay in memory as long as this does."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.table = library.table
        self.skipped = dict(library.skipped)
        self.warnings: list[str] = []
        self._atlases: dict[str, Atlas] | None = None

    def atlases(self) -> dict[str, Atlas]:
        """Name -> atlas, of those that can be read; the others are named in `skipped`. Raises InputError if none is."""
        if self._atlases is None:
            self._atlases, self.table, self.skipped, self.warnings = read_atlases(self.library)
        if not self._atlases:
            reasons = " ".join(f"{name}: {reason}" for name, reason in self.skipped.items())
            raise InputError(f"None of the atlases in {self.library.place} can be used. {reasons}")
        return self._atlases

    def own_lambda(self, name: str) -> float | None:
        return next((files.lam for files in self.library.atlases if files.name == name), None)


def carry(
    target: Volume,
    loader: Loader,
    settings: AtlasSettings,
    *,
    with_images: bool = False,
    watch: Watch | None = None,
    cancelled: Cancel | None = None,
) -> Carried:
    """Register every atlas to the target and carry its labels over, by nearest neighbour.

    Nearest neighbour, because interpolating every label by itself takes 30 times as long, and voting over several
    atlases smooths borders anyway. with_images: also the atlases' images (linear interpolation).
    Atlases that cannot be read, are the target itself, or whose registration failed are left out, by name, in `rows`
    and `warnings`. watch: is told of every change of every atlas. Raises InputError if none is left, Cancelled.
    """
    card = find_model(settings.model or default_model())
    tell = watch or (lambda _news: None)
    atlases = dict(loader.atlases())
    rows = {name: AtlasOutcome(name) for name in atlases}
    for name, reason in loader.skipped.items():
        rows[name] = AtlasOutcome(name, "left out", reason)
        tell(AtlasProgress(name, "left out", 1.0, reason))
    registrar = _Registrar(target, card, settings, rows, tell, cancelled)
    for name in registrar.leave_out_the_target(atlases):
        del atlases[name]
    if not atlases:
        raise InputError("The only atlas is the target itself: its labels are the segmentation already.")
    if settings.select is not None and settings.select < len(atlases):
        atlases = registrar.selected(atlases, settings.select)
    lambdas = {name: _lambda_of(name, settings, loader, card) for name in atlases}
    found = registrar.register(atlases, lambdas)
    for name in _judge(found, rows):
        tell(AtlasProgress(name, "left out", 1.0, rows[name].reason))
    used = [name for name in atlases if rows[name].state == "used"]
    if not used:
        reasons = " ".join(f"{row.name}: {row.reason}" for row in rows.values() if row.state == "left out")
        raise InputError(f"No atlas could be registered to '{target.name}'. {reasons}")
    labels, images = [], []
    for name in used:
        atlas, transform = atlases[name], found[name].transform
        carried = resample(atlas.labels, target.grid, transform, "nearest")
        labels.append(Volume(carried.array, carried.ijk_to_ras, name))
        if with_images:
            images.append(resample(atlas.image, target.grid, transform))
    stack = stack_labels(labels, target.grid, loader.table)
    left = [f"{row.name} ({row.reason.rstrip('.')})" for row in rows.values() if row.state == "left out"]
    warnings = [*loader.warnings, *([f"Left out: {listed(left)}."] if left else []), *stack.warnings]
    if same := [name for name in used if rows[name].similarity_before >= SAME_IMAGE]:
        warnings.append(
            f"Nearly the target's own image: {listed(same)}. Its labels decide nearly everything; leave it out, if it "
            "is the target on other voxels."
        )
    if registrar.cache.problem:
        warnings.append(registrar.cache.problem)
    return Carried(stack, images, list(rows.values()), loader.table, warnings)


class _Registrar:
    """The registrations of one target, from the cache or by computing."""

    def __init__(
        self,
        target: Volume,
        card: ModelCard,
        settings: AtlasSettings,
        rows: dict[str, AtlasOutcome],
        tell: Watch,
        cancelled: Cancel | None,
    ) -> None:
        self.target, self.card, self.settings, self.rows = target, card, settings, rows
        self.tell, self.cancelled = tell, cancelled
        self.cache = Cache(settings.cache)
        self.target_hash = content_hash(target)
        self.hashes: dict[str, str] = {}

    def leave_out_the_target(self, atlases: Mapping[str, Atlas]) -> list[str]:
        """Names of atlases with the target's own image: their labels would decide everything."""
        self.hashes = {name: content_hash(atlas.image) for name, atlas in atlases.items()}
        own = voxel_hash(self.target)
        same = [name for name, atlas in atlases.items() if voxel_hash(atlas.image) == own]
        for name in same:
            self.rows[name].state = "left out"
            self.rows[name].reason = "It is the target itself: the same voxels."
            self.tell(AtlasProgress(name, "left out", 1.0, self.rows[name].reason))
        return same

    def selected(self, atlases: Mapping[str, Atlas], count: int) -> dict[str, Atlas]:
        """The atlases most similar to the target after the affine alignment."""
        if count < 1:
            raise InputError(f"At least one atlas has to be selected, not {count}.")
        found = self.register(atlases, dict.fromkeys(atlases, None))
        order = sorted(found, key=lambda name: found[name].figures["similarity_before"], reverse=True)
        for rank, name in enumerate(order):
            self.rows[name].similarity_before = found[name].figures["similarity_before"]
            if rank >= count:
                self.rows[name].state = "not selected"
                self.rows[name].reason = f"Number {rank + 1} by similarity after the affine alignment."
                self.tell(AtlasProgress(name, "not selected", 1.0, self.rows[name].reason))
        return {name: atlases[name] for name in atlases if name in order[:count]}

    def register(self, atlases: Mapping[str, Atlas], lambdas: Mapping[str, float | None]) -> dict[str, Registered]:
        """Name -> registration; atlases that failed are missing, and their row says why."""
        found: dict[str, Registered] = {}
        tasks = []
        for name, atlas in atlases.items():
            lam = lambdas[name]
            kept = self.cache.load(self._key(name, lam))
            if kept is not None:
                found[name] = self._note(name, lam, kept, cached=True)
                continue
            linear = None if lam is None else self.cache.load(self._key(name, None))
            tasks.append(
                Task(
                    name, self.target, atlas.image, self.card.name, lam, not self.settings.refine, self.settings.device,
                    None if linear is None else linear.linear,
                )
            )  # fmt: skip
            self.tell(AtlasProgress(name, "waiting", 0.0, "Waiting"))
        jobs = self.settings.jobs or fitting_jobs(self.settings.device)
        for task, result in registrations(tasks, jobs, self._progress, self.cancelled):
            if isinstance(result, HyperRegError):
                self.rows[task.name].state = "left out"
                self.rows[task.name].reason = str(result)
                self.tell(AtlasProgress(task.name, "left out", 1.0, str(result)))
                continue
            self.cache.save(self._key(task.name, task.lam), result)
            if task.lam is not None and task.linear is None:
                before = {"similarity_before": result.figures["similarity_before"]}
                self.cache.save(self._key(task.name, None), Registered(result.linear, None, before))
            found[task.name] = self._note(task.name, task.lam, result, cached=False)
        return found

    def _progress(self, name: str, fraction: float, text: str) -> None:
        self.tell(AtlasProgress(name, "running", fraction, text))

    def _note(self, name: str, lam: float | None, registered: Registered, *, cached: bool) -> Registered:
        row = self.rows[name]
        row.lam, row.cached = lam, cached
        for figure in ("similarity", "similarity_before", "folding_percent"):
            setattr(row, figure, registered.figures.get(figure, float("nan")))
        if lam is None:  # only to choose by
            self.tell(AtlasProgress(name, "waiting", 0.0, "Aligned"))
        elif cached:
            self.tell(AtlasProgress(name, "cached", 1.0, "Registered before"))
        else:
            self.tell(AtlasProgress(name, "done", 1.0, "Registered"))
        return registered

    def _key(self, name: str, lam: float | None) -> str:
        """The linear part (no lambda) depends on the images alone, apart from the grid that it is judged on."""
        how = {} if lam is None else {"lam": round(lam, 6), "refine": self.settings.refine}
        return key_of(
            format=FORMAT,
            version=hyperreg.__version__,
            target=self.target_hash,
            image=self.hashes[name],
            model=self.card.sha256,
            **how,
        )


def _lambda_of(name: str, settings: AtlasSettings, loader: Loader, card: ModelCard) -> float:
    choices = (settings.lambdas.get(name), loader.own_lambda(name), settings.lam, card.default_lambda)
    return check_lambda(next(lam for lam in choices if lam is not None))


def _judge(found: Mapping[str, Registered], rows: Mapping[str, AtlasOutcome]) -> list[str]:
    """Mark registrations that failed: worse than their affine start, folded, or far below the others; their names."""
    after = {name: registered.figures["similarity"] for name, registered in found.items()}
    reasons: dict[str, str] = {}
    for name, registered in found.items():
        before, folding = registered.figures["similarity_before"], registered.figures["folding_percent"]
        if not after[name] >= before - MOST_LOSS:
            reasons[name] = (
                f"The registration failed: similarity {after[name]:.2f}, after the affine part {before:.2f}."
            )
        elif folding > MOST_FOLDING:
            reasons[name] = f"The registration failed: {folding:.1f} % of the voxels are folded."
    sound = {name: value for name, value in after.items() if name not in reasons}
    if len(sound) >= FEWEST_FOR_OUTLIERS:
        reasons |= outliers(sound)
    for name, reason in reasons.items():
        rows[name].state, rows[name].reason = "left out", reason
    return list(reasons)


def outliers(values: Mapping[str, float]) -> dict[str, str]:
    """Name -> why, of registrations whose similarity lies far below that of the others."""
    numbers = np.array(list(values.values()))
    median = float(np.median(numbers))
    spread = 1.4826 * float(np.median(np.abs(numbers - median)))
    limit = median - max(OUTLIER_SDS * spread, OUTLIER_LEAST)
    return {
        name: f"The registration failed: similarity {value:.2f}, half of the others reach {median:.2f}."
        for name, value in values.items()
        if value < limit
    }
