"""A made-up head in three contrasts, whose tissues are as bright as physics says."""

from __future__ import annotations

import numpy as np
from imaging_examples import oblique_grid

from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import Input

INPUTS = [Input("T1", "T1"), Input("T2", "T2"), Input("FLAIR", "T2 FLAIR")]
# Fluid, grey matter, white matter.
TISSUES = {"T1": (250, 600, 900), "T2": (1000, 600, 450), "FLAIR": (250, 850, 500)}


def head(contrast: str, grid: Grid, name: str = "") -> Volume:
    """Folds of grey matter with fluid between them around white matter, noise, and a shading of its own: oblique."""
    points = grid.points() - grid.centre
    distance = np.linalg.norm(points / (62.0, 75.0, 55.0), axis=-1)
    folds = distance + 0.08 * np.sin(points / 6.0).prod(axis=-1)
    fluid, grey, white = TISSUES[contrast]
    array = np.where(folds < 0.15, fluid, np.where(folds < 0.7, white, np.where(folds < 0.86, grey, fluid)))
    array = np.where(distance < 1, array, 0) * (1 + 0.002 * points[..., ["T1", "T2", "FLAIR"].index(contrast)])
    noise = np.random.default_rng(len(contrast)).normal(0, 15, grid.shape)
    return Volume((array + noise * (array > 0)).astype(np.float32), grid.ijk_to_ras, name or contrast)


GRID = oblique_grid((60, 56, 44), (2.4, 3.0, 3.1))
