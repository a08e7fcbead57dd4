"""DICOM in the app: the series of a folder, a DICOMDIR or a zip, and which of them is opened as which image."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.dicom import Listing, Series, list_series, read_series, two_patients
from hyperreg.imaging.dicom.identity import sources_of
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume
from hyperreg.mrml.lifecycle import ignore
from hyperreg.view.private_files import PrivateFiles
from hyperreg.view.state import IMAGE_ROLES

if TYPE_CHECKING:
    from pydicom import Dataset

Take = Callable[[str, Volume, list[str]], None]


@dataclass(frozen=True, eq=False)
class Opened:
    """A series that was opened. headers: what results refer to; or the reason why they cannot."""

    series: Series
    volume: Volume
    headers: list[Dataset] | str

    @property
    def nameless(self) -> str:
        """What the image is called where patient data is left out: its description and date may tell of whom it is."""
        return f"DICOM {self.series.modality}".strip()


class SeriesControls:
    """Lists the series of one source at a time, and opens them.

    state: the shared state. images(): the volumes that are open, by role. take(role, volume, notes): opens one.
    tell(text): an error. on_listed(place): a place of the computer that HyperReg runs on was listed.
    Patients' names and IDs never come into the page: it is only told that they differ.
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
        self.on_listed: Callable[[Path], None] = ignore
        self._series: tuple[Series, ...] = ()
        self._uploaded: Path | None = None
        # What is open, and what is about to be.
        self._opened: list[Opened] = []

    def hold(self) -> list[Opened]:
        """The series that are open, so that `bring_back` can bring them back whatever is opened meanwhile."""
        return [found for role in IMAGE_ROLES if (found := self.opened(role)) is not None]

    def bring_back(self, held: Sequence[Opened]) -> None:
        """These series are open again."""
        self._opened = list(held)

    def opened(self, role: str) -> Opened | None:
        """The series that is open as that image; None if it is another file."""
        image = self._images().get(role)
        return next((one for one in self._opened if one.volume is image), None)

    def both(self) -> list[Opened]:
        """The fixed and the moving series; empty unless both open images are series."""
        found = [one for role in IMAGE_ROLES if (one := self.opened(role)) is not None]
        return found if len(found) == len(IMAGE_ROLES) else []

    def sources(self, leave_out_patient: bool) -> list[list[Dataset]]:
        """The headers of both series, fixed and moving. Raises InputError if results cannot or must not refer to them.

        leave_out_patient: whether results will be without patient data.
        """
        both = self.both()
        if not leave_out_patient and two_patients(*(one.series for one in both)):
            raise InputError(
                "The DICOM headers name different patients for the two images: objects that connect them are not "
                "written, or one patient's images would lie in the other's record. Choose to leave out patient data, "
                "if that is meant. All other files are there."
            )
        headers = [one.headers for one in both]
        for reason in headers:
            if isinstance(reason, str):
                raise InputError(reason)
        return [one for one in headers if not isinstance(one, str)]

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
            with self._state:
                self.on_listed(source)
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
            opened, notes = await asyncio.get_running_loop().run_in_executor(None, _read, series)
        except HyperRegError as error:
            with self._state:
                self._tell(str(error))
            return
        finally:
            with self._state:
                self._state.series_busy = ""
        self._opened = [opened, *self.hold()]
        other = self.opened(next(one for one in IMAGE_ROLES if one != role))
        if other is not None and (warning := two_patients(series, other.series)):
            notes.append(warning)
        with self._state:
            self._take(role, opened.volume, notes)

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


def _read(series: Series) -> tuple[Opened, list[str]]:
    notes: list[str] = []
    # Not the files' names: those of a disk say nothing, and may be the patient's.
    name = " ".join(part for part in (series.modality, series.description, series.date) if part)
    volume = read_series(series, name)
    headers: list[Dataset] | str
    try:
        headers = sources_of(series)
    except HyperRegError as error:
        headers = str(error)
    return Opened(series, check_image(replace(volume, name=name), notes), headers), notes


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
