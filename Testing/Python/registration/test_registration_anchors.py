"""Preview by interpolation: exact at anchors, anchors where the response bends, never worse than promised."""

from __future__ import annotations

import numpy as np
import pytest

from hyperreg.errors import InputError
from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration.anchors import (
    MAX_ANCHORS,
    TOLERANCE_MEAN_MM,
    TOLERANCE_P99_MM,
    Anchors,
    Fields,
    difference_mm,
)

AFFINE = np.diag((3.0, 3.0, 3.0, 1.0))


def response(lam: float) -> Fields:
    """A field that bends towards lambda = 0, as real ones do."""
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(3, 6, 7, 8)).astype(np.float32)
    scale = np.float32(6 * np.exp(-8 * lam) + 2 * (1 - lam))
    return Fields(DisplacementField(pattern * scale, AFFINE), DisplacementField(-pattern * scale, AFFINE))


@pytest.fixture
def filled() -> Anchors:
    anchors = Anchors()
    while (lam := anchors.next_lambda()) is not None:
        anchors.add(lam, response(lam))
    return anchors


def test_the_ends_come_first_and_the_bend_gets_more(filled: Anchors) -> None:
    assert {filled.lambdas[0], filled.lambdas[-1]} == {0.0, 1.0}
    assert len(filled) <= MAX_ANCHORS
    assert sum(lam < 0.5 for lam in filled.lambdas) > sum(lam > 0.5 for lam in filled.lambdas)


@pytest.mark.parametrize("order", [1, -1])
def test_the_worst_interval_is_next_in_whatever_order_anchors_came(order: int) -> None:
    """The response bends most beside lambda = 1, where the first anchors are far from each other."""

    def stiff(lam: float) -> Fields:
        field = response(0.0).forward.array * np.float32((1 - lam) ** 0.3 / 4)
        return Fields(DisplacementField(field, AFFINE), DisplacementField(-field, AFFINE))

    anchors = Anchors()
    for lam in (0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)[::order]:
        anchors.add(lam, stiff(lam))
    assert anchors.next_lambda() == pytest.approx(0.95)
    anchors.add(0.95, stiff(0.95))
    assert anchors.next_lambda() == pytest.approx(0.975)


def test_previews_are_within_the_promised_tolerance(filled: Anchors) -> None:
    for lam in np.linspace(0, 1, 41):
        mean, p99 = difference_mm(filled.interpolate(float(lam)), response(float(lam)).forward)
        assert mean <= TOLERANCE_MEAN_MM and p99 <= TOLERANCE_P99_MM


def test_halfway_is_the_mean_of_two_anchors_and_an_anchor_is_itself() -> None:
    anchors = Anchors()
    anchors.add(0.2, response(0.2))
    anchors.add(0.6, response(0.6))
    mean = (response(0.2).forward.array + response(0.6).forward.array) / 2
    np.testing.assert_allclose(anchors.interpolate(0.4).array, mean, atol=1e-5)
    np.testing.assert_allclose(anchors.interpolate(0.6).array, response(0.6).forward.array, atol=1e-5)
    np.testing.assert_allclose(anchors.interpolate(0.9).array, response(0.6).forward.array, atol=1e-5)


def test_it_fills_a_given_array_in_place() -> None:
    anchors = Anchors()
    anchors.add(0.0, response(0.0))
    anchors.add(1.0, response(1.0))
    out = response(0.5).forward
    assert anchors.interpolate(0.25, out) is out
    np.testing.assert_allclose(
        out.array, 0.75 * response(0.0).forward.array + 0.25 * response(1.0).forward.array, atol=1e-5
    )


@pytest.mark.parametrize("lam", [-0.01, 1.01, float("nan")])
def test_lambda_outside_the_range_is_refused(filled: Anchors, lam: float) -> None:
    with pytest.raises(InputError, match="between 0"):
        filled.interpolate(lam)


def test_without_anchors_there_is_no_preview() -> None:
    with pytest.raises(InputError, match="no field"):
        Anchors().interpolate(0.5)


def parabola(lam: float) -> Fields:
    """Fields that are a polynomial of second degree in lambda."""
    field = response(0.0).forward.array * np.float32(1 - lam + 2 * lam**2)
    return Fields(DisplacementField(field, AFFINE), DisplacementField(-field, AFFINE))


def test_a_parabola_is_met_wherever_anchors_lie_on_both_sides() -> None:
    anchors = Anchors()
    for lam in (0.0, 0.1, 0.4, 0.6, 1.0):
        anchors.add(lam, parabola(lam))
    for lam in (0.15, 0.3, 0.5):
        np.testing.assert_allclose(anchors.interpolate(lam).array, parabola(lam).forward.array, atol=2e-5)


def test_it_is_smooth_across_an_anchor() -> None:
    anchors = Anchors()
    for lam in (0.0, 0.25, 0.5, 1.0):
        anchors.add(lam, parabola(lam))
    before, at, after = (anchors.interpolate(lam).array for lam in (0.499, 0.5, 0.501))
    np.testing.assert_allclose(at - before, after - at, rtol=0.02, atol=1e-4)


def test_anchors_of_another_stage_do_not_bend_what_lies_between_two_of_one() -> None:
    """A draft is off by more than the response bends."""
    anchors = Anchors()
    good = parabola(0.2)
    draft = Fields(*(DisplacementField(field.array + 3, AFFINE) for field in (good.forward, good.inverse)))
    anchors.add(0.2, draft, stage=0)
    for lam in (0.4, 0.6):
        anchors.add(lam, parabola(lam), stage=1)
    mean = (parabola(0.4).forward.array + parabola(0.6).forward.array) / 2
    np.testing.assert_allclose(anchors.interpolate(0.5).array, mean, atol=1e-5)
    mean = (draft.forward.array + parabola(0.4).forward.array) / 2
    np.testing.assert_allclose(anchors.interpolate(0.3).array, mean, atol=1e-5)
    linear = difference_mm(anchors.interpolate(0.5), parabola(0.5).forward)[0]
    anchors.add(0.2, good, stage=1)
    assert difference_mm(anchors.interpolate(0.5), parabola(0.5).forward)[0] < 0.6 * linear
