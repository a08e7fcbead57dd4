"""The benchmark's harness: processes, errors, resuming; on a tiny pair whose truth is known, oblique and flipped."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from imaging_examples import affine, oblique_grid, scene, smooth_field

from benchmarks.registration import runner
from benchmarks.registration.case import Case, read_points
from benchmarks.registration.ours import GRID, curve_row
from benchmarks.registration.results import ORACLE, collect, take_over, write_csv
from benchmarks.registration.runner import Entry, run
from benchmarks.registration.store import load_json, load_transform, result_path, save_json, save_transform
from hyperreg.errors import FileError
from hyperreg.imaging.files import write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import Volume

HELPERS = Path(__file__).resolve().parents[1] / "helpers"
KNOWS = Entry("benchmark_methods:knows", ("truth", "nothing"))


@pytest.fixture(autouse=True)
def methods_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(HELPERS))


@pytest.fixture
def case(tmp_path: Path) -> Case:
    """The fixed image and labels are the moving ones seen through a known map, on another grid."""
    moving_grid, fixed_grid = oblique_grid((30, 26, 22), (1.5, 2.0, 3.0)), oblique_grid((26, 24, 20), (1.7, 2.0, 2.9))
    moving = scene(moving_grid)
    bands = np.digitize(moving.array, (100, 250, 400)).astype(np.int16)
    labels = Volume(bands, moving.ijk_to_ras, "labels")
    truth = Transform((smooth_field(fixed_grid, 2.0), affine(4, (0, 0, 1), (2.0, -3.0, 1.0))))
    files = {name: tmp_path / f"{name}.nii.gz" for name in ("fixed", "moving", "fixed_labels", "moving_labels")}
    write_volume(resample(moving, fixed_grid, truth), files["fixed"])
    write_volume(moving, files["moving"])
    write_volume(resample(labels, fixed_grid, truth, "nearest"), files["fixed_labels"])
    write_volume(labels, files["moving_labels"])
    save_transform(tmp_path / "truth.npz", truth)
    here = fixed_grid.to_ras(np.array([[13.0, 12, 10], [9, 14, 8], [16, 10, 12], [12, 9, 11]]))
    for name, points in (("here", here), ("there", truth.apply(here))):
        lps = points * (-1, -1, 1)
        lps[2] += 500  # a mis-paired one, left out
        np.savetxt(tmp_path / f"{name}.txt", lps, header="point\n4", comments="")
    return Case(
        "tiny", "oasis", files["fixed"], files["moving"], fixed_labels=files["fixed_labels"],
        moving_labels=files["moving_labels"], subcortical=(1,), cortical=(2, 3, 99),
        fixed_points=tmp_path / "here.txt", moving_points=tmp_path / "there.txt", left_out=(2,),
        truth=tmp_path / "truth.npz",
    )  # fmt: skip


def quietly(entries: list[Entry], case: Case, output: Path, **options: object) -> list[str]:
    said: list[str] = []
    run(entries, [case], output, threads=1, say=said.append, **options)
    return said


def test_the_truth_measures_as_the_truth_in_every_figure(case: Case, tmp_path: Path) -> None:
    quietly([KNOWS], case, tmp_path / "out")
    truth, nothing = (load_json(result_path(tmp_path / "out", "tiny", row)) for row in KNOWS.rows)
    assert truth["dice"] == truth["dice_subcortical"] == truth["dice_cortical"] == 1
    assert truth["labels"] == 3
    assert truth["tre_mm"] < 0.02
    assert truth["error_mm"] < 1e-3
    assert truth["similarity"] > 0.99
    assert truth["folding_percent"] == 0
    assert truth["cpu_s"] > 0.01
    assert truth["notes"] == {"lambda": 0.25}
    distance = np.linalg.norm(read_points(case.fixed_points, (2,)) - read_points(case.moving_points, (2,)), axis=1)
    assert nothing["tre_mm"] == pytest.approx(distance.mean(), abs=1e-3)
    assert nothing["error_mm"] > 2
    assert nothing["dice"] < 0.9


def test_a_finished_pair_is_not_run_again(case: Case, tmp_path: Path) -> None:
    output = tmp_path / "out"
    quietly([KNOWS], case, output)
    assert quietly([KNOWS], case, output) == []
    assert quietly([KNOWS], case, output, again=True) == []
    assert (tmp_path / "runs.txt").read_text() == "."
    result_path(output, "tiny", "nothing").unlink()
    quietly([KNOWS], case, output)
    assert (tmp_path / "runs.txt").read_text() == ".."


@pytest.mark.parametrize(
    ("function", "package", "message"),
    [
        ("breaks", None, "failed (exit 1): ValueError: the optimiser ran away"),
        ("crashes", None, "failed (signal 6)"),
        ("needs_a_package", "some-peer", "not installed: some-peer"),
    ],
)
def test_a_method_that_fails_is_a_row_that_says_why_and_the_run_goes_on(
    case: Case, tmp_path: Path, function: str, package: str | None, message: str
) -> None:
    output = tmp_path / "out"
    said = quietly([Entry(f"benchmark_methods:{function}", ("before", "never"), package), KNOWS], case, output)
    never = load_json(result_path(output, "tiny", "never"))
    assert message in never["error"]
    assert "dice" not in never
    assert any(message in line for line in said)
    assert "dice" in load_json(result_path(output, "tiny", "truth"))
    before = load_json(result_path(output, "tiny", "before"))
    assert ("dice" in before) == (function == "breaks")  # what was there before the failure counts


def test_errors_are_repeated_only_when_asked(case: Case, tmp_path: Path) -> None:
    output = tmp_path / "out"
    failing = Entry("benchmark_methods:breaks", ("truth", "nothing"))
    quietly([failing], case, output)
    assert quietly([KNOWS], case, output) == []
    quietly([KNOWS], case, output, again=True)
    assert "error" not in load_json(result_path(output, "tiny", "truth"))


def test_a_method_that_takes_too_long_is_stopped(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LIMIT_S", 0.01)
    quietly([KNOWS], case, tmp_path / "out")
    assert "took longer" in load_json(result_path(tmp_path / "out", "tiny", "truth"))["error"]


def test_a_result_that_cannot_be_measured_is_an_error(case: Case, tmp_path: Path) -> None:
    damaged = replace(case, fixed_points=tmp_path / "absent.txt")
    quietly([KNOWS], damaged, tmp_path / "out")
    result = load_json(result_path(tmp_path / "out", "tiny", "truth"))
    assert "cannot be measured" in result["error"]
    assert "absent.txt" in result["error"]


def test_threads_and_options_reach_the_method(case: Case, tmp_path: Path) -> None:
    entry = Entry("benchmark_methods:says_its_setting", ("setting",), options=lambda case, output: {"model": case.name})
    run([entry], [case], tmp_path / "out", threads=3, say=lambda text: None)
    notes = load_json(result_path(tmp_path / "out", "tiny", "setting"))["notes"]
    assert notes == {"threads": 3, "told": "3,3,3,3", "folder": "True", "model": "tiny"}


def test_an_entry_without_its_options_waits(case: Case, tmp_path: Path) -> None:
    waiting = replace(KNOWS, options=lambda case, output: None)
    assert quietly([waiting], case, tmp_path / "out") == []
    assert not (tmp_path / "runs.txt").exists()


def test_an_entry_for_other_cases_is_left_out(case: Case, tmp_path: Path) -> None:
    assert quietly([replace(KNOWS, cases=lambda case: case.cross)], case, tmp_path / "out") == []
    assert collect(tmp_path / "out") == []


def test_peak_memory_is_the_childs_own(case: Case, tmp_path: Path) -> None:
    """Linux hands a process's peak on to its children in getrusage."""
    ballast = np.ones(100_000_000)  # 0.8 GB in this process
    quietly([KNOWS], case, tmp_path / "out")
    del ballast
    assert load_json(result_path(tmp_path / "out", "tiny", "truth"))["peak_gb"] < 0.6


def test_transforms_are_kept_when_asked(case: Case, tmp_path: Path) -> None:
    quietly([KNOWS], case, tmp_path / "out", keep=True)
    kept = load_transform(tmp_path / "out" / "transforms" / "tiny--truth.npz")
    points = read_points(case.fixed_points, (2,))
    np.testing.assert_allclose(kept.apply(points), read_points(case.moving_points, (2,)), atol=1e-4)
    assert not list((tmp_path / "out" / "work").iterdir())


def test_a_case_survives_its_file(case: Case) -> None:
    assert Case.from_json(case.to_json()) == case
    assert json.loads(case.to_json())["left_out"] == [2]


def test_unreadable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "cut.npz").write_bytes(b"PK")
    with pytest.raises(FileError, match=r"cut\.npz"):
        load_transform(tmp_path / "cut.npz")
    (tmp_path / "words.txt").write_text("point\n1\na b c\n")
    with pytest.raises(FileError, match=r"words\.txt"):
        read_points(tmp_path / "words.txt")


def test_a_curve_that_was_stopped_half_way_counts_nowhere(tmp_path: Path) -> None:
    (tmp_path / "results").mkdir()
    for case, lambdas in (("whole", GRID), ("part", GRID[:2])):
        for lam in lambdas:
            row = {"group": "oasis", "case": case, "method": curve_row(lam), "lambda": lam, "dice": 0.5 - 0.1 * lam}
            text = json.dumps(row)
            result_path(tmp_path, case, curve_row(lam)).write_text(text, encoding="utf-8")
    rows = collect(tmp_path)
    assert {row["case"] for row in rows} == {"whole"}
    assert [row["dice"] for row in rows if row["method"] == ORACLE] == [0.5]


def test_published_rows_are_taken_over_where_there_are_none(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    for number, lam in enumerate(GRID):
        row = {"group": "oasis", "case": "a", "method": curve_row(lam), "development": False, "threads": 1}
        figures = {"dice": 0.4 + number / 100, "labels": 138, "folding_percent": 0.0}
        save_json(result_path(old, "a", curve_row(lam)), row | figures | {"notes": {"lambda": lam, "model": "brain"}})
    failed = {"group": "oasis", "case": "b", "method": "elastix", "development": False, "threads": 1, "error": "broke"}
    save_json(result_path(old, "b", "elastix"), failed)
    write_csv(collect(old), tmp_path / "results.csv")
    measured_again = {**failed, "dice": 0.5}
    del measured_again["error"]
    save_json(result_path(new, "b", "elastix"), measured_again)
    assert take_over(tmp_path / "results.csv", new) == len(GRID)
    found = collect(new)
    write_csv(found, tmp_path / "again.csv")
    before, after = (
        (tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("results.csv", "again.csv")
    )
    assert after[:-1] == before[:-1], "the same rows, the oracle's among them"
    assert {row["method"] for row in found} >= {ORACLE, "elastix"}
    assert [row["dice"] for row in found if row["case"] == "b"] == [0.5]
