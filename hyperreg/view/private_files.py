"""A private folder for what the browser sends and fetches, gone when the app ends."""

from __future__ import annotations

import atexit
import re
import secrets
import shutil
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import extension
from hyperreg.imaging.points import READABLE as READABLE_POINTS
from hyperreg.scratch import ScratchFolder

READABLE = (".nii", ".nii.gz", ".nrrd", ".mha", ".mgz", ".mgh")
MODEL = ".zip"
UPLOAD_LIMIT_BYTES = 1 << 30
NAME_LENGTH = 80


@dataclass(frozen=True)
class Download:
    """A file to fetch. key: what its address ends with, not to be guessed. title: what it is, for the user."""

    key: str
    title: str
    path: Path

    @property
    def name(self) -> str:
        return self.path.name


class PrivateFiles:
    """Uploads and downloads in one folder that only this user can read.

    limit: bytes that one upload may have. Raises FileError if there is no place for the folder.
    """

    def __init__(self, limit: int = UPLOAD_LIMIT_BYTES) -> None:
        self.limit = limit
        try:
            self._scratch = ScratchFolder("hyperreg-view-")
        except OSError as error:
            raise FileError(f"There is no place for temporary files: {error.strerror or error}.") from error
        self.folder = self._scratch.path
        # By what they are the result of: another registration does not end the download of a segmentation.
        self._downloads: dict[str, list[Download]] = {}
        atexit.register(self.remove)

    def remove(self) -> None:
        """Deletes the folder; also called when Python exits. If it is killed, the next start of the app does it."""
        self._scratch.close()
        atexit.unregister(self.remove)

    async def receive(self, name: str, chunks: AsyncIterator[bytes], announced: int | None) -> Path:
        """Stores an upload; returns where.

        name: as the browser calls the file; only its letters are trusted. announced: Content-Length, if there was one.
        Raises InputError for a format that is not read or a file that is too large, FileError if it cannot be stored.
        """
        clean = safe_name(name)
        if extension(clean) not in READABLE and not clean.lower().endswith((*READABLE_POINTS, MODEL)):
            raise InputError(
                f"'{clean}' is no image file that can be uploaded. Use {', '.join(READABLE)}. "
                "A DICOM series: as a zip, under 'DICOM'."
            )
        if announced is not None and announced > self.limit:
            raise InputError(self._too_large(clean))
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        path, size = folder / clean, 0
        try:
            with path.open("xb") as file:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > self.limit:
                        raise InputError(self._too_large(clean))
                    file.write(chunk)
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise FileError(f"'{clean}' could not be stored: {error.strerror or error}.") from error
        except BaseException:  # also when the browser goes away in the middle
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return path

    def discard(self, path: Path) -> None:
        """Deletes an upload, once it is in memory."""
        if path.parent.parent == self.folder:
            shutil.rmtree(path.parent, ignore_errors=True)

    def new_folder(self) -> Path:
        """For results that are about to be written."""
        return Path(tempfile.mkdtemp(dir=self.folder))

    def offer(self, files: list[tuple[str, Path]], kind: str = "registration") -> list[dict[str, str]]:
        """Offers (title, path) for download instead of what was offered before of that kind, which is deleted.

        Returns what the page wants: title, name and url of each.
        """
        folders = {entry.path.parent for entry in self._downloads.get(kind, [])} - {path.parent for _, path in files}
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        entries = [Download(secrets.token_urlsafe(12), title, path) for title, path in files]
        self._downloads[kind] = entries
        return [
            {"title": entry.title, "name": entry.name, "url": f"download/{entry.key}/{entry.name}"} for entry in entries
        ]

    def without_places(self, text: str, path: Path) -> str:
        """A message about an upload, without where it lies here, which is nobody's business."""
        for place in (path.parent, path.parent.resolve(), self.folder, self.folder.resolve()):
            text = text.replace(f"{place}/", "").replace(f"{place}\\", "").replace(str(place), path.name)
        return text

    def find(self, key: str) -> Download | None:
        return next((entry for entries in self._downloads.values() for entry in entries if entry.key == key), None)

    def _too_large(self, name: str) -> str:
        return (
            f"'{name}' is larger than {self.limit / (1 << 20):.0f} MB, the limit for uploads. "
            "Start the app with FIXED=file or MOVING=file instead: then nothing has to be uploaded."
        )


def safe_name(name: str) -> str:
    """A file name without folders, hidden-file dots, control characters or anything that a shell or header minds."""
    last = re.split(r"[/\\]", name)[-1]
    clean = re.sub(r"[^A-Za-z0-9._-]+", "_", last).lstrip(".-")
    ending = extension(clean)
    stem = clean[: len(clean) - len(ending)] if ending else clean
    return (stem[:NAME_LENGTH] or "image") + ending[:10]


def zip_up(folder: Path) -> Path:
    """Makes a folder one file beside it, `folder`.zip, which can be downloaded. Raises FileError if it cannot."""
    try:
        archive = shutil.make_archive(str(folder), "zip", folder)
    except OSError as error:
        raise FileError(f"The files could not be put into a zip: {error.strerror or error}.") from error
    shutil.rmtree(folder)
    return Path(archive)
