"""Registrations that start from any transform, or from landmarks: in mm, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import numpy as np
import pytest
from cli_pair import grid
from phantom_bench import COARSE, ObliquePhantom, oblique_phantom

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.landmarks import Landmarks, pair_landmarks
from hyperreg.registration.session import LiveSession
from hyperreg.registration.start import landmark_alignment, split
from hyperreg.registration.verification import inverse_errors

QUICK = 1
# Neither the spacing nor the directions of the phantom; it holds all of the head.
ELSEWHERE = grid((60, 64, 60), (5.0, 5.0, 5.0), (7.0, -5.0, 11.0))


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom(COARSE)


def bent(size_mm: float = 4.0) -> DisplacementField:
    """A smooth field on the grid ELSEWHERE, at most `size_mm` along each axis."""
    waves = np.sin(np.moveaxis(ELSEWHERE.points(), -1, 0)[[1, 2, 0]] / 25)
    return DisplacementField((size_mm * waves).astype(np.float32), ELSEWHERE.ijk_to_ras)


def prepared(phantom: ObliquePhantom, initial: Transform, **options: object) -> LiveSession:
    session = LiveSession(NO_MODEL, "cpu")
    session.prepare(phantom.fixed, phantom.moving, initial=initial, contrast="same", **options)
    return session


def distance(first: Transform, second: Transform, points: np.ndarray) -> float:
    return float(np.linalg.norm(first.apply(points) - second.apply(points), axis=1).mean())


@pytest.mark.parametrize("order", ["field then linear", "linear then field", "composite"])
def test_at_lambda_one_the_map_is_the_given_start(phantom: ObliquePhantom, order: str) -> None:
    turn = np.eye(4)
    turn[:3, 3] = (1.5, -1.0, 0.5)
    start = {
        "field then linear": Transform((bent(), phantom.linear)),
        "linear then field": Transform((phantom.linear, bent())),
        "composite": Transform((turn, bent(2.0), phantom.linear, bent(2.0))),
    }[order]
    session = prepared(phantom, start)
    assert distance(session.transform(1.0), start, phantom.points) < 0.1
    finest = session.transforms(session.finest_fields(1.0))[0]
    assert distance(finest, start, phantom.points) < 0.05
    errors = inverse_errors(*session.transforms(session.field(1.0)), phantom.fixed.grid)
    assert errors.mean() < 0.2
    if order == "field then linear":
        np.testing.assert_allclose(session.linear, phantom.linear, atol=1e-9)
    measured = session.metrics(1.0)
    assert measured["similarity"] == pytest.approx(measured["similarity_before"], abs=1e-3)


def test_the_solver_goes_on_from_the_start_and_leads_back(phantom: ObliquePhantom) -> None:
    """A start that is off by some mm is mended where the images say so; fields and their inverses hold both."""
    start = Transform((bent(3.0), phantom.linear))
    session = prepared(phantom, start)

    def off(lam: float) -> float:
        return float(np.linalg.norm(session.transform(lam, QUICK).apply(phantom.points) - phantom.truth, axis=1).mean())

    assert off(0.2) < 0.8 * off(1.0)
    errors = inverse_errors(*session.transforms(session.field(0.2)), phantom.fixed.grid)
    assert errors.mean() < 0.3
    metrics = session.metrics(0.2, QUICK)
    assert metrics["similarity"] > metrics["similarity_before"] + 0.02
    chosen = phantom.points[:: len(phantom.points) // 6][:6]
    pulled = pair_landmarks(chosen, start.apply(chosen) + np.array((3.0, 0, 0)), 1.0)
    session.constrain(Constraints(landmarks=pulled))
    assert session.metrics(0.2)["pulled_mm"] < 0.5 * session.metrics(0.2)["pulled_mm_before"]
    assert session.metrics(0.2)["pulled_mm_before"] == pytest.approx(3, abs=0.1)


def test_starts_that_fold_or_lead_elsewhere_are_refused(phantom: ObliquePhantom, tiny_model: str) -> None:
    far = phantom.linear.copy()
    far[:3, 3] += 4000
    folded = DisplacementField(bent(60.0).array, ELSEWHERE.ijk_to_ras)
    for start, said in (
        (Transform((bent(), far)), "the images do not overlap"),
        (Transform((folded, phantom.linear)), r"folds space in \d+ % of what the fixed image shows"),
        (Transform((far,)), "do not overlap"),
    ):
        with pytest.raises(InputError, match=said):
            prepared(phantom, start)
    session = LiveSession(tiny_model, "cpu")
    with pytest.raises(InputError, match="A network starts from a linear alignment only"):
        session.prepare(phantom.fixed, phantom.moving, initial=Transform((bent(), phantom.linear)))


def test_both_parts_together_are_the_start(phantom: ObliquePhantom) -> None:
    start = Transform((phantom.linear, bent()))
    linear, before = split(start, phantom.fixed_labels)
    assert distance(Transform((*before.stages, linear)), start, phantom.points) < 1e-9
    # The linear part is near to the whole.
    assert distance(Transform((linear,)), start, phantom.points) < distance(
        Transform((phantom.linear,)), start, phantom.points
    )


RIGID = np.array([[0.96, -0.28, 0, 5], [0.28, 0.96, 0, -7], [0, 0, 1, 12], [0, 0, 0, 1.0]])
SHEARED = RIGID @ np.array([[1.1, 0.05, 0, 0], [0, 0.9, 0.02, 0], [0, 0, 1.05, 0], [0, 0, 0, 1.0]])
POINTS = np.array([[10, -20, 30], [45, -22, 35], [0, -60, 38], [18, 8, 0], [4, -10, 64], [-14, -30, 14]], dtype=float)


def pairs(points: np.ndarray, linear: np.ndarray) -> Landmarks:
    found = pair_landmarks(points, points @ linear[:3, :3].T + linear[:3, 3])
    assert found is not None
    return found


def test_landmarks_alone_align_rigidly_or_with_shear() -> None:
    np.testing.assert_allclose(landmark_alignment(pairs(POINTS, SHEARED)), SHEARED, atol=1e-6)
    for few in (POINTS[:3], POINTS[:5], np.c_[POINTS[:, :2], np.zeros(6)]):
        np.testing.assert_allclose(landmark_alignment(pairs(few, RIGID)), RIGID, atol=1e-5)
        found = landmark_alignment(pairs(few, SHEARED))
        np.testing.assert_allclose(found[:3, :3] @ found[:3, :3].T, np.eye(3), atol=1e-6)


@pytest.mark.parametrize(
    ("points", "said"),
    [
        (POINTS[:2], "at least three"),
        (POINTS[:1] + np.outer(np.arange(5), (1, 2, 3)), "one line"),
        (POINTS[[0, 0, 0, 0]], "one line"),
    ],
    ids=["two", "three on a line", "one place"],
)
def test_too_few_landmarks_or_on_a_line_are_refused(points: np.ndarray, said: str) -> None:
    with pytest.raises(InputError, match=said):
        landmark_alignment(pairs(points, RIGID))


def test_mirrored_landmarks_are_refused() -> None:
    with pytest.raises(InputError, match="Only a mirror"):
        landmark_alignment(pairs(POINTS, RIGID @ np.diag([-1.0, 1, 1, 1])))
