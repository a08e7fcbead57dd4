"""Cases in which not every structure was drawn: the marginal loss, lists, mirroring; and what else real cases need."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from segmentation_bench import OBLIQUE, make_card
from segmentation_toy import write_config
from test_training_listed import STILL, TABLE, write_case

from hyperreg.errors import InputError
from hyperreg.nets.segresnet import DeepOutput, SegResNetVAE, without_vae
from hyperreg.segmentation.catalogue import SegmentationCard, read_card
from hyperreg.training.listed_cases import ListedCases, read_list
from hyperreg.training.segmentation import SegmentationTrainer, train
from hyperreg.training.segmentation_config import CasesConfig, LossConfig, VaeConfig, read_segmentation_config
from hyperreg.training.segmentation_losses import merge_unknown, segmentation_loss

BOTH = LossConfig(dice=1.0, cross_entropy=1.0, balance=0.5)


def logits_of(classes: torch.Tensor, count: int = 4, sharpness: float = 8.0) -> torch.Tensor:
    """(1, count, ...) logits of a network that is sure of these classes."""
    return sharpness * one_hot(classes, count)


def one_hot(classes: torch.Tensor, count: int = 4) -> torch.Tensor:
    return torch.nn.functional.one_hot(classes, count).movedim(-1, 0)[None].float()


def drawn() -> torch.Tensor:
    classes = torch.zeros(8, 8, 8, dtype=torch.long)
    classes[1:4, 1:7, 1:7] = 1
    classes[5:7, 1:4, 1:7] = 2
    return classes


def test_an_organ_that_nobody_drew_may_be_found_in_the_background() -> None:
    target = one_hot(drawn())
    guessed = drawn()
    guessed[5:7, 5:7, 1:7] = 3
    blank, found = (float(segmentation_loss(logits_of(c), target, BOTH, (3,))[0]) for c in (drawn(), guessed))
    assert found == pytest.approx(blank, abs=2e-3)
    # If everybody had looked for it, that would have been a mistake.
    assert float(segmentation_loss(logits_of(guessed), target, BOTH)[0]) > blank + 0.3


def test_an_unknown_organ_is_not_where_another_one_was_drawn() -> None:
    target, guessed = one_hot(drawn()), drawn()
    guessed[1:4, 1:7, 1:7] = 3
    assert float(segmentation_loss(logits_of(guessed), target, BOTH, (3,))[0]) > 1


def test_merging_adds_probabilities_and_leaves_the_others() -> None:
    torch.manual_seed(0)
    logits, target = torch.randn(1, 4, 3, 3, 3), one_hot(torch.randint(4, (3, 3, 3)))
    merged, wanted = merge_unknown(logits, target, (1, 3))
    before, after = logits.softmax(1), merged.softmax(1)
    torch.testing.assert_close(after[:, 0], before[:, [0, 1, 3]].sum(1))
    torch.testing.assert_close(after[:, 1], before[:, 2])
    torch.testing.assert_close(wanted.sum(1), torch.ones(1, 3, 3, 3))
    assert merge_unknown(logits, target, ())[0] is logits


def test_the_gradient_leaves_the_share_between_background_and_the_unknown_alone() -> None:
    logits = torch.zeros(1, 3, 4, 4, 4, requires_grad=True)
    classes = torch.zeros(4, 4, 4, dtype=torch.long)
    classes[:2] = 1
    segmentation_loss(logits, one_hot(classes, 3), BOTH, (2,))[0].backward()
    torch.testing.assert_close(logits.grad[:, 0], logits.grad[:, 2])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(3):
        write_case(folder, f"case{number}", OBLIQUE)
    return folder


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    return make_card(tmp_path_factory.mktemp("card"))


def write_list(folder: Path, *contoured: object) -> Path:
    entries = [
        {"image": f"imagesTr/case{n}_0000.nii.gz", "label": f"labelsTr/case{n}.nii.gz"}
        | ({} if labels is None else {"contoured": labels})
        for n, labels in enumerate(contoured)
    ]
    path = folder / "list.json"
    path.write_text(json.dumps({"training": entries}), encoding="utf-8")
    return path


def test_lists_say_which_labels_were_drawn(folder: Path, card: SegmentationCard, tmp_path: Path) -> None:
    cases, _ = read_list(write_list(folder, None, [2], [2, 5]), 1, 0)
    data = ListedCases(cases, card, TABLE, CasesConfig(source=folder, shape=(16, 16, 16)), tmp_path)
    assert [data.whole(n).unknown for n in range(3)] == [(), (2,), ()]
    drawn_in = {data[n].unknown for n in range(20)}
    assert drawn_in == {(), (2,)}


@pytest.mark.parametrize(
    ("labels", "words"), [("2", "is a list of labels"), ([2.5], "is a list of labels"), ([77], "none of the labels")]
)
def test_lists_that_say_it_wrongly_are_refused(
    folder: Path, card: SegmentationCard, tmp_path: Path, labels: object, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        cases, _ = read_list(write_list(folder, labels), 1, 0)
        ListedCases(cases, card, TABLE, CasesConfig(source=folder, shape=(16, 16, 16)), tmp_path)


def test_mirroring_swaps_the_sides_labels_and_what_is_unknown(
    folder: Path, card: SegmentationCard, tmp_path: Path
) -> None:
    cases, _ = read_list(write_list(folder, [2]), 1, 0)
    settings = {"source": folder, "shape": (24, 24, 24), "foreground": 0, **STILL}
    flipless = card.__class__(**{**card.__dict__, "flips": ()})
    plain = ListedCases(cases, flipless, TABLE, CasesConfig(**settings), tmp_path / "a")
    mirrored = ListedCases(cases, flipless, TABLE, CasesConfig(**settings, mirror=[(2, 5)]), tmp_path / "b")
    seen = set()
    for number in range(12):
        one, other = plain[number], mirrored[number]
        is_mirrored = other.unknown == (1,)
        seen.add(is_mirrored)
        expected = one.target.flip(2)[:, [0, 2, 1]] if is_mirrored else one.target
        torch.testing.assert_close(other.target, expected)
        torch.testing.assert_close(other.images, one.images.flip(2) if is_mirrored else one.images, atol=1e-4, rtol=0)
    assert seen == {True, False}


@pytest.mark.parametrize(("axes", "mirror", "words"), [("slices_last", [], "fixed axes"), ("ras", [(2, 9)], "2 and 9")])
def test_mirroring_that_cannot_be_is_refused(folder: Path, tmp_path: Path, axes: str, mirror: list, words: str) -> None:
    grid = {"axes": axes, "spacing_mm": [2.0, 2.0, 2.0], "window": [16, 16, 16], "flips": []}
    config = CasesConfig(source=folder, shape=(16, 16, 16), mirror=mirror)
    with pytest.raises(InputError, match=words):
        ListedCases([], make_card(tmp_path / "card", grid=grid), TABLE, config, tmp_path / "cache")


def test_the_branch_fades_out_in_a_straight_line() -> None:
    fading = VaeConfig(until=100)
    assert [fading.share_at(step) for step in (0, 25, 100, 500)] == [1.0, 0.75, 0.0, 0.0]
    assert VaeConfig().share_at(10**6) == 1
    assert VaeConfig(until=0).share_at(0) == 0


def test_deep_heads_are_in_training_alone_and_gone_afterwards() -> None:
    torch.manual_seed(0)
    network = SegResNetVAE(1, 3, (16, 16, 16), filters=4, blocks_down=(1, 1, 1), blocks_up=(1, 1), codes=4, deep=True)
    image = torch.rand(1, 1, 16, 16, 16)
    found = network(image)
    assert isinstance(found, DeepOutput)
    assert [tuple(part.shape[2:]) for part in found.deeper] == [(8, 8, 8)]
    plain = without_vae(network.eval())
    assert not any("head" in name for name in plain.state_dict())
    torch.testing.assert_close(plain(image), network(image).logits)


def run_config(tmp_path: Path, folder: Path, **changes: object) -> Path:
    entries = {
        "synthesis": None,
        "cases": {"source": str(write_list(folder, [2], [5], None)), "shape": [16, 16, 16]},
        "data": "Eggs",
        "structures": [
            {"label": 2, "name": "Shell", "colour": [1, 2, 3], "numbers": [2]},
            {"label": 5, "name": "Core", "colour": [4, 5, 6], "numbers": [5]},
        ],
        "network": {"name": "segresnet", "options": {"filters": 4, "blocks_down": [1, 1, 1], "blocks_up": [1, 1]}},
        "vae": {"codes": 4, "until": 3},
        "deep_supervision": True,
        "optimiser": "adamw",
        "validation": {"cases": 1, "every": 2},
    }
    return write_config(tmp_path, **{**entries, **changes})


def test_a_run_with_all_of_it_ends_in_a_model(tmp_path: Path, folder: Path) -> None:
    path = train(run_config(tmp_path, folder, steps=5))
    steps = [json.loads(line) for line in (path / "log.jsonl").read_text().splitlines()]
    assert ["kl" in step for step in steps] == [True, True, True, False, False]
    expected = read_card(path).structures[0].expected
    assert expected is not None
    assert expected.ml[0] > 0


def test_an_unknown_organ_does_not_count_in_validation(tmp_path: Path, folder: Path) -> None:
    trainer = SegmentationTrainer(read_segmentation_config(run_config(tmp_path, folder)))
    samples = trainer.samples
    assert isinstance(samples, ListedCases)
    (row,) = trainer.validate([samples.whole(0)])
    assert "dice Shell" in row
    assert "dice Core" not in row
    assert np.isfinite(row["dice"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vae": None}, "deep_supervision goes with"),
        ({"deep_supervision": False, "devices": 2, "vae": {"codes": 4, "until": 5}}, "vae.until"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(
    tmp_path: Path, folder: Path, changes: dict, words: str
) -> None:
    with pytest.raises(InputError, match=words):
        read_segmentation_config(run_config(tmp_path, folder, **changes))
