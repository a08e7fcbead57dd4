"""STAPLE and local voting: against SimpleITK's bare filters, against the truth, and where these filters fail."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from fusion_bench import LABELS, body, dice, noisy, picture, volume
from imaging_examples import oblique_grid

from hyperreg.errors import Cancelled, InputError
from hyperreg.fusion.local import joint_weights, local
from hyperreg.fusion.methods import METHODS, Evidence, fuse
from hyperreg.fusion.stack import LabelStack, stack_labels
from hyperreg.fusion.staple import staple
from hyperreg.fusion.voting import vote
from hyperreg.imaging.volume import Volume

GRID = oblique_grid((26, 24, 22), (1.5, 1.7, 2.0))


def binary(source: Volume) -> Volume:
    return Volume((source.array > 0).astype(np.uint8), source.ijk_to_ras, source.name)


def images(stack: LabelStack) -> list[sitk.Image]:
    return [sitk.GetImageFromArray(rater.transpose(2, 1, 0)) for rater in stack.codes]


def test_binary_staple_is_simpleitk_s_within_the_box() -> None:
    truth = binary(body(GRID))
    maps = [binary(noisy(body(GRID), share, n, f"r{n}")) for n, share in enumerate((0.05, 0.1, 0.2, 0.3))]
    stack = stack_labels(maps)
    result = staple(stack)
    bare = sitk.STAPLEImageFilter()
    bare.SetForegroundValue(1)
    theirs = sitk.GetArrayFromImage(bare.Execute(images(stack))).transpose(2, 1, 0)
    # Noise everywhere: the box is the whole image, so nothing but the filter differs.
    assert np.abs(result.probability(1).array - theirs).max() < 0.01
    assert np.array_equal(result.labels.array, theirs > 0.5)
    assert result.sensitivity[:, 1] == pytest.approx(bare.GetSensitivity(), abs=1e-6)
    assert result.specificity[:, 1] == pytest.approx(bare.GetSpecificity(), abs=1e-6)
    quality = [rater.sensitivity for rater in result.raters()]
    assert quality == sorted(quality, reverse=True)
    assert dice(result.labels.array, truth.array, 1) > 0.97


def test_multi_label_staple_is_simpleitk_s_with_the_same_priors() -> None:
    maps = [noisy(body(GRID), share, n, f"r{n}") for n, share in enumerate((0.05, 0.2, 0.3, 0.4))]
    stack = stack_labels(maps)
    result = staple(stack)
    bare = sitk.MultiLabelSTAPLEImageFilter()
    bare.SetPriorProbabilities((np.bincount(stack.codes.ravel()) / stack.codes.size).tolist())
    theirs = sitk.GetArrayFromImage(bare.Execute(images(stack))).transpose(2, 1, 0)
    assert (result.codes != theirs).mean() < 1e-3
    for rater in range(4):
        table = np.array(bare.GetConfusionMatrix(rater)).reshape(-1, 4)[:4]
        assert result.sensitivity[rater] == pytest.approx(np.diagonal(table), abs=2e-3)


def test_multi_label_staple_finds_the_truth_and_ranks_the_raters() -> None:
    truth = body(GRID)
    maps = [noisy(truth, share, n, f"r{n}") for n, share in enumerate((0.1, 0.2, 0.3, 0.4))]
    result = staple(stack_labels(maps))
    for label in LABELS:
        assert dice(result.labels.array, truth.array, label) > dice(maps[0].array, truth.array, label) + 0.02
    weights = [rater.weight for rater in result.raters()]
    assert weights == sorted(weights, reverse=True)
    assert sum(weights) == pytest.approx(1)
    total = sum(result.probability(label).array for label in (0, *LABELS))
    assert np.abs(total - 1).max() < 1e-4


def test_staple_of_many_labels_looks_at_the_labels_that_somebody_gave() -> None:
    truth = body(GRID)
    parts = Volume((truth.array > 0) * (1 + np.indices(GRID.shape).sum(axis=0) % 12), truth.ijk_to_ras, "truth")
    maps = []
    for seed, share in enumerate((0.1, 0.2, 0.3, 0.6)):
        draw = np.random.default_rng(seed)
        wrong = draw.random(GRID.shape) < share
        array = np.where(wrong, draw.integers(0, 13, GRID.shape), parts.array)
        maps.append(Volume(array, truth.ijk_to_ras, f"r{seed}"))
    result = staple(stack_labels(maps))
    right = [(rater.array == parts.array).mean() for rater in maps]
    assert (result.labels.array == parts.array).mean() > max(right) + 0.05
    truly = [np.mean([(rater.array == n)[parts.array == n].mean() for n in range(13)]) for rater in maps]
    assert result.sensitivity.mean(axis=1) == pytest.approx(truly, abs=0.1)
    given = np.stack([rater.array for rater in maps])
    assert (given == result.labels.array).any(axis=0).all()


def test_the_box_does_not_let_the_background_drown_a_small_structure() -> None:
    small = np.zeros((60, 60, 60), np.uint8)
    small[30:34, 30:34, 30:34] = 1
    maps = [volume(np.roll(small, shift, axis=0), name=f"r{shift}") for shift in (0, 0, 1)]
    result = staple(stack_labels(maps))
    assert result.stack.box == (slice(30, 35), slice(30, 34), slice(30, 34))
    assert np.array_equal(result.labels.array, small)
    assert result.probability(0).array[0, 0, 0] == 1


def test_all_empty_maps_give_an_empty_consensus_where_simpleitk_gives_nan() -> None:
    nothing = volume(np.zeros((6, 6, 6), np.uint8))
    stack = stack_labels([nothing, nothing])
    assert np.isnan(sitk.GetArrayFromImage(sitk.STAPLE(images(stack), 1.0, 1))).all()
    result = staple(stack)
    assert not result.labels.array.any()
    assert any("All label maps are empty" in text for text in result.warnings)


@pytest.mark.parametrize("labels", [(4,), (4, 9)])
def test_undecided_voxels_never_become_a_label_of_their_own(labels: tuple[int, ...]) -> None:
    halves = []
    for flip in (False, True):
        array = np.zeros((8, 8, 8), np.uint8)
        array[1:4] = labels[0]
        array[4:7] = labels[-1] if len(labels) > 1 else 0
        halves.append(volume(array[::-1] if flip else array, name=f"flip {flip}"))
    result = staple(stack_labels(halves))
    assert set(np.unique(result.labels.array)) <= {0, *labels}
    assert np.isfinite(result.probability(labels[0]).array).all()


def test_a_full_map_and_a_rater_without_labels_are_no_trouble() -> None:
    truth = binary(body(GRID))
    full = Volume(np.ones_like(truth.array), truth.ijk_to_ras, "full")
    empty = Volume(np.zeros_like(truth.array), truth.ijk_to_ras, "empty")
    result = staple(stack_labels([truth, truth, empty]))
    assert dice(result.labels.array, truth.array, 1) > 0.99
    assert staple(stack_labels([full, full])).labels.array.all()


def test_one_map_alone_has_no_quality() -> None:
    result = staple(stack_labels([body(GRID)]))
    assert np.array_equal(result.labels.array, body(GRID).array)
    assert any("quality cannot be estimated from one" in text for text in result.warnings)


def shifted() -> tuple[LabelStack, Volume, list[Volume]]:
    """Two atlases that lie right and three that are all off by 4 mm to the left, with their images."""
    places = [(0, 0, 0), (0, 0, 0), (-4, 0, 0), (-4, 0, 0), (-4, 0, 0)]
    maps = [body(GRID, place, f"atlas{n}") for n, place in enumerate(places)]
    return stack_labels(maps), picture(GRID, name="target"), [picture(GRID, place) for place in places]


def test_local_voting_believes_the_atlases_that_look_like_the_target() -> None:
    stack, target, atlases = shifted()
    truth = body(GRID).array
    found, majority = local(stack, target, atlases).labels.array, vote(stack).labels.array
    for label in LABELS:
        assert dice(found, truth, label) > 0.97
        assert dice(majority, truth, label) < 0.9
    weights = local(stack, target, atlases).weights
    assert weights[:2].sum() > 0.9


def test_local_weights_are_those_of_the_formula_at_one_voxel() -> None:
    stack, target, atlases = shifted()
    generator = np.random.default_rng(0)
    noise = [
        Volume(a.array + 80 * generator.random(a.shape, np.float32), a.ijk_to_ras, a.name) for a in (target, *atlases)
    ]
    weights = joint_weights(stack, noise[0], noise[1:], radius=1)
    assert weights.sum(axis=0) == pytest.approx(np.ones(stack.disputed.size), abs=1e-5)
    column = next(n for n, flat in enumerate(stack.disputed) if flat > stack.disputed.max() // 2)
    i, j, k = np.unravel_index(stack.disputed[column], stack.grid.shape)
    from hyperreg.imaging.intensity import normalise

    scaled = [normalise(image.array)[i - 1 : i + 2, j - 1 : j + 2, k - 1 : k + 2].ravel() for image in noise]
    errors = np.abs(np.stack(scaled[1:]) - scaled[0])
    matrix = (errors @ errors.T / errors.shape[1]) ** 2
    matrix += 0.1 * np.trace(matrix) / len(matrix) * np.eye(len(matrix))
    expected = np.clip(np.linalg.solve(matrix, np.ones(len(matrix))), 0, None)
    assert weights[:, column] == pytest.approx(expected / expected.sum(), rel=1e-3)


def test_local_voting_needs_images_on_the_labels_grid_and_stops_when_asked() -> None:
    stack, target, atlases = shifted()
    with pytest.raises(InputError, match="5 label maps, but 1 images"):
        local(stack, target, atlases[:1])
    with pytest.raises(InputError, match="not on the grid"):
        local(stack, target, [*atlases[:4], picture(oblique_grid())])
    with pytest.raises(Cancelled):
        local(stack, target, atlases, cancelled=lambda: True)


def test_every_method_by_name() -> None:
    stack, target, atlases = shifted()
    evidence = Evidence(target, atlases, data_parameters=[2, 2, -2, -2, -2])
    for method in METHODS:
        result = fuse(stack, method, evidence)
        assert result.method == method
        assert result.weights.sum() == pytest.approx(1)
    assert np.array_equal(fuse(stack, "dp", evidence).labels.array, body(GRID).array)
    with pytest.raises(InputError, match="Unknown method of fusion 'mean'"):
        fuse(stack, "mean")
    with pytest.raises(InputError, match="needs the target"):
        fuse(stack, "local")
    with pytest.raises(InputError, match="trained first"):
        fuse(stack, "dp")
