"""What a live registration tells: one state whenever it has changed, the same members in product and fake."""

from __future__ import annotations

import inspect
import itertools
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from fake_registration import FakeRegistration
from worker_bench import QUICK, Observed, fill, prepare, volume, wait_until

from hyperreg.worker.client import WorkerClient
from hyperreg.worker.live.registration import LiveRegistration
from hyperreg.worker.live.state import LiveState, Registration


@pytest.mark.parametrize("kind", [LiveRegistration, FakeRegistration])
def test_product_and_fake_are_what_is_promised(kind: type) -> None:
    """The same members with the same parameters, by name, order, kind and default; else a fake would drift."""
    made = kind(WorkerClient()) if kind is LiveRegistration else kind()
    for name in Registration.__annotations__:
        assert callable(getattr(made, name)), name
    promised = {name: member for name, member in vars(Registration).items() if not name.startswith("_")}
    assert {"state", "prepare", "set_lambda", "bring_back"} <= set(promised)
    for name, member in promised.items():
        if isinstance(member, property):
            assert isinstance(getattr(made, name), LiveState)
            continue
        given = inspect.signature(getattr(kind, name)).parameters.values()
        wanted = inspect.signature(member).parameters.values()
        assert [(p.name, p.kind, p.default) for p in given] == [(p.name, p.kind, p.default) for p in wanted], name


def test_every_state_is_news_and_the_last_one_is_that_of_now(client: WorkerClient, live: Observed) -> None:
    told: list[LiveState] = []
    heard = live.on_state

    def listen(state: LiveState) -> None:
        told.append(state)
        heard(state)

    live.on_state = listen
    prepare(client, live)
    live.set_lambda(0.3)
    fill(client, live)
    assert told[-1] == live.state
    assert all(new != old for old, new in itertools.pairwise(told)), "nothing is told twice"
    assert (told[-1].lam, told[-1].busy, told[-1].work, told[-1].preparing) == (0.3, False, None, False)
    works = [(state.work.lam, state.work.stage) for state in told if state.work is not None]
    assert works[0] == (1.0, told[-1].pair.stages[0]), "what is being computed is told when it begins"
    count = len(told)
    live.set_lambda(0.3)
    client.poll()
    assert len(told) == count
    with pytest.raises(FrozenInstanceError):
        told[-1].lam = 0.4  # type: ignore[misc]


def test_fields_are_referred_to_and_not_copied(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    live.set_lambda(0.3)
    fill(client, live)
    first, second = live.state, live.state
    assert first.shown is second.shown and first.metrics is second.metrics and first.response is second.response
    live.set_lambda(0.33)
    preview = live.state.shown
    live.set_lambda(0.34)
    assert np.shares_memory(live.state.shown.forward.array, preview.forward.array), "one buffer for all previews"
    assert not np.shares_memory(live.state.shown.forward.array, first.shown.forward.array)


def test_what_the_observer_changes_is_told_after_it_has_returned(client: WorkerClient, live: Observed) -> None:
    """Else it would go on with a state that is no longer so."""
    running, lams = [0], []

    def move(state: LiveState) -> None:
        running[0] += 1
        assert running[0] == 1, "one after the other"
        lams.append(state.lam)
        if state.lam == 0.3:
            live.set_lambda(0.6)
        running[0] -= 1

    live.on_state = move
    live.set_lambda(0.3)
    assert lams == [0.3, 0.6]
    assert live.state.lam == 0.6


def test_an_observer_that_fails_stops_nothing(client: WorkerClient, live: Observed) -> None:
    prepare(client, live)
    heard = live.on_state

    def fail(_state: LiveState) -> None:
        raise RuntimeError("the picture could not be drawn")

    live.on_state = fail
    with pytest.raises(RuntimeError, match="drawn"):
        live.set_lambda(0.4)
    live.on_state = heard
    wait_until(client, lambda: live.solved_lam == 0.4)
    assert live.state.shown.stage == QUICK


def test_lambda_before_any_pair_is_kept_for_it(client: WorkerClient, live: Observed) -> None:
    live.set_lambda(0.45)
    assert live.state == LiveState(0.45, full_automatically=False)
    live.prepare(volume(0), volume(1), model="plain")
    assert (live.state.preparing, live.state.ready) == (True, False)
    wait_until(client, lambda: live.solved_lam == 0.45)
