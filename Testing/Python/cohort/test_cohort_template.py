"""Templates: the mean of maps; subjects whose mean shape is known, on grids of their own; what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from cli_pair import grid, run

from hyperreg.cohort import template
from hyperreg.cohort.mean import centred, exponential, inverse, logarithm, mean_field
from hyperreg.cohort.template import TemplateSettings, log_volume_change, make_template, sharpened
from hyperreg.errors import Cancelled
from hyperreg.execution.executors import LocalExecutor
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.transform_files import read_transform
from hyperreg.imaging.volume import DisplacementField, Grid, Volume

Points = npt.NDArray[np.float64]

RADII = np.array([28.0, 44.0, 36.0])
# Centres and radii of what lies inside, RAS mm from the middle, and its grey value.
INNER = (
    (np.array([-12.0, 14.0, 4.0]), 8.0, 260.0),
    (np.array([10.0, 6.0, 12.0]), 6.0, 250.0),
    (np.array([0.0, -20.0, 8.0]), 10.0, 20.0),
    (np.array([2.0, 4.0, -18.0]), 7.0, 220.0),
)
CENTRES = np.array([centre for centre, _radius, _value in INNER])
# How far the subjects are deformed at most, mm, and the wavelength of that, mm.
AMPLITUDE, WAVE = 4.0, 70.0


def mean_shape(points: Points) -> Points:
    """Grey values of the shape that all subjects have in the mean, at RAS points (..., 3)."""
    distance = np.linalg.norm(points / RADII, axis=-1)
    values = 110 + 60 * np.sin(points / 4.5 + 0.6).prod(axis=-1)
    for centre, radius, value in INNER:
        near = np.linalg.norm(points - centre, axis=-1)
        share = 1 / (1 + np.exp(2 * (near - radius)))
        values = (1 - share) * values + share * value
    return np.where(distance < 1, values, 0.0)


def displacement(points: Points, kind: int) -> Points:
    """A smooth deformation, mm, without a linear part to speak of. kind: 0 or 1; its opposite is that times -1."""
    phase = 2 * np.pi * points / WAVE
    fade = np.exp(-(np.linalg.norm(points / 60, axis=-1, keepdims=True) ** 4))
    waves = (
        np.stack([np.cos(phase[..., 1]), np.sin(phase[..., 2]), np.cos(phase[..., 0])], axis=-1),
        np.stack([np.sin(phase[..., 2]), np.cos(phase[..., 0]), np.sin(phase[..., 1])], axis=-1),
    )
    return AMPLITUDE * fade * waves[kind]


def subject(place: Grid, kind: int, sign: float, name: str) -> Volume:
    """The mean shape with every point p moved to p + sign * displacement(p, kind)."""
    points = place.points()
    before = points.copy()
    for _ in range(30):
        before = points - sign * displacement(before, kind)
    return Volume(mean_shape(before).astype(np.float32), place.ijk_to_ras, name)


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Four subjects, each deformation with its opposite, on oblique, anisotropic, flipped grids of their own."""
    folder = tmp_path_factory.mktemp("subjects")
    paths = []
    for kind in range(2):
        for sign in (1.0, -1.0):
            spacing = ((2.0, 2.4, 2.2), (2.3, 2.1, 2.6))[kind]
            shape = tuple(int(n) for n in np.ceil(np.array([100, 110, 100]) / spacing))
            place = grid(shape, spacing, (2.0 * sign, 1.0 * kind, -1.0))  # type: ignore[arg-type]
            path = folder / f"s{kind}{'+' if sign > 0 else '-'}.nii.gz"
            write_volume(subject(place, kind, sign, path.name), path)
            paths.append(path)
    return paths


def errors_at_inner(image: Volume) -> Points:
    """How far the inner things lie from where the mean shape, seen on the same grid, has them: (4,), mm."""
    here, truth = middles(image), middles(subject(image.grid, 0, 0.0, "mean shape"))
    return np.linalg.norm(here - truth, axis=1)


def middles(image: Volume) -> Points:
    """The middles of the inner things by their grey values: (4, 3), RAS mm."""
    points = image.grid.points()
    found = []
    usual = np.median(image.array[np.linalg.norm(points / RADII, axis=-1) < 0.9])
    for centre, radius, value in INNER:
        near = np.linalg.norm(points - centre, axis=-1) < radius + 5
        contrast = (image.array - usual) * np.sign(value - 110)
        weight = np.where(near, np.maximum(contrast, 0), 0.0)
        found.append((points * weight[..., None]).sum(axis=(0, 1, 2)) / weight.sum())
    return np.array(found)


SETTINGS = TemplateSettings(iterations=2, lam=0.1, fast=True, spacing=2.4, initial="none")


@pytest.fixture(scope="module")
def made(subjects: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a template of the subjects, and FIELDS."""
    folder = tmp_path_factory.mktemp("made")
    make_template(subjects, folder / "t.nii.gz", SETTINGS, LocalExecutor(1, "cpu"), folder / "FIELDS")
    return folder


@pytest.mark.slow
def test_the_template_has_the_mean_shape(made: Path, subjects: list[Path]) -> None:
    """Within .3 mm; every subject is off by 2 mm at least, so that a template like one of them would be found."""
    image = read_volume(made / "t.nii.gz")
    off = errors_at_inner(image)
    assert off.mean() < 0.3
    assert off.max() < 0.5
    assert min(errors_at_inner(read_volume(path)).mean() for path in subjects) > 2.0
    # The outer shape: how far the surface lies from the ellipsoid, along R, A and S.
    for axis in range(3):
        for side in (-1.0, 1.0):
            direction = side * np.eye(3)[axis]
            steps = np.arange(0.7, 1.3, 0.005)
            line = np.rint(image.grid.to_ijk(steps[:, None] * RADII * direction)).astype(int)
            values = image.array[tuple(np.clip(line, 0, np.array(image.shape) - 1).T)]
            edge = steps[np.flatnonzero(values > 0.25).max()]
            assert abs(edge - 1) * RADII[axis] < 2.4  # a voxel
    assert not (made / "t_work").exists()


@pytest.mark.slow
def test_a_template_that_begins_as_one_subject_ends_as_the_mean(
    subjects: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    align = template._Maker.align

    def biased(maker: template._Maker) -> None:
        align(maker)
        everybody, maker.subjects = maker.subjects, maker.subjects[:1]
        maker.last = maker._average("biased")
        maker.subjects = everybody
        assert errors_at_inner(maker.template).mean() > 2.0

    monkeypatch.setattr(template._Maker, "align", biased)
    settings = replace(SETTINGS, iterations=1)
    make_template(subjects, tmp_path / "t.nii.gz", settings, LocalExecutor(1, "cpu"))
    assert errors_at_inner(read_volume(tmp_path / "t.nii.gz")).max() < 0.5


@pytest.mark.slow
def test_the_maps_to_the_subjects_have_no_mean(made: Path, subjects: list[Path]) -> None:
    forward = np.array([read_transform(made / "FIELDS" / p.name[:3] / "transform.h5").apply(CENTRES) for p in subjects])
    # Each leads to where its subject has the thing (2.4 mm voxels, a quick result); their mean stays.
    truth = np.array([CENTRES + sign * displacement(CENTRES, kind) for kind in range(2) for sign in (1.0, -1.0)])
    assert np.linalg.norm(forward - truth, axis=-1).mean() < 1.2
    assert np.linalg.norm(truth - CENTRES, axis=-1).mean() > 3.0
    assert np.linalg.norm(forward.mean(axis=0) - CENTRES, axis=-1).max() < 0.6
    for number, path in enumerate(subjects):
        back = read_transform(made / "FIELDS" / path.name[:3] / "inverse.h5").apply(forward[number])
        assert np.linalg.norm(back - CENTRES, axis=-1).max() < 0.35  # a field voxel measures 4.8 mm


@pytest.mark.slow
def test_local_volumes_are_those_of_the_deformations(made: Path, subjects: list[Path]) -> None:
    place = read_volume(made / "t.nii.gz").grid
    inside = np.argwhere(np.linalg.norm(place.points() / RADII, axis=-1) < 0.8)[::20]
    points = place.to_ras(inside)
    correlations = []
    for path, (kind, sign) in zip(subjects, [(k, s) for k in range(2) for s in (1.0, -1.0)], strict=True):
        change = read_volume(made / "FIELDS" / path.name[:3] / "log_jacobian.nii.gz")
        assert change.grid.matches(place)
        found = change.array[tuple(inside.T)]
        # Of the transform that was written with it, by differences over the field's voxels.
        transform, step = read_transform(made / "FIELDS" / path.name[:3] / "transform.h5"), 4.8
        columns = [transform.apply(points + step * axis) - transform.apply(points - step * axis) for axis in np.eye(3)]
        written = np.log(np.linalg.det(np.stack(columns, axis=-1) / (2 * step)))
        assert np.abs(found - written).mean() < 0.02
        columns = [
            np.eye(3)[axis] + sign * (displacement(points + d, kind) - displacement(points - d, kind)) / 0.2
            for axis, d in enumerate(0.1 * np.eye(3))
        ]
        truth = np.log(np.linalg.det(np.stack(columns, axis=-1)))
        correlations.append(float(np.corrcoef(found, truth)[0, 1]))
    assert min(correlations) > 0.5
    with (made / "FIELDS" / "subjects.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == sorted(path.name[:3] for path in subjects)
    assert all(float(row["log_volume_linear"]) == 0 for row in rows)
    report = json.loads((made / "FIELDS" / "template.json").read_text(encoding="utf-8"))
    assert len(report["changed_percent"]) == SETTINGS.iterations
    assert 0 < report["changed_percent"][1] < report["changed_percent"][0]


@pytest.mark.slow
def test_the_order_of_the_images_means_nothing(subjects: list[Path], tmp_path: Path) -> None:
    settings = TemplateSettings(iterations=1, lam=0.3, fast=True, spacing=4.0, initial="none")
    found = []
    for number, images in enumerate((subjects[:3], subjects[2::-1])):
        out = tmp_path / f"t{number}.nii.gz"
        make_template(images, out, settings, LocalExecutor(1, "cpu"))
        found.append(read_volume(out))
    assert found[0].grid.matches(found[1].grid)
    assert np.abs(found[0].array - found[1].array).max() < 1e-4


@pytest.mark.slow
def test_the_template_stands_between_the_poses_of_its_subjects(tmp_path: Path) -> None:
    """Turned to either side, one of them larger by as much as the other is smaller, in the same place."""
    paths = []
    for name, degrees, scale in (("a", 12.0, 1.08), ("b", -12.0, 1 / 1.08)):
        place = grid((44, 46, 44), (2.5, 2.5, 2.5), (0.0, 0.0, 0.0))
        matrix = turned(degrees, (0, 0, 0), scale)
        values = mean_shape(place.points() @ np.linalg.inv(matrix[:3, :3]).T)
        path = tmp_path / f"{name}.nii.gz"
        write_volume(Volume(values.astype(np.float32), place.ijk_to_ras), path)
        paths.append(path)
    settings = TemplateSettings(iterations=1, lam=0.5, fast=True, spacing=3.0)
    report = make_template(paths, tmp_path / "t.nii.gz", settings, LocalExecutor(1, "cpu"))
    for row, (degrees, scale) in zip(report["subjects"], ((12.0, 1.08), (-12.0, 1 / 1.08)), strict=True):
        there = Transform((np.array(row["linear_ras"]),)).apply(CENTRES)
        truth = Transform((turned(degrees, (0, 0, 0), scale),)).apply(CENTRES)
        assert np.linalg.norm(there - truth, axis=1).max() < 1.0
    assert errors_at_inner(read_volume(tmp_path / "t.nii.gz")).max() < 1.0


@pytest.mark.slow
def test_a_template_that_was_stopped_goes_on(
    subjects: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from hyperreg.cohort import subject as module

    calls: list[str] = []
    work = module.register_atlas

    def counting(task, *more):
        calls.append(task.name)
        return work(task, *more)

    monkeypatch.setattr("hyperreg.cohort.subject.register_atlas", counting)
    settings = TemplateSettings(iterations=1, lam=0.3, fast=True, spacing=4.0, initial="none")
    out = tmp_path / "t.nii.gz"
    with pytest.raises(Cancelled):
        make_template(subjects[:3], out, settings, LocalExecutor(1, "cpu"), cancelled=lambda: len(calls) > 1)
    assert not out.exists()
    assert (tmp_path / "t_work").is_dir()
    done = len(list((tmp_path / "t_work").glob("*.npz")))
    assert done == len(calls) - 1 == 1
    code = run(
        "template", *map(str, subjects[:3]), "--out", str(out), "--iterations", "1", "--lam", "0.3", "--fast",
        "--spacing", "4", "--init", "none", "--jobs", "1",
    )  # fmt: skip
    assert code == 0
    assert len(calls) - 1 == 3
    captured = capsys.readouterr()
    assert "3 subjects, λ 0.3" in captured.out
    assert "2 of 3 subjects (round 1)" in captured.err
    assert [path.name for path in tmp_path.iterdir()] == ["t.nii.gz"]


def turned(degrees: float, shift: Sequence[float], scale: float = 1.0) -> npt.NDArray[np.float64]:
    angle = np.radians(degrees)
    matrix = np.eye(4)
    matrix[:2, :2] = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    matrix[:3, 3] = shift
    return matrix


def test_the_mean_of_linear_maps() -> None:
    matrix = turned(130, (300, -20, 7), 1.3)
    assert exponential(logarithm(matrix)) == pytest.approx(matrix, abs=1e-6)
    assert logarithm(turned(40, (0, 0, 0)))[1, 0] == pytest.approx(np.radians(40), abs=1e-9)
    # Two subjects turned to either side: straight between them, neither larger nor smaller.
    first, second = centred([np.eye(4), turned(40, (0, 0, 0))])
    assert first == pytest.approx(turned(-20, (0, 0, 0)), abs=1e-9)
    assert second == pytest.approx(turned(20, (0, 0, 0)), abs=1e-9)
    # From whichever place the maps start, the template lies in the same one.
    maps = [turned(10, (5, 0, 0), 1.1), turned(-25, (-9, 3, 2)), turned(3, (1, 80, 0), 0.8)]
    elsewhere = [one @ turned(50, (40, 3, 9), 1.2) for one in maps]
    for one, other in zip(centred(maps), centred(elsewhere), strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert sum(logarithm(one) for one in centred(maps)) == pytest.approx(np.zeros((4, 4)), abs=1e-8)


def test_the_inverse_of_a_field_leads_back() -> None:
    place = grid((40, 36, 44), (2.5, 3.0, 2.2), (4.0, -6.0, 9.0))
    centre = place.centre
    field = DisplacementField(
        np.moveaxis(displacement(place.points() - centre, 0), -1, 0).astype(np.float32), place.ijk_to_ras
    )
    points = centre + CENTRES
    there = Transform((field,)).apply(points)
    assert np.linalg.norm(there - points, axis=1).min() > 1
    assert Transform((inverse(field),)).apply(there) == pytest.approx(points, abs=0.1)
    opposite = DisplacementField(-field.array, field.ijk_to_ras)
    assert np.abs(mean_field([field, opposite]).array).max() == 0
    assert mean_field([field, field, opposite]).array == pytest.approx(field.array / 3, abs=1e-6)


def test_the_logarithm_of_volumes_is_finite_where_space_folds() -> None:
    place = grid((12, 12, 12), (2, 2, 2), (0, 0, 0))
    scaled = np.moveaxis(place.points(), -1, 0).astype(np.float32)
    doubled = log_volume_change(DisplacementField(scaled, place.ijk_to_ras)).array
    assert doubled == pytest.approx(np.full((12, 12, 12), np.log(8)), abs=1e-3)
    assert np.isfinite(log_volume_change(DisplacementField(-2 * scaled, place.ijk_to_ras)).array).all()


def test_sharpening_makes_edges_steeper_and_keeps_the_mean() -> None:
    place = grid((30, 30, 30), (2, 2, 2), (0, 0, 0))
    blurred = 1 / (1 + np.exp((np.linalg.norm(place.points(), axis=-1) - 15) / 3))
    before = Volume(blurred.astype(np.float32), place.ijk_to_ras)
    after = sharpened(before)
    assert np.abs(np.gradient(after.array)[0]).max() > 1.03 * np.abs(np.gradient(before.array)[0]).max()
    assert after.array.mean() == pytest.approx(before.array.mean(), rel=0.02)
    assert after.array.min() >= 0


def test_subjects_without_overlap_are_refused(tmp_path: Path, subjects: list[Path], capsys) -> None:
    far = read_volume(subjects[0])
    affine = np.array(far.ijk_to_ras)
    affine[:3, 3] += 500
    write_volume(Volume(far.array, affine), tmp_path / "far.nii.gz")
    code = run(
        "template", *map(str, subjects[1:3]), str(tmp_path / "far.nii.gz"), "--out", str(tmp_path / "t.nii.gz"),
        "--init", "none", "--spacing", "4", "--quiet",
    )  # fmt: skip
    assert code == 2
    assert "'far.nii.gz' shows too little of what the other images show" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["far.nii.gz"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{0}"], "at least two images"),
        (["{0}", "{0}"], "Two images are called"),
        (["{0}", "{1}", "--init", "com"], "starts from affine, rigid, none"),
        (["{0}", "{1}", "--spacing", "0"], "--spacing"),
        (["{0}", "{1}", "--lam", "2"], "λ"),
        (["{0}", "nothing.nii.gz"], "does not exist"),
        (["{0}", "{2}/copy.nii.gz"], "are the same image"),
    ],
)
def test_wrong_usage_is_explained(
    tmp_path: Path, subjects: list[Path], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "copy.nii.gz").write_bytes(subjects[0].read_bytes())
    given = (argument.format(*subjects[:2], tmp_path) for argument in arguments)
    assert run("template", *given, "--out", str(tmp_path / "t.nii.gz"), "--quiet") in (2, 3)
    assert words in capsys.readouterr().err.replace("\n", " ")
    assert not (tmp_path / "t.nii.gz").exists()


def test_outputs_that_cannot_be_written_are_told(tmp_path: Path, subjects: list[Path], capsys) -> None:
    images = [str(path) for path in subjects[:2]]
    assert run("template", *images, "--out", str(tmp_path / "t.jpg"), "--quiet") == 2
    assert "no ending" in capsys.readouterr().err
    assert run("template", *images, "--out", str(subjects[0]), "--quiet") == 2
    assert "one of the inputs" in capsys.readouterr().err
    assert run("template", *images, "--out", str(tmp_path / "no" / "t.nii.gz"), "--quiet") == 3
    assert "does not exist" in capsys.readouterr().err
