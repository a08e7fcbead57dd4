"""Outputs of the commands that must not be: in place of inputs, on a full disk, in folders that cannot be made."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from atlas_bench import GRID, FakeRegistration, target, write_library
from cli_pair import run
from fusion_bench import body, noisy

from hyperreg.imaging.files import write_volume


@pytest.fixture
def readers(tmp_path: Path) -> list[str]:
    paths = []
    for seed in range(3):
        path = tmp_path / f"reader{seed}.nii.gz"
        write_volume(noisy(body(GRID), 0.1, seed), path)
        paths.append(str(path))
    return paths


@pytest.fixture
def atlases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> Path:
    monkeypatch.setattr("hyperreg.fusion.parallel.register_atlas", FakeRegistration())
    folder = write_library(tmp_path / "atlases")
    (folder / "labels.csv").write_text("label,name\n3,front\n300,back\n12,core\n", encoding="utf-8")
    return folder


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk does to a writer: it gets an error after so many bytes (EFBIG)."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_report_does_not_replace_the_table_of_the_atlases(
    tmp_path: Path, atlases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_volume(target(), tmp_path / "t.nii.gz")
    before = contents(atlases)
    code = run(
        "fuse", "--target", str(tmp_path / "t.nii.gz"), "--atlases", str(atlases), "--jobs", "1", "--no-cache",
        "--report", str(atlases / "labels.csv"),
    )  # fmt: skip
    assert code == 2
    assert "a file of the input" in capsys.readouterr().err.replace("\n", " ")
    assert contents(atlases) == before


@pytest.mark.parametrize("place", ["targets", "atlases", "link"])
def test_a_cohort_does_not_write_among_its_inputs(
    tmp_path: Path, atlases: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = tmp_path / "targets"
    targets.mkdir()
    write_volume(target(), targets / "one.nii.gz")
    (targets / "one_labels.nii.gz").write_bytes(b"drawn by hand")
    (tmp_path / "link").symlink_to(targets)
    before = contents(tmp_path)
    code = run(
        "fuse", "--targets", str(targets), "--atlases", str(atlases), "--out", str(tmp_path / place), "--jobs", "1"
    )
    assert code == 2
    assert "a folder of its own" in capsys.readouterr().err.replace("\n", " ")
    assert contents(tmp_path) == before


def test_a_folder_that_cannot_be_made_is_told(
    tmp_path: Path, atlases: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = tmp_path / "targets"
    targets.mkdir()
    write_volume(target(), targets / "one.nii.gz")
    (tmp_path / "file").touch()
    code = run(
        "fuse", "--targets", str(targets), "--atlases", str(atlases), "--out", str(tmp_path / "file" / "results"),
        "--jobs", "1",
    )  # fmt: skip
    assert code == 3
    assert "cannot be made" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("output", ["--report", "--out", "--disagreement"])
def test_a_full_disk_ends_in_a_sentence_and_leaves_nothing(
    tmp_path: Path, readers: list[str], output: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tmp_path)
    with no_file_larger_than(40):
        code = run(
            "fuse", "--labels", *readers, output, str(tmp_path / ("r.json" if output == "--report" else "s.nii"))
        )
    assert code == 3
    message = capsys.readouterr().err.replace("\n", " ")
    assert "could not be written" in message
    assert "Traceback" not in message
    assert contents(tmp_path) == before
