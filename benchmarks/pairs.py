"""The real pairs that are measured. The images lie beside the repository (../shared/data) and are not part of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.volume import Volume

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Ordered (fixed, moving) subjects: native grids, nothing aligned beforehand, manual labels.
OASIS_PAIRS = (("1000", "1001"), ("1002", "1004"), ("1005", "1006"), ("1008", "1009"), ("1010", "1017"))
# The landmark pair with this 0-based index looks mis-paired.
LUNG_LEFT_OUT = 20


@dataclass(frozen=True)
class RealPair:
    """A pair with its truth: label maps, or landmarks (N, 3) in RAS mm."""

    name: str
    fixed: Volume
    moving: Volume
    fixed_labels: Volume | None = None
    moving_labels: Volume | None = None
    fixed_points: npt.NDArray[np.float64] | None = None
    moving_points: npt.NDArray[np.float64] | None = None


def check_data() -> None:
    """Raises FileError, saying where the images are expected, if they are not there."""
    if not DATA.is_dir():
        raise FileError(f"No real data: the images are expected in '{DATA}'. Their README names their sources.")


def oasis(fixed: str, moving: str) -> RealPair:
    folder = DATA / "brain_oasis"
    return RealPair(
        f"OASIS {fixed} from {moving}",
        read_volume(folder / f"{fixed}_T1_brain.nii.gz"),
        read_volume(folder / f"{moving}_T1_brain.nii.gz"),
        read_label_map(folder / f"{fixed}_labels.nii.gz"),
        read_label_map(folder / f"{moving}_labels.nii.gz"),
    )


def lung() -> RealPair:
    folder = DATA / "lung"
    # The files hold LPS mm.
    points = [
        np.delete(np.loadtxt(folder / f"landmarks_{side}_51.txt", skiprows=2), LUNG_LEFT_OUT, axis=0) * (-1, -1, 1)
        for side in ("fixed", "moving")
    ]
    return RealPair(
        "Lung CT, baseline from follow-up",
        read_volume(folder / "3DCT_lung_baseline.mha"),
        read_volume(folder / "3DCT_lung_followup.mha"),
        fixed_points=points[0],
        moving_points=points[1],
    )
