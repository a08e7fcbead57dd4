"""The benchmark of fusion: sets, measures and tables, on made-up results."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.fusion import networks, registered
from benchmarks.fusion.experiments import (
    NETWORK_TARGETS,
    Job,
    all_jobs,
    alone_name,
    fusion_name,
    learning_name,
    needed,
    network_name,
    open_jobs,
    run_jobs,
    slices_name,
    spearman,
    speed_name,
)
from benchmarks.fusion.methods import METHODS, Case, make_case, select_and_vote
from benchmarks.fusion.published import take_over
from benchmarks.fusion.registered import Registered, Target, random_displacement
from benchmarks.fusion.report import overview, write_report
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
             for name in ("similar", "vote", "staple", "dp-1", "oracle-atlas", "itk-vote", "itk-staple", "simple")
             }  # fmt: skip
    assert found["similar"] == found["oracle-atlas"] == 1.0
    assert found["dp-1"] == 1.0
    assert found["vote"] == found["itk-vote"] > 0.9
    assert min(found["staple"], found["itk-staple"], found["simple"]) > 0.9


def test_simple_drops_the_label_maps_that_differ_most() -> None:
    truth = np.zeros((12, 12, 12), bool)
    truth[3:9, 3:9, 3:9] = True
    maps = [np.roll(truth, shift, 0) for shift in (0, 0, 0, 1)] + [np.roll(truth, 5, 1)] * 3
    assert not np.array_equal(np.mean(maps, axis=0) > 0.5, truth)  # three wrong ones and one half wrong
    assert np.array_equal(select_and_vote(np.stack(maps)), truth)
    assert np.array_equal(select_and_vote(np.stack(maps[:2])), truth)
    assert not select_and_vote(np.zeros((5, 4, 4, 4), bool)).any()


def test_a_network_learns_from_one_label_map_per_target_and_draws_on_others(monkeypatch: pytest.MonkeyPatch) -> None:
    shape, affine = (40, 40, 40), np.diag([-1.0, 1.0, 1.0, 1.0])

    def subject(name: str) -> Target:
        truth = np.zeros(shape, np.uint8)
        start = 14 + int(name) % 4
        truth[start : start + 9, 15:25, 14:26] = 5
        noise = np.random.default_rng(int(name)).normal(0, 0.1, shape)
        return Target(name, Volume((truth / 5 + noise).astype(np.float32), affine, name), Volume(truth, affine, name))

    monkeypatch.setattr(registered, "SUBJECTS", ("1", "2", "3", "4"))
    monkeypatch.setattr(registered, "read_target", subject)
    wanted = Structures("one", (5,), merged=True)
    targets = [subject("1"), subject("2")]
    cases = []
    for target in targets:
        wrong = Volume(np.roll(target.truth.array, 8, 2), affine, "wrong")
        pictures = [Registered(name, "made up", target.image, wrong) for name in "abc"]
        cases.append(make_case(target, pictures, wanted))
    lesson = networks.make_lesson("vote", cases, targets, wanted)
    assert [subject.name for subject in lesson.held_out] == ["3", "4"]
    assert [len(labels) for labels in lesson.samples.labels] == [1, 1, 1, 1]
    learned, truth = (networks.make_lesson(k, cases, targets, wanted).samples.labels[0] for k in ("vote", "manual"))
    middles = [np.argwhere(labels[0].numpy() == 1).mean(axis=0) for labels in (learned, truth)]
    assert np.abs(middles[0] - middles[1]) == pytest.approx([0, 0, 8 / networks.SPACING_MM], abs=0.3)
    network = networks.train(networks.make_lesson("manual", cases, targets, wanted), seed=0, steps=60)
    good = networks.measure(network, lesson, wanted)
    assert set(good) == {"3", "4"}
    assert min(good.values()) > 0.7


def test_jobs_say_which_registrations_they_read(tmp_path: Path) -> None:
    jobs = list(all_jobs(tmp_path, ("1005", "1006"), 10))
    assert len({job.name for job in jobs}) == len(jobs)
    only = [job for job in jobs if job.name == fusion_name("uniform", "subcortical", "1006", "local")]
    assert needed(only) == {"1006": registered.uniform("1006")}
    assert needed(job for job in jobs if job.name.startswith("I--")) == {}
    assert set(needed(jobs)) == {"1005", "1006", *NETWORK_TARGETS}


def test_published_rows_are_results_again(tmp_path: Path) -> None:
    """Every kind of row through the CSV and back, and the same tables from it."""
    before, after = tmp_path / "before", tmp_path / "after"
    samples = [
        {"target": target, "atlas": atlas, "quality": "affine", "dice": dice, "value": value}
        for target in ("1005", "1006")
        for atlas, dice, value in zip("abc", (0.5, 0.6, 0.7), (1.0, 3.0, 2.0), strict=True)
    ]
    about = {"structures": "hippocampus", "variant": "out of line", "spearman": 0.5}
    about |= {"job_cpu_s": 12.0, "job_wall_s": 15.0}
    results = {
        learning_name("mixed", "hippocampus", "out of line"): {**about, "set": "mixed", "samples": samples},
        learning_name("single", "hippocampus", "out of line"): {**about, "set": "single", "samples": samples},
        slices_name("in line"): {**about, "set": "slices", "variant": "in line", "samples": samples},
        alone_name("mixed", "hippocampus", "1006"): {**about, "set": "mixed", "samples": samples[3:]},
        speed_name("STAPLE, one label"): {"task": "STAPLE, one label", "shape": [1, 2, 3], "cpu_s": 1.0, "wall_s": 1.0,
                                          "peak_gb": 0.5, "bare_whole_cpu_s": 2.0, "bare_cropped_cpu_s": 0.8},
        "fuse--mixed--hippocampus--1005--jlf": {"set": "mixed", "structures": "hippocampus", "error": "no room"},
    }  # fmt: skip
    for kind, dice in (("vote", 0.7), ("manual", 0.8)):
        for seed in networks.SEEDS:
            row = {"set": "mixed", "structures": "hippocampus", "method": kind, "seed": seed, "cpu_s": 20.0,
                   "wall_s": 21.0, "targets": "1005 1006", "labels_dice": 0.625, "dice": dice,
                   "held_out": {"1000": dice - 0.1, "1001": dice + 0.1}}  # fmt: skip
            results[network_name("mixed", "hippocampus", kind, seed)] = row
    fused = {"set": "mixed", "structures": "hippocampus", "target": "1005", "method": "vote", "dice": 0.625}
    results[fusion_name("mixed", "hippocampus", "1005", "vote")] = fused | {"cpu_s": 1.0, "wall_s": 1.0}
    for name, result in results.items():
        save_json(before / "results" / f"{name.replace(' ', '_')}.json", {**result, "job": name})
    write_report(before, ("1005", "1006"))
    assert take_over(before / "results.csv", after) == len(results) - 1  # not the error
    assert take_over(before / "results.csv", after) == 0
    write_report(after, ("1005", "1006"))
    texts = [(folder / "results.md").read_text(encoding="utf-8") for folder in (before, after)]
    assert "| majority vote | 0.625 | 0.700 | 0.700, 0.700 | 0.600 | 0.800 | 20 |" in texts[0]
    assert (
        "ten label maps of 1 x 2 x 3 voxels: STAPLE, one label | 1.00 | 1.00 | 0.50 | 2.00 | 0.50 | 0.80 | 1.25 |"
        in (texts[0])
    )
    assert texts[1] == texts[0].split("## What did not run")[0].rstrip("\n") + "\n"


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
    run_jobs(open_jobs(jobs(fail=True), tmp_path, again=False), tmp_path, said.append)
    assert open_jobs(jobs(fail=True), tmp_path, again=False) == []
    assert done == ["one", "two"]
    assert "no such thing" in said[1]
    run_jobs(open_jobs(jobs(fail=False), tmp_path, again=True), tmp_path, said.append)
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
    results = write_report(tmp_path, ("1005", "1006"))
    assert overview(results).splitlines()[2:] == ["| majority vote | 0.700 | 1.0 |"]
    text = (tmp_path / "results.md").read_text(encoding="utf-8")
    assert "| majority vote | 0.700 | 0.800 | 0.600 | 1.0 |" in text
    assert "| STAPLE | " not in text  # measured on one of two targets: no mean that could be compared
    assert "out of line | 6 | 0.00 | 0.00 | 12 |" in text
    assert {path.name for path in tmp_path.glob("*.png")} == {"consensus.png", "data_parameters.png"}
    rows = list(csv.DictReader((tmp_path / "results.csv").open(encoding="utf-8")))
    assert [row["experiment"] for row in rows].count("III sample") == 6
    assert float(next(row for row in rows if row["experiment"] == "III")["spearman_within"]) == 0
