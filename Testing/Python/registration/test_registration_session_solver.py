"""`LiveSession` without a model, end to end: a phantom pair on an oblique, anisotropic, flipped grid, truth in mm."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from phantom_bench import COARSE, LAMBDA, ObliquePhantom, oblique_phantom, prepared

from hyperreg.errors import Cancelled, InputError, OutOfMemory
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration import solver
from hyperreg.registration.catalogue import NO_MODEL
from hyperreg.registration.constraints import Constraints
from hyperreg.registration.session import LiveSession
from hyperreg.registration.solver import BYTES_PER_VOXEL
from hyperreg.registration.verification import inverse_errors

DRAFT, QUICK, FULL = range(3)


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom()


@pytest.fixture(scope="module")
def session(phantom: ObliquePhantom) -> LiveSession:
    return prepared(phantom, NO_MODEL)


def test_the_truth_is_found_in_mm_better_at_every_stage(phantom: ObliquePhantom, session: LiveSession) -> None:
    def error(transform: Transform) -> float:
        return float(np.linalg.norm(transform.apply(phantom.points) - phantom.truth, axis=1).mean())

    linear = error(Transform((session.linear,)))
    quick, full = error(session.transform(LAMBDA, QUICK)), error(session.transform(LAMBDA))
    finest = error(session.transforms(session.finest_fields(LAMBDA))[0])
    assert linear > 2.4
    assert full < quick < linear
    assert finest < 0.5 * linear


def test_fields_lie_on_one_grid_and_are_inverse_in_mm(phantom: ObliquePhantom, session: LiveSession) -> None:
    assert [stage.name for stage in session.stages] == ["draft", "quick", "full"]
    for stage in range(3):
        fields = session.field(LAMBDA, stage)
        for field in (fields.forward, fields.inverse):
            assert field.grid.matches(session.grid) and field.array.dtype == np.float32
    np.testing.assert_allclose(session.grid.spacing, 6)
    errors = inverse_errors(*session.transforms(session.field(LAMBDA)), phantom.fixed.grid)
    assert errors.mean() < 0.15 and np.quantile(errors, 0.99) < 1.5
    body = phantom.fixed.grid.to_ras(np.argwhere(phantom.fixed_labels.array > 0)[::59])
    inside = session.grid.to_ijk(body)
    assert inside.min() > 0 and (inside.max(0) < np.array(session.grid.shape) - 1).all()


def test_metrics_are_those_of_the_stage(session: LiveSession) -> None:
    quick, full = session.metrics(LAMBDA, QUICK), session.metrics(LAMBDA)
    assert set(quick) == set(full)
    assert full["dice_mean"] > quick["dice_mean_before"] + 0.05
    assert quick["similarity"] > quick["similarity_before"] + 0.05
    assert quick["displacement_mean_mm"] != full["displacement_mean_mm"]
    for name in ("similarity_before", "dice_mean_before", "detail_before"):
        assert full[name] == quick[name]


def test_cancelled_in_the_middle_the_session_goes_on(session: LiveSession) -> None:
    seen: list[float] = []
    before = session.field(0.45, QUICK).forward.array.copy()
    with pytest.raises(Cancelled):
        session.field(
            0.45, FULL, progress=lambda fraction, _text: seen.append(fraction), cancelled=lambda: len(seen) >= 7
        )
    assert len(seen) == 7, "it ends with the step it is in"
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] < 1
    np.testing.assert_array_equal(session.field(0.45, QUICK).forward.array, before)
    assert session.field(0.45, FULL).forward.grid.matches(session.grid)


def test_before_a_pair_or_outside_of_the_range_it_is_refused(session: LiveSession) -> None:
    with pytest.raises(InputError, match="No pair"):
        LiveSession(NO_MODEL, "cpu").field(0.5)
    for lam in (-0.1, float("nan")):
        with pytest.raises(InputError, match="between 0"):
            session.field(lam)
    with pytest.raises(InputError, match="no stage 3"):
        session.field(0.5, 3)


def test_the_path_over_lambda_is_smooth_and_ends_at_the_linear_alignment(session: LiveSession) -> None:
    """Previews between values 0.1 apart are near the solved field, and displacements shrink with every lambda."""
    lambdas = (0.0, 0.1, 0.2, 0.4, 0.7, 1.0)
    means = [float(np.linalg.norm(session.field(lam, QUICK).forward.array, axis=0).mean()) for lam in lambdas]
    assert all(high > 0.95 * low for high, low in itertools.pairwise(means)) and means[-1] == 0
    assert means[1] > means[4]
    low, middle, high = (session.field(lam, QUICK).forward.array for lam in (0.1, 0.15, 0.2))
    assert np.linalg.norm((low + high) / 2 - middle, axis=0).mean() < 0.05 * session.grid.spacing[0]


def test_regions_of_lambda_one_stay_where_the_linear_alignment_put_them() -> None:
    phantom = oblique_phantom(COARSE)
    session = prepared(phantom, NO_MODEL)
    labels = phantom.fixed_labels
    stiff = {int(label): 1.0 for label in np.unique(labels.array[labels.array > 0])}
    linear = Transform((session.linear,)).apply(phantom.points)
    session.constrain(Constraints(regions=labels, region_lambdas=stiff))
    held = session.transform(LAMBDA).apply(phantom.points)
    session.constrain(Constraints())
    free = session.transform(LAMBDA).apply(phantom.points)
    index = np.round(labels.grid.to_ijk(phantom.points)).astype(int)
    inside = labels.array[tuple(index.T)] > 0
    moved, unheld = (np.median(np.linalg.norm(points - linear, axis=1)[inside]) for points in (held, free))
    assert moved < 0.25 * unheld


def test_masks_are_set_and_taken_away_without_preparing_again() -> None:
    phantom = oblique_phantom(COARSE)
    session = prepared(phantom, NO_MODEL)
    free = session.field(LAMBDA, QUICK).forward.array.copy()
    plain = session.metrics(LAMBDA, QUICK)
    labels = phantom.fixed_labels
    body = Volume((labels.array > 0).astype(np.uint8), labels.ijk_to_ras, "body")
    session.constrain(Constraints(fixed_mask=body))
    assert np.abs(session.field(LAMBDA, QUICK).forward.array - free).max() > 0.5
    nothing = Volume(np.zeros_like(body.array), body.ijk_to_ras, "nothing")
    with pytest.raises(InputError, match="'nothing', is 0 everywhere"):
        session.constrain(Constraints(fixed_mask=body, moving_mask=nothing))
    assert session.constraints.fixed_mask is body and session.constraints.moving_mask is None
    session.constrain(Constraints())
    np.testing.assert_array_equal(session.field(LAMBDA, QUICK).forward.array, free)
    assert session.metrics(LAMBDA, QUICK) == plain


def test_a_network_minds_regions_only(tiny_model: str) -> None:
    phantom = oblique_phantom(COARSE)
    session, mask = prepared(phantom, tiny_model), phantom.moving_labels
    with pytest.raises(InputError, match=r"A network cannot mind masks: choose no model \(none\)"):
        session.constrain(Constraints(moving_mask=mask))
    assert session.constraints.moving_mask is None


def test_without_memory_for_full_resolution_the_quick_result_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    session = prepared(oblique_phantom(COARSE), NO_MODEL)
    needed = BYTES_PER_VOXEL * np.prod(session.grid.shape) * 2**3
    monkeypatch.setattr(solver, "main_memory", lambda: (int(needed / 2), int(needed)))
    quick = session.field(LAMBDA, QUICK).forward.array.copy()
    said = r"not enough memory for full resolution \(.* mm\): it takes about .* GB, and .* GB are free.*quick result"
    for full in (session.field, session.finest_fields):
        with pytest.raises(OutOfMemory, match=said):
            full(LAMBDA)
    np.testing.assert_array_equal(session.field(LAMBDA, QUICK).forward.array, quick)
    assert np.abs(session.field(LAMBDA + 0.1, QUICK).forward.array).max() > 0
    monkeypatch.setattr(solver, "main_memory", lambda: (int(needed * 1.01), int(2 * needed)))
    assert session.field(LAMBDA, FULL).forward.grid.matches(session.grid)


def test_memory_that_runs_out_on_the_cpu_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no class for it there."""
    session = prepared(oblique_phantom(COARSE), NO_MODEL)
    error = RuntimeError("[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: not enough memory")

    def fail(*_given: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(solver, "climb", fail)
        with pytest.raises(OutOfMemory, match="not enough memory for this registration"):
            session.field(LAMBDA, QUICK)
        error = RuntimeError("The size of tensor a must match")
        with pytest.raises(RuntimeError, match="The size of tensor"):
            session.field(LAMBDA, QUICK)
    assert np.abs(session.field(LAMBDA, QUICK).forward.array).max() > 0


@pytest.mark.parametrize(("shape", "spacing"), [((96, 80, 4), (1.0, 1.0, 8.0)), ((160, 4, 4), (1.0, 6.0, 6.0))])
def test_a_thin_slab_overlaps_and_is_registered(
    shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    def slab(shift: tuple[float, float, float], name: str) -> Volume:
        affine = np.diag([*spacing, 1.0])
        points = Volume(np.zeros(shape, np.float32), affine, name).grid.points() - np.array(shift)
        size = np.array(shape) * spacing
        body = (((points - size / 2) / (0.45 * size)) ** 2).sum(-1) < 1
        return Volume((body * (100 + 40 * np.sin(points / 6).prod(-1))).astype(np.float32), affine, name)

    session = LiveSession(NO_MODEL, "cpu")
    session.prepare(slab((0, 0, 0), "fixed"), slab((3, 0, 0), "moving"), initial="com")
    metrics = session.metrics(0.2, session.quick_stage)
    assert metrics["similarity"] > 0.9
    assert metrics["folding_percent"] == 0
