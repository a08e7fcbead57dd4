"""Label fusion in the worker: atlases for one or several targets, or label maps of one image."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid
from hyperreg.worker import parameters
from hyperreg.worker.plain import plain, record
from hyperreg.worker.server import Context

if TYPE_CHECKING:
    from hyperreg.fusion.atlases import Loader
    from hyperreg.fusion.consensus import Consensus
    from hyperreg.fusion.library import Library
    from hyperreg.fusion.records import AtlasOutcome, AtlasProgress
    from hyperreg.fusion.run import Answer
    from hyperreg.imaging.structures import Structure, Table

TARGET = "target"
# The share of a run with atlases after which labels are fused; only the progress bar depends on it.
REGISTERED = 0.85
# Learning takes longer than registering.
LEARNING_REGISTERED = 0.4
# How often the fraction of one atlas is told, seconds; every other change is told at once.
INTERVAL_S = 0.2


class Fusers:
    """Fuses, and keeps the last atlases in memory: targets mostly come in series."""

    def __init__(self) -> None:
        self._loader: Loader | None = None
        self._stamp: tuple[Any, ...] = ()

    def atlases(self, context: Context) -> dict[str, Any]:
        """Looks at atlases (see `_library`).

        -> atlases: name, image, labels, lambda, problem ("" or why it cannot be used) of each.

        Fills the output thumbnails, (N, size, size, 3) uint8, of the first N atlases, in this order.
        """
        from hyperreg.fusion.library import thumbnail

        loader = self._load(_library(context))
        context.progress(0.1, "Reading the atlases")
        atlases = loader.atlases()
        rows: list[dict[str, Any]] = []
        pictures = context.outputs["thumbnails"]
        for files in loader.library.atlases:
            context.check()
            if files.name in atlases and len(rows) < len(pictures):
                pictures[len(rows)] = thumbnail(atlases[files.name], loader.table, pictures.shape[1])
            rows.append({"name": files.name, "image": files.image.name, "labels": files.labels.name,
                         "lambda": files.lam, "problem": loader.skipped.get(files.name, "")})  # fmt: skip
            context.progress(0.1 + 0.9 * len(rows) / len(loader.library.atlases), "Looking at the atlases")
        known = {row["name"] for row in rows}
        rows += [{"name": name, "image": "", "labels": "", "lambda": None, "problem": reason}
                 for name, reason in loader.skipped.items() if name not in known]  # fmt: skip
        return {"atlases": rows, "warnings": loader.warnings}

    def fuse_atlases(self, context: Context) -> dict[str, Any]:
        """The image "target" by atlases (see `_library`) -> fills the outputs labels and disagreement.

        Parameters: method, lambda (None for the model's default), model ("" for the default one), refine, device,
        select (0 for all), temperature (None for the usual one), steps (0 for the usual number) and minutes (0 without
        a limit) of learning, cache (a folder, "" for the usual one). Can be cancelled; can be asked to finish while
        data parameters are learned. -> see `_described`.

        Events: "atlas": an `AtlasProgress`. "answer", while data parameters are learned: learned, what is known so
        far (`Learned`), and structures (`Structure`); the outputs hold its consensus until the next one.
        """
        from hyperreg.fusion.atlases import AtlasSettings, carry
        from hyperreg.fusion.cache import default_folder
        from hyperreg.fusion.run import Method, Watched, fuse_carried
        from hyperreg.imaging.intensity import check_image

        started = time.perf_counter()
        method = Method(
            parameters.text(context, "method"),
            temperature=_number(context, "temperature"),
            steps=int(_number(context, "steps") or 0) or None,
            minutes=_number(context, "minutes") or None,
        )
        method.check(with_images=True)
        warnings: list[str] = []
        target = check_image(parameters.volume(context, TARGET), warnings)
        context.progress(0.0, "Reading the atlases")
        loader = self._load(_library(context))
        cache = parameters.text(context, "cache")
        settings = AtlasSettings(
            lam=_number(context, "lambda"),
            model=parameters.text(context, "model") or None,
            refine=parameters.flag(context, "refine"),
            device=parameters.text(context, "device"),
            select=int(_number(context, "select") or 0) or None,
            cache=Path(cache) if cache else default_folder(),
        )
        share = LEARNING_REGISTERED if method.name == "dp" else REGISTERED
        told = Watched(
            len(loader.atlases()) + len(loader.skipped),
            lambda fraction, text: context.progress(share * fraction, text),
        )
        events = _AtlasEvents(context)

        def watch(atlas: AtlasProgress) -> None:
            told(atlas)
            events(atlas)

        def early(answer: Answer) -> None:
            _fill(context, answer.consensus)
            structures = plain(_structures(answer.consensus, carried.table))
            context.event("answer", {"learned": _learned(answer, method.temperature), "structures": structures})

        carried = carry(
            target, loader, settings, with_images=method.name == "local", watch=watch, cancelled=context.cancelled
        )
        context.check()
        found = fuse_carried(
            target,
            carried,
            method,
            lambda fraction, text: context.progress(share + (1 - share) * fraction, text),
            context.cancelled,
            cache=settings.cache,
            enough=context.enough,
            answer=early,
        )
        context.check()
        _fill(context, found.consensus)
        texts = [*warnings, *carried.warnings, *found.warnings]
        result = _described(found.consensus, carried.table, texts, carried.rows, time.perf_counter() - started)
        return result | {"learned": _learned(found, method.temperature)}

    def fuse_maps(self, context: Context) -> dict[str, Any]:
        """Label maps of one image, in the order of the parameter "order" -> fills the outputs labels and disagreement.

        Parameters: order, method ("vote" or "staple"), grid (its ijk_to_ras) of the outputs, table: label -> name and
        colour. -> see `_described`.
        """
        from hyperreg.fusion.methods import fuse
        from hyperreg.fusion.run import Method
        from hyperreg.fusion.stack import stack_labels

        started = time.perf_counter()
        method = Method(parameters.text(context, "method"))
        method.check(with_images=False)
        order = context.parameters.get("order")
        if not isinstance(order, list) or not order:
            raise InputError("Choose at least one label map.")
        context.progress(0.1, "Fusing")
        table = _table(context)
        stack = stack_labels([parameters.volume(context, str(name)) for name in order], _grid(context), table)
        consensus = fuse(stack, method.name, cancelled=context.cancelled)
        context.check()
        _fill(context, consensus)
        return _described(consensus, table, consensus.warnings, [], time.perf_counter() - started)

    def _load(self, library: Library) -> Loader:
        from hyperreg.fusion.atlases import Loader

        # Whatever lies beside the files: tables of names, the voxels of headers.
        folders = {path.parent for atlas in library.atlases for path in (atlas.image, atlas.labels)}
        try:
            files = sorted(path for folder in folders for path in folder.iterdir() if path.is_file())
            table = sorted((label, str(meaning)) for label, meaning in library.table.items())
            stamp = (library.folder, tuple(table), library.atlases, *(_stamp_of(path) for path in files))
        except OSError:
            stamp = ()
        if self._loader is None or not stamp or stamp != self._stamp:
            self._loader, self._stamp = Loader(library), stamp
        return self._loader


def _stamp_of(path: Path) -> tuple[Any, ...]:
    """Differs when a file was changed or replaced, even by one that kept its time of modification."""
    found = path.stat()
    return path, found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino


class _AtlasEvents:
    """Tells the application of every atlas; of mere progress not more often than it can show."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.last: dict[str, tuple[str, float]] = {}

    def __call__(self, atlas: AtlasProgress) -> None:
        state, when = self.last.get(atlas.name, ("", 0.0))
        now = time.monotonic()
        if atlas.state != state or now - when >= INTERVAL_S:
            self.last[atlas.name] = (atlas.state, now)
            self.context.event("atlas", plain(atlas))


def _library(context: Context) -> Library:
    """The atlases of a request: the parameter "folder"; or "pairs", a list of `AtlasFiles`, with the parameter "table"
    of what their labels mean.
    """
    from hyperreg.fusion.library import find_atlases, given_atlases
    from hyperreg.fusion.records import AtlasFiles

    pairs = context.parameters.get("pairs")
    if pairs is None:
        return find_atlases(Path(parameters.text(context, "folder")))
    try:
        found = [record(AtlasFiles, pair) for pair in pairs]
    except (TypeError, KeyError, ValueError) as error:
        raise InputError("The parameter 'pairs' is no list of atlases' files.") from error
    return given_atlases(found, _table(context))


def _table(context: Context) -> Table:
    """The parameter "table": label -> name and colour."""
    from hyperreg.imaging.structures import Meaning

    table = {}
    for label, (name, colour) in dict(context.parameters.get("table") or {}).items():
        red, green, blue = (int(part) for part in colour)
        table[int(label)] = Meaning(str(name), (red, green, blue))
    return table


def _learned(answer: Answer, temperature: float | None) -> dict[str, Any] | None:
    """A `Learned`; None where nothing was learned."""
    from hyperreg.fusion.learned import learned_of

    return None if answer.learned is None else dict(plain(learned_of(answer.learned, temperature)))


def _fill(context: Context, consensus: Consensus) -> None:
    context.outputs["labels"][...] = consensus.labels.array
    context.outputs["disagreement"][...] = consensus.disagreement.array


def _described(
    consensus: Consensus, table: Table, warnings: list[str], outcomes: list[AtlasOutcome], seconds: float
) -> dict[str, Any]:
    """structures (a `Structure` each), volumes (`StructureVolumes`, in the same order), raters (`Rater`), method,
    disputed_percent, warnings, seconds; for atlases also learned (see `_learned`).
    """
    from hyperreg.fusion.records import raters_of

    return {
        "method": consensus.method,
        "structures": plain(_structures(consensus, table)),
        "volumes": plain(consensus.structures()),
        "raters": plain(raters_of(consensus.raters(), outcomes)),
        "disputed_percent": 100 * consensus.stack.disputed.size / consensus.codes.size,
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": seconds,
    }


def _structures(consensus: Consensus, table: Table) -> list[Structure]:
    from hyperreg.imaging.structures import structures_of

    return structures_of(consensus.stack.labels[1:].tolist(), table)


def _grid(context: Context) -> Grid:
    place = context.parameters.get("grid")
    if not isinstance(place, dict):
        raise InputError("The parameter 'grid' is missing.")
    i, j, k = context.outputs["labels"].shape
    return Grid((i, j, k), parameters.matrix(place.get("ijk_to_ras")))


def _number(context: Context, name: str) -> float | None:
    value = context.parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"The parameter '{name}' is not a number.")
    return float(value)
