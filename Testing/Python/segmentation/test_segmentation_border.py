"""Where a structure's border can run: the rule, and what is kept of a segmentation for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from imaging_examples import oblique_grid
from segmentation_bench import CORE, NETWORKS, OBLIQUE, SHELL, centre_of, eggs, make_card, make_model

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import border, model
from hyperreg.segmentation.border import NEVER, RESULT, SUREST, WIDEST, Kept, levels
from hyperreg.segmentation.frame import make_frame
from hyperreg.segmentation.session import Segmentation, Segmenter

# The axes of `oblique_grid`, one of them turned round.
FLIPPED = Grid(OBLIQUE.shape, OBLIQUE.ijk_to_ras @ np.diag([1, -1, 1, 1.0]))


@pytest.fixture(autouse=True)
def known_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})


def segmented(folder: Path, grid: Grid = OBLIQUE, **entries: object) -> Segmentation:
    card = make_model(folder, **{"network": {"name": "bands", "options": {"sharpness": 8.0}}, **entries})
    return Segmenter(card, "cpu").segment({"image": eggs(grid)}, keep=True)


def contest(*shares: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """p, r and the decision of the first structure, in voxels with these probabilities."""
    p = np.array([each[0] for each in shares], np.float32)
    r = np.array([max(each[1:]) for each in shares], np.float32)
    return p, r, p > r


def test_the_middle_is_the_decision_and_the_ends_are_sure_and_doubtful() -> None:
    p = np.random.default_rng(0).dirichlet([0.6, 0.6, 0.6, 0.6], 5000).astype(np.float32).T
    own, rival = p[0], p[1:].max(0)
    labelled = own > rival
    found = levels(own, rival, labelled)
    assert np.array_equal(found <= RESULT, labelled)
    assert np.array_equal(found <= SUREST, own >= border.SURE)
    assert np.array_equal(found <= WIDEST, labelled | (own >= border.DOUBTFUL))
    assert set(np.unique(found)) > {SUREST, RESULT, NEVER}


def test_between_two_structures_the_limit_goes_from_a_half_to_the_ends() -> None:
    p = np.linspace(0.25, 0.75, 101, dtype=np.float32)
    found = levels(p, 1 - p, p > 0.5)
    assert (np.diff(found.astype(int)) <= 0).all()
    assert len(set(found.tolist())) > 60


def test_what_two_neighbours_share_with_the_structure_leaves_in_its_turn() -> None:
    """.4 beside .3 and .3 is the structure's own, though it is less than a half."""
    strong, weak, outside, nothing = levels(
        *contest((0.4, 0.3, 0.3), (0.36, 0.34, 0.3), (0.33, 0.34, 0.33), (0.2, 0.8))
    )
    assert SUREST < strong < weak < RESULT < outside < WIDEST < nothing == NEVER
    # Between many structures the result may hold what is less than doubtful.
    (own,) = levels(*contest((0.24, 0.2, 0.19, 0.19, 0.18)))
    assert SUREST < own <= RESULT


def test_a_label_counts_more_than_what_was_rounded() -> None:
    p = np.array([0.4, 0.1, 0.5, 0.75, 0.25], np.float32)
    r = np.array([0.6, 0.9, 0.5, 0.75, 0.25], np.float32)
    assert (levels(p, r, np.ones(5, bool)) <= RESULT).all()
    assert (levels(p, r, np.zeros(5, bool)) > RESULT).all()


@pytest.mark.parametrize("grid", [OBLIQUE, FLIPPED, oblique_grid((40, 36, 9), (1.0, 1.0, 7.0))])
def test_the_kept_levels_lie_on_the_image_and_hold_the_table_s_volumes(tmp_path: Path, grid: Grid) -> None:
    """Oblique, anisotropic, flipped; the model sees 2 mm."""
    found = segmented(tmp_path, grid)
    assert found.kept is not None
    voxel = float(np.prod(grid.spacing)) / 1000
    for volume in found.volumes:
        label = volume.structure.label
        there = found.kept.levels(label)
        assert there.shape == grid.shape
        assert np.array_equal(there <= RESULT, found.labels.array == label)
        sure, doubtful = ((there <= position).sum() * voxel for position in (SUREST, WIDEST))
        assert sure == pytest.approx(volume.sure_ml, rel=0.02, abs=2 * voxel)
        assert doubtful == pytest.approx(volume.doubtful_ml, rel=0.02, abs=2 * voxel)
        assert sure < volume.volume_ml < doubtful
        wide = Volume((there <= WIDEST).astype(np.uint8), grid.ijk_to_ras)
        assert np.linalg.norm(centre_of(wide, 1) - centre_of(found.labels, label)) < 1.5
    with pytest.raises(InputError, match="no structure with the label 9"):
        found.kept.levels(9)


def test_of_regions_that_are_painted_over_each_other(tmp_path: Path) -> None:
    structures = [{**SHELL, "channel": 0}, {**CORE, "channel": 1}]
    output = {"channels": 2, "activation": "sigmoid"}
    found = segmented(tmp_path, structures=structures, output=output, network={"name": "regions"})
    assert found.kept is not None
    voxel = float(np.prod(OBLIQUE.spacing)) / 1000
    for volume in found.volumes:
        there = found.kept.levels(volume.structure.label)
        assert np.array_equal(there <= RESULT, found.labels.array == volume.structure.label)
        assert (there <= SUREST).sum() * voxel == pytest.approx(volume.sure_ml, rel=0.02, abs=2 * voxel)


def test_only_the_piece_that_matters_is_resampled_and_to_the_same_values(tmp_path: Path) -> None:
    frame = make_frame(eggs(OBLIQUE), make_card(tmp_path))
    values = np.random.default_rng(2).random(frame.model.shape).astype(np.float32)
    whole = frame.to_part(values)
    for first, last in (((3, 4, 5), (6, 9, 8)), ((0, 0, 0), (2, 2, 2)), ((5, 5, 5), np.array(frame.model.shape) - 1)):
        inner = tuple(slice(low, high + 1) for low, high in zip(first, last, strict=True))
        seen, box = frame.boxes(inner)
        np.testing.assert_allclose(frame.to_part(values[seen], (seen, box)), whole[box], atol=1e-5)
        alone = np.zeros_like(values)
        alone[inner] = 1
        rest = frame.to_part(alone)
        assert rest[box].any()
        rest[box] = 0
        assert rest.max() < 1e-6


def test_what_islands_took_away_stays_away(tmp_path: Path) -> None:
    rule = {"keep": "largest", "bridge_mm": 0.0, "share": 0.1, "reach_mm": 1.0}
    card = make_model(tmp_path, postprocessing=rule)
    image = eggs(OBLIQUE)
    i, j, k = (n - 3 for n in OBLIQUE.shape)
    image.array[i : i + 3, j : j + 3, k : k + 3] = 1000
    found = Segmenter(card, "cpu").segment({"image": image}, keep=True)
    assert found.removed_ml > 0
    assert found.kept is not None
    assert (found.kept.levels(5)[i:, j:, k:] == NEVER).all()


def test_too_much_for_the_memory_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = make_card(tmp_path)
    frame = make_frame(eggs(OBLIQUE), card)
    probabilities = np.zeros((3, *frame.model.shape), np.float32)
    labels = np.zeros(frame.part.shape, np.uint8)
    kept = border.keep(probabilities, card, frame, labels)
    assert isinstance(kept, Kept)
    assert kept.probabilities.nbytes == probabilities.nbytes // 2
    monkeypatch.setattr(border, "main_memory", lambda: (3 * probabilities.nbytes // 4, 10**12))
    assert border.keep(probabilities, card, frame, labels) is None
    monkeypatch.setattr(border, "main_memory", lambda: (None, None))
    monkeypatch.setattr(border, "MOST_BYTES", probabilities.nbytes // 2 - 1)
    assert border.keep(probabilities, card, frame, labels) is None
