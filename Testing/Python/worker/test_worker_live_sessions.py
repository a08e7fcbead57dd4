"""Sessions of the live registration: begun, cancelled, replaced, freed; and the real session behind it."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from worker_bench import LONG_S, Observed, assert_fields, fill, prepare, volume, wait_until

from hyperreg.errors import InputError
from hyperreg.registration.anchors import MAX_ANCHORS
from hyperreg.worker.client import WorkerClient


def test_preparing_is_cancelled_and_superseded(client: WorkerClient, live: Observed) -> None:
    first = live.prepare(volume(0), volume(1), model="slow-to-prepare")
    wait_until(client, lambda: first.state == "running" and len(live.progress) > 2)
    assert all(0 <= fraction <= 1 for fraction, _ in live.progress)
    second = live.prepare(volume(0), volume(2), model="slow-to-prepare")
    wait_until(client, lambda: second.state == "running")
    assert first.state == "superseded"
    started = time.monotonic()
    live.cancel()
    wait_until(client, lambda: second.ended)
    assert time.monotonic() - started < 3
    assert second.state == "cancelled"
    assert (live.errors, live.state.ready, live.state.preparing) == ([], False, False)
    prepare(client, live)
    live.set_lambda(0.5)
    wait_until(client, lambda: live.solved_lam == 0.5)
    assert client.generation == 1


def test_what_is_registered_right_after_a_cancellation_is_registered(client: WorkerClient, live: Observed) -> None:
    first = live.prepare(volume(0), volume(1), model="deaf-to-prepare")
    wait_until(client, lambda: first.state == "running")
    live.cancel()
    second = live.prepare(volume(3, (32, 28, 24)), volume(1), model="plain")
    wait_until(client, lambda: live.state.ready)
    assert (first.state, second.state, live.errors, client.generation) == ("cancelled", "done", [], 2)
    assert live._prepared().generation == 2, "it is known to be prepared, and not prepared again"
    live.set_lambda(0.3)
    wait_until(client, lambda: live.solved_lam == 0.3)
    assert_fields(live, 0.3)


def test_a_field_that_waits_behind_a_cancelled_job_comes(client: WorkerClient, live: Observed, tmp_path: Path) -> None:
    prepare(client, live)
    stubborn = client.submit("stubborn", {"pid_file": str(tmp_path / "pid")})
    wait_until(client, lambda: stubborn.state == "running")
    live.set_lambda(0.35)
    stubborn.cancel()
    wait_until(client, lambda: live.solved_lam == 0.35)
    assert (live.errors, client.generation) == ([], 2)
    assert_fields(live, 0.35)


def test_a_new_pair_replaces_the_old_one_while_its_field_is_computed(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.7)
    wait_until(client, lambda: live.state.busy and live._scheduler.job.state == "running")
    live.prepare(volume(3, (32, 28, 24)), volume(1), model="plain")
    live.set_lambda(0.8)
    wait_until(client, lambda: live.solved_lam == 0.8)
    assert live.fields == [(0.8, True)]
    assert live.grid.shape == (16, 14, 12)
    assert_fields(live, 0.8)


def test_two_registrations_share_a_worker(client: WorkerClient) -> None:
    one, two = Observed(client), Observed(client)
    one.prepare(volume(0), volume(1), model="plain")
    two.prepare(volume(0, (16, 16, 16)), volume(1), model="plain")
    one.set_lambda(0.2)
    two.set_lambda(0.4)
    wait_until(client, lambda: one.solved_lam == 0.2 and two.solved_lam == 0.4)
    assert_fields(one, 0.2)
    assert_fields(two, 0.4)
    one.close()
    two.set_lambda(0.5)
    wait_until(client, lambda: two.solved_lam == 0.5)
    assert_fields(two, 0.5)


def test_reset_forgets_and_close_is_silent(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.5)
    live.reset()
    state = live.state
    assert (state.ready, state.pair, state.shown, live.anchor_count, state.preparing) == (False, None, None, 0, False)
    assert state.lam == 0.5, "the slider stays where it is"
    with pytest.raises(InputError):
        _ = live.grid
    events = len(live.events)
    closing = client.submit("field", {"session": live._name, "lambda": 0.5, "stage": 0, "beside": []})
    assert closing.wait(LONG_S)
    assert "not prepared" in closing.error, "the worker has freed the session too"
    assert len(live.events) == events
    prepare(client, live)
    live.set_lambda(0.4)
    live.close()
    client.submit("echo").wait(LONG_S)
    assert (0.4, True) not in live.fields


def test_what_was_set_aside_comes_back_with_all_that_was_known(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.35)
    fill(client, live)
    assert live.state.suggestion is not None
    shown, suggestion, anchors = live.state.shown, live.state.suggestion, live.anchor_count
    live.set_aside()
    state = live.state
    assert (state.ready, state.pair, state.shown, state.busy) == (False, None, None, False)
    live.set_lambda(0.8)
    with pytest.raises(InputError):
        _ = live.grid
    live.bring_back()
    state = live.state
    assert (state.ready, state.lam, state.shown, state.suggestion) == (True, 0.35, shown, suggestion)
    assert (live.anchor_count, live.state.busy) == (anchors, False), "nothing is computed again"
    live.set_lambda(0.123)
    wait_until(client, lambda: live.solved_lam == 0.123)
    assert (live.state.preparing, live.errors, client.generation) == (False, [], 1), "by the session that was kept"
    with pytest.raises(InputError):
        live.bring_back()


@pytest.mark.parametrize("meanwhile", ["worker ended", "another was cancelled"])
def test_what_was_set_aside_comes_back_without_its_session(
    client: WorkerClient, live: Observed, meanwhile: str
) -> None:
    prepare(client, live)
    live.set_lambda(0.35)
    fill(client, live)
    live.set_aside()
    if meanwhile == "worker ended":
        os.kill(client.pid, signal.SIGKILL)
    else:
        live.prepare(volume(0), volume(2), model="slow-to-prepare")
        live.cancel()
    live.bring_back()
    live.set_lambda(0.4)
    wait_until(client, lambda: live.solved_lam == 0.4)
    assert_fields(live, 0.4)


def test_what_was_set_aside_is_freed(client: WorkerClient, live: Observed) -> None:
    def worker_says() -> str:
        asked = client.submit("field", {"session": live._name, "lambda": 0.5, "stage": 0, "beside": []})
        assert asked.wait(LONG_S)
        return asked.error

    for end in (live.drop_aside, live.reset):
        prepare(client, live)
        live.set_aside()
        end()
        assert "not prepared" in worker_says()
        with pytest.raises(InputError):
            live.bring_back()
    prepare(client, live)
    live.set_aside()
    prepare(client, live)
    live.drop_aside()
    assert live.state.ready, "the pair that is prepared now is another one"
    with pytest.raises(InputError):
        live.bring_back()


def test_nothing_is_left_in_memory(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    for lam in (0.3, 0.35, 0.6):
        live.set_lambda(lam)
        fill(client, live)
    assert client._link is not None
    places = list(client._link.workspace.folders)
    assert [path.name for place in places for path in place.iterdir() if len(path.name) == 32] == []
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(client, lambda: not any(place.exists() for place in places))
    assert not client.alive
    live.set_lambda(0.71)
    wait_until(client, lambda: live.solved_lam == 0.71)
    places += client._link.workspace.folders
    client.stop()
    assert not any(place.exists() for place in places)
    assert_fields(live, 0.71)


def shared_mappings(pid: int | str) -> int:
    return sum("hyperreg-worker-" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_fields_that_nobody_needs_are_freed_on_both_sides(client: WorkerClient, live: Observed) -> None:
    gc.collect()
    others = shared_mappings("self")
    prepare(client, live)
    fill(client, live)
    assert shared_mappings("self") - others <= 2 + 2 * live.anchor_count
    for lam in np.linspace(0.011, 0.977, 40):
        live.set_lambda(lam)
        wait_until(client, lambda lam=lam: live.solved_lam == lam)
    fill(client, live)
    assert live.anchor_count >= 3
    store = live._prepared().store
    assert set(store.anchors.lambdas) <= set(store.known), "each is known by its own λ, and can be refined"
    # The images, and two arrays of a field that is no anchor.
    assert shared_mappings("self") <= others + 2 * MAX_ANCHORS + 4
    assert client.pid is not None
    assert shared_mappings(client.pid) <= 4, "the images; the fields of the last request"


@pytest.mark.slow
def test_the_same_as_a_session_in_this_process(tiny_model: str) -> None:
    from hyperreg.phantom import head_phantom_pair
    from hyperreg.registration.session import LiveSession

    pair = head_phantom_pair(shape=(64, 72, 60), seed=1)
    labels = {"fixed_labels": pair.fixed_labels, "moving_labels": pair.moving_labels}
    session = LiveSession(tiny_model, device="cpu")
    session.prepare(pair.fixed, pair.moving, initial="com", **labels)
    client = WorkerClient()
    live = Observed(client)
    try:
        live.prepare(pair.fixed, pair.moving, model=tiny_model, device="cpu", initial="com", **labels)
        live.set_lambda(0.3)
        wait_until(client, lambda: bool(live.measured or live.errors))
        assert live.errors == []
        assert live.grid.matches(session.grid)
        np.testing.assert_array_equal(live.linear, session.linear)
        expected = session.field(0.3)
        assert live.last is not None
        np.testing.assert_allclose(live.last.forward.array, expected.forward.array, atol=1e-5)
        np.testing.assert_allclose(live.last.inverse.array, expected.inverse.array, atol=1e-5)
        assert np.abs(expected.forward.array).max() > 0.1, "a field of zeros would prove nothing"
        assert np.abs(expected.forward.array - session.field(1.0).forward.array).max() > 0.01
        metrics, figures = live.measured[0][1], session.metrics(0.3)
        assert metrics.keys() == figures.keys()
        for name, value in figures.items():
            assert metrics[name] == pytest.approx(value, abs=1e-4, nan_ok=True), name
        live.set_lambda(1.0)
        wait_until(client, lambda: live.drafts[-1:] == [1.0])
        np.testing.assert_allclose(live.last.forward.array, session.field(1.0).forward.array, atol=1e-5)
        checked = client.submit("check_model", {"model": tiny_model})
        assert checked.wait(LONG_S)
        assert checked.check()["sha256"] == session.card.sha256
        missing = client.submit("check_model", {"model": "none-such"})
        assert missing.wait(LONG_S)
        assert "no model 'none-such'" in missing.error
    finally:
        client.stop()


def test_devices_are_asked_of_the_worker(client: WorkerClient) -> None:
    job = client.submit("devices")
    assert job.wait(LONG_S)
    *others, cpu = job.check()["devices"]
    assert cpu["name"] == "cpu"
    assert 0 < cpu["free_bytes"] <= cpu["total_bytes"]
    assert {device["name"] for device in others} <= {"cuda"}
