"""Symmetric mode: with the images swapped the result is the inverse, in mm, on oblique, anisotropic, flipped grids."""

from __future__ import annotations

import numpy as np
import pytest
from phantom_bench import COARSE, ObliquePhantom, oblique_phantom
from test_registration_linear import FULL, RIGID, SCALED, _pair

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.landmarks import pair_landmarks
from hyperreg.registration.linear import align, middle_of
from hyperreg.registration.session import LiveSession
from hyperreg.registration.verification import inverse_errors


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom(COARSE)


def prepared(phantom: ObliquePhantom, *, symmetric: bool, swapped: bool = False) -> LiveSession:
    session = LiveSession(NO_MODEL, "cpu")
    images, linear = [phantom.fixed, phantom.moving], phantom.linear
    if swapped:
        images, linear = images[::-1], np.linalg.inv(linear)
    session.prepare(*images, initial=linear, contrast="same", symmetric=symmetric)
    return session


def swap_error(phantom: ObliquePhantom, lam: float, *, symmetric: bool) -> float:
    """Mean distance, mm, of points from where both directions' maps bring them back to."""
    there, back = (prepared(phantom, symmetric=symmetric, swapped=swapped).transform(lam) for swapped in (False, True))
    return float(np.linalg.norm(back.apply(there.apply(phantom.points)) - phantom.points, axis=1).mean())


def test_swapped_the_fields_invert_each_other() -> None:
    phantom = oblique_phantom()
    one_way = swap_error(phantom, 0.1, symmetric=False)
    assert swap_error(phantom, 0.1, symmetric=True) < 0.3 < 0.55 * one_way, "mm; a voxel is 3 x 3 x 6 mm"


def test_it_is_as_near_to_the_truth_and_has_an_inverse(phantom: ObliquePhantom) -> None:
    session = prepared(phantom, symmetric=True)

    def off(transform: Transform) -> float:
        return float(np.linalg.norm(transform.apply(phantom.points) - phantom.truth, axis=1).mean())

    found = session.transform(0.2)
    assert off(found) < 1.15 * off(prepared(phantom, symmetric=False).transform(0.2)) < off(session.transform(1.0))
    assert inverse_errors(*session.transforms(session.field(0.2)), phantom.fixed.grid).mean() < 0.15
    finest = session.transforms(session.finest_fields(0.2))[0]
    assert np.linalg.norm(finest.apply(phantom.points) - found.apply(phantom.points), axis=1).mean() < 0.3
    assert session.metrics(0.2)["folding_percent"] == 0
    assert np.abs(session.field(1.0).forward.array).max() == 0


def test_masks_and_landmarks_take_part_and_rigid_regions_do_not(phantom: ObliquePhantom, tiny_model: str) -> None:
    session = prepared(phantom, symmetric=True)
    free = session.field(0.2, 1).forward.array.copy()
    session.constrain(Constraints(moving_mask=phantom.moving_labels, fixed_mask=phantom.fixed_labels))
    assert np.abs(session.field(0.2, 1).forward.array - free).max() > 0.3
    chosen = phantom.points[:: len(phantom.points) // 6][:6]
    there = session.transform(1.0).apply(chosen) + np.array((0, 5.0, 0))
    session.constrain(Constraints(landmarks=pair_landmarks(chosen, there, 1.0)))
    metrics = session.metrics(0.2)
    assert metrics["pulled_mm"] < 1 < 4.9 < metrics["pulled_mm_before"]
    body = Volume((phantom.fixed_labels.array == 1).astype(np.int16), phantom.fixed_labels.ijk_to_ras, "bone")
    with pytest.raises(InputError, match="symmetric mode prefers none"):
        session.constrain(Constraints(rigid=body, rigid_values=(1,)))
    with pytest.raises(InputError, match="A network is not symmetric"):
        LiveSession(tiny_model, "cpu").prepare(phantom.fixed, phantom.moving, symmetric=True)


def test_the_middle_of_two_linear_maps_prefers_neither() -> None:
    for first, second in ((RIGID, np.eye(4)), (FULL, SCALED)):
        middle = middle_of(first, second)
        np.testing.assert_allclose(middle, middle_of(second, first), atol=1e-9)
        inverses = [np.linalg.inv(matrix) for matrix in (first, second)]
        np.testing.assert_allclose(middle_of(*inverses), np.linalg.inv(middle), atol=1e-9)
    half = middle_of(RIGID, np.eye(4))
    np.testing.assert_allclose(half @ half, RIGID, atol=1e-9)
    np.testing.assert_allclose(half[:3, :3] @ half[:3, :3].T, np.eye(3), atol=1e-9)


def test_the_linear_alignment_is_inverted_too() -> None:
    fixed, moving = _pair(RIGID)
    there, back = align(fixed, moving, "rigid", symmetric=True), align(moving, fixed, "rigid", symmetric=True)
    np.testing.assert_allclose(there @ back, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(there[:3, :3] @ there[:3, :3].T, np.eye(3), atol=1e-6)
