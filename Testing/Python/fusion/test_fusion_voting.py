"""Label stacks and voting: codes, weights, ties, figures, geometry."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from fusion_bench import LABELS, body, noisy, volume
from imaging_examples import oblique_grid

from hyperreg.errors import InputError
from hyperreg.fusion.stack import stack_labels
from hyperreg.fusion.voting import softmax_weights, vote
from hyperreg.imaging.volume import Volume


def line(*values: int) -> Volume:
    """A map of one row of voxels along the first axis."""
    return volume(np.array(values, dtype=np.int16).reshape(-1, 1, 1))


def test_the_majority_wins_and_the_figures_say_who_differs() -> None:
    stack = stack_labels([line(0, 5, 5, 7), line(0, 5, 7, 7), line(0, 0, 5, 7)])
    result = vote(stack)
    assert result.labels.array.ravel().tolist() == [0, 5, 5, 7]
    assert result.disagreement.array.ravel().tolist() == pytest.approx([0, 1 / 3, 1 / 3, 0])
    assert result.probability(5).array.ravel().tolist() == pytest.approx([0, 2 / 3, 2 / 3, 0])
    assert result.probability(7).array.ravel().tolist() == pytest.approx([0, 0, 1 / 3, 1])
    first, second, third = result.raters()
    assert (first.sensitivity, first.specificity, first.dice) == (1, 1, 1)
    assert second.sensitivity == pytest.approx((1 / 2 + 1) / 2)
    # The box holds the three voxels with a label: of the two that are not 7 the second rater gave one 7.
    assert second.specificity == pytest.approx((1 + 1 / 2) / 2)
    assert third.dice == pytest.approx((2 / 3 + 1) / 2)
    assert [rater.weight for rater in (first, second, third)] == pytest.approx([1 / 3] * 3)


def test_structures_are_measured_in_ml_with_their_spread() -> None:
    grid = oblique_grid((4, 1, 1), (2, 3, 4))
    maps = [Volume(m.array, grid.ijk_to_ras, "r") for m in (line(0, 5, 5, 5), line(0, 5, 0, 0), line(0, 5, 5, 0))]
    (row,) = vote(stack_labels(maps)).structures()
    voxel = 2 * 3 * 4 / 1000
    assert row.label == 5
    assert row.volume_ml == pytest.approx(2 * voxel)
    assert row.raters_mean_ml == pytest.approx(2 * voxel)
    assert row.raters_sd_ml == pytest.approx(np.std([3, 1, 2]) * voxel)
    assert (row.raters_minimum_ml, row.raters_maximum_ml) == pytest.approx((voxel, 3 * voxel))


def test_weights_decide_and_one_half_is_a_tie() -> None:
    maps = [line(1, 1, 0), line(0, 0, 0), line(0, 1, 0)]
    assert vote(stack_labels(maps), [3, 1, 1]).labels.array.ravel().tolist() == [1, 1, 0]
    assert vote(stack_labels(maps), [1, 1, 1]).labels.array.ravel().tolist() == [0, 1, 0]
    shares = vote(stack_labels(maps), [3, 1, 1])
    assert shares.weights.tolist() == pytest.approx([0.6, 0.2, 0.2])
    assert shares.probability(1).array.ravel().tolist() == pytest.approx([0.6, 0.8, 0])


def test_a_weight_for_every_voxel() -> None:
    stack = stack_labels([line(1, 1, 2), line(2, 2, 2)])
    weights = np.array([[0.9, 0.1, 0.5], [0.1, 0.9, 0.5]]).reshape(2, 3, 1, 1)
    assert vote(stack, weights).labels.array.ravel().tolist() == [1, 2, 2]
    assert vote(stack, weights.reshape(2, 3)[:, stack.disputed]).labels.array.ravel().tolist() == [1, 2, 2]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_tie_goes_to_the_neighbours_then_to_the_background(order: tuple[int, int]) -> None:
    maps = [line(8, 8, 0, 0, 0, 4), line(8, 5, 0, 0, 4, 4)]
    tied = vote(stack_labels([maps[n] for n in order])).labels.array.ravel().tolist()
    # Second voxel: 5 or 8, beside an 8. Fifth: 0 or 4, one neighbour each: the background.
    assert tied == [8, 8, 0, 0, 0, 4]


def test_ties_far_from_any_decision_go_to_the_background() -> None:
    one, two = np.zeros((9, 9, 9), np.uint8), np.full((9, 9, 9), 3, np.uint8)
    assert not vote(stack_labels([volume(one), volume(two)])).labels.array.any()


def test_without_ties_voting_is_simpleitk_s() -> None:
    truth = body(oblique_grid((24, 22, 20)))
    maps = [noisy(truth, 0.3, seed, f"r{seed}") for seed in range(5)]
    stack = stack_labels(maps)
    theirs = sitk.GetArrayFromImage(
        sitk.LabelVoting([sitk.GetImageFromArray(rater.transpose(2, 1, 0)) for rater in stack.codes], 255)
    ).transpose(2, 1, 0)
    ours = vote(stack)
    decided = theirs != 255
    assert decided.mean() > 0.95
    assert not decided.all()
    assert np.array_equal(ours.codes[decided], theirs[decided])
    assert (ours.labels.array != truth.array).mean() < 0.2 * (maps[0].array != truth.array).mean()


def test_values_beyond_a_byte_negative_and_float_maps_keep_their_numbers() -> None:
    wide = volume(np.array([0, -3, 70000, 300], np.int32).reshape(-1, 1, 1))
    real = volume(wide.array.astype(np.float64))
    stack = stack_labels([wide, real])
    assert stack.labels.tolist() == [0, -3, 300, 70000]
    assert vote(stack).labels.array.ravel().tolist() == [0, -3, 70000, 300]
    assert any("Negative label values (-3)" in text for text in stack.warnings)


def test_more_than_255_labels_need_wider_codes() -> None:
    many = volume(np.arange(512, dtype=np.int16).reshape(8, 8, 8) - 100)
    stack = stack_labels([many, many, many])
    assert stack.codes.dtype == np.uint16
    assert np.array_equal(vote(stack).labels.array, many.array)


def test_values_far_apart_are_sorted_instead_of_counted() -> None:
    far = volume(np.array([0, 5, 2_000_000_000, -2_000_000_000], np.int64).reshape(-1, 1, 1))
    assert vote(stack_labels([far, far])).labels.array.ravel().tolist() == [0, 5, 2_000_000_000, -2_000_000_000]


def test_broken_numbers_are_refused_by_name() -> None:
    broken = Volume(np.full((3, 3, 3), 0.5), np.eye(4), "half")
    with pytest.raises(InputError, match="'half' is not a label map"):
        stack_labels([broken])
    with pytest.raises(InputError, match="No label map"):
        stack_labels([])


def test_a_map_on_another_grid_is_resampled_and_this_is_said() -> None:
    grid, other = oblique_grid((30, 28, 24), (1.5, 1.5, 2)), oblique_grid((60, 30, 40), (0.8, 1.4, 1.25))
    moved = np.array(other.ijk_to_ras)
    moved[:3, 3] += grid.centre - other.centre
    there = body(type(other)(other.shape, moved), name="elsewhere")
    stack = stack_labels([there, body(grid, name="here")], grid)
    (text,) = [text for text in stack.warnings if "another grid" in text]
    assert "'elsewhere'" in text
    assert "60 x 30 x 40" in text
    resampled, here = stack.codes
    grown = grid.points()[resampled > 0].mean(axis=0) - grid.points()[here > 0].mean(axis=0)
    assert np.abs(grown).max() < 0.5  # mm
    assert (here != resampled).mean() < 0.02


def test_a_map_of_another_place_is_refused() -> None:
    grid = oblique_grid()
    far = np.array(grid.ijk_to_ras)
    far[:3, 3] += 500
    maps = [body(grid), body(type(grid)(grid.shape, far), name="far")]
    with pytest.raises(InputError, match=r"lie far from each other in space.*'far'"):
        stack_labels(maps)
    with pytest.raises(InputError, match="'far' lie outside"):
        stack_labels([maps[1]], grid)


def test_the_order_of_maps_does_not_decide_the_grid_and_cropped_ones_cut_nothing_off() -> None:
    grid = oblique_grid((30, 28, 24), (1.5, 1.5, 2))
    whole = body(grid, name="whole")
    cropped = Volume(whole.array[8:20, 5:25, 6:20], grid.ijk_to_ras.copy(), "cropped")
    affine = grid.ijk_to_ras.copy()
    affine[:3, 3] = grid.to_ras((8, 5, 6))
    cropped = Volume(cropped.array, affine, "cropped")
    empty = Volume(np.zeros((1, 1, 1), np.uint8), np.eye(4), "empty")
    for maps in ([cropped, whole, empty], [empty, whole, cropped], [whole, empty, cropped]):
        stack = stack_labels(maps)
        assert stack.grid.matches(grid)
        by_name = dict(zip(stack.names, stack.labels[stack.codes], strict=True))
        assert np.array_equal(by_name["whole"], whole.array)
        assert np.array_equal(by_name["cropped"][8:20, 5:25, 6:20], cropped.array)
        assert np.count_nonzero(by_name["cropped"]) == np.count_nonzero(cropped.array)
        assert any("'cropped' covers only a part" in text for text in stack.warnings)


def test_crops_of_different_parts_are_fused_on_a_grid_for_both() -> None:
    grid = oblique_grid((30, 28, 24), (1.5, 1.5, 2))
    truth = body(grid)
    affine = grid.ijk_to_ras.copy()
    affine[:3, 3] = grid.to_ras((12, 0, 0))
    parts = [Volume(truth.array[:18], grid.ijk_to_ras, "low"), Volume(truth.array[12:], affine, "high")]
    for maps in (parts, parts[::-1]):
        stack = stack_labels(maps)
        assert stack.grid.shape[0] >= np.ptp(np.argwhere(truth.array != 0)[:, 0]) + 1
        for name, values in zip(stack.names, stack.labels[stack.codes], strict=True):
            part = parts[0] if name == "low" else parts[1]
            here = stack.grid.points()[values != 0].mean(axis=0)
            np.testing.assert_allclose(here, part.grid.points()[part.array != 0].mean(axis=0), atol=1e-6)
            assert np.count_nonzero(values) == np.count_nonzero(part.array)


def test_a_map_that_lost_its_place_is_refused() -> None:
    truth = body(oblique_grid())
    affine = truth.ijk_to_ras.copy()
    affine[:3, 3] += (6, -4, 5)  # mm: it still overlaps
    lost = Volume(truth.array, affine, "lost")
    with pytest.raises(InputError, match=r"'lost'.*place in space was lost"):
        stack_labels([truth, truth, lost])


def test_empty_maps_give_an_empty_consensus_and_a_warning() -> None:
    nothing = volume(np.zeros((5, 4, 3), np.uint8), name="nothing")
    result = vote(stack_labels([nothing, nothing]))
    assert not result.labels.array.any()
    assert result.structures() == []
    assert any("All label maps are empty" in text for text in result.warnings)
    assert [rater.name for rater in result.raters()] == ["nothing", "nothing (2)"]


def test_one_map_is_its_own_consensus() -> None:
    truth = body(oblique_grid())
    result = vote(stack_labels([truth]))
    assert np.array_equal(result.labels.array, truth.array)
    assert any("only one label map" in text for text in result.warnings)
    assert {row.label for row in result.structures()} == set(LABELS)


def test_labels_that_few_raters_have_are_named() -> None:
    stack = stack_labels([line(1, 2, 9), line(1, 2, 0), line(1, 2, 0), line(0, 0, 0)])
    assert any("not every rater has: 9. Half of them or fewer have label 9" in text for text in stack.warnings)
    assert any("Without any label: map (4)" in text for text in stack.warnings)


def test_unusable_weights_are_refused() -> None:
    stack = stack_labels([line(1, 2, 9), line(1, 2, 0)])
    for weights, words in (
        ([1, 2, 3], "2 label maps"),
        ([1, -1], "zero or larger"),
        ([1, np.nan], "finite"),
        ([0, 0], "all raters are zero"),
    ):
        with pytest.raises(InputError, match=words):
            vote(stack, weights)
    with pytest.raises(InputError, match="No rater has the label 77"):
        vote(stack).probability(77)


def test_the_temperature_says_how_much_the_best_counts() -> None:
    assert softmax_weights([0, 0]).tolist() == [0.5, 0.5]
    assert softmax_weights([np.log(3), 0]).tolist() == pytest.approx([0.75, 0.25])
    assert softmax_weights([np.log(3), 0], 0.5).tolist() == pytest.approx([0.9, 0.1])
    assert softmax_weights([1000, 0]).tolist() == [1, 0]
    for temperature in (0, -1, np.nan):
        with pytest.raises(InputError, match="above 0"):
            softmax_weights([1, 2], temperature)
    with pytest.raises(InputError, match="one finite number each"):
        softmax_weights([1, np.inf])


def test_copies_among_the_raters_are_told() -> None:
    """A copy is no second opinion; it outvotes. Empty maps are alike without being copies."""
    maps = [line(1, 2, 0), line(1, 2, 0), line(1, 0, 0), line(0, 0, 0), line(0, 0, 0)]
    (text,) = [text for text in stack_labels(maps).warnings if "copies" in text]
    assert text.endswith(": map = map (2).")
    assert not any("copies" in text for text in stack_labels(maps[1:]).warnings)
