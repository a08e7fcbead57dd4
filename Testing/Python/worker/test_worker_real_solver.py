"""The solver in the engine's own process: stage by stage, cancelled, done again. Asserts states, never times."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from phantom_bench import COARSE, LAMBDA, ObliquePhantom, oblique_phantom
from worker_bench import FULL, Observed, wait_until

from hyperreg.imaging.transform import Transform
from hyperreg.registration.verification import inverse_errors
from hyperreg.worker.client import WorkerClient


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    client = WorkerClient()
    yield client
    client.stop()


@pytest.fixture(scope="module")
def phantom() -> ObliquePhantom:
    return oblique_phantom(COARSE)


def test_stage_by_stage_to_the_truth_in_mm(client: WorkerClient, live: Observed, phantom: ObliquePhantom) -> None:
    live.prepare(phantom.fixed, phantom.moving, device="cpu", initial=phantom.linear)
    live.set_lambda(LAMBDA)
    wait_until(client, lambda: live.solved_lam == LAMBDA and bool(live.measured), lambda: live.errors)
    quick = live.last
    assert quick is not None and quick.forward.grid.matches(live.grid)
    live.request_full()
    wait_until(client, lambda: live.state.is_computing_full)
    live.cancel_full()
    live.set_lambda(0.6)
    wait_until(client, lambda: live.solved_lam == 0.6)
    live.set_lambda(LAMBDA)
    live.request_full()
    wait_until(client, lambda: live.full == [LAMBDA], lambda: live.errors)
    wait_until(client, lambda: bool(live.state.metrics))
    assert live.errors == []
    shown, pair = live.state.shown, live.state.pair
    assert shown is not None and shown.stage == pair.last_stage <= FULL
    off = np.linalg.norm(live.transform().apply(phantom.points) - phantom.truth, axis=1).mean()
    linear = np.linalg.norm(Transform((live.linear,)).apply(phantom.points) - phantom.truth, axis=1).mean()
    assert off < 0.9 * linear, "mm; these voxels are too coarse for more"
    assert inverse_errors(live.transform(), live.inverse_transform(), phantom.fixed.grid).mean() < 0.15
    assert np.abs(live.last.forward.array - quick.forward.array).max() > 0.1
