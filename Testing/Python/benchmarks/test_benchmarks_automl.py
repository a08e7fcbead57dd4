"""The experiment with searches: what is reported of known trials, and that an interrupted campaign goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from search_toy import TRIAL

from benchmarks.automl import campaign, report
from benchmarks.automl.campaign import Campaign, Data, Scale
from benchmarks.automl.subjects import SUBJECTS, parts_of
from benchmarks.pairs import DATA
from hyperreg.automl import proposing
from hyperreg.automl.ledger import Ledger
from hyperreg.automl.predictor import BradleyTerry, PairTransformer, Ridge, TransformerSettings
from hyperreg.automl.space import LEARNING_RATES, Configuration, draw_random
from hyperreg.automl.trial import Measured
from hyperreg.errors import FileError
from hyperreg.imaging.volume import Volume

SCALE = Scale(steps=6, early_steps=2, random=24, candidates=40, trial=TRIAL)


def known(configuration: Configuration, seed: int = 0) -> Measured:
    """A larger learning rate is better, the seed counts for a hundredth."""
    score = 0.5 - 0.1 * LEARNING_RATES.index(configuration.learning_rate) + 0.01 * seed
    return Measured(6, score, score / 2, (score, 0.1), 2.0, False)


def fill(output: Path, count: int = 24) -> None:
    ledger = Ledger(output / "trials.journal")
    for number in range(count):
        configuration = draw_random(number)
        ledger.end(ledger.start(configuration, 0, "random", 6), known(configuration))
    for seed in (1, 2):
        ledger.end(ledger.start(draw_random(0), seed, "repeat", 6), known(draw_random(0), seed))


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers that learn for a moment: what they are worth is not what these tests are about."""
    few = TransformerSettings(width=8, heads=1, layers=1, epochs=1, pairs_per_epoch=64)
    monkeypatch.setattr(proposing, "PairTransformer", lambda **_: Ridge())
    quick = {"pair transformer": lambda: PairTransformer(few), "Bradley-Terry transformer": lambda: BradleyTerry(few)}
    monkeypatch.setattr(report, "PREDICTORS", {**report.PREDICTORS, **quick})


def test_the_report_says_what_was_measured(tmp_path: Path) -> None:
    fill(tmp_path)
    (tmp_path / "default.json").write_text(json.dumps([{"seed": 0, "score": 0.25, "dice": 0.1, "cpu_s": 3.0}]))
    text = report.write(tmp_path, tmp_path / "out", SCALE, SUBJECTS["brains"])
    # SD of a difference, from 0, .01, .02: .01 sqrt 2.
    assert "24 random configurations ended" in text and "in the seed alone 0.0141" in text
    assert "| random search | 24 | 48 | 0.5000 | 0.5000 |" in text
    # Three quarters are the search's own.
    assert "| search with predictor | 18 | 36 |" in text
    assert "0.2500 (one a seed)" in text
    rows = {line.split(" | ")[0].strip("| "): line for line in text.splitlines() if line.startswith("| ")}
    assert rows["majority"].split(" | ")[1].startswith("0.500 (0.500 to 0.500)")
    assert float(rows["learning rate alone (ridge)"].split(" | ")[1].split()[0]) > 0.95
    rate = [draw_random(n) for n in range(24)]
    assert f"| learning rate 0.01 | {sum(c.learning_rate == 0.01 for c in rate)} | 0.5000 |" in text
    assert len((tmp_path / "out" / "trials.csv").read_text(encoding="utf-8").splitlines()) == 27
    assert 5000 < (tmp_path / "out" / "automl.png").stat().st_size < 100_000
    with pytest.raises(FileError, match="no trials"):
        report.write(tmp_path / "out", tmp_path / "out", SCALE, SUBJECTS["brains"])


def test_parts_of_a_brain_are_made_of_manual_labels() -> None:
    manual = np.array([[[0, 4, 11, 23, 35, 44, 45, 101, 207, 69]]], np.uint8)
    parts = parts_of(Volume(manual, np.eye(4), "manual"))
    # Ventricles, accumbens, brain stem, white matter, cortex; 69 (optic chiasm) is no part.
    assert parts.array.ravel().tolist() == [0, 3, 3, 5, 6, 1, 1, 2, 2, 0] and parts.array.dtype == np.uint8


@pytest.mark.skipif(not DATA.is_dir(), reason="skipped: no real data")
def test_no_brain_that_is_tested_is_learned_from(tmp_path: Path) -> None:
    path, test = SUBJECTS["brains"].write(tmp_path)
    content = json.loads(path.read_text(encoding="utf-8"))
    names = [{Path(e["image"]).name.split("_")[0] for e in content[part]} for part in ("training", "validation")]
    names.append({name for name, _, _ in test})
    assert [len(found) for found in names] == [5, 3, 2] and len(set().union(*names)) == 10


@pytest.mark.skipif(not DATA.is_dir(), reason="skipped: no real data")
def test_an_organ_that_was_not_contoured_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}

    def prepared(task: object, cache: Path) -> SimpleNamespace:
        seen["task"] = task
        return SimpleNamespace(load=lambda: ([], []))

    monkeypatch.setattr(campaign.Task, "prepared", prepared)
    data = campaign.prepare(tmp_path, SUBJECTS["head-neck"], TRIAL)
    assert (len(data.task.training), len(data.task.held_out), len(data.test)) == (58, 6, 6)
    assert all(case.contoured == frozenset(range(1, 8)) for case in data.task.held_out)
    partly = {case.label.name: case.contoured for case in data.task.training if len(case.contoured or ()) < 7}
    assert partly["pt_160_labels.nii.gz"] == {1, 3, 4, 5, 6, 7}
    trained = {case.label.name for case in (*data.task.training, *data.task.held_out)}
    assert not trained & {label.name for _, _, label in data.test}


def test_a_campaign_goes_on_and_repeats_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Known:
        def __init__(self, configuration: Configuration, *_: object, **__: object) -> None:
            self.configuration = configuration

        def run_to(self, steps: int) -> Measured:
            return known(self.configuration)

    monkeypatch.setattr(campaign, "Trial", Known)
    none = Data(None, {}, [], [], [])  # type: ignore[arg-type]
    first = Campaign(tmp_path, SCALE, none, 0.0, lambda _text: None)
    assert not first.random_and_repeats() and first.ledger.records() == []
    said: list[str] = []
    later = Campaign(tmp_path, SCALE, none, float("inf"), said.append)
    assert later.random_and_repeats() and len(said) == 24 + 6
    assert later.guided() and len(said) == 36
    again = Campaign(tmp_path, SCALE, none, float("inf"), said.append)
    assert again.random_and_repeats() and again.guided() and len(said) == 36
    guided = [record for record in again.ledger.records() if record.source == "predictor"]
    assert len(guided) == 6 and not {record.configuration for record in guided} & SCALE.first
    # Better than what it learned from.
    mean = sum(record.score or 0 for record in guided) / 6
    assert mean > sum(known(c).score for c in SCALE.first) / 18
    assert again.tpe()
    spent = sum(t.user_attrs["cpu_s"] for t in campaign.tpe_study(tmp_path / "tpe.journal", SCALE).trials)
    assert 24 * 2 <= spent <= 24 * 2 + 2
