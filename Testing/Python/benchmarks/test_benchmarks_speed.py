"""The benchmark of speed: that what it times is done each time."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from phantom_bench import COARSE, oblique_phantom, prepared

from benchmarks import speed
from benchmarks.__main__ import speed_table
from hyperreg.registration.catalogue import NO_MODEL


def test_every_drag_of_a_landmark_is_another_field(monkeypatch: pytest.MonkeyPatch) -> None:
    session = prepared(oblique_phantom(COARSE), NO_MODEL)
    found, solve = [], session.field

    def field(lam: float, stage: int) -> None:
        assert (lam, stage) == (session.card.default_lambda, session.quick_stage)
        assert session.constraints.landmarks is not None
        found.append(solve(lam, stage).forward.array)

    monkeypatch.setattr(session, "field", field)
    costs = speed.dragged_landmark(session)
    assert len(found) == speed.REPEATS + 1
    assert all(np.abs(one - other).max() > 0.1 for one, other in itertools.pairwise(found))
    assert session.constraints.landmarks is None, "nothing of it stays"
    table = speed_table({"shape": "", "device": "cpu", "cores": 2, "load_average": None, "gpu": False, **costs})
    assert f"| {costs['dragged_landmark_s']:.2f} | 2 |" in table
