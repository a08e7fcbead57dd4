"""Reading what the user opens: images, label maps and landmarks, checked, named without their folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.label_checks import check_on_image
from hyperreg.imaging.label_maps import read_structures
from hyperreg.imaging.points import read_points
from hyperreg.imaging.volume import Volume

# The roles that are images; all others but landmarks are label maps.
IMAGES = ("fixed", "moving")
# The roles of landmarks.
POINTS = ("fixed_points", "moving_points")
# The role of a zip of DICOM series.
SERIES = "series"
# The role of a label map of regions with a λ of their own; it lies on the fixed image.
REGIONS = "regions"
# The roles of label maps of what is left out of the match.
LEFT_OUT = ("fixed_left_out", "moving_left_out")


def read_role(
    role: str, path: Path, warn: Callable[[str], None], confined: bool = True
) -> tuple[Volume, dict[int, str]]:
    """Reads and checks an image or label map; messages and names carry the file's name without its folder.

    Returns also what the labels are called, as far as the file says it.
    confined: an upload, whose header may name no other file of this machine (see `read_volume`).
    """
    if role in IMAGES:
        return read_image(path, warn, confined), {}
    labels = read_structures(path, folder_table=False, confined=confined)
    for note in labels.warnings:
        warn(note)
    return replace(labels.flat, name=path.name), {label: meaning.name for label, meaning in labels.table.items()}


def check_place(role: str, volume: Volume, loaded: Mapping[str, Volume]) -> list[str]:
    """What the user should know of where a label map lies on its image, which is in `loaded`; [] for images.

    Raises InputError if the image is not there yet, or the label map is not one of it.
    """
    if role in IMAGES:
        return []
    image = loaded.get("moving" if role.startswith("moving") else "fixed")
    if image is None:
        raise InputError("Load the image first, then the label map that was drawn on it.")
    return check_on_image(volume, image)


def read_landmarks(path: Path, warn: Callable[[str], None]) -> tuple[npt.NDArray[np.float64], list[str]]:
    """The points of a file, (P, 3), RAS mm, and what they are called: numbers from 1 where the file has no names."""
    notes: list[str] = []
    names: list[str] = []
    points = read_points(path, notes, names)
    for note in notes:
        warn(note)
    return points, names or [str(number) for number in range(1, len(points) + 1)]


def read_image(path: Path, warn: Callable[[str], None], confined: bool = True) -> Volume:
    """Reads and checks an image; see `read_role`."""
    notes: list[str] = []
    volume = check_image(replace(read_volume(path, confined=confined), name=path.name), notes)
    for note in notes:
        warn(note)
    return volume


def describe(volume: Volume) -> str:
    """Voxels and their size, in words."""
    size = " x ".join(str(n) for n in volume.shape)
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing)
    return f"{size}, {spacing} mm"
