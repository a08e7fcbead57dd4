"""Reading what the user opens: images, label maps and landmarks, checked, named without their folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume

# The roles that are images; all others but landmarks are label maps.
IMAGES = ("fixed", "moving")
# The roles of landmarks.
POINTS = ("fixed_points", "moving_points")


def read_role(role: str, path: Path, warn: Callable[[str], None], confined: bool = True) -> Volume:
    """Reads and checks an image or label map; messages and names carry the file's name without its folder.

    confined: an upload, whose header may name no other file of this machine (see `read_volume`).
    """
    if role in IMAGES:
        return read_image(path, warn, confined)
    read = read_label_map(path, confined=confined)
    for text in read.warnings:
        warn(text)
    return replace(read, name=path.name)


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
