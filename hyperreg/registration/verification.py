"""Are the files that a registration wrote true? They are read back and compared, as another program would use them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from hyperreg.errors import FileError
from hyperreg.imaging.files import read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import Grid, Volume

# A saved volume, and the moving image resampled through the saved transform, may differ by this share of the image's
# range in all but one voxel in a thousand (at the moving image's border rounding decides what is inside).
AGREEMENT_SHARE = 0.01
AGREEMENT_QUANTILE = 0.999
# How many points of the fixed grid the inverse is tried at, and the inner share of each axis that they are taken from.
INVERSE_SAMPLES = 20_000
INNER_SHARE = 0.8


def check_volume(transform_file: Path, volume_file: Path, fixed: Grid, moving: Volume) -> float:
    """How far a saved volume and a saved transform disagree, as a share of the image's range.

    Raises FileError if that is more than AGREEMENT_SHARE, or the saved volume does not lie on the grid `fixed`.
    """
    saved = read_volume(volume_file)
    if not saved.grid.matches(fixed):
        raise FileError(f"'{volume_file.name}' lost the fixed image's geometry on writing; choose another file format.")
    expected = resample(moving, fixed, read_transform(transform_file)).array.astype(np.float64)
    difference = np.quantile(np.abs(saved.array - expected), AGREEMENT_QUANTILE)
    share = float(difference / np.ptp(expected)) if np.ptp(expected) > 0 else float(difference)
    if share > AGREEMENT_SHARE:
        raise FileError(
            f"The saved transform and the saved volume disagree by {share:.1%} of the image's range; nothing was kept. "
            "Choose another format for the transform (.h5), and report this as a fault of HyperReg."
        )
    return share


def inverse_errors(transform: Transform, inverse: Transform, fixed: Grid) -> npt.NDArray[np.float64]:
    """Distance, mm, between points of the fixed grid and where transform and then inverse put them: (N,).

    The points are spread over the inner part of the grid: further out they may leave the field, which ends there.
    """
    relative = np.random.default_rng(0).uniform(-INNER_SHARE / 2, INNER_SHARE / 2, size=(INVERSE_SAMPLES, 3))
    points = fixed.to_ras((0.5 + relative) * (np.array(fixed.shape) - 1))
    return np.linalg.norm(inverse.apply(transform.apply(points)) - points, axis=1)
