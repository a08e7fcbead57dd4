"""DICOM in the app: the series of a folder, a DICOMDIR or a zip, and which of them is opened as which image."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.dicom import Listing, Series, list_series, read_series, two_patients
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import IMAGE_ROLES

Take = Callable[[str, Volume, list[str]], None]


class SeriesControls:
    """Lists the series of one source at a time, and opens them.

    state: the shared state. images(): the volumes that are open, by role. take(role, volume, notes): opens one.
    tell(text): an error. Patients' names and IDs never come into the page: it is only told that they differ.
    """

    def __init__(
        self,
        state: Any,
        files: PrivateFiles,
        images: Callable[[], Mapping[str, Volume]],
        take: Take,
        tell: Callable[[str], None],
    ) -> None:
        self._state, self._files, self._images, self._take, self._tell = state, files, images, take, tell
        self._series: tuple[Series, ...] = ()
        self._uploaded: Path | None = None
        # What was opened, by role.
        self._opened: dict[str, tuple[Volume, Series]] = {}

    async def look(self, place: Any) -> None:
        """Lists what lies at a place of the computer that HyperReg runs on."""
        typed = str(place).strip()
        if not typed:
            return
        try:
            source = Path(typed).expanduser()
            if not source.exists():
                raise FileError(f"'{typed}' does not exist on the computer that HyperReg runs on.")
            await self._list(source)
        except HyperRegError as error:
            with self._state:
                self._tell(str(error))

    async def accept_upload(self, path: Path) -> None:
        """Lists a zip that was uploaded. Raises HyperRegError; what was listed before stays then."""
        folder = self._files.new_folder()
        try:
            kept = path.rename(folder / path.name)
            await self._list(kept)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self._uploaded = folder

    async def open(self, number: Any, role: Any) -> None:
        """Opens a series, by its number in the list from 1 on, as the fixed or the moving image."""
        if role not in IMAGE_ROLES or not isinstance(number, int) or not 1 <= number <= len(self._series):
            return
        series = self._series[number - 1]
        with self._state:
            self._state.series_busy = f"Reading {series.description} ..."
        try:
            volume, notes = await asyncio.get_running_loop().run_in_executor(None, _read, series)
        except HyperRegError as error:
            with self._state:
                self._tell(str(error))
            return
        finally:
            with self._state:
                self._state.series_busy = ""
        for other, (opened, its_series) in self._opened.items():
            if other != role and self._images().get(other) is opened and (warning := two_patients(series, its_series)):
                notes.append(warning)
        self._opened[role] = volume, series
        with self._state:
            self._take(role, volume, notes)

    async def _list(self, source: Path) -> None:
        with self._state:
            self._state.series_busy = "Reading the headers ..."
        try:
            listing = await asyncio.get_running_loop().run_in_executor(None, list_series, source)
        finally:
            with self._state:
                self._state.series_busy = ""
        if not listing.series:
            raise InputError(f"'{source.name}' holds no DICOM files.")
        if self._uploaded is not None:
            shutil.rmtree(self._uploaded, ignore_errors=True)
            self._uploaded = None
        self._series = listing.series
        with self._state:
            self._state.error = ""
            self._state.series_found = _found(listing, source.name)
            rows = [_row(number, series) for number, series in enumerate(listing.series, 1)]
            self._state.series_rows = sorted(rows, key=lambda row: row["problem"] != "")


def _read(series: Series) -> tuple[Volume, list[str]]:
    notes: list[str] = []
    # Not the files' names: those of a disk say nothing, and may be the patient's.
    name = " ".join(part for part in (series.modality, series.description, series.date) if part)
    volume = read_series(series, name)
    return check_image(replace(volume, name=name), notes), notes


def _row(number: int, series: Series) -> dict[str, Any]:
    return {
        "number": number,
        "title": f"{series.modality} {series.description}",
        "about": ", ".join(part for part in (series.date, f"{series.images} images") if part),
        "problem": series.problem,
    }


def _found(listing: Listing, name: str) -> str:
    usable = sum(not series.problem for series in listing.series)
    patients = "" if listing.patients < 2 else f", of {listing.patients} patients"
    left_out = "" if not listing.warnings else " " + " ".join(listing.warnings[:3])
    return f"{name}: {usable} of {len(listing.series)} series can be opened{patients}.{left_out}"
