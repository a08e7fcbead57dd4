"""Which models' licences the user has accepted: asked once, before a model is first used, and written down.

Models that come with HyperReg are under its own licence, so they are not asked about. Reads and writes one small file:
no torch, so that every part can ask.
"""

from __future__ import annotations

import json
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from hyperreg.catalogue import own_models, read_json
from hyperreg.errors import FileError
from hyperreg.imaging.output import make_folder, replacing
from hyperreg.segmentation.catalogue import SegmentationCard

LICENCE = "LICENSE"
RECORD = "licences.json"
NO_LICENCE = "No licence comes with this model: ask whoever made it what you may do with it."


def licence_of(card: SegmentationCard) -> str:
    """What is to be shown before first use: the text that lies beside the weights, or the card's own word for it."""
    return written_licence(card.folder) or (f"Licence: {card.licence}" if card.licence else NO_LICENCE)


def written_licence(folder: Path) -> str:
    """The licence text in a model's folder; "" if there is none."""
    path = folder / LICENCE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def is_accepted(card: SegmentationCard) -> bool:
    """Whether the model can be used without asking: it comes with HyperReg, or these weights were accepted before."""
    return card.folder.resolve().parent != own_models().resolve() or card.sha256 in _read()


def accept(card: SegmentationCard) -> None:
    """Write down that the user accepts the licence. Raises FileError if that cannot be written."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds")
    entry = {"model": card.name, "version": card.version, "licence": card.licence, "accepted": now}
    _write({**_read(), card.sha256: entry})


def forget(card: SegmentationCard) -> None:
    """Ask again, should the model come back. Raises FileError."""
    record = _read()
    if record.pop(card.sha256, None) is not None:
        _write(record)


def _read() -> dict[str, Any]:
    """By the weights' SHA256: another version is another model. A damaged record means that users are asked again."""
    try:
        record = read_json(own_models() / RECORD)
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _write(record: dict[str, Any]) -> None:
    path = own_models() / RECORD
    try:
        make_folder(path.parent)
        with replacing(path) as target:
            target.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    except FileError as error:
        raise FileError(f"The record of accepted licences was not changed: {error}") from error
