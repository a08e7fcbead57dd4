"""From the places of slices to one grid: order, distance, and everything that keeps them from being one volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyperreg.errors import InputError
from hyperreg.imaging.dicom.frames import DISTINCTIONS, TURNS, Frame
from hyperreg.imaging.itk import RAS_LPS
from hyperreg.imaging.volume import SHEAR_TOLERANCE

# How far a slice may lie from its place in an even stack, as a fraction of the slices' distance: positions are rounded
# in headers (to 0.1 mm by some scanners), a missing slice moves others by a third of the distance or more.
PLACE_TOLERANCE = 0.1
# Slices closer than this fraction of the pixel size lie in the same place.
SAME_PLACE = 0.01
# Direction cosines are written with six digits or more.
UNIT_TOLERANCE = 1e-3
# By what fraction the distance that the header declares may differ from that of the positions without a word.
DECLARED_TOLERANCE = 0.1

# Messages list at most so many values.
MOST_NAMED = 4


@dataclass(frozen=True)
class Stack:
    """Slices as a volume.

    order: indices into the frames, along the third axis. ijk_to_ras: (4, 4), mm; i runs along a row of pixels, j along
    a column, k along the normal of the slices. warnings: where the header contradicts itself.
    """

    order: list[int]
    ijk_to_ras: np.ndarray
    warnings: list[str]


def stack(frames: Sequence[Frame], name: str) -> Stack:
    """The one volume that the frames form, sorted by their places, whatever order they come in.

    The axes are those that ITK gives a series: rows, columns, and their normal, so they are right-handed in LPS.
    Raises InputError if the slices are not parallel, differ in size, are missing, lie in the same place, are unevenly
    spaced, or are shifted against each other (a tilted gantry).
    """
    first = frames[0]
    _check_alike(frames, name)
    row, column = first.orientation[:3], first.orientation[3:]
    if max(abs(np.linalg.norm(row) - 1), abs(np.linalg.norm(column) - 1), abs(row @ column)) > UNIT_TOLERANCE:
        raise InputError(
            f"The DICOM series '{name}' has directions of rows and columns that are not at right angles. Its header is "
            "damaged; export it again."
        )
    normal = np.cross(row, column)
    positions = np.array([frame.position for frame in frames])
    heights = positions @ normal
    order = np.argsort(heights, kind="stable")
    gap, warnings = _gap(frames, positions[order], heights[order], normal, [frames[n] for n in order], name)
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2] = row * first.spacing[1], column * first.spacing[0], normal * gap
    lps[:3, 3] = positions[order[0]]
    return Stack(order.tolist(), RAS_LPS @ lps, [*warnings, *_mixed(frames, name)])


def _check_alike(frames: Sequence[Frame], name: str) -> None:
    """Raise InputError if frames differ in what all slices of a volume share."""
    first = frames[0]
    instances = dict.fromkeys(frame.instance for frame in frames)
    sizes = {(instance.whole_number("Rows"), instance.whole_number("Columns")) for instance in instances}
    if len(sizes) > 1:
        listed = ", ".join(f"{columns} x {rows}" for rows, columns in sorted(sizes))
        raise InputError(f"The DICOM series '{name}' has slices of different sizes ({listed} pixels). {_APART}")
    if min(next(iter(sizes))) < 1:
        raise InputError(f"The DICOM series '{name}' has slices without pixels. Export it again.")
    orientations = np.array([frame.orientation for frame in frames])
    if np.abs(orientations - first.orientation).max() > SHEAR_TOLERANCE:
        raise InputError(f"The slices of the DICOM series '{name}' are not parallel (a localiser?). {_APART}")
    spacings = np.array([frame.spacing for frame in frames])
    # A whole slice's width may change by a tenth of a pixel.
    if (np.abs(spacings / first.spacing - 1) * max(next(iter(sizes)))).max() > PLACE_TOLERANCE:
        raise InputError(f"The slices of the DICOM series '{name}' have different pixel sizes. {_APART}")
    for keyword, what in (
        ("FrameOfReferenceUID", "frames of reference (the patient may have moved between them)"),
        ("Modality", "modalities"),
        ("PatientID", "patients"),
    ):
        if len({instance.text(keyword) for instance in instances}) > 1:
            raise InputError(f"The DICOM series '{name}' mixes slices of different {what}. {_APART}")


_APART = "Export the part of it that you want as a series of its own, or as NIfTI or NRRD."


def _gap(
    frames: Sequence[Frame],
    positions: np.ndarray,
    heights: np.ndarray,
    normal: np.ndarray,
    ordered: Sequence[Frame],
    name: str,
) -> tuple[float, list[str]]:
    """The distance between slices, mm, and warnings. positions, heights, ordered: sorted along the normal."""
    if len(frames) == 1:
        gap = next((size for size in (frames[0].distance, frames[0].thickness) if size > 0), 0.0)
        if gap == 0:
            raise InputError(f"'{name}' is a single DICOM image; HyperReg takes volumes. Give the whole series.")
        return gap, []
    gaps = np.diff(heights)
    if gaps.min() < SAME_PLACE * frames[0].spacing.min():
        raise InputError(
            f"The DICOM series '{name}' has several slices in the same place{_what_differs(ordered, heights)}. "
            "Export one volume of it as a series of its own, or as NIfTI or NRRD."
        )
    gap = float((heights[-1] - heights[0]) / (len(heights) - 1))
    even = heights[0] + gap * np.arange(len(heights))
    if np.abs(heights - even).max() > PLACE_TOLERANCE * gap:
        raise InputError(
            f"The slices of the DICOM series '{name}' are between {gaps.min():.2f} and {gaps.max():.2f} mm apart: "
            "slices are missing or unevenly spaced. Copy the series again, or resample it to even slices."
        )
    sideways = positions - np.outer(heights, normal)
    # The shift from the first slice to the last as a slope, and of any slice against a straight stack, in pixels.
    tilt = np.linalg.norm(sideways[-1] - sideways[0]) / (heights[-1] - heights[0])
    straight = sideways[0] + np.linspace(0, 1, len(heights))[:, None] * (sideways[-1] - sideways[0])
    if tilt > SHEAR_TOLERANCE:
        raise InputError(
            f"The DICOM series '{name}' was taken with a tilted gantry: its axes are not at right angles. "
            "Straighten it first (3D Slicer does so when it loads the series) and export it as NIfTI or NRRD."
        )
    if np.linalg.norm(sideways - straight, axis=1).max() > max(PLACE_TOLERANCE * frames[0].spacing.max(), 1e-3):
        raise InputError(
            f"The slices of the DICOM series '{name}' are shifted sideways against each other. Resample it to a "
            "straight grid first."
        )
    declared = frames[0].distance
    if declared > 0 and abs(declared - gap) > DECLARED_TOLERANCE * gap:
        warning = (
            f"The header of the DICOM series '{name}' says that slices are {declared:g} mm apart; by their positions "
            f"they are {gap:.4g} mm apart, which was taken. Are slices missing?"
        )
        return gap, [warning]
    return gap, []


def _mixed(frames: Sequence[Frame], name: str) -> list[str]:
    """A warning if slices that form a volume differ in what makes their grey values."""
    found = []
    for keyword, (_, words) in DISTINCTIONS.items():
        values = {frame.distinctions.get(keyword) for frame in frames}
        if keyword not in TURNS and len(values) > 1 and None not in values:
            found.append(f"{len(values)} {words} ({', '.join(sorted(map(str, values))[:MOST_NAMED])})")
    if not found:
        return []
    return [f"The slices of the DICOM series '{name}' are of {', '.join(found)}. Do they form one image?"]


def _what_differs(ordered: Sequence[Frame], heights: np.ndarray) -> str:
    """In words, what tells slices of the same place apart; "" if the headers do not say."""
    found: list[str] = []
    for keyword, (_, words) in DISTINCTIONS.items():
        values = {frame.distinctions.get(keyword) for frame in ordered}
        at_one_place = {
            frame.distinctions.get(keyword)
            for frame, height in zip(ordered, heights, strict=True)
            if height - heights[0] < SAME_PLACE * ordered[0].spacing.min()
        }
        if len(values) > 1 and len(at_one_place) > 1 and None not in values:
            found.append(f"{len(values)} {words}")
    return f" ({', '.join(dict.fromkeys(found))})" if found else ""
