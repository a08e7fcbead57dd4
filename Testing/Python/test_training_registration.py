"""Synthesis and training at toy size: what is drawn, learning lowers the loss, a run can be resumed exactly."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.registration import losses
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.field import sample
from hyperreg.registration.model import load_model
from hyperreg.training.deformation import positions, random_deformation
from hyperreg.training.label_maps import BRAIN_STRUCTURES, brain_from_file, random_shapes
from hyperreg.training.registration import Trainer, draw_lambda, pair_loss, read_config, train
from hyperreg.training.synthesis import PairSynthesiser, Stage

STAGE = {"until": 4, "shape": [16, 16, 16], "spacing_mm": [3.0, 4.0]}
CONFIG = {
    "name": "toy",
    "title": "Toy",
    "description": "Test only",
    "output": "run",
    "network": {
        "features": "correlation",
        "backbone": "voxelmorph_unet",
        "options": {"channels": [4, 4, 8, 8, 8, 8], "unet_out_channels": 4, "final_channels": [4]},
        "hidden": [8, 4],
        "passes": 1,
    },
    "grid": {"spacing_mm": 3.0, "max_shape": [16, 16, 16], "multiple": 8},
    "synthesis": {"shape_maps": 2, "shape_size": 48, "stages": [STAGE]},
    "steps": 4,
    "learning_rate": 0.01,
    "warm_up": 2,
    "checkpoint_every": 2,
    "workers": 0,
}


def write_config(folder: Path, **changes: object) -> Path:
    path = folder / "toy.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}), encoding="utf-8")
    return path


@pytest.fixture
def synthesiser() -> PairSynthesiser:
    generator = torch.Generator().manual_seed(3)
    shapes = random_shapes(generator, size=48, spacing=3.0, count=5)
    stages = [Stage(100, (16, 24, 16), (1.5, 2.0)), Stage(200, (16, 16, 24), (1.5, 2.0))]
    return PairSynthesiser([shapes], stages)


def test_a_pair_holds_two_different_images_and_fractions_of_structures(synthesiser: PairSynthesiser) -> None:
    pair = synthesiser[5]
    assert pair.images.shape == (1, 2, 16, 24, 16)
    assert float(pair.images.min()) >= 0 and float(pair.images.max()) <= 1 and not pair.images.isnan().any()
    assert float((pair.images[:, 0] - pair.images[:, 1]).abs().mean()) > 0.01
    for structures in (pair.fixed_structures, pair.moving_structures):
        assert structures.shape == (1, 5, 16, 24, 16)
        assert float(structures.sum(1).max()) <= 1 + 1e-5
        assert bool(((structures > 0) & (structures < 1)).any()), "no partial volume"


def test_a_pair_depends_on_its_number_and_the_seed_alone(synthesiser: PairSynthesiser) -> None:
    first = synthesiser[7].images
    assert not torch.equal(synthesiser[8].images, first)
    assert torch.equal(synthesiser[7].images, first)
    synthesiser.seed = 1
    assert not torch.equal(synthesiser[7].images, first)


def test_pairs_follow_their_stage_and_the_last_one_goes_on(synthesiser: PairSynthesiser) -> None:
    shapes = [tuple(synthesiser[number].images.shape[2:]) for number in (99, 100, 1000)]
    assert shapes == [(16, 24, 16), (16, 16, 24), (16, 16, 24)]


def test_the_true_field_carries_the_moving_structures_onto_the_fixed_ones(synthesiser: PairSynthesiser) -> None:
    totals = torch.zeros(3)
    for number in range(4):
        pair = synthesiser[number]
        assert pair.displacement is not None
        assert 0.5 < float(pair.displacement.abs().max()) < 10
        for index, factor in enumerate((0.0, 1.0, -1.0)):
            moved = sample(pair.moving_structures, factor * pair.displacement, padding="border")
            totals[index] += losses.dice_loss(pair.fixed_structures, moved)
    nothing, truth, opposite = totals.tolist()
    assert truth < 0.8 * nothing < 0.8 * opposite


def test_a_deformation_and_its_inverse_bring_points_back_in_mm() -> None:
    generator = torch.Generator().manual_seed(0)
    deformation = random_deformation((24, 28, 20), 3.0, torch.tensor([0.1, -0.2, 0.3]), True, generator)
    start = positions((24, 28, 20), 3.0)
    inner = (slice(None), slice(5, -5), slice(5, -5), slice(5, -5))
    back = deformation.back(deformation.points(1)).view(3, 24, 28, 20)
    error = (back - start)[inner].norm(dim=0)
    assert float(error.mean()) < 0.1 and float(error.max()) < 1.0


def test_lambda_is_drawn_over_the_whole_range_and_more_often_at_the_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = np.array([draw_lambda(0.2, generator) for _ in range(4000)])
    assert 0.08 < np.mean(drawn == 0) < 0.12 and 0.08 < np.mean(drawn == 1) < 0.12
    assert np.histogram(drawn[(drawn > 0) & (drawn < 1)], bins=5, range=(0, 1))[0].min() > 500


def test_brain_labels_are_joined_across_sides_and_turned_to_ras(tmp_path: Path) -> None:
    array = np.zeros((20, 24, 28), np.int16)
    array[4:8, 5:9, 6:10] = 2
    array[10:14, 5:9, 6:10] = 41
    array[4:8, 12:16, 20:24] = 17
    array[15:17, 2:4, 2:4] = 600
    flipped = np.diag((-1.0, 1.0, -1.0, 1.0))
    write_volume(Volume(array, flipped), tmp_path / "labels.nii.gz")
    brain = brain_from_file(tmp_path / "labels.nii.gz")
    assert brain.structures == len(BRAIN_STRUCTURES)
    # Structure 1 is white matter of both sides, 13 the hippocampus; the first and the last axis were turned round.
    expected = np.zeros(array.shape, np.uint8)
    expected[(array == 2) | (array == 41)] = 1
    expected[array == 17] = 13
    expected[array == 600] = len(BRAIN_STRUCTURES) + 1
    np.testing.assert_array_equal(brain.labels, expected[::-1, :, ::-1])


def test_a_file_without_brain_labels_is_refused(tmp_path: Path) -> None:
    write_volume(Volume(np.full((8, 8, 8), 999, np.int16), np.eye(4)), tmp_path / "other.nii.gz")
    with pytest.raises(InputError, match="none of the FreeSurfer"):
        brain_from_file(tmp_path / "other.nii.gz")


def test_learning_one_pair_lowers_its_loss(tmp_path: Path) -> None:
    trainer = Trainer(read_config(write_config(tmp_path)))
    pair = trainer.pairs[0]
    with torch.no_grad():
        first, figures = pair_loss(trainer.model, pair, 0.1, trainer.config)
    for _ in range(40):
        loss, _ = pair_loss(trainer.model, pair, 0.1, trainer.config)
        trainer.optimiser.zero_grad()
        loss.backward()
        trainer.optimiser.step()
    with torch.no_grad():
        last, after = pair_loss(trainer.model, pair, 0.1, trainer.config)
    assert float(last) < 0.95 * float(first)
    assert after["overlap"] < 0.97 * figures["overlap"]


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
