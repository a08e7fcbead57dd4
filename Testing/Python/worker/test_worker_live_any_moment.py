"""In every stage of a live registration: λ is moved, another pair comes, the application is closed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from stand_in_worker import DRAFT_BY, FULL_BY, STAGES, true_field
from worker_bench import FULL, QUICK, Observed, folders, is_running, volume, wait_until

from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live.state import LiveState

LAM, OTHER = 0.37, 0.62
BY = (DRAFT_BY, 1.0, FULL_BY)


def computing(at_lam: bool, stage: int) -> Callable[[Observed], bool]:
    def computes(live: Observed) -> bool:
        work = live.state.work
        return work is not None and (work.lam == LAM, work.stage) == (at_lam, STAGES[stage])

    return computes


def asks(operation: str) -> Callable[[Observed], bool]:
    return lambda live: live._scheduler.job is not None and live._scheduler.job.operation == operation


MOMENTS: dict[str, Callable[[Observed], bool]] = {
    "preparing": lambda live: live._preparing is not None and live._preparing.state == "running",
    "first draft": computing(True, 0),
    "quick result": computing(True, QUICK),
    "quick results elsewhere": computing(False, QUICK),
    "full resolution": computing(True, FULL),
    "response": lambda live: asks("metrics")(live) and bool(live.full) and bool(live.state.response.rows),
    "full resolution elsewhere": computing(False, FULL),
    "other settings": asks("constrain"),
}


@pytest.fixture(params=list(MOMENTS))
def caught(request: pytest.FixtureRequest, client: WorkerClient, live: Observed) -> Observed:
    """A live registration at one of these moments; whatever it shows from now on is compared with the truth."""
    heard = live.on_state

    def check(state: LiveState) -> None:
        """What is solved is the field of exactly the λ and the stage that are said, on the grid of now."""
        heard(state)
        shown = state.shown
        if shown is not None and shown.solved and not state.constraints.landmarks:
            expected = BY[shown.stage] * true_field(live.grid, shown.lam)
            np.testing.assert_allclose(shown.forward.array, expected, atol=1e-5)

    live.on_state = check
    live.set_full_automatically(True)
    live.prepare(volume(0), volume(1), model="slow-everywhere")
    live.set_lambda(LAM)
    if request.param == "other settings":
        wait_until(client, lambda: live.solved_lam == LAM)
        points = volume(0).grid.to_ras([[4.0, 4, 4], [10, 9, 8]])
        live.set_landmarks(points, points, pull=0.5)
    wait_until(client, lambda: MOMENTS[request.param](live), lambda: live.events)
    assert live.errors == []
    return live


def test_lambda_is_moved(client: WorkerClient, caught: Observed) -> None:
    caught.set_lambda(OTHER)
    wait_until(client, lambda: caught.full[-1:] == [OTHER], lambda: caught.events)
    assert (caught.errors, caught.state.lam, client.generation) == ([], OTHER, 1)
    assert caught.transform() is not None
    wait_until(client, lambda: caught.measured[-1][0] == OTHER and caught.measured[-1][1]["stage"] == FULL)


def test_another_pair_comes(client: WorkerClient, caught: Observed) -> None:
    caught.full.clear()
    before = len(caught.errors)
    caught.prepare(volume(3, (32, 28, 24)), volume(1), model="slow-everywhere")
    wait_until(client, lambda: caught.full[-1:] == [LAM], lambda: caught.events)
    assert len(caught.errors) == before and client.generation == 1
    assert caught.grid.shape == (16, 14, 12)
    assert caught.last is not None
    np.testing.assert_allclose(caught.last.forward.array, FULL_BY * true_field(caught.grid, LAM), atol=1e-5)


def test_the_application_is_closed(client: WorkerClient, caught: Observed) -> None:
    events, worker, places = len(caught.events), client.pid, folders(client)
    assert worker is not None and is_running(worker)
    caught.close()
    client.stop()
    for _ in range(3):
        client.poll()
    assert len(caught.events) == events, "nothing is told any more"
    assert not is_running(worker)
    assert not any(place.exists() for place in places)
