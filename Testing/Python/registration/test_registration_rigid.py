"""Regions that move as rigid bodies: distances in mm, on an oblique, anisotropic, flipped grid; and what is no body."""

from __future__ import annotations

import numpy as np
import pytest
from test_registration_solver import Pair, ignore, oblique

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import SAME
from hyperreg.registration.metrics import volume_change
from hyperreg.registration.rigid import kabsch
from hyperreg.registration.solver import Solver

GRID, CENTRE = oblique(), oblique().centre
SHIFT = (2.0, -1.5, 1.0)


def ball(offset: tuple[float, float, float], radius: float) -> np.ndarray:
    return np.linalg.norm(GRID.points() - CENTRE - offset, axis=-1) < radius


# Two bodies that touch.
BONES = Volume((ball((6, 2, 0), 6) + 2 * ball((-7, 2, 0), 6)).astype(np.int16), GRID.ijk_to_ras, "bones")


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair(SHIFT)


def solver_of(pair: Pair, linear: np.ndarray) -> Solver:
    foreground = Volume((pair.fixed.array > 0.1).astype(np.uint8), GRID.ijk_to_ras, "foreground")
    solver = Solver(pair.fixed, pair.moving, linear, foreground, SAME)
    solver.find_contrast("cpu", ignore)
    return solver


def bent(whole: Transform, value: int) -> float:
    """By how much the distance of two points of a body changes at most, mm."""
    points = GRID.to_ras(np.argwhere(BONES.array == value)[::9])
    moved = whole.apply(points)
    lengths = (np.linalg.norm(p[None] - p[:, None], axis=-1) for p in (points, moved))
    return float(np.abs(np.subtract(*lengths)).max())


def test_the_rigid_motion_of_points_is_found_and_never_a_mirror() -> None:
    turn = np.array([[0.96, -0.28, 0, 5], [0.28, 0.96, 0, -7], [0, 0, 1, 12], [0, 0, 0, 1.0]])
    points = np.random.default_rng(0).normal(0, 20, (30, 3))
    np.testing.assert_allclose(kabsch(points, Transform((turn,)).apply(points)), turn, atol=1e-9)
    assert np.linalg.det(kabsch(points, points * (-1, 1, 1))[:3, :3]) == pytest.approx(1)


@pytest.mark.parametrize("scale", [1.0, 1.1])
def test_distances_in_a_body_stay_in_mm_and_nothing_tears(pair: Pair, scale: float) -> None:
    """Also where the linear alignment has a scale: rigid is the whole map."""
    linear = scale * np.eye(4)
    linear[:3, 3], linear[3, 3] = CENTRE - scale * CENTRE, 1
    solver = solver_of(pair, linear)

    def whole(lam: float, stage: int) -> Transform:
        return Transform((solver.fields(lam, stage, "cpu", ignore).forward, linear))

    free = max(bent(whole(0.1, 2), value) for value in (1, 2))
    solver.constrain(Constraints(rigid=BONES, rigid_values=(1, 2)))
    for lam, stage in ((0.1, 1), (0.1, 2), (0.8, 2)):
        assert max(bent(whole(lam, stage), value) for value in (1, 2)) < 0.15 < 0.5 * free
        assert volume_change(solver.fields(lam, stage, "cpu", ignore).forward).array.min() > 0
    body = GRID.to_ras(np.argwhere(BONES.array == 1))
    np.testing.assert_allclose((whole(0.1, 2).apply(body) - body).mean(axis=0), SHIFT, atol=0.6)
    assert np.abs(solver.fields(1.0, 2, "cpu", ignore).forward.array).max() == 0


def test_the_surroundings_go_on_bending(pair: Pair) -> None:
    """Far from a small body the field is as without it."""
    solver = solver_of(pair, np.eye(4))
    free = solver.fields(0.1, 2, "cpu", ignore).forward.array.copy()
    solver.constrain(Constraints(rigid=BONES, rigid_values=(1,)))
    held = solver.fields(0.1, 2, "cpu", ignore).forward.array
    away = np.linalg.norm(solver.grid.points() - CENTRE - (-9, 2, 0), axis=-1) < 5
    assert np.linalg.norm(held - free, axis=0)[away].mean() < 0.3
    solver.constrain(Constraints())
    np.testing.assert_array_equal(solver.fields(0.1, 2, "cpu", ignore).forward.array, free)


def test_what_is_no_body_is_refused_and_changes_nothing(pair: Pair) -> None:
    solver = solver_of(pair, np.eye(4))
    solver.constrain(Constraints(rigid=BONES, rigid_values=(1,)))
    before = solver.fields(0.1, 0, "cpu", ignore).forward.array

    def volume(inside: np.ndarray) -> Volume:
        return Volume(inside.astype(np.int16), GRID.ijk_to_ras, "map")

    one, line = np.zeros(GRID.shape, bool), np.zeros(GRID.shape, bool)
    one[24, 16, 12] = line[8:40, 16, 12] = True
    away = GRID.ijk_to_ras.copy()
    away[:3, 3] += 500
    for labels, values, said in (
        (volume(one), (1,), r"Region 1 of 'map' is too small or too thin to move as a rigid body \(\d+ voxels\)"),
        (volume(line), (1,), "too small or too thin"),
        (volume(np.ones(GRID.shape)), (1,), "is the whole of what the fixed image shows"),
        (BONES, (1, 5), "'bones' has no region 5 in the registered part"),
        (BONES, (0,), "no region 0"),
        (Volume(BONES.array, away, "far"), (1,), "'far' has no region 1"),
        (Volume(BONES.array + 0.3, GRID.ijk_to_ras, "grey"), (1,), "'grey' is not a label map"),
    ):
        with pytest.raises(InputError, match=said):
            solver.constrain(Constraints(rigid=labels, rigid_values=values))
        np.testing.assert_array_equal(solver.fields(0.1, 0, "cpu", ignore).forward.array, before)
