"""Images of the computer that the app runs on that were opened last: remembered between starts, or not at all."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hyperreg.catalogue import read_json
from hyperreg.errors import FileError, HyperRegError
from hyperreg.imaging.output import make_folder, replacing
from hyperreg.imaging.volume import Volume
from hyperreg.view.loading import read_role
from hyperreg.view.state import IMAGE_ROLES

MOST = 12
# Only this user may read where patients' images lie.
PERMISSIONS = 0o600
IMAGE, SERIES = "image", "series"


@dataclass(frozen=True)
class Place:
    """kind: IMAGE, which is opened as it is, or SERIES, a folder, DICOMDIR or zip whose series are listed."""

    path: str
    kind: str


class Recent:
    """The list, in a file: paths and nothing else of the images, the newest first.

    path: of the file; None: nothing is remembered, and cannot be. A file that cannot be read remembers nothing either,
    until it is switched on again: it may have been off.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path

    @property
    def is_possible(self) -> bool:
        return self._path is not None

    def read(self) -> tuple[bool, list[Place]]:
        """Whether places are remembered, and which. Read each time: another app may have written it."""
        if self._path is None:
            return False, []
        if not self._path.exists():
            return True, []
        try:
            found = read_json(self._path)
            places = [Place(str(entry["path"]), str(entry["kind"])) for entry in found["places"]]
            return found["remember"] is True, [place for place in places if place.kind in (IMAGE, SERIES)][:MOST]
        except (OSError, ValueError, KeyError, TypeError):
            return False, []

    def add(self, path: Path, kind: str) -> None:
        """Remembers a place that was opened, if that is wanted. Raises FileError if it cannot be written."""
        remember, places = self.read()
        if remember:
            place = Place(str(path.expanduser().absolute()), kind)
            self._write(True, [place, *(other for other in places if other.path != place.path)][:MOST])

    def set_remembered(self, on: bool) -> None:
        """Whether places are remembered from now on; off forgets them all. Raises FileError if it cannot be written."""
        remember, places = self.read()
        if self._path is not None and remember is not on:
            self._write(on, places if on else [])

    def _write(self, remember: bool, places: list[Place]) -> None:
        path = self._path
        if path is None:
            return
        # What is no text in a path is written with JSON's own escapes.
        text = json.dumps({"remember": remember, "places": [asdict(place) for place in places]}, indent=2)
        try:
            make_folder(path.parent)
            with replacing(path) as target:
                target.touch(PERMISSIONS)
                target.write_text(text + "\n", encoding="utf-8")
            path.chmod(PERMISSIONS)  # an older file may have been readable for others
        except OSError as error:
            raise FileError(f"'{path}' could not be protected from others: {error.strerror or error}.") from error
        except FileError as error:
            raise FileError(f"The list of recent images was not changed: {error}") from error


class RecentControls:
    """The controller's part for recent images.

    state: the shared state. take(role, volume, notes, names): opens an image. look(place): lists DICOM series.
    tell(text): an error.
    """

    def __init__(
        self,
        state: Any,
        recent: Recent,
        take: Callable[[str, Volume, list[str], Mapping[int, str]], None],
        look: Callable[[str], Awaitable[None]],
        tell: Callable[[str], None],
    ) -> None:
        self._state, self._recent, self._take, self._look, self._tell = state, recent, take, look, tell
        self._places: list[Place] = []
        self.update()

    @property
    def is_possible(self) -> bool:
        """Whether anything can be remembered."""
        return self._recent.is_possible

    def update(self) -> None:
        """Shows the list as it is now."""
        remember, self._places = self._recent.read()
        self._state.recent_kept = remember
        self._state.recent_rows = [_row(number, place) for number, place in enumerate(self._places, 1)]

    def opened(self, path: Path, kind: str) -> None:
        """A place of this computer was opened; that it cannot be remembered is no reason to disturb anybody."""
        with contextlib.suppress(FileError):
            self._recent.add(path, kind)
        self.update()

    def set_remembered(self, on: Any) -> None:
        """The switch: off forgets all of them."""
        if isinstance(on, bool):
            try:
                self._recent.set_remembered(on)
            except FileError as error:
                self._tell(str(error))
        self.update()

    async def open(self, number: Any, role: Any) -> None:
        """Opens an image, by its number in the list from 1 on, as the fixed or the moving one; or lists its series."""
        if not isinstance(number, int) or not 1 <= number <= len(self._places):
            return
        place = self._places[number - 1]
        if place.kind == SERIES:
            with self._state:
                unfolded = self._state.image_sections
                self._state.image_sections = unfolded if SERIES in unfolded else [*unfolded, SERIES]
                self._state.series_source = _text(place.path)
            await self._look(place.path)
            return
        if role not in IMAGE_ROLES or self._state.uploading:
            return
        path, notes = Path(place.path), list[str]()
        with self._state:
            self._state.uploading = role
        try:
            # No upload: a header may name the file with the voxels beside it.
            read = asyncio.get_running_loop().run_in_executor(None, read_role, role, path, notes.append, False)
            volume, names = await read
        except HyperRegError as error:
            with self._state:
                self._tell(str(error))
            return
        finally:
            with self._state:
                self._state.uploading = ""
        with self._state:
            self._take(role, volume, notes, names)
            self.opened(path, IMAGE)


def _row(number: int, place: Place) -> dict[str, Any]:
    path = _text(place.path)
    return {"number": number, "name": Path(path).name or path, "path": path, "series": place.kind == SERIES}


def _text(path: str) -> str:
    """For the page: bytes of a name that are no text become question marks."""
    return path.encode("utf-8", "replace").decode("utf-8")
