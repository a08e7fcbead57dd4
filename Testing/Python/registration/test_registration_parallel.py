"""Several λ solved side by side: the fields are those of each for itself, and a cancel ends all."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
import torch

from hyperreg.errors import Cancelled
from hyperreg.phantom import head_phantom_pair
from hyperreg.registration.anchors import Fields
from hyperreg.registration.parallel import Tick, side_by_side
from hyperreg.registration.session import LiveSession


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_fields_beside_are_the_same_as_alone(two_threads):
    pair = head_phantom_pair((40, 44, 40))
    together, alone = LiveSession("none", "cpu"), LiveSession("none", "cpu")
    for session in (together, alone):
        session.prepare(pair.fixed, pair.moving, initial="none", contrast="same")
    first = together.field(0.3, 0, beside=[0.3, 0.6, 0.9])
    known = dict(together._fields)
    assert set(known) == {(0.3, 0), (0.6, 0)}  # two threads: no more than two
    np.testing.assert_allclose(first.forward.array, alone.field(0.3, 0).forward.array, atol=1e-4)
    np.testing.assert_allclose(known[0.6, 0].forward.array, alone.field(0.6, 0).forward.array, atol=1e-4)
    assert together.field(0.6, 0) is known[0.6, 0]
    assert torch.get_num_threads() == 2


def test_a_cancel_ends_those_beside_too(two_threads):
    ended = threading.Event()

    def solve(lam: float, tick: Tick) -> Fields:
        try:
            while True:
                tick(0.5)
                time.sleep(0.01)
        finally:
            if lam == 0.5:
                ended.set()

    def cancel(_fraction: float) -> None:
        raise Cancelled("enough")

    with pytest.raises(Cancelled, match="enough"):
        side_by_side(solve, [0.1, 0.5], cancel)
    assert ended.is_set()


def test_one_beside_that_fails_is_left_out(two_threads):
    fields = object()

    def solve(lam: float, _tick: Tick) -> Fields:
        if lam != 0.1:
            raise MemoryError
        return fields  # type: ignore[return-value]

    assert side_by_side(solve, [0.1, 0.5], lambda _fraction: None) == {0.1: fields}
