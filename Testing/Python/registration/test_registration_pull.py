"""Landmarks that pull: where they lead, in mm, on an oblique, anisotropic, flipped grid; and those that cannot."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_registration_solver import Pair, oblique

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.forces import at_points, spread
from hyperreg.registration.landmarks import Landmarks, check_pull, pair_landmarks
from hyperreg.registration.metrics import volume_change

CENTRE = oblique().centre
POINTS = CENTRE + np.array([[6, 0, 0], [-5, 6, 3], [0, -6, -6], [3, 3, 0], [-8, -2, 2]], dtype=float)
# Where the images, which are the same here, say that nothing moves.
OFFSETS = np.array([[3, -2, 1], [-2, 2, 2], [0, 4, -1], [3, -2, 1], [-2, 1, 3]], dtype=float)
QUICK, FULL = 1, 2


def landmarks(pull: float, offsets: np.ndarray = OFFSETS, points: np.ndarray = POINTS) -> Landmarks:
    found = pair_landmarks(points, points + offsets, pull)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def pair() -> Pair:
    return Pair((0.0, 0.0, 0.0))


def left(pair: Pair, lam: float, stage: int = FULL) -> float:
    """Mean distance of the landmarks, mm."""
    return landmarks(0.0).distance(Transform((pair.solve(lam, stage).forward,)))


def test_values_go_to_points_and_back() -> None:
    grid, points = torch.zeros(1, 2, 6, 7, 8), torch.tensor([[2.25, 3.5, 4.0], [5.0, 0.0, 7.0]])
    values = torch.tensor([[1.0, -2.0], [3.0, 0.5]])
    there = spread(values, points, (6, 7, 8))
    torch.testing.assert_close(there.sum(dim=(2, 3, 4))[0], values.sum(dim=0))
    middle = (there[0, 0] * torch.arange(6.0)[:, None, None]).sum() / there[0, 0].sum()
    assert float(middle) == pytest.approx((2.25 + 3 * 5.0) / 4)
    grid[0, 0] = torch.arange(6.0)[:, None, None]
    grid[0, 1] = 2 * torch.arange(8.0)
    torch.testing.assert_close(at_points(grid, points), torch.tensor([[2.25, 8.0], [5.0, 14.0]]))


def test_at_full_pull_the_points_are_reached_and_nothing_folds(pair: Pair) -> None:
    before = np.linalg.norm(OFFSETS, axis=1).mean()
    assert before > 3.5
    pair.solver.constrain(Constraints(landmarks=landmarks(1.0)))
    voxel = pair.fixed.spacing.min()
    for lam in (0.0, 0.1, 0.5, 0.9):
        assert left(pair, lam) < voxel, "mm, at full resolution"
        assert left(pair, lam, QUICK) < 2 * voxel, "on voxels twice as long"
        assert volume_change(pair.solve(lam).forward).array.min() > 0
    assert np.abs(pair.solve(1.0).forward.array).max() == 0
    inverse = Transform((pair.solve(0.3).inverse,)).apply(POINTS + OFFSETS)
    assert np.linalg.norm(inverse - POINTS, axis=1).mean() < voxel


def test_the_weight_goes_from_the_images_to_the_points(pair: Pair) -> None:
    """More pull, less distance; without landmarks the field is what it was before."""
    pair.solver.constrain(Constraints())
    free = pair.solve(0.2).forward.array.copy()
    distances = [left(pair, 0.2)]
    for pull in (0.1, 0.5, 1.0):
        pair.solver.constrain(Constraints(landmarks=landmarks(pull)))
        distances.append(left(pair, 0.2))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] - distances[1] < 0.5 * (distances[0] - distances[3])
    pair.solver.constrain(Constraints())
    np.testing.assert_array_equal(pair.solve(0.2).forward.array, free)


def test_the_pull_is_smooth_around_a_point_and_ends_far_from_it(pair: Pair) -> None:
    one = landmarks(1.0, OFFSETS[:1], POINTS[:1])
    pair.solver.constrain(Constraints(landmarks=one))
    length = np.linalg.norm(pair.solve(0.1).forward.array, axis=0)
    away = np.linalg.norm(pair.solver.grid.points() - POINTS[0], axis=-1)
    # Images that are alike hold what is further away.
    assert length[away < 3].mean() > 2 > 0.5 > length[away > 14].mean()


def test_three_on_a_line_or_one_point_twice_pull_as_others_do(pair: Pair) -> None:
    line = CENTRE + np.array([[-6.0, 0, 0], [0, 0, 0], [6, 0, 0]])
    shift = np.tile((0.0, 2.0, 1.0), (3, 1))
    for points in (line, np.concatenate([line, line[:1]])):
        offsets = shift[[0] * (len(points) - 3) + [0, 1, 2]]
        given = landmarks(1.0, offsets, points)
        check_pull(given, np.eye(4), pair.fixed.grid, pair.fixed.grid)
        pair.solver.constrain(Constraints(landmarks=given))
        assert given.distance(Transform((pair.solve(0.2).forward,))) < 1


def test_points_that_push_against_each_other_do_not_fold(pair: Pair) -> None:
    """Nearer than may be refused, each wants to be beyond the other."""
    points = CENTRE + np.array([[-2.5, 0.0, 0], [2.5, 0, 0]])
    pair.solver.constrain(Constraints(landmarks=landmarks(1.0, np.array([[5.0, 0, 0], [-5, 0, 0]]), points)))
    for lam in (0.0, 0.5):
        assert volume_change(pair.solve(lam).forward).array.min() > 0


@pytest.mark.parametrize(
    ("points", "offsets", "said"),
    [
        (POINTS + np.array((0, 0, 400)), OFFSETS, "Outside of the fixed image, .*: landmark 1, 2, 3, 4, 5."),
        (
            POINTS,
            OFFSETS * (1, 1, 100),
            "Outside of the moving image, where nothing can pull: landmark 1, 2, 3, 4, 5. Do",
        ),
        (POINTS[[0, 1, 1]], OFFSETS[[0, 1, 2]], "Landmarks 2 and 3 are one place in one image and two in the other"),
        (POINTS, 2 * (CENTRE - POINTS) * (1, 0, 0), "Landmarks 1 and 2 change places between the images: are left and"),
    ],
    ids=["outside", "outside of the moving one", "doubled", "mirrored"],
)
def test_points_that_cannot_pull_are_refused(points: np.ndarray, offsets: np.ndarray, said: str) -> None:
    grid = Grid((48, 32, 24), oblique().ijk_to_ras)
    with pytest.raises(InputError, match=said):
        check_pull(landmarks(0.7, offsets, points), np.eye(4), grid, grid)
    check_pull(landmarks(0.0, offsets, points), np.eye(4), grid, grid)  # only measured, they may


def test_those_that_are_left_out_keep_their_numbers_and_judge_alone() -> None:
    grid = Grid((48, 32, 24), oblique().ijk_to_ras)
    far = np.array([[0.0, 0, 0], [0, 0, 300], [0, 0, 0]])
    given = pair_landmarks(POINTS[:3], POINTS[:3] + far, 0.5, [0])
    assert given is not None
    with pytest.raises(InputError, match=r"Outside of the moving image, .*: landmark 2\. "):
        check_pull(given, np.eye(4), grid, grid)
    assert given.figures(Transform()) == {"landmarks_mm": 0.0, "pulled_mm": 150.0}
    for pull, rows, said in ((1.5, [0], "between 0"), (0.5, [3], "none of the 3"), (0.5, [-1], "none of the 3")):
        with pytest.raises(InputError, match=said):
            pair_landmarks(POINTS[:3], POINTS[:3], pull, rows)
