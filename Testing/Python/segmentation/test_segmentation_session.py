"""One case from volumes to labels: the right structure at the right place in mm, whatever the grid."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from imaging_examples import oblique_grid
from segmentation_bench import NETWORKS, centre_of, eggs, make_model, scene_centre, truth

from hyperreg.errors import Cancelled, InputError, OutOfMemory, WeightsError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.nets.weights import save_weights
from hyperreg.segmentation import model, session
from hyperreg.segmentation.catalogue import SegmentationCard, read_card
from hyperreg.segmentation.session import Segmenter


@pytest.fixture(scope="module", autouse=True)
def known_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
        yield


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    return make_model(tmp_path_factory.mktemp("models"))


GRIDS = {
    "the model's own voxels": oblique_grid((40, 36, 30), (2.0, 2.0, 2.0)),
    "oblique, flipped, anisotropic": oblique_grid((44, 36, 16), (1.5, 2.0, 3.0)),
    "fine in-plane": oblique_grid((80, 70, 16), (0.8, 0.8, 3.0)),
    "0.2 mm along one axis": oblique_grid((16, 16, 200), (3.0, 2.5, 0.2)),
    "8 mm slices": oblique_grid((40, 40, 6), (1.2, 1.2, 8.0)),
}


@pytest.mark.parametrize("kind", GRIDS)
def test_structures_are_found_at_their_place_in_mm(card: SegmentationCard, kind: str) -> None:
    grid = GRIDS[kind]
    image = eggs(grid)
    found = Segmenter(card, "cpu").segment({"image": image})
    assert found.labels.grid.matches(grid)
    assert found.labels.array.shape == grid.shape
    expected = Volume(truth(grid), grid.ijk_to_ras)
    for label, least in ((2, 0.8), (5, 0.85)):
        one, two = found.labels.array == label, expected.array == label
        dice = 2 * (one & two).sum() / (one.sum() + two.sum())
        assert dice > least - (0.15 if kind == "8 mm slices" else 0)
        assert np.linalg.norm(centre_of(found.labels, label) - centre_of(expected, label)) < 0.7
    millilitres = {v.structure.label: v.volume_ml for v in found.volumes}
    voxel = float(np.prod(grid.spacing)) / 1000
    assert millilitres[5] == pytest.approx((found.labels.array == 5).sum() * voxel, rel=1e-6)
    assert millilitres[5] == pytest.approx(4 / 3 * np.pi * 7 * 6 * 5 / 1000, rel=0.2)


def test_without_resampling_the_answer_is_exact(card: SegmentationCard) -> None:
    grid = GRIDS["the model's own voxels"]
    found = Segmenter(card, "cpu").segment({"image": eggs(grid)})
    assert not found.frame.is_resampled
    assert np.array_equal(found.labels.array, truth(grid))


def test_orientation_changes_nothing(card: SegmentationCard) -> None:
    """The same voxels in other orders and directions of the axes give the same structures, voxel by voxel."""
    base = oblique_grid((20, 16, 12), (1.5, 2.2, 3.0))
    image = eggs(base)
    segmenter = Segmenter(card, "cpu")
    expected = segmenter.segment({"image": image}).labels.array
    assert set(np.unique(expected)) == {0, 2, 5}
    orders, flips = itertools.permutations(range(3)), itertools.product((1, -1), repeat=3)
    for order, signs in list(itertools.product(orders, flips))[::5]:
        steps = tuple(slice(None, None, sign) for sign in signs)
        affine = base.ijk_to_ras.copy()
        affine[:3, :3] = base.ijk_to_ras[:3, list(order)] * signs
        first = np.zeros(3)
        for axis, sign in zip(order, signs, strict=True):
            first[axis] = 0 if sign > 0 else base.shape[axis] - 1
        affine[:3, 3] = base.to_ras(first)
        turned = Volume(np.ascontiguousarray(image.array.transpose(order)[steps]), affine, "turned")
        found = segmenter.segment({"image": turned}).labels
        assert np.array_equal(found.ijk_to_ras, turned.ijk_to_ras)
        assert (found.array != expected.transpose(order)[steps]).mean() < 1e-3  # rounding at ties


def test_uncertainty_lies_at_the_borders(card: SegmentationCard) -> None:
    grid = GRIDS["fine in-plane"]
    found = Segmenter(card, "cpu").segment({"image": eggs(grid)})
    assert found.uncertainty.grid.matches(grid)
    assert found.uncertainty.array.min() >= 0
    assert found.uncertainty.array.max() <= 1
    middle = np.rint(grid.to_ijk(scene_centre(grid) + np.array((2, 1, -1)))).astype(int)
    assert found.uncertainty.array[tuple(middle)] < 0.1
    labels = found.labels.array
    border = np.zeros(labels.shape, bool)
    for axis in range(3):
        border |= (labels != np.roll(labels, 1, axis)) | (labels != np.roll(labels, -1, axis))
    assert found.uncertainty.array[border].mean() > 3 * found.uncertainty.array[~border].mean()


def test_flips_are_averaged_only_where_the_model_knows_them(card: SegmentationCard, tmp_path: Path) -> None:
    image = eggs(GRIDS["the model's own voxels"])
    plain, flipped = (Segmenter(card, "cpu").segment({"image": image}, flips=flips) for flips in (False, True))
    assert np.array_equal(plain.labels.array, flipped.labels.array)
    grid = {"axes": "ras", "spacing_mm": [2, 2, 2], "window": [32, 32, 32]}
    with pytest.raises(InputError, match="not trained with flipped images"):
        Segmenter(make_model(tmp_path, grid=grid), "cpu").segment({"image": image}, flips=True)


def test_probabilities_are_handed_out_on_the_image_s_grid(card: SegmentationCard) -> None:
    grid = GRIDS["oblique, flipped, anisotropic"]
    given: dict[str, Volume] = {}
    found = Segmenter(card, "cpu").segment({"image": eggs(grid)}, sink=lambda s, values: given.update({s.name: values}))
    assert set(given) == {"Core", "Outer shell"}
    for name, label in (("Core", 5), ("Outer shell", 2)):
        assert given[name].grid.matches(grid)
        assert given[name].array[found.labels.array == label].min() > 1 / 3
        likely = Volume(given[name].array > 0.5, grid.ijk_to_ras)
        assert np.linalg.norm(centre_of(likely, 1) - centre_of(found.labels, label)) < 0.5


def test_progress_ends_at_one_and_cancelling_stops(card: SegmentationCard) -> None:
    told: list[float] = []
    image = eggs(GRIDS["fine in-plane"])
    Segmenter(card, "cpu").segment({"image": image}, progress=lambda f, _: told.append(f))
    assert told == sorted(told)
    assert told[0] == 0
    assert 0.9 < told[-1] <= 1
    for after in (1, 3, len(told) - 1):
        count = iter(range(1000))
        with pytest.raises(Cancelled):
            Segmenter(card, "cpu").segment({"image": image}, cancelled=lambda count=count, n=after: next(count) >= n)


def test_a_volume_larger_than_memory_is_refused_before_anything_is_computed(
    card: SegmentationCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "main_memory", lambda: (1_000_000, 16 << 30))
    monkeypatch.setattr(session, "show", lambda *_: pytest.fail("computed"))
    with pytest.raises(OutOfMemory, match=r"44 x 36 x 16 .*GB of memory, and 0\.0 GB are free.*[Cc]rop"):
        Segmenter(card, "cpu").segment({"image": eggs(GRIDS["oblique, flipped, anisotropic"])})


def test_weights_of_another_network_are_refused(card: SegmentationCard, tmp_path: Path) -> None:
    entries = dict(card.card)
    save_weights(torch.nn.Linear(2, 2), entries, tmp_path / "other")
    other = read_card(tmp_path / "other")
    with pytest.raises(WeightsError, match="do not fit its card"):
        Segmenter(other, "cpu")
    (tmp_path / "other" / "weights.safetensors").write_bytes(card.weights.read_bytes())
    with pytest.raises(WeightsError, match="SHA256"):
        Segmenter(other, "cpu")


def test_an_unknown_network_is_named(card: SegmentationCard, tmp_path: Path) -> None:
    entries = {**json.loads((card.folder / "card.json").read_text(encoding="utf-8")), "network": {"name": "unheard-of"}}
    save_weights(torch.nn.Linear(1, 1), entries, tmp_path / "new")
    with pytest.raises(WeightsError, match=r"'unheard-of'.*update HyperReg"):
        Segmenter(read_card(tmp_path / "new"), "cpu")


@pytest.mark.parametrize(
    "network",
    [
        {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]}},
        {"name": "ahnet", "options": {"width": 2, "layers": [1, 1, 1, 1], "growth": 2}},
        {"name": "cascade", "options": {
            "first": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]},
            "second": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]}, "window": [8, 8, 8]}},
    ],
)  # fmt: skip
def test_every_network_runs_from_its_card(tmp_path: Path, network: dict) -> None:
    grid = oblique_grid((13, 11, 7), (2.0, 2.0, 5.0))
    found = Segmenter(make_model(tmp_path, network=network), "cpu").segment({"image": eggs(grid)})
    assert found.labels.grid.matches(grid)
    assert np.isfinite(found.uncertainty.array).all()


def test_many_thin_images_of_other_grids_need_no_common_grid_before(tmp_path: Path) -> None:
    """The second input decides nothing here, but it comes from an oblique grid of its own."""
    inputs = [{"name": "T1", "title": "T1"}, {"name": "T2", "title": "T2"}]
    segmenter = Segmenter(make_model(tmp_path, inputs=inputs), "cpu")
    grid = GRIDS["oblique, flipped, anisotropic"]
    other = Grid((40, 40, 40), np.array([[0, -2.5, 0, 95], [0, 0, 2.5, -60], [2.5, 0, 0, -20], [0, 0, 0, 1.0]]))
    found = segmenter.segment({"T1": eggs(grid), "T2": eggs(other, scene_centre(grid))}, first="T1")
    alone = Segmenter(make_model(tmp_path, "alone"), "cpu").segment({"image": eggs(grid)})
    assert np.array_equal(found.labels.array, alone.labels.array)
