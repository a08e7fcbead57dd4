"""The search as a whole, on a toy: ends with a model, resumes, refuses what cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from filelock import FileLock
from search_toy import settings, write_cases
from typer.testing import CliRunner

from hyperreg.automl import search as searching
from hyperreg.automl.ledger import Ledger, Record, best
from hyperreg.automl.running import Job, Outcome, Place
from hyperreg.automl.search import search
from hyperreg.automl.settings import SETTINGS
from hyperreg.automl.space import draw_random
from hyperreg.automl.trial import Measured
from hyperreg.catalogue import MODELS_VARIABLE
from hyperreg.cli.app import app
from hyperreg.cli.search import seconds, three_sizes, whole_numbers
from hyperreg.errors import Cancelled, FileError, InputError
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.output import LOCK
from hyperreg.reporting import Cancel
from hyperreg.segmentation.catalogue import list_models, read_card
from hyperreg.segmentation.session import Segmenter


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cases(tmp_path_factory.mktemp("cases"))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials whose score is known without training: the more blocks, the better."""

    def run(self: Place, job: Job, device: str, cancelled: Cancel | None = None) -> Outcome:
        score = len(job.configuration.blocks) / 20 + job.steps / 1000
        return Outcome(Measured(job.steps, score, score / 2, (score, 0.0), 0.01 * job.steps, False))

    monkeypatch.setattr(Place, "run", run)


def test_the_command_ends_with_a_model_that_segments(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    out = tmp_path / "run"
    arguments = [
        "search", "--data", str(data), "--name", "toy-search", "--budget", "10h", "--out", str(out), "--rungs", "2,4",
        "--first", "2", "--each", "1", "--rounds", "0", "--final", "0",
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
        search(settings(data), out, progress=third, cancelled=lambda: len(told) > 1)
    before = Ledger(out / searching.JOURNAL).records()
    assert len(before) == 1
    found = search(settings(data), out, resume=True, progress=third)
    after = Ledger(out / searching.JOURNAL).records()
    assert after[:1] == before
    assert len({(record.key, record.steps) for record in after}) == len(after)
    assert found.best.steps == 4 and found.seconds > 0
    assert read_card(out / "model").sha256 == found.card.sha256


def test_halving_keeps_the_best_and_the_predictor_proposes_more(data: Path, tmp_path: Path, quick: None) -> None:
    rounds = settings(data, first=8, each=4, rungs=(2, 4, 8), reduction=2, repeats=2)
    found = search(rounds, tmp_path / "run")
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
        search(settings(data), tmp_path / "file" / "run")
    search(settings(data, rounds=0), tmp_path / "run")
    (tmp_path / "run" / searching.STATE).write_text("[", encoding="utf-8")
    with pytest.raises(FileError, match="delete it"):
        search(settings(data, rounds=0), tmp_path / "run", resume=True)


def test_two_processes_find_what_one_finds(data: Path, tmp_path: Path) -> None:
    short = {"rungs": (2,), "rounds": 0}
    one = search(settings(data, **short), tmp_path / "one")
    two = search(settings(data, **short, devices=("cpu", "cpu")), tmp_path / "two")
    scores = [
        {(r.key, r.steps): r.score for r in Ledger(tmp_path / name / searching.JOURNAL).records()}
        for name in ("one", "two")
    ]
    shared = scores[0].keys() & scores[1].keys()
    assert shared
    for key in shared:
        assert scores[0][key] == pytest.approx(scores[1][key], rel=1e-3)
    assert one.card.name == two.card.name


def test_a_budget_too_small_for_one_trial_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not suffice for one trial"):
        search(settings(data, budget_s=0.05, rungs=(5000, 10000)), tmp_path / "run")
    assert not (tmp_path / "run" / "model").exists()


def test_every_trial_fails(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Place, "run", lambda *_: Outcome(None, "out of memory"))
    with pytest.raises(InputError, match=r"Every trial failed \(2 of them\): out of memory"):
        search(settings(data), tmp_path / "run")
    records = Ledger(tmp_path / "run" / searching.JOURNAL).records()
    # Out of memory is no accuracy of 0.
    assert [(record.score, record.reason) for record in records] == [(None, "out of memory")] * 2


def test_what_does_not_fit_into_memory_is_not_tried(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "MOST_REJECTED", 5)
    with pytest.raises(InputError, match=r"None of 5 random networks in a row fits into 0\.00 GB"):
        search(settings(data, memory_gb=1e-5), tmp_path / "run")
    assert Ledger(tmp_path / "run" / searching.JOURNAL).records() == []


def test_memory_that_runs_out_is_a_failed_trial(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hyperreg.automl.trial import Trial

    def full(*_: object) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")

    training, held_out = searching.read_task(data, "toy", (32, 32, 32)).prepared(tmp_path / "cache")
    place = Place(training, held_out, settings(data).trial, tmp_path)
    monkeypatch.setattr(Trial, "run_to", full)
    assert place.run(Job(draw_random(0), 0, 2), "cpu") == Outcome(None, "out of memory")


def test_two_drivers_on_one_folder(data: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / LOCK), pytest.raises(InputError, match="Another run works in"):
        search(settings(data), tmp_path / "run")


def test_a_full_disk_is_told_and_the_search_goes_on_later(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    saved = torch.save

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FileError, match="No space left on device"):
        search(settings(data), tmp_path / "run")
    assert not list((tmp_path / "run").glob("trials/*"))
    monkeypatch.setattr(torch, "save", saved)
    assert search(settings(data), tmp_path / "run", resume=True).best.steps in (2, 4)


def test_other_settings_do_not_go_on_with_a_search(data: Path, tmp_path: Path, quick: None) -> None:
    out = tmp_path / "run"
    with pytest.raises(FileError, match="no search in"):
        search(settings(data), out, resume=True)
    search(settings(data), out)
    with pytest.raises(InputError, match="other settings: seed"):
        search(settings(data, seed=5), out, resume=True)
    (out / SETTINGS).write_text("{", encoding="utf-8")
    with pytest.raises(FileError, match="cannot be read"):
        search(settings(data), out, resume=True)


def test_a_name_that_is_taken_is_known_before_the_search(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MODELS_VARIABLE, str(tmp_path / "models"))
    with pytest.raises(InputError, match="brain-anatomy"):
        search(settings(data, name="brain-anatomy"), tmp_path / "run", catalogue=tmp_path / "models")
    assert not (tmp_path / "run" / searching.JOURNAL).exists()


@pytest.mark.parametrize(
    "changes", [{"rungs": ()}, {"rungs": (4, 2)}, {"first": 1}, {"budget_s": -1.0}, {"final": 1.0}, {"devices": ()}]
)
def test_settings_that_make_no_search_are_refused(data: Path, tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(InputError, match=r"Give|Name"):
        search(settings(data, **changes), tmp_path / "run")


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
    search(settings(data), tmp_path / "run")
    for line in (tmp_path / "run" / searching.JOURNAL).read_text(encoding="utf-8").splitlines():
        json.loads(line)
    shutil.rmtree(tmp_path / "run")


def test_records_of_one_trial_share_a_key() -> None:
    configuration = draw_random(0)
    keys = {Record(configuration, 0, source, steps, 0.1).key for source in ("a", "b") for steps in (1, 2)}
    assert len(keys) == 1 and Record(configuration, 1, "a", 1, 0.1).key not in keys
