"""`hyperreg cohort`: lists of pairs, resuming, failures, tables; files, exit codes, messages."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from cli_pair import PairFiles, run, write_pair
from filelock import FileLock

from hyperreg.cohort import listing
from hyperreg.cohort.pair import PairTask, register_pair
from hyperreg.cohort.tables import worst_first
from hyperreg.errors import FileError, InputError
from hyperreg.execution.executors import MARK, Whole, check_mark, mark
from hyperreg.imaging.files import read_label_map, read_volume, write_volume
from hyperreg.imaging.output import LOCK, StagedOutputs
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import Volume
from hyperreg.registration.pairs import Pair
from hyperreg.registration.run import Outputs, RegistrationResult
from hyperreg.reporting import write_report


class FakeRegister:
    """Stands in for `registration.run.register`: copies the fixed image, and knows what was asked for.

    calls: names of the folders that were written to. errors: by such a name, raised instead. folds: in %, by name.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.errors: dict[str, BaseException] = {}
        self.folds: dict[str, float] = {}
        self.gains: dict[str, float] = {}

    def __call__(self, pair: Pair, lam: Any, outputs: Outputs, *_ignored: Any, **how: Any) -> RegistrationResult:
        assert outputs.report is not None
        name = outputs.report.parent.name
        self.calls.append(name)
        if name in self.errors:
            raise self.errors[name]
        metrics = dict.fromkeys(
            ("displacement_mean_mm", "displacement_max_mm", "volume_change_low_percent", "volume_change_high_percent"),
            1.0,
        )
        metrics |= {"similarity_before": 0.5, "similarity": 0.5 + self.gains.get(name, 0.2)}
        metrics |= {"folding_percent": self.folds.get(name, 0.0)}
        both = pair.fixed_labels and pair.moving_labels
        labels = {"3": {"name": "front", "before": 0.4, "after": 0.8}}
        report = {
            "lambda": 0.2 if lam is None else lam, "metrics": metrics, "warnings": [], "timing_s": {"field": 1.0},
            "dice": {"mean_before": 0.4, "mean_after": 0.8, "labels": labels} if both else None, **how["about"],
        }  # fmt: skip
        fixed = read_volume(pair.fixed)
        with StagedOutputs(outputs.by_name(), pair.files) as staged:
            write_report(report, staged.path("report"))
            for what in ("volume", "labels"):
                if what in staged:
                    write_volume(fixed, staged.path(what))
            if "transform" in staged:
                write_transform(Transform((np.eye(4),)), staged.path("transform"))
        return RegistrationResult(report)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeRegister:
    register = FakeRegister()
    monkeypatch.setattr("hyperreg.cohort.pair.register", register)
    return register


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PairFiles:
    return write_pair(tmp_path_factory.mktemp("images"))


@pytest.fixture
def files(tmp_path: Path, images: PairFiles) -> Path:
    """A folder of the images, and of a list of three pairs."""
    folder = tmp_path / "images"
    shutil.copytree(images.fixed.parent, folder)
    lines = [
        "fixed,moving,name,fixed_labels,moving_labels",
        "fixed.nii.gz,moving.nii.gz,first,fixed_labels.nii.gz,moving_labels.nii.gz",
        "moving.nii.gz,fixed.nii.gz,,,",
        "fixed.nii.gz,moving.nii.gz,third,,moving_labels.nii.gz",
    ]
    (folder / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder


def rows_in(results: Path) -> list[dict[str, str]]:
    with (results / "quality.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def states_in(results: Path) -> dict[str, str]:
    return {row["name"]: row["state"] for row in rows_in(results)}


def cohort(files: Path, *more: str) -> int:
    return run("cohort", str(files / "pairs.csv"), "--out", str(files.parent / "out"), "--jobs", "1", "--quiet", *more)


def test_a_list_of_pairs_becomes_folders_and_tables(files: Path, fake: FakeRegister) -> None:
    assert cohort(files) == 0
    out = files.parent / "out"
    assert sorted(path.name for path in out.iterdir() if path.name[0] != ".") == [
        "dice.csv", "first", "fixed_to_moving", "quality.csv", "quality.html", "third",
    ]  # fmt: skip
    assert sorted(path.name for path in (out / "first").iterdir()) == [
        "labels.nii.gz", "picture.png", "report.json", "resampled.nii.gz", "transform.h5",
    ]  # fmt: skip
    assert not (out / "fixed_to_moving" / "labels.nii.gz").exists()
    assert (out / "third" / "labels.nii.gz").exists()
    rows = {row["name"]: row for row in rows_in(out)}
    assert (rows["first"]["dice"], rows["third"]["dice"]) == ("0.8", "")
    assert float(rows["first"]["gain"]) == pytest.approx(0.2)
    assert (out / "dice.csv").read_text(encoding="utf-8").splitlines() == [
        "pair,label,name,before,after", "first,3,front,0.4,0.8",
    ]  # fmt: skip
    page = (out / "quality.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "http" not in page


def test_only_what_is_missing_or_changed_is_done_again(files: Path, fake: FakeRegister) -> None:
    out = files.parent / "out"
    assert cohort(files) == 0
    assert cohort(files) == 0
    assert len(fake.calls) == 3
    assert set(states_in(out).values()) == {"done before"}
    (out / "third" / "transform.h5").unlink()
    (out / "first" / "report.json").write_text("{", encoding="utf-8")
    assert cohort(files) == 0
    assert fake.calls[3:] == ["first", "third"]
    # Another image under the old name; then other labels, which only two pairs have; then another λ.
    moving = read_volume(files / "moving.nii.gz")
    write_volume(Volume(moving.array + (moving.array > 0), moving.ijk_to_ras), files / "moving.nii.gz")
    assert cohort(files) == 0
    assert len(fake.calls) == 8
    labels = read_label_map(files / "moving_labels.nii.gz")
    write_volume(
        Volume(np.where(labels.array == 12, 3, labels.array), labels.ijk_to_ras), files / "moving_labels.nii.gz"
    )
    assert cohort(files) == 0
    assert fake.calls[8:] == ["first", "third"]
    assert cohort(files, "--lam", "0.4") == 0
    assert len(fake.calls) == 13
    # The same content and settings, but more is wanted of it.
    assert cohort(files, "--lam", "0.4", "--keep", "volume") == 0
    assert len(fake.calls) == 13


def test_another_start_under_the_same_name_is_noticed(files: Path, fake: FakeRegister) -> None:
    start = files / "start.tfm"
    for shift, calls in ((5.0, 3), (5.0, 3), (7.0, 6)):
        matrix = np.eye(4)
        matrix[0, 3] = shift
        write_transform(Transform((matrix,)), start)
        assert cohort(files, "--init", str(start)) == 0
        assert len(fake.calls) == calls


def test_nothing_of_earlier_settings_stays(files: Path, fake: FakeRegister) -> None:
    out = files.parent / "out"
    assert cohort(files) == 0
    lines = ["fixed,moving,name", "fixed.nii.gz,moving.nii.gz,first"]
    (files / "pairs.csv").write_text("\n".join(lines), encoding="utf-8")
    assert cohort(files, "--lam", "0.4", "--keep", "transform") == 0
    assert sorted(path.name for path in (out / "first").iterdir()) == ["report.json", "transform.h5"]
    assert not (out / "dice.csv").exists()
    # Nor where the pair fails.
    fake.errors["first"] = InputError("There is no pair.")
    assert cohort(files, "--lam", "0.5") == 1
    assert list((out / "first").iterdir()) == []


def test_a_pair_that_fails_stands_in_the_table_with_its_sentence(
    files: Path, fake: FakeRegister, capsys: pytest.CaptureFixture[str]
) -> None:
    with (files / "pairs.csv").open("a", encoding="utf-8") as file:
        file.write("\nfixed.nii.gz,fixed.nii.gz,twice,,\nfixed.nii.gz,gone.nii.gz,gone,,\n")
    fake.errors = {"first": InputError("The images do not match."), "third": ZeroDivisionError("what is that")}
    assert cohort(files) == 1
    out = files.parent / "out"
    errors = {row["name"]: row["error"] for row in rows_in(out) if row["state"] == "failed"}
    assert set(errors) == {"first", "third", "twice", "gone"}
    assert errors["first"] == "The images do not match."
    assert "ZeroDivisionError" in errors["third"]
    assert "fault of HyperReg" in errors["third"]
    assert "same file" in errors["twice"]
    assert "does not exist" in errors["gone"]
    assert states_in(out)["fixed_to_moving"] == "done"
    assert "The images do not match" in capsys.readouterr().err
    page = (out / "quality.html").read_text(encoding="utf-8")
    assert "The images do not match." in page
    fake.errors = {}
    assert cohort(files) == 1
    assert states_in(out) == {
        "first": "done", "third": "done", "fixed_to_moving": "done before", "twice": "failed", "gone": "failed",
    }  # fmt: skip


def test_the_worst_come_first() -> None:
    def row(name: str, gain: float, folds: float) -> dict[str, Any]:
        return {"name": name, "state": "done", "gain": gain, "folding_percent": folds}

    rows = [row("good", 0.3, 0.0), row("few folds", 0.25, 0.01), row("folds", 0.3, 2.0), row("torn", 0.3, 9.0)]
    rows += [row("worse", -0.1, 0.0), {"name": "failed", "state": "failed"}]
    assert [one["name"] for one in worst_first(rows)] == ["failed", "torn", "folds", "worse", "few folds", "good"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fixed,name\na.nii,b", "no column 'moving'"),
        ("", "no column 'fixed'"),
        ("fixed,moving,lambda\na,b,1", "'lambda' that means nothing"),
        ("fixed,moving\n\nfixed.nii.gz,", "Line 3 of"),
        ("fixed,moving,name,moving\na,b,c,d", "two columns 'moving'"),
        ("fixed,moving,name\na,b,one\nc,d,One", "Two pairs are called"),
        ("fixed,moving,name\na,b,../one", "cannot be the name"),
        ("fixed,moving\n,", "no pair"),
    ],
)
def test_lists_that_are_refused(files: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "pairs.csv").write_text(text, encoding="utf-8")
    assert cohort(files) in (2, 3)
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not (files.parent / "out").exists()


def test_lists_of_spreadsheets_are_read(files: Path) -> None:
    (files / "pairs.csv").write_bytes("\ufefffixed;moving;name\r\nfixed.nii.gz; moving.nii.gz;Müller, 2\r\n".encode())
    found = listing.from_table(files / "pairs.csv")
    assert [(one.name, one.moving, one.problem) for one in found] == [("Müller, 2", files / "moving.nii.gz", "")]
    # macOS writes accents as letters of their own.
    (files / "moving.nii.gz").rename(files / "mu\u0308ller.nii.gz")
    found = listing.one_to_many(files / "fixed.nii.gz", files)
    assert [(one.name, one.problem) for one in found] == [("m\xfcller", "")]


def test_one_with_many_and_all_with_all(files: Path) -> None:
    many = listing.one_to_many(files / "fixed.nii.gz", files, files / "fixed_labels.nii.gz")
    assert [(one.name, one.moving_labels) for one in many] == [("moving", files / "moving_labels.nii.gz")]
    both = listing.all_to_all(files)
    assert {one.name: (one.fixed.name, one.fixed_labels) for one in both} == {
        "moving_to_fixed": ("fixed.nii.gz", files / "fixed_labels.nii.gz"),
        "fixed_to_moving": ("moving.nii.gz", files / "moving_labels.nii.gz"),
    }


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{0}/pairs.csv"], "give --out"),
        (["--out", "{0}/../out"], "Give either a list"),
        (["{0}/pairs.csv", "--all-to-all", "{0}", "--out", "{0}/../out"], "Give either a list"),
        (["{0}/pairs.csv", "--out", "{0}/../out", "--keep", "volume,magic"], "not 'magic'"),
        (["{0}/pairs.csv", "--out", "{0}/../out", "--fixed-labels", "{0}/fixed_labels.nii.gz"], "belongs to --fixed"),
        (["{0}/pairs.csv", "--out", "{0}/../out", "--address", "here:1"], "add --executor ray"),
        (["{0}/pairs.csv", "--out", "{0}"], "holds images of the cohort"),
        (["{0}/nothing.csv", "--out", "{0}/../out"], "cannot be read"),
        (["--all-to-all", "{0}/nothing", "--out", "{0}/../out"], "does not exist"),
    ],
)
def test_wrong_usage_is_explained(
    files: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("cohort", *(argument.format(files) for argument in arguments)) in (2, 3)
    assert words in capsys.readouterr().err.replace("\n", " ")


def test_two_drivers_in_one_folder_are_refused(
    files: Path, fake: FakeRegister, capsys: pytest.CaptureFixture[str]
) -> None:
    (files.parent / "out").mkdir()
    with FileLock(files.parent / "out" / LOCK):
        assert cohort(files) == 2
    assert "Another run works in" in capsys.readouterr().err
    assert fake.calls == []


def test_a_full_disk_is_told_before_anything_is_computed(
    files: Path, fake: FakeRegister, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("hyperreg.cohort.pair.shutil.disk_usage", lambda _path: SimpleNamespace(free=10**5))
        assert cohort(files) == 1
    errors = [row["error"] for row in rows_in(files.parent / "out")]
    assert len(errors) == 3
    assert all("is full" in error for error in errors)
    assert fake.calls == []


def test_a_place_that_cannot_be_written_is_told(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files.parent / "out").write_text("a file", encoding="utf-8")
    assert cohort(files) == 3
    assert "cannot be made" in capsys.readouterr().err


def test_a_machine_that_does_not_see_the_folder_says_so(tmp_path: Path, images: PairFiles) -> None:
    word = mark(tmp_path)
    assert mark(tmp_path) == word
    check_mark(tmp_path, word)
    task = PairTask("a", Pair(images.fixed, images.moving), tmp_path, mark=word)
    (tmp_path / MARK).write_text("another", encoding="utf-8")
    with pytest.raises(FileError, match="does not see the folder"):
        register_pair(task, lambda _fraction, _text: None)


def test_the_progress_of_the_whole_estimates_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("hyperreg.execution.executors.time.monotonic", lambda: now[0])
    told: list[tuple[float, str]] = []
    whole = Whole(lambda fraction, text: told.append((fraction, text)), 4, "pairs", 0.2, 1.0)
    whole.end("known", worked=False)
    assert told[-1] == (pytest.approx(0.4), "1 of 4 pairs; known")
    whole.tell("a", 0.5, "Aligning")
    assert told[-1] == (pytest.approx(0.5), "1 of 4 pairs; a: Aligning")
    now[0] = 60.0
    whole.end("a")
    assert told[-1] == (pytest.approx(0.6), "2 of 4 pairs, about 2 min left; a")
    now[0] = 120.0
    whole.end("b")
    assert told[-1][1] == "3 of 4 pairs, about 60 s left; b"


@pytest.mark.slow
def test_real_registrations_in_two_processes(files: Path) -> None:
    out = files.parent / "out"
    code = run(
        "cohort", str(files / "pairs.csv"), "--out", str(out), "--fast", "--jobs", "2", "--quiet",
        "--keep", "volume,transform,labels,jacobian",
    )  # fmt: skip
    assert code == 0
    rows = {row["name"]: row for row in rows_in(out)}
    assert float(rows["first"]["dice"]) > float(rows["first"]["dice_before"]) > 0.8
    assert float(rows["first"]["gain"]) > 0
    fixed = read_volume(files / "fixed.nii.gz")
    assert read_volume(out / "first" / "resampled.nii.gz").grid.matches(fixed.grid)
    assert read_label_map(out / "first" / "labels.nii.gz").grid.matches(fixed.grid)
    # The centre of the fixed head, RAS mm, leads to that of the moving one.
    centre = read_transform(out / "first" / "transform.h5").apply([[10.0, -20.0, 30.0]])[0]
    assert centre == pytest.approx([12.0, -18.0, 29.0], abs=1.5)
    report = json.loads((out / "first" / "report.json").read_text(encoding="utf-8"))
    assert report["cohort"]
    assert cohort(files, "--fast", "--keep", "volume,transform,labels,jacobian") == 0
    assert set(states_in(out).values()) == {"done before"}


def test_the_report_is_moved_into_place_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that where it is, everything is, whenever the program is killed."""
    moved: list[str] = []
    move = os.replace

    def noting(source: Path, target: Path) -> None:
        moved.append(Path(target).name)
        move(source, target)

    monkeypatch.setattr("hyperreg.imaging.output.os.replace", noting)
    outputs = Outputs(*(tmp_path / name for name in ("v", "t", "i", "l", "r", "j")))
    with StagedOutputs(outputs.by_name()) as staged:
        for name in staged.targets:
            staged.path(name).write_text(name, encoding="utf-8")
    assert len(moved) == 6
    assert moved[-1] == "r"
