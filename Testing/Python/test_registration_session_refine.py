"""`LiveSession.refine` end to end: a phantom pair on an oblique, anisotropic, flipped grid, its truth known in mm."""

from __future__ import annotations

import numpy as np
import pytest
from phantom_bench import COARSE, LAMBDA, ObliquePhantom, oblique_phantom, prepared

from hyperreg.errors import Cancelled, InputError
from hyperreg.imaging.transform import Transform
from hyperreg.registration.refinement import Refined
from hyperreg.registration.session import LiveSession
from hyperreg.registration.verification import inverse_errors


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom()


@pytest.fixture(scope="module")
def session(phantom: ObliquePhantom, tiny_models: object) -> LiveSession:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        return prepared(phantom)


@pytest.fixture(scope="module")
def refined(session: LiveSession) -> Refined:
    return session.refine(LAMBDA)


def test_the_truth_is_found_in_mm(phantom: ObliquePhantom, session: LiveSession, refined: Refined) -> None:
    def error(transform: Transform) -> float:
        return float(np.linalg.norm(transform.apply(phantom.points) - phantom.truth, axis=1).mean())

    linear, network = error(Transform((session.linear,))), error(session.transform(LAMBDA))
    found = error(session.transforms(refined.fields)[0])
    assert linear > 2.4
    assert network > 0.8 * linear, "an untrained network finds nothing; what is found is the refinement's"
    assert found < 0.5 * linear


def test_the_fields_lie_on_the_refined_grid_and_are_inverse_in_mm(
    phantom: ObliquePhantom, session: LiveSession, refined: Refined
) -> None:
    for field in (refined.fields.forward, refined.fields.inverse):
        assert field.grid.matches(session.refined_grid)
        assert field.array.dtype == np.float32
    np.testing.assert_allclose(session.refined_grid.spacing, 3)
    transform, inverse = session.transforms(refined.fields)
    errors = inverse_errors(transform, inverse, phantom.fixed.grid)
    assert errors.mean() < 0.15
    assert np.quantile(errors, 0.99) < 1.5
    body = phantom.fixed.grid.to_ras(np.argwhere(phantom.fixed_labels.array > 0)[::59])
    inside = session.refined_grid.to_ijk(body)
    assert inside.min() > 0 and (inside.max(0) < np.array(session.refined_grid.shape) - 1).all()


def test_its_figures_are_those_of_the_refined_field(
    phantom: ObliquePhantom, session: LiveSession, refined: Refined
) -> None:
    before, after = session.metrics(LAMBDA), refined.figures
    assert set(after) == set(before)
    assert after["similarity"] > before["similarity"] + 0.1
    assert after["dice_mean"] > before["dice_mean"] + 0.05
    for name in ("similarity_before", "dice_mean_before", "detail_before"):
        assert after[name] == before[name]
    assert f"now {after['similarity']:.2f}" in refined.message
    assert f"{before['similarity']:.2f} by the network" in refined.message
    assert "regions" not in refined.message


def test_cancelled_in_the_middle_the_session_goes_on(session: LiveSession, refined: Refined) -> None:
    seen: list[tuple[float, str]] = []
    field = session.field(LAMBDA).forward.array.copy()
    assert session.field(LAMBDA).forward.grid.matches(session.grid), "that of the network, not of a refinement"
    with pytest.raises(Cancelled):
        session.refine(
            LAMBDA,
            progress=lambda fraction, text: seen.append((fraction, text)),
            cancelled=lambda: sum(text == "Refining" for _, text in seen) >= 7,
        )
    assert sum(text == "Refining" for _, text in seen) == 7, "it ends with the step it is in"
    fractions = [fraction for fraction, _ in seen]
    assert fractions == sorted(fractions) and fractions[0] >= 0 and fractions[-1] < 0.9
    np.testing.assert_array_equal(session.field(LAMBDA).forward.array, field)
    again = session.refine(LAMBDA)
    np.testing.assert_allclose(again.fields.forward.array, refined.fields.forward.array, atol=1e-3)


def test_before_a_pair_or_outside_of_the_range_it_is_refused(session: LiveSession, tiny_model: str) -> None:
    with pytest.raises(InputError, match="No pair"):
        LiveSession(tiny_model, "cpu").refine(0.5)
    for lam in (-0.1, float("nan")):
        with pytest.raises(InputError, match="between 0"):
            session.refine(lam)


def test_regions_of_lambda_one_keep_the_field_that_the_network_gives_them(tiny_model: str) -> None:
    phantom = oblique_phantom(COARSE)
    session = prepared(phantom)
    labels = phantom.fixed_labels
    stiff = {int(label): 1.0 for label in np.unique(labels.array[labels.array > 0])}
    session.set_regions(labels, stiff)
    held = session.transforms(session.refine(LAMBDA).fields)[0].apply(phantom.points)
    network = session.transform(LAMBDA).apply(phantom.points)
    session.set_regions(None, {})
    free = session.transforms(session.refine(LAMBDA).fields)[0].apply(phantom.points)
    index = np.round(labels.grid.to_ijk(phantom.points)).astype(int)
    inside = labels.array[tuple(index.T)] > 0
    moved, unheld = (np.median(np.linalg.norm(points - network, axis=1)[inside]) for points in (held, free))
    assert moved < 0.25 * unheld
