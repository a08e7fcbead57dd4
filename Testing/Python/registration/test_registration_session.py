"""The live session with a tiny untrained model: geometry, inverse, previews, figures, bad input. Registers nothing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from hyperreg.catalogue import CARD, MODELS_VARIABLE
from hyperreg.errors import Cancelled, InputError, OutOfMemory, WeightsError
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import Fields, difference_mm
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.grids import network_grid
from hyperreg.registration.metrics import dice, shared_labels
from hyperreg.registration.model import save_untrained
from hyperreg.registration.session import LiveSession

# Oblique, anisotropic, flipped: nothing about it is easy.
ANGLE = np.radians(20)
DIRECTIONS = np.array([[-np.cos(ANGLE), np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, -1.0]])


def oblique(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], centre: tuple[float, float, float]
) -> Grid:
    affine = np.eye(4)
    affine[:3, :3] = DIRECTIONS * np.array(spacing)
    affine[:3, 3] = np.array(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    return Grid(shape, affine)


def ellipsoid(grid: Grid, centre: tuple[float, float, float], name: str, seed: int = 0) -> Volume:
    """A textured ellipsoid of 60 x 70 x 50 mm around `centre`."""
    offset = (grid.points() - np.array(centre)) / (30, 35, 25)
    inside = (offset**2).sum(-1) < 1
    texture = 100 + 40 * np.sin(grid.points() / 9 + seed).prod(-1)
    return Volume((inside * texture).astype(np.float32), grid.ijk_to_ras, name)


@dataclass
class Pair:
    fixed: Volume
    moving: Volume


@pytest.fixture(scope="module")
def pair() -> Pair:
    fixed = ellipsoid(oblique((50, 56, 30), (2.0, 2.0, 3.0), (5, -10, 20)), (5, -10, 20), "fixed")
    moving = ellipsoid(oblique((40, 40, 40), (2.5, 2.5, 2.5), (12, -4, 15)), (11, -6, 17), "moving", seed=1)
    return Pair(fixed, moving)


@pytest.fixture(scope="module")
def session(tiny_models: object, pair: Pair) -> LiveSession:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(tiny_models))
        live = LiveSession("tiny-untrained", "cpu")
    live.prepare(pair.fixed, pair.moving, initial="com")
    return live


def test_the_network_grid_holds_the_foreground_along_the_images_own_axes(session: LiveSession, pair: Pair) -> None:
    grid = session.grid
    assert all(n % session.card.multiple == 0 for n in grid.shape)
    assert np.ptp(grid.spacing) < 1e-9
    # Columns are ordered R, A, S: the fixed image's own directions, flipped back.
    cosines = np.abs(grid.ijk_to_ras[:3, :3] / grid.spacing[0]).T @ np.abs(DIRECTIONS)
    assert np.all(np.diag(grid.ijk_to_ras[:3, :3]) > 0) and np.allclose(np.diag(cosines), 1, atol=0.7)
    body = pair.fixed.grid.to_ras(np.argwhere(pair.fixed.array > 0))
    index = grid.to_ijk(body)
    assert index.min() >= 2 and np.all(index.max(0) <= np.array(grid.shape) - 3)


def test_a_large_image_gets_larger_voxels_and_a_small_organ_smaller_ones(session: LiveSession) -> None:
    large = Grid((100, 100, 100), np.diag((10.0, 10.0, 10.0, 1.0)))
    assert network_grid(large, np.ones(large.shape, bool), session.card).spacing[0] > 10
    small = Grid((200, 200, 200), np.diag((0.3, 0.3, 0.3, 1.0)))
    assert 0.3 <= network_grid(small, np.ones(small.shape, bool), session.card).spacing[0] < 1.0


def test_fields_are_in_mm_differ_with_lambda_and_vanish_at_the_border(session: LiveSession) -> None:
    low, high = session.field(0.0).forward, session.field(1.0).forward
    assert low.array.dtype == np.float32 and low.array.shape == (3, *session.grid.shape)
    assert difference_mm(low, high)[0] > 0.01
    assert np.abs(low.array[:, 0]).max() == 0 and np.abs(low.array[:, :, :, -1]).max() == 0


def test_forward_then_inverse_is_the_identity_in_mm(session: LiveSession, pair: Pair) -> None:
    body = pair.fixed.grid.to_ras(np.argwhere(pair.fixed.array > 0)[::97])
    there = session.transform(0.2).apply(body)
    back = session.transforms(session.field(0.2))[1].apply(there)
    moved = np.linalg.norm(there - Transform((session.linear,)).apply(body), axis=1)
    assert moved.max() > 0.5
    assert np.linalg.norm(back - body, axis=1).max() < 0.1 * session.grid.spacing[0]


def test_a_known_translation_is_found_by_the_centres_of_mass(session: LiveSession) -> None:
    shift = session.linear[:3, 3] + (session.linear[:3, :3] - np.eye(3)) @ np.array((5, -10, 20))
    assert shift == pytest.approx([6, 4, -3], abs=1.5)


def test_a_given_transform_is_taken_as_it_is(session: LiveSession, pair: Pair, tiny_model: str) -> None:
    given = np.eye(4)
    given[:3, 3] = (6, 4, -3)
    live = LiveSession(tiny_model, "cpu")
    live.prepare(pair.fixed, pair.moving, initial=given)
    np.testing.assert_array_equal(live.linear, given)


def test_previews_after_filling_the_anchors_are_close_to_exact_fields(session: LiveSession) -> None:
    session.fill_anchors()
    for lam in (0.07, 0.33, 0.8):
        mean, p99 = difference_mm(session.preview(lam), session.field(lam).forward)
        assert mean <= 0.1 and p99 <= 0.5


def test_figures_agree_with_what_they_name(session: LiveSession, pair: Pair) -> None:
    figures = session.metrics(0.1)
    length = np.linalg.norm(session.field(0.1).forward.array, axis=0)
    assert 0 < figures["displacement_mean_mm"] <= figures["displacement_max_mm"] <= length.max() + 1e-5
    assert 0 <= figures["similarity"] <= 1 and 0 <= figures["folding_percent"] <= 100
    assert "dice" not in figures


def test_dice_is_that_of_the_resampled_labels(pair: Pair, tiny_model: str) -> None:
    live = LiveSession(tiny_model, "cpu")
    labels = [Volume((v.array > 0).astype(np.uint8) * 7, v.ijk_to_ras, "labels") for v in (pair.fixed, pair.moving)]
    live.prepare(pair.fixed, pair.moving, initial="com", fixed_labels=labels[0], moving_labels=labels[1])
    figures = live.metrics(0.3)
    warped = resample(labels[1], labels[0].grid, live.transform(0.3), "nearest")
    assert figures["dice"] == dice(labels[0].array, warped.array, [7])
    assert figures["dice_mean_before"] > 0.9


def test_dice_by_hand() -> None:
    first, second = np.array([[[1, 1, 2, 3]]]), np.array([[[1, 2, 2, 0]]])
    assert shared_labels(first, second) == [1, 2]
    assert dice(first, second, [1, 2, 3]) == {1: pytest.approx(2 / 3), 2: pytest.approx(2 / 3), 3: 0}


@pytest.mark.parametrize("lam", [-0.1, 1.5, float("nan")])
def test_lambda_outside_the_range_is_refused_and_the_next_request_works(session: LiveSession, lam: float) -> None:
    with pytest.raises(InputError, match="between 0"):
        session.field(lam)
    assert session.field(0.5).forward.grid.matches(session.grid)


def test_one_image_as_both_and_no_overlap_are_refused(session: LiveSession, pair: Pair, tiny_model: str) -> None:
    live = LiveSession(tiny_model, "cpu")
    with pytest.raises(InputError, match="same image"):
        live.prepare(pair.fixed, Volume(pair.fixed.array.copy(), pair.fixed.ijk_to_ras))
    away = pair.moving.ijk_to_ras.copy()
    away[:3, 3] += 5000
    with pytest.raises(InputError, match="overlap"):
        live.prepare(pair.fixed, Volume(pair.moving.array, away), initial="none")
    with pytest.raises(InputError, match="No pair"):
        live.field(0.5)
    live.prepare(pair.fixed, pair.moving, initial="com")
    assert live.field(0.5).forward.grid.matches(live.grid)


def test_images_in_units_of_their_own_are_told(pair: Pair) -> None:
    for factor, told in ((10.0, True), (0.001, True), (1.5, False)):
        affine = np.diag([factor, factor, factor, 1]) @ pair.moving.ijk_to_ras
        live = LiveSession("none", "cpu")
        said = ""
        try:
            live.prepare(pair.fixed, Volume(pair.moving.array, affine, "moving"), initial="com")
        except InputError as error:
            said = str(error)
        assert ("counts in another unit than mm" in " ".join([said, *live.warnings])) is told
        assert "Choose another initial alignment" not in said


def test_cancelling_leaves_no_half_prepared_pair(pair: Pair, tiny_model: str) -> None:
    live = LiveSession(tiny_model, "cpu")
    seen: list[float] = []
    with pytest.raises(Cancelled):
        live.prepare(pair.fixed, pair.moving, progress=lambda f, _: seen.append(f), cancelled=lambda: len(seen) > 1)
    with pytest.raises(InputError, match="No pair"):
        live.field(0.5)


def test_out_of_gpu_memory_goes_on_on_the_cpu_and_says_so(pair: Pair, tiny_model: str) -> None:
    live = LiveSession(tiny_model, "cpu")
    live.prepare(pair.fixed, pair.moving, initial="com")
    expected = live.field(0.4)
    live.device = "cuda"
    calls: list[str] = []

    def compute() -> Fields:
        calls.append(live.device)
        if live.device == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return expected

    assert live._on_device(compute) is expected
    assert calls == ["cuda", "cpu"] and any("ran out of memory" in w for w in live.warnings)

    def fail() -> Fields:
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(OutOfMemory, match="not enough memory"):
        live._on_device(fail)


def test_a_gpu_that_is_not_there_is_refused(tiny_model: str) -> None:
    if torch.cuda.is_available():
        assert LiveSession(tiny_model, "cuda").device == "cuda"
    else:
        with pytest.raises(InputError, match="no NVIDIA GPU"):
            LiveSession(tiny_model, "cuda")


def test_damaged_or_foreign_weights_are_refused(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    card = save_untrained(folder, "cut")
    card.weights.write_bytes(card.weights.read_bytes()[:-100])
    with pytest.raises(WeightsError, match="SHA256"):
        LiveSession(card, "cpu")
    card.weights.unlink()
    with pytest.raises(WeightsError, match="missing"):
        LiveSession(card, "cpu")
    (card.folder / CARD).write_text("{", encoding="utf-8")
    with pytest.raises(WeightsError, match="damaged"):
        read_card(card.folder)


def test_an_unknown_model_is_named_with_those_there_are(tiny_model: str) -> None:
    with pytest.raises(WeightsError, match=r"no model 'nope'.*tiny-untrained"):
        LiveSession("nope")
