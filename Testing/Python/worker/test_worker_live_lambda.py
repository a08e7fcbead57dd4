"""The live registration follows λ: the newest wins, previews at once, anchors, solved fields, transforms, metrics."""

from __future__ import annotations

import numpy as np
import pytest
from stand_in_worker import true_field
from worker_bench import AFFINE, LONG_S, QUICK, Observed, assert_fields, fill, prepare, volume, wait_until

from hyperreg.errors import InputError
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.registration.anchors import MAX_ANCHORS, TOLERANCE_MEAN_MM, TOLERANCE_P99_MM
from hyperreg.worker.client import WorkerClient


def test_prepared_then_solved_then_metrics_then_anchors(client: WorkerClient, live: Observed) -> None:
    assert not live.state.ready
    job = live.prepare(volume(0), volume(1), model="plain", initial="rigid")
    live.set_lambda(0.25)
    assert live.state.preparing
    wait_until(client, lambda: live.state.ready)
    assert job.state == "done"
    fill(client, live)
    assert live.errors == []
    assert live.grid.matches(Grid((12, 10, 8), AFFINE @ np.diag([2, 2, 2, 1.0])))
    assert live.linear[0, 3] == pytest.approx(volume(1).array.mean())
    assert live.state.device == "cpu"
    assert live.events == ["ready", "draft", "solved", "metrics"]
    assert (live.drafts, live.fields) == ([0.25], [(0.25, True)])
    assert_fields(live, 0.25)
    lam, metrics = live.measured[0]
    assert lam == 0.25
    assert metrics["similarity"] == pytest.approx(0.75)
    assert np.isnan(metrics["smoothness"])
    assert (metrics["fields"], metrics["stage"]) == (1, QUICK), (
        "the metrics come before any field that nobody waits for"
    )
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
        assert live.last.inverse is None
    wait_until(client, lambda: live.solved_lam == lam)
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
    assert [lam for lam, _ in live.measured] == [1.0, 0.0], "their figures are known, too"


def test_the_newest_lambda_wins(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.11)
    wait_until(client, lambda: live.state.busy and live._scheduler.job.state == "running")
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
    wait_until(client, lambda: live.state.busy and live._scheduler.job.state == "running")
    live.set_lambda(0.3)
    wait_until(client, lambda: live.solved_lam == 0.3)
    assert live.anchor_count <= before + 1


def test_a_preview_does_not_change_exact_fields_that_somebody_holds(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.37)
    wait_until(client, lambda: live.solved_lam == 0.37)
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


def test_back_to_the_last_solved_lambda_is_exact_at_once(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.37)
    wait_until(client, lambda: live.solved_lam == 0.37)
    live.set_lambda(0.38)
    live.set_lambda(0.37)
    assert live.fields[-1] == (0.37, True)
    live.set_lambda(0.37)
    assert [entry for entry in live.fields if entry[1]] == [(0.37, True)] * 2, "the same value again is no news"
    fill(client, live)
    assert live.solved_lam == 0.37


@pytest.mark.parametrize("lam", [-0.01, 1.01, float("nan"), float("inf")])
def test_lambda_outside_its_range_is_refused_at_once(client: WorkerClient, live: Observed, lam: float) -> None:
    prepare(client, live)
    with pytest.raises(InputError, match="λ"):
        live.set_lambda(lam)
    assert live.state.lam is None
    job = client.submit("field", {"session": live._name, "lambda": 2 if np.isnan(lam) or np.isinf(lam) else lam})
    assert job.wait(LONG_S)
    assert isinstance(job.failure, InputError)


def test_transforms_of_the_solved_lambda(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="not complete yet"):
        live.transform()
    shift = np.eye(4)
    shift[:3, 3] = 3, -4, 5
    live.prepare(volume(0), volume(1), model="plain", initial=shift)
    live.set_lambda(0.0)
    wait_until(client, lambda: live.solved_lam == 0.0)
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


def test_anchors_are_asked_for_as_finely_as_values_of_lambda_are_told_apart(
    client: WorkerClient, live: Observed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the field would be kept under a λ that nobody looks for, and never be refined."""
    prepare(client, live)
    fill(client, live)
    assert live._pair is not None and live.anchor_count < MAX_ANCHORS
    monkeypatch.setattr(live._pair.store.anchors, "next_lambda", lambda: 0.1 + 0.2 + 0.55)
    assert live._pair.store.next_anchors(0.3, QUICK) == [0.85]


def test_while_lambda_moves_nothing_is_computed_for_it_and_what_was_is_given_up(
    client: WorkerClient, live: Observed
) -> None:
    """The worker would be too late, and slow down the views."""
    prepare(client, live, model="slow")
    fill(client, live)
    live.set_lambda(0.123)
    wait_until(client, lambda: live.state.work is not None)
    job = live._scheduler.job
    live.set_lambda(0.124)
    assert job.state == "cancelling"
    wait_until(client, lambda: not live._scheduler.job)
    for lam in np.linspace(0.2, 0.8, 30):
        live.set_lambda(lam)
        client.poll()
        assert live._scheduler.job is None and live.state.busy, "it is asked for when λ rests"
    wait_until(client, lambda: live.solved_lam == 0.8)


def test_a_draft_comes_only_where_no_better_preview_is(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    fill(client, live)
    live.drafts.clear()
    live.events.clear()
    live.set_lambda(0.123)
    fill(client, live)
    assert live.events == ["preview", "solved", "metrics"] and not live.drafts
