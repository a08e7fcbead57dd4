"""The temperature that makes a network's probabilities hold."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from cli_pair import run
from segmentation_toy import write_config
from torch import Tensor

from hyperreg.errors import InputError
from hyperreg.segmentation.catalogue import read_card
from hyperreg.training.calibration import fit_temperature
from hyperreg.training.cases import SyntheticCase
from hyperreg.training.segmentation import train

SHAPE = (20, 20, 20)


def drawn(logits: Tensor, unknown: tuple[int, ...] = (), seed: int = 0) -> SyntheticCase:
    """A case whose classes are drawn with the probabilities of the logits (classes, ...)."""
    generator = torch.Generator().manual_seed(seed)
    flat = logits.flatten(1).T.softmax(1)
    classes = torch.multinomial(flat, 1, generator=generator)[:, 0]
    for index in unknown:
        classes[classes == index] = 0
    target = torch.nn.functional.one_hot(classes, len(logits)).T.reshape(1, *logits.shape).float()
    return SyntheticCase(torch.zeros(1, 1, *SHAPE), target, unknown)


@pytest.mark.parametrize("unknown", [(), (2,)])
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.5])
def test_the_temperature_by_which_cases_were_drawn_is_found(temperature: float, unknown: tuple[int, ...]) -> None:
    logits = 2 * torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(3))
    cases = [drawn(logits, unknown, seed) for seed in range(3)]
    # A network that is surer than it should be by that factor.
    found = fit_temperature(lambda _images: (temperature * logits).softmax(0), cases)
    assert found == pytest.approx(temperature, rel=0.08)
    with pytest.raises(InputError, match="not trained on"):
        fit_temperature(lambda images: images, [])


def test_a_model_is_calibrated_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    folder = train(config)
    assert read_card(folder).temperature == 1, "synthetic cases calibrate nothing by themselves"
    assert run("train", "calibrate", "--config", str(config), str(folder)) == 0
    temperature = read_card(folder).temperature
    assert f"temperature {temperature:g}" in capsys.readouterr().out and temperature != 1
