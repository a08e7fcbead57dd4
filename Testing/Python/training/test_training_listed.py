"""Training on images of one's own: lists, preparation in mm, patches, and a run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from imaging_examples import oblique_grid
from segmentation_bench import OBLIQUE, eggs, make_card, truth
from segmentation_toy import write_config

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import SegmentationCard, read_card
from hyperreg.segmentation.session import Segmenter
from hyperreg.training import listed_cases
from hyperreg.training.deformation import rotation
from hyperreg.training.draws import Draws
from hyperreg.training.listed_cases import ListedCase, ListedCases, Numbering, cut, prepare, read_list
from hyperreg.training.segmentation import SegmentationTrainer, train
from hyperreg.training.segmentation_config import CasesConfig, read_segmentation_config

TABLE = {2: 1, 5: 2}
STILL = {"zoom": [1.0, 1.0], "scale": 0, "shift": 0, "noise": 0, "bias": 0}


def write_case(folder: Path, name: str, grid: Grid, inputs: int = 1) -> None:
    for part in ("imagesTr", "labelsTr"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for n in range(inputs):
        image = eggs(grid)
        write_volume(Volume(image.array * (1 + n) + n, grid.ijk_to_ras), folder / "imagesTr" / f"{name}_{n:04d}.nii.gz")
    write_volume(Volume(truth(grid).astype(np.uint8), grid.ijk_to_ras), folder / "labelsTr" / f"{name}.nii.gz")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four cases in nnU-Net's folders, on grids of their own."""
    folder = tmp_path_factory.mktemp("data")
    for number, grid in enumerate((OBLIQUE, oblique_grid((26, 30, 24), (2.0, 1.4, 2.0)), OBLIQUE, OBLIQUE)):
        write_case(folder, f"case{number}", grid)
    return folder


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory) -> SegmentationCard:
    return make_card(tmp_path_factory.mktemp("card"))


def write_list(folder: Path, **changes: object) -> Path:
    entries = [{"image": f"./imagesTr/case{n}_0000.nii.gz", "label": f"./labelsTr/case{n}.nii.gz"} for n in range(4)]
    content = {"training": entries[:3], "validation": entries[3:], **changes}
    path = folder / "list.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_lists_and_folders_name_the_same_cases(folder: Path) -> None:
    training, validation = read_list(write_list(folder), 1, 0)
    assert [case.label.name for case in training] == ["case0.nii.gz", "case1.nii.gz", "case2.nii.gz"]
    assert [case.label.name for case in validation] == ["case3.nii.gz"]
    for source in (folder, write_list(folder, training=[], validation=[])):
        if source.is_dir():
            again, held_out = read_list(source, 1, 1)
            assert [c.images[0].resolve() for c in again] == [c.images[0].resolve() for c in training]
            assert [c.label.name for c in held_out] == ["case3.nii.gz"]
        else:
            with pytest.raises(InputError, match="no case to train on"):
                read_list(source, 1, 1)


@pytest.mark.parametrize(
    ("changes", "inputs", "error", "words"),
    [
        ({"training": [{"image": "absent.nii.gz", "label": "l.nii.gz"}]}, 1, FileError, "do not exist.*absent"),
        ({"training": [{"image": "a.nii.gz"}]}, 1, InputError, "no image or no label"),
        ({}, 2, InputError, "names 1 images for this case, the model wants 2"),
        ({"training": 3}, 1, InputError, "is no data list"),
    ],
)
def test_wrong_lists_are_refused(folder: Path, changes: dict, inputs: int, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        read_list(write_list(folder, **changes), inputs, 0)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="labelsTr"):
        read_list(tmp_path, 1, 0)


def test_a_case_is_prepared_as_at_inference(folder: Path, card: SegmentationCard) -> None:
    (case, *_), _ = read_list(folder, 1, 0)
    images, prepared = prepare(case, card, TABLE)
    classes = prepared.array
    assert images.shape[1:] == classes.shape
    assert set(np.unique(classes)) == {0, 1, 2}
    for index, value in ((1, 0.5), (2, 1.0)):  # the scene's own grey values, where its classes lie
        inside = images[0][classes == index].astype(float)
        assert np.median(inside) == pytest.approx(value, abs=0.1)
        assert (np.abs(inside - value) < 0.2).mean() > 0.75


def test_labels_of_another_place_or_kind_are_refused(folder: Path, card: SegmentationCard, tmp_path: Path) -> None:
    (case, *_), _ = read_list(folder, 1, 0)
    with pytest.raises(InputError, match=r"none of the labels \[7\]"):
        prepare(case, card, {7: 1})
    far = OBLIQUE.ijk_to_ras.copy()
    far[0, 3] += 500
    write_volume(Volume(truth(OBLIQUE).astype(np.uint8), far), tmp_path / "far.nii.gz")
    with pytest.raises(InputError, match="does not lie on it"):
        prepare(ListedCase(case.images, tmp_path / "far.nii.gz"), card, TABLE)
    # Its origin alone was lost: it would be learned a centimetre from where it was drawn.
    near = OBLIQUE.ijk_to_ras.copy()
    near[:3, 3] += 8, -6, 4
    write_volume(Volume(truth(OBLIQUE).astype(np.uint8), near), tmp_path / "near.nii.gz")
    with pytest.raises(InputError, match="does not lie on it"):
        prepare(ListedCase(case.images, tmp_path / "near.nii.gz"), card, TABLE)


def test_patches_are_cut_varied_and_repeatable(folder: Path, card: SegmentationCard, tmp_path: Path) -> None:
    cases, _ = read_list(folder, 1, 0)
    settings = {"source": folder, "shape": (12, 16, 8)}
    still = ListedCases(cases, card, TABLE, CasesConfig(**settings, **STILL), tmp_path / "a")
    lively = ListedCases(cases, card, TABLE, CasesConfig(**settings, thick=0.5), tmp_path / "b")
    structures = 0
    for number in range(12):
        patch = still[number]
        assert patch.images.shape == (1, 1, 12, 16, 8)
        assert patch.target.shape == (1, 3, 12, 16, 8)
        torch.testing.assert_close(patch.target.sum(1), torch.ones(1, 12, 16, 8))
        # Image and target were cut at one place and flipped alike: the grey value tells the class.
        found = (patch.images[0, 0] * 2).round().clamp(0, 2).long()
        assert (found == patch.target[0].argmax(0)).float().mean() > 0.85
        structures += int(patch.target[:, 1:].sum() > 0)
        assert torch.equal(still[number].images, patch.images)
        other = lively[number]
        assert torch.isfinite(other.images).all()
        torch.testing.assert_close(other.target.sum(1), torch.ones(1, 12, 16, 8))
    assert structures >= 8
    assert not torch.equal(still[0].images, lively[0].images)
    assert len({float(lively[n].images.mean()) for n in range(6)}) == 6


def test_a_patch_larger_than_the_image_is_filled_with_background(
    folder: Path, card: SegmentationCard, tmp_path: Path
) -> None:
    cases, _ = read_list(folder, 1, 0)
    config = CasesConfig(source=folder, shape=(64, 48, 40), **STILL)
    patch = ListedCases(cases[:1], card, TABLE, config, tmp_path / "cache")[0]
    assert patch.target.shape == (1, 3, 64, 48, 40)
    assert float(patch.target[:, 0].mean()) > 0.7
    assert float(patch.target[:, 2].sum()) > 10


def test_a_run_on_listed_cases_learns_and_its_model_segments(folder: Path, tmp_path: Path) -> None:
    structures = [
        {"label": 2, "name": "Outer shell", "colour": [10, 220, 30], "numbers": [2]},
        {"label": 5, "name": "Core", "colour": [200, 30, 60], "numbers": [5]},
    ]
    cases = {"source": str(write_list(folder)), "shape": [16, 16, 16]}
    changes = {
        "synthesis": None,
        "data": "Eggs",
        "cases": cases,
        "structures": structures,
        "vae": None,
        "averaging": 0.9,
    }
    config = write_config(tmp_path, steps=60, checkpoint_every=60, validation={"cases": 1, "every": 30}, **changes)
    trained = train(config)
    first, last = (json.loads(line) for line in (trained / "validation.jsonl").read_text(encoding="utf-8").splitlines())
    assert last["rows"][0]["dice"] > 0.5
    assert {"dice", "dice Outer shell", "dice Core"} <= set(first["rows"][0])
    figures = {f"{figure}{of}" for figure in ("dice", "hd95_mm") for of in ("", " Outer shell", " Core")}
    assert set(last["rows"][0]) == {*figures, "share"}
    assert 0 < last["rows"][0]["hd95_mm"] < 30
    card = read_card(trained)
    assert card.card["recipe"]["cases"]["source"] == "list.json"
    assert card.temperature != 1, "calibrated on the held-out case"
    assert str(folder) not in json.dumps(card.card)
    grid = oblique_grid((28, 26, 22), (1.7, 2.0, 2.6))
    found = Segmenter(card, "cpu").segment({"image": eggs(grid)}).labels.array
    expected = truth(grid) > 0
    assert 2 * ((found > 0) & expected).sum() / ((found > 0).sum() + expected.sum()) > 0.6


def test_one_source_of_cases_is_needed(folder: Path, tmp_path: Path) -> None:
    cases = {"source": str(folder), "shape": [16, 16, 16]}
    for changes in ({"synthesis": None}, {"cases": cases}):
        with pytest.raises(InputError, match="give synthesis"):
            read_segmentation_config(write_config(tmp_path, **changes))
    with pytest.raises(InputError, match="say in data"):
        read_segmentation_config(write_config(tmp_path, synthesis=None, cases=cases))


def test_validation_holds_whole_cases_that_are_not_trained_on(folder: Path, tmp_path: Path) -> None:
    structures = [{"label": 2, "name": "Shell", "colour": [1, 2, 3], "numbers": [2, 5]}]
    cases = {"source": str(folder), "shape": [16, 16, 16]}
    config = write_config(tmp_path, synthesis=None, data="Eggs", cases=cases, structures=structures, vae=None)
    trainer = SegmentationTrainer(read_segmentation_config(config))
    assert len(trainer.samples.stems) == 2
    assert len(trainer.held_out()) == 2
    whole = trainer.held_out()[0]
    assert whole.target.shape[1] == 2
    assert min(whole.images.shape[2:]) > 16


def test_cases_to_validate_with_are_numbered_as_those_to_train_on(
    folder: Path, card: SegmentationCard, tmp_path: Path
) -> None:
    """3D Slicer numbers segments in the order in which they were made."""
    (first, *_), _ = read_list(folder, 1, 0)
    drawn = Volume(truth(OBLIQUE).astype(np.uint8), OBLIQUE.ijk_to_ras)
    named = []
    for name, words in (("one", ("white", "yolk")), ("other", ("yolk", "white"))):
        path = tmp_path / f"{name}.seg.nrrd"
        write_segmentation(drawn, [Structure(2, 0, words[0], (9, 9, 9)), Structure(5, 1, words[1], (5, 5, 5))], path)
        named.append(ListedCase(first.images, path))
    config, numbering = CasesConfig(source=folder, shape=(16, 16, 16)), Numbering()
    ListedCases(named[:1], card, TABLE, config, tmp_path / "training", numbering=numbering)
    with pytest.raises(InputError, match=r"'other.seg.nrrd' calls label 2 'yolk', and 'one.seg.nrrd' calls it 'white'"):
        ListedCases(named[1:], card, TABLE, config, tmp_path / "validation", numbering=numbering)


def test_turned_patches_lie_where_a_rotation_in_mm_puts_them(
    folder: Path, card: SegmentationCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, _ = read_list(folder, 1, 0)
    config = CasesConfig(source=folder, shape=(14, 12, 10), turn=1e-4, **STILL)
    patches = ListedCases(cases[:1], card, TABLE, config, tmp_path / "cache")
    images, classes = patches._arrays(0)
    start = [4, 5, 6]
    own = patches._bent(0, start, config.shape, Draws(0))
    # Hardly turned, it is the box itself; what is sampled there is what is cut there.
    wanted = np.stack(np.meshgrid(*(np.arange(n) + s for n, s in zip(config.shape, start, strict=True)), indexing="ij"))
    np.testing.assert_allclose(own.numpy(), wanted, atol=1e-3)
    patch, target = patches._sampled(images, classes, own)
    torch.testing.assert_close(
        patch[0], torch.from_numpy(cut(images, start, config.shape)).float(), atol=0.02, rtol=0.0
    )
    same = target[0].argmax(0).numpy() == cut(classes[None], start, config.shape)[0]
    assert same.mean() > 0.99
    # By 90 degrees about the third axis, distances from the middle stay as they were in mm, not in voxels.
    quarter = torch.tensor([0.0, 0.0, np.pi / 2])
    monkeypatch.setattr(listed_cases, "rotation", lambda _turn: rotation(quarter))
    size = torch.from_numpy(patches.people[0].spacing).float().view(3, 1, 1, 1)
    middle = torch.tensor([s + (n - 1) / 2 for s, n in zip(start, config.shape, strict=True)]).view(3, 1, 1, 1)
    turned = (patches._bent(0, start, config.shape, Draws(0)) - middle) * size
    straight = (torch.from_numpy(wanted) - middle) * size
    torch.testing.assert_close(turned[0], -straight[1].float(), atol=1e-3, rtol=0.0)
    torch.testing.assert_close(turned[1], straight[0].float(), atol=1e-3, rtol=0.0)


def test_bent_patches_are_repeatable_and_tell_the_class_by_the_grey_value(
    folder: Path, card: SegmentationCard, tmp_path: Path
) -> None:
    cases, _ = read_list(folder, 1, 0)
    config = CasesConfig(source=folder, shape=(12, 16, 8), turn=30, warp_mm=2, **{**STILL, "zoom": [0.8, 1.2]})
    patches = ListedCases(cases, card, TABLE, config, tmp_path / "cache")
    agreement = []
    for number in range(12):
        patch = patches[number]
        assert patch.images.shape == (1, 1, 12, 16, 8)
        torch.testing.assert_close(patch.target.sum(1), torch.ones(1, 12, 16, 8))
        assert float(patch.target.min()) > -1e-5
        assert torch.equal(patches[number].target, patch.target)
        found = (patch.images[0, 0] * 2).round().clamp(0, 2).long()
        agreement.append(float((found == patch.target[0].argmax(0)).float().mean()))
    # Interpolation between the classes 0 and 2 looks like class 1: less agreement than in patches that are only cut.
    assert np.mean(agreement) > 0.8
    assert min(agreement) > 0.6
