"""Refinement by the real engine in its own process: done, cancelled, done again. Asserts states, never times."""

# ruff: noqa: F811 (fixtures are imported)

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from phantom_bench import COARSE, LAMBDA, ObliquePhantom, oblique_phantom
from worker_bench import Observed, live, wait_until  # noqa: F401

from hyperreg.imaging.transform import Transform
from hyperreg.registration.verification import inverse_errors
from hyperreg.worker.client import WorkerClient


@pytest.fixture
def client(tiny_model: str) -> Iterator[WorkerClient]:
    client = WorkerClient()
    yield client
    client.stop()


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom(COARSE)


def test_cancelled_in_the_middle_then_done(
    client: WorkerClient, live: Observed, phantom: ObliquePhantom, tiny_model: str
) -> None:
    def refine_until(condition) -> None:
        live.refining_progress.clear()
        live.refine()
        wait_until(client, condition, lambda: live.refining_progress[-1:])

    live.prepare(phantom.fixed, phantom.moving, model=tiny_model, device="cpu", initial=phantom.linear)
    live.set_lambda(LAMBDA)
    wait_until(client, lambda: live.exact_lam == LAMBDA and bool(live.measured))
    exact = live.last
    refine_until(lambda: any(text == "Refining" for _, text in live.refining_progress))
    live.cancel_refine()
    assert not live.refining
    live.set_lambda(0.6)
    wait_until(client, lambda: live.exact_lam == 0.6)
    assert live.events.count("refining ended") == 1
    assert (live.refined, live.refinement, live.refinements, live.errors) == (False, None, [], [])
    live.set_lambda(LAMBDA)
    wait_until(client, lambda: live.exact_lam == LAMBDA)
    np.testing.assert_allclose(live.last.forward.array, exact.forward.array, atol=1e-4)

    refine_until(lambda: not live.refining)
    assert (live.refined, live.errors) == (True, [])
    (fields, figures, message) = live.refinements[0]
    assert fields.forward.grid.matches(live.refined_grid)
    assert figures["similarity"] > live.measured[0][1]["similarity"] + 0.1
    assert message.startswith("Refined in ")
    off = np.linalg.norm(live.transform().apply(phantom.points) - phantom.truth, axis=1).mean()
    linear = np.linalg.norm(Transform((live.linear,)).apply(phantom.points) - phantom.truth, axis=1).mean()
    assert off < 0.9 * linear, "mm; these voxels are too coarse for more"
    assert inverse_errors(live.transform(), live.inverse_transform(), phantom.fixed.grid).mean() < 0.15
    live.undo_refine()
    np.testing.assert_allclose(live.last.forward.array, exact.forward.array, atol=1e-4)
