"""The search as a whole, on a toy: ends with a model, resumes, refuses what cannot be."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from search_toy import HERE, TRIAL, settings, write_cases
from typer.testing import CliRunner

from hyperreg.automl import search as searching
from hyperreg.automl.ledger import Ledger, Record, best
from hyperreg.automl.running import Outcome, TrialTask, run_trial
from hyperreg.automl.search import search
from hyperreg.automl.settings import SETTINGS
from hyperreg.automl.space import draw_random
from hyperreg.automl.trial import Measured
from hyperreg.catalogue import MODELS_VARIABLE
from hyperreg.cli.app import app
from hyperreg.cli.search import seconds, three_sizes, whole_numbers
from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.execution.executors import mark
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.output import LOCK
from hyperreg.reporting import Cancel, Progress
from hyperreg.segmentation.catalogue import list_models, read_card
from hyperreg.segmentation.session import Segmenter


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials whose score is known without training: the more blocks, the better."""

    def run(task: TrialTask, _progress: Progress, _cancelled: Cancel | None) -> Outcome:
        score = len(task.configuration.blocks) / 20 + task.steps / 1000
        return Outcome(Measured(task.steps, score, score / 2, (score, 0.0), 0.01 * task.steps, False))

    monkeypatch.setattr(searching, "run_trial", run)


def test_the_command_ends_with_a_model_that_segments(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    out = tmp_path / "run"
    arguments = [
        "search", "--data", str(data), "--name", "toy-search", "--budget", "10h", "--out", str(out), "--rungs", "2,4",
        "--first", "2", "--each", "1", "--rounds", "0", "--final", "0", "--jobs", "1", "--device", "cpu",
        "--patch", "16,16,16", "--window", "32,32,32", "--batch", "1", "--width", "4",
    ]  # fmt: skip
    found = CliRunner().invoke(app, arguments)
    assert found.exit_code == 0, found.output
    assert "The model 'toy-search' is in" in found.output
    card = next(card for card in list_models() if card.name == "toy-search")
    assert card.network["name"] == "searched" and card.folder.parent == tmp_path / "models"
    image = read_volume(data.parent / "case0.nii.gz")
    result = Segmenter(card, "cpu").segment({"image": image})
    assert result.labels.grid.matches(read_label_map(data.parent / "case0_labels.nii.gz").grid)
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "toy-search" in page and page.count("data:image/png") >= 2 and "http" not in page
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 3 and "--resume" in again.output


def test_a_search_that_was_cancelled_goes_on_and_repeats_nothing(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    told: list[str] = []

    def third(_fraction: float, text: str) -> None:
        if "steps" in text:
            told.append(text)

    with pytest.raises(Cancelled):
        search(settings(data), out, HERE, progress=third, cancelled=lambda: len(told) > 1)
    before = Ledger(out / searching.JOURNAL).records()
    assert len(before) == 1
    found = search(settings(data), out, HERE, resume=True, progress=third)
    after = Ledger(out / searching.JOURNAL).records()
    assert after[:1] == before
    assert len({(record.key, record.steps) for record in after}) == len(after)
    assert found.best.steps == 4 and found.seconds > 0
    assert read_card(out / "model").sha256 == found.card.sha256


def test_halving_keeps_the_best_and_the_predictor_proposes_more(data: Path, tmp_path: Path, quick: None) -> None:
    rounds = settings(data, first=8, each=4, rungs=(2, 4, 8), reduction=2, repeats=2)
    found = search(rounds, tmp_path / "run", HERE)
    records = Ledger(tmp_path / "run" / searching.JOURNAL).records()
    random = [record for record in records if record.source == "random"]
    assert [sum(r.steps == steps for r in random) for steps in (2, 4, 8)] == [8, 4, 2]
    first = {r.key: r.score or 0 for r in random if r.steps == 2}
    went_on = {r.key for r in random if r.steps == 4}
    assert min(first[key] for key in went_on) >= max(first[key] for key in first.keys() - went_on)
    proposed = [record for record in records if record.source == "round 1" and record.steps == 2]
    assert len(proposed) == 4
    assert not {r.configuration for r in proposed} & {r.configuration for r in random}
    # What it learned (more blocks are better) shows in what it proposes.
    mean = sum(len(r.configuration.blocks) for r in proposed) / 4
    assert mean > sum(len(r.configuration.blocks) for r in random if r.steps == 2) / 8
    assert found.best == best(records, 8)
    again = [record for record in records if record.source == "repeat"]
    assert [(r.seed, r.steps) for r in again] == [(1, 2)] * 2
    assert [r.configuration for r in again] == [r.configuration for r in random[:2]]


def test_a_place_that_cannot_be_written_and_a_damaged_clock_are_told(data: Path, tmp_path: Path, quick: None) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be made"):
        search(settings(data), tmp_path / "file" / "run", HERE)
    search(settings(data, rounds=0), tmp_path / "run", HERE)
    (tmp_path / "run" / searching.STATE).write_text("[", encoding="utf-8")
    with pytest.raises(FileError, match="delete it"):
        search(settings(data, rounds=0), tmp_path / "run", HERE, resume=True)


def trial_task(data: Path, folder: Path, **changes: Any) -> TrialTask:
    """A trial of a few steps in a folder of a search."""
    (folder / "trials").mkdir(exist_ok=True)
    cases = searching.read_task(data, "toy", TRIAL.window).prepared(folder / "cache")
    task = TrialTask(draw_random(4), 1, 4, cases, TRIAL, folder, mark(folder), "cpu")
    return replace(task, **changes)


def run(task: TrialTask) -> Measured:
    measured = run_trial(task, lambda *_told: None, None).measured
    assert measured is not None
    return replace(measured, cpu_s=0.0)


def test_a_trial_that_is_done_twice_leaves_what_one_alone_would(data: Path, tmp_path: Path) -> None:
    """Its result was lost; its checkpoint; or a search is begun anew beside checkpoints that are further."""
    first, further = trial_task(data, tmp_path), trial_task(data, tmp_path, steps=8)
    alone = run(first)
    assert run(first) == alone
    later = run(further)
    assert run(first) == alone
    assert run(further) == later
    first.checkpoint.unlink()
    assert run(further) == later


def test_a_machine_that_does_not_see_the_folder_says_so(data: Path, tmp_path: Path) -> None:
    task = trial_task(data, tmp_path, mark="another disk")
    with pytest.raises(FileError, match="does not see the folder"):
        run(task)


def test_a_budget_too_small_for_one_trial_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not suffice for one trial"):
        search(settings(data, budget_s=0.05, rungs=(5000, 10000)), tmp_path / "run", HERE)
    assert not (tmp_path / "run" / "model").exists()


def test_every_trial_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "run_trial", lambda *_: Outcome(None, "out of memory"))
    with pytest.raises(InputError, match=r"Every trial failed \(2 of them\): out of memory"):
        search(settings(data), tmp_path / "run", HERE)
    records = Ledger(tmp_path / "run" / searching.JOURNAL).records()
    # Out of memory is no accuracy of 0.
    assert [(record.score, record.reason) for record in records] == [(None, "out of memory")] * 2


def test_what_does_not_fit_into_memory_is_not_tried(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "MOST_REJECTED", 5)
    with pytest.raises(InputError, match=r"None of 5 random networks in a row fits into 0\.00 GB"):
        search(settings(data, memory_gb=1e-5), tmp_path / "run", HERE)
    assert Ledger(tmp_path / "run" / searching.JOURNAL).records() == []


def test_a_search_goes_on_with_the_memory_it_began_with(
    data: Path, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what is free on another day, or on a machine shared otherwise, other networks would be drawn."""
    free = [1e12]
    monkeypatch.setattr(searching, "free_memory", lambda *_: free[0])
    search(settings(data, rounds=0), tmp_path / "run", HERE)
    before = Ledger(tmp_path / "run" / searching.JOURNAL).records()
    free[0] = 1.0
    search(settings(data, rounds=0), tmp_path / "run", HERE, resume=True)
    assert Ledger(tmp_path / "run" / searching.JOURNAL).records() == before
    with pytest.raises(InputError, match="random networks in a row fits"):
        search(settings(data, rounds=0, memory_gb=1e-5), tmp_path / "run", HERE, resume=True)


def test_memory_that_runs_out_is_a_failed_trial(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperreg.automl.trial import Trial

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    monkeypatch.setattr(Trial, "run_to", full)
    assert run_trial(trial_task(data, tmp_path), lambda *_told: None, None) == Outcome(None, "out of memory")


def test_two_drivers_on_one_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / LOCK), pytest.raises(InputError, match="Another run works in"):
        search(settings(data), tmp_path / "run", HERE)


def test_a_full_disk_is_told_and_the_search_goes_on_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    saved = torch.save

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match="No space left on device"):
        search(settings(data), tmp_path / "run", HERE)
    assert not list((tmp_path / "run").glob("trials/*"))
    monkeypatch.setattr(torch, "save", saved)
    assert search(settings(data), tmp_path / "run", HERE, resume=True).best.steps in (2, 4)


def test_other_settings_do_not_go_on_with_a_search(data: Path, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "run"
    with pytest.raises(FileError, match="no search in"):
        search(settings(data), out, HERE, resume=True)
    search(settings(data), out, HERE)
    with pytest.raises(InputError, match="other settings: seed"):
        search(settings(data, seed=5), out, HERE, resume=True)
    (out / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be read"):
        search(settings(data), out, HERE, resume=True)


def test_a_name_that_is_taken_is_known_before_the_search(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    with pytest.raises(InputError, match="brain-anatomy"):
        search(settings(data, name="brain-anatomy"), tmp_path / "run", HERE, catalogue=tmp_path / "models")
    assert not (tmp_path / "run" / searching.JOURNAL).exists()


@pytest.mark.parametrize(
    "changes", [{"rungs": ()}, {"rungs": (4, 2)}, {"first": 1}, {"budget_s": -1.0}, {"final": 1.0}]
)
def test_settings_that_make_no_search_are_refused(data: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match="Give"):
        search(settings(data, **changes), tmp_path / "run", HERE)


def test_a_run_that_broke_off_is_no_record(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "trials.journal")
    configuration = draw_random(3)
    done = ledger.start(configuration, 0, "random", 10)
    ledger.end(done, Measured(10, 0.3, 0.2, (0.2, float("nan")), 4.0, True))
    ledger.fail(ledger.start(configuration, 1, "random", 10), "out of memory")
    ledger.start(configuration, 2, "random", 10)
    records = Ledger(tmp_path / "trials.journal").records()
    assert [(r.seed, r.score, r.reason) for r in records] == [(0, 0.3, "diverged"), (1, None, "out of memory")]
    assert records[0].by_class[0] == 0.2 and records[0].by_class[1] != records[0].by_class[1]
    assert records[0].configuration == configuration
    (tmp_path / "bad.journal").write_text("no journal\n", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be used"):
        Ledger(tmp_path / "bad.journal")


@pytest.mark.parametrize("score", [0.25, math.nan])
def test_a_driver_that_is_killed_while_it_notes_a_score_loses_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float
) -> None:
    class Killed(BaseException):
        pass

    def kill(*_told: object, **_more: object) -> None:
        raise Killed

    ledger = Ledger(tmp_path / "trials.journal")
    number = ledger.start(draw_random(0), 0, "random", 6)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(ledger._study, "tell", kill)
        ledger.end(number, Measured(6, score, 0.1, (0.1, 0.1), 2.0, False))
    (record,) = Ledger(tmp_path / "trials.journal").records()
    assert record.score == (None if math.isnan(score) else score)
    assert record.dice == 0.1


def test_options_of_the_command_are_read_or_refused() -> None:
    assert [seconds(text) for text in ("90s", "45m", "8h", "2d", "1.5h")] == [90, 2700, 28800, 172800, 5400]
    assert whole_numbers("64,32, 8") == (64, 32, 8) and three_sizes("1,1,2.5") == (1, 1, 2.5)
    for call, text in (
        (seconds, "8"),
        (seconds, "0h"),
        (whole_numbers, "a"),
        (whole_numbers, "0,1"),
        (three_sizes, "1,2"),
    ):
        with pytest.raises(InputError):
            call(text)


def test_the_journal_is_of_plain_text(data: Path, tmp_path: Path, quick: None) -> None:
    """No pickles: whoever opens a search of somebody else's runs no code of theirs."""
    search(settings(data), tmp_path / "run", HERE)
    for line in (tmp_path / "run" / searching.JOURNAL).read_text(encoding="utf-8").splitlines():
        json.loads(line)
    shutil.rmtree(tmp_path / "run")


def test_records_of_one_trial_share_a_key() -> None:
    configuration = draw_random(0)
    keys = {Record(configuration, 0, source, steps, 0.1).key for source in ("a", "b") for steps in (1, 2)}
    assert len(keys) == 1 and Record(configuration, 1, "a", 1, 0.1).key not in keys
