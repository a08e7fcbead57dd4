"""Label fusion in the worker: a folder of atlases for one or several targets, or label maps of one image."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid
from hyperreg.worker import parameters
from hyperreg.worker.parameters import plain
from hyperreg.worker.server import Context

if TYPE_CHECKING:
    from hyperreg.fusion.atlases import AtlasRow, Loader
    from hyperreg.fusion.consensus import Consensus
    from hyperreg.fusion.tables import Table

TARGET = "target"
# The share of a run with atlases after which labels are fused; only the progress bar depends on it.
REGISTERED = 0.85


class Fusers:
    """Fuses, and keeps the last folder of atlases in memory: targets mostly come in series."""

    def __init__(self) -> None:
        self._loader: Loader | None = None
        self._stamp: tuple[Any, ...] = ()

    def atlases(self, context: Context) -> dict[str, Any]:
        """folder -> atlases: name, image, labels, lambda, problem ("" or why it cannot be used) of each.

        Fills the output thumbnails, (N, size, size, 3) uint8, of the first N atlases, in this order.
        """
        from hyperreg.fusion.library import THUMBNAIL, thumbnail

        loader = self._load(Path(parameters.text(context, "folder")))
        context.progress(0.1, "Reading the atlases")
        atlases = loader.atlases()
        rows: list[dict[str, Any]] = []
        pictures = context.outputs["thumbnails"]
        for files in loader.library.atlases:
            context.check()
            if files.name in atlases and len(rows) < len(pictures):
                pictures[len(rows)] = thumbnail(atlases[files.name], THUMBNAIL)
            rows.append({"name": files.name, "image": files.image.name, "labels": files.labels.name,
                         "lambda": files.lam, "problem": loader.skipped.get(files.name, "")})  # fmt: skip
            context.progress(0.1 + 0.9 * len(rows) / len(loader.library.atlases), "Looking at the atlases")
        known = {row["name"] for row in rows}
        rows += [{"name": name, "image": "", "labels": "", "lambda": None, "problem": reason}
                 for name, reason in loader.skipped.items() if name not in known]  # fmt: skip
        return {"atlases": rows, "warnings": loader.warnings}

    def fuse_atlases(self, context: Context) -> dict[str, Any]:
        """The image "target" by the atlases of a folder -> fills the outputs labels and disagreement.

        Parameters: folder, method, lambda (None for the model's default), model ("" for the default one), refine,
        device, select (0 for all), temperature (None for the usual one), cache (a folder, "" for the usual one).
        Can be cancelled. -> see `_described`.
        """
        from hyperreg.fusion.atlases import AtlasSettings, carry
        from hyperreg.fusion.cache import default_folder
        from hyperreg.fusion.run import Method, fuse_carried
        from hyperreg.imaging.intensity import check_image

        started = time.perf_counter()
        method = Method(parameters.text(context, "method"), temperature=_number(context, "temperature"))
        method.check(with_images=True)
        warnings: list[str] = []
        target = check_image(parameters.volume(context, TARGET), warnings)
        context.progress(0.0, "Reading the atlases")
        loader = self._load(Path(parameters.text(context, "folder")))
        cache = parameters.text(context, "cache")
        settings = AtlasSettings(
            lam=_number(context, "lambda"),
            model=parameters.text(context, "model") or None,
            refine=parameters.flag(context, "refine"),
            device=parameters.text(context, "device"),
            select=int(_number(context, "select") or 0) or None,
            cache=Path(cache) if cache else default_folder(),
        )
        count = len(loader.atlases())
        done: dict[str, float] = {}

        def watch(name: str, state: str, fraction: float) -> None:
            done[name] = fraction
            ready = sum(1 for value in done.values() if value >= 1)
            context.progress(
                REGISTERED * min(1.0, sum(done.values()) / count), f"{name}: {state} ({ready} of {count} atlases done)"
            )

        carried = carry(
            target, loader, settings, with_images=method.name == "local", watch=watch, cancelled=context.cancelled
        )
        context.check()
        consensus = fuse_carried(
            target,
            carried,
            method,
            lambda fraction, text: context.progress(REGISTERED + (1 - REGISTERED) * fraction, text),
            context.cancelled,
        )
        context.check()
        _fill(context, consensus)
        texts = [*warnings, *carried.warnings, *consensus.warnings]
        return _described(consensus, carried.table, texts, carried.rows, time.perf_counter() - started)

    def fuse_maps(self, context: Context) -> dict[str, Any]:
        """Label maps of one image, in the order of the parameter "order" -> fills the outputs labels and disagreement.

        Parameters: order, method ("vote" or "staple"), grid (its ijk_to_ras) of the outputs, table: label -> name and
        colour. -> see `_described`.
        """
        from hyperreg.fusion.methods import fuse
        from hyperreg.fusion.run import Method
        from hyperreg.fusion.stack import stack_labels
        from hyperreg.fusion.tables import Meaning

        started = time.perf_counter()
        method = Method(parameters.text(context, "method"))
        method.check(with_images=False)
        order = context.parameters.get("order")
        if not isinstance(order, list) or not order:
            raise InputError("Choose at least one label map.")
        context.progress(0.1, "Fusing")
        stack = stack_labels([parameters.volume(context, str(name)) for name in order], _grid(context))
        consensus = fuse(stack, method.name, cancelled=context.cancelled)
        context.check()
        _fill(context, consensus)
        table = {}
        for label, (name, colour) in dict(context.parameters.get("table") or {}).items():
            red, green, blue = (int(part) for part in colour)
            table[int(label)] = Meaning(str(name), (red, green, blue))
        return _described(consensus, table, consensus.warnings, [], time.perf_counter() - started)

    def _load(self, folder: Path) -> Loader:
        from hyperreg.fusion.atlases import Loader
        from hyperreg.fusion.library import find_atlases

        library = find_atlases(folder)
        files = [path for atlas in library.atlases for path in (atlas.image, atlas.labels)]
        try:
            stamp = (folder, *((path, path.stat().st_mtime_ns) for path in files))
        except OSError:
            stamp = ()
        if self._loader is None or not stamp or stamp != self._stamp:
            self._loader, self._stamp = Loader(library), stamp
        return self._loader


def _fill(context: Context, consensus: Consensus) -> None:
    context.outputs["labels"][...] = consensus.labels.array
    context.outputs["disagreement"][...] = consensus.disagreement.array


def _described(
    consensus: Consensus, table: Table, warnings: list[str], rows: list[AtlasRow], seconds: float
) -> dict[str, Any]:
    """structures (label, name, colour, volumes in ml), raters (see `RaterFigures`), atlases (see `AtlasRow`), method,
    disputed_percent, warnings, seconds.
    """
    from hyperreg.fusion.tables import structures_of

    structures = structures_of(consensus.stack.labels[1:].tolist(), table)
    volumes = {row.label: asdict(row) for row in consensus.structures()}
    return {
        "method": consensus.method,
        "structures": plain([{**volumes[s.label], "name": s.name, "colour": list(s.colour)} for s in structures]),
        "raters": plain([asdict(rater) for rater in consensus.raters()]),
        "atlases": plain([asdict(row) for row in rows]),
        "disputed_percent": 100 * consensus.stack.disputed.size / consensus.codes.size,
        "warnings": list(dict.fromkeys(warnings)),
        "seconds": seconds,
    }


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
