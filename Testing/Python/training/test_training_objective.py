"""What is learned: the parts of the loss under λ and γ, a warm start, an ordinary network, half precision."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from training_toy import CONFIG, write_config

from hyperreg.errors import InputError, WeightsError
from hyperreg.registration import losses
from hyperreg.registration.catalogue import read_card
from hyperreg.registration.field import integrate, sample
from hyperreg.registration.model import load_model
from hyperreg.training.config import read_config
from hyperreg.training.registration import Trainer, train
from hyperreg.training.synthesis import SyntheticPair


@pytest.fixture
def pair() -> SyntheticPair:
    """Two blobs, the moving one shifted, of different intensity."""
    axis = torch.arange(16.0)
    distance = (axis[:, None, None] - 8) ** 2 + (axis[:, None] - 8) ** 2 + (axis - 8) ** 2
    blob = torch.exp(-distance / 18)[None, None]
    shifted = torch.roll(blob, 2, dims=2)
    return SyntheticPair(torch.cat((blob, 0.7 * shifted), 1), (blob > 0.5).float(), (shifted > 0.5).float(), None, True)


def loss_of(trainer: Trainer, pair: SyntheticPair, *values: float) -> float:
    with torch.no_grad():
        return float(trainer.objective(pair, list(values))[0])


def test_gamma_moves_the_loss_from_images_to_structures(tmp_path: Path, pair: SyntheticPair) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, default_gamma=0.5)))
    noise = SyntheticPair(
        torch.rand(1, 2, 16, 16, 16), pair.fixed_structures, pair.moving_structures, None, same_contrast=True
    )
    other = SyntheticPair(pair.images, pair.fixed_structures, pair.fixed_structures, None, same_contrast=True)
    # The last convolution starts almost at zero, so that images alone do not move the structures.
    assert loss_of(trainer, pair, 0.0, 1.0) == pytest.approx(loss_of(trainer, noise, 0.0, 1.0), abs=1e-3)
    assert loss_of(trainer, pair, 0.0, 0.0) < 0.7 * loss_of(trainer, noise, 0.0, 0.0)
    assert loss_of(trainer, pair, 0.0, 0.0) == pytest.approx(loss_of(trainer, other, 0.0, 0.0))
    assert loss_of(trainer, other, 0.0, 1.0) < 0.8 * loss_of(trainer, pair, 0.0, 1.0)


def test_lambda_of_one_leaves_the_smoothness_alone_whatever_gamma_is(tmp_path: Path, pair: SyntheticPair) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, default_gamma=0.5)))
    torch.nn.init.normal_(list(trainer.model.hyper.backbone.parameters())[-2], 0, 0.1)
    for gamma in (0.0, 1.0):
        with torch.no_grad():
            loss, parts = trainer.objective(pair, [1.0, gamma])
        assert float(loss) == pytest.approx(trainer.config.smoothness_weight * float(parts["smoothness"]))
        assert float(loss) > 0


def test_images_of_other_contrasts_are_compared_by_descriptors_that_ignore_them(
    tmp_path: Path, pair: SyntheticPair
) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, default_gamma=0.5, cross_contrast_weight=2.0)))
    fixed, moving = pair.images.split(1, dim=1)
    inverted = SyntheticPair(
        torch.cat((fixed, 1 - fixed), 1), pair.fixed_structures, pair.moving_structures, None, False
    )
    away = SyntheticPair(torch.cat((fixed, 1 - moving), 1), pair.fixed_structures, pair.moving_structures, None, False)
    objective = trainer.objective
    assert float(objective.image_term(inverted, 1 - fixed)) == pytest.approx(0, abs=1e-2)
    assert float(objective.image_term(away, 1 - moving)) == pytest.approx(
        2 * float(losses.mind_loss(fixed, 1 - moving))
    )
    trainer.config.cross_contrast_weight = 0
    assert float(objective.image_term(away, 1 - moving)) == 0


def test_the_parts_of_the_loss_are_those_of_the_field(tmp_path: Path) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, averaging=0.5)))
    torch.nn.init.normal_(list(trainer.model.hyper.backbone.parameters())[-2], 0, 0.1)
    pair = next(p for p in (trainer.pairs[n] for n in range(10)) if p.displacement is not None)
    with torch.no_grad():
        _, parts = trainer.objective(pair, [0.3])
        fixed, moving = pair.images.split(1, dim=1)
        velocity = trainer.model.velocity(trainer.model.weights(torch.tensor([0.3])), fixed, moving)
        displacement = integrate(velocity)
    inside = pair.fixed_structures.sum(1)[0] > 0.5
    assert pair.displacement is not None
    expected = (displacement - pair.displacement)[0][:, inside].norm(dim=0).mean()
    assert float(parts["error_voxels"]) == pytest.approx(float(expected), rel=1e-4)
    overlap = losses.dice_loss(pair.fixed_structures, sample(pair.moving_structures, displacement))
    assert float(parts["overlap"]) == pytest.approx(float(overlap), rel=1e-5)


def test_a_lambda_model_starts_a_lambda_gamma_model_that_is_the_same_function(tmp_path: Path) -> None:
    train(write_config(tmp_path / "first"))
    old = load_model(read_card(tmp_path / "first" / "run"))
    old.precision = torch.float32  # as the trainer's; faster CPUs would be given bfloat16
    network = {**CONFIG["network"], "features": "fine_correlation", "rank": 6}
    config = write_config(tmp_path / "second", network=network, default_gamma=0.4, start_from="../first/run")
    trainer = Trainer(read_config(config))
    fixed, moving = trainer.pairs[0].images.split(1, dim=1)
    with torch.no_grad():
        for lam in (0.0, 0.6):
            expected = old.velocity(old.weights(torch.tensor([lam])), fixed, moving)
            assert float(expected.abs().max()) > 1e-3
            for gamma in (0.0, 1.0):
                found = trainer.model.velocity(trainer.model.weights(torch.tensor([lam, gamma])), fixed, moving)
                assert torch.allclose(found, expected, atol=1e-6)
    train(config)
    card = read_card(tmp_path / "second" / "run")
    assert card.other_defaults == {"gamma": 0.4} and card.card["recipe"]["start_from"] == "run"
    trained = load_model(card)
    low, high = (trained.weights(torch.tensor([0.3, gamma])) for gamma in (0.0, 1.0))
    assert any(float((low[name] - high[name]).abs().max()) > 0 for name in low), "gamma was not trained"


def test_a_start_that_does_not_fit_or_is_not_there_is_refused(tmp_path: Path) -> None:
    train(write_config(tmp_path / "first"))
    wider = {**CONFIG["network"], "hidden": [16, 4]}
    with pytest.raises(WeightsError, match="another network"):
        Trainer(read_config(write_config(tmp_path / "second", network=wider, start_from="../first/run")))
    with pytest.raises(WeightsError, match="no model 'absent'"):
        Trainer(read_config(write_config(tmp_path / "second", start_from="absent")))


def test_a_fixed_lambda_trains_an_ordinary_network(tmp_path: Path) -> None:
    trainer = Trainer(read_config(write_config(tmp_path, fixed_lambda=0.2)))
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    figures = [trainer.train_step(trainer.pairs[n]) for n in range(3)]
    assert {f["lambda"] for f in figures} == {0.2}
    low, high = (trainer.model.weights(torch.tensor([v])) for v in (0.0, 1.0))
    assert all(torch.equal(low[name], high[name]) for name in low)
    changed = {name for name, value in trainer.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed and all(name.startswith("hyper.backbone") for name in changed)
    with pytest.raises(InputError, match="fixed_lambda"):
        read_config(write_config(tmp_path, fixed_lambda=0.2, default_gamma=0.5))


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_for_the_network_alone_and_learns_the_same(tmp_path: Path, precision: str) -> None:
    half, single = (
        Trainer(read_config(write_config(tmp_path, precision=p, learning_rate=1e-3))) for p in (precision, "float32")
    )
    torch.manual_seed(0)
    torch.nn.init.normal_(list(half.model.hyper.backbone.parameters())[-2], 0, 0.1)
    single.model.load_state_dict(half.model.state_dict())
    pair = half.pairs[0]
    with torch.no_grad():
        fields = []
        for trainer in (half, single):
            weights = trainer.model.weights(torch.tensor([0.3]))
            fields.append(trainer.model.velocity(weights, *pair.images.split(1, dim=1)))
    assert fields[0].dtype == torch.float32 and not torch.equal(*fields)
    assert float((fields[0] - fields[1]).norm() / fields[1].norm()) < 0.03
    losses_seen = [[trainer.train_step(pair)["loss"] for _ in range(3)] for trainer in (half, single)]
    assert losses_seen[0] == pytest.approx(losses_seen[1], rel=0.05)
    assert all(p.dtype == torch.float32 for p in half.model.parameters())


def test_a_compiled_network_is_the_same_function(tmp_path: Path) -> None:
    trainer = Trainer(read_config(write_config(tmp_path)))
    fixed, moving = trainer.pairs[0].images.split(1, dim=1)
    weights = trainer.model.weights(torch.tensor([0.3]))
    expected = trainer.model.velocity(weights, fixed, moving)
    # The other backends read their own sources in the locale's encoding, which may be ASCII.
    trainer.model.compile(backend="eager")
    assert torch.allclose(trainer.model.velocity(weights, fixed, moving), expected, atol=1e-7)
    assert trainer.train_step(trainer.pairs[0])["step"] == 1
