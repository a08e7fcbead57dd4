"""Synthesis and training at toy size: what is drawn, learning lowers the loss, a run can be resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from training_toy import STAGE, write_config

from hyperreg.errors import FileError, InputError
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.model import load_model
from hyperreg.training.config import read_config
from hyperreg.training.objective import draw_value
from hyperreg.training.registration import Trainer, train


def test_lambda_is_drawn_over_the_whole_range_and_more_often_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([draw_value(0.2, generator) for _ in range(4000)])
    assert 0.08 < np.mean(drawn == 0) < 0.12 and 0.08 < np.mean(drawn == 1) < 0.12
    assert np.histogram(drawn[(drawn > 0) & (drawn < 1)], bins=5, range=(0, 1))[0].min() > 500


def test_learning_one_pair_lowers_its_loss(tmp_path: Path) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, learning_rate=0.003)))
    pair = trainer.pairs[0]
    with torch.no_grad():
        first, figures = trainer.objective(pair, [0.1])
    for _ in range(40):
        loss, _ = trainer.objective(pair, [0.1])
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
    with torch.no_grad():
        last, after = trainer.objective(pair, [0.1])
    assert float(last) < 0.95 * float(first)
    assert float(after["error_voxels"]) < 0.9 * float(figures["error_voxels"])


def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    whole.mkdir()
    halves.mkdir()
    train(write_config(whole))
    trainer = Trainer(read_config(write_config(halves)))
    trainer.config.output.mkdir()
    trainer.train_step(trainer.pairs[0])
    trainer.train_step(trainer.pairs[1])
    trainer.save()
    train(halves / "toy.yaml", resume=True)
    expected, resumed = (load_model(read_card(folder / "run")) for folder in (whole, halves))
    for name, value in expected.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def test_the_card_says_how_the_model_was_made_and_names_no_folder(tmp_path: Path) -> None:
    train(write_config(tmp_path))
    card = json.loads((tmp_path / "run" / "card.json").read_text(encoding="utf-8"))
    assert card["recipe"]["steps_done"] == 4 and card["seed"] == 0
    assert card["recipe"]["learning_rate"] == 0.01
    assert str(tmp_path) not in json.dumps(card)
    assert [json.loads(line)["step"] for line in (tmp_path / "run" / "log.jsonl").open(encoding="utf-8")] == [
        1,
        2,
        3,
        4,
    ]


def test_wrong_configurations_and_a_run_that_exists_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="steps"):
        read_config(write_config(tmp_path, steps=0))
    with pytest.raises(InputError, match="nothing to train on"):
        Trainer(read_config(write_config(tmp_path, synthesis={"shape_maps": 0, "stages": [STAGE]})))
    with pytest.raises(FileError, match="cannot be read"):
        train(tmp_path / "absent.yaml")
    train(write_config(tmp_path))
    with pytest.raises(FileError, match="--resume"):
        train(tmp_path / "toy.yaml")
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"not a checkpoint")
    with pytest.raises(FileError, match="Cannot continue"):
        train(tmp_path / "toy.yaml", resume=True)
