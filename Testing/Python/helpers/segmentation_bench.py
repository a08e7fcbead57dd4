"""A model whose answer is known: each class has a grey value, and the nearest one wins. No training needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from imaging_examples import oblique_grid
from torch import Tensor, nn

from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import SegmentationCard
from hyperreg.segmentation.model import new_card, save_untrained

SNOMED_ORGAN = ["SCT", "123037004", "Anatomical Structure"]
CORE = {
    "label": 5, "channel": 2, "name": "Core", "colour": [200, 30, 60],
    "terminology": {
        "category": SNOMED_ORGAN,
        "type": ["SCT", "12738006", "Brain"],
    },
}  # fmt: skip
SHELL = {
    "label": 2, "channel": 1, "name": "Outer shell", "colour": [10, 220, 30],
    "terminology": {
        "category": SNOMED_ORGAN,
        "type": ["SCT", "64033007", "Kidney"],
        "modifier": ["SCT", "24028007", "Right"],
    },
}  # fmt: skip


class Bands(nn.Module):
    """Logits by the distance of the first input's value from 0, a half and 1; any size."""

    def __init__(self, sharpness: float = 40.0) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor([0.0, 0.5, 1.0]))
        self.sharpness = sharpness

    def forward(self, x: Tensor) -> Tensor:
        return -self.sharpness * (x[:, :1] - self.values.view(1, -1, 1, 1, 1)) ** 2


class Regions(nn.Module):
    """Logits of two nested regions by the first input's value: above a quarter, above three quarters."""

    def __init__(self) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.tensor([0.25, 0.75]))

    def forward(self, x: Tensor) -> Tensor:
        return 40 * (x[:, :1] - self.values.view(1, -1, 1, 1, 1))


NETWORKS = {
    "bands": lambda _inputs, _channels, _exclusive, **options: Bands(**options),
    "regions": lambda _inputs, _channels, _exclusive: Regions(),
}


def card_entries(name: str = "bands", **entries: Any) -> dict[str, Any]:
    """A card of the bands model at 2 mm; `entries` replace parts of it."""
    grid = {"axes": "ras", "spacing_mm": [2.0, 2.0, 2.0], "window": [32, 32, 32], "flips": [0, 1, 2]}
    structures = entries.pop("structures", [SHELL, CORE])
    return new_card(name, structures, **{"network": {"name": "bands"}, "grid": grid, **entries})


def make_model(folder: Path, name: str = "bands", **entries: Any) -> SegmentationCard:
    """The model as a folder. Needs the networks to be known (fixture `known_networks`)."""
    return save_untrained(folder, card_entries(name, **entries))


def make_card(folder: Path, **entries: Any) -> SegmentationCard:
    """A card whose network does not matter."""
    network = {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1], "blocks_up": []}}
    return save_untrained(folder, card_entries(**{"network": network, **entries}))


def eggs(grid: Grid, centre: np.ndarray | None = None, name: str = "eggs") -> Volume:
    """A core of 1000 in a shell of 500 around it, off the middle, some noise, on a background of 0: float32."""
    array = 1000 * _membership(grid, centre)
    noise = np.random.default_rng(1).normal(0, 15, grid.shape) * (array > 0)
    return Volume((array + noise).astype(np.float32), grid.ijk_to_ras, name)


def soft_eggs(grid: Grid, name: str = "eggs") -> Volume:
    """The eggs with borders some voxels wide, where a model can be in doubt."""
    image = sitk.DiscreteGaussian(sitk.GetImageFromArray(eggs(grid).array.T), 1.5)
    return Volume(sitk.GetArrayFromImage(image).T, grid.ijk_to_ras, name)


def truth(grid: Grid, centre: np.ndarray | None = None) -> np.ndarray:
    """The labels that belong to `eggs`: 5 core, 2 shell."""
    return np.array([0, 2, 5])[(2 * _membership(grid, centre)).astype(int)]


def scene_centre(grid: Grid) -> np.ndarray:
    return grid.centre + np.array((3.0, -2.0, 1.0))


def _membership(grid: Grid, centre: np.ndarray | None) -> np.ndarray:
    points = grid.points() - (scene_centre(grid) if centre is None else centre)
    core = np.linalg.norm((points - (2.0, 1.0, -1.0)) / (7.0, 6.0, 5.0), axis=-1) < 1
    shell = np.linalg.norm(points / (15.0, 13.0, 11.0), axis=-1) < 1
    return np.where(core, 1.0, np.where(shell, 0.5, 0.0))


def centre_of(labels: Volume, label: int) -> np.ndarray:
    """RAS mm of the centre of mass of a label."""
    return labels.grid.to_ras(np.argwhere(labels.array == label)).mean(axis=0)


OBLIQUE = oblique_grid((30, 26, 20), (1.5, 2.0, 3.0))
