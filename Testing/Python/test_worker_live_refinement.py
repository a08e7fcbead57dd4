"""Refinement of a live registration: asked for, cancelled, undone, left by moving λ, brought back, failing."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

import time

import numpy as np
import pytest
from stand_in_worker import REFINED_BY, true_field
from worker_bench import AFFINE, Observed, assert_fields, client, fill, live, prepare, volume, wait_until  # noqa: F401

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid
from hyperreg.worker.client import WorkerClient


def go_to(client: WorkerClient, live: Observed, lam: float, model: str = "plain") -> None:
    prepare(client, live, model=model)
    live.set_lambda(lam)
    wait_until(client, lambda: live.exact_lam == lam and bool(live.measured))


def refine(client: WorkerClient, live: Observed) -> None:
    live.refine()
    wait_until(client, lambda: not live.refining)


def assert_refined(live: Observed, lam: float) -> None:
    expected = REFINED_BY * true_field(live.refined_grid, lam)
    assert live.last is not None
    assert live.refined
    assert live.last.forward.grid.matches(Grid((24, 20, 16), AFFINE))
    np.testing.assert_allclose(live.last.forward.array, expected, atol=1e-6)
    np.testing.assert_allclose(live.last.inverse.array, -expected, atol=1e-6)


def test_a_refinement_takes_the_place_of_the_exact_field(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="not complete yet"):
        live.refine()
    go_to(client, live, 0.37)
    measured = len(live.measured)
    refine(client, live)
    assert live.errors == []
    assert_refined(live, 0.37)
    assert live.refining_progress
    assert all(0 <= fraction <= 1 for fraction, _ in live.refining_progress)
    (_, figures, message) = live.refinements[0]
    assert figures["similarity"] == 0.99
    assert np.isnan(figures["smoothness"])
    assert message == "It no longer paid."
    ijk = np.array([[5, 7, 3], [14, 2, 11]])
    points = live.refined_grid.to_ras(ijk)
    moved = points + REFINED_BY * true_field(live.refined_grid, 0.37)[:, ijk[:, 0], ijk[:, 1], ijk[:, 2]].T
    np.testing.assert_allclose(live.transform().apply(points), moved + live.linear[:3, 3], atol=1e-4)
    fill(client, live)
    assert live.refined, "filling the response in the background changes nothing of what is shown"
    assert len(live.measured) == measured, "the network's figures are not those of what is shown"
    with pytest.raises(ValueError, match="read-only"):
        live.last.forward.array[...] = 0


def test_undo_brings_the_network_back_at_once(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37)
    refine(client, live)
    live.undo_refine()
    assert live.fields[-1] == (0.37, True), "without asking the worker"
    assert_fields(live, 0.37)
    assert not live.refined
    assert live.measured[-1][0] == 0.37
    np.testing.assert_array_equal(live.transform().stages[0].array, live.last.forward.array)
    told = len(live.fields)
    live.undo_refine()
    assert len(live.fields) == told, "there is nothing left to undo"


def test_moving_lambda_leaves_the_refinement_which_comes_back(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37)
    refine(client, live)
    fill(client, live)
    live.set_lambda(0.62)
    assert not live.refined
    assert live.fields[-1] == (0.62, False)
    wait_until(client, lambda: live.exact_lam == 0.62)
    assert_fields(live, 0.62)
    live.redo_refine()
    assert (live.lam, live.exact_lam) == (0.37, 0.37)
    assert_refined(live, 0.37)
    fill(client, live)
    assert_refined(live, 0.37)
    live.undo_refine()
    assert_fields(live, 0.37)


def test_cancel_leaves_everything_as_it_was(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow-to-refine")
    live.refine()
    wait_until(client, lambda: len(live.refining_progress) > 2)
    live.cancel_refine()
    assert not live.refining
    started = time.monotonic()
    wait_until(client, lambda: live.busy and live._requests.job.operation != "refine")
    assert time.monotonic() - started < 5
    assert live.events.count("refining ended") == 1
    assert (live.refined, live.refinements, live.errors, live.exact_lam) == (False, [], [], 0.37)
    assert_fields(live, 0.37)
    assert client.generation == 1
    with pytest.raises(InputError, match="no refinement"):
        live.redo_refine()


def test_an_engine_that_does_not_listen_is_replaced(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="deaf")
    live.refine()
    wait_until(client, lambda: bool(live.refining_progress))
    live.cancel_refine()
    live.set_lambda(0.44)
    wait_until(client, lambda: live.exact_lam == 0.44)
    assert_fields(live, 0.44)
    assert live.errors == []
    assert client.generation == 2


def test_moving_lambda_while_refining_wins(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow-to-refine")
    live.refine()
    wait_until(client, lambda: bool(live.refining_progress))
    live.set_lambda(0.5)
    assert not live.refining
    assert "refining ended" in live.events
    wait_until(client, lambda: live.exact_lam == 0.5)
    assert_fields(live, 0.5)
    assert live.refinements == []


def test_registering_again_does_not_wait_for_a_refinement(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow-to-refine")
    live.refine()
    wait_until(client, lambda: bool(live.refining_progress))
    prepare(client, live)
    wait_until(client, lambda: live.exact_lam == 0.37)
    assert (live.refining, live.refined, live.refinement, client.generation) == (False, False, None, 1)


@pytest.mark.parametrize(
    ("model", "word"), [("cannot-refine", "nothing to refine"), ("dies-refining", "memory ran out")]
)
def test_a_refinement_that_fails_leaves_the_exact_field(
    client: WorkerClient, live: Observed, model: str, word: str
) -> None:
    go_to(client, live, 0.37, model=model)
    refine(client, live)
    wait_until(client, lambda: bool(live.errors))
    assert word in live.errors[0]
    assert live.events.count("refining ended") == 1
    assert not live.refined
    assert_fields(live, 0.37)
    live.set_lambda(0.51)
    wait_until(client, lambda: live.exact_lam == 0.51)
    assert_fields(live, 0.51)
    assert len(live.errors) == 1
