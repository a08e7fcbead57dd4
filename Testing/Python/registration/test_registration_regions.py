"""Region-wise lambda on oblique, flipped grids: regions lie right in mm, fields have an inverse, cheaply."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from cli_pair import grid, head

from hyperreg.catalogue import MODELS_VARIABLE
from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import head_phantom_pair
from hyperreg.registration.anchors import difference_mm
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.network import Network
from hyperreg.registration.regions import Regions
from hyperreg.registration.session import LiveSession

CENTRE = (10, -20, 30)
FIXED = grid((44, 50, 28), (2, 2, 3), CENTRE)
MOVING = grid((40, 40, 40), (2.5, 2.5, 2.2), (12, -18, 29))
# Neither the spacing, nor the extent, nor the direction of the fixed image.
OTHER = grid((70, 42, 60), (1.5, 3.1, 1.8), (11, -21, 31))
STIFF, SOFT = 3, 7


def ball(place, centre: tuple[float, float, float] = CENTRE, radius: float = 18.0) -> Volume:
    """A stiff ball, RAS mm, in soft surroundings."""
    distance = np.linalg.norm(place.points() - np.array(centre), axis=-1)
    labels = np.where(distance < radius, STIFF, np.where(distance < 2 * radius, SOFT, 0)).astype(np.int16)
    return Volume(labels, place.ijk_to_ras, "regions")


@pytest.fixture(scope="module")
def prepared(tiny_models: object) -> LiveSession:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(MODELS_VARIABLE, str(tiny_models))
        live = LiveSession("tiny-untrained", "cpu")
    fixed, _ = head(FIXED, (34, 40, 34), "fixed")
    moving, _ = head(MOVING, (37, 38, 32), "moving")
    live.prepare(fixed, moving, initial="com")
    return live


@pytest.fixture
def session(prepared: LiveSession) -> LiveSession:
    """Without regions, and without anything computed before."""
    prepared.constrain(Constraints())
    prepared.warnings.clear()
    prepared._forget_fields()
    return prepared


def counted(session: LiveSession, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that grows with every run of the network."""
    runs: list[int] = []
    original = session.model.velocities

    def velocities(*arguments: torch.Tensor) -> list[torch.Tensor]:
        runs.append(1)
        return original(*arguments)

    monkeypatch.setattr(session.model, "velocities", velocities)
    return runs


@pytest.mark.parametrize("place", [FIXED, OTHER])
def test_a_region_lies_where_it_was_drawn_in_mm(session: LiveSession, place) -> None:
    centre = (16, -29, 34)
    regions = Regions(ball(place, centre, 12.0), {STIFF: 1.0}, session.grid)
    weight = regions.weight((STIFF,))[0, 0].numpy()
    middle = (weight[..., None] * session.grid.points()).sum((0, 1, 2)) / weight.sum()
    np.testing.assert_allclose(middle, centre, atol=0.7)
    volume = weight.sum() * np.prod(session.grid.spacing)
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.1)


def test_weights_add_up_to_one_everywhere(session: LiveSession) -> None:
    regions = Regions(ball(OTHER), {STIFF: 1.0, SOFT: 0.1}, session.grid)
    shares = [regions.weight(labels) for labels in ((0,), (STIFF,), (SOFT,))]
    torch.testing.assert_close(sum(shares), torch.ones_like(shares[0]))
    assert all(float(share.min()) >= 0 and float(share.max()) == pytest.approx(1) for share in shares)
    torch.testing.assert_close(regions.weight((STIFF, SOFT)), shares[1] + shares[2])


def test_velocities_are_each_region_s_own_away_from_its_border(session: LiveSession) -> None:
    session.constrain(Constraints(regions=ball(OTHER), region_lambdas={STIFF: 0.9}))
    maker = session._maker
    assert isinstance(maker, Network)
    regions = maker._regions
    assert regions is not None

    def network(lam: float) -> list[torch.Tensor]:
        return maker._network(lam, "cpu")

    soft, stiff = network(0.2)[0], network(0.9)[0]
    (blended,) = regions.blend(0.2, network)
    weight = regions.weight((STIFF,)).expand_as(soft)
    assert (weight == 1).any() and (weight == 0).any() and ((weight > 0.2) & (weight < 0.8)).any()
    assert float((soft - stiff).abs().max()) > 0.01
    torch.testing.assert_close(blended[weight == 1], stiff[weight == 1])
    torch.testing.assert_close(blended[weight == 0], soft[weight == 0])


def test_a_region_at_the_slider_s_lambda_changes_nothing(session: LiveSession) -> None:
    before = session.field(0.4).forward.array.copy()
    session.constrain(Constraints(regions=ball(FIXED), region_lambdas={STIFF: 0.4}))
    np.testing.assert_array_equal(session.field(0.4).forward.array, before)
    # And it keeps its own when the slider moves on.
    moved = session.field(0.9).forward
    session.constrain(Constraints())
    assert difference_mm(moved, session.field(0.9).forward)[0] > 1e-3


def test_the_inverse_leads_back_in_mm(session: LiveSession) -> None:
    session.constrain(Constraints(regions=ball(OTHER), region_lambdas={STIFF: 1.0, SOFT: 0.0}))
    body = FIXED.to_ras(np.argwhere(ball(FIXED).array > 0)[::53])
    there = session.transform(0.5).apply(body)
    back = session.transforms(session.field(0.5))[1].apply(there)
    assert np.linalg.norm(there - body, axis=1).max() > 0.5
    assert np.linalg.norm(back - body, axis=1).max() < 0.1 * session.grid.spacing[0]
    assert session.metrics(0.5)["folding_percent"] == 0


def test_other_lambdas_for_the_same_regions_cost_one_run_of_the_network_at_most(
    session: LiveSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = counted(session, monkeypatch)
    session.field(0.21)
    assert len(runs) == 1
    session.constrain(Constraints(regions=ball(OTHER), region_lambdas={STIFF: 0.92, SOFT: 0.62}))
    stiff = session.field(0.21).forward.array.copy()
    assert len(runs) == 3
    session.constrain(
        Constraints(regions=ball(OTHER), region_lambdas={STIFF: 0.72, SOFT: 0.62})
    )  # an equal map, as it comes from another process
    assert not np.array_equal(session.field(0.21).forward.array, stiff)
    assert len(runs) == 4
    session.constrain(Constraints(regions=ball(OTHER), region_lambdas={STIFF: 0.92, SOFT: 0.62}))
    np.testing.assert_array_equal(session.field(0.21).forward.array, stiff)
    session.constrain(Constraints())
    session.field(0.21)
    assert len(runs) == 4
    # The slider moves far: what the regions need stays.
    session.constrain(Constraints(regions=ball(OTHER), region_lambdas={STIFF: 0.92}))
    for lam in np.linspace(0.3, 0.8, 11):
        session.field(float(lam))
    runs.clear()
    session.field(0.81)
    assert len(runs) == 1


def test_previews_follow_the_regions(session: LiveSession) -> None:
    session.fill_anchors()
    session.constrain(Constraints(regions=ball(FIXED), region_lambdas={STIFF: 1.0}))
    assert len(session.anchors) == 0
    with pytest.raises(InputError, match="no field to preview"):
        session.preview(0.2)
    session.fill_anchors()
    mean, p99 = difference_mm(session.preview(0.37), session.field(0.37).forward)
    assert mean <= 0.1 and p99 <= 0.5


def test_a_new_pair_has_no_regions(session: LiveSession) -> None:
    session.constrain(Constraints(regions=ball(FIXED), region_lambdas={STIFF: 1.0}))
    fixed, _ = head(FIXED, (34, 40, 34), "fixed")
    moving, _ = head(MOVING, (37, 38, 32), "moving")
    session.prepare(fixed, moving, initial="com")
    plain = session.field(0.2).forward.array.copy()
    session.constrain(Constraints(regions=None, region_lambdas={STIFF: 1.0}))
    np.testing.assert_array_equal(session.field(0.2).forward.array, plain)


def test_what_cannot_be_used_is_refused_and_changes_nothing(session: LiveSession) -> None:
    session.constrain(Constraints(regions=ball(FIXED), region_lambdas={STIFF: 1.0}))
    before = session.field(0.2)
    labels = ball(FIXED)
    away = labels.ijk_to_ras.copy()
    away[:3, 3] += 1000
    wrong: list[tuple[Volume, dict[int, float], str]] = [
        (Volume(labels.array, away, "far"), {STIFF: 0.5}, "'far' do not overlap the fixed image"),
        (labels, {STIFF: 0.5, 99: 0.5}, r"no region 99; its labels are 0, 3, 7"),
        (labels, {STIFF: 1.5}, r"Region 3: λ must lie between 0 .* not 1.5"),
        (labels, {STIFF: float("nan")}, "Region 3: λ must lie between 0"),
        (Volume(labels.array + 0.25, labels.ijk_to_ras, "grey"), {STIFF: 0.5}, "'grey' is not a label map"),
    ]
    for volume, lambdas, said in wrong:
        with pytest.raises(InputError, match=said):
            session.constrain(Constraints(regions=volume, region_lambdas=lambdas))
        assert session.field(0.2).forward is before.forward


def test_whole_numbers_stored_as_floats_are_labels(session: LiveSession) -> None:
    labels = ball(FIXED)
    session.constrain(Constraints(regions=labels, region_lambdas={STIFF: 0.9}))
    expected = session.field(0.2).forward.array.copy()
    session.constrain(
        Constraints(regions=Volume(labels.array.astype(np.float32), labels.ijk_to_ras), region_lambdas={STIFF: 0.9})
    )
    np.testing.assert_array_equal(session.field(0.2).forward.array, expected)


def test_regions_come_after_the_pair(tiny_model: str) -> None:
    with pytest.raises(InputError, match="No pair"):
        LiveSession(tiny_model, "cpu").constrain(Constraints(regions=ball(FIXED), region_lambdas={STIFF: 1.0}))


def test_a_region_too_small_for_the_grid_is_said_to_have_no_effect(session: LiveSession) -> None:
    labels = ball(FIXED).array.copy()
    labels[0, 0, 0] = 12
    session.constrain(
        Constraints(regions=Volume(labels, FIXED.ijk_to_ras, "regions"), region_lambdas={STIFF: 0.9, 12: 0.9})
    )
    assert [text for text in session.warnings if "Region 12" in text and "no effect" in text]
    assert not [text for text in session.warnings if "Region 3" in text]


@pytest.mark.slow
def test_a_trained_model_stays_stiff_inside_a_stiff_region_and_keeps_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HYPERREG_MODELS", raising=False)
    pair = head_phantom_pair((64, 72, 64))
    session = LiveSession("brain", "cpu")
    session.prepare(pair.fixed, pair.moving, initial="affine")
    soft = session.field(0.1).forward
    points = session.grid.points()
    distance = np.linalg.norm(points - pair.fixed.grid.centre, axis=-1)
    labels = Volume((distance < 45).astype(np.uint8), session.grid.ijk_to_ras, "regions")
    session.constrain(Constraints(regions=labels, region_lambdas={1: 1.0}))
    blended = session.field(0.1).forward

    def roughness(array: np.ndarray, where: np.ndarray) -> float:
        steps = [np.diff(array, axis=axis, append=np.take(array, [-1], axis)) for axis in (1, 2, 3)]
        return float(sum((step**2).sum(0)[where].mean() for step in steps))

    deep, outside = distance < 30, distance > 45 + 5 * session.grid.spacing[0]
    assert roughness(blended.array, deep) < 0.5 * roughness(soft.array, deep)
    change = np.linalg.norm(blended.array - soft.array, axis=0)
    assert change[outside].mean() < 0.1 * change[deep].mean()
    assert np.percentile(change[outside], 90) < 0.1
    # And it can be undone, as any field of the model.
    body = points[deep][::211]
    back = session.transforms(session.field(0.1))[1].apply(session.transform(0.1).apply(body))
    assert np.linalg.norm(back - body, axis=1).max() < 0.5
