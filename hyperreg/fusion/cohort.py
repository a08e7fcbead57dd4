"""Many targets by the same atlases: resumable, one failure does not stop the rest, a table of quality figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import hyperreg
from hyperreg.errors import Cancelled, HyperRegError, InputError
from hyperreg.fusion.atlases import AtlasSettings, Loader
from hyperreg.fusion.cache import content_hash, key_of
from hyperreg.fusion.library import LABELS, find_atlases, images_in
from hyperreg.fusion.records import AtlasOutcome
from hyperreg.fusion.run import Method, Outputs, fuse_target
from hyperreg.imaging.files import extension, read_volume
from hyperreg.imaging.output import make_folder, replacing
from hyperreg.imaging.streams import same_file
from hyperreg.registration.catalogue import default_model, find_model
from hyperreg.reporting import Cancel, Progress, write_report

COHORT_TABLE = "quality.csv"


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

    For each target NAME, `folder` gets NAME_labels, NAME_report.json. Targets whose report is there already, made of
    the same voxels by the same atlases, model, version and settings, are not done again. One that fails is a row with
    its error. Atlases are read once.
    Raises InputError or FileError for folders that cannot be used, Cancelled.
    """
    method.check(with_images=True)
    loader = Loader(find_atlases(atlases))
    images = _targets_in(targets, loader, own=Path(atlases).resolve() == Path(targets).resolve())
    for given in (targets, atlases):
        if same_file(folder, given):
            raise InputError(f"Results in '{folder}' could replace what is there; give --out a folder of its own.")
    make_folder(folder)
    tell = progress or (lambda _fraction, _text: None)
    rows: list[dict[str, Any]] = []
    atlases_hash = _hash_of(loader)
    for number, path in enumerate(images):
        name = path.name[: -len(extension(path))]
        out = Outputs(folder / f"{name}{LABELS}{ending}", report=folder / f"{name}_report.json")
        part = _part(tell, number, len(images), name)
        try:
            how = _how(settings, method, atlases_hash, content_hash(read_volume(path)))
            known = _known(out, how)
            if known is not None:
                rows.append(_cohort_row(name, known, "done before"))
            else:
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


def _targets_in(folder: Path, loader: Loader, *, own: bool) -> list[Path]:
    """The images of a folder; of one that holds the atlases, too, those that are atlases."""
    images = images_in(folder)
    if own:
        images = [path for path in images if path in {atlas.image for atlas in loader.library.atlases}]
    if not images:
        raise InputError(f"'{folder}' holds no image.")
    return images


def _part(tell: Progress, number: int, count: int, name: str) -> Progress:
    return lambda fraction, text: tell((number + fraction) / count, f"{name}: {text}")


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


def _known(outputs: Outputs, how: dict[str, Any]) -> dict[str, Any] | None:
    """The report of a result that is there and was made in the same way."""
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


def _write_rows(rows: Sequence[dict[str, Any]], path: Path) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(path) as target, target.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)
