"""The generated head pair: a head's proportions, and a truth that really leads from one volume to the other."""

from __future__ import annotations

import numpy as np
import pytest

from hyperreg.errors import InputError
from hyperreg.phantom import LABEL_NAMES, PhantomPair, head_phantom_pair


@pytest.fixture(scope="module")
def pair() -> PhantomPair:
    return head_phantom_pair(seed=0)


def _warped_by(pair: PhantomPair, displacement: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The moving labels and intensities, nearest voxel, at the fixed voxels displaced by (3, I, J, K) mm."""
    points = pair.fixed.grid.points() + np.moveaxis(displacement, 0, -1)
    nearest = np.rint(pair.moving.grid.to_ijk(points)).astype(int)
    nearest = nearest.clip(0, np.array(pair.moving.shape) - 1)
    index = tuple(np.moveaxis(nearest, -1, 0))
    return pair.moving_labels.array[index], pair.moving.array[index]


def _dice(a: np.ndarray, b: np.ndarray) -> dict[int, float]:
    return {
        label: 2 * np.sum((a == label) & (b == label)) / (np.sum(a == label) + np.sum(b == label))
        for label in LABEL_NAMES
    }


def test_the_true_map_carries_the_moving_labels_onto_the_fixed_ones(pair):
    labels, intensities = _warped_by(pair, pair.field.array)
    dice = _dice(pair.fixed_labels.array, labels)
    assert np.mean(list(dice.values())) > 0.9
    assert min(dice.values()) > 0.75, dice
    before = _dice(pair.fixed_labels.array, _warped_by(pair, np.zeros_like(pair.field.array))[0])
    assert np.mean(list(before.values())) < 0.4  # there is something to register
    inside = pair.fixed_labels.array > 0
    assert np.corrcoef(pair.fixed.array[inside], intensities[inside])[0, 1] > 0.9


def test_the_truth_is_large_smooth_and_invertible(pair):
    inside = pair.fixed_labels.array > 0
    points = pair.fixed.grid.points()[inside]
    target = points + pair.field.array[:, inside].T
    design = np.column_stack([points, np.ones(len(points))])
    nonlinear = target - design @ np.linalg.lstsq(design, target, rcond=None)[0]
    assert 5.0 < np.linalg.norm(nonlinear, axis=1).max() < 14.0  # mm that no affine can explain
    assert 5.0 < np.linalg.norm(target - points, axis=1).mean() < 30.0
    spacing = pair.fixed.spacing
    jacobian = np.eye(3) + np.stack(
        [np.stack(np.gradient(component, *spacing), axis=-1) for component in pair.field.array], axis=-2
    )
    assert np.linalg.det(jacobian).min() > 0.3


def test_the_moving_grid_is_oblique_anisotropic_and_stored_the_other_way_round(pair):
    axes = pair.moving.ijk_to_ras[:3, :3] / pair.moving.spacing
    assert axes[0, 0] < 0
    assert axes[1, 1] < 0 < axes[2, 2]
    assert 3 < np.rad2deg(np.arccos(axes[2, 2])) < 15
    assert np.allclose(pair.moving.spacing / pair.fixed.spacing[0], (0.9, 0.9, 1.25))
    assert pair.moving_labels.grid.matches(pair.moving.grid)


def test_the_anatomy_has_a_heads_proportions(pair):
    millilitre = np.prod(pair.fixed.spacing) / 1000
    volume = {label: np.sum(pair.fixed_labels.array == label) * millilitre for label in LABEL_NAMES}
    assert 350 < volume[3] + volume[42] < 700
    assert 300 < volume[2] + volume[41] < 600
    assert 15 < volume[4] + volume[43] < 60
    assert 70 < volume[7] + volume[8] + volume[46] + volume[47] < 160
    mean = {label: pair.fixed.array[pair.fixed_labels.array == label].mean() for label in (2, 3, 4)}
    assert mean[4] < mean[3] - 30 < mean[2] - 50  # T1: ventricle darker than grey, grey darker than white matter
    left = pair.fixed.grid.points()[pair.fixed_labels.array == 4]
    assert left[:, 0].max() < 0  # FreeSurfer's label 4 is on the patient's left


def test_a_seed_is_a_head():
    first, again, other = (head_phantom_pair((32, 40, 32), seed=seed) for seed in (3, 3, 4))
    assert np.array_equal(first.fixed.array, again.fixed.array)
    assert np.array_equal(first.field.array, again.field.array)
    assert np.abs(first.field.array - other.field.array).mean() > 1.0


def test_a_shape_without_room_for_a_head_is_refused():
    with pytest.raises(InputError, match="at least 16 voxels"):
        head_phantom_pair((8, 40, 32))
