"""What is set besides λ in a live registration: γ, regions with a λ of their own; and the response curve."""

from __future__ import annotations

import numpy as np
import pytest
from stand_in_worker import DEADLY_LAMBDA, DEFAULT_GAMMA, REFUSED_LABEL, set_field
from worker_bench import AFFINE, Observed, fill, kill_worker, prepare, volume, wait_until

from hyperreg.errors import InputError
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration.response import RESPONSE_LAMBDAS
from hyperreg.worker.client import WorkerClient


def regions() -> Volume:
    array = np.zeros((24, 20, 16), dtype=np.int16)
    array[:12] = 3
    array[12:, :10] = 7
    return Volume(array, AFFINE, "regions")


def go_to(client: WorkerClient, live: Observed, lam: float, model: str = "plain") -> None:
    prepare(client, live, model=model)
    live.set_lambda(lam)
    wait_until(client, lambda: live.solved_lam == lam)


def settle(client: WorkerClient, live: Observed, expected: np.ndarray) -> None:
    wait_until(client, lambda: live.solved_lam == live.state.lam or bool(live.errors))
    assert live.errors == []
    assert live.last is not None
    np.testing.assert_allclose(live.last.forward.array, expected, atol=1e-5)


def test_a_model_without_more_hyperparameters_has_none(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="registered yet"):
        live.set_hyperparameter("gamma", 0.5)
    go_to(client, live, 0.4)
    assert live.state.values == {}
    with pytest.raises(InputError, match="no hyperparameter 'gamma'"):
        live.set_hyperparameter("gamma", 0.5)


def test_gamma_changes_every_field_and_the_newest_wins(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4, model="gamma")
    assert live.state.values == {"gamma": DEFAULT_GAMMA}
    fill(client, live)
    with pytest.raises(InputError, match="between 0 and 1"):
        live.set_hyperparameter("gamma", 1.5)
    for gamma in np.linspace(0.3, 0.9, 20):
        live.set_hyperparameter("gamma", float(gamma))
        client.poll()
    live.set_hyperparameter("gamma", 1.0)
    assert (live.anchor_count, live.solved_lam) == (0, None)
    with pytest.raises(InputError, match="not complete yet"):
        live.transform()
    settle(client, live, set_field(live.grid, 0.4, 1.0))
    fill(client, live)
    for lam in (0.0, 0.45):
        live.set_lambda(lam)
        settle(client, live, set_field(live.grid, lam, 1.0))
    told = len(live.fields)
    live.set_hyperparameter("gamma", 1.0)
    assert len(live.fields) == told, "the same value is no news"


def test_what_was_set_survives_the_worker(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4, model="gamma")
    labels = regions()
    live.set_hyperparameter("gamma", 0.75)
    live.set_regions(labels, {3: 0.9})
    settle(client, live, set_field(live.grid, 0.4, 0.75, labels, {3: 0.9}))
    kill_worker(client)
    live.errors.clear()
    live.set_lambda(0.43)
    settle(client, live, set_field(live.grid, 0.43, 0.75, labels, {3: 0.9}))
    assert client.generation == 2
    prepare(client, live)
    assert live.state.values == {}, "another pair begins with the settings of its own model"


def test_a_value_that_the_engine_refuses_is_taken_back(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4, model="gamma")
    live.set_hyperparameter("gamma", DEADLY_LAMBDA)
    wait_until(client, lambda: bool(live.errors) and live.solved_lam == 0.4)
    assert live.errors == ["This γ is refused."]
    assert live.state.values == {"gamma": DEFAULT_GAMMA}
    np.testing.assert_allclose(live.last.forward.array, set_field(live.grid, 0.4, DEFAULT_GAMMA), atol=1e-5)


def test_regions_have_their_own_lambda(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4)
    fill(client, live)
    labels = regions()
    live.set_regions(labels, {3: 0.9, 7: 0.1})
    settle(client, live, set_field(live.grid, 0.4, 0.0, labels, {3: 0.9, 7: 0.1}))
    fill(client, live)
    for lam in (0.55, 0.9):
        live.set_lambda(lam)
        settle(client, live, set_field(live.grid, lam, 0.0, labels, {3: 0.9, 7: 0.1}))
    for own in np.linspace(0.2, 0.8, 15):
        live.set_regions(labels, {3: float(own)})
        client.poll()
    settle(client, live, set_field(live.grid, 0.9, 0.0, labels, {3: 0.8}))
    fill(client, live)
    assert live.measured[-1][1]["maps_sent"] == 1, "the label map crossed once"
    live.set_regions(None, {})
    settle(client, live, set_field(live.grid, 0.9))
    with pytest.raises(InputError, match="λ"):
        live.set_regions(labels, {3: 1.2})


@pytest.mark.parametrize("on_its_way", [False, True])
def test_settings_come_back_with_what_was_set_aside(client: WorkerClient, live: Observed, on_its_way: bool) -> None:
    go_to(client, live, 0.4)
    labels = regions()
    live.set_regions(labels, {3: 0.9})
    if not on_its_way:
        fill(client, live)
    live.set_aside()
    live.bring_back()
    wait_until(client, lambda: live.solved_lam == 0.4)
    settle(client, live, set_field(live.grid, 0.4, 0.0, labels, {3: 0.9}))
    live.set_regions(None, {})
    settle(client, live, set_field(live.grid, 0.4))


def test_masks_change_live_cross_once_and_survive_the_worker(client: WorkerClient, live: Observed) -> None:
    with pytest.raises(InputError, match="registered yet"):
        live.set_masks(None, None)
    go_to(client, live, 0.4)
    half = np.zeros((24, 20, 16), dtype=np.uint8)
    half[:12] = 1
    mask, plain = Volume(half, AFFINE, "mask"), set_field(live.grid, 0.4)
    live.set_masks(mask, None)
    settle(client, live, 0.5 * plain)
    live.set_masks(mask, Volume(half, AFFINE, "other"))
    live.set_regions(regions(), {3: 0.9})
    settle(client, live, 0.5 * set_field(live.grid, 0.4, 0.0, regions(), {3: 0.9}))
    fill(client, live)
    assert live.measured[-1][1]["maps_sent"] == 3, "each map crossed once"
    told = len(live.fields)
    live.set_masks(live.state.constraints.fixed_mask, live.state.constraints.moving_mask)
    fill(client, live)
    assert len(live.fields) == told, "the same objects are no news"
    kill_worker(client)
    live.errors.clear()
    live.set_regions(None, {})
    settle(client, live, 0.5 * plain)
    live.set_masks(None, None)
    settle(client, live, plain)


def test_rigid_regions_change_live_and_symmetric_is_told(client: WorkerClient, live: Observed) -> None:
    """The stand-in subtracts the label values that are rigid, in mm."""
    with pytest.raises(InputError, match="registered yet"):
        live.set_rigid(None, ())
    go_to(client, live, 0.4)
    labels, plain = regions(), set_field(live.grid, 0.4)
    live.set_rigid(labels, [7, 3, 3])
    settle(client, live, plain - 10)
    live.set_rigid(labels, (3,))
    settle(client, live, plain - 3)
    fill(client, live)
    assert live.measured[-1][1]["maps_sent"] == 1, "the label map crossed once"
    live.set_rigid(labels, ())
    settle(client, live, plain)
    prepare(client, live, symmetric=True)
    assert live.state.note == "Symmetric."


def test_any_transform_is_a_start_also_after_the_worker_died(client: WorkerClient, live: Observed) -> None:
    around = AFFINE.copy()
    around[:3, 3] = -AFFINE[:3, :3] @ (2, 2, 2)
    shift = np.eye(4)
    shift[:3, 3] = (7, 0, -2)
    field = np.full((3, 5, 5, 5), 1.5, dtype=np.float32)
    start = Transform((DisplacementField(field, around), shift, DisplacementField(field * 2, AFFINE)))
    expected = f"Start: {np.round(start.apply([[0.0, 0.0, 0.0]])[0], 3).tolist()}."
    prepare(client, live, initial=start)
    assert live.state.note == expected
    fixed = volume(0).grid.to_ras([[5.0, 5, 5], [10, 10, 10]])
    live.set_lambda(0.4)
    live.set_landmarks(fixed, start.apply(fixed) + np.array((0, 3, 4)))
    wait_until(client, lambda: bool(live.measured) and "landmarks_mm" in live.measured[-1][1])
    assert live.measured[-1][1]["landmarks_mm_before"] == pytest.approx(5)
    kill_worker(client)
    live.errors.clear()
    live.set_lambda(0.43)
    wait_until(client, lambda: live.solved_lam == 0.43)
    assert live.state.note == expected
    prepare(client, live, initial=Transform((shift,)))
    np.testing.assert_array_equal(live.linear, shift)


def test_a_mask_that_the_engine_refuses_is_taken_back(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4)
    live.set_masks(Volume(np.zeros((24, 20, 16), np.uint8), AFFINE, "nothing"), None)
    wait_until(client, lambda: bool(live.errors) and live.solved_lam == 0.4)
    assert live.errors == ["The mask of the fixed image is 0 everywhere."]
    np.testing.assert_allclose(live.last.forward.array, set_field(live.grid, 0.4), atol=1e-5)


def test_what_is_refused_takes_nothing_else_with_it(client: WorkerClient, live: Observed) -> None:
    """Set while the worker is busy, they go together; a mask that nobody has refused must not be dropped in silence."""
    go_to(client, live, 0.4, model="slow-everywhere")
    half = np.zeros((24, 20, 16), dtype=np.uint8)
    half[:12] = 1
    mask, labels = Volume(half, AFFINE, "mask"), regions()
    assert live.state.busy
    live.set_rigid(labels, (3,))
    live.set_masks(mask, None)
    live.set_rigid(labels, (3, REFUSED_LABEL))
    live.set_regions(labels, {3: 0.9})
    wait_until(client, lambda: bool(live.errors))
    assert live.errors == [f"Region {REFUSED_LABEL} is too small."]
    live.errors.clear()
    settle(client, live, 0.5 * set_field(live.grid, 0.4, 0.0, labels, {3: 0.9}))
    there = live.state.constraints
    assert (there.fixed_mask, there.rigid, there.rigid_values, there.regions) == (mask, None, (), labels)


def test_what_was_set_when_the_worker_died_of_it_is_not_forgotten(client: WorkerClient, live: Observed) -> None:
    """Nobody has refused it: it is tried again when the user asks for something, and not over and over."""
    go_to(client, live, 0.4, model="dies-of-rigid")
    labels = regions()
    live.set_rigid(labels, (3,))
    wait_until(client, lambda: bool(live.errors))
    fill(client, live)
    assert (len(live.errors), live.state.constraints.rigid_values) == (1, (3,))
    live.set_lambda(0.5)
    wait_until(client, lambda: len(live.errors) == 2)
    fill(client, live)
    assert client.generation == 2
    live.errors.clear()
    live.set_rigid(None, ())
    settle(client, live, set_field(live.grid, 0.5))


def test_full_resolution_ends_with_the_settings_it_was_made_for(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4)
    live.request_full()
    wait_until(client, lambda: bool(live.full))
    live.set_regions(regions(), {3: 0.9})
    assert live.state.shown is None
    settle(client, live, set_field(live.grid, 0.4, 0.0, regions(), {3: 0.9}))


def test_the_response_fills_in_the_background(client: WorkerClient, live: Observed) -> None:
    labels = Volume((volume().array > 0).astype(np.int16), AFFINE, "labels")
    prepare(client, live, fixed_labels=labels, moving_labels=labels)
    live.set_lambda(0.37)
    fill(client, live)
    counts = [len(lambdas) for lambdas, _ in live.curves]
    assert counts == list(range(len(RESPONSE_LAMBDAS) + 2)), "none, then one more each time; the user's own λ too"
    assert sorted({*RESPONSE_LAMBDAS, 0.37}) == live.curves[-1][0]
    assert [suggestion for _, suggestion in live.curves[:-1]] == [None] * (len(counts) - 1)
    assert live.state.suggestion is not None
    assert (live.state.suggestion.lam, live.state.suggestion.by) == (1.0, "dice"), "the stand-in's Dice grows with λ"
    assert live.state.response.column("dice_mean")[0] == 0.25
    ends = [set(lambdas) for lambdas, _ in live.curves[1:4]]
    assert ends[-1] == {0.37, 0.0, 1.0}, "the ends come first: the curve shows its shape from the beginning"


def test_the_response_does_not_disturb_the_slider(client: WorkerClient, live: Observed) -> None:
    prepare(client, live, model="slow")
    live.set_lambda(0.37)
    wait_until(client, lambda: len(live.curves) > 3)
    assert live._pair is not None
    computed = len(live._pair.store.known)
    for lam in np.linspace(0.41, 0.59, 30):
        live.set_lambda(float(lam))
        client.poll()
    live.set_lambda(0.613)
    wait_until(client, lambda: bool(live.measured) and live.measured[-1][0] == 0.613)
    assert [lam for lam, exact in live.fields if exact] == [0.37, 0.613]
    assert live.measured[-1][1]["fields"] - computed <= 3, "at most two on the way, 0.613"
    fill(client, live)
    assert set(RESPONSE_LAMBDAS) < set(live.curves[-1][0])


def test_other_settings_begin_another_response(client: WorkerClient, live: Observed) -> None:
    go_to(client, live, 0.4, model="gamma")
    fill(client, live)
    assert live.state.suggestion is not None
    live.set_hyperparameter("gamma", 0.9)
    assert (live.state.response.rows, live.state.suggestion) == ([], None)
    assert live.curves[-1] == ([], None)
    fill(client, live)
    assert live.state.suggestion is not None
