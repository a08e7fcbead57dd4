"""`hyperreg fuse`: aligned label maps, one target, a cohort; files, exit codes, messages."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from atlas_bench import GRID, FakeRegistration, target, write_library
from cli_pair import FLIPPED_AND_OBLIQUE, grid, head, run
from filelock import FileLock
from fusion_bench import LABELS, body, dice, noisy, picture

from hyperreg.execution.executors import LocalExecutor
from hyperreg.fusion.atlases import AtlasSettings
from hyperreg.fusion.cohort import fuse_cohort
from hyperreg.fusion.qualities import DataParameterSettings
from hyperreg.fusion.run import Method
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.output import LOCK
from hyperreg.imaging.volume import Volume


@pytest.fixture
def readers(tmp_path: Path) -> list[str]:
    paths = []
    for seed in range(3):
        path = tmp_path / f"reader{seed}.nii.gz"
        write_volume(noisy(body(GRID), 0.1, seed), path)
        paths.append(str(path))
    return paths


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> FakeRegistration:
    registration = FakeRegistration()
    monkeypatch.setattr("hyperreg.fusion.parallel.register_atlas", registration)
    return registration


def test_aligned_label_maps(tmp_path: Path, readers: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    out, report, map_ = tmp_path / "c.nii.gz", tmp_path / "r.json", tmp_path / "d.nii.gz"
    found = run(
        "fuse", "--labels", *readers, "--method", "staple", "--out", str(out), "--report", str(report),
        "--disagreement", str(map_),
    )  # fmt: skip
    assert found == 0
    labels = read_label_map(out)
    assert labels.grid.matches(GRID)
    for label in LABELS:
        assert dice(labels.array, body(GRID).array, label) > 0.93
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert [row["name"] for row in figures["label_maps"]] == ["reader0", "reader1", "reader2"]
    assert all(0.8 < row["sensitivity"] < 1 for row in figures["label_maps"])
    assert {row["label"] for row in figures["structures"]} == set(LABELS)
    disagreement = read_volume(map_)
    shares = np.unique(np.round(disagreement.array * 3).astype(int))
    assert shares.tolist() == [0, 1, 2]
    printed = capsys.readouterr().out
    assert "reader2" in printed
    assert "sensitivity" in printed


def test_a_segmentation_for_slicer_has_names_and_colours(tmp_path: Path, readers: list[str]) -> None:
    Path(readers[0]).with_name("reader0.csv").write_text(
        "label,name,red,green,blue\n3,front,10,20,30\n300,back,,,\n12,core,,,\n", encoding="utf-8"
    )
    out = tmp_path / "c.seg.nrrd"
    assert run("fuse", "--labels", *readers, "--out", str(out), "--quiet") == 0
    image = sitk.ReadImage(str(out))
    names = {image.GetMetaData(f"Segment{n}_LabelValue"): image.GetMetaData(f"Segment{n}_Name") for n in range(3)}
    assert names == {"3": "front", "12": "core", "300": "back"}
    assert [float(part) for part in image.GetMetaData("Segment0_Color").split()] == pytest.approx(
        [10 / 255, 20 / 255, 30 / 255], abs=1e-4
    )
    # Such a file is a label map with a table for the next fusion.
    again = tmp_path / "again.seg.nrrd"
    assert run("fuse", "--labels", str(out), str(out), "--out", str(again), "--quiet") == 0
    assert sitk.ReadImage(str(again)).GetMetaData("Segment2_Name") == "back"


def test_weights_of_the_label_maps(tmp_path: Path, readers: list[str]) -> None:
    out = tmp_path / "c.nii.gz"
    assert run("fuse", "--labels", *readers, "--weights", "5,1,1", "--out", str(out), "--quiet") == 0
    assert np.array_equal(read_label_map(out).array, read_label_map(readers[0]).array)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--labels", "{0}", "--target", "{0}"], "Give either --labels"),
        (["--target", "{0}"], "Give either --labels"),
        (["{0}"], "What is"),
        (["--labels", "{0}", "{1}", "--nonsense"], "no option '--nonsense'"),
        (["--labels", "{0}", "{1}", "--method", "local"], "looks at the images"),
        (["--labels", "{0}", "{1}", "--method", "staple", "--weights", "1,2"], "Weights are for voting"),
        (["--labels", "{0}", "{1}", "--weights", "1,2,3"], "2 label maps"),
        (["--labels", "{0}", "{1}", "--weights", "1,x"], "not a list of numbers"),
        (["--labels", "{0}", "{1}", "--out", "{0}"], "one of the inputs"),
        (["--labels", "{0}", "{1}", "--out", "c.txt"], "no ending that tells the format"),
        (["--labels", "{0}", "missing.nii.gz"], "does not exist"),
    ],
)
def test_wrong_usage_is_explained(
    readers: list[str], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = run("fuse", *(argument.format(*readers) for argument in arguments))
    assert code in (2, 3)
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_one_target_by_atlases(tmp_path: Path, fake: FakeRegistration, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_library(tmp_path / "atlases")
    (folder / "labels.csv").write_text("label,name\n3,front\n300,back\n12,core\n", encoding="utf-8")
    (folder / "a2_T1.nii.gz").write_bytes(b"no image")
    write_volume(target(), tmp_path / "t.nii.gz")
    out, report = tmp_path / "s.nii.gz", tmp_path / "r.json"
    code = run(
        "fuse", "--target", str(tmp_path / "t.nii.gz"), "--atlases", str(folder), "--method", "local", "--lam", "0.3",
        "--atlas-lambda", "a3=0.6", "--out", str(out), "--report", str(report), "--jobs", "1",
        "--cache", str(tmp_path / "cache"),
    )  # fmt: skip
    assert code == 0
    for label in LABELS:
        assert dice(read_label_map(out).array, body(GRID).array, label) > 0.88
    figures = json.loads(report.read_text(encoding="utf-8"))
    states = {row["name"]: row["state"] for row in figures["atlases"]}
    assert states == {"a1": "used", "a2": "left out", "a3": "used", "a4": "used"}
    assert {row["name"]: row["lam"] for row in figures["atlases"]}["a3"] == 0.6
    assert [row["name"] for row in figures["structures"]] == ["front", "core", "back"]
    assert "Left out: a2" in capsys.readouterr().err.replace("\n", " ")


def test_data_parameters_train_and_answer(
    tmp_path: Path, fake: FakeRegistration, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_library(tmp_path / "atlases", ("a1", "a2"))
    write_volume(target(), tmp_path / "t.nii.gz")
    out, report, plot = (tmp_path / name for name in ("s.nii.gz", "r.json", "weights.png"))
    monkeypatch.setattr(
        "hyperreg.fusion.learned.DataParameterSettings",
        partial(DataParameterSettings, warm_up=1, most_voxels=16**3, answer_every=1),
    )
    code = run(
        "fuse", "--target", str(tmp_path / "t.nii.gz"), "--atlases", str(folder), "--method", "dp", "--steps", "3",
        "--out", str(out), "--report", str(report), "--plot", str(plot), "--no-cache", "--quiet", "--jobs", "1",
    )  # fmt: skip
    assert code == 0
    figures = json.loads(report.read_text(encoding="utf-8"))
    assert figures["method"] == "dp"
    assert sum(row["weight"] for row in figures["label_maps"]) == pytest.approx(1)
    learned = figures["data_parameters"]
    assert (learned["steps"], learned["finished"], learned["history_steps"]) == (3, True, [1, 2, 3])
    assert [row["name"] for row in learned["atlases"]] == ["a1", "a2"]
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert figures["outputs"]["plot"] == str(plot)


def states_in(results: Path) -> dict[str, str]:
    with (results / "quality.csv").open(encoding="utf-8") as file:
        return {row["target"]: row["state"] for row in csv.DictReader(file)}


def test_a_cohort_goes_on_after_a_failure_and_where_it_stopped(
    tmp_path: Path, fake: FakeRegistration, capsys: pytest.CaptureFixture[str]
) -> None:
    targets, results = tmp_path / "targets", tmp_path / "results"
    targets.mkdir()
    write_volume(target(), targets / "one.nii.gz")
    (targets / "two.nii.gz").write_bytes(b"broken")
    write_volume(picture(GRID, (1, 0, 0)), targets / "three.nii.gz")
    arguments = [
        "fuse", "--targets", str(targets), "--atlases", str(write_library(tmp_path / "atlases")), "--out", str(results),
        "--cache", str(tmp_path / "cache"), "--jobs", "1",
    ]  # fmt: skip
    assert run(*arguments) == 1
    captured = capsys.readouterr()
    assert "two" in captured.err
    assert "2 of 3 targets done" in captured.out
    assert sorted(path.name for path in results.glob("[!.]*")) == [
        "one_labels.nii.gz", "one_report.json", "quality.csv", "three_labels.nii.gz", "three_report.json",
    ]  # fmt: skip
    with (results / "quality.csv").open(encoding="utf-8") as file:
        rows = {row["target"]: row for row in csv.DictReader(file)}
    assert rows["two"]["state"] == "failed"
    assert rows["one"]["atlases_used"] == "4"
    assert json.loads((results / "one_report.json").read_text(encoding="utf-8"))["method"] == "local"
    assert 0 < float(rows["one"]["dice_with_consensus_mean"]) <= 1
    calls = len(fake.calls)
    write_volume(target(), targets / "two.nii.gz")
    assert run(*arguments, "--quiet") == 0
    assert states_in(results) == {"one": "done before", "two": "done", "three": "done before"}
    assert len(fake.calls) == calls  # the same image as 'one': its registrations are known
    # Another scan under the old name, and then corrected labels of an atlas: nothing of before is good any more.
    write_volume(picture(GRID, (0, 1, 0)), targets / "three.nii.gz")
    assert run(*arguments, "--quiet") == 0
    assert states_in(results) == {"one": "done before", "two": "done before", "three": "done"}
    atlas = read_label_map(tmp_path / "atlases" / "a1_labels.nii.gz")
    corrected = Volume(np.where(atlas.array == 12, 3, atlas.array), atlas.ijk_to_ras, "a1")
    write_volume(corrected, tmp_path / "atlases" / "a1_labels.nii.gz")
    assert run(*arguments, "--quiet") == 0
    assert set(states_in(results).values()) == {"done"}
    assert run(*arguments, "--quiet") == 0
    assert set(states_in(results).values()) == {"done before"}
    (tmp_path / "atlases" / "labels.csv").write_text("label,name\n3,front\n", encoding="utf-8")
    assert run(*arguments, "--quiet") == 0
    assert set(states_in(results).values()) == {"done"}
    assert run(*arguments, "--quiet", "--method", "staple") == 0
    report = json.loads((results / "one_report.json").read_text(encoding="utf-8"))
    assert report["method"] == "staple"


def test_two_runs_in_one_folder_are_refused_and_a_cluster_is_for_many_images(
    tmp_path: Path, fake: FakeRegistration, capsys: pytest.CaptureFixture[str]
) -> None:
    targets, results = tmp_path / "targets", tmp_path / "results"
    targets.mkdir()
    results.mkdir()
    write_volume(target(), targets / "one.nii.gz")
    atlases = ["--atlases", str(write_library(tmp_path / "atlases")), "--out", str(results)]
    with FileLock(results / LOCK):
        assert run("fuse", "--targets", str(targets), *atlases) == 2
    assert "Another run works in" in capsys.readouterr().err.replace("\n", " ")
    assert run("fuse", "--target", str(targets / "one.nii.gz"), *atlases, "--executor", "ray") == 2
    assert "many images of --targets" in capsys.readouterr().err.replace("\n", " ")
    assert list(results.glob("[!.]*")) == []


def write_heads(folder: Path, centres: Sequence[tuple[float, float, float]]) -> Path:
    """Generated heads with their label maps."""
    folder.mkdir()
    for number, centre in enumerate(centres):
        image, labels = head(grid((40, 40, 40), (2.5, 2.5, 2.2 + 0.1 * number), centre), (35, 39, 33), f"m{number}")
        write_volume(image, folder / f"m{number}.nii.gz")
        write_volume(labels, folder / f"m{number}_labels.nii.gz")
    return folder


def test_targets_are_done_by_an_executor_s_processes(tmp_path: Path, tiny_model: str) -> None:
    """Real ones: tasks that travel, atlases that each process reads, results that this one knows again."""
    heads = write_heads(tmp_path / "heads", ((12, -18, 29), (8, -22, 33)))
    settings = AtlasSettings(lam=1.0, model=tiny_model, device="cpu", jobs=1)
    both = [
        fuse_cohort(heads, heads, settings, Method("vote"), tmp_path / "out", LocalExecutor(jobs, "cpu"))
        for jobs in (2, 1)
    ]
    assert [(row["target"], row["state"]) for row in both[0]] == [("m0", "done"), ("m1", "done")]
    assert [row["state"] for row in both[1]] == ["done before"] * 2
    truth, found = (read_label_map(folder / "m1_labels.nii.gz") for folder in (heads, tmp_path / "out"))
    assert dice(found.array, truth.array, 7) > 0.85


@pytest.mark.slow
def test_real_registrations_in_two_processes(tmp_path: Path, tiny_model: str) -> None:
    folder = write_heads(tmp_path / "atlases", ((12, -18, 29), (8, -22, 33)))
    fixed, truth = head(grid((44, 50, 28), (2, 2, 3), (10, -20, 30)), (34, 40, 34), "fixed")
    write_volume(fixed, tmp_path / "t.nii.gz")
    out = tmp_path / "s.nii.gz"
    code = run(
        "fuse", "--target", str(tmp_path / "t.nii.gz"), "--atlases", str(folder), "--model", tiny_model,
        "--out", str(out), "--cache", str(tmp_path / "cache"), "--jobs", "2", "--quiet", "--lam", "1",
    )  # fmt: skip
    assert code == 0
    found = read_label_map(out)
    assert np.linalg.det(FLIPPED_AND_OBLIQUE) != 0
    assert found.grid.matches(Volume(truth.array, truth.ijk_to_ras).grid)
    for label in (3, 7, 12):
        assert dice(found.array, truth.array, label) > 0.85
    assert len(list((tmp_path / "cache").iterdir())) == 4
