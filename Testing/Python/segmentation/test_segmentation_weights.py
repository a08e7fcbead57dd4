"""Models with more than one set of weights: ensembles, and networks whose weights are made for a hyperparameter."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_pair import run
from segmentation_bench import OBLIQUE, SHELL, card_entries, eggs, make_card

from hyperreg.catalogue import CARD
from hyperreg.cli.console import ExitCode
from hyperreg.errors import InputError, WeightsError
from hyperreg.imaging.files import write_volume
from hyperreg.nets.hypernetwork import HyperNetwork
from hyperreg.nets.weights import load_network
from hyperreg.segmentation.bundles import add_model, join_models
from hyperreg.segmentation.catalogue import SegmentationCard, find_model, read_card
from hyperreg.segmentation.model import load_model, make_network, save_untrained
from hyperreg.segmentation.session import Segmenter

SMALL = {"filters": 4, "blocks_down": [1, 1], "blocks_up": [1]}
LAMBDA = [{"name": "lambda", "title": "Balance", "default": 0.25}]


def entries(name: str = "one", **more: Any) -> dict[str, Any]:
    return card_entries(name, **{"network": {"name": "segresnet", "options": SMALL}, **more})


@pytest.fixture
def members(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[SegmentationCard]:
    """Three models with random weights, in the user's own folder."""
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    return [save_untrained(tmp_path / "models", entries(f"fold{n}"), seed=n) for n in range(3)]


def probabilities(segmenter: Segmenter) -> np.ndarray:
    found: dict[int, np.ndarray] = {}
    segmenter.segment({"image": eggs(OBLIQUE)}, sink=lambda s, values: found.update({s.label: values.array}))
    return np.stack([found[label] for label in sorted(found)])


def test_an_ensemble_averages_the_probabilities_of_its_members(members: list[SegmentationCard], tmp_path: Path) -> None:
    card = join_models(members, "folds", tmp_path / "models")
    assert sorted(path.name for path in card.folder.glob("*.safetensors")) == [
        "weights-2.safetensors", "weights-3.safetensors", "weights.safetensors",
    ]  # fmt: skip
    alone = [probabilities(Segmenter(member, "cpu")) for member in members]
    np.testing.assert_allclose(probabilities(Segmenter(card, "cpu", ensemble=True)), np.mean(alone, axis=0), atol=0.01)
    np.testing.assert_allclose(probabilities(Segmenter(card, "cpu")), alone[0], atol=1e-6)
    assert np.abs(alone[0] - np.mean(alone, axis=0)).max() > 0.05


def test_progress_of_an_ensemble_grows_over_all_members(members: list[SegmentationCard], tmp_path: Path) -> None:
    card = join_models(members, "folds", tmp_path / "models")
    told: list[float] = []
    Segmenter(card, "cpu", ensemble=True).segment(
        {"image": eggs(OBLIQUE)}, flips=True, progress=lambda fraction, _: told.append(fraction)
    )
    assert told == sorted(told)
    assert len(told) > 3 * 8


def test_what_cannot_be_joined_is_named(members: list[SegmentationCard], tmp_path: Path) -> None:
    other = save_untrained(tmp_path / "models", entries("other", modality="CT"))
    for cards, words in (
        ([members[0], other], "'fold0' and 'other' differ in their modality"),
        (members[:1], "two models or more"),
    ):
        with pytest.raises(InputError, match=words):
            join_models(cards, "folds", tmp_path / "models")
    with pytest.raises(InputError, match="'fold1' already"):
        join_models(members, "fold1", tmp_path / "models")
    with pytest.raises(WeightsError, match="name of a folder"):
        join_models(members, "../folds", tmp_path / "models")
    with pytest.raises(InputError, match="one set of weights only"):
        Segmenter(members[0], "cpu", ensemble=True)


def test_every_file_of_an_ensemble_is_checked_and_copied(members: list[SegmentationCard], tmp_path: Path) -> None:
    card = join_models(members, "folds", tmp_path / "made")
    assert sorted(path.name for path in add_model(card.folder, tmp_path / "models").folder.iterdir()) == [
        "card.json", "weights-2.safetensors", "weights-3.safetensors", "weights.safetensors",
    ]  # fmt: skip
    (card.folder / "weights-3.safetensors").write_bytes(b"x")
    with pytest.raises(WeightsError, match=r"weights-3\.safetensors"):
        Segmenter(card, "cpu", ensemble=True)
    (card.folder / "weights-2.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"missing.*weights-2\.safetensors"):
        card.check_weights()


@pytest.mark.parametrize("file", ["../weights.safetensors", "weights.safetensors", "/etc/passwd", "weights.pt"])
def test_weights_outside_of_the_model_are_refused(members: list[SegmentationCard], file: str) -> None:
    path = members[0].folder / CARD
    path.write_text(json.dumps({**members[0].card, "ensemble": {file: "0"}}), encoding="utf-8")
    with pytest.raises(WeightsError, match="own folder"):
        read_card(members[0].folder)


NETWORKS = {
    "segresnet": SMALL,
    "ahnet": {"width": 2, "layers": [1, 1, 1, 1], "growth": 2},
    "cascade": {"first": SMALL, "second": SMALL, "window": [8, 8, 8]},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_can_have_its_weights_made_for_a_hyperparameter(tmp_path: Path, name: str) -> None:
    network = {"name": name, "options": NETWORKS[name], "hidden": [8, 4], "rank": 2}
    card = save_untrained(tmp_path, entries("hyper", network=network, hyperparameters=LAMBDA))
    assert [(h.name, h.default) for h in card.hyperparameters] == [("lambda", 0.25)]
    soft, default, stiff = (
        probabilities(Segmenter(card, "cpu", values)) for values in ({"lambda": 0.0}, None, {"lambda": 1.0})
    )
    assert np.abs(soft - stiff).max() > 1e-3
    np.testing.assert_array_equal(default, probabilities(Segmenter(card, "cpu", {"lambda": 0.25})))
    for values in ({"gamma": 0.5}, {"lambda": 1.5}):
        with pytest.raises(InputError, match="hyperparameters lambda, each from 0 to 1"):
            Segmenter(card, "cpu", values)


def test_the_weights_made_are_those_of_the_hypernetwork(tmp_path: Path) -> None:
    """And its gradient reaches the heads: it can be trained as on the registration side."""
    network = {"name": "segresnet", "options": SMALL, "hidden": [8, 4]}
    card = save_untrained(tmp_path, entries("hyper", network=network, hyperparameters=LAMBDA))
    hyper = load_network(lambda: make_network(network, 1, 3, True, 1), card)
    assert isinstance(hyper, HyperNetwork)
    image = torch.rand(1, 1, 8, 8, 8)
    found = load_model(card, hyperparameters={"lambda": 0.7})(image)
    expected = hyper.eval()(torch.tensor([0.7]), image)
    torch.testing.assert_close(found, expected)
    expected.sum().backward()
    assert hyper.heads.grad is not None
    assert hyper.heads.grad.abs().sum() > 0


def test_the_command_line_joins_averages_and_sets_hyperparameters(
    members: list[SegmentationCard], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = {"name": "segresnet", "options": SMALL, "hidden": [8, 4]}
    save_untrained(tmp_path / "models", entries("hyper", network=network, hyperparameters=LAMBDA))
    assert run("models", "fold0", "fold1", "--join", "folds") == 0
    assert len(find_model("folds").weight_files) == 2
    assert run("models") == 0
    text = capsys.readouterr().out
    assert "an ensemble of 2" in text
    assert "hyperparameters: lambda=0.25" in text
    write_volume(eggs(OBLIQUE), tmp_path / "image.nii.gz")

    def segment(*more: str) -> dict[str, Any]:
        report = tmp_path / "r.json"
        assert run("segment", str(tmp_path / "image.nii.gz"), "--device", "cpu", "--accept-licence", "--report",
                   str(report), *more) == 0  # fmt: skip
        return json.loads(report.read_text(encoding="utf-8"))

    assert segment("--model", "folds", "--ensemble")["ensemble"] == 2
    assert segment("--model", "folds")["ensemble"] == 1
    assert segment("--model", "hyper")["hyperparameters"] == {"lambda": 0.25}
    assert segment("--model", "hyper", "--hyper", "lambda=0.5")["hyperparameters"] == {"lambda": 0.5}
    image = str(tmp_path / "image.nii.gz")
    for wrong in (["--hyper", "lambda"], ["--hyper", "lambda=7"], ["--ensemble"]):
        assert run("segment", image, "--model", "hyper", "--accept-licence", *wrong) == ExitCode.INPUT


def test_cards_with_impossible_hyperparameters_are_refused(tmp_path: Path) -> None:
    for wrong in ([*LAMBDA, *LAMBDA], [{**LAMBDA[0], "default": 2}]):
        make_card(tmp_path)
        path = tmp_path / "bands" / CARD
        path.write_text(
            json.dumps({**json.loads(path.read_text(encoding="utf-8")), "hyperparameters": wrong}), encoding="utf-8"
        )
        with pytest.raises(WeightsError, match="from 0 to 1"):
            read_card(tmp_path / "bands")
    assert SHELL["label"] == 2
