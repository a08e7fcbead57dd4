"""Reading what the user opens: images, label maps and landmarks, checked, named without their folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.intensity import check_image
from hyperreg.imaging.volume import Volume

# The roles that are images; all others but landmarks are label maps.
IMAGES = ("fixed", "moving")
# The roles of landmarks.
POINTS = ("fixed_points", "moving_points")


def read_role(role: str, path: Path, warn: Callable[[str], None]) -> Volume:
    """Reads and checks an image or label map; messages and names carry the file's name without its folder."""
    if role in IMAGES:
        return read_image(path, warn)
    read = read_label_map(path)
    return Volume(read.array, read.ijk_to_ras, path.name)


def read_image(path: Path, warn: Callable[[str], None]) -> Volume:
    """Reads and checks an image; see `read_role`."""
    read = read_volume(path)
    notes: list[str] = []
    volume = check_image(Volume(read.array, read.ijk_to_ras, path.name), notes)
    for note in notes:
        warn(note)
    return volume


def describe(volume: Volume) -> str:
    """Voxels and their size, in words."""
    size = " x ".join(str(n) for n in volume.shape)
    spacing = " x ".join(f"{s:.3g}" for s in volume.spacing)
    return f"{size}, {spacing} mm"
