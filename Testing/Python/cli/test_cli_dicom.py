"""From DICOM to DICOM by the command line: register and segment with --out-dicom, and what keeps them from it."""

from __future__ import annotations

import csv
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import pydicom
import pytest
from cli_pair import PairFiles, run, write_pair
from dicom_examples import write_image
from imaging_examples import affine
from pydicom.uid import generate_uid
from segmentation_bench import NETWORKS, OBLIQUE, eggs, make_model

from hyperreg.cli.console import ExitCode
from hyperreg.errors import FileError
from hyperreg.imaging.dicom import find_series, identity, registration_objects
from hyperreg.imaging.files import read_label_map, read_volume
from hyperreg.imaging.output import replacing_folder
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.registration.dicom_output import check_saved
from hyperreg.segmentation import licences, model

PERSONAL = ("Doe", "PAT4711X", "19700102", "20260304")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    """The pair of `cli_pair` as two DICOM series beside their NIfTI files."""
    files = write_pair(tmp_path_factory.mktemp("pair"))
    for image in (files.fixed, files.moving):
        name = image.name.partition(".")[0]
        write_image(image.parent / f"dicom-{name}", read_volume(image), name)
    return files


def _register(pair: PairFiles, *more: str, fixed: Path | None = None, moving: Path | None = None) -> int:
    folder = pair.fixed.parent
    images = [str(fixed or folder / "dicom-fixed"), str(moving or folder / "dicom-moving")]
    return run("register", *images, "--model", "tiny-untrained", "--device", "cpu", "--init", "com", "--lam", "0.4",
               "--fast", "-q", *more)  # fmt: skip


def _error(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().err.split())


def test_register_from_dicom_to_dicom(pair: PairFiles, tiny_model: str, tmp_path: Path) -> None:
    out, warped, transform = tmp_path / "out", tmp_path / "warped.nii.gz", tmp_path / "warp.h5"
    assert _register(pair, "--out-dicom", str(out), "--out-volume", str(warped), "--out-transform", str(transform),
                     *pair.labels) == 0  # fmt: skip
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "warp.h5", "warped.nii.gz"]
    assert sorted(path.name for path in out.iterdir()) == [
        "registration.dcm", "report.csv", "report.json", "report.pdf", "resampled",
    ]  # fmt: skip
    fixed = read_volume(pair.fixed.parent / "dicom-fixed")
    points = fixed.grid.to_ras(np.random.default_rng(2).uniform(1, np.array(fixed.shape) - 2, (300, 3)))
    saved = registration_objects.read_registration(out / "registration.dcm")
    np.testing.assert_allclose(saved.apply(points), read_transform(transform).apply(points), atol=0.01)
    series, volume = read_volume(out / "resampled"), read_volume(warped)
    np.testing.assert_allclose(series.ijk_to_ras, fixed.ijk_to_ras, atol=1e-4)
    np.testing.assert_allclose(series.array, volume.array, atol=0.51)
    registration = pydicom.dcmread(out / "registration.dcm")
    one = pydicom.dcmread(out / "resampled" / "0001.dcm")
    source = pydicom.dcmread(pair.fixed.parent / "dicom-fixed" / "000.dcm")
    assert registration.FrameOfReferenceUID == one.FrameOfReferenceUID == source.FrameOfReferenceUID
    assert registration.PatientID == "PAT4711X"
    values = json.loads((out / "report.json").read_text())["values"]
    assert values["Lambda (0 flexible, 1 rigid)"] == 0.4
    assert values["Model"].startswith("tiny-untrained")
    assert values["Fixed: series"] == "CT fixed"
    assert values["Note"] == "For research; not for diagnosis."
    assert values["Volume of Label 12"].startswith("fixed ")
    with open(out / "report.csv", newline="", encoding="utf-8") as file:
        assert [row["key"] for row in csv.DictReader(file)] == list(values)
    assert (out / "report.pdf").read_bytes()[:5] == b"%PDF-"


def test_patients_that_differ_and_are_left_out(
    pair: PairFiles, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = write_image(tmp_path / "PAT0815X", read_volume(pair.moving), "moving", PatientID="PAT0815X")
    out, report = tmp_path / "out", tmp_path / "report.json"
    assert _register(pair, "--out-dicom", str(out), moving=other) == ExitCode.INPUT
    assert "different patients" in _error(capsys)
    assert not out.exists()
    more = ["--out-dicom", str(out), "--leave-out-patient-data", "--report", str(report)]
    assert _register(pair, *more, moving=other) == 0
    assert "Warning: The DICOM headers name different patients" in _error(capsys)
    files = [report, *(path for path in out.rglob("*") if path.is_file())]
    assert len(files) > 30
    for file in files:
        found = [text for text in (*PERSONAL, "PAT0815X") if text.encode() in file.read_bytes()]
        assert not found, f"{file.name}: {found}"


def test_dicom_that_cannot_be_written(
    pair: PairFiles, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert _register(pair, "--out-dicom", str(out), moving=pair.moving) == ExitCode.INPUT
    assert "'" + str(pair.moving) + "' is no DICOM image" in _error(capsys)
    assert _register(pair, "--leave-out-patient-data") == ExitCode.INPUT
    assert "belongs to --out-dicom" in _error(capsys)
    assert _register(pair, "--out-dicom", str(tmp_path / "no" / "out")) == ExitCode.FILE
    assert "does not exist" in _error(capsys)
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    assert _register(pair, "--out-dicom", str(out)) == ExitCode.FILE
    assert "is there already" in _error(capsys)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


@pytest.mark.skipif(sys.platform == "win32", reason="no such permissions")
def test_a_place_where_nobody_may_write_is_refused_before_anything_is_computed() -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        place.chmod(0o555)
        is_root = os.geteuid() == 0
        if is_root:  # who may write everywhere
            os.seteuid(65534)
        try:
            with pytest.raises(FileError, match="ask for permission to write there"), replacing_folder(place / "out"):
                pytest.fail("entered")
        finally:
            if is_root:
                os.seteuid(0)
        assert list(place.iterdir()) == []


def test_nothing_is_left_of_a_folder_that_fails_half_way(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(FileError, match="wrong"), replacing_folder(out) as folder:
        (folder / "half.dcm").write_text("half")
        raise FileError("Something went wrong.")
    assert list(tmp_path.iterdir()) == []
    out.mkdir()
    with replacing_folder(out) as folder:
        (folder / "whole.dcm").write_text("whole")
        assert list(out.iterdir()) == []
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "whole.dcm"]
    (tmp_path / "usual").mkdir()
    assert out.stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_registration_that_was_saved_wrong_is_noticed(pair: PairFiles, tmp_path: Path) -> None:
    (source,) = identity.sources_of(find_series(pair.fixed.parent / "dicom-fixed")[0])[:1]
    grid = read_volume(pair.fixed).grid
    path = tmp_path / "registration.dcm"
    registration_objects.write_registration(
        Transform((affine(3, (1, 0, 0), (1, 2, 3)),)), [source], [source], path, grid
    )
    with pytest.raises(FileError, match="differs from the computed one by"):
        check_saved(path, Transform((affine(3, (1, 0, 0), (1, 2, 3.1)),)), grid)


def test_segment_from_dicom_to_dicom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(model, "NETWORKS", {**model.NETWORKS, **NETWORKS})
    monkeypatch.setenv("HYPERREG_MODELS", str(tmp_path / "models"))
    licences.accept(make_model(tmp_path / "models", "bands"))
    image = eggs(OBLIQUE, name="head")
    series = write_image(tmp_path / "head", image, "head", PatientID="PAT0815X", StudyInstanceUID=generate_uid())
    out, labels = tmp_path / "out", tmp_path / "labels.nii.gz"
    command = ["segment", str(series), "--model", "bands", "--device", "cpu", "-q"]
    assert run(*command, "--out-dicom", str(out), "--out", str(labels)) == 0, _error(capsys)
    expected, saved = read_label_map(labels), read_label_map(out / "segmentation.dcm")
    read = pydicom.dcmread(out / "segmentation.dcm")
    for item in read.SegmentSequence:
        label = int(item.SegmentDescription.split(".")[0].removeprefix("Label "))
        ours = expected.grid.to_ras(np.argwhere(expected.array == label))
        theirs = saved.grid.to_ras(np.argwhere(saved.array == item.SegmentNumber))
        assert len(ours) == len(theirs) > 50
        order = [np.lexsort(points.round(2).T) for points in (ours, theirs)]
        np.testing.assert_allclose(theirs[order[1]], ours[order[0]], atol=0.02)
        assert "where the network is sure" in item.SegmentDescription
    assert read.PatientID == "PAT0815X"
    assert {path.name for path in out.iterdir()} == {"segmentation.dcm", "report.csv", "report.json", "report.pdf"}
    assert run(*command, "--out-dicom", str(tmp_path / "two"), "--leave-out-patient-data") == 0
    for file in (tmp_path / "two").iterdir():
        assert b"PAT0815X" not in file.read_bytes()
    assert run(*command[:1], str(labels), *command[2:], "--out-dicom", str(tmp_path / "three")) == ExitCode.INPUT
