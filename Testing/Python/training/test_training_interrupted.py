"""Trainings that were killed, at any moment, go on; checkpoints of other runs are refused, naming what differs."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from segmentation_toy import write_config
from training_toy import write_config as write_registration_config

from hyperreg.errors import FileError, InputError
from hyperreg.segmentation.catalogue import read_card
from hyperreg.training import registration
from hyperreg.training.segmentation import SegmentationTrainer, train
from hyperreg.training.segmentation_config import read_segmentation_config


def make_trainer(folder: Path, **changes: object) -> SegmentationTrainer:
    return SegmentationTrainer(read_segmentation_config(write_config(folder, **changes)))


def test_a_killed_process_goes_on_from_its_last_checkpoint(tmp_path: Path, repository: Path) -> None:
    path = write_config(tmp_path, steps=100_000, checkpoint_every=1, validation={"cases": 0})
    environment = {**os.environ, "PYTHONPATH": str(repository)}
    command = [sys.executable, "-m", "hyperreg.cli", "train", "segmentation", "--config", str(path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "run" / "checkpoint.pt").exists() and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    trainer = make_trainer(tmp_path, steps=100_000, validation={"cases": 0})
    trainer.load()
    assert trainer.step >= 1
    write_config(tmp_path, steps=trainer.step + 2, checkpoint_every=1, validation={"cases": 0})
    card = read_card(train(path, resume=True))
    assert card.card["recipe"]["steps_done"] == trainer.step + 2
    card.check_weights()


def test_a_checkpoint_that_breaks_off_leaves_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make_trainer(tmp_path)
    trainer.config.output.mkdir()
    trainer.train_step(trainer.samples[0])
    trainer.save()
    trainer.train_step(trainer.samples[1])

    def broken(_state: Any, target: Path) -> None:
        target.write_bytes(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        trainer.save()
    again = make_trainer(tmp_path)
    again.load()
    assert again.step == 1


def test_a_run_without_a_checkpoint_cannot_go_on(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"no checkpoint .* start without --resume"):
        train(write_config(tmp_path), resume=True)


STRUCTURE = {"label": 1, "name": "All", "colour": [1, 2, 3], "numbers": [2, 10, 17]}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"structures": [STRUCTURE]}, "structures differ"),
        (
            {"network": {"name": "segresnet", "options": {"filters": 8, "blocks_down": [1, 1], "blocks_up": [1]}}},
            "network",
        ),
        ({"seed": 9}, "seed differ"),
        ({"vae": None}, "vae differ"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused(tmp_path: Path, changes: dict, words: str) -> None:
    trainer = make_trainer(tmp_path)
    trainer.config.output.mkdir()
    trainer.save()
    with pytest.raises(InputError, match=f"is of another configuration: .*{words}"):
        train(write_config(tmp_path, **changes), resume=True)


def test_a_later_stage_of_the_same_run_is_not_another_one(tmp_path: Path) -> None:
    train(write_config(tmp_path))
    card = read_card(train(write_config(tmp_path, steps=5, learning_rate=0.001), resume=True))
    assert card.card["recipe"]["steps_done"] == 5


def test_the_same_holds_for_registration(tmp_path: Path) -> None:
    registration.train(write_registration_config(tmp_path, steps=2, validation={"pairs": 0}))
    with pytest.raises(InputError, match="seed differ"):
        registration.train(write_registration_config(tmp_path, steps=3, seed=4, validation={"pairs": 0}), resume=True)
