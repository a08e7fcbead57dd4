"""Registrations kept on disk, named by what they were made of, so that nothing is computed twice.

A file is complete or not there (written beside and moved), so several programs may use one folder at once. What
cannot be read is computed again; a disk that is full or a folder that is read-only costs the cache, not the result.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from hyperreg.errors import FileError, HyperRegError
from hyperreg.fusion.registering import Registered
from hyperreg.imaging.output import replacing
from hyperreg.imaging.volume import DisplacementField, Volume

VARIABLE = "HYPERREG_CACHE"
# The oldest files are removed beyond this.
LARGEST = 8 * 1024**3
ENDING = ".npz"


def default_folder() -> Path:
    """$HYPERREG_CACHE, or a folder of the user's."""
    chosen = os.environ.get(VARIABLE)
    if chosen:
        return Path(chosen)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "hyperreg" / "registrations"


def voxel_hash(volume: Volume) -> str:
    """SHA256 of a volume's voxels alone."""
    digest = hashlib.sha256(f"{volume.array.dtype.str} {volume.shape}".encode())
    digest.update(np.ascontiguousarray(volume.array).data)
    return digest.hexdigest()


def content_hash(volume: Volume) -> str:
    """SHA256 of a volume's voxels and place (to a micrometre: file headers round); names do not count."""
    rounded = np.round(volume.ijk_to_ras, 3) + 0.0  # no negative zeros
    return hashlib.sha256(voxel_hash(volume).encode() + rounded.tobytes()).hexdigest()


def key_of(**parts: Any) -> str:
    """The name of what is made of these parts (numbers, texts, lists)."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Cache:
    """Files of registrations in a folder; None keeps nothing. `problem`: why nothing is kept any more, or ""."""

    def __init__(self, folder: Path | None, largest: int = LARGEST) -> None:
        self.folder = folder
        self.largest = largest
        self.problem = ""

    def load(self, key: str) -> Registered | None:
        """What is kept under a key; None if nothing is, or nothing that can be read."""
        if self.folder is None:
            return None
        path = self.folder / (key + ENDING)
        try:
            with np.load(path, allow_pickle=False) as file:
                figures = {name: float(value) for name, value in json.loads(file["figures"].tobytes()).items()}
                field = DisplacementField(file["field"], file["ijk_to_ras"]) if "field" in file else None
                found = Registered(np.array(file["linear"]), field, figures)
            os.utime(path)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, HyperRegError):
            return None
        return found

    def save(self, key: str, registered: Registered) -> None:
        """Keep a registration. What goes wrong is told in `problem`, and nothing more is kept."""
        if self.folder is None or self.problem:
            return
        arrays: dict[str, Any] = {
            "linear": registered.linear,
            "figures": np.frombuffer(json.dumps(registered.figures).encode(), dtype=np.uint8),
        }
        if registered.field is not None:
            arrays |= {"field": registered.field.array, "ijk_to_ras": registered.field.ijk_to_ras}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / (key + ENDING)
            size = sum(array.nbytes for array in arrays.values()) + 65536
            with replacing(path, size) as target, target.open("wb") as file:
                np.savez(file, **arrays)
            self._make_room(self.folder)
        except (OSError, FileError) as error:
            self.problem = f"Registrations are not kept for the next time: {error}"

    def _make_room(self, folder: Path) -> None:
        files = []
        for path in folder.glob("*" + ENDING):
            try:
                files.append((path.stat().st_mtime, path.stat().st_size, path))
            except OSError:  # removed by another run
                continue
        total = sum(size for _time, size, _path in files)
        for _time, size, path in sorted(files)[:-1]:
            if total <= self.largest:
                break
            path.unlink(missing_ok=True)
            total -= size
