"""`hyperreg register`: what it writes, that its files agree with each other, and that failures leave nothing behind."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from cli_pair import PairFiles, run, write_pair

from hyperreg.errors import FileError
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import write_transform
from hyperreg.imaging.volume import DisplacementField, Volume
from hyperreg.registration import run as run_module


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


@pytest.fixture(scope="module")
def registered(tmp_path_factory: pytest.TempPathFactory, tiny_models: Path) -> PairFiles:
    """A pair after `hyperreg register` with every output."""
    files = write_pair(tmp_path_factory.mktemp("registered"))
    out = files.results
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYPERREG_MODELS", str(tiny_models))
        code = run(
            "register", *files.images, *files.labels, "--lam", "0.2", "--init", "com", "--model", "tiny-untrained",
            "--out-volume", str(out / "w.nii.gz"), "--out-transform", str(out / "t.h5"),
            "--out-inverse", str(out / "i.h5"), "--out-labels", str(out / "l.nii.gz"), "--report", str(out / "r.json"),
        )  # fmt: skip
    assert code == 0
    return files


def report_of(files: PairFiles) -> dict:
    return json.loads((files.results / "r.json").read_text(encoding="utf-8"))


def test_nothing_but_the_outputs_is_left(registered: PairFiles) -> None:
    assert registered.left_behind() == ["i.h5", "l.nii.gz", "r.json", "t.h5", "w.nii.gz"]


def test_simpleitk_alone_makes_the_same_volume_from_the_saved_transform(registered: PairFiles) -> None:
    fixed, moving = sitk.ReadImage(str(registered.fixed)), sitk.ReadImage(str(registered.moving))
    transform = sitk.ReadTransform(str(registered.results / "t.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, transform, sitk.sitkLinear, 0.0))
    saved_image = sitk.ReadImage(str(registered.results / "w.nii.gz"))
    saved = sitk.GetArrayFromImage(saved_image)
    np.testing.assert_allclose(saved_image.GetOrigin(), fixed.GetOrigin(), atol=1e-3)
    np.testing.assert_allclose(saved_image.GetDirection(), fixed.GetDirection(), atol=1e-5)
    difference = np.abs(saved - expected)
    assert np.quantile(difference, 0.999) < 1e-2 * np.ptp(expected)
    # The transform does something: without it the volume would be another one.
    undeformed = sitk.GetArrayFromImage(sitk.Resample(moving, fixed, sitk.Transform(), sitk.sitkLinear, 0.0))
    assert np.abs(saved - undeformed).mean() > 50 * difference.mean()


def test_the_saved_inverse_leads_back(registered: PairFiles) -> None:
    forward = sitk.ReadTransform(str(registered.results / "t.h5"))
    inverse = sitk.ReadTransform(str(registered.results / "i.h5"))
    fixed = read_volume(registered.fixed)
    random = np.random.default_rng(1)
    ras = fixed.grid.to_ras(random.uniform(0.2, 0.8, (400, 3)) * (np.array(fixed.shape) - 1))
    points = ras * (-1, -1, 1)
    moved = np.array([forward.TransformPoint(point) for point in points])
    back = np.array([inverse.TransformPoint(point) for point in moved])
    assert np.linalg.norm(moved - points, axis=1).mean() > 0.5
    assert np.quantile(np.linalg.norm(back - points, axis=1), 0.99) < 0.1


def test_the_labels_are_the_moving_ones_through_the_same_transform(registered: PairFiles) -> None:
    fixed = sitk.ReadImage(str(registered.fixed))
    labels = sitk.ReadImage(str(registered.moving_labels))
    transform = sitk.ReadTransform(str(registered.results / "t.h5"))
    expected = sitk.GetArrayFromImage(sitk.Resample(labels, fixed, transform, sitk.sitkNearestNeighbor, 0))
    saved = sitk.GetArrayFromImage(sitk.ReadImage(str(registered.results / "l.nii.gz")))
    assert set(np.unique(saved)) == {0, 3, 7, 12}
    assert np.issubdtype(saved.dtype, np.integer)
    assert (saved != expected).mean() < 1e-3


def test_the_report_s_dice_is_that_of_the_saved_labels(registered: PairFiles) -> None:
    fixed = read_volume(registered.fixed_labels).array
    warped = read_volume(registered.results / "l.nii.gz").array
    dice = report_of(registered)["dice"]
    assert set(dice["labels"]) == {"3", "7", "12"}
    for label, values in dice["labels"].items():
        one, two = fixed == int(label), warped == int(label)
        assert values["after"] == pytest.approx(2 * (one & two).sum() / (one.sum() + two.sum()), abs=2e-3)
    mean = np.mean([values["after"] for values in dice["labels"].values()])
    assert dice["mean_after"] == pytest.approx(mean)
    assert dice["mean_before"] != pytest.approx(mean, abs=1e-6)


def test_the_report_says_what_was_done_with_what(registered: PairFiles, tiny_models: Path) -> None:
    report = report_of(registered)
    weights = tiny_models / "tiny-untrained" / "weights.safetensors"
    assert report["model"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert report["lambda"] == 0.2
    assert report["initial"] == "com"
    assert report["device"] in ("cpu", "cuda")
    assert report["fixed"]["spacing_mm"] == [2, 2, 3]
    assert report["moving"]["shape"] == [40, 40, 40]
    assert report["outputs"]["transform"].endswith("t.h5")
    assert {"hyperreg", "torch", "SimpleITK"} <= set(report["versions"])
    assert {"read", "prepare", "field", "write", "check"} <= set(report["timing_s"])
    assert report["timing_s"]["prepare"] > 0
    assert {"similarity", "similarity_before", "folding_percent", "displacement_max_mm"} <= set(report["metrics"])
    # Both ellipsoids lie centred on their grids: the centres of mass are near (2, 2, -1) mm apart.
    translation = np.array(report["linear_ras"])[:3, 3]
    np.testing.assert_allclose(translation, (2, 2, -1), atol=1.5)
    assert report["checks"]["volume_and_transform_difference"] < 1e-3
    assert report["checks"]["inverse_error_mm"]["p99"] < 0.1


@pytest.mark.parametrize("name", ["t.tfm", "t.nii.gz", "t.nrrd"])
def test_every_transform_format_agrees_with_the_volume(pair: PairFiles, tiny_model: str, name: str) -> None:
    out = pair.results
    volume, transform, report = (str(out / n) for n in ("w.nrrd", name, "r.json"))
    code = run(
        "register", *pair.images, "--init", "none", "--model", tiny_model, "-q", "--lam", "0",
        "--out-volume", volume, "--out-transform", transform, "--report", report,
    )  # fmt: skip
    assert code == 0
    assert report_of(pair)["checks"]["volume_and_transform_difference"] < 1e-3
    assert report_of(pair)["dice"] is None


def test_an_initial_transform_from_a_file_is_used(pair: PairFiles, tiny_model: str) -> None:
    start = np.eye(4)
    start[:3, 3] = (2, 2, -1)
    write_transform(Transform((start,)), pair.results / "start.tfm")
    report = str(pair.results / "r.json")
    code = run(
        "register", *pair.images, "--model", tiny_model, "--init", str(pair.results / "start.tfm"), "--report", report
    )
    assert code == 0
    np.testing.assert_allclose(report_of(pair)["linear_ras"], start, atol=1e-6)


def test_a_network_does_not_start_from_a_deformation(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fixed = read_volume(pair.fixed)
    field = DisplacementField(np.ones((3, *fixed.shape), np.float32), fixed.ijk_to_ras)
    write_transform(Transform((field,)), pair.results / "bent.h5")
    code = run("register", *pair.images, "--model", tiny_model, "--init", str(pair.results / "bent.h5"))
    assert code == 2
    assert "starts from a linear alignment only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--lam", "1.5"], 2, "λ"),
        (["--lam", "nan"], 2, "λ"),
        (["--out-labels", "RESULTS/l.nii.gz"], 2, "no moving label map"),
        (["--out-volume", "RESULTS/w.jpeg"], 2, "w.jpeg"),
        (["--out-transform", "RESULTS/t.xfm"], 2, "t.xfm"),
        (["--out-volume", "RESULTS/a.nii.gz", "--out-inverse", "RESULTS/a.nii.gz"], 2, "two outputs"),
        (["--out-volume", "FIXED"], 2, "one of the inputs"),
        (["--out-volume", "RESULTS/nowhere/w.nii.gz"], 3, "does not exist"),
        (["--init", "RESULTS/none.tfm"], 3, "neither one of"),
        (["--model", "unheard-of"], 4, "unheard-of"),
        (["--fixed-labels", "MOVING", "--moving-labels", "MOVING"], 2, "not a label map"),
    ],
)  # fmt: skip
def test_a_wrong_request_is_one_clear_line(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, said: str
) -> None:
    places = {"RESULTS": str(pair.results), "FIXED": str(pair.fixed), "MOVING": str(pair.moving)}
    for name, place in places.items():
        arguments = [word.replace(name, place) for word in arguments]
    assert run("register", *pair.images, "--init", "none", "-q", "--model", tiny_model, *arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("hyperreg: ")
    assert said in error
    assert error.count("\n") == 1
    assert pair.left_behind() == []


def test_one_image_twice_is_refused(pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("register", str(pair.fixed), str(pair.fixed), "-q", "--model", tiny_model) == 2
    assert "same image" in capsys.readouterr().err


def test_a_figure_that_could_not_be_measured_is_null_in_the_report(
    pair: PairFiles, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    measure = run_module.LiveSession.measure
    monkeypatch.setattr(
        run_module.LiveSession, "measure", lambda *args: {**measure(*args), "similarity": float("nan"), "dice": {}}
    )
    out = str(pair.results / "r.json")
    assert run("register", *pair.images, "-q", "--init", "none", "--model", tiny_model, "--report", out) == 0
    assert report_of(pair)["metrics"]["similarity"] is None


def test_writability_is_checked_before_anything_is_read(
    tmp_path: Path, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "nowhere" / "w.nii.gz")
    assert run("register", "no-image.nii", "no-image-either.nii", "-q", "--model", tiny_model, "-o", output) == 3
    assert "nowhere" in capsys.readouterr().err


def test_a_file_cut_in_the_middle_is_named(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = pair.moving.read_bytes()
    pair.moving.write_bytes(whole[: len(whole) // 2])
    assert run("register", *pair.images, "-q", "--model", tiny_model, "-o", str(pair.results / "w.nii.gz")) == 3
    assert str(pair.moving) in capsys.readouterr().err
    assert pair.left_behind() == []


def test_damaged_weights_are_refused(
    pair: PairFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperreg.registration.model import save_untrained

    card = save_untrained(tmp_path / "models", "broken")
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    data = bytearray(card.weights.read_bytes())
    data[-1] ^= 1
    card.weights.write_bytes(data)
    assert run("register", *pair.images, "-q", "--model", "broken") == 4
    assert "SHA256" in capsys.readouterr().err


def test_a_full_disk_leaves_older_results_as_they_were(
    pair: PairFiles, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    older = pair.results / "w.nii.gz"
    older.write_bytes(b"an older result")

    def disk_full(_transform: Transform, path: Path, *_rest: object) -> None:
        raise FileError(f"'{path}' could not be written: the disk is full.")

    monkeypatch.setattr(run_module, "write_transform", disk_full)
    target = pair.results / "t.h5"
    code = run(
        "register", *pair.images, "--init", "none", "-q", "--model", tiny_model,
        "--out-volume", str(older), "--out-transform", str(target),
    )  # fmt: skip
    assert code == 3
    assert f"'{target}' could not be written" in capsys.readouterr().err
    assert older.read_bytes() == b"an older result"
    assert pair.left_behind() == ["w.nii.gz"]


def test_a_transform_that_disagrees_with_the_volume_is_not_kept(
    pair: PairFiles, tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def write_another(transform: Transform, path: Path, *rest: object) -> None:
        shift = np.eye(4)
        shift[0, 3] = 1.0
        write_transform(Transform((shift, *transform.stages)), path, *rest)

    monkeypatch.setattr(run_module, "write_transform", write_another)
    code = run(
        "register", *pair.images, "--init", "none", "-q", "--model", tiny_model,
        "--out-volume", str(pair.results / "w.nii.gz"), "--out-transform", str(pair.results / "t.h5"),
    )  # fmt: skip
    assert code == 3
    assert "disagree" in capsys.readouterr().err
    assert pair.left_behind() == []


def test_missing_voxels_are_replaced_and_reported(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    moving = read_volume(pair.moving)
    array = moving.array.copy()
    array[20, 20, 20] = np.nan
    gaps = pair.moving.with_name("gaps.nrrd")  # ITK's reader of NIfTI files puts zeros there itself
    write_volume(Volume(array, moving.ijk_to_ras, "moving"), gaps)
    out = [str(pair.results / name) for name in ("w.nii.gz", "t.h5", "r.json")]
    code = run(
        "register", str(pair.fixed), str(gaps), "--init", "none", "-q", "--model", tiny_model,
        "--out-volume", out[0], "--out-transform", out[1], "--report", out[2],
    )  # fmt: skip
    assert code == 0
    assert len(report_of(pair)["warnings"]) == 1
    assert "Warning: " in capsys.readouterr().err
    assert np.isfinite(read_volume(pair.results / "w.nii.gz").array).all()


def test_ctrl_c_ends_at_the_next_step_and_leaves_nothing(pair: PairFiles, tiny_model: str) -> None:
    command = [sys.executable, "-m", "hyperreg.cli", "register", *pair.images, "--model", tiny_model]
    command += ["--init", "affine", "--out-volume", str(pair.results / "w.nii.gz")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Aligning" in line:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(timeout=30) == 130
    assert "cancelled" in rest.lower()
    assert "Computing" not in rest
    assert pair.left_behind() == []


def test_landmarks_are_measured_in_mm_and_choose_lambda(
    pair: PairFiles, tiny_model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a .csv in RAS and an .fcsv in LPS. Without alignment: (3, -4, 0) mm and (0, 0, 1) mm, 3 mm on average."""
    ras = np.array([[10.0, -20.0, 30.0], [20.0, -10.0, 40.0]])
    fixed, moving = pair.fixed.with_name("p.csv"), pair.fixed.with_name("q.fcsv")
    np.savetxt(fixed, ras, delimiter=",")
    places = ras + np.array([(3, -4, 0), (0, 0, 1)])
    rows = [f"{n},{-x},{-y},{z}\n" for n, (x, y, z) in enumerate(places)]
    moving.write_text("# CoordinateSystem = LPS\n" + "".join(rows), encoding="utf-8")
    asked = ["--fixed-points", str(fixed), "--init", "none", "--model", tiny_model]
    out = str(pair.results / "r.json")
    code = run("register", *pair.images, *asked, "--moving-points", str(moving), "--lam", "auto", "--report", out)
    assert code == 0
    report = report_of(pair)
    metrics = report["metrics"]
    assert metrics["landmarks_mm_before"] == pytest.approx(3)
    assert report["lambda_choice"]["by"] == "landmarks"
    assert metrics["landmarks_mm"] == min(row["landmarks_mm"] for row in report["lambda_choice"]["response"])
    assert f"Landmarks     3.00 mm apart after the linear alignment, {metrics['landmarks_mm']:.2f} now" in (
        capsys.readouterr().out
    )
    assert run("register", *pair.images, *asked, "-q") == 2
    assert "--moving-points" in capsys.readouterr().err
    assert run("register", *pair.images, *asked, "-q", "--moving-points", str(pair.moving)) == 3
    assert "unknown format of landmarks" in capsys.readouterr().err
    assert run("register", *pair.images, *asked, "-q", "--moving-points", str(moving), "-r", str(moving)) == 2
    assert "one of the inputs" in capsys.readouterr().err
