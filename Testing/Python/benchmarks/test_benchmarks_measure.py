"""The benchmark's measurements against values known by hand, on an oblique, anisotropic, flipped grid; its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imaging_examples import affine, oblique_grid, scene, smooth_field

from benchmarks.registration.measure import field_measures, fitted_linear, mutual_information, similarity
from benchmarks.registration.methods import FULL, METHODS, SHORT, with_model, with_truth
from benchmarks.registration.ours import GRID, curve_row
from benchmarks.registration.report import automatic_table, failures, group_table, markdown, worse_than_affine
from benchmarks.registration.results import ORACLE, TITLES, collect, oracle_lambda, write_csv
from benchmarks.registration.store import save_json
from benchmarks.registration.synthetic import deformed, known_deformation
from hyperreg.imaging.files import read_volume, write_volume
from hyperreg.imaging.resampling import resample
from hyperreg.imaging.transform import Transform
from hyperreg.imaging.volume import DisplacementField, Grid

GRID_3D = oblique_grid()
EVERYWHERE = np.ones(GRID_3D.shape, dtype=bool)
LINEAR = affine(20, (1, 1, 0), (9.0, -4.0, 3.0), (1.1, 0.9, 1.05))


def along(grid: Grid, axis: int) -> np.ndarray:
    """Position along one of the grid's axes, mm: (I, J, K)."""
    return np.indices(grid.shape)[axis] * grid.spacing[axis]


def direction(grid: Grid, axis: int) -> np.ndarray:
    return (grid.ijk_to_ras[:3, axis] / grid.spacing[axis]).reshape(3, 1, 1, 1)


def field_of(array: np.ndarray) -> DisplacementField:
    return DisplacementField(array.astype(np.float32), GRID_3D.ijk_to_ras)


def test_a_linear_map_neither_folds_nor_is_rough() -> None:
    figures = field_measures(Transform((LINEAR,)).to_field(GRID_3D), EVERYWHERE)
    assert figures["folding_percent"] == 0
    assert figures["roughness"] < 1e-9
    found = fitted_linear(Transform((LINEAR,)).to_field(GRID_3D), EVERYWHERE)
    np.testing.assert_allclose(found, LINEAR[:3, :3], atol=1e-5)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_roughness_is_the_squared_gradient_of_what_is_not_linear(axis: int) -> None:
    """A saw-tooth along an axis, slopes +s and -s mm per mm: its mean slope is 0, so its squared gradient is s^2."""
    slope = 0.125
    position = along(GRID_3D, axis)
    period = 4 * GRID_3D.spacing[axis]
    tooth = slope * (period / 2 - np.abs(position % period - period / 2))
    other = direction(GRID_3D, (axis + 1) % 3)
    figures = field_measures(field_of(other * tooth), EVERYWHERE)
    assert figures["roughness"] == pytest.approx(slope**2, rel=0.05)
    followed = Transform((field_of(other * tooth), LINEAR)).to_field(GRID_3D)
    assert field_measures(followed, EVERYWHERE)["roughness"] == pytest.approx(slope**2, rel=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_folds_are_counted_in_the_foreground_only(axis: int) -> None:
    """One step backwards by more than a voxel along an axis folds one layer, here the third."""
    jump = np.where(np.indices(GRID_3D.shape)[axis] >= 3, -1.5 * GRID_3D.spacing[axis], 0.0)
    folded = field_of(direction(GRID_3D, axis) * jump)
    layers = GRID_3D.shape[axis] - 1
    assert field_measures(folded, EVERYWHERE)["folding_percent"] == pytest.approx(100 / layers)
    without = EVERYWHERE & (np.indices(GRID_3D.shape)[axis] >= 3)
    assert field_measures(folded, without)["folding_percent"] == 0


def test_similarity_knows_a_good_match_from_a_bad_one() -> None:
    image = scene(GRID_3D)
    shifted = resample(image, GRID_3D, Transform((affine(0, (0, 0, 1), (6.0, 0.0, 0.0)),)))
    inside = image.array > 50
    assert similarity(image.array, 3 * image.array + 7, inside) > 0.99
    assert similarity(image.array, shifted.array, inside) < 0.9
    inverted = 1000 - image.array
    good = mutual_information(image.array[inside], inverted[inside])
    assert good > 1.3 * mutual_information(image.array[inside], 1000 - shifted.array[inside])


def test_the_known_deformation_is_large_smooth_and_invertible() -> None:
    grid = oblique_grid((40, 34, 30), (3.0, 4.0, 5.0))
    forward, back = known_deformation(grid, 5)
    points = grid.to_ras(np.argwhere(np.ones(grid.shape))[::97])
    centre = points[(np.abs(grid.to_ijk(points) - (np.array(grid.shape) - 1) / 2) < np.array(grid.shape) / 4).all(1)]
    moved = forward.apply(centre)
    np.testing.assert_allclose(back.apply(moved), centre, atol=0.3)
    left = Transform((forward.stages[0],)).apply(centre) - centre
    assert 2 < np.linalg.norm(left, axis=1).mean() < 15
    figures = field_measures(forward.to_field(grid), np.ones(grid.shape, dtype=bool))
    assert figures["folding_percent"] == 0
    np.testing.assert_array_equal(known_deformation(grid, 5)[0].apply(centre), moved)
    assert np.abs(known_deformation(grid, 6)[0].apply(centre) - moved).max() > 1


def test_a_deformed_image_is_undone_by_its_truth(tmp_path: Path) -> None:
    grid = oblique_grid((40, 34, 30), (3.0, 4.0, 5.0))
    write_volume(scene(grid), tmp_path / "head.nii.gz")
    moved, truth = deformed(tmp_path / "head.nii.gz", 3, tmp_path / "made")
    from benchmarks.registration.store import load_transform

    image, seen = read_volume(tmp_path / "head.nii.gz"), read_volume(moved)
    undone = resample(seen, grid, load_transform(truth))
    inside = image.array > 100
    assert np.abs(undone.array - image.array)[inside].mean() < 0.1 * np.abs(seen.array - image.array)[inside].mean()
    written = moved.stat().st_mtime_ns
    assert deformed(tmp_path / "head.nii.gz", 3, tmp_path / "made") == (moved, truth)
    assert moved.stat().st_mtime_ns == written


def put(output: Path, case: str, method: str, **values: object) -> None:
    facts = {"case": case, "group": "oasis", "threads": 2, "development": False, "method": method, "cpu_s": 10.0}
    save_json(output / "results" / f"{case}--{method}.json", facts | values)


def test_the_oracle_is_the_best_of_the_whole_curve(tmp_path: Path) -> None:
    for number, lam in enumerate(GRID):
        put(tmp_path, "a", curve_row(lam), dice=0.5 + 0.01 * (number == 3), notes={"lambda": lam})
        put(tmp_path, "b", curve_row(lam), tre_mm=3.0 - (number == 5), notes={"lambda": lam})
        put(tmp_path, "c", curve_row(lam), dice=0.5 + 0.1 * lam, automatic_labels=True, notes={"lambda": lam})
        if number:
            put(tmp_path, "d", curve_row(lam), dice=0.5, notes={"lambda": lam})
    oracles = {row["case"]: row["lambda"] for row in collect(tmp_path) if row["method"] == ORACLE}
    assert oracles == {"a": GRID[3], "b": GRID[5]}  # c has no truth, of d a value is missing
    assert oracle_lambda(tmp_path, "b") == GRID[5]
    assert oracle_lambda(tmp_path, "d") is None


def test_the_table_has_means_and_counts_what_is_worse_than_affine(tmp_path: Path) -> None:
    for case, start, network in (("a", 0.4, 0.6), ("b", 0.5, 0.45)):
        put(tmp_path, case, "affine", dice=start, folding_percent=0.0)
        put(tmp_path, case, "network", dice=network, folding_percent=0.01)
    put(tmp_path, "a", "SyN", error="not installed: antspyx")
    rows = collect(tmp_path)
    table = group_table(rows, "oasis").splitlines()
    assert "| Dice |" in table[0]
    assert any(TITLES["network"] in line and "| 2 | 0.525 | 0.0100 |" in line and "1 of 2" in line for line in table)
    assert not any(TITLES["SyN"] in line for line in table)
    assert worse_than_affine(rows, "network") == "1 of 2"
    assert "not installed: antspyx" in failures(rows)
    text = markdown(rows, GRID)
    assert "not installed: antspyx" in text
    assert str(tmp_path) not in text
    write_csv(rows, tmp_path / "results.csv")
    lines = (tmp_path / "results.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 1 + len(rows)


def test_every_row_has_a_title_and_the_forms_name_known_methods() -> None:
    curve = {curve_row(lam) for lam in GRID}
    assert {row for entry in METHODS.values() for row in entry.rows} | {ORACLE} == set(TITLES) | curve
    assert set(SHORT) <= set(METHODS)
    assert set(FULL) <= set(METHODS)


def test_what_the_automatic_lambda_loses_is_in_points_or_mm() -> None:
    def row(case: str, method: str, lam: float, **truth: float) -> dict[str, Any]:
        return {"group": "oasis", "case": case, "method": method, "lambda": lam, **truth}

    rows = [
        row("heart", "quick auto", 0.8, dice=0.874), row("heart", ORACLE, 0.4, dice=0.915),
        row("lung", "quick auto", 0.4, tre_mm=1.84), row("lung", ORACLE, 0.5, tre_mm=1.8),
        row("without oracle", "quick auto", 0.4, dice=0.5),
    ]  # fmt: skip
    lines = automatic_table(rows).splitlines()
    assert lines[2:] == [
        "| heart | 0.4, 0.915 | 0.8, 0.874 | 4.10 Dice points |",
        "| lung | 0.5, 1.800 mm | 0.4, 1.840 mm | 0.04 mm |",
    ]
    assert automatic_table(rows[-1:]) == ""


def test_a_model_is_asked_of_our_methods_only(tmp_path: Path) -> None:
    asked = with_model(METHODS["automatic"], "any")
    assert asked.options(None, tmp_path) == {"model": "any"}
    assert with_model(METHODS["greedy"], "any") is METHODS["greedy"]
    assert with_truth is METHODS["full-oracle"].cases


def test_a_field_without_its_linear_part_measures_the_same_whatever_the_start() -> None:
    bent = smooth_field(GRID_3D)
    plain = field_measures(Transform((bent,)).to_field(GRID_3D), EVERYWHERE)
    started = field_measures(Transform((bent, LINEAR)).to_field(GRID_3D), EVERYWHERE)
    assert started["roughness"] == pytest.approx(plain["roughness"], rel=1e-3)
    assert plain["roughness"] > 0.01
