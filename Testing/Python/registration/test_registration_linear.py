"""Linear alignment: known maps are found again in mm, partial and distant images too; the rest is refused or
cancelled.
"""

from __future__ import annotations

import numpy as np
import pytest
from imaging_examples import affine, blobs, oblique_grid, points_inside

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.linear import align, direction_warnings, is_plausible, overlap

SIZE = 90.0


def _pair(linear: np.ndarray, unit: float = 1.0) -> tuple[Volume, Volume]:
    """A fixed image and a moving one, on different oblique grids, such that `linear` aligns them exactly. unit: scale
    of mm.
    """
    fixed_grid = oblique_grid((40, 38, 30), tuple(unit * s for s in (2.5, 2.5, 3.2)), (31.0, -47.0, 12.5))
    where = linear @ [*fixed_grid.centre, 1]
    matrix = affine(-15, (1, 0, 2), (0, 0, 0), tuple(unit * s for s in (2.2, 3.0, -2.8)))
    matrix[:3, 3] = where[:3] - matrix[:3, :3] @ np.array([22.0, 15.0, 18.0])
    moving_grid = Grid((46, 34, 38), matrix)
    inverse = np.linalg.inv(linear)
    back = moving_grid.points() @ inverse[:3, :3].T + inverse[:3, 3]
    noise = np.random.default_rng(5)
    fixed = 1000 * blobs(fixed_grid.points(), fixed_grid.centre, SIZE * unit) + noise.normal(0, 5, fixed_grid.shape)
    moving = 1000 * blobs(back, fixed_grid.centre, SIZE * unit) + noise.normal(0, 5, moving_grid.shape)
    return Volume(fixed, fixed_grid.ijk_to_ras, "fixed"), Volume(moving, moving_grid.ijk_to_ras, "moving")


def _error(found: np.ndarray, true: np.ndarray, grid: Grid) -> float:
    """Mean distance between where both maps send points of the inner grid, mm."""
    points = points_inside(grid)
    return float(np.linalg.norm(Transform((found,)).apply(points) - Transform((true,)).apply(points), axis=1).mean())


RIGID = affine(14, (1, 2, 0), (9.0, -14.0, 6.0))
SCALED = affine(14, (1, 2, 0), (9.0, -14.0, 6.0), (0.9, 0.9, 0.9))
FULL = affine(10, (0, 1, 1), (-35.0, 20.0, 28.0), (1.08, 0.94, 1.03))


@pytest.mark.parametrize(
    ("true", "method", "limit"),
    [(RIGID, "rigid", 0.5), (SCALED, "similarity", 0.5), (FULL, "affine", 0.5)],
    ids=["rigid", "similarity", "affine"],
)
def test_a_known_map_is_found(true, method, limit):
    fixed, moving = _pair(true)
    assert _error(np.eye(4), true, fixed.grid) > 8
    found = align(fixed, moving, method)
    assert _error(found, true, fixed.grid) < limit  # mm, of voxels of 2.5 to 3.2 mm
    if method == "rigid":
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)
    if method == "similarity":
        scale = np.cbrt(np.linalg.det(found[:3, :3]))
        assert abs(scale - 0.9) < 0.01
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, scale**2 * np.eye(3), atol=1e-6)


def test_other_contrast_is_aligned_too():
    fixed, moving = _pair(RIGID)
    values = moving.array
    inverted = Volume(np.where(values > 60, 700 - 0.6 * values, 0), moving.ijk_to_ras, "inverted")
    assert _error(align(fixed, inverted, "rigid"), RIGID, fixed.grid) < 1.0


@pytest.mark.parametrize("unit", [0.12, 3.5])
def test_very_small_and_very_large_voxels(unit):
    true = np.array(RIGID)
    true[:3, 3] *= unit
    fixed, moving = _pair(true, unit)
    assert _error(align(fixed, moving, "rigid"), true, fixed.grid) < 0.5 * unit


def test_images_that_do_not_overlap_start_from_their_centres():
    far = affine(5, (0, 0, 1), (700.0, -400.0, 900.0))
    fixed, moving = _pair(far)
    assert overlap(fixed.grid, moving.grid, np.eye(4)) == 0
    for given in ("none", np.eye(4)):
        with pytest.raises(InputError, match="overlap"):
            align(fixed, moving, given)
    assert _error(align(fixed, moving, "com"), far, fixed.grid) < 12
    assert _error(align(fixed, moving, "rigid"), far, fixed.grid) < 0.5


def test_a_slab_is_found_in_the_whole():
    whole, _ = _pair(np.eye(4))
    slab = Volume(np.ascontiguousarray(whole.array[:, :, 9:19]), _moved_start(whole, 9), "slab")
    assert _error(align(slab, whole, "rigid"), np.eye(4), slab.grid) < 1.0
    assert _error(align(whole, slab, "rigid"), np.eye(4), slab.grid) < 1.0


def _moved_start(volume: Volume, first_slice: int) -> np.ndarray:
    matrix = np.array(volume.ijk_to_ras)
    matrix[:3, 3] = volume.grid.to_ras((0, 0, first_slice))
    return matrix


def test_an_aligned_pair_is_left_alone_and_twice_gives_the_same():
    fixed, moving = _pair(np.eye(4))
    first, second = (align(fixed, moving, "rigid") for _ in range(2))
    assert _error(first, np.eye(4), fixed.grid) < 0.3
    np.testing.assert_allclose(first, second, atol=1e-4)


def test_images_that_have_nothing_in_common_stay_plausible():
    grid = oblique_grid((30, 30, 20))
    noise = [np.random.default_rng(n).normal(0, 1, grid.shape) for n in range(2)]
    assert is_plausible(align(Volume(noise[0], grid.ijk_to_ras), Volume(noise[1], grid.ijk_to_ras), "affine"))


def test_a_given_matrix_is_handed_back_and_checked():
    fixed, moving = _pair(RIGID)
    np.testing.assert_array_equal(align(fixed, moving, RIGID), RIGID)
    np.testing.assert_array_equal(align(fixed, moving, "none"), np.eye(4))
    with pytest.raises(InputError, match="inverted"):
        align(fixed, moving, np.diag([1.0, 1.0, 0.0, 1.0]))
    with pytest.raises(InputError, match="Unknown initial alignment 'elastic'"):
        align(fixed, moving, "elastic")


def test_a_given_map_of_the_other_direction_is_told():
    """Between two images, and in the right direction, nothing is said; nor where both directions are the same."""
    fixed, moving = _pair(FULL)
    assert direction_warnings(fixed, moving, FULL) == []
    assert direction_warnings(fixed, fixed, np.eye(4)) == []
    (text,) = direction_warnings(fixed, moving, np.linalg.inv(FULL))
    assert "inverse of the given initial transform" in text


def test_progress_rises_to_one_and_cancelling_stops_at_once():
    fixed, moving = _pair(RIGID)
    seen: list[tuple[float, str]] = []
    align(fixed, moving, "rigid", progress=lambda fraction, text: seen.append((fraction, text)))
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[0] == 0 and fractions[-1] == 1
    assert len(seen) > 20 and any("rigid" in text for _, text in seen)

    count = 0

    def cancelled() -> bool:
        nonlocal count
        count += any("rigid" in text for _, text in stopped)
        return count >= 5

    stopped: list[tuple[float, str]] = []
    with pytest.raises(Cancelled):
        align(
            fixed,
            moving,
            "rigid",
            progress=lambda fraction, text: stopped.append((fraction, text)),
            cancelled=cancelled,
        )
    assert sum("rigid" in text for _, text in stopped) < 10


@pytest.mark.parametrize(
    ("matrix", "plausible"),
    [
        (np.eye(4), True),
        (FULL, True),
        (np.diag([-1.0, 1, 1, 1]), False),
        (np.diag([0.5, 1, 1, 1]), False),
        (np.diag([1.4, 1.4, 1.4, 1]), False),
        (np.full((4, 4), np.nan), False),
    ],
)
def test_plausible_maps(matrix, plausible):
    assert is_plausible(matrix) is plausible


def test_lung_pair_with_origins_35_mm_apart(real_data):
    fixed, moving = (read_volume(real_data / "lung" / f"3DCT_lung_{name}.mha") for name in ("baseline", "followup"))
    points = [
        np.delete(np.loadtxt(real_data / "lung" / f"landmarks_{name}_51.txt", skiprows=2) * (-1, -1, 1), 20, axis=0)
        for name in ("fixed", "moving")
    ]

    def target_error(matrix: np.ndarray) -> float:
        return float(np.linalg.norm(Transform((matrix,)).apply(points[0]) - points[1], axis=1).mean())

    assert target_error(np.eye(4)) > 30
    assert target_error(align(fixed, moving, "affine")) < 8


def test_oasis_pair_gains_dice(real_data):
    def load(kind: str) -> tuple[Volume, Volume]:
        read = read_volume if kind == "T1_brain" else read_label_map
        first, second = (read(real_data / "brain_oasis" / f"{number}_{kind}.nii.gz") for number in (1002, 1017))
        return first, second

    fixed_labels, moving_labels = load("labels")
    matrix = align(*load("T1_brain"), "affine")
    warped = resample(moving_labels, fixed_labels.grid, Transform((matrix,)), "nearest").array
    values = np.setdiff1d(np.unique(fixed_labels.array), 0)
    dice = [
        2 * np.count_nonzero((warped == v) & (fixed_labels.array == v))
        / (np.count_nonzero(warped == v) + np.count_nonzero(fixed_labels.array == v))
        for v in values
    ]  # fmt: skip
    assert np.mean(dice) > 0.43
