"""A pair of small images as files, on oblique, anisotropic, flipped grids, and a way to call the command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from hyperreg.cli import main
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Grid, Volume

ANGLE = np.radians(15)
FLIPPED_AND_OBLIQUE = np.array(
    [[-np.cos(ANGLE), 0, np.sin(ANGLE)], [0, -1, 0], [np.sin(ANGLE), 0, np.cos(ANGLE)]],
)


@dataclass(frozen=True)
class PairFiles:
    """Where the images and label maps of a pair lie, and an empty folder for results."""

    fixed: Path
    moving: Path
    fixed_labels: Path
    moving_labels: Path
    results: Path

    @property
    def images(self) -> list[str]:
        return [str(self.fixed), str(self.moving)]

    @property
    def labels(self) -> list[str]:
        return ["--fixed-labels", str(self.fixed_labels), "--moving-labels", str(self.moving_labels)]

    def left_behind(self) -> list[str]:
        """Names of everything in the folder for results, hidden folders included."""
        return sorted(path.name for path in self.results.iterdir())


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: tuple[float, float, float]) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = FLIPPED_AND_OBLIQUE * spacing
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def head(place: Grid, radii: tuple[float, float, float], name: str) -> tuple[Volume, Volume]:
    """A textured ellipsoid in the middle of `place`, and its label map: 3 in front, 7 behind, 12 in the core."""
    points = place.points() - place.centre
    distance = np.linalg.norm(points / np.array(radii), axis=-1)
    texture = 100 + 50 * np.sin(points / 8).prod(axis=-1) + points[..., 1] / 4
    image = np.where(distance < 1, texture, 0).astype(np.float32)
    labels = np.where(points[..., 1] > 0, 3, 7) * (distance < 1)
    labels[distance < 0.5] = 12
    return Volume(image, place.ijk_to_ras, name), Volume(labels.astype(np.int16), place.ijk_to_ras, name)


def write_pair(folder: Path) -> PairFiles:
    results = folder / "results"
    results.mkdir(parents=True)
    files = PairFiles(*(folder / f"{n}.nii.gz" for n in ("fixed", "moving", "fixed_labels", "moving_labels")), results)
    fixed, fixed_labels = head(grid((44, 50, 28), (2, 2, 3), (10, -20, 30)), (34, 40, 34), "fixed")
    moving, moving_labels = head(grid((40, 40, 40), (2.5, 2.5, 2.2), (12, -18, 29)), (37, 38, 32), "moving")
    write_volume(fixed, files.fixed)
    write_volume(moving, files.moving)
    write_volume(fixed_labels, files.fixed_labels)
    write_volume(moving_labels, files.moving_labels)
    return files


def run(*arguments: str) -> int:
    """Run `hyperreg` in this process; returns its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    return int(ended.value.code or 0)
