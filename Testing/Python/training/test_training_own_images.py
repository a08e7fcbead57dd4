"""Adapting a model to a folder of images: held-out pairs decide; bad folders are refused; a run goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_pair import run as run_program

from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.volume import Volume
from hyperreg.phantom import head_phantom_pair
from hyperreg.registration.catalogue import find_model, list_models, read_card
from hyperreg.registration.linear import align
from hyperreg.registration.model import load_model, save_untrained
from hyperreg.training import own_images
from hyperreg.training.own_images import FEWEST_IMAGES, adapt, find_images, is_better, pair_of, prepare
from hyperreg.training.validation import validate

BASE = "base"


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of ten generated heads, each another's deformation, on grids that are oblique and flipped."""
    folder = tmp_path_factory.mktemp("heads")
    for seed in range(FEWEST_IMAGES // 2):
        pair = head_phantom_pair((24, 30, 24), seed)
        write_volume(pair.fixed, folder / f"{seed}a.nii.gz")
        write_volume(pair.moving, folder / f"{seed}b.nii.gz")
        write_volume(pair.fixed_labels, folder / f"{seed}a_labels.nii.gz")
    return folder


@pytest.fixture(scope="module")
def prepared(heads: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder in which the images are prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    card = save_untrained(folder, BASE, strength=0.3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own_images, "align", quickly_aligned)
        prepare(find_images(heads), card, folder / "run", lambda _done, _text: None)
    return folder / "run"


def quickly_aligned(fixed: Volume, moving: Volume) -> np.ndarray:
    """By the centres of mass: the affine alignment has its own tests, and takes seconds."""
    return align(fixed, moving, "com")


@pytest.fixture
def run(prepared: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(prepared, tmp_path / "run"))


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder of models, with a model that displaces at random."""
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    monkeypatch.setattr(own_images, "MOST_PAIRS", 2)
    monkeypatch.setattr(own_images, "align", quickly_aligned)
    save_untrained(tmp_path / "models", BASE, strength=0.3)
    return tmp_path / "models"


def test_a_model_that_registers_held_out_pairs_better_is_added(
    heads: Path, own: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(own_images, "LEARNING_RATE", 0.01)
    monkeypatch.setattr(own_images, "LEAST_GAIN", 0.001)  # so few steps gain .003, more or less by rounding
    told: list[float] = []
    found = adapt(heads, BASE, "ours", 60, run, steps=40, progress=lambda done, _text: told.append(done))
    assert found.card is not None and found.gain > own_images.LEAST_GAIN
    assert found.in_words.startswith("Adopted as 'ours', which registers better (")
    assert told == sorted(told) and told[-1] == 1
    card = find_model("ours")
    assert card.folder == own / "ours" and card.card["recipe"]["steps_done"] == 40
    assert str(tmp_path) not in json.dumps(card.card)
    # What was measured is what was added: the weights on disk, on the pairs held out.
    images = prepare(find_images(heads), card, run, lambda _done, _text: None)
    pairs = own_images.Adaptation(own_images._config(card, "x", 1, 1, tmp_path, "cpu", find_images(heads)), images)
    measured = validate(load_model(card), pairs.held_out(), own_images.LAMBDAS)
    for row, other in zip(measured, found.after, strict=True):
        assert row["similarity"] == pytest.approx(other["similarity"], abs=2e-3)


def test_without_a_gain_nothing_is_added_and_a_run_goes_on_where_it_was(
    heads: Path, own: Path, run: Path, tmp_path: Path
) -> None:
    found = adapt(heads, BASE, "ours", 60, run, steps=1)
    assert found.card is None and not (own / "ours").exists()
    with pytest.raises(FileError, match="--resume"):
        adapt(heads, BASE, "ours", 60, run, steps=2)
    adapt(heads, BASE, "ours", 60, run, resume=True, steps=3)
    assert read_card(run).card["recipe"]["steps_done"] == 3
    others = Path(shutil.copytree(heads, tmp_path / "others"))
    (others / "0a.nii.gz").rename(others / "renamed.nii.gz")
    with pytest.raises(InputError, match="images differ"):
        adapt(others, BASE, "ours", 60, run, resume=True, steps=4)


def test_pairs_are_aligned(heads: Path, own: Path, run: Path) -> None:
    card = find_model(BASE)
    first, second = prepare(find_images(heads)[:2], card, run, lambda _done, _text: None)
    pair = pair_of(first, second)
    assert pair.images.shape[2:] == first.image.shape and not pair.has_structures
    apart = pair_of(first, own_images.PreparedImage(second.image, np.eye(4)))
    difference, before = ((one.images[:, 0] - one.images[:, 1]).abs().mean() for one in (pair, apart))
    assert float(difference) < 0.8 * float(before)
    # Kept for a next time, and the same; but not for another first image.
    again = prepare(find_images(heads)[:2], card, run, lambda _done, _text: None)
    assert torch.equal(pair.images, pair_of(*again).images)
    swapped = prepare(find_images(heads)[1::-1], card, run, lambda _done, _text: None)
    np.testing.assert_array_equal(swapped[0].linear, np.eye(4))
    np.testing.assert_allclose(swapped[1].linear, np.linalg.inv(second.linear), atol=3)


def test_folders_that_cannot_be_learned_from_are_refused(heads: Path, own: Path, run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no folder"):
        adapt(tmp_path / "absent", BASE, "ours", 1)
    few = tmp_path / "few"
    few.mkdir()
    shutil.copy(heads / "0a.nii.gz", few)
    with pytest.raises(InputError, match="10 or more"):
        adapt(few, BASE, "ours", 1)
    bad = tmp_path / "bad"
    shutil.copytree(heads, bad)
    (bad / "text.nii.gz").write_text("no image")
    write_volume(Volume(np.zeros((24, 30, 24), np.float32), np.eye(4)), bad / "empty.nii.gz")
    with pytest.raises(InputError, match=r"(?s)empty.*every voxel is 0.*text"):
        adapt(bad, BASE, "ours", 1, run)
    twice = tmp_path / "twice"
    shutil.copytree(heads, twice)
    shutil.copy(twice / "0a.nii.gz", twice / "copy.nii.gz")
    with pytest.raises(InputError, match="the same image"):
        adapt(twice, BASE, "ours", 1, run)
    assert [card.name for card in list_models() if card.folder.parent == own] == [BASE]


def test_names_and_models_are_checked_first(heads: Path, own: Path) -> None:
    with pytest.raises(InputError, match="already"):
        adapt(heads, BASE, BASE, 1)
    with pytest.raises(InputError, match="cannot be a model's name"):
        adapt(heads, BASE, "../ours", 1)
    with pytest.raises(InputError, match="without a network"):
        adapt(heads, "none", "ours", 1)
    assert not (heads / "hyperreg").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"similarity": 0.52}, True),
        ({"similarity": 0.5005}, False),
        ({"similarity": 0.52, "folding_percent": 0.1}, False),
        ({"similarity": 0.52, "smoothness": 0.1}, False),
    ],
    ids=["better", "hardly better", "folds", "rougher"],
)
def test_similarity_must_not_be_bought_with_folding_or_roughness(changes: dict[str, float], expected: bool) -> None:
    before = {"lambda": 0.3, "similarity": 0.5, "smoothness": 0.01, "folding_percent": 0.0}
    assert is_better([before], [{**before, **changes}], 20.0) is expected


def test_the_command_adapts_in_one_line_and_tells_the_outcome(
    heads: Path, own: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", "registration", "--images", str(heads), "--model", BASE, "--minutes", "0.01"]
    assert run_program(*arguments, "--output", str(run)) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "10 images" in told and "λ 0.3: similarity" in told and "Nothing was gained" in told
    assert run_program("train", "registration") == ExitCode.INPUT
    assert run_program("train", "registration", "--images", str(own)) == ExitCode.INPUT
    assert "10 or more" in " ".join(capsys.readouterr().err.split())
