"""`hyperreg segment`: what it writes, what it reports, and that failures leave nothing behind."""

from __future__ import annotations

import csv
import hashlib
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from cli_pair import run
from imaging_examples import affine
from segmentation_bench import CORE, NETWORKS, OBLIQUE, SHELL, centre_of, eggs, make_model, scene_centre, truth

from hyperreg.cli.console import ExitCode
from hyperreg.cohort.segmenting import ImageTask, segment_image
from hyperreg.errors import InputError
from hyperreg.execution.executors import mark
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.structures import Structure
from hyperreg.imaging.volume import Grid, Volume
from hyperreg.segmentation import licences, model, session
from hyperreg.segmentation.run import Case, probability_file

INPUTS = [
    {"name": "T1", "title": "T1", "patterns": ["t1w"]},
    {"name": "FLAIR", "title": "T2 FLAIR", "patterns": ["t2f"]},
]


@pytest.fixture(scope="module", autouse=True)
def known_networks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models, and a case of two images on grids of their own."""
    folder = tmp_path_factory.mktemp("case")
    models = [make_model(folder / "models", "bands"), make_model(folder / "models", "two", inputs=INPUTS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(folder / "models"))
        for card in models:
            licences.accept(card)
    other = Grid((40, 40, 40), np.array([[0, -2.5, 0, 95], [0, 0, 2.5, -60], [2.5, 0, 0, -20], [0, 0, 0, 1.0]]))
    write_volume(eggs(OBLIQUE, name="head"), folder / "p_t1w.nii.gz")
    write_volume(eggs(other, scene_centre(OBLIQUE), "head"), folder / "p_t2f.nii.gz")
    write_volume(Volume(truth(OBLIQUE).astype(np.uint8), OBLIQUE.ijk_to_ras), folder / "labels.nii.gz")
    return folder


@pytest.fixture(autouse=True)
def models(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYPERREG_MODELS", str(folder / "models"))


def segment(
    folder: Path, out: Path, *more: str, name: str = "bands", files: tuple[str, ...] = ("p_t1w.nii.gz",)
) -> int:
    images = [str(folder / file) for file in files]
    return run("segment", *images, "--model", name, "--device", "cpu", "--out", str(out), *more)


def error_of(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("ending", [".nii.gz", ".seg.nrrd"])
def test_the_segmentation_lies_where_the_structures_are(folder: Path, tmp_path: Path, ending: str) -> None:
    assert segment(folder, tmp_path / f"s{ending}") == 0
    found = read_volume(tmp_path / f"s{ending}")
    assert found.grid.matches(OBLIQUE)
    expected = Volume(truth(OBLIQUE), OBLIQUE.ijk_to_ras)
    for label in (2, 5):
        assert np.linalg.norm(centre_of(found, label) - centre_of(expected, label)) < 0.5
    assert (found.array != expected.array).mean() < 0.03


def test_an_image_larger_than_the_memory_is_refused_before_it_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """400 TB of voxels, of which the file holds none."""
    text = (
        "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 70000 70000 80000\nencoding: raw\nspace: left-posterior-superior\n"
    )
    text += "space directions: (1,0,0) (0,1,0) (0,0,1)\nspace origin: (0,0,0)\n\n"
    (tmp_path / "huge.nrrd").write_text(text, encoding="utf-8")
    out = tmp_path / "s.nii.gz"
    assert run("segment", str(tmp_path / "huge.nrrd"), "--model", "bands", "-o", str(out)) != 0
    told = " ".join(capsys.readouterr().err.split())
    assert "'huge.nrrd' has 70000 x 70000 x 80000 voxels: that needs at least 5096000.0 GB of memory" in told
    assert "Crop the image" in told
    assert not out.exists()


def test_every_output_is_written_and_agrees_with_the_report(folder: Path, tmp_path: Path) -> None:
    more = ("--probabilities", "--uncertainty", str(tmp_path / "u.nii.gz"), "--report", str(tmp_path / "r.json"))
    assert segment(folder, tmp_path / "s.seg.nrrd", *more, "--flips") == 0
    names = ["r.json", "s-probability-2-outer-shell.nrrd", "s-probability-5-core.nrrd", "s.seg.nrrd", "u.nii.gz"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    labels = read_volume(tmp_path / "s.seg.nrrd")
    voxel_ml = float(np.prod(OBLIQUE.spacing)) / 1000
    for row in report["structures"]:
        mask = labels.array == row["label"]
        assert row["volume_ml"] == pytest.approx(mask.sum() * voxel_ml, rel=1e-3)
        assert row["volume_sure_ml"] <= row["volume_ml"] <= row["volume_doubtful_ml"]
        file = next(tmp_path.glob(f"s-probability-{row['label']}-*"))
        probability = read_volume(file)
        assert probability.grid.matches(OBLIQUE)
        assert (probability.array >= 0.75).sum() * voxel_ml == pytest.approx(row["volume_sure_ml"], abs=2 * voxel_ml)
        assert probability.array[mask].mean() == pytest.approx(row["mean_probability"], abs=1e-3)
    doubt = read_volume(tmp_path / "u.nii.gz")
    assert doubt.grid.matches(OBLIQUE)
    weights = (folder / "models" / "bands" / "weights.safetensors").read_bytes()
    assert report["model"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert report["inputs"]["image"]["spacing_mm"] == [1.5, 2, 3]
    assert report["seen_by_the_model"]["spacing_mm"] == [2, 2, 2]
    assert report["seen_by_the_model"]["resampled"] is True
    assert len(report["steps"]) == 1
    assert report["steps"][0].startswith("on the CPU in windows of")
    assert {"read", "load", "align", "prepare", "network", "result", "write"} == set(report["timing_s"])
    assert "not calibrated" in report["figures"]


def test_the_terminal_shows_volumes_and_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert segment(folder, tmp_path / "s.nii.gz") == 0
    text = capsys.readouterr().out
    assert "Outer shell" in text
    assert str(tmp_path / "s.nii.gz") in text
    assert segment(folder, tmp_path / "t.nii.gz", "--quiet") == 0
    assert capsys.readouterr().out == ""


def test_several_inputs_are_told_apart_by_name_and_lie_on_the_first_one_s_grid(folder: Path, tmp_path: Path) -> None:
    files = ("p_t2f.nii.gz", "p_t1w.nii.gz")
    assert segment(folder, tmp_path / "a.nii.gz", name="two", files=files) == 0
    assert read_volume(tmp_path / "a.nii.gz").shape == (40, 40, 40)
    assert segment(folder, tmp_path / "b.nii.gz", name="two", files=files[::-1]) == 0
    found = read_volume(tmp_path / "b.nii.gz")
    assert found.grid.matches(OBLIQUE)
    assert np.linalg.norm(centre_of(found, 5) - centre_of(read_volume(tmp_path / "a.nii.gz"), 5)) < 0.5


def test_a_name_can_be_given_to_a_file(folder: Path, tmp_path: Path) -> None:
    images = [f"FLAIR={folder / 'p_t1w.nii.gz'}", f"T1={folder / 'p_t2f.nii.gz'}"]
    assert (
        run(
            "segment",
            *images,
            "--model",
            "two",
            "--out",
            str(tmp_path / "s.nii.gz"),
            "--report",
            str(tmp_path / "r.json"),
        )
        == 0
    )
    report = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert report["inputs"]["FLAIR"]["file"].endswith("p_t1w.nii.gz")
    assert read_volume(tmp_path / "s.nii.gz").grid.matches(OBLIQUE)


def test_images_that_moved_are_aligned_on_request(folder: Path, tmp_path: Path) -> None:
    """FLAIR decides here (its file is given as T1): 8 mm and 10 degrees away, it is brought back to the first image."""
    centre = scene_centre(OBLIQUE)
    fine = Grid((60, 56, 48), affine(0, (1, 0, 0), (0, 0, 0), (1.2, 1.2, 1.2)))
    fine = Grid(fine.shape, affine(0, (1, 0, 0), tuple(centre - fine.centre), (1.2, 1.2, 1.2)))
    write_volume(eggs(fine, centre), tmp_path / "first.nii.gz")
    moved = affine(10, (0, 0, 1), (8, 0, 0)) @ fine.ijk_to_ras
    moved[:3, 3] += centre - affine(10, (0, 0, 1), (0, 0, 0))[:3, :3] @ centre
    write_volume(Volume(eggs(fine, centre).array, moved), tmp_path / "moved.nii.gz")
    images = [f"FLAIR={tmp_path / 'first.nii.gz'}", f"T1={tmp_path / 'moved.nii.gz'}", "--model", "two"]
    errors = {}
    for name, more in {"headers": [], "aligned": ["--align", "--report", str(tmp_path / "r.json")]}.items():
        out = tmp_path / f"{name}.nii.gz"
        assert run("segment", *images, "--device", "cpu", "--out", str(out), *more) == 0
        expected = Volume(truth(fine, centre), fine.ijk_to_ras)
        errors[name] = np.linalg.norm(centre_of(read_volume(out), 5) - centre_of(expected, 5))
    assert errors["headers"] > 6
    assert errors["aligned"] < 1
    matrix = np.array(json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["alignment_ras"]["T1"])
    np.testing.assert_allclose(np.linalg.det(matrix[:3, :3]), 1, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "files", "code", "words"),
    [
        ("two", ("p_t1w.nii.gz",), ExitCode.INPUT, "missing: FLAIR (T2 FLAIR)"),
        ("bands", ("p_t1w.nii.gz", "p_t2f.nii.gz"), ExitCode.INPUT, "takes one image"),
        ("bands", ("labels.nii.gz",), ExitCode.INPUT, "looks like a label map"),
        ("bands", ("absent.nii.gz",), ExitCode.FILE, "does not exist"),
        ("no-model", ("p_t1w.nii.gz",), ExitCode.WEIGHTS, "There is no model 'no-model'. Models found: bands,"),
        ("bands", ("channels_last.nii.gz",), ExitCode.INPUT, "4D image with 4 volumes"),
        ("bands", ("one_slice.nii.gz",), ExitCode.INPUT, "fewer than 4 slices"),
        ("bands", ("ct.nii.gz",), ExitCode.INPUT, "looks like a CT"),
        ("bands", ("cut.nii.gz",), ExitCode.FILE, "damaged or was cut short"),
        ("bands", ("empty.nii.gz",), ExitCode.INPUT, "is empty"),
        ("bands", ("channels.nrrd",), ExitCode.INPUT, "4 values per voxel"),
        ("bands", ("flat.nii.gz",), ExitCode.INPUT, "is a 2D image"),
        ("bands", ("sheared.nii.gz",), ExitCode.INPUT, "not at right angles"),
        ("bands", ("nan.nii.gz",), ExitCode.INPUT, "'nan' holds no numbers"),
        ("bands", ("text.nii.gz",), ExitCode.FILE, "not an image"),
    ],
)
def test_unusable_input_is_named_and_leaves_nothing_behind(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    files: tuple,
    code: ExitCode,
    words: str,
) -> None:
    image = eggs(OBLIQUE)
    sitk.WriteImage(sitk.JoinSeries([sitk.GetImageFromArray(image.array)] * 4), str(folder / "channels_last.nii.gz"))
    write_volume(Volume(image.array[:, :, 9:10], image.ijk_to_ras), folder / "one_slice.nii.gz")
    write_volume(Volume(2 * image.array - 1024, image.ijk_to_ras), folder / "ct.nii.gz")
    write_volume(Volume(0 * image.array, image.ijk_to_ras), folder / "empty.nii.gz")
    channels = np.stack([image.array.T] * 4, axis=-1)
    sitk.WriteImage(sitk.GetImageFromArray(channels, isVector=True), str(folder / "channels.nrrd"))
    sitk.WriteImage(sitk.GetImageFromArray(image.array[:, :, 9].T), str(folder / "flat.nii.gz"))
    shear = image.ijk_to_ras.copy()
    shear[:3, 0] += 0.5 * shear[:3, 1]
    nib.Nifti1Image(image.array, shear).to_filename(folder / "sheared.nii.gz")
    write_volume(Volume(np.full_like(image.array, np.nan), image.ijk_to_ras), folder / "nan.nii.gz")
    (folder / "text.nii.gz").write_text("no image", encoding="utf-8")
    (folder / "cut.nii.gz").write_bytes((folder / "p_t1w.nii.gz").read_bytes()[:-2000])
    more = ("--report", str(tmp_path / "r.json"), "--probabilities")
    assert segment(folder, tmp_path / "s.nii.gz", *more, name=name, files=files) == code
    assert words in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_names_that_cannot_be_written_are_refused_first(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "load_model", lambda *_: pytest.fail("computed"))
    assert segment(folder, tmp_path / "s.txt") == ExitCode.INPUT
    assert segment(folder, tmp_path / "s.nii.gz", "--uncertainty", str(tmp_path / "u.png")) == ExitCode.INPUT
    assert segment(folder, folder / "p_t1w.nii.gz") == ExitCode.INPUT
    assert segment(folder, tmp_path / "absent" / "s.nii.gz") == ExitCode.FILE
    image = str(folder / "p_t1w.nii.gz")
    assert run("segment", image, "--model", "bands", "--probabilities") == ExitCode.INPUT


def test_lack_of_memory_has_its_code_and_words(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(session, "main_memory", lambda: (1000, 1000))
    assert segment(folder, tmp_path / "s.nii.gz") == ExitCode.MEMORY
    assert "Crop the image" in error_of(capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_cancelled_run_leaves_older_files_as_they_were(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.nii.gz").write_text("old", encoding="utf-8")

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "decide", interrupted)
    assert segment(folder, tmp_path / "s.nii.gz") == ExitCode.CANCELLED
    assert [path.name for path in tmp_path.iterdir()] == ["s.nii.gz"]
    assert (tmp_path / "s.nii.gz").read_text(encoding="utf-8") == "old"


@pytest.mark.parametrize(
    ("out", "expected"),
    [("a.seg.nrrd", "a-probability-2-outer-shell.nrrd"), ("b.v2.nii.gz", "b.v2-probability-2-outer-shell.nii.gz")],
)
def test_probability_files_are_named_after_the_segmentation(out: str, expected: str) -> None:
    assert CORE["label"] != SHELL["label"]
    assert probability_file(Path("x") / out, Structure(2, 1, "Outer shell", (0, 0, 0))) == Path("x") / expected


def test_a_folder_of_images_goes_on_after_a_failure_and_where_it_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    heads, results = tmp_path / "heads", tmp_path / "results"
    heads.mkdir()
    write_volume(eggs(OBLIQUE, name="head"), heads / "one.nii.gz")
    (heads / "two.nii.gz").write_bytes(b"broken")
    arguments = ["segment", "--targets", str(heads), "--out", str(results), "--device", "cpu", "--jobs", "1"]

    def rows() -> dict[str, dict[str, str]]:
        with (results / "quality.csv").open(encoding="utf-8") as file:
            return {row["target"]: row for row in csv.DictReader(file)}

    assert run(*arguments, "--model", "bands") == ExitCode.OTHER
    captured = capsys.readouterr()
    assert "two" in captured.err and "1 of 2 targets done" in captured.out
    assert sorted(path.name for path in results.glob("[!.]*")) == [
        "one_labels.nii.gz", "one_report.json", "quality.csv",
    ]  # fmt: skip
    report = json.loads((results / "one_report.json").read_text(encoding="utf-8"))
    first = report["structures"][0]
    assert float(rows()["one"][f"{first['name']}, ml"]) == pytest.approx(first["volume_ml"])
    found = read_label_map(results / "one_labels.nii.gz")
    assert found.grid.matches(OBLIQUE)
    write_volume(eggs(OBLIQUE, name="head"), heads / "two.nii.gz")
    assert run(*arguments, "--model", "bands", "--quiet") == 0
    assert {name: row["state"] for name, row in rows().items()} == {"one": "done before", "two": "done"}
    assert run(*arguments, "--model", "bands", "--quiet", "--islands") == 0
    assert {row["state"] for row in rows().values()} == {"done"}
    # A model of two images cannot be told which is which in a folder of one for each case.
    assert run(*arguments, "--model", "two") == 2
    assert "wants 2 images" in error_of(capsys)


def test_results_that_cannot_be_right_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"target": name, "state": "done", "plausible": name != "foot"} for name in ("head", "foot")]
    monkeypatch.setattr("hyperreg.cohort.segmenting.segment_images", lambda *_: rows)
    assert run("segment", "--model", "bands", "--targets", str(tmp_path), "--out", str(tmp_path / "out")) == 0
    captured = capsys.readouterr()
    assert "DO NOT USE THIS RESULT: foot" in captured.err and "head" not in captured.err
    assert "2 of 2 targets done" in captured.out


@pytest.mark.parametrize(
    ("more", "word"),
    [
        (["--targets", ".", "--out", "somewhere", "--uncertainty", "u.nii.gz"], "single case"),
        (["--targets", "."], "single case"),
        (["image.nii.gz", "--executor", "ray"], "many images"),
        (["image.nii.gz", "--address", "auto"], "many images"),
        ([], "Name the image"),
    ],
)
def test_what_belongs_to_one_case_or_to_many_is_told(
    more: list[str], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("segment", "--model", "bands", *more) == 2
    assert word in error_of(capsys)


def test_a_machine_with_another_model_of_that_name_says_so(folder: Path, tmp_path: Path) -> None:
    task = ImageTask(folder / "p_t1w.nii.gz", Case((), "bands", "cpu"), "another sum", tmp_path, mark(tmp_path))
    with pytest.raises(InputError, match="another model under the name 'bands'"):
        segment_image(task, lambda *_told: None)
    assert list(tmp_path.glob("[!.]*")) == []
