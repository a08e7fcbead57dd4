"""The response over lambda: what is kept, which lambda it speaks for, when a registration counts as worse."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest

from hyperreg.errors import Cancelled, InputError
from hyperreg.registration.response import (
    SEARCHED_LAMBDAS,
    Response,
    automatic_lambda,
    chance_warning,
    suggest,
    warning,
)


def response_of(**figures: list[float]) -> Response:
    """A response at 0, 0.4 and 1."""
    response = Response()
    for index, lam in enumerate((0.0, 0.4, 1.0)):
        response.add(lam, {name: values[index] for name, values in figures.items()})
    return response


class Peak:
    """A session whose detail is best at one lambda."""

    def __init__(self, best: float) -> None:
        self.best = best
        self.asked: list[float] = []

    quick_stage = 1

    def metrics(self, lam: float, stage: int) -> Mapping[str, Any]:
        self.asked.append(lam)
        return {"detail": 1 - abs(lam - self.best), "similarity": 1 - lam}


def test_rows_stand_in_order_and_a_new_measurement_replaces_the_old_one() -> None:
    response = Response()
    for lam, similarity in ((0.5, 0.1), (0.0, 0.2), (0.5, 0.3)):
        response.add(lam, {"similarity": similarity, "dice": {3: 0.5, 7: 0.25}, "dice_before": {3: 0.4, 7: 0.2}})
    assert response.lambdas == [0.0, 0.5]
    assert response.column("similarity") == [0.2, 0.3]
    assert response.columns == ["lambda", "similarity", "dice_3", "dice_7"]
    assert response.column("dice_7") == [0.25, 0.25]


@pytest.mark.parametrize("lam", [-0.1, 1.1, float("nan")])
def test_a_lambda_outside_the_range_is_refused(lam: float) -> None:
    response = Response()
    with pytest.raises(InputError, match="between 0"):
        response.add(lam, {"similarity": 1.0})
    assert response.rows == []


def test_dice_decides_before_landmarks_and_these_before_the_images() -> None:
    figures = {
        "similarity": [0.9, 0.8, 0.7],
        "detail": [0.3, 0.4, 0.2],
        "landmarks_mm": [2.0, 2.0, 1.0],
        "landmarks_mm_before": [4.0] * 3,
        "dice_mean": [0.8, 0.7, 0.6],
        "dice_mean_before": [0.5] * 3,
    }
    found = suggest(response_of(**figures))
    assert (found.lam, found.by) == (0.0, "dice")
    assert "0.800" in found.reason and "0.500" in found.reason
    del figures["dice_mean"]
    found = suggest(response_of(**figures))
    assert (found.lam, found.by) == (1.0, "landmarks")
    assert "1.00 mm" in found.reason and "4.00 mm" in found.reason
    del figures["landmarks_mm"]
    found = suggest(response_of(**figures))
    assert (found.lam, found.by) == (0.4, "images")
    del figures["detail"]
    assert suggest(response_of(**figures)).lam == 0.0


def test_dice_that_could_not_be_measured_does_not_decide() -> None:
    nan = float("nan")
    found = suggest(response_of(detail=[0.1, 0.2, 0.3], dice_mean=[nan] * 3, dice_mean_before=[nan] * 3))
    assert (found.lam, found.by) == (1.0, "images")


def test_of_equally_good_ones_the_smoothest_is_suggested() -> None:
    assert suggest(response_of(detail=[0.5, 0.5, 0.4])).lam == 0.4


def test_nothing_measured_suggests_nothing() -> None:
    with pytest.raises(InputError, match="nothing has been measured"):
        suggest(Response())


@pytest.mark.parametrize("best", SEARCHED_LAMBDAS)
def test_the_search_finds_the_best_lambda_without_trying_all(best: float) -> None:
    session = Peak(best)
    response = Response()
    told: list[float] = []
    found = automatic_lambda(session, lambda fraction, _text: told.append(fraction), response=response)
    assert found.lam == best
    assert len(session.asked) == len(set(session.asked)) < 8
    assert response.lambdas == sorted(session.asked)
    assert told == sorted(told) and told[-1] == 1.0


def test_the_search_measures_nothing_twice() -> None:
    session = Peak(0.3)
    response = Response()
    for lam in (0.0, 0.3, 0.6, 1.0):
        response.add(lam, session.metrics(lam, 0))
    session.asked.clear()
    assert automatic_lambda(session, response=response).lam == 0.3
    assert not {0.0, 0.3, 0.6, 1.0} & set(session.asked)


def test_the_search_stops_when_it_is_cancelled() -> None:
    session = Peak(0.3)
    with pytest.raises(Cancelled):
        automatic_lambda(session, cancelled=lambda: len(session.asked) == 2)
    assert len(session.asked) == 2


@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ({"dice_mean": 0.40, "dice_mean_before": 0.45, "similarity": 0.9, "similarity_before": 0.5}, "0.400"),
        ({"landmarks_mm": 3.0, "landmarks_mm_before": 2.5, "detail": 0.9, "detail_before": 0.5}, "2.50 mm"),
        ({"detail": 0.2, "detail_before": 0.3, "similarity": 0.9, "similarity_before": 0.5}, "fine detail"),
        ({"detail": 0.301, "detail_before": 0.3, "similarity": 0.9, "similarity_before": 0.5}, "hardly more"),
        ({"similarity": 0.4, "similarity_before": 0.5}, "agree less"),
    ],
)
def test_worse_than_the_linear_alignment_is_said_plainly(metrics: dict[str, float], said: str) -> None:
    text = warning(metrics)
    assert text is not None
    assert said in text and "worse" in text and "linear alignment alone" in text and "λ" in text
    assert text.count("the images") <= 1
    given = warning(metrics, "the given start")
    assert given is not None and "than after the given start alone (" in given and "linear" not in given


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"dice_mean": 0.5, "dice_mean_before": 0.45, "detail": 0.2, "detail_before": 0.3},  # labels are the truth
        {"dice_mean": 0.4499, "dice_mean_before": 0.45},
        {"landmarks_mm": 2.52, "landmarks_mm_before": 2.5},
        {"dice_mean": float("nan"), "dice_mean_before": 0.4, "similarity": 0.6, "similarity_before": 0.5},
        {"similarity": 0.6, "similarity_before": None},
        # The similarity of the whole picture falls where most of it was at rest: the detail decides.
        {"detail": 0.35, "detail_before": 0.3, "similarity": 0.8, "similarity_before": 0.9},
    ],
)
def test_as_good_or_better_is_no_warning(metrics: dict[str, Any]) -> None:
    assert warning(metrics) is None


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ({"over_chance_before": 1.7, "detail": 0.3, "detail_before": 0.1}, True),
        ({"over_chance_before": 1.7, "displacement_max_mm": 0.0, "detail": 0.1, "detail_before": 0.1}, True),
        ({"over_chance_before": 1.7, "dice_mean": float("nan"), "dice_mean_before": float("nan")}, True),
        ({"over_chance_before": 2.1, "detail": 0.3, "detail_before": 0.1}, False),
        ({"over_chance_before": 1.7, "dice_mean": 0.6, "dice_mean_before": 0.4}, False),
        ({"over_chance_before": 1.7, "landmarks_mm": 2.0, "landmarks_mm_before": 4.0}, False),
    ],
)
def test_images_that_agree_by_chance_alone_are_told(metrics: dict[str, float], told: bool) -> None:
    text = warning(metrics)
    assert (text is not None and "by chance (1.7 times" in text) == told
    assert chance_warning(metrics) == text


def test_slicer_can_import_it_without_torch() -> None:
    code = "import sys, hyperreg.registration.response; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_the_linear_alignment_is_suggested_where_no_deformation_mends_anything():
    response = Response()
    for lam, detail in ((0.0, 0.102), (0.5, 0.08), (1.0, 0.093)):
        response.add(lam, {"detail": detail, "detail_before": 0.093})
    assert suggest(response).lam == 1.0
    response.add(0.0, {"detail": 0.2, "detail_before": 0.093})
    assert suggest(response).lam == 0.0


def test_nothing_is_said_of_a_deformation_that_is_none():
    same = {"detail": 0.2, "detail_before": 0.2}
    assert warning({**same, "displacement_max_mm": 0.0}) is None
    assert warning({**same, "displacement_max_mm": 2.0}) is not None
