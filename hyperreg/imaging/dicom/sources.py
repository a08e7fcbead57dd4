"""Where DICOM files come from: a folder, the medium that a DICOMDIR describes, or a zip (never unpacked to disk)."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from hyperreg.errors import FileError, InputError

PREAMBLE = 128
MARK = b"DICM"
# Of data without a mark: group, element, type or length; the numbers of their first elements, and how long these are.
MARKS_OF_DATA, FIRST_ELEMENTS, LONGEST_FIRST = 8, 0x20, 256
BARE = "DICOM without the mark at its beginning, which HyperReg does not read. dcmconv of DCMTK adds it."
ZIP_MARK = b"PK\x03\x04"
# More files than any study has: a whole disk was given by mistake.
MOST_FILES = 200_000


@dataclass(frozen=True)
class Entry:
    """One file of a source.

    name: what messages call it, relative to the source. size: bytes, uncompressed. path: on disk; None in a zip.
    """

    name: str
    size: int
    path: Path | None = None
    archive: zipfile.ZipFile | None = field(default=None, repr=False, compare=False)

    def open(self) -> BinaryIO:
        """The file, to be read and sought in. Raises FileError if it cannot be opened."""
        try:
            if self.archive is not None:
                return self.archive.open(self.name)  # type: ignore[return-value]
            return open(self.path or self.name, "rb")
        except (OSError, RuntimeError, NotImplementedError, zipfile.BadZipFile) as error:
            raise FileError(f"'{self.name}' cannot be opened: {_reason(error)}.") from error

    def read(self) -> bytes:
        """The whole file. Raises FileError if it cannot be read or is damaged."""
        try:
            with self.open() as file:
                return file.read()
        except FileError:
            raise
        except Exception as error:
            raise FileError(f"'{self.name}' cannot be read: {_reason(error)}.") from error

    def start(self) -> bytes:
        """Its first bytes: a preamble and DICOM's mark. Raises FileError if they cannot be read."""
        with self.open() as file:
            try:
                return file.read(PREAMBLE + len(MARK))
            except Exception as error:
                raise FileError(f"'{self.name}' cannot be read: {_reason(error)}.") from error


def is_bare(start: bytes) -> bool:
    """Whether a file begins as DICOM's data do (groups 2 and 8), without preamble and mark, as old programs wrote."""
    group, element = start[:2], int.from_bytes(start[2:4], "little")
    told = start[4:6].isalpha() and start[4:6].isupper()
    return (
        len(start) >= MARKS_OF_DATA
        and group in (b"\x02\0", b"\x08\0")
        and element < FIRST_ELEMENTS
        and (told or 0 < int.from_bytes(start[4:8], "little") < LONGEST_FIRST)
    )


def is_bare_file(path: Path) -> bool:
    """Whether a file is DICOM without preamble and mark. Raises OSError if it cannot be opened."""
    with open(path, "rb") as file:
        return is_bare(file.read(MARKS_OF_DATA))


def is_dicom_file(path: Path) -> bool:
    """Whether a file carries DICOM's mark after its 128 bytes of preamble. Raises OSError if it cannot be opened."""
    with open(path, "rb") as file:
        return file.read(PREAMBLE + len(MARK))[PREAMBLE:] == MARK


def is_zip_file(path: Path) -> bool:
    """Whether a file begins as a zip does. Raises OSError if it cannot be opened."""
    with open(path, "rb") as file:
        return file.read(len(ZIP_MARK)) == ZIP_MARK


def entries_of_folder(folder: Path, recursive: bool = True) -> list[Entry]:
    """The files below a folder, sorted by name; links to folders are not followed.

    Raises FileError if a folder cannot be read, InputError if there are more than MOST_FILES.
    """
    found: list[Entry] = []
    try:
        for path in _walk(folder, recursive):
            found.append(Entry(str(path.relative_to(folder)), path.stat().st_size, path))
            if len(found) > MOST_FILES:
                raise InputError(
                    f"The folder '{folder}' holds more than {MOST_FILES} files. Give the folder of one study or series."
                )
    except OSError as error:
        raise FileError(f"The folder '{folder}' cannot be read: {_reason(error)}.") from error
    return found


def entries_of_zip(path: Path) -> list[Entry]:
    """The members of a zip, sorted by name. Raises FileError if it is damaged or encrypted."""
    try:
        archive = zipfile.ZipFile(path)
        members = archive.infolist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise FileError(f"'{path}' is not a zip that can be read: {_reason(error)}. Copy it again.") from error
    if len(members) > MOST_FILES:
        raise InputError(f"'{path}' holds more than {MOST_FILES} files. Give a zip of one study or series.")
    if any(member.flag_bits & 0x1 for member in members):
        raise FileError(f"'{path}' is protected by a password. Unpack it, and give the folder.")
    files = sorted((member for member in members if not member.is_dir()), key=lambda member: member.filename)
    return [Entry(member.filename, member.file_size, archive=archive) for member in files]


def entries_of_directory(path: Path, referenced: list[list[str]]) -> tuple[list[Entry], int]:
    """The files that a DICOMDIR names, and how many of these are not there.

    referenced: Referenced File IDs, each as its parts. Names outside the DICOMDIR's own folder count as not there.
    """
    root = path.absolute().parent
    found: list[Entry] = []
    missing = 0
    for parts in referenced:
        file = _on_disk(root, parts)
        if file is None:
            missing += 1
        else:
            found.append(Entry(str(file.relative_to(root)), file.stat().st_size, file))
    return found, missing


def _on_disk(root: Path, parts: list[str]) -> Path | None:
    """The file of a Referenced File ID; media copied to a disk have their names in either case."""
    place = root
    for part in parts:
        if part in ("", ".", "..") or set(part) & {"/", "\\", "\0"}:
            return None
        step = place / part
        if not step.exists():
            try:
                step = next((other for other in place.iterdir() if other.name.upper() == part.upper()), step)
            except OSError:
                return None
        place = step
    return place if place.is_file() else None


def _walk(folder: Path, recursive: bool) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for place, folders, names in os.walk(folder, onerror=fail):
        folders.sort()
        if not recursive:
            folders.clear()
        for name in sorted(names):
            file = Path(place, name)
            if file.is_file():
                yield file


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).strip().rstrip(".") or type(error).__name__
