"""Output files that appear all together or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from hyperreg.errors import FileError, InputError
from hyperreg.imaging.output import StagedOutputs


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_appear_only_when_the_block_ends(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("old")
    with StagedOutputs({"a": tmp_path / "a.txt", "b": tmp_path / "b.txt", "c": None}) as staged:
        assert "a" in staged
        assert "c" not in staged
        staged.path("a").write_text("new a")
        staged.path("b").write_text("new b")
        assert not (tmp_path / "a.txt").exists()
        assert (tmp_path / "b.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt", "b.txt"]
    assert (tmp_path / "a.txt").read_text() == "new a"
    assert (tmp_path / "b.txt").read_text() == "new b"


def test_a_companion_file_moves_along(tmp_path: Path) -> None:
    with StagedOutputs({"volume": tmp_path / "v.mhd"}) as staged:
        staged.path("volume").write_text("header")
        staged.path("volume").with_suffix(".zraw").write_text("data")
    assert names(tmp_path) == ["v.mhd", "v.zraw"]


@pytest.mark.parametrize(
    "error", [ValueError("computation"), KeyboardInterrupt(), RuntimeError("device"), OSError(5, "x")]
)
def test_any_error_leaves_everything_as_it_was(tmp_path: Path, error: BaseException) -> None:
    (tmp_path / "a.txt").write_text("old")
    targets = {"a": tmp_path / "a.txt", "b": tmp_path / "b.txt"}
    with pytest.raises(type(error)) as raised, StagedOutputs(targets) as staged:
        staged.path("a").write_text("half")
        raise error
    assert raised.value is error
    assert names(tmp_path) == ["a.txt"]
    assert (tmp_path / "a.txt").read_text() == "old"


def test_an_output_that_was_not_written_stops_the_others(tmp_path: Path) -> None:
    targets = {"a": tmp_path / "a.txt", "b": tmp_path / "b.txt"}
    with pytest.raises(FileError, match=r"b\.txt"), StagedOutputs(targets) as staged:
        staged.path("a").write_text("whole")
    assert names(tmp_path) == []


def test_a_message_names_the_target_not_the_hidden_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError) as raised, StagedOutputs({"a": tmp_path / "a.txt"}) as staged:
        raise FileError(f"'{staged.path('a')}' could not be written.")
    assert str(raised.value) == f"'{tmp_path / 'a.txt'}' could not be written."


def test_places_that_cannot_be_written_are_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    for target in (tmp_path / "no" / "a.txt", tmp_path / "file" / "a.txt", tmp_path / "folder"):
        with pytest.raises(FileError), StagedOutputs({"good": tmp_path / "good.txt", "bad": target}):
            pytest.fail("entered")
    assert names(tmp_path) == ["file", "folder"]
    # A test run by root may write anywhere, so the system's answers are given here.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(FileError, match="write-protected"), StagedOutputs({"a": tmp_path / "file"}):
        pytest.fail("entered")


def test_a_read_only_folder_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read_only(*_args: object, **_options: object) -> str:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("hyperreg.scratch.tempfile.mkdtemp", read_only)
    with pytest.raises(FileError, match="read-only"), StagedOutputs({"a": tmp_path / "a.txt"}):
        pytest.fail("entered")


def test_collisions_are_refused(tmp_path: Path) -> None:
    one = tmp_path / "one.nii"
    same = tmp_path / "x" / ".." / "one.nii"
    with pytest.raises(InputError, match="two outputs"), StagedOutputs({"a": one, "b": same}):
        pytest.fail("entered")
    with pytest.raises(InputError, match="inputs"), StagedOutputs({"a": one}, inputs=[None, same]):
        pytest.fail("entered")


def test_an_input_is_never_replaced_whatever_name_leads_to_it(tmp_path: Path) -> None:
    image, linked, pointing = tmp_path / "image.nii", tmp_path / "linked.nii", tmp_path / "pointing.nii"
    image.write_text("voxels")
    os.link(image, linked)
    pointing.symlink_to(image)
    for target in (image, linked, pointing):
        with pytest.raises(InputError, match="inputs"), StagedOutputs({"a": target}, inputs=[image]):
            pytest.fail("entered")
    assert names(tmp_path) == ["image.nii", "linked.nii", "pointing.nii"]


def test_no_file_of_a_folder_of_inputs_is_replaced_but_new_ones_may_come(tmp_path: Path) -> None:
    atlases = tmp_path / "atlases"
    (atlases / "below").mkdir(parents=True)
    for file in (atlases / "labels.csv", atlases / "below" / "1001.nii"):
        file.write_text("label,name")
        with pytest.raises(InputError, match="input"), StagedOutputs({"report": file}, inputs=[atlases]):
            pytest.fail("entered")
        assert file.read_text() == "label,name"
    with StagedOutputs({"report": atlases / "report.json"}, inputs=[atlases]) as staged:
        staged.path("report").write_text("new")
    assert (atlases / "report.json").read_text() == "new"


def test_devices_and_pipes_are_refused(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target in (Path(os.devnull), pipe):
        with pytest.raises(FileError, match="no ordinary file"), StagedOutputs({"a": target}):
            pytest.fail("entered")
    assert Path(os.devnull).is_char_device()


@pytest.mark.parametrize("name", ["x" * 300 + ".nii.gz", "a\0b.nii"], ids=["long", "null"])
def test_impossible_names_are_refused_in_a_short_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(FileError, match="cannot be the name") as raised, StagedOutputs({"a": tmp_path / name}):
        pytest.fail("entered")
    assert len(str(raised.value)) < 250


def test_a_companion_that_belongs_to_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "v.raw").write_text("the voxels of other.mhd")
    with pytest.raises(FileError, match=r"v\.raw"), StagedOutputs({"volume": tmp_path / "v.mhd"}) as staged:
        staged.path("volume").write_text("header")
        staged.path("volume").with_suffix(".raw").write_text("data")
    assert names(tmp_path) == ["v.raw"]
    assert (tmp_path / "v.raw").read_text() == "the voxels of other.mhd"
    (tmp_path / "v.mhd").write_text("its header after all")
    with StagedOutputs({"volume": tmp_path / "v.mhd"}) as staged:
        staged.path("volume").write_text("header")
        staged.path("volume").with_suffix(".raw").write_text("data")
    assert (tmp_path / "v.raw").read_text() == "data"


def test_a_result_keeps_the_permissions_of_the_one_it_replaces(tmp_path: Path) -> None:
    private = tmp_path / "private.json"
    private.touch(mode=0o600)
    with StagedOutputs({"a": private, "b": tmp_path / "new.json"}) as staged:
        staged.path("a").write_text("a")
        staged.path("b").write_text("b")
    assert private.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "new.json").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    old = os.umask(0)
    os.umask(old)
    return old


def test_a_disk_that_fills_up_is_told_in_a_sentence_and_nothing_stays(tmp_path: Path) -> None:
    both = StagedOutputs({"a": tmp_path / "a.json", "b": tmp_path / "b.json"})
    with pytest.raises(FileError, match=r"The results could not be written: the disk is full"), both as staged:
        staged.path("b").write_text("whole")
        raise OSError(errno.ENOSPC, "No space left on device")
    one = StagedOutputs({"a": tmp_path / "a.json"})
    with pytest.raises(FileError, match=r"'.*a\.json' could not be written: the disk is full"), one as staged:
        raise OSError(errno.ENOSPC, "No space left on device", str(staged.path("a")))
    assert names(tmp_path) == []
