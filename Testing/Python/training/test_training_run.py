"""A whole run: what it writes, validation pairs that are never trained on, several devices, pairs made on a device."""

from __future__ import annotations

import builtins
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from training_toy import CONFIG, STAGE, write_config

from hyperreg.errors import FileError, InputError
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.model import load_model
from hyperreg.training import engine
from hyperreg.training.config import read_config
from hyperreg.training.engine import several_devices
from hyperreg.training.label_maps import random_shapes
from hyperreg.training.registration import Trainer, train
from hyperreg.training.synthesis import PairSynthesiser, Stage
from hyperreg.training.validation import validate, validation_pairs


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_writes_its_steps_its_validations_and_live_curves(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    folder = train(write_config(tmp_path, default_gamma=0.5))
    steps = lines(folder / "log.jsonl")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(0 <= line["lambda"] <= 1 and 0 <= line["gamma"] <= 1 for line in steps)
    assert all(line["seconds"] > 0 and line["waited"] > 0 for line in steps)
    validations = lines(folder / "validation.jsonl")
    assert [line["step"] for line in validations] == [2, 4]
    assert [row["lambda"] for row in validations[0]["rows"]] == [0.0, 1.0]
    assert {"dice", "dice_before", "error_voxels", "smoothness", "folding_percent"} <= set(validations[0]["rows"][0])
    events = EventAccumulator(str(folder / "curves"))
    events.Reload()
    assert [event.step for event in events.Scalars("training/loss")] == [1, 2, 3, 4]
    assert [event.step for event in events.Scalars("validation/dice/lambda 1")] == [2, 4]
    recipe = read_card(folder).card["recipe"]
    assert recipe["validation_last"] == validations[-1]["rows"]
    waited = 100 * sum(s["waited"] for s in steps) / sum(s["waited"] + s["seconds"] for s in steps)
    assert recipe["waited_for_pairs_percent"] == pytest.approx(waited, abs=0.1)


def test_without_tensorboard_a_run_goes_on_and_says_how_to_get_curves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real_import = builtins.__import__

    def without(name: str, *arguments: Any, **keywords: Any) -> Any:
        if name.startswith("torch.utils.tensorboard"):
            raise ImportError(name)
        return real_import(name, *arguments, **keywords)

    monkeypatch.setattr(builtins, "__import__", without)
    with caplog.at_level(logging.INFO):
        folder = train(write_config(tmp_path, steps=1))
    assert "hyperreg[train]" in caplog.text
    assert not (folder / "curves").exists() and len(lines(folder / "log.jsonl")) == 1


def test_validation_pairs_are_fixed_and_none_of_those_trained_on() -> None:
    stages = [Stage(2, (16, 16, 16), (3.0, 3.0)), Stage(9, (16, 24, 16), (3.0, 3.0))]
    shapes, others = (
        random_shapes(torch.Generator().manual_seed(seed), size=32, spacing=3.0, count=3) for seed in (1, 2)
    )
    pairs = PairSynthesiser([shapes], stages)
    held_out, again = validation_pairs(pairs, [others], 3), validation_pairs(pairs, [others], 3)
    assert all(torch.equal(a.images, b.images) for a, b in zip(held_out, again, strict=True))
    assert all(pair.images.shape[2:] == (16, 24, 16) for pair in held_out), "not of the last stage"
    trained = [pairs[number].images for number in range(2, 9)]
    assert not any(torch.equal(pair.images, images) for pair in held_out for images in trained)


def test_validation_measures_the_field_of_all_passes(tmp_path: Path) -> None:
    config = read_config(write_config(tmp_path, network={**CONFIG["network"], "passes": 2}))
    trainer = Trainer(config)
    pairs = [trainer.pairs[number] for number in range(3)]
    still = validate(trainer.model, pairs, [0.5])[0]
    assert still["dice"] == pytest.approx(still["dice_before"], abs=1e-3)
    assert still["error_voxels"] == pytest.approx(still["error_before_voxels"], rel=1e-2)
    torch.nn.init.normal_(list(trainer.model.hyper.backbone.parameters())[-2], 0, 0.3)
    moved = validate(trainer.model, pairs, [0.5])[0]
    assert moved["smoothness"] > 100 * still["smoothness"]


def test_pairs_can_be_made_where_the_network_trains(tmp_path: Path) -> None:
    synthesis = {**CONFIG["synthesis"], "on_device": True}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = write_config(tmp_path, synthesis=synthesis, device=device, steps=2)
    assert Trainer(read_config(config)).pairs[0].images.device.type == device
    assert len(lines(train(config) / "log.jsonl")) == 2
    with pytest.raises(InputError, match="workers"):
        read_config(write_config(tmp_path, synthesis=synthesis, workers=1))


def test_appearances_and_scales_are_read_from_the_configuration(tmp_path: Path) -> None:
    synthesis = {"shape_maps": 2, "shape_size": 48, "shape_scales": [[4, 8], [16]], "stages": [STAGE]}
    trainer = Trainer(read_config(write_config(tmp_path, synthesis={**synthesis, "look": {"cropped": 1.0}})))
    assert trainer.pairs.look.cropped == 1.0 and trainer.pairs.look.noise == 0.04
    fine, coarse = (int((m.labels[1:] != m.labels[:-1]).sum()) for m in trainer.pairs.maps)
    assert fine > 1.3 * coarse, "the maps have one scale"
    with pytest.raises(InputError, match="nois"):
        read_config(write_config(tmp_path, synthesis={**synthesis, "look": {"nois": 1.0}}))


def test_a_second_run_in_the_same_folder_is_refused_before_it_starts(tmp_path: Path) -> None:
    folder = train(write_config(tmp_path, steps=1))
    before = (folder / "weights.safetensors").read_bytes()
    with pytest.raises(FileError, match="--resume"):
        train(tmp_path / "toy.yaml")
    assert (folder / "weights.safetensors").read_bytes() == before


def test_a_run_ends_with_its_minutes_and_the_learning_rate_falls_with_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_config(tmp_path, steps=1000, minutes=1, warm_up=1)
    trainer = Trainer(read_config(path))
    trainer.step = 1
    rates = []
    for trainer.seconds in (0.0, 15.0, 45.0, 60.0, 90.0):
        rates.append(trainer.learning_rate() / trainer.config.learning_rate)
    assert rates == pytest.approx([1, 0.855, 0.155, 0.01, 0.01], abs=2e-3) and trainer.over

    step = Trainer.train_step

    def slow(self: Trainer, *arguments: Any) -> dict[str, float]:
        found = step(self, *arguments)
        self.seconds = 25.0 * self.step
        return found

    monkeypatch.setattr(Trainer, "train_step", slow)
    folder = train(path)
    assert [line["step"] for line in lines(folder / "log.jsonl")] == [1, 2, 3]
    assert read_card(folder).name == "toy" and (folder / "weights.safetensors").exists()
    train(path, resume=True)
    assert len(lines(folder / "log.jsonl")) == 3, "a run that is over went on"
    with pytest.raises(InputError, match="leave minutes out"):
        read_config(write_config(tmp_path / "many", devices=2, minutes=1))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_run_for_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="GPU"):
        train(write_config(tmp_path, device="cuda"))


def test_several_devices_without_the_engine_say_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "lightning_fabric", None)
    with pytest.raises(InputError, match=r"hyperreg\[train\]"):
        several_devices(read_config(write_config(tmp_path, devices=2)))


@pytest.mark.slow
def test_two_devices_learn_from_different_pairs_and_stay_one_model(tmp_path: Path) -> None:
    """Two processes on the CPU: their gradients are averaged, so the result is that of both pairs, on both."""
    changes = {"steps": 1, "warm_up": 0, "validation": {"pairs": 0}, "averaging": 0.0, "later_pass": 0.0}
    found = load_model(read_card(train(write_config(tmp_path / "two", devices=2, **changes))))
    trainer = Trainer(read_config(write_config(tmp_path / "one", **changes)))
    total = [torch.zeros_like(p) for p in trainer.trained]
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        values = trainer.draw_values(generator)
        trainer.optimiser.zero_grad()
        trainer.objective(trainer.pairs[number], values)[0].backward()
        total = [gradient + p.grad / 2 for gradient, p in zip(total, trainer.trained, strict=True)]
    for gradient, parameter in zip(total, trainer.trained, strict=True):
        parameter.grad = gradient
    torch.nn.utils.clip_grad_norm_(trainer.trained, 1.0)
    trainer.optimiser.step()
    expected = trainer.model.state_dict()
    for name, value in found.state_dict().items():
        assert torch.allclose(value, expected[name], atol=2e-3), name
    assert len(lines(tmp_path / "two" / "run" / "log.jsonl")) == 1, "only the first process writes"


def test_a_gradient_that_is_no_number_changes_nothing_and_many_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = Trainer(read_config(write_config(tmp_path)))
    pair, real = trainer.pairs[0], Trainer.losses
    trainer.train_step(pair)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}

    def no_number(self: Trainer, *given: Any) -> Any:
        loss, *others = real(self, *given)
        return loss * float("nan"), *others

    monkeypatch.setattr(Trainer, "losses", no_number)
    monkeypatch.setattr(engine, "DIVERGED", 3)
    for _ in range(2):
        trainer.train_step(pair)
    assert all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    monkeypatch.setattr(Trainer, "losses", real)
    trainer.train_step(pair)
    assert trainer.step == 4
    assert not all(torch.equal(value, before[name]) for name, value in trainer.model.state_dict().items())
    monkeypatch.setattr(Trainer, "losses", no_number)
    with pytest.raises(InputError, match="Lower the learning rate"):
        for _ in range(3):
            trainer.train_step(pair)
