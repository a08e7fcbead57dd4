"""The stages of a live registration: what λ shows from the first field on, full resolution, cancelled, failing."""

from __future__ import annotations

import time

import numpy as np
import pytest
from stand_in_worker import DRAFT_BY, FULL_BY, STAGES, true_field
from worker_bench import FULL, QUICK, Observed, assert_fields, fill, prepare, wait_until

from hyperreg.errors import InputError
from hyperreg.registration.response import RESPONSE_LAMBDAS
from hyperreg.worker.client import WorkerClient


def go_to(client: WorkerClient, live: Observed, lam: float, model: str = "plain") -> None:
    prepare(client, live, model=model)
    live.set_lambda(lam)
    wait_until(client, lambda: live.solved_lam == lam and bool(live.measured))


def assert_full(live: Observed, lam: float) -> None:
    assert live.state.shown is not None and live.last is not None
    assert (live.state.shown.lam, live.state.shown.stage, live.state.shown.final) == (lam, FULL, True)
    assert live.state.shown.title == "Full resolution (1 mm)"
    np.testing.assert_allclose(live.last.forward.array, FULL_BY * true_field(live.grid, lam), atol=1e-6)
    np.testing.assert_allclose(live.last.inverse.array, -FULL_BY * true_field(live.grid, lam), atol=1e-6)


def test_from_the_first_field_on_the_picture_has_the_lambda_that_is_said(client: WorkerClient, live: Observed) -> None:
    """Between a field and the linear alignment λ moves the picture; beyond the outermost field it says which it has."""
    live.set_lambda(0.4)
    prepare(client, live, model="slow")
    wait_until(client, lambda: live.drafts == [0.4])
    assert live.state.shown is not None and live.state.shown.title == "First draft (4 mm)"
    np.testing.assert_allclose(live.last.forward.array, DRAFT_BY * true_field(live.grid, 0.4), atol=1e-6)
    live.set_lambda(0.2)
    assert live.state.shown.lam == 0.4, "no field is known below yet: the picture is that of 0.4, and says so"
    wait_until(client, lambda: live.anchor_count >= 2)
    live.set_lambda(0.7)
    shown = live.state.shown
    assert (shown.lam, shown.solved, shown.stage) == (0.7, False, 0)
    assert "Preview" in shown.title
    here, end = (DRAFT_BY * true_field(live.grid, lam) for lam in (0.4, 1.0))
    np.testing.assert_allclose(live.last.forward.array, (here + end) / 2, atol=1e-5)
    with pytest.raises(InputError, match="not complete yet"):
        live.transform()


def test_quick_fields_everywhere_then_full_resolution_at_lambda_then_everywhere(
    client: WorkerClient, live: Observed
) -> None:
    live.set_full_automatically(True)
    go_to(client, live, 0.3)
    wait_until(client, lambda: bool(live.full))
    pair = live._pair
    assert pair is not None
    assert all(pair.store.stage_at(lam) >= QUICK for lam in RESPONSE_LAMBDAS)
    assert_full(live, 0.3)
    fill(client, live)
    assert all(stage == FULL for stage, _ in pair.store.known.values())
    assert_full(live, 0.3)
    assert (live.measured[-1][0], live.measured[-1][1]["stage"]) == (0.3, FULL), "metrics of what is shown"
    assert live.state.suggestion is not None
    live.set_lambda(0.5)
    assert_full(live, 0.5)
    live.set_lambda(0.55)
    assert live.state.shown is not None and (live.state.shown.solved, live.state.shown.stage) == (False, FULL)
    np.testing.assert_allclose(live.last.forward.array, FULL_BY * true_field(live.grid, 0.55), atol=2e-3)
    wait_until(client, lambda: live.full[-1:] == [0.55])
    assert_full(live, 0.55)


def test_full_resolution_comes_when_it_is_asked_for(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="registered yet"):
        live.request_full()
    go_to(client, live, 0.37)
    fill(client, live)
    assert live.full == []
    assert not live.state.full_wanted
    live.request_full()
    assert live.state.full_wanted
    work = live.state.work
    assert work is not None and (work.lam, work.stage) == (0.37, STAGES[FULL])
    wait_until(client, lambda: bool(live.full))
    assert_full(live, 0.37)
    assert live.work and all(0 <= fraction <= 1 for fraction, _ in live.work)
    assert "Full resolution (1 mm)" in {text for _, text in live.work}
    fill(client, live)
    assert live.full == [0.37]
    ijk = np.array([[5, 7, 3], [4, 2, 6]])
    points = live.grid.to_ras(ijk)
    moved = points + FULL_BY * true_field(live.grid, 0.37)[:, ijk[:, 0], ijk[:, 1], ijk[:, 2]].T
    np.testing.assert_allclose(live.transform().apply(points), moved + live.linear[:3, 3], atol=1e-4)
    live.set_lambda(0.62)
    assert live.state.shown is not None and live.state.shown.lam == 0.62
    live.set_lambda(0.37)
    assert_full(live, 0.37)
    with pytest.raises(ValueError, match="read-only"):
        live.last.forward.array[...] = 0


def test_what_is_asked_for_comes_before_the_other_anchors(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow")
    live.request_full()
    wait_until(client, lambda: bool(live.full))
    assert live.anchor_count < len(RESPONSE_LAMBDAS)


def test_cancel_leaves_everything_as_it_was(client: WorkerClient, live: Observed) -> None:
    live.set_full_automatically(True)
    go_to(client, live, 0.37, model="slow-at-full")
    wait_until(client, lambda: any("Full" in text for _, text in live.work))
    live.cancel_full()
    started = time.monotonic()
    fill(client, live)
    assert time.monotonic() - started < 30
    assert (live.full, live.errors, live.solved_lam) == ([], [], 0.37)
    assert not live.state.full_automatically
    assert_fields(live, 0.37)
    assert client.generation == 1


def test_an_engine_that_does_not_listen_is_replaced(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="deaf")
    live.request_full()
    wait_until(client, lambda: any("Full" in text for _, text in live.work))
    live.cancel_full()
    live.set_lambda(0.44)
    wait_until(client, lambda: live.solved_lam == 0.44)
    assert_fields(live, 0.44)
    assert live.errors == []
    assert client.generation == 2


def test_moving_lambda_gives_up_the_full_resolution_of_the_one_before(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow-at-full")
    live.request_full()
    wait_until(client, lambda: any("Full" in text for _, text in live.work))
    live.set_lambda(0.5)
    wait_until(client, lambda: live.solved_lam == 0.5)
    assert_fields(live, 0.5)
    assert (live.full, live.errors) == ([], [])


def test_registering_again_does_not_wait_for_full_resolution(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37, model="slow-at-full")
    live.request_full()
    wait_until(client, lambda: any("Full" in text for _, text in live.work))
    prepare(client, live)
    wait_until(client, lambda: live.solved_lam == 0.37)
    assert (live.full, client.generation) == ([], 1)


@pytest.mark.parametrize(("model", "word"), [("fails-at-full", "nothing to see"), ("dies-at-full", "memory ran out")])
def test_full_resolution_that_fails_leaves_the_quick_field(
    client: WorkerClient, live: Observed, model: str, word: str
) -> None:
    go_to(client, live, 0.37, model=model)
    live.request_full()
    wait_until(client, lambda: bool(live.errors))
    assert word in live.errors[0]
    assert_fields(live, 0.37)
    live.set_lambda(0.51)
    wait_until(client, lambda: live.solved_lam == 0.51)
    assert_fields(live, 0.51)
    assert len(live.errors) == 1


@pytest.mark.parametrize("model", ["short-of-memory-at-full", "dies-at-full"])
def test_without_memory_for_full_resolution_it_says_so_once_and_stays_at_the_quick_result(
    client: WorkerClient, live: Observed, model: str
) -> None:
    """It would fail at every λ anew, and end the worker each time; who asks for it has it tried again."""
    live.set_full_automatically(True)
    go_to(client, live, 0.37, model=model)
    wait_until(client, lambda: bool(live.errors))
    for lam in (0.51, 0.44):
        live.set_lambda(lam)
        wait_until(client, lambda lam=lam: live.solved_lam == lam)
    fill(client, live)
    assert len(live.errors) == 1 and "emory" in live.errors[0]
    assert client.generation == (2 if model == "dies-at-full" else 1)
    assert_fields(live, 0.44)
    assert (live.full, live.state.full_wanted, live.state.full_automatically) == ([], False, True)
    assert live.state.suggestion is not None, "what costs less goes on"
    live.request_full()
    wait_until(client, lambda: len(live.errors) == 2)
    assert not live.state.full_wanted
    live.set_full_automatically(True)
    wait_until(client, lambda: len(live.errors) == 3)
    live.errors.clear()
    prepare(client, live)  # another pair is another try
    wait_until(client, lambda: live.full[-1:] == [0.44])
    assert_full(live, 0.44)


def test_lambdas_that_the_user_tries_never_crowd_out_those_of_the_response(
    client: WorkerClient, live: Observed
) -> None:
    prepare(client, live)
    for lam in np.linspace(0.011, 0.977, 30):
        live.set_lambda(float(lam))
        wait_until(client, lambda lam=lam: live.solved_lam == lam)
    fill(client, live)
    pair = live._pair
    assert pair is not None
    assert {lam for lam in RESPONSE_LAMBDAS if pair.store.stage_at(lam) >= QUICK} == set(RESPONSE_LAMBDAS)
    assert live.state.suggestion is not None
