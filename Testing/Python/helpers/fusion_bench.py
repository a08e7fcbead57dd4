"""Label maps of one made-up body by several raters, on an oblique, anisotropic, flipped grid."""

from __future__ import annotations

import numpy as np
from imaging_examples import oblique_grid

from hyperreg.fusion.atlases import Carried
from hyperreg.fusion.records import AtlasOutcome
from hyperreg.fusion.stack import stack_labels
from hyperreg.imaging.volume import Grid, Volume

LABELS = (3, 300, 12)
# Where atlases that were registered badly and well have the body, mm.
GRID_SHIFTS = {"a1": (0.5, 0.0, 0.0), "a2": (0.0, -0.5, 0.0), "a3": (6.0, 4.0, 0.0)}


def body(grid: Grid, shift_mm: tuple[float, float, float] = (0, 0, 0), name: str = "reader") -> Volume:
    """Label 3 in front of, 300 behind the middle of an ellipsoid, 12 in its core; moved by `shift_mm` (RAS)."""
    points = grid.points() - grid.centre - np.array(shift_mm)
    distance = np.linalg.norm(points / np.array((13.0, 15.0, 17.0)), axis=-1)
    labels = np.where(points[..., 1] > 0, LABELS[0], LABELS[1]) * (distance < 1)
    labels[distance < 0.5] = LABELS[2]
    return Volume(labels.astype(np.int16), grid.ijk_to_ras, name)


def picture(grid: Grid, shift_mm: tuple[float, float, float] = (0, 0, 0), name: str = "image") -> Volume:
    """The image that belongs to `body`: another grey value per structure, with texture."""
    labels = body(grid, shift_mm).array
    points = grid.points() - grid.centre - np.array(shift_mm)
    grey = np.select([labels == 3, labels == 300, labels == 12], [400.0, 700.0, 1000.0], 0.0)
    grey += (labels > 0) * 60 * np.sin(points / 3).prod(axis=-1)
    return Volume(grey.astype(np.float32), grid.ijk_to_ras, name)


def carried_body(grid: Grid, shifts: dict[str, tuple[float, float, float]] | None = None) -> Carried:
    """The body by atlases that lie on the grid already, each moved by so many mm; as `carry` gives them."""
    chosen = GRID_SHIFTS if shifts is None else shifts
    maps = [body(grid, shift, name) for name, shift in chosen.items()]
    images = [picture(grid, shift, name) for name, shift in chosen.items()]
    return Carried(stack_labels(maps), images, [AtlasOutcome(name) for name in chosen], {}, [])


def noisy(truth: Volume, share: float, seed: int, name: str = "noisy") -> Volume:
    """`truth` with a share of all voxels replaced by any of the labels."""
    draw = np.random.default_rng(seed)
    wrong = draw.random(truth.shape) < share
    array = truth.array.copy()
    array[wrong] = draw.choice((0, *LABELS), size=int(wrong.sum()))
    return Volume(array, truth.ijk_to_ras, name)


def volume(array, grid: Grid | None = None, name: str = "map") -> Volume:
    """An array as a volume on an oblique grid, or the one given."""
    array = np.asarray(array)
    return Volume(array, (grid or oblique_grid(array.shape)).ijk_to_ras, name)


def dice(found: np.ndarray, truth: np.ndarray, label: int) -> float:
    one, two = found == label, truth == label
    return 2 * float((one & two).sum()) / float(one.sum() + two.sum())
