"""From a folder of images and label maps to a model that segments, by the commands that a newcomer types."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from cli_pair import run
from imaging_examples import oblique_grid
from segmentation_bench import centre_of, eggs, truth

from hyperreg.errors import InputError
from hyperreg.imaging.files import read_label_map, write_volume
from hyperreg.imaging.segment_files import write_segmentation
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation.catalogue import find_model
from hyperreg.training.listed_cases import person_of, read_list
from hyperreg.training.segmentation_config import read_segmentation_config
from hyperreg.training.starter import find_cases, in_time, init

STRUCTURES = [Structure(2, 0, "Right shell", (10, 220, 30)), Structure(5, 1, "Left shell", (200, 30, 60))]


def grid(number: int) -> Grid:
    """Oblique, flipped, anisotropic, each in its own place."""
    return oblique_grid((36, 32, 20), (1.5, 1.8, 2.5), (10.0 * number, -20.0, 5.0))


def write_case(folder: Path, image: str, label: str, number: int, ct: bool = False, empty: int = 0) -> None:
    for path in (folder / image, folder / label):
        path.parent.mkdir(parents=True, exist_ok=True)
    where = grid(number)
    seen, drawn = eggs(where), truth(where).astype(np.uint8)
    array = seen.array * 0.4 - 1000 if ct else seen.array
    drawn[drawn == empty] = 0
    write_volume(Volume(array.astype(np.float32), where.ijk_to_ras), folder / image)
    write_segmentation(Volume(drawn, where.ijk_to_ras, "labels"), STRUCTURES, folder / label)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(5):
        write_case(tmp_path / "mine", f"p{number}.nii.gz", f"p{number}.seg.nrrd", number)
    return tmp_path / "mine"


def test_a_folder_becomes_a_model_that_segments(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    (tmp_path / "models").mkdir()
    command = ("train", "segmentation", "--init", folder, "--name", "eggs", "--licence", "CC-BY-4.0", "--steps", 120)
    assert run(*map(str, command)) == 0
    assert "120 steps take about" in capfd.readouterr().out
    path = folder / "hyperreg" / "training.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert [s["name"] for s in config["structures"]] == ["Right shell", "Left shell"]
    assert config["cases"]["mirror"] == [[2, 5]]
    # As a newcomer may: coarser and faster than proposed. The halves of an egg are no mirror images of each other.
    config |= {"averaging": 0.9, "learning_rate": 1e-2, "precision": "float32"}
    config["cases"] |= {"mirror": None, "shape": [16, 16, 16]}
    config["grid"] |= {"spacing_mm": [2.5, 2.5, 2.5], "window": [32, 32, 32]}
    config["network"]["options"] |= {"blocks_down": [1, 1], "blocks_up": [1]}
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    assert run("train", "segmentation", "--config", str(path), "--add") == 0
    assert "min left" in capfd.readouterr().err  # the progress says how long it will take
    card = find_model("eggs")
    assert card.licence == "CC-BY-4.0"
    assert card.folder.parent == tmp_path / "models"
    write_volume(eggs(grid(7)), tmp_path / "new.nii.gz")
    assert run("segment", str(tmp_path / "new.nii.gz"), "--model", "eggs", "--out", str(tmp_path / "found.nii.gz")) == 0
    labels = read_label_map(tmp_path / "found.nii.gz")
    expected = Volume(truth(grid(7)), grid(7).ijk_to_ras)
    shell = [np.isin(volume.array, (2, 5)) for volume in (labels, expected)]
    assert 2 * (shell[0] & shell[1]).sum() / (shell[0].sum() + shell[1].sum()) > 0.7
    assert np.linalg.norm(centre_of(labels, 5) - centre_of(expected, 5)) < 4
    # A second model of that name is refused before it is trained.
    assert run("train", "segmentation", "--config", str(path), "--add") != 0
    assert "There is a model 'eggs' already" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("image", "label"),
    [("images/p{}.nii.gz", "labels/p{}.nii.gz"), ("p{}_ct.nii.gz", "p{}_labels.nii.gz"), ("p{}.nrrd", "p{}-label.mha")],
)
def test_images_find_their_label_maps(tmp_path: Path, image: str, label: str) -> None:
    for number in range(3):
        write_case(tmp_path, image.format(number), label.format(number), number)
    source, cases, inputs = find_cases(tmp_path)
    assert (source, inputs) == (None, 1)
    assert [(case.images[0].name, case.label.name) for case in cases] == [
        (Path(image.format(n)).name, Path(label.format(n)).name) for n in range(3)
    ]


def test_voxels_patches_and_grey_values_are_those_of_the_cases(tmp_path: Path) -> None:
    for number in range(5):
        write_case(tmp_path, f"images/p{number}.nii.gz", f"labels/p{number}.nii.gz", number, ct=True)
    path, _ = init(tmp_path, "mine", "none", tmp_path / "out")
    config = read_segmentation_config(path)
    # Along R, A and S; the array's axes are turned by 25 degrees and the first is flipped.
    assert config.grid["spacing_mm"] == [1.5, 1.8, 2.5]
    assert config.shape == (32, 32, 16)
    assert config.modality == "CT"
    low, high = config.intensities["window"]
    assert low == pytest.approx(-800 - 0.2 * 200, abs=25)  # the shell, 500, is -800 here, and the core -600
    assert high == pytest.approx(-600 + 0.2 * 200, abs=25)
    assert config.validation.cases == 1
    training, validation = read_list(config.cases.source, 1, 1)
    assert len(training) == 4
    assert validation[0].label.exists()


def test_labels_that_are_missing_in_half_of_the_cases_are_told(tmp_path: Path) -> None:
    for number in range(4):
        write_case(tmp_path, f"p{number}.nii.gz", f"p{number}.seg.nrrd", number, empty=5 if number % 2 else 0)
    _, notes = init(tmp_path, "mine", "none")
    assert any("'Left shell' (label 5) is missing in 2 of 4 cases" in note and "contoured" in note for note in notes)
    assert any("4 cases are few" in note for note in notes)


def test_cases_that_number_their_structures_otherwise_are_refused(folder: Path) -> None:
    """As 3D Slicer does, in the order in which segments were made."""
    name = folder / "p3.seg.nrrd"
    shells = read_label_map(name)
    swapped = Volume(np.select([shells.array == 2, shells.array == 5], [5, 2]).astype(np.uint8), shells.ijk_to_ras)
    right, left = STRUCTURES
    write_segmentation(swapped, [replace(right, label=5), replace(left, label=2)], name)
    with pytest.raises(InputError, match=r"'p3.seg.nrrd' calls label 2 'Left shell', and 'p0.seg.nrrd'.*'Right shell'"):
        init(folder, "eggs", "none")
    write_segmentation(Volume(np.where(shells.array == 2, 7, 0), shells.ijk_to_ras), [replace(right, label=7)], name)
    with pytest.raises(InputError, match=r"'Right shell' is label 7 in 'p3.seg.nrrd', and label 2 in 'p0.seg.nrrd'"):
        init(folder, "eggs", "none")


def test_two_label_maps_of_an_image_are_refused(folder: Path) -> None:
    shutil.copyfile(folder / "p1.seg.nrrd", folder / "p1_label.nrrd")
    with pytest.raises(InputError, match=r"are label maps of one image, 'p1.nii.gz'"):
        init(folder, "eggs", "none")


def test_folders_and_answers_that_do_not_do_are_refused(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for arguments, words in (
        ((tmp_path / "empty", "a", "none"), "has no images with label maps"),
        ((folder, "a b", "none"), "cannot be a model's name"),
        ((folder, "a", " "), "Name the licence"),
    ):
        with pytest.raises(InputError, match=words):
            init(*arguments)
    (folder / "p3.nii.gz").unlink()
    with pytest.raises(InputError, match=r"p3.seg.nrrd' has no image of its name"):
        init(folder, "a", "none")
    assert not (folder / "hyperreg").exists()


def test_a_configuration_is_refused_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text("name: mine\nstepz: 3\nsteps: many\nlearning_rate: -1\n", encoding="utf-8")
    assert run("train", "segmentation", "--config", str(path)) != 0
    text = " ".join(capfd.readouterr().err.split())
    for words in ("'stepz' is no setting; is steps meant?", "grid, structures", "'steps':", "(it is 'many')"):
        assert words in text
    assert "pydantic" not in text
    assert "Traceback" not in text


def test_a_patient_is_trained_on_or_validated_with_but_never_both(tmp_path: Path) -> None:
    names = ("p1", "p2_visit1", "p2_visit2", "sub-07_ses-1", "sub-07_ses-2")
    for number, name in enumerate(names):
        write_case(tmp_path, f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz", number)
    training, validation = read_list(tmp_path, 1, 1)
    assert {case.label.name for case in validation} == {"sub-07_ses-1.nii.gz", "sub-07_ses-2.nii.gz"}
    assert len(training) == 3
    entry = {n: {"image": f"imagesTr/{n}_0000.nii.gz", "label": f"labelsTr/{n}.nii.gz"} for n in names}
    path = tmp_path / "list.json"
    path.write_text(json.dumps({"training": [entry["p1"], entry["p2_visit1"]], "validation": [entry["p2_visit2"]]}))
    with pytest.raises(InputError, match=r"the same patients .* \(1, such as 'p2'\)"):
        read_list(path, 1, 1)
    entry["p2_visit2"]["patient"] = "somebody else"
    path.write_text(json.dumps({"training": [entry["p1"], entry["p2_visit1"]], "validation": [entry["p2_visit2"]]}))
    assert len(read_list(path, 1, 1)[1]) == 1


@pytest.mark.parametrize(
    ("name", "person"),
    [
        ("sub-07_ses-2_T1w.nii.gz", "sub-07"), ("P7_visit1_labels.nii.gz", "p7"), ("case_0012.nii.gz", "case_0012"),
        ("case_0013.nii.gz", "case_0013"), ("p2_followup.seg.nrrd", "p2"),
        ("smith-baseline.nrrd", "smith"), ("visit1.nii.gz", "visit1"),
    ],
)  # fmt: skip
def test_people_are_told_by_names(name: str, person: str) -> None:
    assert person_of(Path(name)) == person


def test_durations_are_said_as_people_say_them() -> None:
    assert [in_time(seconds) for seconds in (12.3, 600, 20000)] == ["12 seconds", "10 minutes", "5.6 hours"]
