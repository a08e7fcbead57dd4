"""A folder of made-up atlases, each the same body moved elsewhere, and a stand-in for their registration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from fusion_bench import body, picture
from imaging_examples import oblique_grid

from hyperreg.errors import InputError
from hyperreg.fusion.registering import Registered, Task
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import DisplacementField, Grid, Volume

GRID = oblique_grid((26, 24, 22), (1.5, 1.7, 2.0))
SHIFTS = {"a1": (6.0, 0.0, 0.0), "a2": (-5.0, 4.0, 0.0), "a3": (0.0, -6.0, 5.0), "a4": (3.0, 3.0, -4.0)}


def place(name: str) -> Grid:
    """Where an atlas lies: another voxel size, another origin; shifted by SHIFTS[name] mm."""
    grid = oblique_grid((28, 26, 30), (1.4, 1.6, 1.7))
    affine = np.array(grid.ijk_to_ras)
    affine[:3, 3] += GRID.centre - grid.centre + np.array(SHIFTS[name])
    return Grid(grid.shape, affine)


def write_library(folder: Path, names: tuple[str, ...] = tuple(SHIFTS)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        write_volume(picture(place(name)), folder / f"{name}_T1.nii.gz")
        write_volume(body(place(name)), folder / f"{name}_labels.nii.gz")
    return folder


def target(name: str = "target") -> Volume:
    return picture(GRID, name=name)


class FakeRegistration:
    """Knows the true shift by the image's place. calls: (atlas, lambda) of every registration that was made.

    similarities, before: by name, after and before the deformation; errors: by name, raised instead.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, float | None]] = []
        self.similarities: dict[str, float] = {}
        self.before: dict[str, float] = {}
        self.folding: dict[str, float] = {}
        self.errors: dict[str, str] = {}

    def __call__(self, task: Task, progress=None, cancelled=None) -> Registered:
        self.calls.append((task.name, task.lam))
        if task.name in self.errors:
            raise InputError(self.errors[task.name])
        if progress is not None:
            progress(0.5, "Aligning")
        linear = np.eye(4)
        linear[:3, 3] = task.image.grid.centre - GRID.centre
        after = self.similarities.get(task.name, 0.8)
        before = self.before.get(task.name, 0.5 + 0.05 * [*SHIFTS, task.name].index(task.name))
        if task.lam is None:
            return Registered(linear, None, {"similarity_before": before})
        field = DisplacementField(np.zeros((3, 4, 4, 4), np.float32), np.diag([20.0, 20.0, 20.0, 1.0]))
        figures = {
            "similarity": after,
            "similarity_before": before,
            "folding_percent": self.folding.get(task.name, 0.0),
            "displacement_mean_mm": 0.0,
            "displacement_max_mm": 0.0,
        }
        return Registered(linear, field, figures)
