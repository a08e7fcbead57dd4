"""Landmarks of a live registration: mm in metrics and response, at once; the contrast that it is told."""

from __future__ import annotations

import numpy as np
import pytest
from stand_in_worker import DEADLY_LAMBDA, FULL_BY, true_field
from worker_bench import AFFINE, FULL, QUICK, Observed, fill, prepare, volume, wait_until

from hyperreg.errors import InputError
from hyperreg.registration.response import RESPONSE_LAMBDAS
from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live.pair import Pair
from hyperreg.worker.live.scheduler import Task

LAM = 0.4
# Where the moving points lie is where the true field at this lambda leads: the response has its best there.
TRUE_LAM = 0.3
# On voxels of the field's grid, which is twice as coarse as the image (oblique, anisotropic and flipped).
IJK = np.array([[3, 5, 2], [8, 3, 4], [7, 6, 4], [5, 6, 3]])


def pairs(live: Observed) -> tuple[np.ndarray, np.ndarray]:
    fixed = live.grid.to_ras(IJK)
    moved = fixed + true_field(live.grid, TRUE_LAM)[:, IJK[:, 0], IJK[:, 1], IJK[:, 2]].T
    return fixed, moved @ live.linear[:3, :3].T + live.linear[:3, 3]


def distance(live: Observed, lam: float, *, full: bool = False) -> float:
    """Of the points, by the field at `lam`, mm; its linear part is a shift."""
    there = true_field(live.grid, TRUE_LAM)[:, IJK[:, 0], IJK[:, 1], IJK[:, 2]]
    here = (FULL_BY if full else 1.0) * true_field(live.grid, lam)[:, IJK[:, 0], IJK[:, 1], IJK[:, 2]]
    return float(np.linalg.norm(here - there, axis=0).mean())


def go_to(client: WorkerClient, live: Observed, lam: float) -> None:
    prepare(client, live)
    live.set_lambda(lam)
    wait_until(client, lambda: live.solved_lam == lam and bool(live.measured))


def test_landmarks_are_measured_at_once_in_mm(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="registered yet"):
        live.set_landmarks(np.zeros((1, 3)), np.zeros((1, 3)))
    go_to(client, live, LAM)
    fixed, moving = pairs(live)
    before = len(live.measured)
    live.set_landmarks(fixed, moving)
    assert len(live.measured) == before + 1, "without waiting for the worker"
    lam, metrics = live.measured[-1]
    assert lam == LAM
    assert metrics["landmarks_mm"] == pytest.approx(distance(live, LAM), abs=1e-4)
    assert metrics["landmarks_mm_before"] == pytest.approx(distance(live, 1.0), abs=1e-4)
    assert metrics["landmarks_mm"] < metrics["landmarks_mm_before"] - 0.3
    assert metrics["similarity"] == pytest.approx(1 - LAM), "beside the worker's figures"
    live.set_landmarks(fixed, moving)
    assert len(live.measured) == before + 1, "the same points again are no news"
    live.set_landmarks(fixed, moving + np.array((0, 0, 3)))
    assert live.measured[-1][1]["landmarks_mm"] > 2
    live.set_landmarks(None, None)
    assert "landmarks_mm" not in live.measured[-1][1]
    assert (live.state.warnings, live.errors) == ((), [])


def test_landmarks_choose_lambda_before_and_after_the_response_is_measured(
    client: WorkerClient, live: Observed
) -> None:
    go_to(client, live, LAM)
    live.set_landmarks(*pairs(live))
    fill(client, live)
    assert live.state.suggestion is not None
    assert (live.state.suggestion.by, live.state.suggestion.lam) == ("landmarks", TRUE_LAM)
    rows = {row["lambda"]: row["landmarks_mm"] for row in live.state.response.rows}
    assert set(RESPONSE_LAMBDAS) <= set(rows)
    for lam in RESPONSE_LAMBDAS:
        assert rows[lam] == pytest.approx(distance(live, lam), abs=1e-4)
    live.set_landmarks(None, None)
    assert live.state.suggestion is not None
    assert (live.state.suggestion.by, live.state.suggestion.lam) == ("images", 0.0), (
        "the stand-in's similarity is best there"
    )
    live.set_lambda(0.33)  # measured, but its field is not kept
    fill(client, live)
    jobs = client.pid, len(live.fields)
    live.set_lambda(0.37)
    fill(client, live)
    live.set_landmarks(*pairs(live))
    assert live.state.suggestion is not None
    assert (live.state.suggestion.by, live.state.suggestion.lam) == ("landmarks", TRUE_LAM), (
        "at once, from the fields at hand"
    )
    assert not live.state.busy
    assert client.pid == jobs[0]


def test_the_field_that_is_shown_counts_although_it_is_no_anchor(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.37)
    wait_until(client, lambda: live.anchor_count >= 2)
    live.set_lambda(0.6)
    fill(client, live)
    assert live.state.lam == live.solved_lam == 0.6
    live.set_landmarks(*pairs(live))
    assert live.state.suggestion is not None, "complete at once"
    rows = {row["lambda"]: row["landmarks_mm"] for row in live.state.response.rows}
    assert rows[0.6] == pytest.approx(distance(live, 0.6), abs=1e-4)


def test_full_resolution_is_measured_by_landmarks(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, LAM)
    live.set_landmarks(*pairs(live))
    live.request_full()
    wait_until(client, lambda: bool(live.full) and live.measured[-1][1]["stage"] == FULL)
    assert live.measured[-1][1]["landmarks_mm"] == pytest.approx(distance(live, LAM, full=True), abs=1e-4)
    live.set_landmarks(None, None)
    assert "landmarks_mm" not in live.measured[-1][1]


def test_landmarks_that_pull_change_the_field_and_are_measured_apart(client: WorkerClient, live: Observed) -> None:
    """The stand-in moves everything by the weight of the pull, in mm along R, A and S."""
    go_to(client, live, LAM)
    fixed, moving = pairs(live)
    live.set_landmarks(fixed, moving, 0.5, [0])
    assert live.state.shown is None
    wait_until(client, lambda: live.solved_lam == LAM and "pulled_mm" in live.measured[-1][1])
    np.testing.assert_allclose(live.last.forward.array, true_field(live.grid, LAM) + 0.5, atol=1e-5)
    metrics = live.measured[-1][1]
    linear = np.asarray(live.linear[:3, :3])
    here, there = (true_field(live.grid, lam)[:, IJK[:, 0], IJK[:, 1], IJK[:, 2]].T for lam in (LAM, TRUE_LAM))
    off = np.linalg.norm((here + 0.5 - there) @ linear.T, axis=1)
    assert metrics["landmarks_mm"] == pytest.approx(off[0], abs=1e-4)
    assert metrics["pulled_mm"] == pytest.approx(off[1:].mean(), abs=1e-4)
    assert metrics["pulled_mm_before"] > 0
    live.set_landmarks(fixed, moving + np.array((0, 0, 1.0)), 0.5, [0])
    fill(client, live)
    assert live.state.suggestion is not None and live.state.suggestion.by == "landmarks", "by the one that is left out"
    live.set_landmarks(fixed, moving, 0.5)
    fill(client, live)
    assert live.state.suggestion is not None and live.state.suggestion.by != "landmarks", (
        "those that pull are no judges"
    )
    live.set_landmarks(fixed, moving)
    wait_until(client, lambda: live.solved_lam == LAM and "pulled_mm" not in live.measured[-1][1])
    np.testing.assert_allclose(live.last.forward.array, true_field(live.grid, LAM), atol=1e-5)
    assert live.errors == []


def test_while_a_landmark_is_dragged_the_shown_lambda_comes_first(
    client: WorkerClient, live: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_to(client, live, LAM)
    fixed, moving = pairs(live)
    asked: list[tuple[float, int]] = []
    send = live._scheduler._request_field

    def request(pair: Pair, task: Task) -> None:
        asked.append((task.lam, task.stage))
        send(pair, task)

    monkeypatch.setattr(live._scheduler, "_request_field", request)
    fill(client, live)
    asked.clear()
    for step in range(5):
        live.set_landmarks(fixed, moving + np.array((0, 0, 0.1 * step)), 0.5)
        client.poll()
    fill(client, live)
    last = asked[-len(set(asked)) :]
    assert last[:4] == [(LAM, 0), (LAM, QUICK), (1.0, 0), (0.0, 0)]
    assert live.state.landmarks is not None and live.state.landmarks.moving[0, 2] == pytest.approx(moving[0, 2] + 0.4)


def test_when_the_engine_refuses_the_pull_they_only_measure(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, LAM)
    fixed, moving = pairs(live)
    live.set_landmarks(fixed, moving, DEADLY_LAMBDA)
    wait_until(client, lambda: bool(live.errors) and live.solved_lam == LAM)
    assert live.errors == ["This pull is refused."]
    assert live.state.landmarks is not None and live.state.landmarks.pull == 0
    fill(client, live)
    assert "landmarks_mm" in live.measured[-1][1] and "pulled_mm" not in live.measured[-1][1]


def test_landmarks_that_cannot_pull_change_nothing(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, LAM)
    fixed, moving = pairs(live)
    live.set_landmarks(fixed, moving)
    with pytest.raises(InputError, match="Outside of the moving image"):
        live.set_landmarks(fixed, moving + np.array((0, 500, 0)), 1.0)
    assert live.state.landmarks is not None and live.state.landmarks.pull == 0
    np.testing.assert_array_equal(live.state.landmarks.moving, moving)
    assert live.state.shown is not None


def test_the_engine_is_told_the_contrast(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, contrast="different")
    assert live.state.note == "Told: different."
    with pytest.raises(InputError, match="auto, same, different"):
        live.prepare(volume(0), volume(1), contrast="unlike")
    prepare(client, live)
    assert live.state.note == ""


def test_points_outside_and_points_without_counterpart(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, LAM)
    inside = volume(0).grid.to_ras([[5.0, 5, 5], [10, 10, 10]])
    assert np.allclose(volume(0).ijk_to_ras, AFFINE)
    far = inside + np.array((0, 500, 0))
    live.set_landmarks(inside, far)
    assert len(live.state.warnings) == 1
    assert "2 of 2 landmarks lie outside of the moving image" in live.state.warnings[0]
    with pytest.raises(InputError, match="2 landmarks of the fixed image and 1 of the moving one"):
        live.set_landmarks(inside, far[:1])
    with pytest.raises(InputError, match="one image only"):
        live.set_landmarks(None, far)
    assert live.state.landmarks is not None
    prepare(client, live)
    assert live.state.landmarks is None, "they belonged to the images before"
