"""The live registration when something fails: killed workers, full or broken graphics cards, bad images, no room."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from stand_in_worker import DEADLY_LAMBDA, FILE
from worker_bench import (
    AFFINE,
    LONG_S,
    QUICK,
    Observed,
    assert_fields,
    fill,
    kill_worker,
    prepare,
    volume,
    wait_until,
)

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Volume
from hyperreg.worker.client import WorkerClient


def test_killed_during_a_drag(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    fill(client, live)
    linear, grid, anchors = live.linear.copy(), live.grid, live.anchor_count
    for lam in (0.11, 0.21, 0.31):
        live.set_lambda(lam)
    scheduler = live._scheduler
    wait_until(client, lambda: live.state.work is not None and scheduler.job.state == "running")
    work, pair = live.state.work, live.state.pair
    assert (work.lam, work.stage) == (0.31, pair.stages[QUICK]), "nothing was computed for what was passed over"
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    wait_until(client, lambda: bool(live.errors))
    assert len(live.errors) == 1
    assert "most likely because memory ran out" in live.errors[0]
    assert live.state.ready
    live.fields.clear()
    live.set_lambda(0.35)
    assert live.fields == [(0.35, False)], "previews go on without the worker"
    wait_until(client, lambda: live.solved_lam == 0.35)
    assert_fields(live, 0.35)
    assert client.generation == 2
    np.testing.assert_array_equal(live.linear, linear)
    assert live.grid is grid
    assert len(live.errors) == 1
    assert live.anchor_count >= anchors, "none is lost"


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
    wait_until(client, lambda: live.solved_lam == 0.5001)
    assert client.generation == 3
    assert_fields(live, 0.5001)


def test_a_model_that_is_removed_while_it_is_shown(client: WorkerClient, live: Observed, tmp_path: Path) -> None:
    """λ goes on; what only the model could compute again is told, and what is known stays."""
    file = tmp_path / "model"
    file.touch()
    prepare(client, live, model=f"{FILE}{file}")
    live.set_lambda(0.3)
    fill(client, live)
    file.unlink()
    live.set_lambda(0.41)
    wait_until(client, lambda: live.solved_lam == 0.41)
    assert_fields(live, 0.41)
    kill_worker(client)
    live.errors.clear()
    live.set_lambda(0.3)
    assert live.solved_lam == 0.3, "known without the worker"
    live.set_lambda(0.52)
    wait_until(client, lambda: bool(live.errors))
    assert "There is no model" in live.errors[0]
    fill(client, live)
    assert len(live.errors) == 1, "it is not tried again and again"
    assert (live.state.ready, live.state.shown.solved) == (True, False)
    file.touch()
    live.set_lambda(0.53)
    wait_until(client, lambda: live.solved_lam == 0.53)
    assert_fields(live, 0.53)


def test_a_stopped_worker_comes_back(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    fill(client, live)
    client.stop()
    live.set_lambda(0.44)
    wait_until(client, lambda: live.solved_lam == 0.44)
    assert_fields(live, 0.44)


@pytest.mark.parametrize("model", ["gpu-full-at-once", "gpu-full-later"])
def test_a_full_gpu_falls_back_to_the_cpu_and_says_so(client: WorkerClient, live: Observed, model: str) -> None:
    shift = np.eye(4)
    shift[:3, 3] = 1, 2, 3
    prepare(client, live, model=model, initial=shift)
    assert live.state.device == ("cpu" if model == "gpu-full-at-once" else "cuda")
    live.set_lambda(0.2)
    fill(client, live)
    assert live.errors == []
    assert live.state.device == "cpu"
    assert len(live.state.warnings) == 1
    assert "graphics card" in live.state.warnings[0]
    assert "CPU" in live.state.warnings[0]
    assert_fields(live, 0.2)
    np.testing.assert_array_equal(live.linear, shift)
    assert client.generation == 1


def test_a_broken_gpu_gets_a_new_worker(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="gpu-broken")
    live.set_lambda(0.2)
    wait_until(client, lambda: bool(live.errors))
    assert "graphics card failed" in live.errors[0]
    devices = client.submit("devices")
    assert devices.wait(LONG_S)
    assert (devices.state, devices.generation > 1) == ("done", True)


def test_a_bad_image_leaves_the_pair_before_as_it_was(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.6)
    fill(client, live)
    linear = live.linear.copy()
    live.prepare(Volume(np.zeros((24, 20, 16)), AFFINE, "scan 7"), volume(1))
    assert not live.state.ready
    wait_until(client, lambda: bool(live.errors))
    assert live.errors == ["'scan 7' is empty: every voxel has the same value."]
    assert live.state.ready
    assert live.solved_lam == 0.6
    live.set_lambda(0.61)
    wait_until(client, lambda: live.solved_lam == 0.61)
    np.testing.assert_array_equal(live.linear, linear)
    with pytest.raises(InputError, match="real numbers"):
        live.prepare(Volume(np.zeros((24, 20, 16), dtype=complex), AFFINE), volume(1))
    assert live.state.ready


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
        wait_until(client, lambda: bool(live.errors))
        assert len(live.errors) == 1
        assert "no room" in live.errors[0]
    live.set_lambda(0.124)
    wait_until(client, lambda: live.solved_lam == 0.124)
    assert_fields(live, 0.124)
