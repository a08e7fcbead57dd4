"""Training of segmentation models: what is learned, AH-Net's phases, the files of a run, and that its model runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from cli_pair import run
from imaging_examples import oblique_grid, scene
from safetensors.torch import load_file
from segmentation_toy import AHNET, CASCADE, write_config

from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError, InputError, WeightsError
from hyperreg.imaging.files import read_label_map, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.nets.cascade import Cascade
from hyperreg.nets.segresnet import SegResNetVAE
from hyperreg.segmentation.catalogue import Postprocessing, read_card
from hyperreg.segmentation.model import load_model
from hyperreg.segmentation.session import Segmenter
from hyperreg.training.segmentation import SegmentationTrainer, train
from hyperreg.training.segmentation_config import SegmentationConfig, read_segmentation_config
from hyperreg.training.segmentation_models import kept_network, trained_network

UNET = {
    "network": {"name": "monai_unet", "options": {"channels": [4, 8], "strides": [2], "num_res_units": 1}},
    "vae": None,
}
NETWORKS: dict[str, dict[str, Any]] = {
    "segresnet": {}, "plain": {"vae": None}, "cascade": CASCADE, "ahnet": AHNET, "unet": UNET,
}  # fmt: skip


def make_trainer(folder: Path, **changes: object) -> SegmentationTrainer:
    return SegmentationTrainer(read_segmentation_config(write_config(folder, **changes)))


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_goes_on_from_a_model_that_does_not_tell_left_from_right(tmp_path: Path) -> None:
    first = train(write_config(tmp_path / "one", **UNET))
    options = {"channels": [0, 1, 2, 2], "network": UNET["network"], "side": UNET["network"]}
    network = {"name": "sided", "options": options}
    base = {"colour": [1, 2, 3], "terminology": None}
    structures = [
        {**base, "label": 1, "name": "White matter", "numbers": [2]},
        {**base, "label": 2, "name": "Left deep grey", "numbers": [10, 17], "side": "left"},
        {**base, "label": 3, "name": "Right deep grey", "numbers": [10, 17], "side": "right"},
    ]
    changes = {"vae": None, "network": network, "structures": structures}
    trainer = make_trainer(tmp_path / "two", start_from=str(first), **changes)
    side = next(trainer.model.side.parameters()).detach().clone()
    trainer.train_step(trainer.samples[0])
    assert not torch.equal(side, next(trainer.model.side.parameters()))
    image = torch.rand(1, 1, 16, 16, 16)
    with torch.inference_mode():
        before = load_model(read_card(first))(image).softmax(1)
        found = trainer.model.eval()(image).softmax(1)
    # The side is learned; what structure it is, is left as it was.
    torch.testing.assert_close(found[:, :2], before[:, :2], atol=2e-3, rtol=0)
    torch.testing.assert_close(found[:, 2] + found[:, 3], before[:, 2], atol=2e-3, rtol=0)
    folder = train(write_config(tmp_path / "three", start_from=str(first), **changes))
    assert [one.name for one in read_card(folder).structures] == ["White matter", "Left deep grey", "Right deep grey"]
    with pytest.raises(WeightsError, match="another network"):
        make_trainer(tmp_path / "five", start_from=str(train(write_config(tmp_path / "r"))), **changes)


def test_sides_are_not_learned_from_a_map_that_has_none(tmp_path: Path) -> None:
    path = write_config(tmp_path, vae=None)
    labels = read_label_map(tmp_path / "labels.nii.gz")
    both = np.select([labels.array == number for number in (41, 49, 53)], [2, 10, 17], labels.array)
    write_volume(Volume(both.astype(np.int16), labels.ijk_to_ras), tmp_path / "labels.nii.gz")
    config = read_segmentation_config(path)
    config.structures[1].side = "left"
    with pytest.raises(InputError, match="does not tell left from right"):
        SegmentationTrainer(config)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_run_writes_a_model_that_segments(tmp_path: Path, kind: str) -> None:
    folder = train(write_config(tmp_path, **NETWORKS[kind]))
    steps = lines(folder / "log.jsonl")
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    assert all(np.isfinite(line["loss"]) and line["dice_loss"] > 0 for line in steps)
    assert ("kl" in steps[0], "first_kl" in steps[0]) == (kind in ("segresnet", "cascade"), kind == "cascade")
    assert [line["step"] for line in lines(folder / "validation.jsonl")] == [2, 4]
    card = read_card(folder)
    assert [(s.label, s.channel, s.name) for s in card.structures] == [(41, 1, "White matter"), (7, 2, "Deep grey")]
    assert not any(name.startswith("vae_") or ".vae_" in name for name in load_file(card.weights))
    recipe = card.card["recipe"]
    assert recipe["synthesis"]["label_maps"] == ["labels.nii.gz"]
    assert recipe["steps_done"] == 4
    assert {"dice", "dice White matter", "dice Deep grey"} <= set(recipe["validation_last"][0])
    assert str(tmp_path) not in json.dumps(card.card)
    grid = oblique_grid((20, 18, 9), (1.5, 2.0, 3.0))
    found = Segmenter(card, "cpu").segment({"image": scene(grid)})
    assert found.labels.grid.matches(grid)
    assert set(np.unique(found.labels.array)) <= {0, 7, 41}


def test_the_card_declares_the_islands_that_the_configuration_names(tmp_path: Path) -> None:
    rule = {"keep": "largest", "bridge_mm": 12, "share": 0.2}
    card = read_card(train(write_config(tmp_path / "one", steps=1, postprocessing=rule, validation={"cases": 0})))
    assert card.postprocessing == Postprocessing("largest", 12.0, 0.2, 5.0)
    for wrong in ({"keep": "some"}, {"share": 2}, {"size_mm": 3}):
        with pytest.raises(InputError):
            read_segmentation_config(write_config(tmp_path / "two", postprocessing=wrong))


def test_a_run_starts_from_a_model(tmp_path: Path) -> None:
    first = train(write_config(tmp_path / "one"))
    trainer = make_trainer(tmp_path / "two", start_from=str(first), seed=5)
    taken, saved = kept_network(trainer.model).state_dict(), load_file(first / "weights.safetensors")
    for name, value in saved.items():
        torch.testing.assert_close(taken[name], value.float())
    with pytest.raises(WeightsError, match="another network"):
        make_trainer(tmp_path / "three", start_from=str(first), **AHNET)


def test_the_branch_takes_part_every_few_steps(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, vae={"codes": 4, "every": 2})
    told = [trainer.train_step(trainer.samples[n]) for n in range(4)]
    assert ["kl" in figures for figures in told] == [True, False, True, False]


def test_the_exported_model_is_the_average_that_was_validated(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.config.output.mkdir()
    for number in range(3):
        trainer.train_step(trainer.samples[number])
    trainer.export()
    saved = load_file(trainer.config.output / "weights.safetensors")
    kept = kept_network(trainer.average.module).state_dict()
    assert set(saved) == set(kept)
    for name, value in kept.items():
        torch.testing.assert_close(saved[name].float(), value, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("kind", ["segresnet", "cascade"])
def test_a_network_learns_a_case(tmp_path: Path, kind: str) -> None:
    trainer = make_trainer(tmp_path, steps=100, **NETWORKS[kind])
    case = trainer.samples[1]
    losses = [trainer.train_step(case)["dice_loss"] for _ in range(40)]
    assert np.mean(losses[-3:]) < 0.7 * np.mean(losses[:3])


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    """With the noise of the variational branch and of dropout, too."""
    network = {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1], "dropout": 0.2}}
    whole = train(write_config(tmp_path / "whole", network=network))
    halves = make_trainer(tmp_path / "halves", network=network)
    halves.config.output.mkdir()
    for number in range(2):
        halves.train_step(halves.samples[number])
    halves.save()
    again = train(tmp_path / "halves" / "toy.yaml", resume=True)
    assert read_card(again).card["recipe"]["steps_done"] == 4
    one, two = (load_file(folder / "weights.safetensors") for folder in (whole, again))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4)
    begun = kept_network(halves.average.module).state_dict()
    assert any((two[name].float() - value).abs().max() > 1e-3 for name, value in begun.items())
    with pytest.raises(FileError, match="--resume"):
        train(tmp_path / "halves" / "toy.yaml")


def test_ahnet_goes_through_its_phases(tmp_path: Path) -> None:
    """Steps 1, 2: 2D only; 3: 3D, locked encoder taken from 2D; 4 on: everything in 3D."""
    trainer = make_trainer(tmp_path, steps=6, **AHNET)
    network = trainer.model

    def state(part: str) -> dict[str, torch.Tensor]:
        return {n: v.clone() for n, v in network.state_dict().items() if n.startswith(part) and "num_batches" not in n}

    def changed(before: dict[str, torch.Tensor]) -> bool:
        return any(not torch.equal(network.state_dict()[name], value) for name, value in before.items())

    deep, flat = state("deep."), state("flat.")
    for number in range(2):
        trainer.train_step(trainer.samples[number])
    assert not changed(deep)
    assert changed(flat)
    encoder, decoder, flat = state("flat.encoder."), state("deep.dense."), state("flat.")
    trainer.train_step(trainer.samples[2])
    taken = state("deep.encoder.")
    assert torch.equal(taken["deep.encoder.bn0.running_mean"], encoder["flat.encoder.bn0.running_mean"])
    assert torch.equal(taken["deep.encoder.conv1.weight"][:, 0, :, :, 1], encoder["flat.encoder.conv1.weight"][:, 1])
    assert changed(decoder)
    trainer.train_step(trainer.samples[3])
    assert changed(taken)
    assert not changed(flat)
    assert set(kept_network(network).state_dict()) == {n[5:] for n in network.state_dict() if n.startswith("deep.")}


def test_ahnet_s_phases_have_learning_rates_of_their_own(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, steps=6, **AHNET)
    rates = []
    for step in range(6):
        trainer.step = step
        rates.append(trainer.learning_rate())
    assert rates[0] == pytest.approx(5e-4)
    assert rates[1] == pytest.approx(5e-4 * 0.5**0.9)
    assert 0.01 > rates[2] > rates[3] > rates[5] > 0


def test_the_second_stage_learns_from_the_place_that_the_first_one_finds(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, **CASCADE)
    case = trainer.samples[0]
    cascade = trainer.model
    assert isinstance(cascade, Cascade)
    wanted: list[torch.Tensor] = []
    compared = trainer.objective._compared
    trainer.objective._compared = lambda output, images, target, *more: (  # type: ignore[method-assign]
        wanted.append(torch.cat((images, target), 1)) or compared(output, images, target, *more)
    )
    trainer.losses(case, torch.Generator())
    patch = wanted[1]
    assert patch.shape == (1, 2 + 1 + 3, 8, 8, 8)  # one-hot, image, target
    image, target = patch[:, 2], patch[:, 3:]
    places = [
        (i, j, k)
        for i in range(9) for j in range(9) for k in range(9)
        if torch.equal(case.images[0, 0, i : i + 8, j : j + 8, k : k + 8], image[0])
    ]  # fmt: skip
    assert any(
        torch.allclose(case.target[:, :, i : i + 8, j : j + 8, k : k + 8], target, atol=1e-5) for i, j, k in places
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"network": {"name": "unet"}}, "segresnet, cascade, ahnet, monai_unet, sided"),
        ({**AHNET, "vae": {"codes": 4}}, "leave vae out"),
        ({"phases": {"flat": 1, "locked": 1}}, "AH-Net's"),
        ({**AHNET, "phases": {"flat": 3, "locked": 3}}, "more steps than the run"),
        ({"structures": []}, "structures"),
        ({"colour": 1}, "colour"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_segmentation_config(write_config(tmp_path, **changes))


def test_the_guide_s_example_is_a_configuration(repository: Path) -> None:
    text = (repository / "docs" / "developer-guide.md").read_text(encoding="utf-8")
    config = SegmentationConfig.model_validate(yaml.safe_load(text.split("```yaml")[1].split("```")[0]))
    assert config.classes == 3
    assert isinstance(trained_network(config), SegResNetVAE)
    assert sorted(np.unique(config.class_table)) == [0, 1, 2]


def test_a_patch_that_the_network_cannot_halve_is_refused(tmp_path: Path) -> None:
    synthesis = {"label_maps": ["labels.nii.gz"], "shape": [16, 16, 18]}
    with pytest.raises(WeightsError, match="three sides that 4 divides"):
        make_trainer(tmp_path, synthesis=synthesis)


def test_the_command_trains_and_its_model_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, steps=1, output="models/toy", validation={"cases": 0})
    assert run("train", "segmentation", "--config", str(config)) == 0
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    assert run("models") == 0
    assert "toy: Toy" in capsys.readouterr().out
    assert run("train", "segmentation", "--config", str(config)) == ExitCode.FILE
    assert run("train", "segmentation", "--config", str(tmp_path / "absent.yaml")) == ExitCode.FILE
