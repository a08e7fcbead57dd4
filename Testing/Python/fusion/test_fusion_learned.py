"""Data parameters within a run with atlases: kept in the cache, ended early, two at once, a full disk, the plot."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fusion_bench import GRID_SHIFTS, body, carried_body, dice, picture
from imaging_examples import oblique_grid

from hyperreg.errors import Cancelled, InputError
from hyperreg.fusion import learned as learned_module
from hyperreg.fusion.learned import FOLDER, KEPT, learned_of, save_plot
from hyperreg.fusion.methods import METHODS
from hyperreg.fusion.qualities import DataParameterSettings
from hyperreg.fusion.run import Answer, Method, Outputs, fuse_carried
from hyperreg.fusion.stack import stack_labels
from hyperreg.fusion.voting import vote
from hyperreg.imaging.volume import Volume

GRID = oblique_grid((18, 16, 14), (2.2, 2.4, 2.6))
IMAGE = picture(GRID)
STEPS = 8


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small network's volume, and data parameters that move from the first step."""

    def settings(**changes: int) -> DataParameterSettings:
        return DataParameterSettings(**{"most_voxels": 16**3, "warm_up": 0, "answer_every": 2} | changes)

    monkeypatch.setattr(learned_module, "DataParameterSettings", settings)


def run(cache: Path | None = None, temperature: float | None = None, steps: int = STEPS, **options) -> Answer:
    method = Method("dp", temperature=temperature, steps=steps, minutes=options.pop("minutes", None))
    return fuse_carried(IMAGE, carried_body(GRID), method, cache=cache, **options)


class Steps:
    """Counts the steps of learning that are told; can ask to cancel after so many."""

    def __init__(self, most: int = 10_000) -> None:
        self.most, self.told = most, []

    def progress(self, _fraction: float, text: str) -> None:
        if "step" in text:
            self.told.append(text)

    def over(self) -> bool:
        return len(self.told) >= self.most


def test_a_cancelled_run_goes_on_and_a_finished_one_answers_at_once(tmp_path: Path) -> None:
    straight = run()
    first = Steps(3)
    with pytest.raises(Cancelled, match="goes on from here"):
        run(tmp_path, progress=first.progress, cancelled=first.over)
    second = Steps()
    found = run(tmp_path, progress=second.progress)
    assert second.told[0] == f"Learning data parameters, step 4 of {STEPS}"
    assert len(second.told) == STEPS - 3
    assert found.consensus.weights == pytest.approx(straight.consensus.weights, abs=1e-6)
    third = Steps()
    sharp = run(tmp_path, 0.01, progress=third.progress)
    assert third.told == []
    assert sharp.consensus.weights.max() > found.consensus.weights.max() + 0.1
    assert len(list((tmp_path / FOLDER).iterdir())) == 1


def test_a_run_that_ends_before_anything_is_learned_says_that_it_is_a_majority_vote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = partial(DataParameterSettings, most_voxels=16**3, warm_up=5, answer_every=2)
    monkeypatch.setattr(learned_module, "DataParameterSettings", settings)
    for found in (run(tmp_path, minutes=1e-9), run(tmp_path, steps=4)):
        assert "NOTHING WAS LEARNED YET" in found.warnings[-1]
        assert "majority vote" in found.warnings[-1]
        assert np.array_equal(found.consensus.labels.array, vote(carried_body(GRID).stack).labels.array)
        assert learned_of(found.learned).alike
    assert not any("NOTHING" in text for text in run(tmp_path).warnings)


def test_other_label_maps_are_learned_by_themselves(tmp_path: Path) -> None:
    run(tmp_path, steps=2)
    other = carried_body(GRID, dict(list(GRID_SHIFTS.items())[:2]))
    found = fuse_carried(IMAGE, other, Method("dp", steps=2), cache=tmp_path)
    assert found.learned is not None
    assert len(found.learned.values[0]) == 2
    assert len(list((tmp_path / FOLDER).iterdir())) == 2


def test_an_early_answer_by_time_or_by_wish_is_called_one(tmp_path: Path) -> None:
    timed = run(tmp_path, minutes=1e-9)
    assert timed.learned is not None
    assert not timed.learned.finished
    assert 1 <= timed.learned.steps <= 2  # the clock starts with the first step
    assert f"early answer, after {timed.learned.steps} of {STEPS} steps" in timed.warnings[-1]
    answers: list[Answer] = []
    wished = run(tmp_path, answer=answers.append, enough=lambda: bool(answers))
    assert [one.learned.steps for one in answers] == [2]
    assert wished.learned is not None
    assert wished.learned.steps == 2
    assert np.array_equal(answers[0].consensus.labels.array, wished.consensus.labels.array)
    whole = run(tmp_path)
    assert whole.learned.finished
    assert not any("early" in text for text in whole.warnings)


def test_two_runs_learn_over_one_cache(tmp_path: Path) -> None:
    """The second one begins while the first is in the middle: it goes on from there, and neither disturbs the other."""
    others: list[Answer] = []
    steps = Steps()

    def meanwhile(_answer: Answer) -> None:
        if not others:
            others.append(run(tmp_path, progress=steps.progress))

    first = run(tmp_path, answer=meanwhile)
    assert steps.told[0] == f"Learning data parameters, step 3 of {STEPS}"
    straight = run().consensus.weights
    assert first.consensus.weights == pytest.approx(straight, abs=1e-6)
    assert others[0].consensus.weights == pytest.approx(straight, abs=1e-6)
    (folder,) = (tmp_path / FOLDER).iterdir()
    assert [path.name for path in folder.iterdir()] == ["data_parameters.pt"]


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("write failed")])
def test_a_full_disk_costs_the_progress_not_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def full(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr(torch, "save", full)
    found = run(tmp_path, steps=4)
    assert found.learned is not None
    assert found.learned.finished
    assert any("progress of data parameters cannot be written" in text for text in found.warnings)


def test_the_oldest_progress_makes_room(tmp_path: Path) -> None:
    for number in range(KEPT + 3):
        old = tmp_path / FOLDER / f"old{number}"
        old.mkdir(parents=True)
        (old / "data_parameters.pt").write_bytes(b"old")
        os.utime(old, (1000 + number, 1000 + number))
    run(tmp_path, steps=1)
    left = {path.name for path in (tmp_path / FOLDER).iterdir()}
    assert len(left) == KEPT
    assert "old0" not in left
    assert f"old{KEPT + 2}" in left


def test_one_label_map_or_none_with_labels_needs_no_learning() -> None:
    alone = carried_body(GRID, {"a1": (0.0, 0.0, 0.0)})
    found = fuse_carried(IMAGE, alone, Method("dp"))
    assert found.learned is None
    assert np.array_equal(found.consensus.labels.array, alone.stack.volume(alone.stack.codes[0], "").array)


def test_the_report_and_its_plot(tmp_path: Path) -> None:
    found = run(steps=4)
    assert found.learned is not None
    report = learned_of(found.learned)
    assert [row.name for row in report.atlases] == list(GRID_SHIFTS)
    assert sum(row.weight for row in report.atlases) == pytest.approx(1)
    assert report.history_steps == (2, 4)
    for row, values in zip(report.atlases, found.learned.history.T, strict=True):
        assert row.history == pytest.approx(values.tolist())
        assert row.value == pytest.approx(values[-1])
    save_plot(report, tmp_path / "weights.svg")
    drawing = (tmp_path / "weights.svg").read_text(encoding="utf-8")
    assert "a2" in drawing
    assert "4 of 4 steps" in drawing


@pytest.mark.parametrize(
    ("check", "words"),
    [
        (lambda: Outputs(plot=Path("w.txt")).check(Method("dp")), "no ending of an image"),
        (lambda: Outputs(plot=Path("w.png")).check(Method("vote")), "--method dp"),
        (lambda: Method("vote", steps=3).check(with_images=True), "Steps and minutes"),
        (lambda: Method("dp", minutes=0.0).check(with_images=True), "more than no time"),
        (lambda: Method("dp", steps=0).check(with_images=True), "at least one step"),
    ],
)
def test_what_cannot_be_meant_is_refused(check: Callable[[], None], words: str) -> None:
    with pytest.raises(InputError, match=words):
        check()


@pytest.mark.parametrize("method", METHODS)
def test_one_atlas_is_its_own_consensus_by_every_method(method: str) -> None:
    alone = carried_body(GRID, {"a1": (2.0, 0.0, 0.0)})
    found = fuse_carried(IMAGE, alone, Method(method)).consensus
    assert np.array_equal(found.labels.array, alone.stack.volume(alone.stack.codes[0], "").array)
    assert found.weights == pytest.approx([1.0])
    assert any("only one label map" in text for text in found.warnings)


@pytest.mark.parametrize("method", METHODS)
def test_negative_and_large_label_values_by_every_method(method: str) -> None:
    carried = carried_body(GRID)
    values = np.where(carried.stack.labels == 12, -7, 100 * carried.stack.labels)
    maps = [Volume(values[codes].astype(np.int32), GRID.ijk_to_ras, name)
            for codes, name in zip(carried.stack.codes, carried.stack.names, strict=True)]  # fmt: skip
    other = replace(carried, stack=stack_labels(maps))
    found = fuse_carried(IMAGE, other, Method(method, steps=2 if method == "dp" else None)).consensus
    assert np.unique(found.labels.array).tolist() == [-7, 0, 300, 30000]
    assert dice(found.labels.array, np.where(body(GRID).array == 12, -7, 0), -7) > 0.8


@pytest.mark.parametrize("method", METHODS)
def test_label_maps_without_any_label_by_every_method(method: str) -> None:
    carried = carried_body(GRID)
    empty = [Volume(np.zeros(GRID.shape, np.uint8), GRID.ijk_to_ras, name) for name in carried.stack.names]
    found = fuse_carried(IMAGE, replace(carried, stack=stack_labels(empty)), Method(method)).consensus
    assert not found.labels.array.any()
    assert any("no label" in text.lower() or "empty" in text.lower() for text in found.warnings)
