"""λ-conditioned segmentation: trained in seconds, λ moves the result where the configuration says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_pair import run
from monai.losses import DiceLoss
from segmentation_toy import AHNET, CASCADE, write_config

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.segmentation import licences
from hyperreg.segmentation.catalogue import read_card
from hyperreg.segmentation.model import load_model
from hyperreg.training import hyper
from hyperreg.training.cases import SyntheticCase
from hyperreg.training.segmentation import SegmentationTrainer
from hyperreg.training.segmentation_config import HyperConfig, LossConfig, read_segmentation_config
from hyperreg.training.segmentation_losses import segmentation_loss
from hyperreg.training.segmentation_models import kept_network, trained_network

RECALL = {"drives": "recall", "range": [0.02, 0.98], "ends": 0.5}
NETWORKS: dict[str, dict[str, Any]] = {
    "segresnet": {"vae": None},
    "with a variational branch": {},
    "cascade": CASCADE,
    "ahnet": {**AHNET, "phases": None},
    "unet": {
        "network": {"name": "monai_unet", "options": {"channels": [4, 8], "strides": [2], "num_res_units": 1}},
        "vae": None,
    },
}


def doubtful_case() -> SyntheticCase:
    """Two structures, surely where it is bright, and in a third of the voxels where it is half as bright."""
    grid = torch.stack(torch.meshgrid(*[torch.arange(16.0)] * 3, indexing="ij")) - 7.5
    radius = grid.norm(dim=0)
    sure, perhaps = radius < 4, (radius >= 4) & (radius < 6.5)
    generator = torch.Generator().manual_seed(0)
    there = sure | (perhaps & (torch.rand(16, 16, 16, generator=generator) < 0.35))
    right = grid[0] > 0
    target = torch.stack([~there, there & right, there & ~right]).float()
    image = 0.8 * sure + 0.4 * perhaps + 0.2 * ((sure | perhaps) & right)
    image = image + 0.02 * torch.rand(16, 16, 16, generator=generator) * (image > 0)
    return SyntheticCase(image[None, None], target[None])


def make_trainer(folder: Path, **changes: Any) -> SegmentationTrainer:
    return SegmentationTrainer(read_segmentation_config(write_config(folder, **{"hyper": RECALL, **changes})))


@pytest.mark.parametrize("kind", NETWORKS)
def test_what_is_exported_is_what_was_trained(tmp_path: Path, kind: str) -> None:
    """Without branches and AH-Net's 2D part the hypernetwork over the rest makes the same weights."""
    trainer = make_trainer(tmp_path, **NETWORKS[kind])
    trainer.config.output.mkdir()
    assert 0 <= trainer.train_step(trainer.samples[0])["lambda"] <= 1
    trainer.export()
    card = read_card(trainer.config.output)
    (slider,) = card.hyperparameters
    assert (slider.name, slider.default) == ("lambda", 0.5)
    assert slider.title
    network = trainer.average.module
    assert isinstance(network, HyperNetwork)
    made = []
    for lam in (0.0, 1.0):
        wanted = kept_network(hyper.network_for(network.eval(), lam))
        loaded = load_model(card, hyperparameters={"lambda": lam})
        assert type(loaded) is type(wanted)
        weights = loaded.state_dict()
        assert set(weights) == set(wanted.state_dict())
        for name, value in wanted.state_dict().items():
            torch.testing.assert_close(weights[name], value, atol=2e-3, rtol=2e-3)  # half precision
        made.append(torch.cat([value.flatten() for value in loaded.parameters()]))
    assert (made[0] - made[1]).norm() > 0.01 * made[0].norm()


def test_a_larger_lambda_finds_more_down_to_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Trained on one case, with what must not be missed from 0.02 to 0.98: the volume grows from λ 0 to λ 1."""
    trainer = make_trainer(
        tmp_path,
        loss={"dice": 1, "cross_entropy": 0.02},
        learning_rate=0.02,
        steps=80,
        averaging=0.9,
        **NETWORKS["unet"],
    )
    case = doubtful_case()
    for _ in range(80):
        trainer.train_step(case)
    rows = trainer.validate([case])
    assert [row["lambda"] for row in rows] == [0.0, 0.5, 1.0]
    shares = [row["share"] for row in rows]
    assert shares[0] < shares[1] < shares[2]
    assert shares[0] < 1 < 1.6 < shares[2]

    trainer.config.output = tmp_path / "models" / "toy"
    trainer.config.output.mkdir(parents=True)
    trainer.export()
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    card = read_card(trainer.config.output)
    licences.accept(card)
    image = Volume(case.images[0, 0].numpy(), np.diag([2.0, 2.0, 2.0, 1.0]), "image")
    write_volume(image, tmp_path / "image.nii.gz")
    volumes = []
    for lam in ("0", "0.5", "1"):
        out, report = tmp_path / f"{lam}.nii.gz", tmp_path / "r.json"
        arguments = ["--model", "toy", "--device", "cpu", "-o", str(out), "-r", str(report)]
        assert run("segment", str(tmp_path / "image.nii.gz"), "--lam", lam, *arguments) == 0, capsys.readouterr().err
        told = json.loads(report.read_text(encoding="utf-8"))
        assert told["hyperparameters"] == {"lambda": float(lam)}
        volumes.append(sum(structure["volume_ml"] for structure in told["structures"]))
        assert volumes[-1] == pytest.approx(np.count_nonzero(read_volume(out).array) * 0.008, rel=1e-3)
    assert volumes[0] < volumes[1] < volumes[2]
    assert run("segment", str(tmp_path / "image.nii.gz"), "--lam", "2", "--model", "toy") != 0


def test_a_run_that_is_resumed_draws_what_the_uninterrupted_one_draws(tmp_path: Path) -> None:
    one, two = make_trainer(tmp_path / "one"), make_trainer(tmp_path / "two")
    two.config.output.mkdir()
    drawn = [one.train_step(one.samples[n])["lambda"] for n in range(3)]
    two.train_step(two.samples[0])
    two.save()
    three = make_trainer(tmp_path / "two")
    three.load()
    assert [three.train_step(three.samples[n])["lambda"] for n in (1, 2)] == drawn[1:]
    torch.testing.assert_close(three.model.heads, one.model.heads)


def test_it_starts_from_an_ordinary_model(tmp_path: Path) -> None:
    ordinary = make_trainer(tmp_path / "one", hyper=None)
    ordinary.config.output.mkdir()
    ordinary.export()
    network = make_trainer(tmp_path / "two", start_from=str(ordinary.config.output)).model
    assert isinstance(network, HyperNetwork)
    saved = kept_network(ordinary.average.module).state_dict()
    for name, value in kept_network(network.backbone).state_dict().items():
        torch.testing.assert_close(value, saved[name].half().float())


def test_recall_is_tversky_s_index_and_dice_at_a_half() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 3, 6, 5, 4, generator=generator)
    target = torch.nn.functional.one_hot(torch.randint(3, (1, 6, 5, 4), generator=generator), 3).movedim(-1, 1).float()
    weights = LossConfig(cross_entropy=0)
    dice = DiceLoss(include_background=False, softmax=True, batch=True, smooth_nr=1e-3, smooth_dr=1e-3)
    torch.testing.assert_close(segmentation_loss(logits, target, weights)[0], dice(logits, target))
    # Nothing found is worse the higher the recall counts, everything found is better.
    found = {recall: weights.model_copy(update={"recall": recall}) for recall in (0.1, 0.9)}
    none, all_ = torch.zeros_like(logits), torch.zeros_like(logits)
    none[:, 0], all_[:, 1:] = 5, 5
    assert segmentation_loss(none, target, found[0.9])[0] >= segmentation_loss(none, target, found[0.1])[0]
    assert segmentation_loss(all_, target, found[0.9])[0] < segmentation_loss(all_, target, found[0.1])[0]


def test_the_driven_setting_runs_over_its_range() -> None:
    driven = HyperConfig(drives="balance", range=(0.2, 0.6))
    values = [hyper.loss_for(LossConfig(), driven, lam) for lam in (0, 0.5, 1)]
    assert [loss.balance for loss in values] == pytest.approx([0.2, 0.4, 0.6])
    assert [loss.dice for loss in values] == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"hyper": {"drives": "gamma"}}, "gamma changes nothing while focal"),
        ({"hyper": {"drives": "dice"}, "loss": {"cross_entropy": 0}}, "dice changes nothing"),
        ({"hyper": {"drives": "recall", "range": [0.5, 1.5]}}, "less than or equal to 1"),
        ({"hyper": {"drives": "patience"}}, "drives"),
        ({"hyper": {"drives": "balance"}, "loss": {"balanced_steps": 3}}, "leave loss.balanced_steps out"),
        ({"hyper": RECALL, **AHNET}, "phases are trained without hyper"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path: Path, changes: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_segmentation_config(write_config(tmp_path, **changes))


def test_an_ordinary_configuration_makes_an_ordinary_network(tmp_path: Path) -> None:
    config = read_segmentation_config(write_config(tmp_path))
    assert not isinstance(trained_network(config), HyperNetwork)
    assert SegmentationTrainer(config).card()["hyperparameters"] == []
