"""The series of a folder, DICOMDIR or zip: listed from their headers, chosen, and read as one volume."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from hyperreg.errors import FileError, HyperRegError, InputError
from hyperreg.imaging.dicom import geometry, pixels
from hyperreg.imaging.dicom.frames import Frame, frames_of
from hyperreg.imaging.dicom.headers import Instance, Kind, parsing, read_header
from hyperreg.imaging.dicom.sources import (
    BARE,
    MARK,
    PREAMBLE,
    Entry,
    entries_of_directory,
    entries_of_folder,
    entries_of_zip,
    is_bare,
    is_dicom_file,
    is_zip_file,
)
from hyperreg.imaging.structures import LabelMap
from hyperreg.imaging.volume import Volume

# Series with fewer slices are localisers or single images: not taken where another series is a volume.
FEWEST_SLICES = 4
MOST_LISTED = 12
# A file that was damaged or cut has at least this share of what others of its kind have.
SMALLEST = 0.5


@dataclass(frozen=True, eq=False)
class Series:
    """Files with one Series Instance UID, of one patient; `instances` is never empty."""

    instances: tuple[Instance, ...]

    @property
    def first(self) -> Instance:
        return self.instances[0]

    @property
    def kind(self) -> Kind:
        return self.first.kind

    @property
    def modality(self) -> str:
        return self.first.text("Modality") or "?"

    @property
    def description(self) -> str:
        return self.first.text("SeriesDescription") or "without description"

    @property
    def date(self) -> str:
        """Of the acquisition, else of the series or study: YYYY-MM-DD, or "" if no header tells."""
        keywords = ("AcquisitionDate", "SeriesDate", "StudyDate", "ContentDate")
        digits = next((text for keyword in keywords if (text := self.first.text(keyword))), "")
        return f"{digits[:4]}-{digits[4:6]}-{digits[6:8]}" if len(digits) == 8 and digits.isdigit() else digits

    @property
    def patient(self) -> str:
        """Patient ID, or the name where there is no ID."""
        return self.first.text("PatientID") or self.first.text("PatientName")

    @property
    def images(self) -> int:
        """How many images (frames) it holds."""
        return sum(instance.frame_count for instance in self.instances)

    @property
    def example(self) -> str:
        """The name of one of its files."""
        return self.first.name

    @cached_property
    def unique(self) -> list[Instance]:
        """The instances, each once: a folder often holds a file twice, as a copy under another name."""
        return list(
            {instance.text("SOPInstanceUID") or instance.name: instance for instance in self.instances}.values()
        )

    @cached_property
    def problem(self) -> str:
        """Why the series is no volume, as its headers show; "" if it is one."""
        try:
            if self.kind != "image":
                return f"It holds {self.first.what}."
            frames = self.frames()
            geometry.stack(frames, self.description)
        except HyperRegError as error:
            return str(error)
        if len(frames) >= FEWEST_SLICES:
            return ""
        images = "1 image" if len(frames) == 1 else f"{len(frames)} images"
        return f"It has only {images}; a volume has at least {FEWEST_SLICES}."

    def frames(self) -> list[Frame]:
        """All slices, each once, in the order of the files. Raises what `frames_of` raises."""
        return [frame for instance in self.unique for frame in frames_of(instance)]

    def __str__(self) -> str:
        parts = [self.modality, f"'{self.description}'", self.date, f"{self.images} image(s)", f"e.g. {self.example}"]
        return ", ".join(part for part in parts if part)


@dataclass(frozen=True)
class Listing:
    """What a source holds. series: images first, as studied. warnings: files that could not be read, or are missing."""

    series: tuple[Series, ...]
    warnings: tuple[str, ...] = ()

    @property
    def patients(self) -> int:
        """How many patients there are."""
        return len({series.patient for series in self.series})


def list_series(path: Path) -> Listing:
    """The series of a folder (with its subfolders), a DICOMDIR or a zip, without reading pixels.

    Numbered from 1, in the order of the list, where `SOURCE#NUMBER` is written for a path.
    Raises FileError if the source cannot be read.
    """
    if path.is_dir():
        return _listing(entries_of_folder(path))
    if is_dicom_file(path):
        return _listing(*_entries_of_dicomdir(path))
    if not is_zip_file(path):
        raise FileError(f"'{path}' is neither a folder, nor a DICOM file, nor a zip.")
    return _listing(entries_of_zip(path))


def find_series(path: Path) -> tuple[Series, list[str]]:
    """The series that a path means, and what the user should know of the choice.

    path: a folder, DICOMDIR or zip with one series that is a volume; such a source and the number of a series in its
    list (`SOURCE#NUMBER`); or one file: all slices of its series in the same folder, or its own frames.
    Raises InputError if there is a choice of several, FileError if there is no image or something is damaged.
    """
    path, number = split_number(path)
    if path.is_dir() or not is_dicom_file(path):
        return _chosen(list_series(path), path, number)
    file = path.absolute()
    instance = read_header(Entry(path.name, file.stat().st_size, file))
    if instance.kind == "directory":
        return _chosen(list_series(path), path, number)
    if number is not None:
        raise InputError(f"'{path.name}' is one DICOM file; only folders, DICOMDIRs and zips have numbered series.")
    if instance.kind == "other":
        raise InputError(
            f"'{path.name}' holds {instance.what}, not an image. Give the image series that belongs to it."
        )
    in_one_file = instance.frame_count > 1 and instance.whole_number("InConcatenationTotalNumber", 1) == 1
    if instance.kind == "segmentation" or in_one_file:
        return Series((instance,)), []
    listing = _listing(entries_of_folder(file.parent, recursive=False))
    for series in listing.series:
        if any(other.name == path.name for other in series.instances):
            return series, list(listing.warnings)
    raise FileError(f"'{path}' cannot be read as a DICOM image; it is damaged.")


def read_dicom(path: Path) -> Volume:
    """The volume that a path means (see `find_series`), in RAS mm; a segmentation object becomes a label map.

    Raises InputError if it is no volume or no codec reads it, FileError if it is damaged, OutOfMemory if it cannot fit.
    """
    series, notes = find_series(path)
    return _with_warnings(read_series(series, _name_of(path)), notes)


def split_number(path: Path) -> tuple[Path, int | None]:
    """A path and the number of a series behind it (`SOURCE#NUMBER`); None if there is none, or such a file exists."""
    source, mark, number = path.name.rpartition("#")
    if os.path.exists(path) or not mark or not number.isdecimal() or not source:
        return path, None
    return path.with_name(source), int(number)


def read_series(series: Series, name: str) -> Volume:
    """A series of images as a volume, in RAS mm. Raises what `geometry.stack` and `pixels.values_of` raise."""
    if series.kind == "segmentation":
        return _segments(series, name).flat
    warnings = _check_copies(series, name)
    frames = series.frames()
    stack = geometry.stack(frames, name)
    values = pixels.values_of([frames[index] for index in stack.order], name, warnings)
    array = np.ascontiguousarray(values.transpose(2, 1, 0))
    return _with_warnings(Volume(array, stack.ijk_to_ras, name), [*warnings, *stack.warnings])


def read_segmentation(path: Path) -> LabelMap | None:
    """The segments of a path that means a segmentation object, with their names; None for all other paths.

    Raises as `read_dicom`.
    """
    if not is_dicom_source(path):
        return None
    series, notes = find_series(path)
    if series.kind != "segmentation":
        return None
    return replace(_segments(series, _name_of(path)), warnings=tuple(notes))


def _segments(series: Series, name: str) -> LabelMap:
    from hyperreg.imaging.dicom.segmentations import read_segmentation

    if len(series.unique) > 1:
        raise InputError(
            f"The DICOM series '{name}' holds {len(series.unique)} segmentation objects. Give the file of one of them, "
            f"such as '{series.example}'."
        )
    return read_segmentation(series.first.entry, name)


def _name_of(path: Path) -> str:
    source, _ = split_number(path)
    return source.stem if source.is_file() else source.absolute().name


def _with_warnings(volume: Volume, warnings: Sequence[str]) -> Volume:
    return replace(volume, warnings=(*volume.warnings, *warnings))


def _listing(entries: Sequence[Entry], warnings: Sequence[str] = ()) -> Listing:
    groups: dict[tuple[str, ...], list[Instance]] = {}
    unreadable: list[str] = []
    unmarked: list[Entry] = []
    bare: list[Entry] = []
    for entry in entries:
        try:
            start = entry.start()
            if start[PREAMBLE:] != MARK:
                (bare if is_bare(start) else unmarked).append(entry)
                continue
            instance = read_header(entry)
            # What is listed later must not fail later.
            key = (instance.kind, *(instance.text(k) for k in ("SeriesInstanceUID", "PatientID", "PatientName")))
            instance.whole_number("NumberOfFrames", 1)
        except FileError:
            unreadable.append(entry.name)
            continue
        if instance.kind != "directory":
            groups.setdefault(key, []).append(instance)
    unreadable += _lost(unmarked, [instance.entry for group in groups.values() for instance in group])
    if unreadable:
        warnings = [*warnings, f"{len(unreadable)} file(s) cannot be read and were left out, e.g. {unreadable[0]}."]
    if bare:
        warnings = [*warnings, f"{len(bare)} file(s) were left out, e.g. {bare[0].name}: {BARE}"]
    series = [Series(tuple(sorted(group, key=_number))) for group in groups.values()]
    return Listing(tuple(sorted(series, key=_order)), tuple(warnings))


def _lost(unmarked: Sequence[Entry], read: Sequence[Entry]) -> list[str]:
    """The names of files without DICOM's mark that must have been DICOM: called like those that are.

    Where these have no ending, about as large, too. Hidden files are a system's own, such as macOS' "._" ones.
    """
    kinds: dict[str, list[int]] = {}
    for entry in read:
        kinds.setdefault(_ending(entry), []).append(entry.size)
    return [
        entry.name
        for entry in unmarked
        if not Path(entry.name).name.startswith(".")
        and (sizes := kinds.get(_ending(entry)))
        and (_ending(entry) or SMALLEST * min(sizes) <= entry.size <= max(sizes) / SMALLEST)
    ]


def _ending(entry: Entry) -> str:
    """ ".dcm"; "" for names that end in numbers (UIDs) or have no ending."""
    ending = Path(entry.name).suffix.lower()
    return "" if ending[1:].isdecimal() else ending


def _number(instance: Instance) -> tuple[int, str]:
    try:
        return instance.whole_number("InstanceNumber", 0), instance.name
    except FileError:
        return 0, instance.name


def _order(series: Series) -> tuple[bool, str, str, int, str]:
    """Images first, then by patient, date and number: the same list for the same files."""
    try:
        number = series.first.whole_number("SeriesNumber", 0)
    except FileError:
        number = 0
    return series.kind != "image", series.patient, series.date, number, series.first.text("SeriesInstanceUID")


def _chosen(listing: Listing, path: Path, number: int | None) -> tuple[Series, list[str]]:
    """The series to read, and what the user should know of the choice."""
    if number is not None:
        if not 1 <= number <= len(listing.series):
            raise InputError(f"'{path}' holds {len(listing.series)} DICOM series; there is no number {number}.")
        series = listing.series[number - 1]
        if series.kind == "other":
            raise InputError(
                f"Series {number} of '{path}' holds {series.first.what}, not an image. Choose another one."
            )
        return series, list(listing.warnings)
    images = [series for series in listing.series if series.kind == "image"]
    drawn = [series for series in listing.series if series.kind == "segmentation"]
    if not images and len(drawn) == 1:
        return drawn[0], list(listing.warnings)
    if not images:
        others = sorted({series.first.what for series in listing.series})
        held = f", only {', '.join(others)}" if others else ""
        # What could not be read is the likelier reason than an empty folder.
        damaged = f" {' '.join(listing.warnings)}" if listing.warnings else ""
        raise FileError(
            f"'{path}' holds no DICOM images{held}.{damaged} Give the folder of one series, or an image file."
        )
    if len(images) == 1:
        return images[0], list(listing.warnings)
    volumes = [series for series in images if not series.problem]
    if len(volumes) == 1:
        taken = f"'{path.name}' holds {len(images)} DICOM image series; the only volume was taken: {volumes[0]}."
        return volumes[0], [*listing.warnings, taken]
    patients = f" of {listing.patients} patients" if listing.patients > 1 else ""
    listed = "; ".join(f"#{listing.series.index(series) + 1} {series}" for series in images[:MOST_LISTED])
    more = f"; and {len(images) - MOST_LISTED} more" if len(images) > MOST_LISTED else ""
    raise InputError(
        f"'{path}' holds {len(images)} DICOM series{patients}: {listed}{more}. Choose one by its number (as in "
        f"'{path.name}#1') or give one file of the series. `hyperreg dicom` lists them."
    )


def _entries_of_dicomdir(path: Path) -> tuple[list[Entry], list[str]]:
    instance = read_header(Entry(path.name, path.stat().st_size, path.absolute()))
    if instance.kind != "directory":
        raise InputError(f"'{path}' is one DICOM file, not a folder, DICOMDIR or zip with series.")
    with parsing(path.name):
        files = [record.get("ReferencedFileID") for record in instance.header.get("DirectoryRecordSequence") or ()]
        referenced = [[file] if isinstance(file, str) else [str(part) for part in file] for file in files if file]
        entries, missing = entries_of_directory(path, referenced)
    warnings = [f"{missing} of {len(referenced)} files that '{path.name}' names are not there."] if missing else []
    return entries, warnings


def _check_copies(series: Series, name: str) -> list[str]:
    """A warning if files are there twice. Raises InputError if two files with one SOP Instance UID differ."""
    kept = {instance.text("SOPInstanceUID"): instance for instance in series.unique}
    copies = [instance for instance in series.instances if instance not in series.unique]
    for copy in copies:
        other = kept[copy.text("SOPInstanceUID")]
        if _digest(other) != _digest(copy):
            raise InputError(
                f"The DICOM series '{name}' holds two different files that claim to be the same image "
                f"('{other.name}', '{copy.name}'). Remove the wrong one; if a program that made them anonymous gave "
                "them all one SOP Instance UID, let it give each its own."
            )
    if not copies:
        return []
    return [f"The DICOM series '{name}' holds {len(copies)} file(s) twice; the copies were left out."]


def _digest(instance: Instance) -> bytes:
    return hashlib.sha256(instance.entry.read()).digest()


def different_patients(first: Path, second: Path) -> str:
    """A warning if two paths mean DICOM series of different patients; "" if not, or if their headers do not tell."""
    if not (is_dicom_source(first) and is_dicom_source(second)):
        return ""
    return two_patients(*(find_series(path)[0] for path in (first, second)))


def two_patients(first: Series, second: Series) -> str:
    """A warning if two series are of different patients; "" if not, or if their headers do not tell."""
    one, other = first.first, second.first
    # Of two that both are there; a name may be written in several ways.
    known = [pair for k in ("PatientID", "PatientName") if all(pair := (one.text(k), other.text(k)))]
    if not known or known[0][0] == known[0][1]:
        return ""
    return "The DICOM headers name different patients for the two images. Check that the right series were chosen."


def frame_of_reference(path: Path) -> str:
    """The Frame of Reference UID of a path that means a DICOM series; "" for other paths, and without one."""
    return find_series(path)[0].first.text("FrameOfReferenceUID") if is_dicom_source(path) else ""


def is_dicom_source(path: Path) -> bool:
    """Whether a path is a folder, a DICOM file or a zip (a `SOURCE#NUMBER` too). Raises OSError if unreadable."""
    path, _ = split_number(path)
    # os.path's functions know that what cannot be the name of a file is none.
    return os.path.isdir(path) or (os.path.isfile(path) and (is_dicom_file(path) or is_zip_file(path)))
