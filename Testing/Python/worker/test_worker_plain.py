"""Records on their way through JSON: what comes back is what was sent, and nothing else is taken."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from hyperreg.fusion.records import AtlasFiles, Learned, LearnedWeight, RaterMetrics
from hyperreg.imaging.structures import Code, Structure, Terminology
from hyperreg.worker.plain import plain, record


@pytest.mark.parametrize(
    "sent",
    [
        AtlasFiles("left hand", Path("a.nii.gz"), Path("b.nii.gz"), None),
        AtlasFiles("right hand", Path("a.nii.gz"), Path("b.nii.gz"), 0.25),
        Structure(7, 0, "Rim", (1, 2, 3)),
        Structure(7, 0, "Rim", (1, 2, 3), Terminology(Code("SCT", "1", "x"), Code("SCT", "2", "y"))),
        Learned(2, 4, False, True, 1.5, 2.0, (1, 2), (), (LearnedWeight("a", 0.5, 1.0, (0.25, 0.5)),)),
    ],
)
def test_a_record_comes_back_as_it_was_sent(sent: object) -> None:
    back = record(type(sent), json.loads(json.dumps(plain(sent), allow_nan=False)))
    assert back == sent
    assert hash(back) == hash(sent), "tuples are tuples again"


def test_numbers_that_are_none_come_back_as_such() -> None:
    back = record(RaterMetrics, json.loads(json.dumps(plain(RaterMetrics("a", np.float32(0.5))), allow_nan=False)))
    assert (back.name, back.weight) == ("a", 0.5)
    assert all(math.isnan(value) for value in (back.sensitivity, back.specificity, back.dice))


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"name": "a", "image": "b", "labels": "c"},
        {"name": "a", "image": "b", "labels": "c", "lam": None, "more": 1},
        {"name": "a", "image": 5, "labels": "c", "lam": None},
        {"name": "a", "image": "b", "labels": "c", "lam": "much"},
        [1, 2, 3],
        None,
    ],
)
def test_what_is_no_record_is_refused(values: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        record(AtlasFiles, values)
