"""`hyperreg register` steered by what the user knows, on oblique, anisotropic, flipped grids, in mm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_pair import PairFiles, run, write_pair

from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform, write_transform
from hyperreg.imaging.volume import DisplacementField, Volume

# Points in the fixed ellipsoid, RAS mm, and where the user wants them in the moving one.
HERE = np.array([[10, -20, 30], [25, -20, 30], [0, -40, 38], [18, -8, 20], [4, -10, 44], [14, -30, 14]], dtype=float)
THERE = HERE + np.array((2, 2, -1)) + np.array([[3, 0, 0], [0, 3, 0], [0, 0, 3], [-3, 0, 0], [0, -3, 0], [2, 2, 0]])


@pytest.fixture
def pair(tmp_path: Path) -> PairFiles:
    return write_pair(tmp_path)


def ask(files: PairFiles, *options: str) -> int:
    outputs = ["--out-transform", str(files.results / "t.h5"), "--report", str(files.results / "r.json")]
    return run("register", *files.images, "-q", "--fast", *outputs, *options)


def report_of(files: PairFiles) -> dict[str, Any]:
    return json.loads((files.results / "r.json").read_text(encoding="utf-8"))


def points(files: PairFiles, there: np.ndarray = THERE) -> list[str]:
    """The options that name HERE and `there` as landmarks."""
    named = []
    for option, places in (("--fixed-points", HERE), ("--moving-points", there)):
        path = files.results.parent / f"{option[2:]}.csv"
        np.savetxt(path, places, delimiter=",", header="r,a,s", comments="")
        named += [option, str(path)]
    return named


def apart(files: PairFiles) -> float:
    return float(np.linalg.norm(read_transform(files.results / "t.h5").apply(HERE) - THERE, axis=1).mean())


def test_landmarks_pull_the_written_transform(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["--init", "com", "--lam", "0.3", *points(pair)]
    assert ask(pair, *asked) == 0
    measured, unpulled = report_of(pair)["metrics"]["landmarks_mm"], apart(pair)
    assert measured == pytest.approx(unpulled, abs=1e-3)
    assert "pulled_mm" not in report_of(pair)["metrics"]
    assert ask(pair, *asked, "--pull", "1") == 0
    report = report_of(pair)
    assert report["constraints"]["pull"] == 1
    assert report["metrics"]["pulled_mm"] == pytest.approx(apart(pair), abs=1e-3)
    assert report["metrics"]["pulled_mm_before"] > 2.5
    assert apart(pair) < 1.5 < unpulled, "the voxels of this stage are 4 mm long"
    assert report["metrics"]["folding_percent"] == 0
    for options, said in (
        (["--pull", "0.5"], "--pull needs landmarks"),
        ([*points(pair), "--pull", "1.5"], "between 0"),
        ([*points(pair, THERE + np.array((0, 300, 0))), "--pull", "0.5"], "Outside of the moving image"),
    ):
        assert ask(pair, "--init", "com", *options) == 2
        assert said in " ".join(capsys.readouterr().err.split())


def test_any_transform_is_a_start_and_lambda_one_shows_it(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(pair, "--init", "com", "--lam", "0.3") == 0
    start = pair.results.parent / "start.h5"
    first = read_transform(pair.results / "t.h5")
    (pair.results / "t.h5").rename(start)
    assert ask(pair, "--init", str(start), "--lam", "1") == 0
    again = read_transform(pair.results / "t.h5")
    assert np.linalg.norm(again.apply(HERE) - first.apply(HERE), axis=1).max() < 0.05
    report = report_of(pair)
    assert report["deformed_start"] is True and report["initial"] == str(start)
    for options, said in (
        (["--init", "landmarks"], "To start from landmarks give them"),
        (["--init", str(start), "--model", "any"], "A network starts from a linear alignment only"),
        (["--init", "elastic"], "neither one of none, com, rigid, similarity, affine, landmarks nor"),
    ):
        assert ask(pair, *options) != 0
        assert said in " ".join(capsys.readouterr().err.split())


def test_landmarks_alone_are_a_start(pair: PairFiles) -> None:
    assert ask(pair, "--init", "landmarks", "--lam", "1", *points(pair)) == 0
    report = report_of(pair)
    homogeneous = np.c_[HERE, np.ones(len(HERE))]
    fitted = homogeneous @ np.linalg.lstsq(homogeneous, THERE, rcond=None)[0]
    assert apart(pair) == pytest.approx(np.linalg.norm(fitted - THERE, axis=1).mean(), abs=1e-3)
    assert report["metrics"]["landmarks_mm"] == pytest.approx(apart(pair), abs=1e-3)


def test_the_alignment_alone_with_one_scale(pair: PairFiles, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(pair, "--only", "similarity") == 0
    linear = read_transform(pair.results / "t.h5").linear[:3, :3]
    np.testing.assert_allclose(linear @ linear.T, np.cbrt(np.linalg.det(linear)) ** 2 * np.eye(3), atol=1e-6)
    assert ask(pair, "--only", "similarity", "--fixed-mask", str(pair.fixed_labels)) == 2
    assert ask(pair, "--only", "similarity", "--init", "com") == 2
    assert "minds neither masks" in " ".join(capsys.readouterr().err.split())
    regions = ("--regions", str(pair.fixed_labels), "--region-lambda", "3=0")
    assert ask(pair, "--only", "similarity", *regions) == 2
    assert "nor regions" in " ".join(capsys.readouterr().err.split())


def test_figures_of_the_alignment_alone_are_its_own(pair: PairFiles, tiny_model: str) -> None:
    """A network deforms at λ = 1, too."""
    change = pair.results / "j.nii.gz"
    alone = ("--only", "rigid", "--model", tiny_model, "--out-jacobian", str(change), *pair.labels)
    assert ask(pair, *alone) == 0
    report = report_of(pair)
    metrics, overlap = report["metrics"], report["dice"]
    assert metrics["displacement_max_mm"] == metrics["folding_percent"] == 0
    assert metrics["similarity"] == pytest.approx(metrics["similarity_before"], abs=1e-5)
    assert overlap["mean_after"] == overlap["mean_before"]
    np.testing.assert_allclose(read_volume(change).array, 1, atol=1e-5)


def test_a_rigid_region_keeps_its_distances_in_the_written_transform(
    pair: PairFiles, capsys: pytest.CaptureFixture[str]
) -> None:
    """The core of the ellipsoid, label 12, beside 3 and 7, which the label map of the rigid regions does not hold."""
    labels = read_volume(pair.fixed_labels)
    core = pair.results.parent / "core.nii.gz"
    write_volume(Volume(np.where(labels.array == 12, labels.array, 0), labels.ijk_to_ras, "core"), core)
    points = labels.grid.to_ras(np.argwhere(labels.array == 12)[::23])

    def bent() -> float:
        moved = read_transform(pair.results / "t.h5").apply(points)
        lengths = (np.linalg.norm(p[None] - p[:, None], axis=-1) for p in (points, moved))
        return float(np.abs(np.subtract(*lengths)).max())

    assert ask(pair, "--init", "com", "--lam", "0.1") == 0
    free = bent()
    assert ask(pair, "--init", "com", "--lam", "0.1", "--rigid", str(core)) == 0
    assert bent() < 0.2 < 0.3 * free
    assert report_of(pair)["constraints"]["rigid"] == {"file": str(core), "labels": [12]}
    assert ask(pair, "--init", "com", "--rigid", str(core), "--symmetric") != 0
    assert "symmetric mode prefers none" in " ".join(capsys.readouterr().err.split())


def write_labels(files: PairFiles, name: str, array: np.ndarray, shift_mm: float = 0.0) -> Path:
    """A label map on the fixed image's grid, or beside it."""
    affine = read_volume(files.fixed).ijk_to_ras.copy()
    affine[:3, 3] += shift_mm
    path = files.results.parent / f"{name}.nii.gz"
    write_volume(Volume(array.astype(np.uint8), affine, name), path)
    return path


def write_start(files: PairFiles, size_mm: float, shift_mm: float = 0.0) -> Path:
    """A wave of that size, and a shift, as the file of a transform."""
    grid = read_volume(files.fixed).grid
    waves = size_mm * np.sin(np.moveaxis(grid.points(), -1, 0) / 4) + shift_mm
    path = files.results.parent / "start.h5"
    write_transform(Transform((DisplacementField(waves.astype(np.float32), grid.ijk_to_ras), np.eye(4))), path)
    return path


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("mask of nothing", "is 0 everywhere: nothing would count"),
        ("mask elsewhere", "does it lie elsewhere, or is it turned over?"),
        ("masks of nothing together", "The masks of both images together leave"),
        ("points doubled", "Landmarks 1 and 2 are one place in one image and two in the other"),
        ("points mirrored", "change places between the images: are left and right mixed up"),
        ("start from points on a line", "at least three that do not lie on one line"),
        ("start that folds", "The given start folds space in"),
        ("start that leads elsewhere", "With the given start the images do not overlap"),
        ("rigid voxel", "too small or too thin to move as a rigid body"),
        ("rigid image", "is the whole of what the fixed image shows"),
    ],
)
def test_what_cannot_steer_is_one_clear_line_and_nothing_is_written(
    pair: PairFiles, capsys: pytest.CaptureFixture[str], wrong: str, said: str
) -> None:
    shape = read_volume(pair.fixed).shape
    everything, one = np.ones(shape), np.zeros(shape)
    one[tuple(n // 2 for n in shape)] = 1
    half = np.arange(shape[0])[:, None, None] * everything > shape[0] / 2
    start = ["--init", "com"]
    if wrong == "mask of nothing":
        options = [*start, "--moving-mask", str(write_labels(pair, "m", 0 * everything))]
    elif wrong == "mask elsewhere":
        options = [*start, "--fixed-mask", str(write_labels(pair, "m", everything, 900))]
    elif wrong == "masks of nothing together":
        masks = write_labels(pair, "f", half), write_labels(pair, "m", ~half)
        # Of the moving image what lies over the other half of the fixed one, from where both are aligned already.
        options = ["--init", "none", "--fixed-mask", str(masks[0]), "--moving-mask", str(masks[1])]
    elif wrong == "points doubled":
        doubled = THERE.copy()
        doubled[1] = THERE[0]
        options = [*start, *points(pair, doubled), "--pull", "1"]
    elif wrong == "points mirrored":
        options = [*start, *points(pair, THERE * (-1, 1, 1) + (2 * THERE[:, 0].mean(), 0, 0)), "--pull", "1"]
    elif wrong == "start from points on a line":
        options = ["--init", "landmarks", *points(pair, np.outer(np.arange(6), (5, 3, 1)) + THERE[0])]
    elif wrong == "start that folds":
        options = ["--init", str(write_start(pair, 20))]
    elif wrong == "start that leads elsewhere":
        options = ["--init", str(write_start(pair, 1, 900))]
    else:
        options = [*start, "--rigid", str(write_labels(pair, "r", one if wrong == "rigid voxel" else everything))]
    assert ask(pair, "--lam", "0.2", *options) == 2
    err = capsys.readouterr().err
    assert said in " ".join(err.split()), err
    assert "Traceback" not in err
    assert list(pair.results.iterdir()) == []


def test_swapped_in_symmetric_mode_the_written_transforms_undo_each_other(pair: PairFiles) -> None:
    swapped = PairFiles(pair.moving, pair.fixed, pair.moving_labels, pair.fixed_labels, pair.results)
    found = []
    for files in (pair, swapped):
        assert ask(files, "--init", "rigid", "--lam", "0.2", "--symmetric") == 0
        found.append(read_transform(pair.results / "t.h5"))
    assert report_of(pair)["constraints"]["symmetric"] is True
    assert np.linalg.norm(found[1].apply(found[0].apply(HERE)) - HERE, axis=1).mean() < 0.3
