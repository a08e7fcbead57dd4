"""The benchmark of fusion: sets, measures and tables, on made-up results."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fusion import registered
from benchmarks.fusion.experiments import Job, run_jobs, spearman
from benchmarks.fusion.methods import METHODS, Case, make_case
from benchmarks.fusion.registered import Registered, Target, random_displacement
from benchmarks.fusion.report import write_report
from benchmarks.fusion.structures import Structures
from benchmarks.registration.store import load_json, save_json
from hyperreg.imaging.volume import Grid, Volume


def test_every_mixed_set_has_every_quality_once_and_they_go_round() -> None:
    sets = [registered.mixed(target) for target in registered.TARGETS]
    for target, pairs in zip(registered.TARGETS, sets, strict=True):
        assert sorted(quality for _atlas, quality in pairs) == sorted(registered.QUALITIES)
        assert target not in [atlas for atlas, _quality in pairs]
    by_atlas = {quality for pairs in sets for atlas, quality in pairs if atlas == "1001"}
    assert len(by_atlas) > 2


def test_random_displacements_have_the_length_that_is_asked_for() -> None:
    affine = np.diag([-1.0, 1.5, 2.0, 1.0])
    affine[:3, 3] = (40.0, -20.0, 7.0)
    grid = Grid((40, 30, 20), affine)
    field = random_displacement(grid, 6.0, seed=3)
    assert np.linalg.norm(field.array, axis=0).mean() == pytest.approx(6.0, rel=1e-4)  # mm
    assert field.grid.to_ras((0, 0, 0)) == pytest.approx(affine[:3, 3])
    assert np.abs(field.grid.corners - grid.corners).max() < 2.1  # every second voxel
    again = random_displacement(grid, 6.0, seed=3)
    assert np.array_equal(field.array, again.array)


@pytest.mark.parametrize(
    ("one", "other", "wanted"),
    [([1, 2, 3, 4], [10, 20, 25, 90], 1.0), ([1, 2, 3], [3, 2, 1], -1.0), ([1, 1, 2, 3], [1, 2, 3, 4], 0.9487)],
)
def test_spearman_is_the_correlation_of_ranks(one: list[float], other: list[float], wanted: float) -> None:
    assert spearman(one, other) == pytest.approx(wanted, abs=1e-4)
    assert np.isnan(spearman([1, 1, 1], [1, 2, 3]))


@pytest.fixture
def case() -> Case:
    """A cube of label 5, seen by three atlases, the third one shifted; the first one's image is the target's."""
    shape, affine = (48, 48, 48), np.diag([-1.0, 1.0, 1.0, 1.0])
    truth = np.zeros(shape, np.int16)
    truth[20:28, 20:28, 20:28] = 5
    image = np.random.default_rng(0).normal(0, 0.1, shape).astype(np.float32) + (truth > 0) + 1
    other = np.random.default_rng(1).normal(0, 1, shape).astype(np.float32) + 1
    target = Target("1005", Volume(image, affine), Volume(truth, affine))
    maps = [truth, np.roll(truth, 1, 0), np.roll(truth, 6, 1)]
    atlases = [
        Registered(name, "made up", Volume(what, affine, name), Volume(labels.astype(np.uint8), affine, name))
        for name, what, labels in zip("abc", (image, other, other), maps, strict=True)
    ]
    return make_case(target, atlases, Structures("one", (5,), merged=True), np.array([4.0, 2.0, -4.0]))


def test_methods_agree_on_what_is_easy(case: Case) -> None:
    assert case.truth.max() == 1
    assert case.truth.shape == (33, 38, 32)  # the box around all labels, 12 voxels larger
    assert case.true_dice[0] == 1.0
    assert case.true_dice[2] < case.true_dice[1] < 1
    found = {name: case.structures.dice(case.truth, METHODS[name].run(case))
             for name in ("similar", "vote", "staple", "dp-1", "oracle-atlas", "itk-vote", "itk-staple")}  # fmt: skip
    assert found["similar"] == found["oracle-atlas"] == 1.0
    assert found["dp-1"] == 1.0
    assert found["vote"] == found["itk-vote"] > 0.9
    assert min(found["staple"], found["itk-staple"]) > 0.9


def test_jobs_are_not_done_twice_and_errors_are_told(tmp_path: Path) -> None:
    done: list[str] = []

    def jobs(fail: bool) -> Iterator[Job]:
        def one() -> dict[str, float]:
            done.append("one")
            return {"dice": 0.5}

        def two() -> dict[str, float]:
            done.append("two")
            if fail:
                raise ValueError("no such thing")
            return {"dice": 0.6}

        yield Job("fuse--one", one)
        yield Job("fuse--two", two)

    said: list[str] = []
    run_jobs(jobs(fail=True), tmp_path, False, said.append)
    run_jobs(jobs(fail=True), tmp_path, False, said.append)
    assert done == ["one", "two"]
    assert "no such thing" in said[1]
    run_jobs(jobs(fail=False), tmp_path, True, said.append)
    assert done == ["one", "two", "two"]
    assert load_json(tmp_path / "results" / "fuse--two.json")["dice"] == 0.6


def test_tables_and_figures_say_what_was_measured(tmp_path: Path) -> None:
    samples = [
        {"target": target, "atlas": atlas, "quality": "affine", "dice": dice, "value": value}
        for target, values in (("1005", (1, 2, 3)), ("1006", (3, 2, 1)))
        for atlas, dice, value in zip("abc", (0.5, 0.6, 0.7), values, strict=True)
    ]
    learned = {"samples": samples, "set": "mixed", "structures": "hippocampus", "variant": "out of line"}
    learned |= {"job": "dp--x", "job_cpu_s": 12.0, "job_wall_s": 15.0, "spearman": 0.0}
    save_json(tmp_path / "results" / "dp--x.json", learned)
    for target, dice in (("1005", 0.8), ("1006", 0.6)):
        row = {"set": "mixed", "structures": "hippocampus", "target": target, "method": "vote", "dice": dice}
        row |= {"cpu_s": 1.0, "wall_s": 1.0, "job": f"fuse--{target}"}
        save_json(tmp_path / "results" / f"fuse--{target}.json", row)
    partly = {"set": "mixed", "structures": "hippocampus", "target": "1005", "method": "staple", "dice": 0.9}
    save_json(tmp_path / "results" / "fuse--p.json", partly | {"cpu_s": 1.0, "wall_s": 1.0, "job": "fuse--p"})
    write_report(tmp_path, ("1005", "1006"))
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| majority vote | 0.700 | 0.800 | 0.600 | 1.0 |" in text
    assert "| STAPLE | " not in text  # measured on one of two targets: no mean that could be compared
    assert "out of line | 6 | 0.00 | 0.00 | 12 |" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"consensus.png", "data_parameters.png"}
    rows = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert [row["experiment"] for row in rows].count("III sample") == 6
    assert float(next(row for row in rows if row["experiment"] == "III")["spearman_within"]) == 0
