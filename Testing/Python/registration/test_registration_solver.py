"""The solver: the gradient it follows, and a known deformation of an oblique, anisotropic, flipped pair, in mm."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import Fields
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.contrast import AUTOMATIC, DIFFERENT, SAME
from hyperreg.registration.field import from_ras
from hyperreg.registration.filters import gaussian_kernel, separable
from hyperreg.registration.masks import check_masks
from hyperreg.registration.metrics import jacobian_determinant
from hyperreg.registration.similarity import LEAST_BALANCE, LocalCorrelation, contrast_balance
from hyperreg.registration.solver import Solver
from hyperreg.registration.steps import room_to_compress, scaled
from hyperreg.registration.verification import inverse_errors

FULL = 2


def oblique() -> Grid:
    """Turned by 25 degrees about S, spacing 1, 1.5 and 2 mm, the first axis to the left."""
    angle = np.deg2rad(25)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-1.0, 1.5, 2.0])
    affine[:3, 3] = (20, -30, 10)
    return Grid((48, 32, 24), affine)


def blobs(points: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """A smooth body with three bright blobs in it, at RAS mm points (..., 3)."""
    body = 0.5 * (np.linalg.norm(points - centre, axis=-1) < 18)
    for offset in ((6, 0, 0), (-5, 6, 3), (0, -6, -6)):
        body = body + np.exp(-(((points - centre - offset) / 4) ** 2).sum(-1))
    return body.astype(np.float32)


def test_the_gradient_is_that_of_the_correlation() -> None:
    torch.manual_seed(0)
    fixed, warped = torch.rand(1, 1, 9, 8, 7), torch.rand(1, 1, 9, 8, 7)
    correlation = LocalCorrelation(fixed)
    gradient = correlation.gradient(warped)
    step = torch.zeros_like(warped)
    step[0, 0, 4, 3, 3] = 1e-3

    def total(image: torch.Tensor) -> torch.Tensor:
        covariance, variance, _mean = correlation.windows(image)
        return (covariance**2 / (correlation.variance * variance)).sum()

    change = (total(warped + step) - total(warped - step)) / 2e-3
    assert float(gradient[0, 0, 4, 3, 3]) == pytest.approx(float(change), rel=0.05, abs=1e-3)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (lambda x: x, True),
        (lambda x: 0.2 + 0.5 * x, True),
        (lambda x: x.clamp(0.1, 0.7), True),
        (lambda x: 1 - x, False),
        (lambda x: 4 * x * (1 - x), False),
    ],
    ids=["same", "dimmed", "saturated", "negative", "folded"],
)
def test_a_rising_curve_is_the_same_contrast_and_another_is_not(curve, expected: bool) -> None:
    torch.manual_seed(0)
    tissue = separable(torch.randn(1, 1, 32, 32, 32), gaussian_kernel(2), "repeat")
    tissue = (0.5 + 0.25 * tissue / tissue.std()).clamp(0, 1)
    fixed, moving = ((tissue + 0.02 * torch.randn(tissue.shape)).clamp(0, 1) for _ in range(2))
    inside = torch.ones(tissue.shape, dtype=torch.bool)
    assert (contrast_balance(fixed, curve(moving), inside) > LEAST_BALANCE) is expected


def test_too_little_to_tell_counts_as_the_same_contrast() -> None:
    image = torch.rand(1, 1, 8, 8, 8)
    assert contrast_balance(image, torch.ones_like(image), torch.ones(image.shape, dtype=torch.bool)) == 1
    assert contrast_balance(image, 1 - image, torch.zeros(image.shape, dtype=torch.bool)) == 1


class Pair:
    """A body with blobs and the same moved by `shift`, RAS mm, on the oblique grid."""

    def __init__(self, shift: tuple[float, float, float], contrast: float = 1.0, told: str = AUTOMATIC) -> None:
        grid = oblique()
        array = blobs(grid.points() - np.array(shift), grid.centre)
        self.fixed = Volume(blobs(grid.points(), grid.centre), grid.ijk_to_ras, "fixed")
        other = np.where(array > 0.05, 1.7 - array, 0).astype(np.float32)  # dark blobs in a bright body
        self.moving = Volume(array if contrast > 0 else other, grid.ijk_to_ras, "moving")
        foreground = Volume((self.fixed.array > 0.1).astype(np.uint8), grid.ijk_to_ras, "foreground")
        self.solver = Solver(self.fixed, self.moving, np.eye(4), foreground, told)
        self.solver.find_contrast("cpu", ignore)

    def solve(self, lam: float, stage: int = FULL) -> Fields:
        return self.solver.fields(lam, stage, "cpu", ignore)

    def mean_near_centre(self, found: Fields) -> np.ndarray:
        near = np.linalg.norm(self.solver.grid.points() - oblique().centre, axis=-1) < 10
        return found.forward.array[:, near].mean(axis=1)


def ignore(_fraction: float) -> None:
    pass


@pytest.mark.parametrize("contrast", [1.0, -1.0])
def test_a_shift_is_found_in_mm_and_inverted(contrast: float) -> None:
    shift = (2.0, -1.5, 1.0)
    pair = Pair(shift, contrast)
    assert pair.solver.same_contrast is (contrast > 0)
    found = pair.solve(0.1)
    assert np.linalg.norm(pair.mean_near_centre(found) - shift) < 0.6 < np.linalg.norm(shift)
    for field in (found.forward, found.inverse):
        assert field.grid.matches(pair.solver.grid) and field.array.dtype == np.float32
    forward, inverse = (Transform((field,)) for field in (found.forward, found.inverse))
    assert inverse_errors(forward, inverse, pair.fixed.grid).mean() < 0.1


def test_every_stage_is_nearer_to_the_truth_and_goes_on_from_the_one_before() -> None:
    shift = (2.0, -1.5, 1.0)
    pair = Pair(shift)
    assert [stage.spacing_mm for stage in pair.solver.stages] == pytest.approx([4, 2, 1])
    errors = [np.linalg.norm(pair.mean_near_centre(pair.solve(0.1, stage)) - shift) for stage in range(3)]
    assert errors[2] < errors[0] < np.linalg.norm(shift)
    alone = Pair(shift).solve(0.1, FULL)
    np.testing.assert_allclose(pair.solve(0.1, FULL).forward.array, alone.forward.array, atol=1e-4)


def test_the_finest_field_lies_on_the_images_own_voxels_and_is_the_same_map() -> None:
    pair = Pair((2.0, -1.5, 1.0))
    finest = pair.solver.finest_fields(0.2, "cpu", ignore)
    assert finest.forward.grid.matches(pair.solver.native_grid)
    np.testing.assert_allclose(pair.solver.native_grid.spacing, 1)
    np.testing.assert_allclose(pair.solver.grid.spacing, 2)
    points = oblique().points()[8:-8:3, 6:-6:3, 5:-5:3].reshape(-1, 3)
    kept = Transform((pair.solve(0.2).forward,)).apply(points)
    assert np.linalg.norm(Transform((finest.forward,)).apply(points) - kept, axis=1).mean() < 0.05


def test_what_the_user_says_of_the_contrast_decides() -> None:
    assert Pair((1.0, 0.0, 0.0), told=DIFFERENT).solver.same_contrast is False
    assert Pair((1.0, 0.0, 0.0), contrast=-1.0, told=SAME).solver.same_contrast is True


def test_a_stiff_region_stays_where_it_is() -> None:
    pair = Pair((2.0, 0.0, 0.0))
    points, centre = pair.fixed.grid.points(), oblique().centre
    right = (points[..., 0] > centre[0]).astype(np.uint8)
    regions = Volume(right, pair.fixed.ijk_to_ras, "right")
    pair.solver.constrain(Constraints(regions=regions, region_lambdas={1: 1.0}))
    field = np.abs(pair.solve(0.1).forward.array).max(axis=0)
    x = pair.solver.grid.points()[..., 0]
    assert field[x > centre[0] + 6].max() < 0.4
    assert field[x < centre[0] - 4].max() > 1.2


def test_at_lambda_one_nothing_moves_and_a_run_can_be_cancelled() -> None:
    pair = Pair((2.0, 0.0, 0.0))
    for stage in range(3):
        assert np.abs(pair.solve(1.0, stage).forward.array).max() == 0
    seen: list[float] = []

    def stop(fraction: float) -> None:
        seen.append(fraction)
        if len(seen) > 9:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        pair.solver.fields(0.3, FULL, "cpu", stop)
    assert seen == sorted(seen) and seen[0] == 0 and seen[-1] < 1


def test_a_body_cut_by_the_border_does_not_fold_there() -> None:
    """As where a neck leaves the picture: what lies outside would have to move 12 mm across the grid's border."""
    grid = oblique()
    i, j, k = np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij")
    rings = np.cos(i / 2) * np.cos(j / 3) * np.cos(k / 2.5)
    fixed = Volume((1.5 + rings).astype(np.float32), grid.ijk_to_ras, "fixed")
    shifted = grid.ijk_to_ras.copy()
    shifted[:3, 3] += grid.ijk_to_ras[:3, :3] @ np.array([0, 0, 6.0])
    moving = Volume(fixed.array.copy(), shifted, "moving")
    foreground = Volume(np.ones(grid.shape, np.uint8), grid.ijk_to_ras, "foreground")
    solver = Solver(fixed, moving, np.eye(4), foreground, SAME)
    solver.find_contrast("cpu", ignore)
    found = solver.finest_fields(0.0, "cpu", ignore).forward
    displacement = from_ras(torch.from_numpy(found.array)[None], torch.from_numpy(found.ijk_to_ras.copy()))
    assert float(displacement.abs().max()) > 1, "it has to try"
    assert float(jacobian_determinant(displacement).min()) > 0
    assert np.abs(found.array[..., 0]).max() == np.abs(found.array[..., -1]).max() == 0


def test_where_space_is_compressed_no_step_of_the_similarity_is_taken() -> None:
    displacement = torch.zeros(1, 3, 16, 16, 16)
    displacement[:, 0, 8:] = -0.95  # the cells between planes 7 and 8 keep a twentieth of their volume
    room = room_to_compress(displacement)[0, 0]
    assert float(room[7, 8, 8]) < 0.1 and float(room[2, 8, 8]) == 1


def test_the_gradient_with_weights_is_that_of_the_weighted_correlation() -> None:
    torch.manual_seed(1)
    fixed, warped, counted = (torch.rand(1, 1, 9, 8, 7) for _ in range(3))
    counted[..., :3] = 0
    correlation = LocalCorrelation(fixed, counted=counted)
    gradient = correlation.gradient(warped)

    def total(image: torch.Tensor) -> torch.Tensor:
        covariance, variance, _mean = correlation.windows(image)
        return (correlation.share * covariance**2 / (correlation.variance * variance)).sum()

    for place in ((0, 0, 4, 3, 4), (0, 0, 2, 5, 3)):
        step = torch.zeros_like(warped)
        step[place] = 1e-3
        change = (total(warped + step) - total(warped - step)) / 2e-3
        assert float(gradient[place]) == pytest.approx(float(change), rel=0.05, abs=2e-3)
    assert float(gradient[..., :3].abs().max()) == 0


def test_what_is_masked_has_no_say_and_is_carried_along() -> None:
    """A lesion that only the moving image has bends the field around it; masked, it does not, and the field inside is
    that of the surroundings, in mm."""
    shift = np.array((2.0, -1.5, 1.0))
    grid, centre = oblique(), oblique().centre
    place = np.array((3.0, -2.0, 4.0))
    lesion = np.linalg.norm(grid.points() - centre - place, axis=-1) < 5
    images = [blobs(grid.points() - offset, centre) for offset in (np.zeros(3), shift)]
    images[1][lesion] = 2.0
    fixed, moving = (Volume(image, grid.ijk_to_ras, "image") for image in images)
    mask = Volume((~lesion).astype(np.uint8), grid.ijk_to_ras, "mask")
    foreground = Volume((images[0] > 0.1).astype(np.uint8), grid.ijk_to_ras, "foreground")
    errors = []
    for moving_mask in (mask, None):
        solver = Solver(fixed, moving, np.eye(4), foreground, SAME)
        solver.constrain(Constraints(moving_mask=moving_mask))
        solver.find_contrast("cpu", ignore)
        found = solver.fields(0.1, FULL, "cpu", ignore).forward
        inside = np.linalg.norm(solver.grid.points() - centre - place + shift, axis=-1) < 5
        errors.append(np.linalg.norm(found.array[:, inside].T - shift, axis=1).mean())
    assert errors[0] < 1.3 < errors[1]


def test_masks_that_leave_nothing_or_lie_elsewhere_are_refused() -> None:
    grid = oblique()
    image = Volume(blobs(grid.points(), grid.centre), grid.ijk_to_ras, "image")
    nothing = Volume(np.zeros(grid.shape, np.uint8), grid.ijk_to_ras, "nothing")
    away = grid.ijk_to_ras.copy()
    away[:3, 3] += 500
    elsewhere = Volume(np.ones(grid.shape, np.uint8), away, "elsewhere")
    with pytest.raises(InputError, match="0 everywhere"):
        check_masks(image, image, nothing, None)
    with pytest.raises(InputError, match=r"mask of the moving image, 'elsewhere', leaves 0\.0 %"):
        check_masks(image, image, None, elsewhere)
    check_masks(image, image, Volume(np.ones(grid.shape, np.uint8), grid.ijk_to_ras, "all"), None)


def test_masks_that_cover_everything_change_nothing() -> None:
    """Also beside the border of the images, where there is nothing to leave out."""
    pair = Pair((2.0, -1.5, 1.0))
    free = pair.solve(0.1).forward.array
    ones = Volume(np.ones(pair.fixed.shape, np.uint8), pair.fixed.ijk_to_ras, "all")
    pair.solver.constrain(Constraints(fixed_mask=ones, moving_mask=ones))
    np.testing.assert_allclose(pair.solve(0.1).forward.array, free, atol=0.01)
    pair.solver.constrain(Constraints(fixed_mask=half(pair.fixed, 1)))
    assert np.abs(pair.solve(0.1).forward.array - free).max() > 0.5


def test_masks_that_leave_nothing_together_are_refused_and_change_nothing() -> None:
    pair = Pair((2.0, -1.5, 1.0))
    kept = Constraints(fixed_mask=half(pair.fixed, 1))
    pair.solver.constrain(kept)
    before = pair.solve(0.1, 0).forward.array
    with pytest.raises(InputError, match=r"masks of both images together leave 0\.\d % of what the fixed image shows"):
        pair.solver.constrain(Constraints(fixed_mask=half(pair.fixed, 1), moving_mask=half(pair.moving, -1)))
    np.testing.assert_array_equal(pair.solve(0.1, 0).forward.array, before)
    pair.solver.constrain(Constraints(fixed_mask=half(pair.fixed, 1), moving_mask=half(pair.moving, 1)))


def half(image: Volume, side: int) -> Volume:
    """A mask that lets the right (1) or the left (-1) half of an image count."""
    to_the_right = image.grid.points()[..., 0] - oblique().centre[0]
    return Volume((side * to_the_right > 0).astype(np.uint8), image.ijk_to_ras, "half")


def test_the_length_of_a_step_is_that_of_its_longer_vectors_and_none_is_longer() -> None:
    torch.manual_seed(0)
    step = torch.randn(1, 3, 12, 12, 12)
    step[0, :, 0, 0, 0] = 50
    lengths = scaled(step).norm(dim=1)
    assert float(lengths.max()) == pytest.approx(1, rel=1e-4)
    assert float(lengths.median()) > 0.3
    lonely = torch.zeros(1, 3, 12, 12, 12)
    lonely[0, 0, 6, 6, 6] = 1e-3
    assert float(scaled(lonely).abs().max()) == pytest.approx(1, rel=1e-4)
