"""The live registration: newest lambda wins, previews, anchors, deaths; with a stand-in session and the real one."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stand_in_worker import DEADLY_LAMBDA, true_field

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import TOLERANCE_MEAN_MM, TOLERANCE_P99_MM, Fields
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live import LiveRegistration

STAND_IN = Path(__file__).with_name("stand_in_worker.py")
LONG_S = 300
# Oblique, anisotropic and flipped.
AFFINE = np.array(
    [[-1.2 * 0.8, 0.6 * 0.9, 0, 30], [1.2 * 0.6, 0.8 * 0.9, 0, -40], [0, 0, -2.5, 55], [0, 0, 0, 1]], dtype=float
)


def volume(seed: int = 0, shape: tuple[int, int, int] = (24, 20, 16), name: str = "head") -> Volume:
    return Volume(np.random.default_rng(seed).normal(size=shape).astype(np.float32), AFFINE, name)


class Observed(LiveRegistration):
    """A live registration that writes down what it says."""

    def __init__(self, client: WorkerClient) -> None:
        super().__init__(client)
        self.fields: list[tuple[float, bool]] = []
        self.last: Fields | None = None
        self.measured: list[tuple[float, dict[str, Any]]] = []
        self.errors: list[str] = []
        self.told: list[str] = []
        self.progress: list[tuple[float, str]] = []
        self.events: list[str] = []
        self.on_field = self._field
        self.on_metrics = self._metrics
        self.on_error = self._error
        self.on_warning = self.told.append
        self.on_progress = lambda fraction, text: self.progress.append((fraction, text))
        self.on_ready = lambda: self.events.append("ready")
        self.on_anchor = lambda: self.events.append("anchor")

    def _field(self, fields: Fields, lam: float, exact: bool) -> None:
        self.fields.append((lam, exact))
        self.last = fields
        self.events.append("exact" if exact else "preview")

    def _metrics(self, metrics: dict[str, Any], lam: float) -> None:
        self.measured.append((lam, metrics))
        self.events.append("metrics")

    def _error(self, message: str) -> None:
        self.errors.append(message)
        self.events.append("error")


@pytest.fixture
def client() -> Iterator[WorkerClient]:
    client = WorkerClient(arguments=[str(STAND_IN)])
    yield client
    client.stop()


@pytest.fixture
def live(client: WorkerClient) -> Observed:
    return Observed(client)


def wait_until(client: WorkerClient, condition: Callable[[], bool], say: Callable[[], object] = lambda: "") -> None:
    deadline = time.monotonic() + LONG_S
    while not condition():
        client.poll()
        assert time.monotonic() < deadline, f"nothing happened; {say()}; the worker's log: {client.log}"
        time.sleep(0.002)


def prepare(client: WorkerClient, live: Observed, model: str = "plain", **options: Any) -> None:
    live.prepare(volume(0), volume(1), model=model, **options)
    wait_until(client, lambda: live.ready or bool(live.errors))
    assert live.errors == []


def fill(client: WorkerClient, live: Observed) -> None:
    """Until nothing is left to do."""
    wait_until(client, lambda: live._job is None, lambda: live.events)


def assert_fields(live: Observed, lam: float, atol: float = 0.0) -> None:
    assert live.last is not None
    expected = true_field(live.grid, lam)
    np.testing.assert_allclose(live.last.forward.array, expected, atol=atol)
    np.testing.assert_allclose(live.last.inverse.array, -expected, atol=atol)
    assert live.last.forward.grid.matches(live.grid)


def test_prepared_then_exact_then_metrics_then_anchors(client: WorkerClient, live: Observed) -> None:
    assert not live.ready
    job = live.prepare(volume(0), volume(1), model="plain", initial="rigid")
    live.set_lambda(0.25)
    assert live.preparing
    wait_until(client, lambda: live.ready)
    assert job.state == "done"
    fill(client, live)
    assert live.errors == []
    assert live.grid.matches(Grid((12, 10, 8), AFFINE @ np.diag([2, 2, 2, 1.0])))
    assert live.linear[0, 3] == pytest.approx(volume(1).array.mean())
    assert live.device == "cpu"
    events = [event for event in live.events if event != "anchor"]
    assert events == ["ready", "exact", "metrics"]
    assert live.fields == [(0.25, True)]
    assert_fields(live, 0.25)
    lam, metrics = live.measured[0]
    assert lam == 0.25
    assert metrics["similarity"] == pytest.approx(0.75)
    assert np.isnan(metrics["smoothness"])
    assert metrics["fields"] == 1, "the metrics come before any field that nobody waits for"
    assert live.anchor_count >= 3


def test_previews_come_at_once_and_are_near_the_exact_field(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    fill(client, live)
    assert live.anchor_count >= 4
    for lam in np.linspace(0.03, 0.97, 22):
        live.fields.clear()
        live.set_lambda(lam)
        assert live.fields == [(lam, False)], "from within the call, without any poll"
        assert live.last is not None
        off = np.linalg.norm(live.last.forward.array - true_field(live.grid, lam), axis=0)
        assert off.mean() <= TOLERANCE_MEAN_MM
        assert np.percentile(off, 99) <= TOLERANCE_P99_MM
        np.testing.assert_array_equal(live.last.inverse.array, -live.last.forward.array)
    wait_until(client, lambda: live.exact_lam == lam)
    assert live.fields[-1] == (lam, True)
    assert_fields(live, lam)


def test_an_anchor_is_exact_without_asking_the_worker(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    fill(client, live)
    live.set_lambda(1.0)
    live.set_lambda(0.0)
    assert live.fields == [(1.0, True), (0.0, True)]
    assert_fields(live, 0.0)
    fill(client, live)
    assert [lam for lam, _ in live.measured] == [0.0]


def test_the_newest_lambda_wins(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.11)
    wait_until(client, lambda: live._job is not None and live._job.state == "running")
    for lam in np.linspace(0.2, 0.8, 50):
        live.set_lambda(lam)
        client.poll()
    live.set_lambda(0.9)
    wait_until(client, lambda: bool(live.measured))
    exact = [lam for lam, exact in live.fields if exact]
    assert exact == [0.9]
    assert_fields(live, 0.9)
    assert live.measured[0][0] == 0.9
    assert live.measured[0][1]["fields"] <= 3, "0.11, which ran; perhaps one on the way; 0.9: nothing else was computed"


def test_a_request_waits_for_one_anchor_at_most(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    wait_until(client, lambda: live.anchor_count == 2)
    before = live.anchor_count
    wait_until(client, lambda: live._job is not None and live._job.state == "running")
    live.set_lambda(0.3)
    wait_until(client, lambda: live.exact_lam == 0.3)
    assert live.anchor_count <= before + 1


def test_a_preview_does_not_change_exact_fields_that_somebody_holds(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.37)
    wait_until(client, lambda: live.exact_lam == 0.37)
    held, transform = live.last, live.transform()
    assert held is not None
    fill(client, live)
    for lam in (0.1, 0.5, 0.9, 0.2):
        live.set_lambda(lam)
        fill(client, live)
    np.testing.assert_array_equal(held.forward.array, true_field(live.grid, 0.37))
    assert transform.stages[0] is held.forward
    with pytest.raises(ValueError, match="read-only"):
        held.forward.array[...] = 0


def test_back_to_the_last_exact_lambda_is_exact_at_once(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.37)
    wait_until(client, lambda: live.exact_lam == 0.37)
    live.set_lambda(0.38)
    live.set_lambda(0.37)
    assert live.fields[-1] == (0.37, True)
    live.set_lambda(0.37)
    assert [entry for entry in live.fields if entry[1]] == [(0.37, True)] * 2, "the same value again is no news"
    fill(client, live)
    assert live.exact_lam == 0.37


@pytest.mark.parametrize("lam", [-0.01, 1.01, float("nan"), float("inf")])
def test_lambda_outside_its_range_is_refused_at_once(client: WorkerClient, live: Observed, lam: float) -> None:
    prepare(client, live)
    with pytest.raises(InputError, match="λ"):
        live.set_lambda(lam)
    assert live.lam is None
    job = client.submit("field", {"session": live._name, "lambda": 2 if np.isnan(lam) or np.isinf(lam) else lam})
    assert job.wait(LONG_S)
    assert isinstance(job.failure, InputError)


def test_transforms_of_the_exact_lambda(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="no result yet"):
        live.transform()
    shift = np.eye(4)
    shift[:3, 3] = 3, -4, 5
    live.prepare(volume(0), volume(1), model="plain", initial=shift)
    live.set_lambda(0.0)
    wait_until(client, lambda: live.exact_lam == 0.0)
    np.testing.assert_array_equal(live.linear, shift)
    ijk = np.array([[3, 4, 5], [7, 2, 1]])
    points = live.grid.to_ras(ijk)
    moved = points + true_field(live.grid, 0.0)[:, ijk[:, 0], ijk[:, 1], ijk[:, 2]].T
    np.testing.assert_allclose(live.transform().apply(points), moved + shift[:3, 3], atol=1e-4)
    back = points - true_field(live.grid, 0.0)[:, ijk[:, 0], ijk[:, 1], ijk[:, 2]].T
    np.testing.assert_allclose(live.inverse_transform().apply(points + shift[:3, 3]), back, atol=1e-4)


def test_label_maps_bring_dice_with_numbers_as_labels(client: WorkerClient, live: Observed) -> None:
    labels = Volume((volume().array > 0).astype(np.int16), AFFINE, "labels")
    prepare(client, live, fixed_labels=labels, moving_labels=labels)
    live.set_lambda(0.5)
    fill(client, live)
    assert live.measured[0][1]["dice"] == {1: 0.5, 27: 0.5}


def test_killed_during_a_drag(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    fill(client, live)
    linear, grid, anchors = live.linear.copy(), live.grid, live.anchor_count
    for lam in (0.1, 0.2, 0.3):
        live.set_lambda(lam)
    wait_until(client, lambda: live._job is not None and live._job.state == "running")
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(client, lambda: bool(live.errors))
    assert len(live.errors) == 1
    assert "most likely because memory ran out" in live.errors[0]
    assert live.ready
    live.fields.clear()
    live.set_lambda(0.35)
    assert live.fields == [(0.35, False)], "previews go on without the worker"
    wait_until(client, lambda: live.exact_lam == 0.35)
    assert_fields(live, 0.35)
    assert client.generation == 2
    np.testing.assert_array_equal(live.linear, linear)
    assert live.grid is grid
    assert len(live.errors) == 1
    assert live.anchor_count == anchors


def test_a_lambda_that_kills_does_not_do_so_again_and_again(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="deadly")
    fill(client, live)
    live.set_lambda(DEADLY_LAMBDA)
    wait_until(client, lambda: bool(live.errors))
    for _ in range(20):
        client.poll()
        time.sleep(0.01)
    assert (len(live.errors), client.generation) == (1, 1)
    live.set_lambda(DEADLY_LAMBDA)
    wait_until(client, lambda: len(live.errors) == 2)
    live.set_lambda(0.5001)
    wait_until(client, lambda: live.exact_lam == 0.5001)
    assert client.generation == 3
    assert_fields(live, 0.5001)


def test_a_stopped_worker_comes_back(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    fill(client, live)
    client.stop()
    live.set_lambda(0.44)
    wait_until(client, lambda: live.exact_lam == 0.44)
    assert_fields(live, 0.44)


@pytest.mark.parametrize("model", ["gpu-full-at-once", "gpu-full-later"])
def test_a_full_gpu_falls_back_to_the_cpu_and_says_so(client: WorkerClient, live: Observed, model: str) -> None:
    shift = np.eye(4)
    shift[:3, 3] = 1, 2, 3
    prepare(client, live, model=model, initial=shift)
    assert live.device == ("cpu" if model == "gpu-full-at-once" else "cuda")
    live.set_lambda(0.2)
    fill(client, live)
    assert live.errors == []
    assert live.device == "cpu"
    assert len(live.warnings) == len(live.told) == 1
    assert "graphics card" in live.warnings[0]
    assert "CPU" in live.warnings[0]
    assert_fields(live, 0.2)
    np.testing.assert_array_equal(live.linear, shift)
    assert client.generation == 1


def test_a_broken_gpu_gets_a_new_worker(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="gpu-broken")
    live.set_lambda(0.2)
    wait_until(client, lambda: bool(live.errors))
    assert "graphics card failed" in live.errors[0]
    assert not client.alive
    assert client.submit("devices").wait(LONG_S)
    assert client.generation == 2


def test_a_bad_image_leaves_the_pair_before_as_it_was(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.6)
    fill(client, live)
    linear = live.linear.copy()
    live.prepare(Volume(np.zeros((24, 20, 16)), AFFINE, "scan 7"), volume(1))
    assert not live.ready
    wait_until(client, lambda: bool(live.errors))
    assert live.errors == ["'scan 7' is empty: every voxel has the same value."]
    assert live.ready
    assert live.exact_lam == 0.6
    live.set_lambda(0.61)
    wait_until(client, lambda: live.exact_lam == 0.61)
    np.testing.assert_array_equal(live.linear, linear)
    with pytest.raises(InputError, match="real numbers"):
        live.prepare(Volume(np.zeros((24, 20, 16), dtype=complex), AFFINE), volume(1))
    assert live.ready


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
    assert (live.errors, live.ready, live.preparing) == ([], False, False)
    prepare(client, live)
    live.set_lambda(0.5)
    wait_until(client, lambda: live.exact_lam == 0.5)
    assert client.generation == 1


def test_a_new_pair_replaces_the_old_one_while_its_field_is_computed(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.7)
    wait_until(client, lambda: live._job is not None and live._job.state == "running")
    live.prepare(volume(3, (32, 28, 24)), volume(1), model="plain")
    live.set_lambda(0.8)
    wait_until(client, lambda: live.exact_lam == 0.8)
    assert live.fields == [(0.8, True)]
    assert live.grid.shape == (16, 14, 12)
    assert_fields(live, 0.8)


def test_two_registrations_share_a_worker(client: WorkerClient) -> None:
    one, two = Observed(client), Observed(client)
    one.prepare(volume(0), volume(1), model="plain")
    two.prepare(volume(0, (16, 16, 16)), volume(1), model="plain")
    one.set_lambda(0.2)
    two.set_lambda(0.4)
    wait_until(client, lambda: one.exact_lam == 0.2 and two.exact_lam == 0.4)
    assert_fields(one, 0.2)
    assert_fields(two, 0.4)
    one.close()
    two.set_lambda(0.5)
    wait_until(client, lambda: two.exact_lam == 0.5)
    assert_fields(two, 0.5)


def test_reset_forgets_and_close_is_silent(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.5)
    live.reset()
    assert (live.ready, live.lam, live.exact_lam, live.anchor_count, live.preparing) == (False, None, None, 0, False)
    with pytest.raises(InputError):
        _ = live.grid
    events = len(live.events)
    closing = client.submit("field", {"session": live._name, "lambda": 0.5})
    assert closing.wait(LONG_S)
    assert "not prepared" in closing.error, "the worker has freed the session too"
    assert len(live.events) == events
    prepare(client, live)
    live.set_lambda(0.4)
    live.close()
    client.submit("echo").wait(LONG_S)
    assert (0.4, True) not in live.fields


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
    live.set_lambda(0.7)
    wait_until(client, lambda: live.exact_lam == 0.7)
    places += client._link.workspace.folders
    client.stop()
    assert not any(place.exists() for place in places)
    assert_fields(live, 0.7)


def shared_mappings(pid: int | str) -> int:
    return sum("hyperreg-worker-" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def test_fields_that_nobody_needs_are_freed_on_both_sides(client: WorkerClient, live: Observed) -> None:
    gc.collect()
    others = shared_mappings("self")
    prepare(client, live)
    fill(client, live)
    before = shared_mappings("self")
    for lam in np.linspace(0.011, 0.977, 40):
        live.set_lambda(lam)
        wait_until(client, lambda lam=lam: live.exact_lam == lam)
    fill(client, live)
    assert live.anchor_count >= 3
    assert before - others <= 2 + 2 * live.anchor_count
    assert shared_mappings("self") <= before + 4, "two arrays of the exact fields; `last` holds the same ones"
    assert client.pid is not None
    assert shared_mappings(client.pid) <= 4, "the images; the fields of the last request"


def test_no_room_to_share_is_an_error_and_the_next_request_works(
    client: WorkerClient, live: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(client, live)
    fill(client, live)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        live.set_lambda(0.123)
        assert live.fields == [(0.123, False)]
        assert len(live.errors) == 1
        assert "no room" in live.errors[0]
    live.set_lambda(0.124)
    wait_until(client, lambda: live.exact_lam == 0.124)
    assert_fields(live, 0.124)


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
        wait_until(client, lambda: live.exact_lam == 1.0)
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
